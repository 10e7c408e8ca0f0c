"""What surrounds one atom: its neighbours to any distance, nearby vacuum, and translations that repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from scipy.spatial import cKDTree

from mlip_autopipec.structures.distort import bare_copy
from mlip_autopipec.structures.periodicity import gathered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: An atom is where a translation puts it if it is within this times the distance of neighbours.
_MATCH = 0.3
#: Part of the atoms that a translation has to map onto others; a liquid reaches about 0.3.
_SCORE = 0.6
#: Translations almost as good as the best one are looked at alone as well: where two grains meet,
#: those of one grain score lower than those of the boundary.
_NEAR_BEST = 0.9
#: Translations are looked for from so many atoms, and judged on so many, at least on the fewest.
_SEEDS, _JUDGES, _FEWEST = 4, 60, 5
#: A difference of two displaced atoms, not yet shifted to the mean, matches fewer.
_FIRST_LOOK = 0.6
#: So many vectors for each basis vector are enough to fit it.
_FITTED = 40
#: Basis vectors are independent if the volume they span exceeds this times that of a box of their lengths.
_INDEPENDENT = 0.2


@dataclass(frozen=True)
class Surroundings:
    """
    All atoms within ``radius`` of a centre, sorted by distance, the centre first.

    Parameters
    ----------
    indices
        Index of each in the structure, (n,); periodic images come more than once.
    vectors
        Positions relative to the centre in Angstrom, (n, 3).
    numbers
        Atomic numbers, (n,).
    radius
        In Angstrom.
    """

    indices: NDArray[np.int_]
    vectors: Floats
    numbers: NDArray[np.int_]
    radius: float

    @property
    def distances(self) -> Floats:
        """Distance of each from the centre in Angstrom."""
        return np.asarray(np.linalg.norm(self.vectors, axis=1))

    def within(self, radius: float) -> Surroundings:
        """Return the part within a smaller radius (Angstrom)."""
        n = int(np.searchsorted(self.distances, radius, side="right"))
        return Surroundings(self.indices[:n], self.vectors[:n], self.numbers[:n], radius)

    def cluster(self) -> Atoms:
        """Return them as a cluster without a cell."""
        return Atoms(numbers=self.numbers, positions=self.vectors)


def surroundings(atoms: Atoms, centre: int, radius: float) -> Surroundings:
    """Find all atoms, periodic images included, within ``radius`` Angstrom of atom ``centre``."""
    cell = atoms.cell.complete().array
    shifts = np.linalg.solve(cell.T, (atoms.positions - atoms.positions[centre]).T).T
    # whole cells only, so that a distance within the cell keeps its last bit
    wrap = np.where(atoms.pbc, np.round(shifts), 0.0)
    vectors = (atoms.positions - atoms.positions[centre]) - wrap @ cell
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    reach = np.where(atoms.pbc, np.ceil(radius / heights + 0.5), 0).astype(int)
    ranges = [range(-n, n + 1) for n in reach]
    indices, found = [], []
    for image in product(*ranges):
        moved = vectors + np.array(image) @ cell
        near = np.flatnonzero(np.einsum("ij,ij->i", moved, moved) <= radius**2)
        indices.append(near)
        found.append(moved[near])
    index, vector = np.concatenate(indices), np.concatenate(found)
    order = np.argsort(np.einsum("ij,ij->i", vector, vector), kind="stable")
    return Surroundings(index[order], vector[order], atoms.numbers[index[order]], radius)


def with_open_vacuum(atoms: Atoms, gap: float) -> Atoms:
    """
    Return a bare copy that is periodic only along directions without vacuum.

    A layer without atoms at least ``gap`` Angstrom thick, parallel to two cell vectors, makes
    the third direction open; atoms are wrapped such that this layer is outermost.
    """
    copy = bare_copy(atoms)
    copy.cell = atoms.cell.complete()
    copy.positions, copy.pbc = gathered(atoms, gap)
    return copy


def neighbour_distance(around: Surroundings) -> float:
    """Median distance to the nearest neighbour, in Angstrom; infinite for a lone atom."""
    if len(around.vectors) < 2:
        return float("inf")
    nearest = cKDTree(around.vectors).query(around.vectors, k=2)[0][:, 1]
    inner = around.distances < 0.8 * around.radius
    return float(np.median(nearest[inner] if inner.any() else nearest))


def lattices(around: Surroundings, span: Floats, rng: np.random.Generator) -> list[Floats]:
    """
    Find the translations that map the surroundings onto themselves, thermal displacements apart.

    Difference vectors of atoms are candidates; one that takes most atoms onto atoms is a translation. Equal
    elements are required first; if no lattice results, as in a disordered alloy, the lattice of the
    sites is taken.

    Parameters
    ----------
    around
        Twice as wide, or more, as the translations that are to be found.
    span
        Orthonormal basis of the space in which translations lie, (p, 3).

    Returns
    -------
    list of numpy.ndarray
        Bases of lattices of rank 1 to p in Angstrom, (rank, 3) each, short vectors; the most
        repetitive first. Empty for a liquid.
    """
    found: list[Floats] = []
    spacing = neighbour_distance(around)
    if not len(span) or not np.isfinite(spacing):
        return found
    for same_element, part in product((True, False), (0.65, 1.0)):  # short ones first: they are found faster
        vectors, scores = _translations(around, span, spacing, part * around.radius, same_element, rng)
        if len(scores):
            best = float(np.sort(scores)[-min(4, len(scores)) :].mean())
            for least in (max(_SCORE, _NEAR_BEST * best), _SCORE):
                basis = _basis(vectors[scores >= least], len(span))
                basis = _fitted(around, basis, spacing, same_element) @ span.T @ span
                if not any(b.shape == basis.shape and np.allclose(b, basis, atol=0.05) for b in found):
                    found.append(basis)
        if any(len(b) == len(span) for b in found):
            break
    return found


def _translations(
    around: Surroundings, span: Floats, spacing: float, longest: float, same_element: bool, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return translations (n, 3), shortest first, and the part of the atoms that each maps onto others."""
    inner = np.flatnonzero(around.distances < 0.5 * around.radius)
    if len(inner) < 2:
        return np.empty((0, 3)), np.empty(0)
    match = _MATCH * spacing
    seeds = rng.choice(inner, size=min(_SEEDS, len(inner)), replace=False)
    raw = (around.vectors[None] - around.vectors[seeds][:, None]).reshape(-1, 3)
    if same_element:
        raw = raw[(around.numbers[None] == around.numbers[seeds][:, None]).ravel()]
    flat = raw @ span.T @ span
    lengths = np.linalg.norm(flat, axis=1)
    usable = (np.linalg.norm(raw - flat, axis=1) < match) & (lengths > 0.5 * spacing) & (lengths < longest)
    flat = flat[usable & (flat @ rng.normal(size=3) > 0)]  # of T and -T one
    judges = rng.choice(len(around.vectors), size=min(_JUDGES, len(around.vectors)), replace=False)
    tree = cKDTree(around.vectors)
    rough, first = _matched(around, tree, flat, judges, match, same_element)
    promising = np.flatnonzero(first >= _FIRST_LOOK * _SCORE)
    rough = rough[promising[np.argsort(-first[promising], kind="stable")]]
    refined, scores = _matched(
        around, tree, _one_of_each(rough, match) @ span.T @ span, np.arange(len(around.vectors)), match, same_element
    )
    good = np.flatnonzero(scores >= _SCORE)
    good = good[np.argsort(np.linalg.norm(refined[good], axis=1), kind="stable")]
    return refined[good] @ span.T @ span, scores[good]


def _matched(
    around: Surroundings,
    tree: cKDTree,
    translations: Floats,
    judges: NDArray[np.int_],
    match: float,
    same_element: bool,
) -> tuple[Floats, Floats]:
    """Shift translations to the middle of their matches; also the part of those they take onto an atom."""
    start, numbers = around.vectors[judges], around.numbers[judges]
    moved = start[None] + translations[:, None]
    inside = np.linalg.norm(moved, axis=2) < around.radius - match
    distances, partners = tree.query(moved[inside], distance_upper_bound=match)
    hit = np.isfinite(distances)
    hit[hit] = ~same_element | (around.numbers[partners[hit]] == np.broadcast_to(numbers, inside.shape)[inside][hit])
    which = np.nonzero(inside)[0]
    n_inside = inside.sum(axis=1)
    n_hit = np.bincount(which[hit], minlength=len(translations))
    shifts = np.zeros_like(translations)
    np.add.at(shifts, which[hit], around.vectors[partners[hit]] - moved[inside][hit])
    scores = np.where(n_inside >= _FEWEST, n_hit / np.maximum(n_inside, 1), 0.0)
    return translations + shifts / np.maximum(n_hit, 1)[:, None], scores


def _one_of_each(vectors: Floats, tolerance: float) -> Floats:
    """Keep the first of all vectors that agree within ``tolerance``."""
    taken = np.zeros(len(vectors), dtype=bool)
    kept = []
    for i, v in enumerate(vectors):
        if not taken[i]:
            kept.append(i)
            taken |= np.linalg.norm(vectors - v, axis=1) < tolerance
    return vectors[kept]


def _basis(vectors: Floats, rank: int) -> Floats:
    """
    Choose the shortest independent vectors.

    In up to three dimensions the successive minima of a lattice are a basis of it.
    """
    basis: list[Floats] = []
    for v in sorted(vectors, key=np.linalg.norm):
        trial = np.array([*basis, v])
        directions = trial / np.linalg.norm(trial, axis=1)[:, None]
        if np.sqrt(max(np.linalg.det(directions @ directions.T), 0.0)) > _INDEPENDENT:
            basis.append(v)
        if len(basis) == rank:
            break
    return np.array(basis).reshape(-1, 3)


def _fitted(around: Surroundings, basis: Floats, spacing: float, same_element: bool) -> Floats:
    """Fit a basis to all translations that it generates within the surroundings; long ones say most."""
    tree, everyone = cKDTree(around.vectors), np.arange(len(around.vectors))
    for longest in (0.5 * around.radius, 0.9 * around.radius):
        counts = combinations(basis, longest)
        counts = counts[: max(len(basis) * _FITTED, 1)]
        refined, scores = _matched(around, tree, counts @ basis, everyone, _MATCH * spacing, same_element)
        weight = np.sqrt(scores * (scores >= 0.5 * _SCORE))[:, None]
        if len(counts) and np.linalg.matrix_rank(counts * weight) == len(basis):
            basis = np.asarray(np.linalg.lstsq(counts * weight, refined * weight, rcond=None)[0])
    return basis


def combinations(basis: Floats, longest: float) -> NDArray[np.int_]:
    """Return the coefficients of all lattice vectors up to a length, (n, rank), shortest first, of v and -v one."""
    reach = np.ceil(longest * np.linalg.norm(np.linalg.pinv(basis), axis=0)).astype(int)
    counts = np.indices(2 * reach + 1).reshape(len(reach), -1).T - reach
    counts = counts[len(counts) // 2 + 1 :]  # in this order v and -v are symmetric about the zero in the middle
    lengths = np.linalg.norm(counts @ basis, axis=1)
    counts, lengths = counts[lengths <= longest], lengths[lengths <= longest]
    return np.asarray(counts[np.argsort(lengths, kind="stable")])
