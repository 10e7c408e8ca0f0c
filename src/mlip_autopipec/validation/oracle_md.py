"""Fresh frames of the oracle's own MD: the error that counts, on configurations nobody selected."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.md.langevin import Langevin
from ase.md.nptberendsen import Inhomogeneous_NPTBerendsen, NPTBerendsen
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from mlip_autopipec.errors import InvalidInputError, check_whole
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.structures.electrons import charge_of
from mlip_autopipec.structures.frozen import frozen_atoms
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.structures.periodicity import boxed, goes_on_along

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from mlip_autopipec.lammps.types import Barostat

#: The cell is adapted to the pressure every so many steps: each time costs one more evaluation of the oracle.
_BAROSTAT_EVERY = 10
#: Relaxation time of the volume in fs for a material of that compressibility in 1/GPa; in others it goes with it.
_BAROSTAT_DAMPING_FS, _COMPRESSIBILITY_PER_GPA = 300.0, 0.01


@dataclass
class ValidationSettings:
    """
    MD with the oracle itself, for oracles that are an ASE calculator.

    Parameters
    ----------
    n_frames
        Frames taken per structure and condition: half of them, rounded up, in MD from the start, the others in MD from
        where the walker ended.
    interval_steps
        MD steps between two frames; as many go by before the first.
    timestep_fs
        Time step in fs; None takes that of the campaign's MD.
    """

    n_frames: int = 10
    interval_steps: int = 100
    timestep_fs: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are not whole."""
        for name in ("n_frames", "interval_steps"):
            check_whole(f"ValidationSettings.{name}", getattr(self, name))

    def halves(self) -> tuple[ValidationSettings, ValidationSettings | None]:
        """Return the settings of MD from the start, and of that from where the walker ended; None without frames."""
        late = self.n_frames // 2
        return replace(self, n_frames=self.n_frames - late), replace(self, n_frames=late) if late else None


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
    atoms: Atoms,
    calculator: Calculator,
    condition: float | Condition,
    settings: ValidationSettings,
    seed: int,
    barostat: Barostat | None = None,
) -> list[Atoms]:
    """Run Langevin MD with the oracle and return labelled frames; parameters as for :func:`oracle_md_states`."""
    states = oracle_md_states(atoms, calculator, condition, settings, seed, barostat=barostat)
    return [state.frame for state in states]


def oracle_md_states(
    atoms: Atoms,
    calculator: Calculator,
    condition: float | Condition,
    settings: ValidationSettings,
    seed: int,
    start: MDState | None = None,
    n_done: int = 0,
    barostat: Barostat | None = None,
) -> Iterator[MDState]:
    """
    Run Langevin MD with the oracle, frame by frame.

    Parameters
    ----------
    atoms
        Structure to start from; vacuum is added where it is not periodic, and its frozen atoms rest.
    calculator
        The oracle.
    condition
        Temperature in K, or with a ramp, which reaches its end at the last frame, and a pressure.
    settings
        How many frames, how far apart.
    seed
        Of velocities and thermostat.
    start, n_done
        Go on from this state, after so many frames.
    barostat
        How the cell follows the pressure (Berendsen's weak coupling), along directions without vacuum: ``isotropic``
        scales a bulk cell, the others change its lengths. None: the cell stays.

    Raises
    ------
    InvalidInputError
        For settings without a time step or frames, and for a barostat with an oracle that gives no stress.
    """
    condition = condition if isinstance(condition, Condition) else Condition(float(condition))
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
        MaxwellBoltzmannDistribution(moving, temperature_K=condition.temperature_K, rng=rng)
    else:
        rng.bit_generator.state = json.loads(start.random)
    step, friction = settings.timestep_fs * units.fs, 0.01 / units.fs
    dynamics = Langevin(moving, step, temperature_K=condition.temperature_K, friction=friction, rng=rng, fixcm=False)
    if barostat is not None and not has_stress(moving, calculator):
        raise InvalidInputError(
            f"validation: MD under a pressure needs stresses, and {type(calculator).__name__} gives none; remove the "
            "section validation, or take ensemble: nvt"
        )
    volume = None if barostat is None else _barostat(moving, step, condition, barostat)
    for number in range(n_done, settings.n_frames):
        dynamics.set_temperature(temperature_K=condition.temperature_at((number + 1) / settings.n_frames))
        if volume is None:
            dynamics.run(settings.interval_steps)
        for done in range(0, settings.interval_steps if volume is not None else 0, _BAROSTAT_EVERY):
            n_steps = min(_BAROSTAT_EVERY, settings.interval_steps - done)
            assert volume is not None
            volume.set_timestep(n_steps * step)
            volume.scale_positions_and_cell()  # from the present stress, so that a run that goes on does the same
            dynamics.run(n_steps)
        yield MDState(with_label(moving, calculator), json.dumps(rng.bit_generator.state))


def with_label(atoms: Atoms, calculator: Calculator) -> Atoms:
    """
    Return a copy that carries what a calculator says of a structure.

    Returns
    -------
    Atoms
        With energy (eV) that the forces derive from, forces (eV/A) of all atoms, and, if the calculator gives it and
        the cell has no charge, stress (eV/A^3).
    """
    atoms.calc = calculator
    forces, energy = raw_forces(atoms), atoms.get_potential_energy()
    free = calculator.results.get("free_energy")
    results = {"energy": energy if free is None else free, "forces": forces}
    if has_stress(atoms, calculator) and not charge_of(atoms):  # it holds the background that makes the cell neutral
        results["stress"] = atoms.get_stress(apply_constraint=False)
    frame = atoms.copy()
    frame.set_constraint()
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def has_stress(atoms: Atoms, calculator: Calculator) -> bool:
    """Whether a calculator gives a stress, and the structure has a cell that one belongs to."""
    return "stress" in calculator.implemented_properties and atoms.cell.rank == 3


def _barostat(moving: Atoms, step: float, condition: Condition, kind: Barostat) -> NPTBerendsen:
    """Make what adapts the cell to the pressure; it has no state of its own."""
    words: dict[str, Any] = {
        "temperature_K": condition.temperature_K,
        "pressure_au": condition.pressure_GPa * units.GPa,
        "taup": _BAROSTAT_DAMPING_FS * units.fs,
        "compressibility_au": _COMPRESSIBILITY_PER_GPA / units.GPa,
    }
    along = goes_on_along(moving)
    if kind == "isotropic" and along.all():
        return NPTBerendsen(moving, step, **words)
    return Inhomogeneous_NPTBerendsen(moving, step, mask=tuple(int(on) for on in along), **words)
