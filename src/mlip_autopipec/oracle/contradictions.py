"""Which labels have energies that contradict the forces of near frames, one by one, and what explains many of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.near import Pair, has_distinct, pairs_of
from mlip_autopipec.oracle.work import NEAR_GUESS, RANGES, known_units
from mlip_autopipec.structures.periodicity import goes_on_along

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

#: Frames that contradict others are left to the training, which judges each label, up to this share of the set; of
#: small molecules, which turn and bend on the way from frame to frame, up to the second.
_FEW, _FEW_SMALL, _SMALL = 0.15, 0.35, 8
#: Turned forces explain it if this share of the pairs agrees once they are turned back.
_EXPLAINED = 0.95
#: Forces, not crests, explain that so many of the pairs rise first and fall then.
_MOSTLY = 0.5
#: Frames are turned round in so many rounds at most.
_ROUNDS = 3


def contradictions(frames: Sequence[Atoms], names: Sequence[str]) -> list[str]:
    """
    Say which labels contradict those near them, and refuse a set in which many do.

    Near a minimum the energy rises by more than the work of the forces where the way begins, and by less than that
    where it ends; where a bond breaks it may be the other way round. Forces of another frame, of atoms in another
    order, or turned in some frames alone do not fit. Ways that may lead over a crest are no evidence, but where most
    do. Named first are the frames that misfit most.

    Parameters
    ----------
    frames
        Labels with energy (eV) and forces (eV/A).
    names
        How messages name each.

    Raises
    ------
    InvalidInputError
        Names the frames, and what it looks like.
    """
    pairs: list[Pair] = []
    for near in RANGES:
        pairs = [pair for pair in pairs_of(frames, near.away_A) if pair.stress_eV is None]
        if has_distinct(pairs, near.fewest):
            break
    compared = {i for pair in pairs for i in (pair.one, pair.two)}
    crests = [pair for pair in pairs if pair.is_over_crest]
    if len(crests) < _MOSTLY * len(pairs):  # else forces are turned round: not all ways lead over a crest
        pairs = [pair for pair in pairs if not pair.is_over_crest]
    wrong = _contradicting(pairs)
    if not wrong or not has_distinct(pairs, RANGES[0].fewest):
        return []
    misfit = _misfit(pairs)
    worst = sorted(wrong, key=lambda i: -misfit[i])
    shown = "; ".join(names[i] for i in worst[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    small = all(len(frames[i]) < _SMALL and not goes_on_along(frames[i]).any() for i in compared)
    few = _FEW_SMALL if small else _FEW
    told = f"the energies of {len(wrong)} of {len(compared)} labels do not fit the forces of near frames ({shown})"
    if len(wrong) < 3 or len(wrong) <= few * len(compared):
        return [f"labels: {told}; the first training judges each of them"]
    if guesses := _one_unit(pairs, frames):
        raise InvalidInputError(f"labels: {told}; {'; or '.join(guesses)}. Then they fit")
    begins = (wrong, _turned(pairs, len(frames)))
    turned = next((found for begin in begins if (found := _all_turned(pairs, begin))), None)
    if turned:
        numbers = ", ".join(map(str, turned[:10])) + (" ..." if len(turned) > 10 else "")
        why = f"with the forces of {len(turned)} labels turned round ({numbers}) they fit: turn their sign"
    else:
        why = (
            "do the forces belong to these frames and to this order of the atoms, and are all labels in one unit (eV, "
            "eV/A)?"
        )
    raise InvalidInputError(f"labels: {told}; {why}")


def _one_unit(pairs: Sequence[Pair], frames: Sequence[Atoms]) -> list[str]:
    """Return the units of all labels that explain the contradictions, the nearest first."""
    work = sum((pair.work_one_eV + pair.work_two_eV) ** 2 / 4 for pair in pairs) ** 0.5
    if work == 0:
        return []
    slope = sum(pair.rise_eV**2 for pair in pairs) ** 0.5 / work
    found = []
    for guess, factor in known_units(frames).items():
        distance = abs(np.log(slope / abs(factor)))
        scaled = [
            pair._replace(work_one_eV=factor * pair.work_one_eV, work_two_eV=factor * pair.work_two_eV)
            for pair in pairs
        ]
        explained = sum(not pair.contradicts for pair in scaled) >= _EXPLAINED * len(pairs)
        if explained and distance < np.log(NEAR_GUESS):
            found.append((float(distance), guess))
    return [guess for _, guess in sorted(found)]


def _contradicting(pairs: Sequence[Pair]) -> list[int]:
    """Return frames without which no pair contradicts itself, as few as taking the worst first finds."""
    left = [pair for pair in pairs if pair.contradicts]
    agreeing = Counter(i for pair in pairs if not pair.contradicts for i in (pair.one, pair.two))
    found: list[int] = []
    while left:
        counts = Counter(i for pair in left for i in (pair.one, pair.two))
        misfit = _misfit(left)
        worst = max(counts, key=lambda i: (counts[i], -agreeing[i], misfit[i], -i))
        found.append(worst)
        left = [pair for pair in left if worst not in (pair.one, pair.two)]
    return sorted(found)


def _misfit(pairs: Sequence[Pair]) -> Counter[int]:
    """Return by how much the pairs of each frame are outside of what their forces say, in eV."""
    found = Counter[int]()
    for pair in pairs:
        for i in (pair.one, pair.two):
            found[i] += pair.misfit_eV  # type: ignore[assignment]
    return found


def _turned(pairs: Sequence[Pair], n_frames: int) -> list[int]:
    """Return the frames whose forces have the wrong sign, as far as the energies tell."""
    rise = np.array([pair.rise_eV for pair in pairs])
    half = np.zeros((len(pairs), n_frames))
    for row, pair in enumerate(pairs):
        half[row, pair.one] += pair.work_one_eV / 2
        half[row, pair.two] += pair.work_two_eV / 2
    # a factor for the forces of each frame, near 1 where the energies say nothing
    normal = half.T @ half + 1e-3 * np.trace(half.T @ half) / n_frames * np.eye(n_frames)
    factor = 1 + np.linalg.solve(normal, half.T @ (rise - half.sum(axis=1)))
    return list(map(int, np.flatnonzero(factor < 0)))


def _all_turned(pairs: Sequence[Pair], begin: Sequence[int]) -> list[int] | None:
    """Return the frames whose forces have to be turned round so that all pairs agree; None if that cures nothing."""
    turned = set(begin)
    for _ in range(_ROUNDS):
        signs = dict.fromkeys(turned, -1.0)
        after = [
            pair._replace(
                work_one_eV=signs.get(pair.one, 1.0) * pair.work_one_eV,
                work_two_eV=signs.get(pair.two, 1.0) * pair.work_two_eV,
            )
            for pair in pairs
        ]
        left = _contradicting(after)
        if sum(pair.contradicts for pair in after) <= (1 - _EXPLAINED) * len(pairs):
            return sorted(turned)
        turned ^= set(left)
    return None
