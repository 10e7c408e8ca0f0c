"""What an error is worth: the units in which a fit measures its residuals."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: eV/A^3 in GPa.
EV_A3_IN_GPA = 160.21766208


def positive(settings: object, *names: str) -> None:
    """
    Refuse settings that are not numbers above zero; None is one that is not given.

    Raises
    ------
    InvalidInputError
        With the field.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InvalidInputError.of(
                f"{type(settings).__name__}.{name}", f"is {value}; it has to be a number above 0"
            )


def at_least_one(settings: object, *names: str) -> None:
    """Refuse counts below one; None is one that is not given. Raises as :func:`positive`."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= 1:
            raise InvalidInputError.of(f"{type(settings).__name__}.{name}", f"is {value}; it has to be at least 1")


class Kind:
    """What a row of the design matrix is about."""

    ENERGY, FORCES, STRESS = 0, 1, 2


class ErrorsByKind(NamedTuple):
    """One number for energies (meV/atom), one for force components (meV/A), one for stress components (GPa)."""

    energy_meV_atom: float
    forces_meV_A: float
    stress_GPa: float | None


@dataclass(frozen=True)
class FitWeights:
    """
    What an error of each kind is worth; residuals are divided by it and squared.

    Parameters
    ----------
    energy_meV_atom
        Of the energy of a structure, per atom.
    forces_meV_A
        Of a force component.
    stress_GPa
        Of a stress component.
    """

    energy_meV_atom: float = 1.0
    forces_meV_A: float = 100.0
    stress_GPa: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is not positive."""
        positive(self, "energy_meV_atom", "forces_meV_A", "stress_GPa")

    def unit(self, kind: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return for each row what an error is worth, in eV/atom, eV/A or eV/A^3."""
        units = np.array([1e-3 * self.energy_meV_atom, 1e-3 * self.forces_meV_A, self.stress_GPa / EV_A3_IN_GPA])
        return units[kind]


def worth_of(settings: object, default: FitWeights = FitWeights()) -> FitWeights | None:
    """Return what errors are worth to a trainer by gradients; None where it says nothing of it."""
    names = ("energy_meV_atom", "forces_meV_A", "stress_GPa")
    given = {name: value for name in names if (value := getattr(settings, name, None)) is not None}
    return FitWeights(**(vars(default) | given)) if given else None


def check_earlier_weights(settings: object, **defaults: float) -> None:
    """
    Refuse two ways of weighting at once, and warn of the earlier one.

    Parameters
    ----------
    settings
        A trainer.
    **defaults
        Its earlier settings, by name, with what they were by default.

    Raises
    ------
    InvalidInputError
        If one of them is given together with what errors are worth.
    """
    given = [name for name in defaults if getattr(settings, name) is not None]
    trainer = type(settings).__name__
    if given and worth_of(settings) is not None:
        raise InvalidInputError.of(
            f"{trainer}.{given[0]}",
            "is given together with what an error is worth, from which it follows; leave it out",
        )
    if any(getattr(settings, name) not in (None, default) for name, default in defaults.items()):
        warnings.warn(
            f"{trainer}.{given[0]} is deprecated; give what an error is worth: energy_meV_atom, forces_meV_A",
            DeprecationWarning,
            stacklevel=4,
        )


def share_of_forces(worth: FitWeights, atoms_per_label: float) -> float:
    """
    Return pacemaker's kappa: the share of the forces in its loss, 0 to 1.

    The loss is ``(1 - kappa) <(dE/n)^2> + kappa <|dF|^2>``, a mean over structures and one over atoms; with this share
    it is proportional to the sum over all labels of squared errors, each divided by what it is worth.

    Parameters
    ----------
    worth
        What errors are worth.
    atoms_per_label
        Mean number of atoms of a label.
    """
    energy, forces = 1e-3 * worth.energy_meV_atom, 1e-3 * worth.forces_meV_A
    of_forces = atoms_per_label / forces**2
    return of_forces / (of_forces + 1 / energy**2)


def mean_square_weights(worth: FitWeights, atoms_per_label: float) -> tuple[float, float, float]:
    """
    Return the weights of the mean square errors of energies (eV/atom), force components (eV/A) and stresses (eV/A^3).

    So weighted their sum is proportional to the sum over all labels of squared errors, each divided by what it is
    worth; that of the forces is 1.

    Parameters
    ----------
    worth
        What errors are worth.
    atoms_per_label
        Mean number of atoms of a label.
    """
    energy, forces, stress = worth.unit(np.array([Kind.ENERGY, Kind.FORCES, Kind.STRESS], dtype=np.int8))
    components = 3 * atoms_per_label
    return float(forces**2 / (components * energy**2)), 1.0, float(6 * forces**2 / (components * stress**2))


def errors_by_kind(residuals: NDArray[np.float64], kind: NDArray[np.int8], power: int = 2) -> ErrorsByKind:
    """
    Return the errors of each kind; None for the stress without rows.

    Parameters
    ----------
    residuals
        In eV/atom, eV/A and eV/A^3, (n_rows,).
    kind
        What each row is about, (n_rows,).
    power
        2 for root mean squares, 1 for mean absolute errors.
    """

    def mean(of: int) -> float | None:
        chosen = np.abs(residuals[kind == of])
        return float(np.mean(chosen**power) ** (1 / power)) if len(chosen) else None

    stress = mean(Kind.STRESS)
    return ErrorsByKind(
        1e3 * (mean(Kind.ENERGY) or 0.0),
        1e3 * (mean(Kind.FORCES) or 0.0),
        None if stress is None else EV_A3_IN_GPA * stress,
    )
