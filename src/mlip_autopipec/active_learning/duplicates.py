"""When two structures are so alike that one label serves both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from mlip_autopipec.potentials.projections import compute_projections
from mlip_autopipec.structures.distances import neighbours

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

#: Two atoms are the same if no coefficient of their projections in the active set, of which gamma is the largest,
#: differs by more than this (relative to the coefficients where they exceed 1).
SAME_COEFFICIENTS = 0.02
#: What is compared before projections are computed: two sums over pairs, relative.
_SAME_SUM = 1e-2


@dataclass
class _Structure:
    atoms: Atoms
    pair_sum: float
    coefficients: dict[str, NDArray[Any]] | None = None


@dataclass
class Duplicates:
    """
    Finds structures that are nearly the same as known ones.

    Structures are compared by the projections of their atoms: neither the order of the atoms nor
    the orientation, origin or choice of the cell matters, nor does a reflection.

    Parameters
    ----------
    potential
        With a complete active set, in which projections are measured.
    known
        Structures known already.
    tolerance
        See :data:`SAME_COEFFICIENTS`.
    """

    potential: ACEPotential
    known: Sequence[Atoms] = ()
    tolerance: float = SAME_COEFFICIENTS
    _by_formula: dict[str, list[_Structure]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Sort what is known by composition."""
        for atoms in self.known:
            self.add(atoms)

    def add(self, atoms: Atoms, projections: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Make a structure known; its projections are computed when they are needed."""
        entry = _Structure(atoms, _pair_sum(atoms), None if projections is None else self._measured(projections))
        self._by_formula.setdefault(atoms.get_chemical_formula(), []).append(entry)

    def has(self, atoms: Atoms, projections: Mapping[str, NDArray[Any]]) -> bool:
        """Return whether a structure, given with its projections, is nearly the same as a known one."""
        same_formula = self._by_formula.get(atoms.get_chemical_formula(), [])
        if not same_formula:
            return False
        mine, pair_sum = self._measured(projections), _pair_sum(atoms)
        for entry in same_formula:
            if abs(entry.pair_sum - pair_sum) > _SAME_SUM * abs(pair_sum):
                continue
            if entry.coefficients is None:
                (rows,) = compute_projections(self.potential, [entry.atoms])
                entry.coefficients = self._measured(rows)
            if all(self._match(mine[element], theirs) for element, theirs in entry.coefficients.items()):
                return True
        return False

    def _measured(self, projections: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {e: rows @ self.potential.active_set_inverse[e] for e, rows in projections.items() if len(rows)}

    def _match(self, one: NDArray[Any], other: NDArray[Any]) -> bool:
        """Return whether the atoms can be paired so that both of each pair are the same."""
        difference = cdist(one, other, "chebyshev")
        size = np.maximum(np.abs(one).max(axis=1)[:, None], np.abs(other).max(axis=1)[None])
        difference /= np.maximum(size, 1.0)
        return bool(difference[linear_sum_assignment(difference)].max(initial=0.0) <= self.tolerance)


def _pair_sum(atoms: Atoms, cutoff: float = 4.0) -> float:
    """Sum a smooth function of the distance over all pairs: nearly the same for nearly the same structures."""
    i, j, d = neighbours("ijd", atoms, cutoff)
    weights = np.sqrt(atoms.numbers[i] * atoms.numbers[j]) * (1 + np.cos(np.pi * d / cutoff))
    return float(weights.sum())
