"""Interatomic distances: what is too close ever to be shown to an oracle."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from matscipy.neighbours import neighbour_list

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

# Distances in units of the sum of the covalent radii. Each stage takes what the one before may hand to it:
#: MD is begun on nothing closer: two atoms are on top of each other.
MD_RATIO = 0.3
#: Nothing closer is labelled. MD itself may come as close, and what it halts on is labelled down to here.
LABEL_RATIO = 0.5
#: What is made to be labelled is no closer: nobody needs labels of structures that MD never visits.
MINIMUM_DISTANCE_RATIO = 0.65


def neighbours(quantities: str, atoms: Atoms, cutoff: float) -> tuple[NDArray[Any], ...]:
    """
    Return matscipy's neighbour list: every pair within ``cutoff`` (Angstrom), from both ends.

    Parameters
    ----------
    quantities
        What is returned of each pair, e.g. ``"ijd"``: both indices and the distance.
    """
    if atoms.cell.rank < 3:  # a molecule without a cell, which matscipy cannot bin
        atoms = atoms.copy()
        atoms.cell = atoms.cell.complete()
    return tuple(neighbour_list(quantities, atoms, cutoff))


def minimum_distances(atoms: Atoms, cutoff: float = 6.0) -> dict[tuple[str, str], float]:
    """
    Shortest distance of every pair of elements within ``cutoff`` (Angstrom).

    Returns
    -------
    dict
        From an alphabetically sorted pair of symbols to a distance in Angstrom; pairs that
        are never closer than ``cutoff`` are left out.
    """
    i, j, d = neighbours("ijd", atoms, cutoff)
    numbers = atoms.numbers
    shortest: dict[tuple[str, str], float] = {}
    elements = sorted(set(atoms.get_chemical_symbols()))
    for a, b in combinations_with_replacement(elements, 2):
        distances = d[(numbers[i] == atomic_numbers[a]) & (numbers[j] == atomic_numbers[b])]
        if len(distances):
            shortest[(a, b)] = float(distances.min())
    return shortest


def nearest_distances(atoms: Atoms, cutoff: float = 6.0) -> NDArray[np.float64]:
    """
    Return how far the nearest neighbour is, for each atom the mean over all atoms of its element, (n_atoms,).

    The mean, because in a frame of hot MD some pair is always close. Atoms without a neighbour within ``cutoff``
    (Angstrom) count as if there was one at that distance.
    """
    i, d = neighbours("id", atoms, cutoff)
    nearest = np.full(len(atoms), cutoff)
    np.minimum.at(nearest, i, d)
    for number in set(atoms.numbers):
        same = atoms.numbers == number
        nearest[same] = nearest[same].mean()
    return nearest


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


def told_contact(atoms: Atoms, contact: tuple[str, str, float, float]) -> str:
    """
    Tell which atoms a contact is of: ``O (atom 3) and O (atom 7) are 0.12 A apart``.

    Parameters
    ----------
    atoms
        The structure.
    contact
        As :func:`shortest_contact` finds it.
    """
    i, j, d = neighbours("ijd", atoms, contact[3])
    numbers = atoms.numbers
    pair = (numbers[i] == atomic_numbers[contact[0]]) & (numbers[j] == atomic_numbers[contact[1]])
    found = int(np.argmin(np.where(pair, d, np.inf)))
    first, second = int(i[found]), int(j[found])
    other = "its own image" if first == second else f"{contact[1]} (atom {second})"
    return f"{contact[0]} (atom {first}) and {other} are {contact[2]:.2f} A apart"
