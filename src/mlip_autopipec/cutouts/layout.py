"""What of a structure a small box can be laid around: along which directions, and how much across those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols

from mlip_autopipec.cutouts.surroundings import surroundings

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: A surface nearer to the centre than this times the core radius goes with it.
_SURFACE = 2.0
#: Where a slab is too thick it is cut this far (Angstrom) below the core; the best of them is taken.
_CUTS = (0.2, 0.8, 1.4, 2.0, 2.6)


@dataclass(frozen=True)
class Kept:
    """What a cut-out keeps across its periodic directions, and what it draws from there."""

    interval: Floats
    density: float
    fractions: dict[int, float]

    @property
    def height(self) -> float:
        """How far it reaches across (Angstrom)."""
        return float(np.linalg.norm(np.abs(self.interval).max(axis=1))) if len(self.interval) else 0.0

    def change(self, numbers: NDArray[np.int_]) -> tuple[str, float]:
        """Return the element whose fraction differs most, and by how much."""
        here = _fractions(numbers)
        changes = {z: abs(here.get(z, 0.0) - x) for z, x in self.fractions.items()}
        worst = max(changes, key=lambda z: changes[z])
        return chemical_symbols[worst], changes[worst]


@dataclass(frozen=True)
class Way:
    """A space in which boxes are periodic, the directions across it, and what may be kept along those."""

    span: Floats
    across: Floats
    kept: list[Kept]


def ways(opened: Atoms, centre: int, core: float, reach: float) -> list[Way]:
    """
    List the ways to lay a box: periodic in three directions, or with the vacuum that is near.

    Parameters
    ----------
    opened
        The large cell, periodic only where there is no vacuum.
    centre
        Index of the centre.
    core
        Radius of the core in Angstrom.
    reach
        Densities are counted within this distance (Angstrom).
    """
    everywhere, nowhere = np.eye(3), np.empty((0, 3))
    if opened.pbc.all():
        return [Way(everywhere, nowhere, [_kept(opened, centre, reach, everywhere, nowhere, np.empty((0, 2)))])]
    vectors = opened.cell.array[opened.pbc]
    basis = np.linalg.svd(vectors)[2] if len(vectors) else everywhere
    span, across = basis[: len(vectors)], basis[len(vectors) :]
    heights = (opened.positions - opened.positions[centre]) @ across.T
    surface = np.stack([heights.min(axis=0), heights.max(axis=0)], axis=1)
    nearest = float(np.abs(surface).min())
    found = []
    if nearest < _SURFACE * core:
        whole = np.array(surface)
        intervals = [whole + np.array([-1e-6, 1e-6])]
        for depth in _CUTS:
            cut = np.clip(whole, -(core + depth), core + depth)
            # a surface just below the cut is kept rather than made again
            cut = np.where(np.abs(whole) < core + max(_CUTS), intervals[0], cut)
            if not any(np.allclose(cut, other) for other in intervals):
                intervals.append(cut)
        found.append(Way(span, across, [_kept(opened, centre, reach, span, across, i) for i in intervals]))
    if nearest > core:
        radius = min(nearest, reach)
        inside = surroundings(opened, centre, radius)
        density = len(inside.indices) / (4 / 3 * np.pi * radius**3)
        found.append(Way(everywhere, nowhere, [Kept(np.empty((0, 2)), density, _fractions(inside.numbers))]))
    return found


def _kept(opened: Atoms, centre: int, reach: float, span: Floats, across: Floats, interval: Floats) -> Kept:
    """Count the atoms around the centre that a cut-out draws from, per length, area or volume."""
    radius = reach if len(span) else 0.0
    height = Kept(interval, 0.0, {}).height
    near = surroundings(opened, centre, float(np.hypot(radius, height)) + 1e-6)
    heights = near.vectors @ across.T
    inside = ((heights >= interval[:, 0]) & (heights <= interval[:, 1])).all(axis=1)
    inside &= np.linalg.norm(near.vectors @ span.T, axis=1) <= radius
    ball = (1.0, 2 * radius, np.pi * radius**2, 4 / 3 * np.pi * radius**3)[len(span)]
    return Kept(interval, float(inside.sum() / ball), _fractions(near.numbers[inside]))


def _fractions(numbers: NDArray[np.int_]) -> dict[int, float]:
    return {int(z): float(np.mean(numbers == z)) for z in np.unique(numbers)}
