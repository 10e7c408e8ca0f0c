"""Geometries that a user may not mean: torn by wrapping, gaps too thin for vacuum, lengths in another unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase import units
from ase.data import covalent_radii

from mlip_autopipec.structures.distances import neighbours
from mlip_autopipec.structures.periodicity import VACUUM_A, heights_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: A gap (A) from here to :data:`~.periodicity.VACUUM_A` is wider than those of layered crystals, and no vacuum.
_THIN_A = 3.9
#: Layers on both sides of a cell face that are nearer than this (A) belong to one slab.
_JOINED_A = 4.0
#: Nearest neighbours of a solid are 0.9 to 1.3 sums of covalent radii apart, in bohr 1.7 to 2.5.
_BOHR = (1.6, 2.6)
#: Bonds, in sums of covalent radii.
_BOND = (0.75, 1.25)
#: Elements that do not bond, whose distances are no sign of a unit.
_NOBLE = (2, 10, 18, 36, 54, 86)


def rejoined(atoms: Atoms) -> tuple[Atoms, list[str]]:
    """
    Put a slab, wire or molecule together that wrapping has cut in two along a direction that is not periodic.

    Parameters
    ----------
    atoms
        Any structure. One that is not cut is returned as it is.

    Returns
    -------
    tuple
        The structure, and what there is to say.
    """
    remarks = []
    if atoms.cell.rank < 3 or atoms.pbc.all() or len(atoms) < 2:
        return atoms, []
    for axis in np.flatnonzero(~atoms.pbc):
        height = float(heights_of(atoms.cell.array)[axis])
        scaled = atoms.cell.scaled_positions(atoms.positions)[:, axis]
        if np.ptp(scaled) >= 1.0:
            continue
        ordered = np.sort(scaled)
        gaps = np.diff(ordered) * height
        across = (ordered[0] + 1.0 - ordered[-1]) * height
        if gaps.max() < VACUUM_A or not 1e-3 < across < _JOINED_A:
            continue
        # the part above the gap goes below the other one
        edge = ordered[int(gaps.argmax())]
        atoms = atoms.copy()
        atoms.positions[scaled > edge] -= atoms.cell.array[axis]
        remarks.append(
            f"it is cut in two along cell vector {axis + 1}, which is not periodic ({gaps.max():.1f} A between the "
            f"parts, {across:.1f} A across the face of the cell): the parts are joined there"
        )
    return atoms, remarks


def doubts(atoms: Atoms) -> list[str]:
    """
    Return what of a geometry may not be meant: thin gaps, bonds across faces that are not periodic, lengths in bohr.

    Parameters
    ----------
    atoms
        A structure in Angstrom.
    """
    return [*_thin_gaps(atoms), *bonds_across(atoms), *_in_bohr(atoms)]


def _thin_gaps(atoms: Atoms) -> list[str]:
    if atoms.cell.rank < 3:
        return []
    said = []
    for axis in np.flatnonzero(atoms.pbc):
        gap = _widest_gap(atoms.cell.scaled_positions(atoms.positions)[:, axis])
        thick = gap * float(heights_of(atoms.cell.array)[axis])
        if _THIN_A <= thick < VACUUM_A and len(atoms) > 1 and thick > _nearest_A(atoms):
            said.append(
                f"a gap of {thick:.1f} A along cell vector {axis + 1} is no vacuum (that begins at {VACUUM_A:g} A): "
                "the structure is strained and repeated there like a crystal. For a surface widen the gap, or set pbc "
                "to False"
            )
    return said


def bonds_across(atoms: Atoms) -> list[str]:
    """
    Say where atoms on both sides of a face would bond if it were periodic: often pbc was lost on the way.

    Parameters
    ----------
    atoms
        Any structure; positions and cell in Angstrom.
    """
    if atoms.cell.rank < 3 or atoms.pbc.all():
        return []
    repeated = atoms.copy()
    repeated.pbc = True
    radii = covalent_radii[atoms.numbers]
    i, j, distance, shift = neighbours("ijdS", repeated, _BOND[1] * 2 * float(radii.max()))
    relative = distance / (radii[i] + radii[j])
    said = []
    for axis in np.flatnonzero(~atoms.pbc):
        across = shift[:, axis] != 0
        if across.any() and _BOND[0] <= relative[across].min() <= _BOND[1]:
            said.append(
                f"it is not periodic along cell vector {axis + 1}, and atoms on both sides of that face of its cell "
                f"are {distance[across].min():.2f} A apart: of a crystal set pbc to True there, else give it vacuum, "
                "or no cell"
            )
    return said


def _nearest_A(atoms: Atoms) -> float:
    """Return the shortest distance of two atoms, or VACUUM_A where all are farther."""
    return float(neighbours("id", atoms, VACUUM_A)[1].min(initial=VACUUM_A))


def _widest_gap(scaled: NDArray[np.float64]) -> float:
    ordered = np.sort(scaled % 1.0)
    return float(np.diff(np.append(ordered, ordered[0] + 1.0)).max())


def _in_bohr(atoms: Atoms) -> list[str]:
    nearest, found = _nearest_in_radii(atoms)
    if not len(nearest) or not (nearest.min() > _BOHR[0] and nearest.max() < _BOHR[1]):
        return []
    said = (
        f"nearest atoms are {found:.2f} A apart, {nearest.min():.1f} times the sum of their covalent radii; if lengths "
        f"are in bohr, multiply positions and cell by {units.Bohr:.5f}"
    )
    return [said]


def _nearest_in_radii(atoms: Atoms) -> tuple[NDArray[np.float64], float]:
    """Return how far the nearest atom of each is, in sums of covalent radii, and the shortest distance in A."""
    if len(atoms) < 2 or np.isin(atoms.numbers, _NOBLE).any():
        return np.empty(0), np.inf
    radii = covalent_radii[atoms.numbers]
    i, j, distance = neighbours("ijd", atoms, _BOHR[1] * 2 * float(radii.max()))
    nearest = np.full(len(atoms), np.inf)
    np.minimum.at(nearest, i, distance / (radii[i] + radii[j]))
    return nearest, float(distance.min(initial=np.inf))


def median_in_bohr(frames: Sequence[Atoms]) -> list[str]:
    """
    Say that the atoms of several structures, also distorted ones, are mostly as far apart as they are in bohr.

    Parameters
    ----------
    frames
        Structures in Angstrom.
    """
    nearest = np.concatenate([_nearest_in_radii(atoms)[0] for atoms in frames] or [np.empty(0)])
    usual = float(np.median(nearest)) if len(nearest) else 0.0
    if not _BOHR[0] < usual < _BOHR[1]:
        return []
    said = (
        f"nearest atoms are {usual:.1f} times the sum of their covalent radii apart (median of {len(frames)} "
        f"structures); if lengths are in bohr, multiply positions and cell by {units.Bohr:.5f}"
    )
    return [said]
