"""How far a root mean square error of few frames can be from that of all MD."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import sqrt

#: A bound may be so many times the error that was measured before more frames are asked for.
LARGEST_FACTOR = 2.0
#: Of an energy error that rests on fewer frames than :func:`frames_wanted` for this confidence the bound is told, too.
FEW_FRAMES = 0.9


@cache
def bound_factor(n: int, confidence: float) -> float:
    """
    Return by what a root mean square error is multiplied to be a bound of the true one.

    For errors that are normal and independent: the square root of n over the quantile of the chi-square distribution.

    Parameters
    ----------
    n
        Independent errors it rests on.
    confidence
        Probability that the true error is below the bound, 0 to 1.
    """
    from scipy.stats import chi2

    return sqrt(n / float(chi2.ppf(1 - confidence, n))) if n > 0 else float("inf")


def frames_wanted(confidence: float) -> int:
    """Return from how many frames on a bound of the energy error is at most :data:`LARGEST_FACTOR` times the error."""
    return next(n for n in range(1, 1000) if bound_factor(n, confidence) <= LARGEST_FACTOR)


@dataclass(frozen=True)
class Bounds:
    """
    By what each root mean square error is multiplied to be a bound.

    Parameters
    ----------
    confidence
        Probability that the true errors are below the bounds.
    energy, forces, stress
        Factors; 1 for what is judged by the error itself.
    """

    confidence: float
    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0

    @classmethod
    def of(cls, n_structures: int, n_atoms: int, confidence: float, n_stresses: int | None = None) -> Bounds:
        """
        Return the factors for labels that are independent of one another.

        Energy and stress count once a structure; of the forces, which go together within an atom and its
        surroundings, the three components of an atom count once.

        Parameters
        ----------
        n_structures, n_atoms
            Labels, and atoms of all of them.
        confidence
            Probability that the true errors are below the bounds.
        n_stresses
            Labels that have a stress, where not all have one. Of none there is nothing to bound.
        """
        return cls(
            confidence,
            bound_factor(n_structures, confidence),
            bound_factor(max(n_atoms, n_structures), confidence),
            bound_factor(n_stresses or n_structures, confidence),
        )

    def factor(self, what: str) -> float:
        """Return the factor of energy, forces or stress."""
        return float(getattr(self, what))
