"""Magnetic moments of labels, by which those of another magnetic order are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray


def moments_by_element(labels: Sequence[Atoms]) -> dict[str, list[NDArray[np.float64]]]:
    """Return for each element the moments (muB) of its atoms, label by label, where there are any."""
    found: dict[str, list[NDArray[np.float64]]] = {}
    for label in labels:
        moments = None if label.calc is None else label.calc.results.get("magmoms")
        if moments is None:
            continue
        values = np.asarray(moments, dtype=float)
        if values.ndim != 1:  # non-collinear: their size is all that is compared
            values = np.linalg.norm(values, axis=1)
        symbols = np.array(label.get_chemical_symbols())
        for element in sorted(set(symbols.tolist())):
            found.setdefault(element, []).append(values[symbols == element])
    return found


def net_order(moments: NDArray[np.float64]) -> float:
    """Return the net moment relative to that of all moments aligned: 1 for a ferromagnet, 0 for an antiferromagnet."""
    return float(abs(moments.sum()) / max(np.abs(moments).sum(), 1e-12))
