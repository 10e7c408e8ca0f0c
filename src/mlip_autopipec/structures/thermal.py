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
#: Fluctuations that are allowed on top: those beyond have a probability of exp(-18), that of 6 standard deviations.
RARE = 18.0


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

    By equipartition it is 3/2 kT per atom above the minimum, and with a probability of exp(-t) it is more than
    ((3 N t)^(1/2) + t) kT above that mean in a cell of N atoms (the tail of a chi-squared distribution with 3N degrees
    of freedom). :data:`ROOM` times the mean, and fluctuations up to t = :data:`RARE`, are allowed.

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
    return float(kT * (ROOM * 1.5 * n_atoms + np.sqrt(3 * n_atoms * RARE) + RARE))


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
