"""Supercells for a first dataset, and which pairs of elements a set of structures covers."""

from __future__ import annotations

import contextlib
import io
import math
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
from ase.build import find_optimal_cell_shape, make_supercell
from ase.build.supercells import eval_shape_deviation
from ase.neighborlist import neighbor_list

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.electrons import has_total, repeated
from mlip_autopipec.structures.periodicity import goes_on_along, heights_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: So much width is given up, or so many more atoms are taken, for a cell nearer to a cube.
_TOLERANCE = 1.1


def cell_width(cell: NDArray[np.float64], periodic: Sequence[bool] | NDArray[np.bool_] = (True, True, True)) -> float:
    """
    Shortest distance of opposite faces of a cell along periodic directions, in Angstrom.

    V / |a_j x a_k|; infinite without a periodic direction.
    """
    volume = abs(float(np.linalg.det(cell)))
    heights = [volume / np.linalg.norm(np.cross(cell[i - 2], cell[i - 1])) for i in range(3) if periodic[i]]
    return float(min(heights, default=np.inf))


def nearly_cubic_supercell(atoms: Atoms, max_atoms: int, min_width: float) -> Atoms:
    """
    Repeat a structure to the smallest roughly cubic cell that is wide enough.

    Parameters
    ----------
    atoms
        Three periodic directions without vacuum: any integer combination of the cell vectors, searched by
        ASE's ``find_optimal_cell_shape``. One or two: plain repetition along them. None:
        left as it is.
    max_atoms
        Never exceeded by repetition; larger structures are left as they are.
    min_width
        Wanted distance of opposite faces in Angstrom. If ``max_atoms`` forbids it, the widest
        cell is taken.
    """
    largest = max_atoms // len(atoms)
    goes_on = goes_on_along(atoms)
    if largest < 2 or not goes_on.any() or cell_width(atoms.cell.complete().array, goes_on) >= min_width:
        return atoms.copy()
    if not goes_on.all():
        return repeated(atoms, _repeat_along_periodic(atoms, goes_on, largest, min_width))
    cell = atoms.cell.array
    # no cell is wider than the cube of its volume
    smallest = math.ceil(min_width**3 / atoms.get_volume() * (1 - 1e-9))
    found = {1: np.eye(3, dtype=int)}
    widths = {1: cell_width(cell)}
    for size in range(max(2, min(smallest, math.ceil(largest / 2))), largest + 1):
        matrix = _best_shape(cell, size)
        if matrix is not None:
            found[size], widths[size] = matrix, cell_width(matrix @ cell)
        first = next((n for n, width in widths.items() if width >= min_width), largest)
        if size >= first * _TOLERANCE:
            break
    needed = min(min_width, max(widths.values()) / _TOLERANCE)
    good = [n for n in found if widths[n] >= needed]
    # of equal shapes the smaller
    best = min(good, key=lambda n: (round(float(eval_shape_deviation(found[n] @ cell)), 6), n))
    return repeated(atoms, make_supercell(atoms, found[best]))


def pair_coverage(structures: Iterable[Atoms], cutoff: float) -> dict[tuple[str, str], int]:
    """
    Count the pairs of elements within ``cutoff`` (Angstrom), over all structures.

    gamma does not see a pair that never occurs: its basis functions are zero everywhere.

    Returns
    -------
    dict
        From every alphabetically sorted pair of the elements present to the number of pairs
        of atoms (periodic images count), 0 for those that never meet.
    """
    counts: dict[tuple[str, str], int] = {}
    elements: set[str] = set()
    for atoms in structures:
        symbols = np.array(atoms.get_chemical_symbols())
        elements |= {str(s) for s in symbols}
        i, j = neighbor_list("ij", atoms, cutoff)
        if len(i):
            pairs, numbers = np.unique(
                np.sort(np.stack([symbols[i], symbols[j]], 1), axis=1), axis=0, return_counts=True
            )
            for (a, b), n in zip(pairs, numbers, strict=True):
                counts[str(a), str(b)] = counts.get((str(a), str(b)), 0) + int(n)
    # the neighbour list holds every pair from both ends
    return {pair: counts.get(pair, 0) // 2 for pair in combinations_with_replacement(sorted(elements), 2)}


def with_pair(
    cells: Sequence[Atoms], pair: tuple[str, str], cutoff: float, fraction: float, rng: np.random.Generator
) -> Atoms:
    """
    Change a structure so that two elements are neighbours in it.

    A neighbour of an atom of one element is exchanged with an atom of the other, which keeps
    the composition; if the structure holds none, it is turned into the other. Sites of equal
    element go first (a cation replaces a cation), for they are most alike.

    Parameters
    ----------
    cells
        Structures to choose from; each holds at least one of the pair to be usable, and has no charge or spin
        multiplicity.
    pair
        Two symbols, may be equal.
    cutoff
        Largest distance of neighbours in Angstrom.
    fraction
        Part of the sites of the host element that is substituted besides the one (0 to 1).

    Raises
    ------
    InvalidInputError
        If no structure holds one of the two with a neighbour within ``cutoff``.
    """
    options = []
    for cell in cells:
        if has_total(cell):  # with other elements it is another number of electrons
            continue
        for host, guest in {pair, pair[::-1]}:
            if host in cell.get_chemical_symbols():
                options.append((cell, host, guest))
    options.sort(key=lambda o: (o[1], len(o[0])))  # sets have no order that a seed could fix
    for k in rng.permutation(len(options)):
        cell, host, guest = options[k]
        made = _plant(cell, host, guest, cutoff, fraction, rng)
        if made is not None:
            return made
    raise InvalidInputError(
        f"no structure can be changed so that {pair[0]} and {pair[1]} are within {cutoff} A of each other; give a "
        "structure that holds both, or set cover_pairs to False"
    )


def _plant(
    cell: Atoms, host: str, guest: str, cutoff: float, fraction: float, rng: np.random.Generator
) -> Atoms | None:
    made = cell.copy()
    goes_on = goes_on_along(made)
    if len(made) == 1 and goes_on.any():
        made = made.repeat([2 if p else 1 for p in goes_on])
    symbols = np.array(made.get_chemical_symbols(), dtype=object)
    i, j, d = neighbor_list("ijd", made, cutoff)
    usable = (symbols[i] == host) & (i != j)
    i, j, d = i[usable], j[usable], d[usable]
    if not len(i):
        return None
    alike = symbols[j] == host
    if alike.any():
        i, j, d = i[alike], j[alike], d[alike]
    anchor = int(rng.choice(np.unique(i)))
    site = int(j[i == anchor][np.argmin(d[i == anchor])])
    others = [k for k in np.flatnonzero(symbols == guest) if k not in (anchor, site)]
    if others:
        symbols[int(rng.choice(others))] = symbols[site]
    symbols[site] = guest
    hosts = [k for k in np.flatnonzero(symbols == host) if k != anchor]
    more = min(round(fraction * (len(hosts) + 1)), len(hosts))
    if more > 1 and guest != host:
        symbols[rng.choice(hosts, size=more - 1, replace=False)] = guest
    made.symbols = [str(s) for s in symbols]
    return made


def _best_shape(cell: NDArray[np.float64], size: int) -> NDArray[np.int_] | None:
    # ASE prints and then fails with a TypeError where it finds no matrix of this determinant
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(TypeError):
        return np.asarray(find_optimal_cell_shape(cell, size, "sc", -1, 1, score_key="metric"))
    return None


def _repeat_along_periodic(atoms: Atoms, goes_on: NDArray[np.bool_], largest: int, min_width: float) -> Atoms:
    """Repeat the narrowest direction without vacuum again and again, while that is allowed."""
    heights, counts = heights_of(atoms.cell.complete().array), np.ones(3, dtype=int)
    heights[~goes_on] = np.inf
    while (heights * counts).min() < min_width:
        axis = int(np.argmin(heights * counts))
        if counts.prod() // counts[axis] * (counts[axis] + 1) > largest:
            break
        counts[axis] += 1
    return atoms.repeat(counts.tolist())
