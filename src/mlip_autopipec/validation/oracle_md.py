"""Fresh frames of the oracle's own MD: the error that counts, on configurations nobody selected."""

from __future__ import annotations

import json
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
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.structures.periodicity import boxed

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@dataclass(frozen=True)
class MDState:
    """
    A frame of the oracle's MD, from which it can go on to the last bit.

    Parameters
    ----------
    frame
        With velocities and, in an attached calculator, energy (eV), forces (eV/A) and, if the oracle gives it, stress
        (eV/A^3).
    random
        State of the random numbers, as JSON.
    """

    frame: Atoms
    random: str


def oracle_md_frames(
    atoms: Atoms, calculator: Calculator, temperature_K: float, settings: ValidationSettings, seed: int
) -> list[Atoms]:
    """Run Langevin MD with the oracle and return labelled frames; parameters as for :func:`oracle_md_states`."""
    return [state.frame for state in oracle_md_states(atoms, calculator, temperature_K, settings, seed)]


def oracle_md_states(
    atoms: Atoms,
    calculator: Calculator,
    temperature_K: float,
    settings: ValidationSettings,
    seed: int,
    start: MDState | None = None,
    n_done: int = 0,
) -> Iterator[MDState]:
    """
    Run Langevin MD with the oracle, frame by frame.

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
    start, n_done
        Go on from this state, after so many frames.
    """
    if settings.timestep_fs is None:
        raise InvalidInputError("MD of the oracle needs a time step; give settings.timestep_fs")
    if settings.n_frames < 1 or settings.interval_steps < 1:
        raise InvalidInputError(f"validation needs n_frames and interval_steps of at least 1, got {settings}")
    rng = np.random.default_rng(seed)
    moving = (boxed(atoms) if start is None else start.frame).copy()
    held = frozen_atoms(moving)
    moving.set_constraint(FixAtoms(held) if len(held) else None)
    moving.calc = calculator
    if start is None:
        MaxwellBoltzmannDistribution(moving, temperature_K=temperature_K, rng=rng)
    else:
        rng.bit_generator.state = json.loads(start.random)
    step, friction = settings.timestep_fs * units.fs, 0.01 / units.fs
    dynamics = Langevin(moving, step, temperature_K=temperature_K, friction=friction, rng=rng, fixcm=False)
    has_stress = "stress" in calculator.implemented_properties and moving.cell.rank == 3
    for _ in range(settings.n_frames - n_done):
        dynamics.run(settings.interval_steps)
        forces, energy = raw_forces(moving), moving.get_potential_energy()
        free = calculator.results.get("free_energy")  # what the forces derive from, as in the labels
        results = {"energy": energy if free is None else free, "forces": forces}
        if has_stress:
            results["stress"] = moving.get_stress(apply_constraint=False)
        frame = moving.copy()
        frame.set_constraint()
        frame.calc = SinglePointCalculator(frame, **results)
        yield MDState(frame, json.dumps(rng.bit_generator.state))
