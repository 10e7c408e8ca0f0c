"""Coverage: pairs and triplets of elements that are neighbours in a training set.

The basis functions of an unseen pair of elements are zero in the whole training set, so that gamma
does not see them: an active set whose null space is cut
away, as ``pace_activeset`` makes it, reads gamma = 0 for a nickel atom in copper after training on
pure copper and pure nickel. The active sets of :mod:`mlip_autopipec.active_learning.activeset` do see it; the
table names the unseen elements, needs no potential, and also works with other active sets.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.distances import neighbours

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ase import Atoms
    from numpy.typing import NDArray

#: An element; with one neighbour; with two. Symbols, centre first.
Kind = tuple[str, ...]


@dataclass(frozen=True)
class Unseen:
    """
    One atom in surroundings of a kind that the training set does not hold.

    Parameters
    ----------
    atom
        Its index.
    element
        Its element.
    neighbours
        The elements that it has as neighbours and that no atom of its element had: none for an
        unseen element, one for a pair, two for a triplet.
    """

    atom: int
    element: str
    neighbours: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in words."""
        near = f" with {' and '.join(self.neighbours)} within the cutoff" if self.neighbours else ""
        return f"atom {self.atom}: {self.element}{near} is not in the training set"


@dataclass(frozen=True)
class Coverage:
    """
    How many atoms of a set of structures had which surroundings.

    Parameters
    ----------
    cutoff
        Distance in Angstrom below which two atoms are neighbours: the cutoff of the potential.
    elements
        Atoms of each element.
    pairs
        Atoms of the first element that have at least one neighbour of the second.
    triplets
        Atoms of the first element that have neighbours of the second and the third (sorted; at
        least two neighbours where both are the same).
    """

    cutoff: float
    elements: Mapping[str, int] = field(default_factory=dict)
    pairs: Mapping[Kind, int] = field(default_factory=dict)
    triplets: Mapping[Kind, int] = field(default_factory=dict)

    @classmethod
    def of(cls, structures: Iterable[Atoms], cutoff: float) -> Coverage:
        """Count the surroundings in ``structures`` within ``cutoff`` (Angstrom)."""
        if not cutoff > 0:
            raise InvalidInputError(f"cutoff is {cutoff}; give the cutoff of the potential in Angstrom")
        counts: Counter[Kind] = Counter()
        for atoms in structures:
            counts.update({kind: int(mask.sum()) for kind, mask in _kinds(atoms, cutoff).items() if mask.any()})
        return cls._from_counts(cutoff, counts)

    @classmethod
    def _from_counts(cls, cutoff: float, counts: Mapping[Kind, int]) -> Coverage:
        ordered = dict(sorted(counts.items()))
        return cls(
            cutoff,
            {kind[0]: n for kind, n in ordered.items() if len(kind) == 1},
            {kind: n for kind, n in ordered.items() if len(kind) == 2},
            {kind: n for kind, n in ordered.items() if len(kind) == 3},
        )

    def _counts(self) -> Counter[Kind]:
        singles: dict[Kind, int] = {(e,): n for e, n in self.elements.items()}
        return Counter(singles | dict(self.pairs) | dict(self.triplets))

    def merge(self, other: Coverage) -> Coverage:
        """Return the coverage of both sets of structures together."""
        if other.cutoff != self.cutoff:
            raise InvalidInputError(
                f"a coverage within {self.cutoff} A cannot be merged with one within {other.cutoff} A; use one cutoff"
            )
        return self._from_counts(self.cutoff, self._counts() + other._counts())

    def unseen(self, atoms: Atoms) -> list[Unseen]:
        """
        Find the atoms whose surroundings were never seen.

        Parameters
        ----------
        atoms
            Any structure.

        Returns
        -------
        list of Unseen
            Sorted by atom; a pair is not listed where its element is. Empty if all is known.
        """
        kinds = _kinds(atoms, self.cutoff)
        known = self._counts()
        unknown = {kind for kind in kinds if len(kind) < 3 and not known[kind]}
        found = [
            Unseen(int(index), kind[0], kind[1:])
            for kind in unknown
            # a triplet that follows from an unseen pair is not listed again
            if not any(simpler in unknown for simpler in _simpler(kind))
            for index in np.flatnonzero(kinds[kind])
        ]
        return sorted(found, key=lambda u: (u.atom, u.neighbours))

    def as_dict(self) -> dict[str, Any]:
        """Return plain, storable data."""
        return {
            "cutoff_A": self.cutoff,
            "elements": dict(self.elements),
            "pairs": {"-".join(k): n for k, n in self.pairs.items()},
            "triplets": {"-".join(k): n for k, n in self.triplets.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Coverage:
        """Undo :meth:`as_dict`."""
        pairs, triplets = ({tuple(k.split("-")): int(n) for k, n in data[x].items()} for x in ("pairs", "triplets"))
        return cls(float(data["cutoff_A"]), dict(data["elements"]), pairs, triplets)


def _simpler(kind: Kind) -> set[Kind]:
    """Return the kinds that every atom of this kind has as well."""
    return {kind[:1], *((kind[0], neighbour) for neighbour in kind[1:])} - {kind}


def _kinds(atoms: Atoms, cutoff: float) -> dict[Kind, NDArray[np.bool_]]:
    """Return for each kind of surroundings which atoms have it: elements first, then pairs, then triplets."""
    numbers, local = np.unique(atoms.numbers, return_inverse=True)
    i, j = neighbours("ij", atoms, cutoff)
    n = len(numbers)
    # number of neighbours of each atom, by element
    counts = np.bincount(i * n + local[j], minlength=len(atoms) * n).reshape(len(atoms), n)
    names = [chemical_symbols[z] for z in numbers]
    kinds: dict[Kind, NDArray[np.bool_]] = {(a,): local == k for k, a in enumerate(names)}
    for k, a in enumerate(names):
        kinds |= {(a, b): (local == k) & (counts[:, m] > 0) for m, b in enumerate(names)}
    by_name = sorted(range(n), key=names.__getitem__)
    for k, a in enumerate(names):
        for p, q in combinations_with_replacement(by_name, 2):
            both = counts[:, p] > 1 if p == q else (counts[:, p] > 0) & (counts[:, q] > 0)
            kinds[a, names[p], names[q]] = (local == k) & both
    return kinds
