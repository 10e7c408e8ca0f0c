"""Which energies a temperature leads to: equipartition, with room for all that a material does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import units

from mlip_autopipec.structures.frozen import frozen_atoms

if TYPE_CHECKING:
    from ase import Atoms

#: So many times the 3/2 kT that harmonic vibrations hold per atom. Of what a material does beyond them, melting takes
#: most: about 1 kT per atom in metals, 3.6 kT in silicon, more than in any other element.
ROOM = 4.0
#: Standard deviations of the energy that are allowed on top; they count in small cells and molecules.
DEVIATIONS = 6.0


@dataclass(frozen=True)
class Rise:
    """
    Energy (with pressure: enthalpy) of a state of MD above that of the structure it began with.

    Parameters
    ----------
    found_eV
        The rise.
    limit_eV
        The largest one within thermal reach.
    n_atoms
        Number of atoms that move.
    """

    found_eV: float
    limit_eV: float
    n_atoms: int

    @property
    def is_out_of_reach(self) -> bool:
        """Whether MD at its temperature does not lead there, so that a wrong potential did."""
        return self.found_eV > self.limit_eV


def thermal_limit_eV(n_atoms: int, temperature_K: float) -> float:
    """
    Return how far above its start the potential energy of MD can be.

    By equipartition it is 3/2 kT per atom above the minimum, with a standard deviation of (3N/2)^(1/2) kT in a cell of
    N atoms. :data:`ROOM` times that mean and :data:`DEVIATIONS` deviations are allowed.

    Parameters
    ----------
    n_atoms
        Number of atoms that move.
    temperature_K
        The highest on the way, in K.

    Returns
    -------
    float
        In eV, of the whole cell.
    """
    kT = units.kB * temperature_K
    return float(kT * (ROOM * 1.5 * n_atoms + DEVIATIONS * np.sqrt(1.5 * n_atoms)))


def rise(
    start: Atoms, start_eV: float, state: Atoms, state_eV: float, temperature_K: float, pressure_GPa: float
) -> Rise:
    """
    Compare a state of MD with the structure it began with.

    Parameters
    ----------
    start, start_eV
        That structure, and its potential energy in eV.
    state, state_eV
        The state, and its potential energy in eV, by the same method.
    temperature_K
        The highest on the way, in K.
    pressure_GPa
        Of a barostat; the work it does is no rise.
    """
    work_eV = pressure_GPa * units.GPa * (state.get_volume() - start.get_volume())
    n_atoms = max(len(start) - len(frozen_atoms(start)), 1)
    return Rise(state_eV - start_eV + work_eV, thermal_limit_eV(n_atoms, temperature_K), n_atoms)
