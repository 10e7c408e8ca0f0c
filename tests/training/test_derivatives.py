"""Derivatives of basis functions: the same as pyace's, function by function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pyace import ACEBBasisSet, ACEBEvaluator, ACECalculator, create_multispecies_basis_config
from pyace.atomicenvironment import aseatoms_to_atomicenvironment

from mlip_autopipec.potentials import derivatives
from mlip_autopipec.potentials.basis import LADDER_SHAPE, BasisSettings
from mlip_autopipec.potentials.derivatives import Derivatives, voigt

if TYPE_CHECKING:
    from numpy.typing import NDArray


def by_pyace(basis: ACEBBasisSet, atoms: Atoms) -> tuple[NDArray[np.float64], ...]:
    """Energies, forces and virials from pyace's derivatives, every periodic image an atom of its own."""
    evaluator = ACEBEvaluator(basis)
    calculator = ACECalculator(evaluator)
    counts = [len(a) + len(b) for a, b in zip(basis.basis_rank1, basis.basis, strict=True)]
    first = np.concatenate([[0], np.cumsum(counts)])
    environment = aseatoms_to_atomicenvironment(
        atoms.copy(), cutoff=basis.cutoffmax, elements_mapper_dict=basis.elements_to_index_map
    )
    n, images = environment.n_atoms_real, environment.n_atoms_extended
    origins = np.asarray(environment.origins)
    environment.neighbour_list = list(environment.neighbour_list[:n]) + [[]] * (images - n)
    environment.origins = list(range(images))
    environment.n_atoms_real = images
    calculator.compute(environment, compute_projections=True, compute_b_grad=True)
    energy = np.zeros(first[-1])
    for species, projection in zip(environment.species_type[:n], calculator.projections[:n], strict=True):
        energy[first[species] : first[species + 1]] += projection
    by_image = np.asarray(calculator.forces_bfuncs)
    forces = np.zeros((n, *by_image.shape[1:]))
    np.add.at(forces, origins, by_image)
    virial = voigt(-np.tensordot(by_image, np.asarray(environment.x), ((0,), (0,))))
    return energy, forces.transpose(0, 2, 1), virial


def silicon() -> Atoms:
    """A distorted triclinic cell, smaller than the cutoff."""
    atoms = bulk("Si") * (1, 2, 1)
    atoms.rattle(0.1, seed=2)
    atoms.set_cell(atoms.cell + 0.1 * np.random.default_rng(0).normal(size=(3, 3)), scale_atoms=True)
    return atoms


def copper_gold() -> Atoms:
    atoms = bulk("CuAu", "rocksalt", a=5.1, cubic=True)
    atoms.rattle(0.2, seed=1)
    return atoms


def cluster() -> Atoms:
    """No cell at all; one atom has no neighbour."""
    atoms = copper_gold()
    atoms.pbc = False
    atoms += Atoms("Cu", [[30.0, 0.0, 0.0]])
    atoms.cell = None
    return atoms


def long_cell() -> Atoms:
    """More atoms than are evaluated together."""
    atoms = bulk("CuAu", "rocksalt", a=5.1, cubic=True) * (1, 1, 20)
    atoms.rattle(0.1, seed=3)
    return atoms


def test_a_larger_structure_takes_as_much_for_each_atom(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Noted(derivatives._Neighbours):
        def __init__(self, *args):
            sizes.append(args[-1])
            super().__init__(*args)

    monkeypatch.setattr(derivatives, "_Neighbours", Noted)
    settings = BasisSettings(10, 5.5)
    basis = ACEBBasisSet(create_multispecies_basis_config(settings.section(["Au", "Cu"])))
    largest = []
    for repeat in (1, 2):
        atoms = long_cell() * (1, 1, repeat)
        Derivatives(basis).of(atoms)
        largest.append(max(sizes))
        assert largest[-1] < len(atoms)
    assert largest[0] == largest[1]


@pytest.mark.parametrize(
    ("atoms", "elements", "n", "radial"),
    [
        (silicon(), ["Si"], 300, "SBessel"),
        (silicon(), ["Ge", "Si"], 40, "SBessel"),
        (copper_gold(), ["Au", "Cu"], 60, "ChebExpCos"),
        (cluster(), ["Au", "Cu"], 40, "SBessel"),
        (long_cell(), ["Au", "Cu"], 20, "ChebExpCos"),
        (copper_gold(), ["Au", "Cu"], 5, "SBessel"),  # functions of pairs alone
    ],
)
def test_rows_are_those_of_pyace(atoms: Atoms, elements: list[str], n: int, radial: str) -> None:
    shape = LADDER_SHAPE if len(elements) == 1 else ([6, 3, 2, 1], [0, 3, 2, 1])
    settings = BasisSettings(n, 5.5, *map(list, shape), radial_basis=radial)
    basis = ACEBBasisSet(create_multispecies_basis_config(settings.section(elements)))
    rows = Derivatives(basis).of(atoms)
    for expected, found in zip(by_pyace(basis, atoms), rows[:3], strict=True):
        scale = np.abs(expected).max()
        assert scale > 0.1
        # function by function: small ones of high order have to be right as well
        by_function = expected.reshape(-1, expected.shape[-1])
        size = np.abs(by_function).max(axis=0)
        difference = np.abs(by_function - found.reshape(by_function.shape)).max(axis=0)
        assert (difference < 1e-10 * size + 1e-13 * scale).all()
