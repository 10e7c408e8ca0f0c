"""A gradient fit that begins at a linear fit: the same energies with further densities, a loss that starts low."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.structures.dimers import is_dimer
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.linear_start import has_linear_part, linear_start, with_densities
from mlip_autopipec.training.pacemaker.log import read_log
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer

if TYPE_CHECKING:
    from pathlib import Path

    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.training.results import Fit
    from mlip_autopipec.training.training import FitTask

TINY = BasisSettings(number_of_functions_per_element=8, cutoff=4.0, nradmax_by_orders=[4, 2], lmax_by_orders=[0, 1])
#: pacemaker's own backend, which differentiates numerically: no TensorFlow, so it starts quickly.
PYACE = {"backend": {"evaluator": "pyace"}}
EMBEDDING = {"npot": "FinnisSinclairShiftedScaled", "fs_parameters": [1, 1, 1, 0.5], "ndensity": 2}


def labels(n: int, seed: int = 0) -> list[Atoms]:
    """Cells of copper and gold, by EMT."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = bulk("Cu", a=3.85, cubic=True)
        atoms.symbols[:2] = "Au"
        atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.02)), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.12, (4, 3))
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    return found


class _Begun(PacemakerTrainer):
    """Keeps what it was given instead of fitting."""

    def fit(self, task: FitTask) -> Fit:
        raise _GivenError(task)


class _GivenError(Exception):
    pass


def task_of(some: list[Atoms]) -> FitTask:
    with pytest.raises(_GivenError) as caught:
        _Begun(basis=replace(TINY, ndensity=2)).train(some)
    task: FitTask = caught.value.args[0]
    return task


@pytest.fixture(scope="module")
def linear() -> ACEPotential:
    return LinearACETrainer(basis=TINY).train(labels(12)).potential


def test_further_densities_change_no_energy(linear: ACEPotential) -> None:
    both = with_densities(linear, {"Au": EMBEDDING, "Cu": EMBEDDING})
    both = replace(both, reference_energies=linear.reference_energies)
    assert len(both.coefficients) == len(linear.coefficients) + sum(linear.n_functions.values())
    for atoms in labels(3, seed=1):
        one, two = linear.calculator(), both.calculator()
        assert one.get_potential_energy(atoms.copy()) == pytest.approx(two.get_potential_energy(atoms.copy()), abs=1e-9)
        assert np.abs(one.get_forces(atoms.copy()) - two.get_forces(atoms.copy())).max() < 1e-9
    assert both.core_radii == linear.core_radii


def test_a_basis_of_the_users_own_is_kept() -> None:
    basis = replace(TINY, ndensity=2)
    section = BasisSettings(potential_section=basis.section(["Au", "Cu"]))
    task = task_of(labels(8))
    for given in (basis, section):
        begun = linear_start(given, task, {})
        potential, log, *_ = begun
        assert potential.cutoff == 4.0
        assert potential.n_functions == {"Au": 8, "Cu": 8}
        assert "functions: " in log
    some = linear_start(basis, task, {"forces_meV_A": 1e-3})  # another worth is another fit
    assert not np.allclose(some[0].coefficients, potential.coefficients)


def test_without_a_number_the_labels_choose_up_to_that_of_a_gradient_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlip_autopipec.training.pacemaker.linear_start.MOST_FUNCTIONS", (60, 30, 20))
    begun = linear_start(BasisSettings(ndensity=2, cutoff=4.0), task_of(labels(40)), {})
    assert max(begun[0].n_functions.values()) <= 30
    assert begun[0].cutoff == 4.0


@pytest.mark.parametrize(
    "embedding",
    [
        {"npot": "FinnisSinclair", "fs_parameters": [1, 1, 1, 0.5], "ndensity": 2},  # its root has no slope at zero
        {"npot": "FinnisSinclairShiftedScaled", "fs_parameters": [1, 0.5], "ndensity": 1},
        {"npot": "FinnisSinclairShiftedScaled", "fs_parameters": [2, 1, 1, 0.5], "ndensity": 2},
    ],
)
def test_an_embedding_without_a_linear_part_begins_from_scratch(embedding: dict[str, Any]) -> None:
    section = TINY.section(["Au", "Cu"]) | {"embeddings": {"ALL": EMBEDDING, "Cu": embedding}}
    basis = BasisSettings(potential_section=section)
    assert not has_linear_part(basis)
    assert not PacemakerTrainer(basis=basis).begins_linear
    assert has_linear_part(BasisSettings(potential_section=replace(TINY, ndensity=2).section(["Au", "Cu"])))


def test_the_gradient_fit_goes_on_from_there(tmp_path: Path) -> None:
    train = labels(10)
    trainer = PacemakerTrainer(basis=replace(TINY, ndensity=2), maxiter=3, input_sections=PYACE)
    result = trainer.train(train, directory=tmp_path)
    logged = read_log(result.log)
    assert "begins at a linear fit" in result.log
    task = replace(task_of(train), directory=tmp_path)
    begun = linear_start(trainer.basis, task, {})
    before = compute_errors(replace(begun[0], reference_energies=task.reference_energies), train)
    assert before is not None
    # the loss at the start is that of the linear fit; regularisation adds little
    assert logged.first_loss == pytest.approx(before.loss(trainer.share_of_forces(4)), rel=0.01)
    assert logged.last_loss < logged.first_loss
    (folder,) = tmp_path.glob("pacemaker-*")
    assert "potential: start_potential.yaml" in (folder / "input.yaml").read_text()


def test_dimers_count_little_and_may_be_longer_than_the_cutoff(tmp_path: Path) -> None:
    """pacemaker leaves out what has no pair within the cutoff; its energy is that of atoms alone."""
    dimers = []
    for distance in (2.3, 5.0):
        atoms = Atoms("CuAu", [[0, 0, 0], [0, 0, distance]], cell=[15, 15, 20], pbc=True)
        atoms.info["origin"] = "dimer"
        atoms.calc = EMT()
        found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **found)
        dimers.append(atoms)
    assert all(is_dimer(atoms) for atoms in dimers)
    trainer = PacemakerTrainer(basis=replace(TINY, ndensity=2), maxiter=1, input_sections=PYACE)
    result = trainer.train([*labels(10), *dimers], directory=tmp_path)
    (folder,) = tmp_path.glob("pacemaker-*")
    weights = pd.read_pickle(folder / "train.pckl.gzip", compression="gzip")["w_factor"]
    assert weights.tolist() == [1.0] * 10 + [1e-5] * 2
    without = trainer.train(labels(10), directory=tmp_path / "without")
    assert result.train.forces_rmse_meV_A < 2 * without.train.forces_rmse_meV_A


def test_a_refit_begins_at_a_linear_fit_too(tmp_path: Path) -> None:
    """Of all labels, whose basis may be another one than that of the potential in use."""
    trainer = PacemakerTrainer(
        basis=replace(TINY, ndensity=2, number_of_functions_per_element=5),
        maxiter=2,
        fine_tune_maxiter=1,
        refit_every=5,
        input_sections=PYACE,
    )
    before = trainer.train(labels(8), directory=tmp_path / "first").potential
    trainer.basis = replace(trainer.basis, number_of_functions_per_element=8)
    more = {"new_labels": labels(4, seed=3), "directory": tmp_path / "more"}
    result = trainer.train(labels(8), before, fine_tune=True, cycle=5, **more)
    assert result.refit is not None
    assert result.refit.failure is None
    logs = [(folder / "pacemaker.out").read_text() for folder in (tmp_path / "more").glob("pacemaker-*")]
    assert len(logs) == 2
    starts = {(folder / "start_potential.yaml").read_text().count("{type:") for folder in (tmp_path / "more").iterdir()}
    assert starts == {8, 16}
    assert max(result.potential.n_functions.values()) == (8 if result.refit.kept == "refit" else 4)


@pytest.mark.parametrize("options", [{"ladder_step": 4}, {"input_sections": {"fit": {"ladder_step": 4}}}])
def test_a_ladder_begins_from_scratch(options: dict[str, Any], tmp_path: Path) -> None:
    sections = options.pop("input_sections", {}) | PYACE
    trainer = PacemakerTrainer(basis=TINY, maxiter=1, input_sections=sections, **options)
    result = trainer.train(labels(8), directory=tmp_path)
    assert "linear fit" not in result.log
