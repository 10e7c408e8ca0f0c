"""Why energies of labels that were computed again differ where the forces agree: another unit, or another zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from ase.formula import Formula

from mlip_autopipec.oracle.comparison import is_noise
from mlip_autopipec.oracle.units import ENERGIES, remedy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: A factor is that of a unit if it misses it by less than the first share; that of differences, by the second.
_NEAR, _NEAR_SLOPE = 0.002, 0.05
#: One factor explains differences of energies if it leaves at most this share of them.
_LEFT = 0.1
#: Energies (meV/atom) that differ by less say nothing of a unit; the second where there is one number alone, which some
#: factor always explains.
_NOTHING_meV, _NOTHING_OF_ONE_meV = 1.0, 5.0


class Compared(Protocol):
    """A label that was computed again: ``energy_meV_atom`` is what the oracle says more than ``energy_given_eV``."""

    index: int
    formula: str
    energy_meV_atom: float | None
    energy_given_eV: float | None


def unit_of_energies(compared: Sequence[Compared]) -> str | None:
    """
    Tell in which unit given energies are, by those of the oracle for the same structures.

    Parameters
    ----------
    compared
        Labels that were computed again, whose forces agree.

    Returns
    -------
    str or None
        What they look like and what to do, None where no unit explains them. It is looked for in the energies
        themselves, and in their differences, which another zero for each element does not change.
    """
    counts, given, computed = _per_atom(compared)
    if not len(given):
        return None
    n_atoms = counts.sum(axis=1)
    sizes: dict[str, float | NDArray[np.float64]] = dict(ENERGIES)
    if (n_atoms > 1).all():
        sizes["eV per atom"] = n_atoms
    rest = np.eye(len(given)) - (shares := counts / n_atoms[:, None]) @ np.linalg.pinv(shares)
    change, change_of_oracle = rest @ given, rest @ computed
    other = _rms(change_of_oracle - change)
    if other < _LEFT * _rms(change_of_oracle):  # differences agree: whatever it is, it is no unit
        return None
    of_unit = {unit: np.abs(given * size - computed) for unit, size in sizes.items()}
    found = [unit for unit, apart in of_unit.items() if (apart <= _NEAR * np.abs(computed)).all()]
    least_meV = _NOTHING_meV if len(given) > 1 else _NOTHING_OF_ONE_meV
    if found and 1e3 * np.abs(computed - given).max() > least_meV:
        return _told("the given energies are", float(np.median(given / computed)), found, n_atoms)
    n_free = len(given) - int(np.linalg.matrix_rank(shares))
    least_meV = _NOTHING_meV if n_free > 1 else _NOTHING_OF_ONE_meV
    if n_free < 1 or 1e3 * other < least_meV or not change.any():
        return None
    slope = float(change @ change_of_oracle / (change @ change))
    if _rms(change_of_oracle - slope * change) > _LEFT * _rms(change_of_oracle):
        return None
    found = [unit for unit, size in ENERGIES.items() if abs(slope / size - 1) < _NEAR_SLOPE]
    if not found:
        return None
    return _told("differences between the given energies are", 1 / slope, found, n_atoms)


def differ_variously(compared: Sequence[Compared]) -> float:
    """Return by how much (meV/atom) the oracle's energies still differ if each element's may have another zero."""
    counts, given, computed = _per_atom(compared)
    if not len(given):
        return 0.0
    shares = counts / counts.sum(axis=1)[:, None]
    apart = computed - given
    left = apart - shares @ (np.linalg.pinv(shares) @ apart)
    return 1e3 * float(np.abs(left).max())


def why_energies_differ(compared: Sequence[Compared]) -> str | None:
    """
    Say what is wrong with given energies, and what to do, where the forces agree.

    Parameters
    ----------
    compared
        Labels that were computed again.

    Returns
    -------
    str or None
        None where they agree with the oracle's.
    """
    if (unit := unit_of_energies(compared)) is not None:
        return f"The forces agree, and {unit}."
    known = [one for one in compared if one.energy_meV_atom is not None]
    if all(is_noise(one.energy_meV_atom or 0.0) for one in known):
        return None
    if not is_noise(left := differ_variously(known)):
        listed = ", ".join(f"label {one.index} ({one.formula}) {one.energy_meV_atom:+.4g}" for one in known)
        return (
            f"The forces agree, and the energies differ by various amounts (meV/atom: {listed}), of which another zero "
            f"for each element leaves {left:.4g} meV/atom: some energies are of another calculation or in another "
            "unit. Give all labels the settings of the oracle, and energies of the whole cell in eV."
        )
    return (
        "The forces agree, so the energies have another zero (other pseudopotentials, isolated atoms subtracted): "
        "shift them by a constant for each element to the scale of the oracle, which OracleMaker.energy_shift (run "
        "file: oracle.energy_shift) = fit does, or take them from the same code."
    )


def _told(what: str, times: float, units: Sequence[str], n_atoms: NDArray[np.float64]) -> str:
    of_each = f"{n_atoms[0]:.0f}" if len(set(n_atoms)) == 1 else "the number of atoms"
    guesses = [
        f"{unit}; {f'multiply them by {of_each}' if unit == 'eV per atom' else remedy(ENERGIES[unit])}"
        for unit in units
    ]
    return f"{what} {times:.4g} times those of the oracle: they are in {', or in '.join(guesses)}"


def _per_atom(compared: Sequence[Compared]) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
    """Return how many atoms of each element the labels have, (n, n_elements), and both energies in eV/atom, (n,)."""
    known = [one for one in compared if one.energy_meV_atom is not None and one.energy_given_eV is not None]
    symbols = [list(Formula(one.formula)) for one in known]
    elements = sorted({symbol for one in symbols for symbol in one})
    counts = np.array([[one.count(element) for element in elements] for one in symbols], dtype=float)
    given = np.array([one.energy_given_eV for one in known], dtype=float) / [max(1, len(one)) for one in symbols]
    return counts, given, given + 1e-3 * np.array([one.energy_meV_atom for one in known], dtype=float)


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))
