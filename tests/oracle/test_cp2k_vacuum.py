"""One k-point along vacuum for CP2K."""

from __future__ import annotations

import pytest
from ase.build import bulk, fcc111, molecule
from atomate2.cp2k.jobs.core import StaticMaker
from atomate2.cp2k.sets.core import StaticSetGenerator
from pymatgen.io.vasp import Kpoints

from mlip_autopipec.oracle.cp2k import for_cp2k
from mlip_autopipec.structures.periodicity import boxed


def mesh_of(atoms, **settings):
    told = for_cp2k(StaticMaker(input_set_generator=StaticSetGenerator(**settings)), atoms)
    generator = told.maker.input_set_generator
    return tuple(generator._get_kpoints(told.structure, generator.get_kpoints_updates(told.structure)).kpts[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_k_point_along_vacuum(axis):
    slab = fcc111("Cu", (2, 2, 3), vacuum=4)
    order = [(axis + 1) % 3, (axis + 2) % 3, axis]
    slab.set_cell(slab.cell.array[[order.index(i) for i in range(3)]])
    slab.pbc = True
    mesh = mesh_of(slab, user_kpoints_settings={"reciprocal_density": 1000})
    assert mesh[axis] == 1
    assert all(n > 1 for i, n in enumerate(mesh) if i != axis)
    assert mesh_of(boxed(molecule("H2O")), user_kpoints_settings={"reciprocal_density": 9000}) == (1, 1, 1)


def test_bulk_and_a_mesh_that_was_given_stay():
    copper = bulk("Cu", cubic=True)
    assert len(set(mesh_of(copper))) == 1
    assert mesh_of(copper)[0] > 1
    slab = boxed(fcc111("Cu", (2, 2, 3), vacuum=4))
    assert mesh_of(slab, user_kpoints_settings=Kpoints(kpts=((2, 2, 2),))) == (2, 2, 2)
