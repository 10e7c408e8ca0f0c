"""The last step of a run whose LAMMPS looks at every so many steps only: it is graded by pyace."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.lammps.cell import MDCell
from mlip_autopipec.lammps.types import HaltReason, HaltStructure, WalkStatus
from mlip_autopipec.potentials.core import deepest_in_core
from mlip_autopipec.structures.periodicity import lone_atoms

if TYPE_CHECKING:
    from mlip_autopipec.lammps.types import Condition, ExplorationResult, MDSettings
    from mlip_autopipec.potentials.potential import ACEPotential


def looked_at_end(
    result: ExplorationResult,
    potential: ACEPotential,
    condition: Condition,
    settings: MDSettings,
    cell: MDCell | None = None,
) -> ExplorationResult:
    """
    Judge the last step of a run by the rules of all looks, if LAMMPS did not look at it.

    Parameters
    ----------
    result
        Of a run with the ``lmp`` command, which looks at multiples of ``gamma_every``.
    potential, condition, settings, cell
        It was run with.

    Returns
    -------
    ExplorationResult
        The same, or a halt at the last step.
    """
    if result.status is not WalkStatus.CONVERGED or result.step % settings.gamma_every == 0:
        return result
    cell, atoms = cell or MDCell(), result.final.copy()
    gamma = compute_gamma(potential, atoms)
    atoms.arrays["gamma"] = gamma
    worst, index = float(gamma.max()), int(np.argmax(gamma))
    reason: HaltReason | None = None
    if not np.isfinite(gamma).all() or not np.isfinite(atoms.get_velocities()).all():
        reason, worst = HaltReason.NOT_FINITE, math.inf
    elif atoms.get_temperature() * len(atoms) / (len(atoms) - len(cell.frozen)) > settings.hottest_allowed_K(
        condition
    ) or (atoms.get_volume() > settings.largest_volume_A3 or worst > settings.explosive_gamma):
        reason = HaltReason.EXPLOSION
    elif cell.evaporates and len(gone := lone_atoms(atoms, potential.cutoff)):
        reason, index = HaltReason.EVAPORATION, int(gone[0])
    elif worst > settings.gamma_hi:
        reason = HaltReason.GAMMA
    elif (in_core := deepest_in_core(atoms, potential.core_radii)) is not None:
        reason, index = HaltReason.CORE_REPULSION, in_core
    if reason is None:
        return replace(result, final=atoms)
    halt = HaltStructure(atoms, result.step, reason, worst, index)
    return replace(result, status=WalkStatus.HALTED, final=atoms, halt=halt)
