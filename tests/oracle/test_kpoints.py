"""One k-point along vacuum for calculators of ASE."""

from __future__ import annotations

import io
from typing import Any

import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.abinit import Abinit, AbinitProfile
from ase.calculators.calculator import kpts2sizeandoffsets
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.abinit import write_abinit_in

from mlip_autopipec.oracle.kpoints import thin_out_along_vacuum
from mlip_autopipec.structures.periodicity import boxed

SLAB = boxed(fcc111("Cu", (2, 2, 3), vacuum=4))


def written(atoms: Any, **settings: Any) -> list[int]:
    """Return ngkpt of the input that ASE writes for ABINIT."""
    calculator = Abinit(profile=AbinitProfile("abinit", pp_paths="."), **settings)
    thin_out_along_vacuum(calculator, atoms)
    stream = io.StringIO()
    write_abinit_in(stream, atoms, param=calculator.parameters, species=sorted(set(atoms.numbers)))
    (line,) = [line for line in stream.getvalue().splitlines() if line.startswith("ngkpt")]
    return [int(word) for word in line.split()[1:]]


def test_abinit_has_one_k_point_along_vacuum() -> None:
    mesh = written(SLAB, ecut=500, kpts=5.0)
    assert mesh[2] == 1
    assert min(mesh[:2]) > 1
    assert written(boxed(molecule("H2O")), ecut=500, kpts=5.0) == [1, 1, 1]
    assert min(written(bulk("Cu", cubic=True), ecut=500, kpts=5.0)) > 1


@pytest.mark.parametrize("how", [{}, {"even": True}, {"gamma": True}])
def test_a_density_is_one_k_point_along_vacuum(how: dict[str, bool]) -> None:
    calculator = SinglePointCalculator(SLAB)
    calculator.parameters = {"kpts": {"density": 5.0, **how}}
    thin_out_along_vacuum(calculator, SLAB)
    size, _ = kpts2sizeandoffsets(atoms=SLAB, **calculator.parameters["kpts"])
    before, _ = kpts2sizeandoffsets(atoms=SLAB, density=5.0, **how)
    assert list(size) == [*before[:2], 1]
    assert before[2] > 1


def test_a_mesh_that_was_given_stays() -> None:
    assert written(SLAB, ecut=500, kpts=(2, 2, 2)) == [2, 2, 2]
