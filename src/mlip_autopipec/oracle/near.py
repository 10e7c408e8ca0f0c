"""Pairs of near frames of a dataset: by what the energy rises from one to the other, beside the work of the forces."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: A frame is compared with so many after it.
_NEXT = 8
#: Cell vectors that differ by less (A) are one cell; cells that differ by more than this strain are not near.
_SAME_CELL_A, _MOST_STRAIN = 1e-3, 0.04
#: Pairs whose rise and work differ by less than this share of what they are in all pairs are one pair given again.
_ONE_PAIR = 0.02
#: The energy rises by what lies between the works of both frames' forces, within this share of them, and this (eV).
_BETWEEN, _BETWEEN_eV = 0.02, 2e-3
#: Where the force falls, also within this share of what the works differ by: it may be larger on the way.
_CURVED = 0.25


class Pair(NamedTuple):
    """
    What there is between two near frames.

    Parameters
    ----------
    one, two
        Their places.
    rise_eV
        By what the energy rises from the first to the second, in eV.
    work_one_eV, work_two_eV
        Work in eV of the forces of each on the way.
    stress_eV
        Work in eV of the stress, the mean of both; None where the cells do not differ.
    """

    one: int
    two: int
    rise_eV: float
    work_one_eV: float
    work_two_eV: float
    stress_eV: float | None = None

    @property
    def contradicts(self) -> bool:
        """
        Whether the rise is outside of what forces between those of both frames, of one cell, would give.

        Near a minimum the force against the way grows. Where both frames are on one side of it, it may fall as well, as
        that of a bond that breaks. That a minimum lies on the way is usual; a crest is not, see :attr:`is_over_crest`.
        """
        return self.misfit_eV > 0

    @property
    def misfit_eV(self) -> float:
        """By how much the rise is outside of that, in eV."""
        rising = _outside(self.rise_eV, self.work_one_eV, self.work_two_eV)
        on_one_side = self.work_one_eV * self.work_two_eV >= 0
        return min(rising, self._falling_eV) if on_one_side else rising

    @property
    def is_over_crest(self) -> bool:
        """Whether the way may lead over a crest: the energy rises first and falls then, by no more than forces say."""
        return self.work_one_eV > 0 > self.work_two_eV and self._falling_eV == 0

    @property
    def _falling_eV(self) -> float:
        """Return by how much the rise is outside of that of a force that falls; on the way it may be larger."""
        curved = _CURVED * abs(self.work_two_eV - self.work_one_eV)
        return _outside(self.rise_eV, self.work_two_eV - curved, self.work_one_eV + curved)


def _outside(rise: float, least: float, most: float) -> float:
    margin = _BETWEEN * max(abs(least), abs(most)) + _BETWEEN_eV
    return max(0.0, least - margin - rise, rise - most - margin)


def has_distinct(pairs: Sequence[Pair], fewest: int) -> bool:
    """Return whether so many pairs say something of their own: frames that are nearly the same make pairs that are."""
    values = np.array([(pair.rise_eV, pair.work_one_eV + pair.work_two_eV, pair.stress_eV or 0.0) for pair in pairs])
    if len(values) < fewest or not values.any():
        return len(values) >= fewest
    step = _ONE_PAIR * np.sqrt((values**2).sum(axis=1).mean())
    distinct = values[:1]
    for value in values[1:]:
        # the way back is no other pair
        apart = np.minimum(np.abs(distinct - value).max(axis=1), np.abs(distinct + value).max(axis=1))
        if apart.min() > step:
            distinct = np.vstack([distinct, value])
            if len(distinct) >= fewest:
                return True
    return False


def near_pairs(frames: Sequence[Atoms], away_A: float) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
    """
    Yield pairs of near frames of one cell and the same atoms: their places, and by how much the atoms moved in A.

    Parameters
    ----------
    frames
        Structures. Each is compared with some after it.
    away_A
        Largest distance of an atom from where it is in the other frame, in Angstrom.
    """
    for i, j in _candidates(frames):
        one, two = frames[i], frames[j]
        if not _one_cell(one, two):
            continue
        moved = np.asarray(two.positions - one.positions)
        if one.cell.rank == 3 and one.pbc.any():
            moved = _nearest(one.cell.scaled_positions(moved), one.pbc) @ one.cell.array
        if 1e-4 < np.abs(moved).max() <= away_A:
            yield i, j, moved


def pairs_of(frames: Sequence[Atoms], away_A: float) -> Iterator[Pair]:
    """
    Yield energies and works between near frames, also of cells that are strained and have a stress.

    Parameters
    ----------
    frames
        Labels: energy (eV), forces (eV/A) and, if known, stress (eV/A^3, ASE order and sign) in their calculators.
    away_A
        As of :func:`near_pairs`; in strained cells without what the strain moves.
    """
    for i, j, moved in near_pairs(frames, away_A):
        works = [-float((frames[k].calc.results["forces"] * moved).sum()) for k in (i, j)]
        yield Pair(i, j, _rise(frames[i], frames[j]), *works)
    for i, j in _candidates(frames):
        if (found := _strained(frames[i], frames[j], away_A)) is not None:
            yield Pair(i, j, _rise(frames[i], frames[j]), *found)


def _strained(one: Atoms, two: Atoms, away_A: float) -> tuple[float, float, float] | None:
    """Return works of the forces of each, and of the stress, between frames of two cells; None if they are not near."""
    frames = (one, two)
    if any(atoms.cell.rank < 3 or not atoms.pbc.all() for atoms in frames) or _one_cell(one, two):
        return None
    stresses = [atoms.calc.results.get("stress") for atoms in frames]
    change = two.cell.array - one.cell.array
    strains = [np.linalg.solve(atoms.cell.array, change) for atoms in frames]
    if any(stress is None for stress in stresses) or np.abs(strains).max() > _MOST_STRAIN:
        return None
    scaled = [np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T for atoms in frames]
    moved = [_nearest(scaled[1] - scaled[0], one.pbc) @ atoms.cell.array for atoms in frames]
    if np.abs(moved).max() > away_A:
        return None
    works = [-float((k.calc.results["forces"] * by).sum()) for k, by in zip(frames, moved, strict=True)]
    by_stress = [
        atoms.get_volume() * float((voigt_6_to_full_3x3_stress(stress) * strain).sum())
        for atoms, stress, strain in zip(frames, stresses, strains, strict=True)
    ]
    return works[0], works[1], sum(by_stress) / 2


def _candidates(frames: Sequence[Atoms]) -> Iterator[tuple[int, int]]:
    for i, one in enumerate(frames):
        for j, two in enumerate(frames[i + 1 : i + 1 + _NEXT], i + 1):
            if len(one) == len(two) and (one.numbers == two.numbers).all() and (one.pbc == two.pbc).all():
                yield i, j


def _one_cell(one: Atoms, two: Atoms) -> bool:
    return np.allclose(one.cell.array, two.cell.array, atol=_SAME_CELL_A)


def _nearest(scaled: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    return scaled - np.where(pbc, np.round(scaled), 0.0)


def _rise(one: Atoms, two: Atoms) -> float:
    return float(two.calc.results["energy"] - one.calc.results["energy"])
