"""Fewer points that show the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def thinned_trace(time_ps: Sequence[float], gamma: Sequence[float], n_points: int) -> dict[str, list[float]]:
    """
    Thin a trace so that no peak is lost.

    Parameters
    ----------
    time_ps, gamma
        Equally long; gamma may hold NaN where it could not be computed.
    n_points
        Most points that are kept.

    Returns
    -------
    dict
        ``time_ps`` and ``gamma_max``: the first, the last and the largest point of equal parts of the trace.
    """
    x, y = np.asarray(time_ps, float), np.asarray(gamma, float)
    if len(x) > n_points:
        parts = np.array_split(np.arange(len(x)), max(n_points - 2, 1))
        peaks = [part[np.nanargmax(y[part])] if np.isfinite(y[part]).any() else part[0] for part in parts]
        kept = np.unique([0, *peaks, len(x) - 1])
        x, y = x[kept], y[kept]
    return {"time_ps": x.tolist(), "gamma_max": y.tolist()}


def with_worst(error: NDArray[np.float64], n_points: int, seed: int) -> NDArray[np.int64]:
    """
    Choose points of a parity plot: half of them those of largest error, the others at random.

    Parameters
    ----------
    error
        Shape (n,).
    n_points
        Most points that are kept.
    seed
        Of the random ones.

    Returns
    -------
    ndarray
        Indices in ascending order.
    """
    if len(error) <= n_points:
        return np.arange(len(error))
    order = np.argsort(-np.abs(error))
    worst, rest = order[: n_points // 2], order[n_points // 2 :]
    drawn = np.random.default_rng(seed).choice(rest, n_points - len(worst), replace=False)
    return np.sort(np.concatenate([worst, drawn]))
