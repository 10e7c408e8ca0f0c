"""A step that the ``lmp`` command does not look at, since it is no multiple of ``gamma_every``: pyace grades it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from ase import units

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.lammps import input_script
from mlip_autopipec.lammps.cell import MDCell
from mlip_autopipec.lammps.readback import Look
from mlip_autopipec.potentials.core import deepest_in_core

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.lammps.types import Condition, MDSettings
    from mlip_autopipec.potentials.potential import ACEPotential


def graded(
    step: int,
    atoms: Atoms,
    potential: ACEPotential,
    condition: Condition,
    settings: MDSettings,
    cell: MDCell | None = None,
) -> Look:
    """
    Judge a frame by the rules of the LAMMPS input.

    Parameters
    ----------
    step
        Its MD step.
    atoms
        With velocities; gets the array ``gamma``.
    potential, condition, settings, cell
        It was run with.

    Returns
    -------
    Look
        As LAMMPS writes it; the energy without reference energies.
    """
    cell = cell or MDCell()
    gamma = compute_gamma(potential, atoms)
    atoms.arrays["gamma"] = gamma
    calculator = potential.calculator()
    calculator.calculate(atoms)
    energy = calculator.results["energy"] - potential.reference_energy(atoms)
    stress, volume = calculator.results["stress"], float(atoms.get_volume())
    kinetic = float(atoms.get_kinetic_energy())
    free = len(atoms) - len(cell.frozen) if cell.frozen else len(atoms) - 1
    temperature = 2 * kinetic / (3 * max(free, 1) * units.kB)
    pressure = (2 * kinetic / (3 * volume) - float(np.mean(stress[:3]))) / units.GPa
    worst = float(gamma.max())
    stop = 0
    if not np.isfinite([energy, temperature, pressure, worst]).all():
        stop, worst = input_script.STOP["not_finite"], math.inf
    else:
        if temperature > settings.hottest_allowed_K(condition) or volume > settings.largest_volume_A3:
            stop += input_script.STOP["explosion"]
        if len(cell.gone(atoms, potential.cutoff, settings.halt_on_break_up)):
            stop += input_script.STOP["evaporation"]
        if worst > settings.gamma_hi:
            stop += input_script.STOP["gamma"]
        if deepest_in_core(atoms, potential.core_radii) is not None:
            stop += input_script.STOP["core_repulsion"]
    return Look(step, temperature, energy, pressure, volume, worst, stop)
