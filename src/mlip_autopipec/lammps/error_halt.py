"""Halts by the expected error of the force on an atom, in the library engine."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.lammps.types import MDSettings
    from mlip_autopipec.potentials.posterior import ErrorBars
    from mlip_autopipec.potentials.potential import ACEPotential


class ErrorHalt:
    """
    Tells where the expected error of the force on an atom is larger than it may be.

    Where the user gives a limit (``max_force_std_eV_A``) every frame is looked at. Else those above the lower threshold
    of gamma: gamma of the leading functions may be low in a hole of the potential, into which a molecule falls within a
    few steps, where the error bars see that forces are wrong by a good part of what they usually are.

    Parameters
    ----------
    potential
        Without a posterior nothing is expected.
    settings
        Of the MD.
    """

    def __init__(self, potential: ACEPotential, settings: MDSettings) -> None:
        self._potential, posterior = potential, potential.posterior
        self._limit, self._from_gamma = settings.max_force_std_eV_A, 0.0
        relative = settings.max_relative_force_std
        if self._limit is None and posterior is not None and posterior.usual_force_eV_A and relative is not None:
            self._limit, self._from_gamma = relative * posterior.usual_force_eV_A, settings.gamma_lo
        self._is_asked_for = settings.max_force_std_eV_A is not None

    @cached_property
    def _bars(self) -> ErrorBars:
        return self._potential.error_bars

    def worst(self, atoms: Atoms, gamma_max: float) -> tuple[int, float] | None:
        """
        Return the atom of largest expected force error and that error (eV/A), if it is above the limit.

        Parameters
        ----------
        atoms
            The frame.
        gamma_max
            Largest grade of its atoms.
        """
        if self._limit is None or not gamma_max > self._from_gamma:
            return None
        if not self._is_asked_for and not self._bars.is_quick(atoms):
            return None
        by_atom = self._bars.of(atoms).by_atom
        atom = int(by_atom.argmax())
        return (atom, float(by_atom[atom])) if by_atom[atom] > self._limit else None
