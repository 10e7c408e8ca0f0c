"""The elementary moves on a structure: copy it bare, rattle, deform, compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from scipy.linalg import expm

from mlip_autopipec.structures.electrons import CHARGE, MOMENTS, MULTIPLICITY
from mlip_autopipec.structures.periodicity import gathered

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Per-atom input of an electronic-structure calculation; everything else (velocities, gamma,
#: constraints, stale results) belongs to the run the frame came from.
_KEPT_ARRAYS = ("tags", MOMENTS, "initial_charges")
_KEPT_INFO = (CHARGE, MULTIPLICITY)
#: Two structures are the same if no atom differs by more than this (Angstrom).
SAME_TOLERANCE = 1e-3


def bare_copy(atoms: Atoms, keep_info: bool = False) -> Atoms:
    """
    Copy without calculator, constraints, velocities and derived per-atom arrays.

    Parameters
    ----------
    atoms
        The original, left as it is.
    keep_info
        Keep all of ``info``; otherwise only charge and spin multiplicity, since steps and grades
        do not hold for a structure that is going to be changed.
    """
    copy = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    if atoms.has("masses"):
        copy.set_masses(atoms.get_masses())
    for name in _KEPT_ARRAYS:
        if name in atoms.arrays:
            copy.set_array(name, atoms.arrays[name])
    copy.info = {k: v for k, v in atoms.info.items() if keep_info or k in _KEPT_INFO}
    return copy


def rattle(atoms: Atoms, sigma: float, rng: np.random.Generator) -> Atoms:
    """
    Displace every atom by a Gaussian of ``sigma`` Angstrom per Cartesian component.

    The mean displacement is taken out; it is a translation and changes nothing.
    """
    copy = atoms.copy()
    steps = rng.normal(scale=sigma, size=(len(copy), 3))
    copy.positions += steps - steps.mean(axis=0)
    return copy


def deform(atoms: Atoms, deformation: NDArray[np.float64]) -> Atoms:
    """
    Apply x -> x F to positions and cell vectors (both rows).

    Cell vectors along which there is vacuum, or no periodicity, stay as they are: strained vacuum is no other
    structure. The atoms of a slab, wire or cluster are strained about their centre.

    Parameters
    ----------
    deformation
        Deformation gradient F, (3, 3).
    """
    copy = atoms.copy()
    positions, goes_on = gathered(atoms)
    if not goes_on.all():
        cell, centre = atoms.cell.array.copy(), positions.mean(axis=0)
        cell[goes_on] = cell[goes_on] @ deformation
        copy.set_cell(cell, scale_atoms=False)
        copy.positions = centre + (positions - centre) @ deformation
        return copy
    copy.set_cell(copy.cell.array @ deformation, scale_atoms=False)
    # not scale_atoms, which needs three cell vectors; positions alone serve molecules as well
    copy.positions = copy.positions @ deformation
    return copy


def right_handed(atoms: Atoms) -> Atoms:
    """Return the same crystal in a right-handed cell: one vector is turned about if the cell is left-handed."""
    if not np.linalg.det(atoms.cell.array) < 0:
        return atoms
    copy = atoms.copy()
    copy.set_cell(copy.cell.array * [[1], [1], [-1]], scale_atoms=False)
    return copy


def random_deformation(volume_factor: float, strain: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """
    Draw a deformation that changes the volume by exactly ``volume_factor``.

    The rest is tetragonal and shear strain: the exponential of a random symmetric matrix of
    zero trace, so that its determinant is 1, with components of at most ``strain``.

    Returns
    -------
    numpy.ndarray
        Symmetric deformation gradient, (3, 3).
    """
    raw = rng.uniform(-1.0, 1.0, size=(3, 3))
    traceless = (raw + raw.T) / 2
    traceless -= np.eye(3) * np.trace(traceless) / 3
    largest = np.abs(traceless).max()
    size = strain * rng.uniform(0.3, 1.0)  # never nothing, or the draw would be wasted
    return np.asarray(expm(traceless / largest * size)) * volume_factor ** (1 / 3)


def same_structure(a: Atoms, b: Atoms, tolerance: float = SAME_TOLERANCE) -> bool:
    """
    Tell whether two structures agree up to translation, lattice translation and cell rotation.

    Atoms are compared in the order they are listed, which is enough for structures derived
    from one parent.

    Parameters
    ----------
    tolerance
        Largest difference in Angstrom of an atom's position or a cell vector's length.
    """
    if len(a) != len(b) or (a.numbers != b.numbers).any() or (a.pbc != b.pbc).any():
        return False
    if not a.pbc.any():
        # interatomic distances are all there is to a cluster
        return bool(np.abs(a.get_all_distances() - b.get_all_distances()).max(initial=0.0) < tolerance)
    cell_a, cell_b = a.cell.complete().array, b.cell.complete().array
    scale = np.sqrt(np.abs(cell_a @ cell_a.T).max())
    if np.abs(cell_a @ cell_a.T - cell_b @ cell_b.T).max() > 2 * scale * tolerance:
        return False
    shift = a.positions @ np.linalg.inv(cell_a) - b.positions @ np.linalg.inv(cell_b)
    # relative to the first atom, so that wrapping cannot tear the mean translation apart
    shift -= shift[0]
    shift -= np.where(a.pbc, np.round(shift), 0.0)
    cartesian = shift @ cell_a
    cartesian -= cartesian.mean(axis=0)
    return bool(np.linalg.norm(cartesian, axis=1).max() < tolerance)
