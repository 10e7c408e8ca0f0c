"""Which structures are one, whatever their origin, orientation and order of atoms: by what each atom has around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import KDTree

from mlip_autopipec.structures.distances import neighbours
from mlip_autopipec.structures.electrons import charge_of, multiplicity_of
from mlip_autopipec.structures.periodicity import goes_on_along

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: Neighbours up to here (A) are looked at; in structures with vacuum all distances are, as well.
_CUTOFF_A = 5.0
#: Structures are one if no number of an atom's surroundings, no distance (A) and no size of a cell (A) differs by more.
#: Positions rounded to 5 decimals change them by up to 3e-5 (Si, Ge, Cu), 1 fs of MD by 2.5e-4 and more (Cu and Au at
#: 10 K), steps of a relaxation by more than this down to forces of 2 meV/A. Labels of the published Si and Ge that are
#: one by this have the same energies and forces, those that are not differ by 4e-3 and more.
_SAME = 1e-4


def same_structures(frames: Sequence[Atoms]) -> list[list[int]]:
    """
    Group structures that are one.

    Parameters
    ----------
    frames
        Structures. Origin, orientation, order of the atoms, a reflection and what is in the last digits make no
        difference; cells of several sizes do, and so do charge and multiplicity. Moments do not: ACE does not know
        them.

    Returns
    -------
    list of list of int
        For each structure that is there several times its indices, in their order.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for i, atoms in enumerate(frames):
        formula = atoms.symbols.formula.format("hill")
        of_kind = (formula, int(atoms.pbc.sum()), charge_of(atoms), multiplicity_of(atoms))
        alike.setdefault(of_kind, []).append(i)
    found: list[list[int]] = []
    for members in alike.values():
        sizes = np.array([_size_A(frames[i]) for i in members])
        order = np.argsort(sizes, kind="stable")
        for run in np.split(order, np.flatnonzero(np.diff(sizes[order]) > _SAME) + 1):
            if len(run) > 1:
                found += _groups(frames, [members[at] for at in sorted(run)])
    return sorted(found)


def _groups(frames: Sequence[Atoms], members: Sequence[int]) -> list[list[int]]:
    """Group structures of one composition and size."""
    means = np.array([_surroundings(frames[i]).mean(axis=0) for i in members])
    near = KDTree(means).query_ball_point(means, _SAME, p=np.inf)
    around = {at: _surroundings(frames[members[at]]) for at, others in enumerate(near) if len(others) > 1}
    groups: dict[int, list[int]] = {}
    for at, numbers in around.items():
        # the first of each group speaks for it: steps of what hardly moves are no chain of copies
        first = at
        for one in sorted(near[at]):
            alike = one in groups and bool(np.abs(numbers - around[one]).max() <= _SAME)
            if alike and _as_far_apart(frames[members[one]], frames[members[at]]):
                first = one
                break
        groups.setdefault(first, []).append(members[at])
    return [group for group in groups.values() if len(group) > 1]


def _size_A(atoms: Atoms) -> float:
    """Return the edge of a cube of the volume of a periodic cell; 0 where there is vacuum without an end."""
    return float(np.cbrt(atoms.get_volume())) if atoms.pbc.all() and atoms.cell.rank == 3 else 0.0


def _as_far_apart(one: Atoms, two: Atoms) -> bool:
    """Return whether all distances agree, where there may be parts that do not see each other."""
    if goes_on_along(one).all():
        return True
    distances = [_distances(atoms) for atoms in (one, two)]
    return len(one) < 2 or bool(np.abs(distances[0] - distances[1]).max() <= _SAME)


def _surroundings(atoms: Atoms) -> NDArray[np.float64]:
    """
    Return numbers of the surroundings of each atom, (n_atoms, n); each column is sorted within each element.

    They are the sizes of sums over the neighbours of each element: of three smooth functions of their distance, of
    these times the direction, and times its products with itself. They change by about 1 if an atom moves by 1 A.
    """
    i, j, d, vectors = neighbours("ijdD", atoms, _CUTOFF_A)
    elements, of = np.unique(atoms.numbers, return_inverse=True)
    x = (d / _CUTOFF_A) ** 2
    radial = ((1 - x) ** 2)[:, None] * np.stack([np.ones_like(x), x, x**2], axis=1)
    unit = vectors / d[:, None]
    products = (unit[:, :, None] * unit[:, None, :]).reshape(-1, 9) - np.eye(3).ravel() / 3
    angular = np.concatenate([np.ones((len(d), 1)), unit, products], axis=1)
    to = (i * len(elements) + of[j], np.arange(len(d)))
    add = csr_matrix((np.ones(len(d)), to), shape=(len(atoms) * len(elements), len(d)))
    terms = (radial[:, :, None] * angular[:, None, :]).reshape(len(d), 39)
    sums = (add @ terms).reshape(len(atoms), 3 * len(elements), 13)
    sizes = [sums[..., 0], np.linalg.norm(sums[..., 1:4], axis=-1), np.linalg.norm(sums[..., 4:], axis=-1)]
    numbers = np.concatenate(sizes, axis=1)
    return np.concatenate([np.sort(numbers[of == element], axis=0) for element in range(len(elements))])


def _distances(atoms: Atoms) -> NDArray[np.float64]:
    """Return all distances in A, to the nearest image, sorted within each pair of elements."""
    ordered = atoms[np.argsort(atoms.numbers, kind="stable")]
    i, j = np.triu_indices(len(ordered), 1)
    apart = ordered.get_all_distances(mic=bool(ordered.pbc.any()))[i, j]
    return np.asarray(apart[np.lexsort((apart, ordered.numbers[j], ordered.numbers[i]))])
