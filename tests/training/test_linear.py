"""The linear trainer where its equations are nearly dependent."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ase import Atoms


@pytest.mark.parametrize(("ridge", "solver"), [(1e-6, "cholesky"), (1e-12, "svd")])
def test_an_ill_conditioned_fit_is_solved_by_another_way_without_a_warning(
    ridge: float, solver: str, emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]]
) -> None:
    frames = [bulk("CuAu", "rocksalt", a=5.2, cubic=True) * (2, 2, 2) for _ in range(4)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    labels = emt_labelled(frames)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=60, cutoff=4.5), ridge=ridge)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # scipy's LinAlgWarning is one
        result = trainer.train(labels)
    assert f"solved by {solver}" in result.log
    assert np.isfinite(result.potential.coefficients).all()
    errors = compute_errors(result.potential, labels)
    assert errors is not None
    assert errors.forces_rmse_meV_A < 20


@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "field", ["energy_meV_atom", "forces_meV_A", "stress_GPa", "energy_weight", "dimer_weight", "max_us_per_atom_step"]
)
def test_settings_that_are_no_positive_numbers_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidInputError, match=f"{field} is {value}") as refused:
        LinearACETrainer(**{field: value})
    assert refused.value.field == f"LinearACETrainer.{field}"


def test_other_settings_of_the_fit_are_refused_by_name() -> None:
    for field, value in (("ridge", -1e-6), ("processes", 0), ("core_margin", float("nan"))):
        with pytest.raises(InvalidInputError, match=f"{field} is") as refused:
            LinearACETrainer(**{field: value})
        assert refused.value.field == f"LinearACETrainer.{field}"
    with pytest.raises(InvalidInputError, match="reference_energies of Cu is nan"):
        LinearACETrainer(reference_energies={"Cu": float("nan")})


@pytest.mark.parametrize("field", ["energy_meV_atom", "stress_GPa", "force_weight", "max_us_per_atom_step"])
def test_a_run_file_with_a_weight_below_zero_names_the_line(field: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "tutorials" / "copper.yaml").read_text()
    wrong = re.sub(r"^  basis: .*$", f"  {field}: -1", text, flags=re.MULTILINE)
    file = tmp_path / "run.yaml"
    file.write_text(wrong)
    line = wrong.splitlines().index(f"  {field}: -1") + 1
    with pytest.raises(InvalidInputError, match=rf"line {line}, trainer\.{field}: is -1"):
        RunFile.load(file)
