"""Bias towards structures whose energy is uncertain: MD that seeks the errors of the potential."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError, check_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlip_autopipec.lammps.ace_forces import ACEForces
    from mlip_autopipec.potentials.potential import ACEPotential

#: No bias force on an atom is longer than this multiple of the root mean square length of the forces of the potential.
_LONGEST = 1.0


@dataclass
class BiasSettings(MSONable):
    """
    How strongly MD is driven to where the energy is uncertain.

    The bias is -tau times the standard deviation of the energy by the posterior of a linear fit, and tau is such that
    its forces are a given share of those of the potential. It acts on atoms, not on the cell.

    Parameters
    ----------
    strength
        Root mean square of the bias forces, as a share of that of the forces of the potential.
    ramp_steps
        MD steps over which the bias grows to that, from the start of a walk.
    n_steps
        Length of the biased walk in MD steps, after which the walker begins again without the bias. None: that of MD.
    max_volume_change
        There is no bias while the volume differs from ``volume_A3`` by more than this share.
    volume_A3
        Volume in A^3 that this is compared with. None: that of the structure the walk began with.
    """

    strength: float = 0.5
    ramp_steps: int = 200
    n_steps: int | None = None
    max_volume_change: float = 0.15
    volume_A3: float | None = None

    def check(self, ensemble: str) -> None:
        """Refuse values with which the bias makes no sense, naming the field and the value."""
        if not 0 < self.strength <= 1:
            raise InvalidInputError.of(
                "MDSettings.bias.strength", f"is {self.strength}; give a share of the forces, above 0 and at most 1"
            )
        if ensemble == "nve":
            raise InvalidInputError.of(
                "MDSettings.bias", "is given with ensemble nve, which the bias would heat; use nvt or npt"
            )
        check_whole("MDSettings.bias.ramp_steps", self.ramp_steps, 0)
        if self.n_steps is not None:
            check_whole("MDSettings.bias.n_steps", self.n_steps, 1, ", or None")
        for name in ("max_volume_change", "volume_A3"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInputError.of(f"MDSettings.bias.{name}", f"is {value}; it has to be positive")


def begins_biased(settings: object) -> bool:
    """Tell whether walkers make a biased walk first; settings of an engine of one's own need not know of it."""
    return getattr(settings, "bias", None) is not None


class Bias:
    """
    The bias forces of one run.

    Parameters
    ----------
    potential
        With its posterior.
    settings
        Of the bias.
    """

    def __init__(self, potential: ACEPotential, settings: BiasSettings) -> None:
        from pyace import ACEBEvaluator, ACECalculator

        assert potential.posterior is not None
        self._settings = settings
        self._posterior = potential.posterior
        self._basis = potential.own_basis()
        self._evaluator = ACEBEvaluator(self._basis)  # pyace's calculator holds no reference of its own
        self._calculator = ACECalculator()
        self._calculator.set_evaluator(self._evaluator)
        self._first = np.cumsum([0, *potential.n_functions.values()])

    def look(self, forces: ACEForces) -> None:
        """
        Take the direction in which the uncertainty grows, at a structure that has just been graded.

        It is kept until the next look: the standard deviation is replaced by its tangent.
        """
        row = np.zeros(self._first[-1])
        for element, projections in forces.projections():
            row[self._first[element] : self._first[element + 1]] += projections
        # minus: the forces of the evaluator then point to where the energy is less certain, and its core repels
        self._basis.basis_coeffs = -self._posterior.steepest(row)

    def forces(self, of: ACEForces, step: int, volume_A3: float) -> NDArray[np.float64]:
        """
        Return the bias forces on the local atoms in eV/A, (n_local, 3).

        Parameters
        ----------
        of
            Evaluated at the present positions.
        step
            MD step.
        volume_A3
            Present volume in A^3.
        """
        physical = of.forces
        start = self._settings.volume_A3
        if start is not None and abs(volume_A3 / start - 1) > self._settings.max_volume_change:
            return np.zeros_like(physical)
        found = of.forces_by(self._calculator)
        lengths = np.linalg.norm(found, axis=1)
        largest = float(np.sqrt((lengths**2).mean()))
        if not (largest > 0 and math.isfinite(largest)):
            return np.zeros_like(physical)
        typical = float(np.sqrt((physical**2).sum(axis=1).mean()))
        ramp = min(1.0, step / self._settings.ramp_steps) if self._settings.ramp_steps else 1.0
        scaled = found * (ramp * self._settings.strength * typical / largest)
        too_long = np.linalg.norm(scaled, axis=1) / max(_LONGEST * typical, 1e-300)
        return np.asarray(scaled / np.maximum(1.0, too_long)[:, None])
