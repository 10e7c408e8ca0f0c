"""Dimers of every pair of elements: data of a first potential at short distances."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.provenance import Origin, Provenance, mark

if TYPE_CHECKING:
    from collections.abc import Iterable


#: ``info["origin"]`` of a dimer.
DIMER = "dimer"


def is_dimer(atoms: Atoms) -> bool:
    """Return whether a structure was made here: a label of little weight, far from the material."""
    return Provenance.of(atoms).origin == Origin.DIMER


@dataclass
class DimerGenerator(MSONable):
    """
    Makes dimers of every pair of elements, in boxes of one size.

    Parameters
    ----------
    n_distances
        Dimers of each pair. Their inverse distances are evenly spaced: most are short.
    shortest_ratio
        Shortest distance in units of the sum of the covalent radii.
    longest
        Longest distance in Angstrom: the cutoff of the potential, or less.
    vacuum
        Distance in Angstrom between an atom and the nearest periodic image of the dimer, at least
        the cutoff of the potential, better 10 for an electronic structure.
    """

    n_distances: int = 8
    shortest_ratio: float = 0.7
    longest: float = 5.0
    vacuum: float = 10.0

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if self.n_distances < 2:
            raise InvalidInputError.of("DimerGenerator.n_distances", f"is {self.n_distances}; it has to be at least 2")
        if not 0.4 <= self.shortest_ratio < 1.5:
            raise InvalidInputError.of("DimerGenerator.shortest_ratio", f"is {self.shortest_ratio}; give 0.4 to 1.5")
        if not self.vacuum > 0:
            raise InvalidInputError.of("DimerGenerator.vacuum", f"is {self.vacuum} A; it has to be positive")

    def generate(self, elements: Iterable[str]) -> list[Atoms]:
        """
        Make the dimers; ``info["origin"]`` is ``dimer``, ``info["split"]`` is ``train``.

        Parameters
        ----------
        elements
            Symbols, in any order.

        Raises
        ------
        InvalidInputError
            If the longest distance is not longer than the shortest of a pair.
        """
        made = []
        side = self.longest + self.vacuum
        for a, b in combinations_with_replacement(sorted(set(elements)), 2):
            contact = float(covalent_radii[atomic_numbers[a]] + covalent_radii[atomic_numbers[b]])
            shortest = self.shortest_ratio * contact
            if not shortest < self.longest:
                raise InvalidInputError.of(
                    "DimerGenerator.longest", f"is {self.longest} A, but {a}-{b} begin at {shortest:.2f} A; give more"
                )
            for distance in 1 / np.linspace(1 / shortest, 1 / self.longest, self.n_distances):
                # without the symmetry of a cube, as isolated atoms; the same box, and basis, for all
                atoms = Atoms([a, b], [[0, 0, 0], [0, 0, distance]], cell=(side - 1, side - 0.5, side), pbc=True)
                atoms.center()
                mark(atoms, origin=Origin.DIMER)
                made.append(atoms)
        return made
