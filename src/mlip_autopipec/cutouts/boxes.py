"""Small periodic boxes for a piece of a large structure: commensurate with its lattice, or of free shape."""

from __future__ import annotations

from itertools import combinations as choose
from typing import TYPE_CHECKING

import numpy as np
from ase.geometry import minkowski_reduce
from scipy.spatial.transform import Rotation

from mlip_autopipec.cutouts.surroundings import combinations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Volume of the smallest box in which no two images of a point are closer than 1, by dimension: a point, a
#: line, a hexagonal net, a face-centred cubic lattice.
DENSEST = (1.0, 1.0, np.sqrt(3) / 2, 1 / np.sqrt(2))
#: Shapes of boxes that no lattice dictates, by dimension; shortest translation 1.
_SHAPES = {
    1: (np.eye(1),),
    2: (np.array([[1.0, 0], [0.5, np.sqrt(3) / 2]]), np.eye(2)),
    3: (np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]) / np.sqrt(2), np.eye(3)),
}
#: Boxes are enlarged in these steps, relative to the least width.
_ENLARGED = (1.0, 1.05, 1.1, 1.2, 1.3)
#: Vectors of a box are at most this times as long as it is wide.
_LONGEST = 1.5
#: So many of the shortest lattice vectors are combined to boxes.
_VECTORS = 50
#: So many boxes of equal shape, but oriented differently, are tried.
_ALIKE = 2
#: A staggered stack is wide enough with layers closer than its width by this factor.
_STAGGERED = 0.85


def shortest_translation(box: Floats) -> float:
    """
    Distance (Angstrom) of an atom from its nearest periodic image.

    Parameters
    ----------
    box
        Vectors of the box, (p, 3) with p up to 3.
    """
    return float(np.linalg.norm(_reduced(box), axis=1).min(initial=np.inf))


def covering_radius(box: Floats) -> float:
    """Distance (Angstrom) within which every point of the space of the box has a lattice point; never too small."""
    # each component along an orthogonalised reduced vector can be brought within half of that vector
    return float(np.linalg.norm(_reduced(box)) / 2)


def volume(box: Floats) -> float:
    """Length, area or volume of a box of one, two or three vectors; 1 for none."""
    return float(np.sqrt(max(np.linalg.det(box @ box.T), 0.0))) if len(box) else 1.0


def candidate_boxes(
    lattices: Sequence[Floats], span: Floats, width: float, largest: float, count: int, rng: np.random.Generator
) -> list[list[Floats]]:
    """
    Propose boxes that are wide enough and not too large.

    Parameters
    ----------
    lattices
        Bases of translations (rank, 3) in Angstrom. One of full rank gives boxes whose faces match; one of lower rank
        fixes as many vectors of the box, the others are drawn.
    span
        Orthonormal basis of the space of the box, (p, 3).
    width
        No two images of an atom are closer than this (Angstrom).
    largest
        Largest length, area or volume, in powers of Angstrom.
    count
        Most boxes of each family.

    Returns
    -------
    list of list of numpy.ndarray
        Families of boxes (p, 3), those whose faces match best first: one for each lattice, and one of free shape.
        Each in the order of size.
    """
    if not len(span):
        return [[np.empty((0, 3))]]
    found: list[list[Floats]] = []
    for basis in sorted(lattices, key=len, reverse=True):
        if len(basis) == len(span):
            found.append(_commensurate(basis, width, largest, count, rng))
        else:
            rest = width ** (len(span) - len(basis)) * DENSEST[len(span) - len(basis)]
            parts = _commensurate(basis, width, largest / rest / _STAGGERED, 4, rng)
            found.append(_completed(parts, span, width, largest, count, rng))
    return [*found, _completed([np.empty((0, 3))], span, width, largest, count, rng)]


def _commensurate(basis: Floats, width: float, largest: float, count: int, rng: np.random.Generator) -> list[Floats]:
    """Combine lattice vectors to boxes."""
    rank = len(basis)
    signs = np.array(np.meshgrid(*[(-1, 0, 1)] * rank)).reshape(rank, -1).T
    signs = signs[signs.any(axis=1)]
    vectors = combinations(basis, _LONGEST * max(_ENLARGED) * width) @ basis
    lengths = np.linalg.norm(vectors, axis=1)
    found: list[Floats] = []
    for step in _ENLARGED:
        usable = vectors[lengths >= step * width][:_VECTORS]
        boxes = np.array(list(choose(range(len(usable)), rank)), dtype=int).reshape(-1, rank)
        boxes = boxes[rng.permutation(len(boxes))]
        rows = usable[boxes]
        gram = rows @ rows.transpose(0, 2, 1)
        volumes = np.sqrt(np.maximum(np.linalg.det(gram), 0.0))
        fits = (volumes <= largest) & (volumes >= 0.99 * DENSEST[rank] * (step * width) ** rank)
        rows, volumes, gram = rows[fits], volumes[fits], gram[fits]
        # v.v of all short combinations of the rows; the reduced cell decides below
        spectra = np.sort(np.einsum("ki,nij,kj->nk", signs, gram, signs), axis=1)
        wide = spectra[:, 0] >= (step * width) ** 2
        rows, volumes, spectra = rows[wide], volumes[wide], np.sqrt(spectra[wide])
        seen: dict[tuple[float, ...], int] = {}
        level = 0
        for k in np.lexsort((-spectra[:, 0], volumes.round(1))):
            shape = (round(volumes[k] * 2), *spectra[k, : 2 * rank].round(0))
            if seen.get(shape, 0) >= _ALIKE or shortest_translation(rows[k]) < step * width:
                continue
            seen[shape] = seen.get(shape, 0) + 1
            found.append(_reduced(rows[k]))
            level += 1
            if level >= max(count // len(_ENLARGED), 1):
                break
    unique: list[Floats] = []
    for box in sorted(found, key=volume):
        if not any(_same_lattice(box, b) for b in unique):
            unique.append(box)
    return unique


def _completed(
    parts: Sequence[Floats], span: Floats, width: float, largest: float, count: int, rng: np.random.Generator
) -> list[Floats]:
    """Draw the vectors that a box lacks: any orientation, size and stagger."""
    found: list[Floats] = []
    for attempt in range(8 * count if parts else 0):
        known = parts[attempt % len(parts)]
        missing = len(span) - len(known)
        free = span
        if len(known):
            outside = span - span @ np.linalg.pinv(known) @ known
            free = np.linalg.svd(outside)[2][:missing]
        shape = _SHAPES[missing][attempt % len(_SHAPES[missing])]
        room = largest / volume(known) / volume(shape)
        low, high = (_STAGGERED * width if len(known) else width), max(room, 0.0) ** (1 / missing)
        if high < low:
            continue
        turn = Rotation.random(random_state=rng).as_matrix() if missing == 3 else _turn(missing, rng)
        drawn = rng.uniform(low, high) * shape @ turn @ free
        if len(known):
            drawn = drawn + rng.uniform(-0.5, 0.5, size=(missing, len(known))) @ known
        box = _reduced(np.vstack([known, drawn]))
        if np.linalg.norm(box, axis=1).min() >= width:
            found.append(box)
        if len(found) == count:
            break
    return sorted(found, key=volume)


def _same_lattice(a: Floats, b: Floats) -> bool:
    counts = a @ np.linalg.pinv(b)
    whole = np.round(counts)
    return bool(np.abs(counts - whole).max() < 1e-3 and abs(abs(np.linalg.det(whole)) - 1) < 1e-3)


def _turn(dimension: int, rng: np.random.Generator) -> Floats:
    if dimension == 1:
        return np.eye(1)
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _reduced(box: Floats) -> Floats:
    """Return the shortest vectors that make the same lattice."""
    if len(box) < 2:
        return box
    rows = np.vstack([box, np.linalg.svd(box)[2][len(box) :]])  # completed by unit vectors across
    return np.asarray(minkowski_reduce(rows, [True] * len(box) + [False] * (3 - len(box)))[0][: len(box)])
