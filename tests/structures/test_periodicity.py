"""Bulk, slabs, wires, clusters: what is recognised, the cell for MD, and what is strained and repeated."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cluster import Icosahedron
from ase.constraints import FixAtoms, FixedLine
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.structures.distort import deform
from mlip_autopipec.structures.frozen import constrained_atoms, freeze, frozen_atoms
from mlip_autopipec.structures.periodicity import (
    BOX_VACUUM_A,
    Direction,
    Shape,
    boxed,
    directions,
    shape_of,
    sides_differ,
    stress_without_vacuum,
)
from mlip_autopipec.structures.supercells import nearly_cubic_supercell


def slab(vacuum: float | None = 8.0, size: tuple[int, int, int] = (2, 2, 3)) -> Atoms:
    return fcc111("Cu", size, vacuum=vacuum)


def wire() -> Atoms:
    atoms = bulk("Cu", cubic=True) * (1, 1, 2)
    atoms.pbc = (False, False, True)
    return atoms


CASES = {
    "bulk": (bulk("Cu"), Shape.BULK),
    "slab": (slab(), Shape.SLAB),
    "slab without a third vector": (slab(None), Shape.SLAB),
    "wire": (wire(), Shape.WIRE),
    "cluster": (Icosahedron("Ni", 2), Shape.CLUSTER),
    "molecule without a cell": (molecule("H2O"), Shape.CLUSTER),
    "molecule in a box": (molecule("H2O", vacuum=6.0, pbc=True), Shape.CLUSTER),
}


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_recognised_and_stay_what_they_are_in_the_cell_for_md(name: str) -> None:
    atoms, shape = CASES[name]
    assert shape_of(atoms) is shape
    made = boxed(atoms)
    assert made.pbc.all()
    assert made.cell.rank == 3
    assert shape_of(made) is shape
    with_images = made.get_all_distances(mic=True)
    assert with_images == pytest.approx(atoms.get_all_distances(mic=True), abs=1e-9), "no two atoms came nearer"
    again = boxed(made)
    assert np.array_equal(again.positions, made.positions)
    for axis in np.flatnonzero(~atoms.pbc):
        assert directions(made)[axis] is Direction.VACUUM


def test_energy_in_the_cell_for_md_is_that_of_the_structure() -> None:
    for atoms in (slab(None), Icosahedron("Ni", 2), wire()):
        made = boxed(atoms)
        for one in (atoms, made):
            one.calc = EMT()
        assert made.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def test_vacuum_that_is_enough_is_kept_and_a_label_goes_along() -> None:
    atoms = slab(10.0)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((12, 3)), stress=np.ones(6))
    made = boxed(atoms)
    assert np.array_equal(made.cell.array, atoms.cell.array)
    assert made.get_potential_energy() == -1.0
    assert "stress" not in made.calc.results
    thickness = np.ptp(atoms.positions[:, 2])
    assert boxed(slab(1.0)).cell.lengths()[2] == pytest.approx(thickness + BOX_VACUUM_A)


def test_a_missing_periodic_vector_is_refused() -> None:
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], cell=[5, 5, 0], pbc=True)
    with pytest.raises(InvalidInputError, match="missing"):
        boxed(atoms)


def test_vacuum_is_neither_strained_nor_repeated() -> None:
    atoms = boxed(slab(None))
    strained = deform(atoms, np.diag([1.1, 1.0, 1.05]))
    assert np.array_equal(strained.cell.array[2], atoms.cell.array[2])
    assert strained.cell.array[0] == pytest.approx(atoms.cell.array[0] * [1.1, 1, 1])
    assert np.ptp(strained.positions[:, 2]) == pytest.approx(1.05 * np.ptp(atoms.positions[:, 2]))
    wide = nearly_cubic_supercell(atoms, 200, 14.0)
    assert wide.cell.array[2] == pytest.approx(atoms.cell.array[2])
    assert len(wide) == 16 * len(atoms), "repeated in the plane alone"


def test_a_slab_that_is_wrapped_around_the_cell_is_strained_whole() -> None:
    atoms = boxed(slab(None))
    atoms.positions[:, 2] -= atoms.positions[:, 2].mean()
    atoms.wrap()
    assert shape_of(atoms) is Shape.SLAB
    strained = deform(atoms, np.diag([1.0, 1.0, 0.9]))
    distance = strained.get_all_distances(mic=True)
    assert distance[np.triu_indices(12, 1)].min() > 0.89 * 2.55


def test_datasets_and_candidates_keep_the_vacuum() -> None:
    for atoms in (boxed(slab(None)), boxed(Icosahedron("Ni", 2)), boxed(wire())):
        height = atoms.cell.lengths()
        open_axes = [axis for axis in range(3) if directions(atoms)[axis] is not Direction.BULK]
        made = StructureGenerator(n_structures=6, n_test=1, max_atoms=len(atoms)).generate([atoms], seed=1)
        made += CandidateGenerator(n_samples=8).generate(atoms, seed=2)
        for one in made:
            assert one.cell.lengths()[open_axes] == pytest.approx(height[open_axes])
    origins = {one.info["origin"] for one in CandidateGenerator(n_samples=8).generate(boxed(Icosahedron("Ni", 2)))}
    assert "volume" not in origins


def test_frozen_atoms_come_from_constraints_or_indices() -> None:
    atoms = slab()
    add_adsorbate(atoms, "Cu", 2.0, "fcc")
    atoms.set_constraint(FixAtoms(mask=atoms.positions[:, 2] < 9))
    frozen = freeze(atoms, constrained_atoms(atoms))
    assert frozen_atoms(frozen).tolist() == [0, 1, 2, 3]
    assert not frozen.constraints
    atoms.set_constraint(FixedLine(0, [0, 0, 1]))
    with pytest.raises(InvalidInputError, match="FixedLine"):
        constrained_atoms(atoms)
    with pytest.raises(InvalidInputError, match="99"):
        freeze(atoms, [99])
    with pytest.raises(InvalidInputError, match="all 13"):
        freeze(atoms, range(13))


@pytest.mark.parametrize("turned", [0.0, 30.0])
def test_only_stresses_along_the_structure_are_compared(turned: float) -> None:
    atoms = boxed(slab())
    across = np.array([0.0, 0.0, 5.0, 3.0, 4.0, 0.0])  # zz, yz, xz
    within = np.array([1.0, 2.0, 0.0, 0.0, 0.0, 0.5])  # xx, yy, xy
    rotation = np.eye(3)
    if turned:
        before = atoms.cell.array.copy()
        atoms.rotate(turned, (1.0, 2.0, 3.0), rotate_cell=True)
        rotation = np.linalg.solve(before, atoms.cell.array)
    for stress, n_large in ((across, 0), (within, 3)):
        full = rotation.T @ voigt_6_to_full_3x3_stress(stress) @ rotation
        found = stress_without_vacuum(full_3x3_to_voigt_6_stress(full), atoms)
        assert len(found) == 3
        assert (np.abs(found) > 1e-9).sum() == n_large
    assert stress_without_vacuum(across, boxed(wire())).tolist() == [pytest.approx(5.0)]
    assert stress_without_vacuum(across, boxed(Icosahedron("Ni", 2))).tolist() == []
    assert stress_without_vacuum(across, bulk("Cu")).tolist() == across.tolist()


def test_slabs_with_two_different_sides() -> None:
    clean = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    assert not sides_differ(clean)
    covered = clean.copy()
    add_adsorbate(covered, "Cu", 1.8, "fcc")
    assert sides_differ(covered)
    covered.pbc = True  # a slab in a box is one, too
    assert sides_differ(covered)
    polar = clean.copy()
    polar.symbols[:4] = "Au"
    assert sides_differ(polar)
    assert not sides_differ(bulk("Cu", cubic=True))
    assert not sides_differ(molecule("CO"))
