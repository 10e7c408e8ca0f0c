"""Bulk, slab, wire or cluster: along which cell vectors a structure repeats, and along which there is vacuum."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.distances import neighbours

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

#: A layer without atoms this thick (Angstrom) is vacuum; layered crystals have gaps of 3 to 4.
VACUUM_A = 6.0
#: Least vacuum (Angstrom) along a direction that is not periodic: cutoffs are 5 to 8, the neighbour list adds 1, and
#: atoms that move outward need the rest.
BOX_VACUUM_A = 15.0


#: Atoms at heights this near (Angstrom) are at one height.
_ALIKE_A = 0.1


class Direction(StrEnum):
    """What a structure is along one cell vector."""

    BULK = "bulk"
    """It repeats, and its images touch."""
    VACUUM = "vacuum"
    """It repeats on paper, with a layer of vacuum between the images."""
    OPEN = "open"
    """It does not repeat."""


class Shape(StrEnum):
    """What a structure is, by the number of directions in which it goes on."""

    CLUSTER = "cluster"
    WIRE = "wire"
    SLAB = "slab"
    BULK = "bulk"


def gathered(atoms: Atoms, gap_A: float = VACUUM_A) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """
    Wrap atoms such that no layer of vacuum lies between two of them.

    Parameters
    ----------
    atoms
        Any structure.
    gap_A
        Thinnest layer without atoms, parallel to two cell vectors, that counts as vacuum, in Angstrom.

    Returns
    -------
    tuple
        Positions in Angstrom, (n, 3), and along which cell vectors the structure goes on, (3,).
    """
    cell = atoms.cell.complete().array
    positions, goes_on = atoms.positions.copy(), np.array(atoms.pbc, dtype=bool)
    heights = heights_of(cell)
    for axis in np.flatnonzero(atoms.pbc):
        if not len(atoms):
            continue
        whole = np.linalg.solve(cell.T, positions.T)[axis]
        scaled = whole % 1.0
        ordered = np.sort(scaled)
        gaps = np.diff(np.append(ordered, ordered[0] + 1.0))
        widest = int(np.argmax(gaps))
        if gaps[widest] * heights[axis] < gap_A:
            continue
        first = ordered[(widest + 1) % len(ordered)]
        positions += np.outer(((scaled - first + 1e-12) % 1.0) + first - whole, cell[axis])
        goes_on[axis] = False
    return positions, goes_on


def heights_of(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances of opposite faces of a cell in Angstrom, (3,)."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(cell), axis=0))


def goes_on_along(atoms: Atoms, gap_A: float = VACUUM_A) -> NDArray[np.bool_]:
    """Tell along which cell vectors a structure is periodic without a layer of vacuum, (3,)."""
    return gathered(atoms, gap_A)[1]


def centre_of(atoms: Atoms) -> NDArray[np.float64]:
    """Return the centre of the atoms as fractions of the cell vectors, (3,); atoms across a face count as one piece."""
    middle = gathered(atoms)[0].mean(axis=0)
    return np.asarray(np.linalg.solve(atoms.cell.complete().array.T, middle) % 1.0)


def directions(atoms: Atoms, gap_A: float = VACUUM_A) -> tuple[Direction, ...]:
    """Return what a structure is along each of its three cell vectors."""
    return tuple(
        Direction.OPEN if not periodic else Direction.BULK if on else Direction.VACUUM
        for periodic, on in zip(atoms.pbc, goes_on_along(atoms, gap_A), strict=True)
    )


def shape_of(atoms: Atoms, gap_A: float = VACUUM_A) -> Shape:
    """Tell a bulk structure, a slab, a wire and a cluster (or molecule) apart."""
    return list(Shape)[int(goes_on_along(atoms, gap_A).sum())]


def boxed(atoms: Atoms, vacuum_A: float = BOX_VACUUM_A) -> Atoms:
    """
    Return a structure in a cell that is periodic in all directions, as LAMMPS and ACE want it.

    Parameters
    ----------
    atoms
        Any periodicity, with or without a cell. What is periodic in all directions is returned as it is.
    vacuum_A
        Along each direction that is not periodic the cell is made so high that at least so much vacuum, in Angstrom,
        lies between two images. A cell that is higher keeps its height.

    Returns
    -------
    ase.Atoms
        Energy and forces of an attached calculator are kept, its stress is not: it is that of another cell.

    Raises
    ------
    InvalidInputError
        If a direction is periodic and has no cell vector.
    """
    check_cell(atoms)
    if atoms.pbc.all() or len(atoms) == 0:
        return atoms
    copy, results = atoms.copy(), {} if atoms.calc is None else dict(atoms.calc.results)
    cell = atoms.cell.complete().array
    for axis in np.flatnonzero(~atoms.pbc):
        others = cell[axis - 2], cell[axis - 1]
        normal = np.cross(*others) / np.linalg.norm(np.cross(*others))
        along = copy.positions @ normal
        thickness = float(np.ptp(along))
        if abs(cell[axis] @ normal) < thickness + vacuum_A:
            cell[axis] = np.sign(cell[axis] @ normal) * normal * (thickness + vacuum_A)
            # in the middle, so that no atom is torn off by wrapping
            copy.positions += normal * (0.5 * (thickness + vacuum_A) * np.sign(cell[axis] @ normal) - along.mean())
    copy.set_cell(cell)
    copy.pbc = True
    if results:
        kept = {name: value for name, value in results.items() if name != "stress"}
        copy.calc = SinglePointCalculator(copy, **kept)
    return copy


def boxed_if_mixed(atoms: Atoms) -> Atoms:
    """Box what is periodic in some directions alone: pyace knows cells that are periodic in all or in none."""
    return boxed(atoms) if atoms.pbc.any() and not atoms.pbc.all() else atoms


def check_cell(atoms: Atoms) -> None:
    """Refuse a structure that is periodic along a cell vector it does not have."""
    lengths = atoms.cell.lengths()
    missing = [axis for axis in range(3) if atoms.pbc[axis] and lengths[axis] == 0]
    if missing or (atoms.pbc.any() and atoms.cell.complete().volume < 1e-6):
        raise InvalidInputError(
            f"the structure {atoms.get_chemical_formula()} has pbc = {list(map(bool, atoms.pbc))} and cell lengths "
            f"{lengths.tolist()} A: it is periodic along a cell vector that is missing or lies in the plane of the "
            "others; give that vector, or set pbc to False there (vacuum is then added)"
        )


def lone_atoms(atoms: Atoms, distance_A: float) -> NDArray[np.intp]:
    """Return the indices of atoms that have no other atom within a distance in Angstrom."""
    return np.setdiff1d(np.arange(len(atoms)), neighbours("ij", atoms, distance_A)[0])


def pieces(atoms: Atoms, distance_A: float) -> NDArray[np.intp]:
    """
    Return which piece each atom belongs to: 0 for the largest, whose atoms are the most, and so on.

    Parameters
    ----------
    atoms
        Any structure; images of one atom are one.
    distance_A
        Atoms that are closer than this (Angstrom) belong together.

    Returns
    -------
    numpy.ndarray
        Numbers of the pieces, (n,).
    """
    i, j = neighbours("ij", atoms, distance_A)
    bonds = coo_array((np.ones(len(i)), (i, j)), shape=(len(atoms), len(atoms)))
    _, found = connected_components(bonds, directed=False)
    by_size = np.argsort(-np.bincount(found), kind="stable")
    return np.argsort(by_size, kind="stable")[found]


def stress_without_vacuum(stress: NDArray[np.float64], atoms: Atoms) -> NDArray[np.float64]:
    """
    Return the components of a stress along the directions in which a structure goes on.

    Those across vacuum are no property of the material: they are zero but for errors, or depend on the vacuum.

    Parameters
    ----------
    stress
        In Voigt order xx yy zz yz xz xy, (6,).
    atoms
        The structure.

    Returns
    -------
    numpy.ndarray
        Bulk: all six. Slab: the two normal components and the shear in its plane. Wire: the one along it. Cluster:
        none. In the unit of ``stress``; the volume it refers to includes the vacuum.
    """
    return np.asarray(stress_components(atoms) @ np.asarray(stress, dtype=float))


def stress_components(atoms: Atoms) -> NDArray[np.float64]:
    """
    Return what a stress is multiplied by to keep its components along the directions in which a structure goes on.

    Parameters
    ----------
    atoms
        The structure.

    Returns
    -------
    numpy.ndarray
        From Voigt order xx yy zz yz xz xy to the components of :func:`stress_without_vacuum`; (6, 6) for bulk, (3, 6)
        for a slab, (1, 6) for a wire, (0, 6) for a cluster.
    """
    along = goes_on_along(atoms)
    if along.all():
        return np.eye(6)
    if not along.any():
        return np.empty((0, 6))
    axes, _ = np.linalg.qr(atoms.cell.array[along].T)
    inside = [axes.T @ voigt_6_to_full_3x3_stress(unit) @ axes for unit in np.eye(6)]
    pairs = np.triu_indices(int(along.sum()), 1)
    return np.array([[*np.diag(one), *one[pairs]] for one in inside]).T


def sides_differ(atoms: Atoms) -> bool:
    """
    Return whether a structure is a slab whose two sides are not alike, so that it may have a dipole across.

    Parameters
    ----------
    atoms
        Any structure. Compared are the heights of the atoms, element by element, to 0.1 A.
    """
    if shape_of(atoms) is not Shape.SLAB:
        return False
    boxes = boxed(atoms)
    axis = int(np.flatnonzero(~goes_on_along(boxes))[0])
    height = float(heights_of(boxes.cell.array)[axis])
    away = boxes.cell.scaled_positions(boxes.positions)[:, axis] - centre_of(boxes)[axis]
    away = (away - np.round(away)) * height
    for number in np.unique(atoms.numbers):
        own = np.sort(away[atoms.numbers == number])
        if np.abs(own + own[::-1] - (away.max() + away.min())).max() > _ALIKE_A:
            return True
    return False
