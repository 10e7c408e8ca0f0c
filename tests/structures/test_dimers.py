"""Dimers of the first dataset, and what they are worth at short range."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from monty.json import MontyDecoder

from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.structures.dimers import DimerGenerator, is_dimer
from mlip_autopipec.structures.distances import minimum_distances
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ase import Atoms

#: Small displacements: no pair of the crystal comes near 1.9 A.
GENTLE = StructureGenerator(
    n_structures=16,
    n_test=4,
    max_atoms=32,
    min_width=7.0,
    rattle_amplitudes=[0.05, 0.1],
    volume_window=(0.95, 1.1),
    strain=0.03,
)


def test_every_pair_from_contact_to_the_cutoff() -> None:
    made = DimerGenerator(n_distances=6, shortest_ratio=0.7, longest=5.0).generate(["Cu", "Au", "Cu"])
    assert [a.get_chemical_formula() for a in made[::6]] == ["Au2", "AuCu", "Cu2"]
    assert len(made) == 18
    for k, (a, b) in enumerate([("Au", "Au"), ("Au", "Cu"), ("Cu", "Cu")]):
        distances = np.array([atoms.get_distance(0, 1) for atoms in made[6 * k : 6 * k + 6]])
        contact = covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]]
        assert distances[[0, -1]] == pytest.approx([0.7 * contact, 5.0])
        assert np.diff(1 / distances) == pytest.approx(np.diff(1 / distances)[0])
    for atoms in made:
        assert is_dimer(atoms)
        assert atoms.info["split"] == "train"
        # one partner within reach, and no image
        assert list(minimum_distances(atoms, 10.0).values()) == pytest.approx([atoms.get_distance(0, 1)])
        assert len({*atoms.cell.lengths().round(6)}) == 3
        assert (atoms.cell.lengths() == made[0].cell.lengths()).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_distances": 1}, "n_distances is 1"),
        ({"shortest_ratio": 0.1}, r"shortest_ratio is 0\.1"),
        ({"vacuum": 0.0}, r"vacuum is 0\.0"),
        ({"longest": 1.5}, r"Cu-Cu begin at 1\.85 A"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DimerGenerator(**settings).generate(["Cu"])  # type: ignore[arg-type]


def test_the_first_dataset_holds_them_on_request() -> None:
    generator = replace(GENTLE, n_structures=2, dimers=DimerGenerator(n_distances=3), isolated_atoms=True)
    made = generator.generate([bulk("Cu"), bulk("Au")])
    dimers = [a for a in made if is_dimer(a)]
    assert len(dimers) == 9
    assert not any(is_dimer(a) for a in replace(generator, dimers=None).generate([bulk("Cu"), bulk("Au")]))
    assert [a.info["split"] for a in made] == ["train"] * (len(made) - 6) + ["test"] * 4 + ["reference"] * 2
    assert MontyDecoder().decode(generator.to_json()) == generator
    assert StructureGenerator(dimers={"n_distances": 3}).dimers == DimerGenerator(n_distances=3)  # type: ignore[arg-type]


def squeezed(distance: float, seed: int) -> Atoms:
    """A crystal in which two neighbours are at ``distance`` (Angstrom)."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=seed)
    atoms.set_distance(0, 1, distance, fix=0.5, mic=True)
    return atoms


def test_with_them_short_distances_are_learnt_and_the_crystal_is_not_spoilt(
    emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]],
) -> None:
    made = GENTLE.generate([bulk("Cu", cubic=True)], seed=1)
    crystal = emt_labelled([a for a in made if a.info["split"] == "train"])
    held_out = emt_labelled([a for a in made if a.info["split"] == "test"])
    dimers = emt_labelled(DimerGenerator().generate(["Cu"]))
    close = emt_labelled([squeezed(1.7, seed) for seed in range(3)])
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=30))
    without = trainer.train(crystal, test_labels=held_out)
    with_dimers = trainer.train([*crystal, *dimers], test_labels=held_out)
    errors = [compute_errors(r.potential, close) for r in (without, with_dimers)]
    assert errors[0] is not None
    assert errors[1] is not None
    # without them the core begins above that distance: a wall of several eV/A and more
    assert errors[0].forces_rmse_meV_A > 1000
    assert errors[1].forces_rmse_meV_A < 400
    assert with_dimers.test is not None
    assert with_dimers.test.forces_rmse_meV_A < 40
    assert with_dimers.test.energy_rmse_meV_atom < 6
    # errors and reference energies are those of the crystal
    assert with_dimers.train.n_structures == len(crystal)
    assert with_dimers.potential.reference_energies == without.potential.reference_energies
    # the shortest of both
    assert with_dimers.potential.core_radii["Cu", "Cu"] == pytest.approx(dimers[0].get_distance(0, 1) - 0.3)
    full = replace(trainer, dimer_weight=1.0).train([*crystal, *dimers])
    errors = [compute_errors(r.potential, dimers) for r in (with_dimers, full)]
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[1].energy_rmse_meV_atom < errors[0].energy_rmse_meV_atom
    assert full.train.forces_rmse_meV_A > with_dimers.train.forces_rmse_meV_A
    with pytest.raises(InvalidInputError, match="dimer_weight is 0"):
        replace(trainer, dimer_weight=0.0).train(crystal)


def test_pacemaker_is_told_their_weight(emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]], tmp_path: Path) -> None:
    labels = emt_labelled([squeezed(2.2, 1), *DimerGenerator(n_distances=2).generate(["Cu"])])
    trainer = PacemakerTrainer(command="false", dimer_weight=0.05)
    with pytest.raises(TrainingError):  # only what pacemaker would have read is looked at
        trainer.train(labels, directory=tmp_path)
    (written,) = tmp_path.glob("*/train.pckl.gzip")
    assert pd.read_pickle(written, compression="gzip")["w_factor"].tolist() == [1.0, 0.05, 0.05]
