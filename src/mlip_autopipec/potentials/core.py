"""The ZBL core below the shortest distances of a training set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.structures.distances import minimum_distances, neighbours

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from pyace import BBasisConfiguration

    from mlip_autopipec.potentials.potential import ACEPotential


#: How far below the shortest distance of the training set the core begins, by default (Angstrom). What is a little
#: hotter than the training set has distances that are 0.2 A shorter; 0.1 A made walls of several eV/A there.
CORE_MARGIN = 0.3


def set_core(
    configuration: BBasisConfiguration, labels: Sequence[Atoms], elements: Sequence[str], margin: float
) -> None:
    """
    Put a ZBL core below the shortest distance of each pair of elements in ``labels``.

    Parameters
    ----------
    configuration
        The potential, changed in place.
    labels
        The training set.
    elements
        Elements of the potential, in any order.
    margin
        How far below that distance (Angstrom) the core begins. Right at it, the next slightly
        shorter pair would feel tens of eV/A that gamma does not see; in between the
        basis extrapolates, which gamma does see.
    """
    put_core(configuration, core_radii(labels, sorted(elements), margin))


def put_core(configuration: BBasisConfiguration, radii: Mapping[tuple[int, int], float]) -> None:
    """Put a ZBL core below the given distances (Angstrom), by species index, as of :func:`core_radii`."""
    from pyace.generalfit import setup_zbl_inner_core_repulsion

    setup_zbl_inner_core_repulsion(configuration, dict(radii))


def core_radii(labels: Sequence[Atoms], elements: Sequence[str], margin: float) -> dict[tuple[int, int], float]:
    """Where the core of each pair begins (Angstrom), by species index; pairs never seen take the shortest of all."""
    index = {e: i for i, e in enumerate(elements)}
    shortest: dict[tuple[int, int], float] = {}
    for atoms in labels:
        for (a, b), distance in minimum_distances(atoms).items():
            key = (min(index[a], index[b]), max(index[a], index[b]))
            shortest[key] = min(distance, shortest.get(key, np.inf))
    if not shortest:
        raise TrainingError("no two atoms within 6 A of each other in the training set; nothing to fit")
    closest, nearest = min(shortest.items(), key=lambda item: item[1])
    pair = "-".join(elements[k] for k in closest)
    if not -nearest < margin < nearest:
        raise InvalidInputError(
            f"core_margin is {margin} A, and {pair} are {nearest:.3f} A apart in the training set: the core would "
            "begin at no positive distance; give a margin below that distance"
        )
    fallback = min(shortest.values())
    n = len(elements)
    full = {(i, j): shortest.get((i, j), fallback) - margin for i in range(n) for j in range(i, n)}
    return full | {(j, i): d for (i, j), d in full.items()}


def smaller_radii(radii: Mapping[tuple[int, int], float], other: ACEPotential) -> dict[tuple[int, int], float]:
    """Return where the core of each pair begins (Angstrom), by species index, by the smaller of two values."""
    names = other.elements
    of_other = other.core_radii
    found = {}
    for (i, j), radius in radii.items():
        found[i, j] = min(radius, of_other.get((names[min(i, j)], names[max(i, j)]), 0.0) or radius)
    return found


def deepest_in_core(atoms: Atoms, radii: Mapping[tuple[str, str], float]) -> int | None:
    """
    Find the pair that is deepest inside the core, relative to where that begins.

    Parameters
    ----------
    radii
        Where the core of each pair of elements begins (Angstrom), by alphabetically sorted symbols.

    Returns
    -------
    int or None
        Index of one atom of that pair; None if no pair is inside.
    """
    symbols = atoms.get_chemical_symbols()
    i, j, d = neighbours("ijd", atoms, max(radii.values(), default=0.0) + 1e-6)
    begins = [
        radii.get((min(pair), max(pair)), 0.0) for pair in zip(*([symbols[k] for k in x] for x in (i, j)), strict=True)
    ]
    depths = d / np.maximum(begins, 1e-6)
    return int(i[depths.argmin()]) if len(depths) and depths.min() < 1 else None
