"""Whether energies and forces of given labels belong together: the energy rises by the work of the forces."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import units

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.near import Pair, has_distinct, pairs_of
from mlip_autopipec.oracle.units import ENERGIES, FORCES, STRESSES, remedy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray


class _Range(NamedTuple):
    """
    How far apart two frames may be, and which energy over work is then right.

    Parameters
    ----------
    away_A
        Largest distance of an atom from where it is in the other frame, in Angstrom.
    fewest
        Distinct pairs of frames that make a finding.
    correlation
        That these have to have.
    least, most
        Energy over work where all is well: the forces change on the way, so that it is below 1 for large distances.
    """

    away_A: float
    fewest: int
    correlation: float
    least: float
    most: float


#: The first range that has its pairs decides. Of copper at random displacements the least and largest are 0.64 and 1.26
#: (bulk and surface, 0.05 to 0.1 A) in the first, 0.33 and 1.16 (0.15 A) in the second.
RANGES = (_Range(0.35, 6, 0.95, 0.58, 1.6), _Range(0.6, 6, 0.95, 0.28, 3.0))
#: Frames at random about a minimum have energies that are all alike: with that correlation only large factors show.
AT_RANDOM = (_Range(0.35, 12, 0.7, 0.2, 5.0),)
#: Forces change on the way from frame to frame, by what those of both frames differ. What stress and forces leave of
#: the energy is at most 0.13 of that where a slope of the stress was wrong by chance (15 of 360 sets of strained and
#: rattled EMT cells), and more in 216 of 243 sets whose stress was found to be turned round.
_UNEXPLAINED = 0.15
#: Frames without which this share of the misfit is left are wrong by themselves.
_OWN_FAULT = 0.35
#: Energies that rise by less than this share of the work do not change at all; such work (eV) is none.
_CONSTANT, _NO_WORK = 0.01, 1e-3
#: Energy over work between near frames, by what the unit of the energies then is.
_OF_ENERGIES = {f"the energies look like {unit}; {remedy(size)}": 1 / size for unit, size in ENERGIES.items()}
#: Energy over work of the forces, by what the units then are.
_UNITS = {
    **{f"the forces look like {unit}; {remedy(size)}": size for unit, size in FORCES.items() if unit != "eV/bohr"},
    **_OF_ENERGIES,
    "the forces look like eV/bohr, or energies and forces like atomic units (Hartree, Hartree/bohr)": 1 / units.Bohr,
    f"the positions look like bohr; {remedy(units.Bohr, 'positions and cells')}": units.Bohr,
    "the forces look like gradients; turn their sign": -1.0,
}
#: The same of the work of the stress, between strained cells.
_STRESS_UNITS = {
    **{f"the stress looks like {unit}; {remedy(size)}": size for unit, size in STRESSES.items()},
    **{
        f"the stress looks like {unit}, positive = compressed; {remedy(size)}, and turn their sign": -size
        for unit, size in STRESSES.items()
    },
    "the stress looks positive = compressed; turn its sign": -1.0,
}
#: Factor by which a guess may miss, since forces change on the way from frame to frame.
NEAR_GUESS = 1.6
#: Few frames that are wrong make the others look wrong, up to this share of the set.
_FEW = 0.15


class Work(NamedTuple):
    """
    Energy differences of near frames beside the work of their forces.

    Parameters
    ----------
    slope, correlation
        Of the energy over the work.
    n_pairs
        Number of pairs of frames.
    energy_eV, work_eV
        Root mean squares.
    of_stress
        Whether the work is that of the stress.
    unexplained
        Root mean square of what the works of forces and stress leave of the energy, over half of that by which the
        works of the forces of both frames differ.
    """

    slope: float
    correlation: float
    n_pairs: int
    energy_eV: float
    work_eV: float
    of_stress: bool
    unexplained: float


def energy_over_work(frames: Sequence[Atoms], away_A: float) -> list[Work]:
    """
    Compare energy differences of near frames with the work of their forces: they are equal, whatever the potential.

    Parameters
    ----------
    frames
        Labels. Compared are those of the same atoms, whose cells differ at most by a strain of which the work of the
        stress is known.
    away_A
        Largest distance of an atom from where it is in the other frame, in Angstrom.

    Returns
    -------
    list of Work
        That of the forces, without what the other explains, and that of the stress where cells are strained; none
        where there is no pair.
    """
    return _works(list(pairs_of(frames, away_A)))


def _works(pairs: Sequence[Pair]) -> list[Work]:
    if not pairs:
        return []
    rise, work, stress = _columns(pairs)
    differ = np.array([pair.work_two_eV - pair.work_one_eV for pair in pairs]) / 2
    unexplained = _rms(rise - work - stress) / max(_rms(differ), np.finfo(float).tiny)
    if not stress.any():
        return [_compared(rise, work, unexplained)]
    factors = np.linalg.lstsq(np.stack([work, stress], axis=1), rise, rcond=None)[0]
    return [
        _compared(rise - factors[1] * stress, work, unexplained),
        _compared(rise - factors[0] * work, stress, unexplained, of_stress=True),
    ]


def _columns(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Return the rise of the energy, and the works of forces and stress in eV, (3, n_pairs)."""
    rows = [(p.rise_eV, (p.work_one_eV + p.work_two_eV) / 2, p.stress_eV or 0.0) for p in pairs]
    return np.array(rows, dtype=float).reshape(-1, 3).T


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt((values**2).mean()))


def _compared(
    rise: NDArray[np.float64], work: NDArray[np.float64], unexplained: float, *, of_stress: bool = False
) -> Work:
    energy_eV, work_eV = _rms(rise), _rms(work)
    product = float((rise * work).mean())
    # the slope that treats both alike, since either may have an error
    slope = float(np.sign(product) * energy_eV / work_eV) if work_eV else 0.0
    correlation = product / (energy_eV * work_eV) if energy_eV and work_eV else 0.0
    return Work(slope, correlation, len(rise), energy_eV, work_eV, of_stress, unexplained)


def refuse_units(frames: Sequence[Atoms], names: Sequence[str], ranges: Sequence[_Range] = RANGES) -> list[str]:
    """
    Refuse labels whose energies do not rise by the work of their forces.

    Parameters
    ----------
    frames
        Labels with energy (eV) and forces (eV/A).
    names
        How messages name each.
    ranges
        The first that has its pairs decides.

    Returns
    -------
    list of str
        Names few labels that make all others look wrong; the training judges each.

    Raises
    ------
    InvalidInputError
        Gives the factor, and the units that explain it.
    """
    for near in ranges:
        pairs = list(pairs_of(frames, near.away_A))
        if not has_distinct(pairs, near.fewest):
            continue
        if (found := _finding(pairs, near)) is None:
            return []
        wrong = _at_fault(pairs, near, len(frames))
        if wrong:
            listed = "; ".join(names[i] for i in wrong[:3])
            told = (
                f"labels: energy, forces and stress of {len(wrong)} of {len(frames)} labels do not belong together "
                f"({listed}), those of the others do; the first training judges each of them"
            )
            return [told]
        work, constant = found
        if constant:
            _refuse_constant(names[0], work)
        _refuse_slope(frames, names[0], work)
    return []


def _finding(pairs: Sequence[Pair], near: _Range) -> tuple[Work, bool] | None:
    """Return the work that does not fit, and whether all energies are one number; None if all is well."""
    works = _works(pairs)
    forces = works[0]
    constant = forces.energy_eV < _CONSTANT * forces.work_eV and abs(forces.correlation) < 0.9
    if constant and forces.work_eV > _NO_WORK:
        return forces, True
    for found in works:
        known = found.work_eV > _NO_WORK and abs(found.correlation) >= near.correlation
        by_chance = found.of_stress and found.unexplained < _UNEXPLAINED
        if known and not by_chance and not near.least < found.slope < near.most:
            return found, False
    return None


def _at_fault(pairs: Sequence[Pair], near: _Range, n_frames: int) -> list[int]:
    """Return few frames without which all is well: most of the misfit goes with them; none if there are no such."""
    left, wrong = list(pairs), list[int]()
    for _ in range(max(1, int(_FEW * n_frames))):
        rise, work, stress = _columns(left)
        misfit = (rise - work - stress) ** 2
        total = float(misfit.sum())
        ours = np.zeros(n_frames)
        for pair, square in zip(left, misfit, strict=True):
            ours[[pair.one, pair.two]] += square
        worst = int(ours.argmax())
        kept = [pair for pair in left if worst not in (pair.one, pair.two)]
        if len(kept) < near.fewest or total - ours[worst] > _OWN_FAULT**2 * total:
            return []
        left, wrong = kept, [*wrong, worst]
        if _finding(left, near) is None:
            return sorted(wrong)
    return []


def _refuse_constant(first: str, found: Work) -> None:
    raise InvalidInputError(
        f"labels (from {first} on): between {found.n_pairs} pairs of near frames the energy changes by "
        f"{found.energy_eV:.2g} eV (root mean square), and the work of the forces is {found.work_eV:.2g} eV; give the "
        "energy of each frame"
    )


def _refuse_slope(frames: Sequence[Atoms], first: str, found: Work) -> None:
    known = (_STRESS_UNITS | _units_of_energies(frames) if found.of_stress else known_units(frames)).items()
    near = sorted((abs(np.log(found.slope / factor)), guess) for guess, factor in known if found.slope * factor > 0)
    guesses = [guess for distance, guess in near if distance < np.log(NEAR_GUESS)]
    what = "stress" if found.of_stress else "forces"
    raise InvalidInputError(
        f"labels (from {first} on): energies and {what} do not belong together. Between {found.n_pairs} pairs of near "
        f"frames the energy changes {found.slope:.3g} times as much as the work of the {what} (correlation "
        f"{found.correlation:.2f}): "
        + ("; or ".join(guesses) or f"another unit, or {what} of another calculation")
        + ". Energies in eV, forces in eV/A and positions in A are read"
    )


def known_units(frames: Sequence[Atoms]) -> dict[str, float]:
    """Return what energies over work say of the units, for these frames."""
    return _UNITS | _units_of_energies(frames)


def _units_of_energies(frames: Sequence[Atoms]) -> dict[str, float]:
    known = dict(_OF_ENERGIES)
    if len(sizes := {len(atoms) for atoms in frames}) == 1 and (n := sizes.pop()) > 1:
        known[f"the energies look like eV per atom; multiply them by {n}"] = 1 / n
    return known
