"""Interatomic distances: what is too close ever to be shown to an oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from ase.neighborlist import neighbor_list

if TYPE_CHECKING:
    from ase import Atoms

#: Shortest allowed distance in units of the sum of covalent radii.
MINIMUM_DISTANCE_RATIO = 0.65


def minimum_distances(atoms: Atoms, cutoff: float = 6.0) -> dict[tuple[str, str], float]:
    """
    Shortest distance of every pair of elements within ``cutoff`` (Angstrom).

    Returns
    -------
    dict
        From an alphabetically sorted pair of symbols to a distance in Angstrom; pairs that
        are never closer than ``cutoff`` are left out.
    """
    i, j, d = neighbor_list("ijd", atoms, cutoff)
    symbols = np.array(atoms.get_chemical_symbols())
    shortest: dict[tuple[str, str], float] = {}
    pairs = np.sort(np.stack([symbols[i], symbols[j]], axis=1), axis=1) if len(i) else np.empty((0, 2), dtype=str)
    for pair in np.unique(pairs, axis=0):
        mask = (pairs == pair).all(axis=1)
        shortest[(str(pair[0]), str(pair[1]))] = float(d[mask].min())
    return shortest


def shortest_contact(atoms: Atoms, ratio: float = MINIMUM_DISTANCE_RATIO) -> tuple[str, str, float, float] | None:
    """
    Find the worst contact below ``ratio`` times the sum of covalent radii.

    Returns
    -------
    tuple or None
        (element, element, distance, allowed distance) in Angstrom, or None if all is well.
    """
    worst = None
    longest = ratio * 2 * max(covalent_radii[atoms.numbers], default=0.0)
    for (a, b), distance in minimum_distances(atoms, cutoff=longest + 0.1).items():
        allowed = ratio * (covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]])
        if distance < allowed and (worst is None or distance / allowed < worst[2] / worst[3]):
            worst = (a, b, distance, float(allowed))
    return worst
