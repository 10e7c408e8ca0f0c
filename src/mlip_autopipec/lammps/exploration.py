"""One MD run that halts on gamma: what goes in, what comes out, and which engine runs it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.generate.distances import shortest_contact

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.ace.potential import ACEPotential

Engine = Literal["auto", "library", "executable"]


class WalkStatus(StrEnum):
    """How one MD run ended."""

    CONVERGED = "CONVERGED"
    HALTED = "HALTED"


class HaltReason(StrEnum):
    """Why MD halted."""

    GAMMA = "gamma"
    CORE_REPULSION = "core_repulsion"
    EXPLOSION = "explosion"
    LOST_ATOMS = "lost_atoms"
    NOT_FINITE = "not_finite"


@dataclass
class Condition(MSONable):
    """
    What a walker is held at.

    Parameters
    ----------
    temperature_K
        Target temperature in K.
    pressure_GPa
        Target pressure in GPa; read with ``ensemble="npt"`` only.
    temperature_end_K
        Where a linear ramp over the whole run ends; None keeps ``temperature_K``.
    """

    temperature_K: float
    pressure_GPa: float = 0.0
    temperature_end_K: float | None = None

    def check(self) -> None:
        """Refuse temperatures that are not positive."""
        for name in ("temperature_K", "temperature_end_K"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInputError(f"Condition.{name} is {value}; it has to be positive")

    def temperature_at(self, fraction: float) -> float:
        """Target temperature in K after ``fraction`` (0 to 1) of the run."""
        end = self.temperature_K if self.temperature_end_K is None else self.temperature_end_K
        return self.temperature_K + (end - self.temperature_K) * fraction


@dataclass
class MDSettings(MSONable):
    """
    How MD is run and when it halts.

    Parameters
    ----------
    n_steps
        Length of the whole run in steps; a resumed run does what is left of it.
    timestep_fs
        Time step in fs.
    ensemble
        ``nve``, ``nvt`` (Nose-Hoover) or ``npt`` (isotropic Nose-Hoover).
    thermostat_damping_fs, barostat_damping_fs
        Damping times in fs.
    gamma_lo, gamma_hi
        Frames above ``gamma_lo`` are kept as candidates; above ``gamma_hi`` MD halts.
    gamma_every
        Steps between two looks at gamma.
    max_frames
        Most frames kept between the thresholds; beyond it every second one is dropped.
    temperature_limit_K
        Above this instantaneous temperature the run counts as exploded. None: ten times the
        target, at least 5000 K.
    """

    n_steps: int = 10_000
    timestep_fs: float = 1.0
    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    thermostat_damping_fs: float = 100.0
    barostat_damping_fs: float = 1000.0
    gamma_lo: float = 2.0
    gamma_hi: float = 10.0
    gamma_every: int = 10
    max_frames: int = 20
    temperature_limit_K: float | None = None

    def check(self) -> None:
        """Refuse values that cannot be meant, naming the field and the value."""
        for name in (
            "n_steps",
            "timestep_fs",
            "gamma_every",
            "thermostat_damping_fs",
            "barostat_damping_fs",
            "gamma_lo",
        ):
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"MDSettings.{name} is {getattr(self, name)!r}; it has to be positive")
        if self.gamma_hi < self.gamma_lo:
            raise InvalidInputError(f"MDSettings.gamma_hi is {self.gamma_hi}, below gamma_lo = {self.gamma_lo}")
        if self.ensemble not in ("nve", "nvt", "npt"):
            raise InvalidInputError(f"MDSettings.ensemble is {self.ensemble!r}; nve, nvt and npt are known")
        if self.max_frames < 0:
            raise InvalidInputError(f"MDSettings.max_frames is {self.max_frames}; it cannot be negative")

    def hottest_allowed_K(self, condition: Condition) -> float:
        """Instantaneous temperature in K above which the run counts as exploded."""
        if self.temperature_limit_K is not None:
            return self.temperature_limit_K
        return max(5000.0, 10 * max(condition.temperature_at(0), condition.temperature_at(1)))


@dataclass
class HaltStructure:
    """
    Where MD left known territory.

    Parameters
    ----------
    atoms
        The halted frame with velocities and, as array ``gamma``, the grade of every atom.
        After an explosion the last sane frame.
    step
        MD step at which MD halted.
    reason
        Why MD halted.
    gamma_max
        Largest grade at the halt (infinite where it could not be computed).
    atom_index
        Atom of largest grade.
    """

    atoms: Atoms
    step: int
    reason: HaltReason
    gamma_max: float
    atom_index: int


@dataclass
class ExplorationResult:
    """
    Outcome of :func:`run_exploration`.

    Parameters
    ----------
    status
        CONVERGED when all steps were done, else HALTED.
    step
        MD step of ``final``, counted over all resumptions: where to resume. After an explosion
        it is earlier than the halt.
    final
        Last sane frame with velocities.
    halt
        Set when halted.
    frames
        Frames between the two thresholds (array ``gamma``; ``info``: ``step``, ``gamma_max``).
    trace
        Equally long lists ``step``, ``temperature_K``, ``potential_energy_eV``,
        ``pressure_GPa``, ``volume_A3``, ``gamma_max``.
    seconds
        Wall time.
    engine
        The engine that ran.
    restart_file
        LAMMPS restart file of the final state, where the engine wrote one.
    """

    status: WalkStatus
    step: int
    final: Atoms
    halt: HaltStructure | None
    frames: list[Atoms] = field(default_factory=list)
    trace: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    engine: str = ""
    restart_file: str | None = None


def run_exploration(
    atoms: Atoms | None,
    potential: ACEPotential,
    condition: Condition,
    settings: MDSettings,
    *,
    start_step: int = 0,
    seed: int = 0,
    restart_file: str | Path | None = None,
    engine: Engine = "auto",
    directory: str | Path = ".",
) -> ExplorationResult:
    """
    Run MD from ``start_step`` to ``settings.n_steps`` or to the first halt.

    The engine runs in a process of its own, in a folder below ``directory``.

    Parameters
    ----------
    atoms
        Structure to start from. Velocities are kept where it has them, else drawn from a
        Maxwell-Boltzmann distribution with ``seed``. None with a ``restart_file``.
    potential
        With its active set.
    condition
        Temperature (K) and pressure (GPa).
    settings
        How to run and when to halt.
    start_step
        Steps already done, for a resumed run.
    seed
        For the velocities.
    restart_file
        A LAMMPS restart file to continue instead of ``atoms``; its atom types are the
        potential's elements in alphabetical order.
    engine
        ``library``: LAMMPS as a Python library with forces from pyace. ``executable``: the
        ``lmp`` command with ``pair_style pace/extrapolation``. ``auto``: the executable
        where it has that style, else the library.
    directory
        Where the run folder is made.

    Raises
    ------
    InvalidInputError
        Before anything is run, for input that cannot be meant.
    ExplorationError
        If the MD process crashed; the message names the folder and ends with the log.
    """
    from mlip_autopipec.lammps import executable, library

    settings.check()
    _check_input(atoms, potential, condition, settings, start_step, restart_file)
    if engine not in ("auto", "library", "executable"):
        raise InvalidInputError(f"engine is {engine!r}; auto, library and executable are known")
    if engine == "auto":
        engine = "executable" if executable.is_available() else "library"
    if atoms is not None:
        atoms = with_velocities(atoms, condition.temperature_at(start_step / settings.n_steps), seed)
    run = {"library": library.run, "executable": executable.run}[engine]
    started = time.perf_counter()
    result = run(
        atoms,
        potential,
        condition,
        settings,
        start_step=start_step,
        restart_file=None if restart_file is None else Path(restart_file).resolve(),
        directory=Path(directory),
    )
    result.seconds = time.perf_counter() - started
    result.engine = engine
    return result


def with_velocities(atoms: Atoms, temperature_K: float, seed: int) -> Atoms:
    """Return a copy that has velocities: its own, or drawn for ``temperature_K``, without net momentum."""
    copy = atoms.copy()
    if not copy.has("momenta") and len(copy) > 1:
        MaxwellBoltzmannDistribution(copy, temperature_K=temperature_K, rng=np.random.default_rng(seed))
        Stationary(copy)
        scale = temperature_K / max(copy.get_kinetic_energy() / (1.5 * (len(copy) - 1) * units.kB), 1e-12)
        copy.set_momenta(copy.get_momenta() * np.sqrt(scale))
    return copy


def _check_input(
    atoms: Atoms | None,
    potential: ACEPotential,
    condition: Condition,
    settings: MDSettings,
    start_step: int,
    restart_file: str | Path | None,
) -> None:
    condition.check()
    if not potential.active_set_inverse:
        raise InvalidInputError("the potential has no active set, so MD could never halt; give its .asi file")
    # a walk that halted at its very last step is resumed there, to look at that frame once more
    potential.active_set_matrices()
    if not 0 <= start_step <= settings.n_steps:
        raise InvalidInputError(f"start_step is {start_step}, outside of 0 to n_steps = {settings.n_steps}")
    if (atoms is None) == (restart_file is None):
        raise InvalidInputError("give either a structure or a restart_file to start MD from, not both or neither")
    if restart_file is not None and not Path(restart_file).is_file():
        raise InvalidInputError(f"restart_file '{restart_file}' does not exist")
    if atoms is not None:
        check_structure(atoms)
        potential.check_elements(atoms)


def check_structure(atoms: Atoms) -> None:
    """Refuse a structure MD and ACE cannot work on: empty, not fully periodic, or with atoms on top of each other."""
    formula = atoms.get_chemical_formula()
    if len(atoms) == 0:
        raise InvalidInputError("a structure to start MD from is empty (0 atoms)")
    if not all(atoms.pbc) or atoms.cell.rank != 3:
        raise InvalidInputError(
            f"the structure {formula} has pbc = {list(map(bool, atoms.pbc))} and cell lengths {atoms.cell.lengths()}; "
            "ACE and MD need all three directions periodic: put slabs and clusters into a cell with vacuum"
        )
    contact = shortest_contact(atoms, ratio=0.3)
    if contact is not None:
        raise InvalidInputError(
            f"{contact[0]} and {contact[1]} are {contact[2]:.2f} A apart in {formula}; {contact[3]:.2f} A are the least"
        )
