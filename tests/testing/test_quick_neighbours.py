"""The list of neighbours that these tests give to ASE's EMT is ASE's own."""

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators import emt
from ase.neighborlist import NeighborList
from quick_neighbours import QuickNeighbours


def sheared():
    atoms = bulk("Cu", cubic=True) * 2
    atoms.set_cell(atoms.cell.array @ [[1, 0.4, 0.9], [0, 1, 0.7], [0, 0, 1]], scale_atoms=True)
    return atoms


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Cu"),
        bulk("Cu", cubic=True),
        bulk("Ni", cubic=True) * (1, 1, 4),
        fcc111("Al", (2, 2, 3), vacuum=6),
        molecule("C6H6"),
        sheared(),
    ],
    ids=lambda atoms: str(atoms.symbols),
)
def test_pairs_are_the_same_and_in_the_same_order(atoms):
    rng = np.random.default_rng(1)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape) + rng.normal(0, 5, 3)
    lists = []
    for options in ({}, {"primitive": QuickNeighbours}):
        one = NeighborList([2.5] * len(atoms), self_interaction=False, bothways=True, **options)
        one.update(atoms)
        lists.append(one)
    for atom in range(len(atoms)):
        (asked, images), (found, found_images) = (one.get_neighbors(atom) for one in lists)
        assert len(asked)
        assert found.tolist() == asked.tolist()
        assert found_images.tolist() == images.tolist()


def test_emt_uses_it():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = emt.EMT()
    atoms.get_forces()
    assert isinstance(atoms.calc.nl.nl, QuickNeighbours)
