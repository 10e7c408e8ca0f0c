"""
Pieces of a structure that is too large to be labelled whole, before there is any potential.

The first dataset of a grain boundary of thousands of atoms is made of small periodic cells cut out of it: around
one of its most common atoms, then around those whose neighbourhoods differ most from what the pieces have. There is no
potential to relax their boundary regions, so atoms that are close there are pushed apart
(:mod:`~mlip_autopipec.cutouts.cutout` does better as soon as there is one).
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.cutouts.boundaries import SEAM_RATIO, Closed, balanced, close, oxidation_states, usual_distances
from mlip_autopipec.cutouts.boxes import DENSEST, candidate_boxes, covering_radius, volume
from mlip_autopipec.cutouts.layout import ways
from mlip_autopipec.cutouts.surroundings import lattices, surroundings, with_open_vacuum
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.distances import MINIMUM_DISTANCE_RATIO, neighbours, shortest_contact
from mlip_autopipec.structures.distort import bare_copy

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.cutouts.layout import Kept

    Floats = NDArray[np.float64]

#: In a boundary region atoms are pushed apart up to this times their usual distance, in so many steps.
_APART, _PUSHES = 0.95, 60
#: Neighbourhoods are compared within this (Angstrom), by distances smeared by a Gaussian of this width.
_COMPARED, _SMEARED = 5.0, 0.3
#: Neighbourhoods that differ by less than this part of their size are alike.
_ALIKE = 0.1
#: The most common atom is sought among its neighbours, their neighbours and so on, so many times.
_FAR = 4
#: Lattices are looked for, and densities counted, within this times half the width; lattices no farther than that (A).
_AROUND, _FARTHEST = 2.4, 13.0
#: Where a piece as wide as wanted has too many atoms, narrower ones are tried.
_WIDTHS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
#: Accepted densities relative to the surroundings, and accepted change of the fraction of an element.
_DENSITIES, _COMPOSITION = (0.8, 1.2), 0.1
#: Boxes drawn of each family, boxes filled, and vacuum (Angstrom) at least.
_BOXES, _FILLED, _VACUUM = 40, 30, 10.0


def cut_pieces(
    atoms: Atoms,
    n_pieces: int,
    max_atoms: int,
    width: float,
    rng: np.random.Generator,
    minimum_distance_ratio: float = MINIMUM_DISTANCE_RATIO,
) -> list[Atoms]:
    """
    Cut small periodic cells out of a large structure.

    Parameters
    ----------
    atoms
        The structure.
    n_pieces
        Most pieces; fewer where the structure has fewer different neighbourhoods.
    max_atoms
        Of a piece.
    width
        Wanted distance (Angstrom) of an atom from its periodic images; less where ``max_atoms`` forbids it.
    rng
        Of the boxes' orientations.
    minimum_distance_ratio
        No pair of a boundary region is closer than this times the sum of the covalent radii.

    Returns
    -------
    list of ase.Atoms
        Without calculators; the most common neighbourhood first.

    Raises
    ------
    InvalidInputError
        If nothing of at most ``max_atoms`` can be cut out.
    """
    opened = with_open_vacuum(atoms, width / 2)
    charges = oxidation_states(atoms)
    prints = neighbourhoods(atoms)
    size = float(np.linalg.norm(prints, axis=1).max()) or 1.0
    centre = _most_common(atoms, prints)
    nearest = np.full(len(atoms), np.inf)
    made: list[Atoms] = []
    for _ in range(n_pieces):
        tried = (
            _piece(atoms, opened, centre, part * width, max_atoms, charges, rng, minimum_distance_ratio)
            for part in _WIDTHS
        )
        piece = next((p for p in tried if p is not None), None)
        if piece is not None:
            made.append(piece)
        elif not made:
            raise InvalidInputError(
                f"no piece of at most {max_atoms} atoms could be cut out around atom {centre} of "
                f"{atoms.get_chemical_formula()}; allow more atoms per label, or start from labels of your own"
            )
        nearest = np.minimum(nearest, np.linalg.norm(prints - prints[centre], axis=1))
        centre = int(np.argmax(nearest))
        if nearest[centre] < _ALIKE * size:
            break
    return made


def neighbourhoods(atoms: Atoms) -> Floats:
    """
    Describe what is around each atom without a potential: smeared distances of its neighbours, by elements.

    Returns
    -------
    numpy.ndarray
        (n_atoms, n_features); close rows, like neighbourhoods. Rows of different elements are far apart.
    """
    i, j, d = neighbours("ijd", atoms, _COMPARED)
    grid = np.arange(1.0, _COMPARED, _SMEARED)
    heights = (
        np.exp(-(((d[:, None] - grid) / _SMEARED) ** 2) / 2) * (0.5 * (1 + np.cos(np.pi * d / _COMPARED)))[:, None]
    )
    elements = np.unique(atoms.numbers)
    own, other = np.searchsorted(elements, atoms.numbers[i]), np.searchsorted(elements, atoms.numbers[j])
    rows = np.zeros((len(atoms), len(elements), len(elements), len(grid)))
    np.add.at(rows, (i, own, other), heights)
    return rows.reshape(len(atoms), -1)


def _most_common(atoms: Atoms, prints: Floats) -> int:
    """Return an atom that is like most others, among neighbours that are so too."""
    i, j = neighbours("ij", atoms, _COMPARED)
    unlike = np.linalg.norm(prints - prints.mean(axis=0), axis=1)
    for _ in range(_FAR):
        unlike = (unlike + np.bincount(i, unlike[j], len(atoms))) / (1 + np.bincount(i, minlength=len(atoms)))
    return int(np.argmin(unlike))


def _piece(
    atoms: Atoms,
    opened: Atoms,
    centre: int,
    width: float,
    max_atoms: int,
    charges: dict[str, float],
    rng: np.random.Generator,
    ratio: float,
) -> Atoms | None:
    """Cut out the surroundings of one atom; None if no box will do."""
    core = width / 2
    reach = _AROUND * core
    near = surroundings(opened, centre, reach)
    allowed = usual_distances(near, ratio)
    total = sum(charges.get(s, 0.0) for s in atoms.get_chemical_symbols())
    for way in ways(opened, centre, core, reach):
        density = min(kept.density for kept in way.kept)
        if DENSEST[len(way.span)] * width ** len(way.span) * density > max_atoms:
            continue
        found = lattices(near.within(min(reach, _FARTHEST)), way.span, rng)
        for boxes in candidate_boxes(found, way.span, width, max_atoms / density, _BOXES, rng):
            good: list[tuple[float, int, int, Closed]] = []
            tasks = list(product(boxes, way.kept))[:_FILLED]
            radii = [float(np.hypot(covering_radius(box) + 1.0, kept.height)) for box, kept in tasks]
            around = surroundings(opened, centre, max(radii, default=0.0))
            for box, kept in tasks:
                closed = close(around, box, way.across, kept.interval, max(_VACUUM, core), core, allowed)
                if closed is None:
                    continue
                closed = balanced(closed, around, charges, (min(total, 0.0), max(total, 0.0)))
                if len(closed.atoms) <= max_atoms and _resembles(closed, box, kept):
                    surplus = abs(len(closed.atoms) / volume(box) / kept.density - 1)
                    good.append((round(surplus, 2), len(closed.atoms), len(good), closed))
            for *_, closed in sorted(good, key=lambda entry: entry[:3]):
                piece = bare_copy(atoms)[around.indices[closed.places]]
                piece.cell, piece.pbc = closed.atoms.cell, True
                piece.positions = _pushed_apart(closed, allowed * (_APART / SEAM_RATIO))
                if shortest_contact(piece, ratio) is None:
                    return piece
    return None


def _resembles(closed: Closed, box: Floats, kept: Kept) -> bool:
    """Whether a piece has the density and the composition of what it was cut out of."""
    low, high = _DENSITIES
    alike = low <= len(closed.atoms) / volume(box) / kept.density <= high
    return alike and kept.change(closed.atoms.numbers)[1] <= _COMPOSITION


def _pushed_apart(closed: Closed, wanted: Floats) -> Floats:
    """Return positions (Angstrom) in which atoms of the boundary region keep the wanted distances, where possible."""
    atoms = closed.atoms.copy()
    mobile = ~closed.core
    for _ in range(_PUSHES):
        i, j, d, vectors = neighbours("ijdD", atoms, float(wanted.max()))
        short = wanted[atoms.numbers[i], atoms.numbers[j]] - d
        near = (short > 0) & mobile[i]
        if not near.any():
            break
        i, j, d, vectors, short = i[near], j[near], d[near], vectors[near], short[near]
        # of a pair both give way, or the one that may
        share = np.where(mobile[j], 0.5, 1.0) * short / np.maximum(d, 1e-6)
        np.add.at(atoms.positions, i, -0.5 * share[:, None] * vectors)
    return np.asarray(atoms.positions)
