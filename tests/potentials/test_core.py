"""The core repulsion from the first fit on and anew in each fine-tune; reference energies once and for all."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.core import core_radii
from mlip_autopipec.structures.distances import minimum_distances
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.training.training import ACETrainer

BASIS = BasisSettings(number_of_functions_per_element=4, cutoff=3.6, nradmax_by_orders=[3, 1], lmax_by_orders=[0, 1])
TRAINERS = [
    LinearACETrainer(basis=BASIS),
    pytest.param(
        # pacemaker's own backend starts in seconds; the core is set beside it in any case
        PacemakerTrainer(
            basis=BASIS, maxiter=4, fine_tune_maxiter=2, input_sections={"backend": {"evaluator": "pyace"}}
        ),
        marks=pytest.mark.skipif(find_spec("tensorpotential") is None, reason="tensorpotential is not installed"),
    ),
]


def crystal(seed: int, closest: float | None = None) -> Atoms:
    """Rattled copper; with two atoms at ``closest`` (Angstrom) if that is given."""
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.rattle(0.08, seed=seed)
    if closest is not None:
        atoms.set_distance(0, 1, closest, fix=0.5, mic=True)
    return atoms


def pair_energy(potential: ACEPotential, distance: float) -> float:
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, distance]], cell=[12] * 3, pbc=True)
    atoms.calc = potential.calculator()
    return float(atoms.get_potential_energy())


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda t: type(t).__name__)
def test_the_core_follows_the_shortest_distance_and_the_reference_stays(
    trainer: ACETrainer, emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]], tmp_path: Path
) -> None:
    old = emt_labelled([crystal(seed) for seed in range(4)])
    new = emt_labelled([crystal(9, closest=1.9)])
    shortest = min(minimum_distances(a)["Cu", "Cu"] for a in old)
    assert shortest > 2.1
    trainer = replace(trainer, reference_energies={"Cu": 3.5})
    first = trainer.train(old, directory=tmp_path).potential
    assert first.core_radii["Cu", "Cu"] == pytest.approx(shortest - trainer.core_margin)
    assert first.reference_energies == {"Cu": 3.5}
    # another reference, of another kind perhaps, comes too late
    tuned = replace(trainer, reference_energies={"Cu": -7.0}).train(
        old, first, fine_tune=True, new_labels=new, directory=tmp_path
    )
    assert tuned.potential.core_radii["Cu", "Cu"] == pytest.approx(1.9 - trainer.core_margin)
    assert tuned.potential.reference_energies == {"Cu": 3.5}
    for potential in (first, tuned.potential):
        core = potential.core_radii["Cu", "Cu"]
        energies = np.array([pair_energy(potential, core * x) for x in (0.9, 0.7, 0.5, 0.3)])
        assert (np.diff(energies) > 5).all()


def test_pairs_never_seen_have_the_shortest_of_all() -> None:
    copper, gold = bulk("Cu"), bulk("Au")
    radii = core_radii([copper, gold], ["Au", "Cu"], 0.1)
    assert radii[0, 0] == pytest.approx(4.08 / np.sqrt(2) - 0.1)
    assert radii[1, 1] == radii[0, 1] == radii[1, 0] == pytest.approx(3.61 / np.sqrt(2) - 0.1)
    with pytest.raises(TrainingError, match="no two atoms within 6 A"):
        core_radii([Atoms("Cu", cell=[20] * 3, pbc=True)], ["Cu"], 0.1)


@pytest.mark.parametrize("margin", [-0.1, 5.0])
def test_a_core_begins_at_a_positive_distance(margin):
    atoms = bulk("Cu", cubic=True)
    with pytest.raises(InvalidInputError, match=f"core_margin is {margin} A, and Cu-Cu are 2.553 A apart"):
        core_radii([atoms], ["Cu"], margin)
    assert core_radii([atoms], ["Cu"], 0.0)[0, 0] == pytest.approx(2.553, abs=1e-3)
