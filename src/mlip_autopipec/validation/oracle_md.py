"""Fresh frames of the oracle's own MD: the error that counts, on configurations nobody selected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.frozen import frozen_atoms
from mlip_autopipec.structures.periodicity import boxed

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator


@dataclass
class ValidationSettings:
    """
    MD with the oracle itself, for oracles that are an ASE calculator.

    Parameters
    ----------
    n_frames
        Frames taken per structure and temperature.
    interval_steps
        MD steps between two frames; as many go by before the first.
    timestep_fs
        Time step in fs; None takes that of the campaign's MD.
    """

    n_frames: int = 10
    interval_steps: int = 100
    timestep_fs: float | None = None


def oracle_md_frames(
    atoms: Atoms, calculator: Calculator, temperature_K: float, settings: ValidationSettings, seed: int
) -> list[Atoms]:
    """
    Run Langevin MD with the oracle and return labelled frames.

    Parameters
    ----------
    atoms
        Structure to start from; vacuum is added where it is not periodic, and its frozen atoms rest.
    calculator
        The oracle.
    temperature_K
        Temperature in K.
    settings
        How many frames, how far apart.
    seed
        Of velocities and thermostat.
    """
    if settings.timestep_fs is None:
        raise InvalidInputError("oracle_md_frames needs a time step; give settings.timestep_fs")
    if settings.n_frames < 1 or settings.interval_steps < 1:
        raise InvalidInputError(f"validation needs n_frames and interval_steps of at least 1, got {settings}")
    rng = np.random.default_rng(seed)
    moving = boxed(atoms).copy()
    moving.set_constraint(FixAtoms(frozen_atoms(atoms)) if len(frozen_atoms(atoms)) else None)
    moving.calc = calculator
    MaxwellBoltzmannDistribution(moving, temperature_K=temperature_K, rng=rng)
    step, friction = settings.timestep_fs * units.fs, 0.01 / units.fs
    dynamics = Langevin(moving, step, temperature_K=temperature_K, friction=friction, rng=rng, fixcm=False)
    frames = []
    for _ in range(settings.n_frames):
        dynamics.run(settings.interval_steps)
        # the frames are to be compared with a potential: forces without what holds the frozen atoms
        forces, energy = moving.get_forces(apply_constraint=False), moving.get_potential_energy()
        free = calculator.results.get("free_energy")  # what the forces derive from, as in the labels
        frame = moving.copy()
        frame.set_constraint()
        frame.calc = SinglePointCalculator(frame, energy=energy if free is None else free, forces=forces)
        frames.append(frame)
    return frames
