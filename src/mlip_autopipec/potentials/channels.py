"""Basis functions of one central element as matrices: products of the atomic base and their derivatives by it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray
    from pyace import ACEBBasisSet


@dataclass(frozen=True)
class Rank:
    """
    All products of one correlation order.

    Parameters
    ----------
    channels
        Index into the atomic base of all m, (order, n_terms).
    energy
        Sparse, (n_functions, n_terms): from products to the energy.
    """

    channels: NDArray[np.intp]
    energy: Any


@dataclass(frozen=True)
class Shell:
    """
    The channels (element, n, l) of one element and l, and the functions that have them.

    Parameters
    ----------
    element, l
        Of the neighbour.
    n
        Radial indices, (n_channels,), ascending.
    functions
        Columns of each channel.
    weights
        Rows of the weights of all channels: functions by 2 l + 1 components.
    """

    element: int
    l: int  # noqa: E741 the name of the index
    n: NDArray[np.intp]
    functions: tuple[NDArray[np.intp], ...]
    weights: slice


class ElementFunctions:
    """
    The functions of one central element, as matrices.

    Parameters
    ----------
    basis
        That of all elements.
    element
        The central one.
    first
        Column of its first function.
    """

    def __init__(self, basis: ACEBBasisSet, element: int, first: int) -> None:
        lmax, nradial = basis.radial_functions.lmax, basis.radial_functions.nradial
        self.pairs = [(int(f.mus[0]), int(f.ns[0]) - 1) for f in basis.basis_rank1[element]]
        self.first = first
        n_rank1 = len(self.pairs)
        functions = basis.basis[element]
        full = (lmax + 1) ** 2  # of the (l, m), in the atomic base
        has: dict[tuple[int, int, int], dict[int, int]] = {}
        terms: dict[int, list[tuple[int, float, list[tuple[int, int, int, int]]]]] = {}
        for k, f in enumerate(functions):
            ns, ls, mus = list(f.ns), list(f.ls), list(f.mus)
            for n, l, mu in zip(ns, ls, mus, strict=True):  # noqa: E741
                of = has.setdefault((int(mu), int(l), int(n) - 1), {})
                of.setdefault(k, len(of))
            for ms, factor in zip(f.ms_combs, f.gen_cgs, strict=True):
                factors = [(int(mu), n - 1, l, m) for mu, n, l, m in zip(mus, ns, ls, ms, strict=True)]  # noqa: E741
                terms.setdefault(len(ns), []).append((k, float(factor), factors))
        self.shells: list[Shell] = []
        start: dict[tuple[int, int, int], int] = {}
        at = 0
        for (neighbour, l), keys in itertools.groupby(sorted(has), key=lambda key: key[:2]):  # noqa: E741
            ns, columns, begin = [], [], at
            for key in keys:
                start[key] = at
                at += len(has[key]) * (2 * l + 1)
                ns.append(key[2])
                columns.append(first + n_rank1 + np.array(list(has[key]), dtype=np.intp))
            self.shells.append(Shell(neighbour, l, np.array(ns), tuple(columns), slice(begin, at)))
        self.n_functions = n_rank1 + len(functions)
        self._ranks: list[Rank] = []
        entries: list[tuple[float, int, int]] = []
        self._n_products = 0
        for order, of_order in sorted(terms.items()):
            channels = np.empty((order, len(of_order)), dtype=np.intp)
            for i, (k, factor, factors) in enumerate(of_order):
                for t, (mu, n, l, m) in enumerate(factors):  # noqa: E741
                    channels[t, i] = (mu * nradial + n) * full + l * l + l + m
                    row = start[mu, l, n] + has[mu, l, n][k] * (2 * l + 1) + l + m
                    entries.append((factor, row, self._n_products + t * len(of_order) + i))
            energy = [(c, k, i) for i, (k, c, _) in enumerate(of_order)]
            self._ranks.append(Rank(channels, _sparse(energy, (len(functions), len(of_order)))))
            self._n_products += channels.size
        # from products without one factor to the weights of that factor, which is complex
        self._to_weights = _sparse(entries, (at, self._n_products))

    def products(self, base: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """
        Multiply the atomic base to the functions of two and more neighbours, and derive these by the base.

        Parameters
        ----------
        base
            Sums over the neighbours, (n_elements * n_radial * (lmax + 1)^2, n_centres).

        Returns
        -------
        tuple
            Energies of the functions, summed over the centres, and complex weights, (n_weights, n_centres).
        """
        energies = 0.0
        products = np.empty((self._n_products, base.shape[1]), dtype=complex)
        done = 0
        for rank in self._ranks:
            factors = base[rank.channels]
            order = len(factors)
            without = products[done : done + rank.channels.size].reshape(factors.shape)
            done += rank.channels.size
            without[0] = 1.0
            for t in range(1, order):
                np.multiply(without[t - 1], factors[t - 1], out=without[t])
            energies = energies + rank.energy @ (without[-1] * factors[-1]).real.sum(axis=1)
            after = factors[-1]
            for t in range(order - 2, -1, -1):
                without[t] *= after
                if t:
                    after *= factors[t]
        # coefficients are real: a complex number is two columns
        return np.asarray(energies), (self._to_weights @ products.view(float)).view(complex)


def _sparse(entries: Sequence[tuple[float, int, int]], shape: tuple[int, int]) -> Any:
    if not entries:
        return csr_array(shape)
    values, rows, columns = zip(*entries, strict=True)
    return csr_array((values, (rows, columns)), shape=shape)


def real_weights(weights: NDArray[Any]) -> NDArray[np.float64]:
    """
    Return complex weights of m = -l ... l, (n, 2 l + 1, n_centres), as those of the parts that are told by m >= 0.

    The base of -m is that of m, conjugate and times (-1)^m.

    Returns
    -------
    ndarray
        (n, (2 l + 1) * n_centres): real parts of m = 0 ... l, then imaginary parts of m = 1 ... l.
    """
    l = weights.shape[1] // 2  # noqa: E741
    sign = (-1.0) ** np.arange(1, l + 1)[:, None]
    plus, minus = weights[:, l + 1 :], sign * weights[:, :l][:, ::-1]
    parts = (weights[:, l : l + 1].real, (plus + minus).real, (minus - plus).imag)
    return np.concatenate(parts, axis=1).reshape(len(weights), -1)
