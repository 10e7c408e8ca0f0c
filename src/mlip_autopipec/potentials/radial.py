"""Radial functions and spherical harmonics of pyace, for many pairs of atoms at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyace import ACEBBasisSet


class Radial(NamedTuple):
    """Functions g (n_pairs, nradbase) and R (n_pairs, nradial, lmax + 1), and their derivatives by distance (1/A)."""

    g: NDArray[np.float64]
    dg: NDArray[np.float64]
    f: NDArray[np.float64]
    df: NDArray[np.float64]


class Splines:
    """
    The cubic splines in which pyace tabulates the radial functions.

    pyace gives values one by one; its splines are Hermite splines, so values and derivatives at their knots give the
    same functions anywhere. Knots are read when they are first needed.

    Parameters
    ----------
    basis
        Its radial functions.
    """

    def __init__(self, basis: ACEBBasisSet) -> None:
        functions = basis.radial_functions
        self._functions = functions
        self.lmax, self.nradial, self._nradbase = functions.lmax, functions.nradial, functions.nradbase
        #: Cutoff of each pair of elements, (n_elements, n_elements), A.
        self.cutoff = np.asarray(functions.cut, dtype=float).reshape(functions.nelements, -1)
        #: Distance (A) beyond which there is no core repulsion; None if it reaches any distance.
        self.core_within: float | None = None
        if functions.inner_cutoff_type == "zbl":
            self.core_within = float(np.max(functions.cut_in))
        elif not np.any(functions.prehc):
            self.core_within = 0.0
        self._tables: dict[tuple[int, int], NDArray[np.float64]] = {}

    def of(self, centre: int, neighbours: NDArray[np.intp], distance: NDArray[np.float64]) -> Radial:
        """
        Evaluate all functions.

        Parameters
        ----------
        centre
            Element of the central atoms.
        neighbours
            Element of the neighbour of each pair, (n_pairs,).
        distance
            A, (n_pairs,).
        """
        n_r = self.nradial * (self.lmax + 1)
        values = np.empty((len(distance), self._nradbase + n_r))
        slopes = np.empty_like(values)
        for element in np.unique(neighbours):
            chosen = neighbours == element
            values[chosen], slopes[chosen] = self._evaluate(centre, int(element), distance[chosen])
        shape = (len(distance), self.nradial, self.lmax + 1)
        g, dg = values[:, : self._nradbase], slopes[:, : self._nradbase]
        f, df = values[:, self._nradbase :].reshape(shape), slopes[:, self._nradbase :].reshape(shape)
        return Radial(g, dg, f, df)

    def _evaluate(
        self, centre: int, neighbour: int, distance: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        cutoff = float(self.cutoff[centre, neighbour])
        n_knots = int(cutoff / self._functions.deltaSplineBins)
        step = cutoff / n_knots
        left = np.minimum((distance / step).astype(int), n_knots - 1)
        x = (distance / step - left)[:, None]
        table = self._table(centre, neighbour, np.union1d(left, left + 1), n_knots, step)
        (f0, d0), (f1, d1) = table[:, left], table[:, left + 1]
        c2, c3 = 3 * (f1 - f0) - d1 - 2 * d0, 2 * (f0 - f1) + d1 + d0
        return f0 + x * (d0 + x * (c2 + x * c3)), (d0 + x * (2 * c2 + x * 3 * c3)) / step

    def _table(
        self, centre: int, neighbour: int, knots: NDArray[np.intp], n_knots: int, step: float
    ) -> NDArray[np.float64]:
        """Return values and derivatives by knot, (2, n_knots + 1, n_functions), known at least at ``knots``."""
        n_functions = self._nradbase + self.nradial * (self.lmax + 1)
        key = (centre, neighbour)
        if key not in self._tables:
            self._tables[key] = np.full((2, n_knots + 1, n_functions), np.nan)
        table = self._tables[key]
        missing = knots[np.isnan(table[0, knots, 0])]
        if len(missing):
            functions = self._functions
            functions.evaluate_range(list(missing * step), self._nradbase, self.nradial, centre, neighbour)
            n = len(missing)
            for part, (unit, names) in enumerate(((1.0, ("gr_vec", "fr_vec")), (step, ("dgr_vec", "dfr_vec")))):
                # a basis of pairs alone has no others, and pyace refuses to hand out none
                some = names if self.nradial else names[:1]
                table[part, missing] = unit * np.hstack([_array(getattr(functions, name), n) for name in some])
        return table


def _array(values: Any, n: int) -> NDArray[np.float64]:
    return np.asarray(values, dtype=float).reshape(n, -1)


def spherical_harmonics(unit: NDArray[np.float64], lmax: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """
    Evaluate the complex spherical harmonics of m >= 0 and their gradients on the unit sphere.

    Parameters
    ----------
    unit
        Unit vectors, (n, 3).
    lmax
        Largest l.

    Returns
    -------
    tuple
        Values, (n_lm, n), and gradients, (3, n_lm, n), times the distance; ordered by l, then m.
    """
    x, y, z = unit.T
    index = {(l, m): l * (l + 1) // 2 + m for l in range(lmax + 1) for m in range(l + 1)}  # noqa: E741
    # associated Legendre functions divided by sin^m, and their derivatives by z
    p, dp = np.zeros((len(index), len(z))), np.zeros((len(index), len(z)))
    p[0] = 1.0  # pyace has no factor 1/sqrt(4 pi)
    for l in range(1, lmax + 1):  # noqa: E741
        for m in range(l - 1):
            a = np.sqrt((4 * l**2 - 1) / (l**2 - m**2))
            b = -np.sqrt(((l - 1) ** 2 - m**2) / (4 * (l - 1) ** 2 - 1))
            one, two = index[l - 1, m], index[l - 2, m]
            p[index[l, m]] = a * (z * p[one] + b * p[two])
            dp[index[l, m]] = a * (p[one] + z * dp[one] + b * dp[two])
        last = index[l - 1, l - 1]
        p[index[l, l - 1]] = np.sqrt(2 * l + 1) * z * p[last]
        dp[index[l, l - 1]] = np.sqrt(2 * l + 1) * p[last]
        p[index[l, l]] = -np.sqrt(1 + 0.5 / l) * p[last]
    powers = [np.ones(len(z), dtype=complex)]
    for _ in range(lmax):
        powers.append(powers[-1] * (x + 1j * y))
    values = np.empty((len(index), len(z)), dtype=complex)
    gradients = np.empty((3, len(index), len(z)), dtype=complex)
    for (_, m), k in index.items():
        values[k] = powers[m] * p[k]
        dx = m * powers[m - 1] * p[k] if m else np.zeros(len(z), dtype=complex)
        dy, dz = 1j * dx, powers[m] * dp[k]
        radial = x * dx + y * dy + z * dz
        gradients[:, k] = dx - radial * x, dy - radial * y, dz - radial * z
    return values, gradients
