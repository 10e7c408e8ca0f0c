"""What goes into one MD run that halts on gamma, and what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, get_args

from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError, check_whole
from mlip_autopipec.lammps.bias import BiasSettings
from mlip_autopipec.lammps.colvars import check_configuration
from mlip_autopipec.lammps.swaps import SwapCount, SwapSettings

if TYPE_CHECKING:
    from ase import Atoms

Engine = Literal["auto", "library", "executable"]
Barostat = Literal["isotropic", "anisotropic", "triclinic"]


class WalkStatus(StrEnum):
    """How one MD run ended."""

    CONVERGED = "CONVERGED"
    """All steps were done without a halt."""
    HALTED = "HALTED"
    """It stopped for a :class:`HaltReason`; the frame is kept."""
    TIMED_OUT = "TIMED_OUT"
    """The wall time was over; another run continues from its restart file."""


class HaltReason(StrEnum):
    """Why MD halted."""

    GAMMA = "gamma"
    """An atom's gamma reached the upper threshold."""
    UNSEEN = "unseen"
    """A pair or triplet of elements is missing in the training set: counts as infinite gamma, and MD does not start."""
    FORCE_ERROR = "force_error"
    """The expected error of the force on an atom is above ``max_force_std_eV_A`` or ``max_relative_force_std``."""
    CORE_REPULSION = "core_repulsion"
    """A pair came into the repulsive core, which gamma does not see."""
    EXPLOSION = "explosion"
    """Too hot, too large a volume, or gamma beyond ``gamma_explosion``."""
    EVAPORATION = "evaporation"
    """Atoms left a slab, wire or cluster: they are farther than the cutoff from the rest, where gamma sees nothing."""
    LOST_ATOMS = "lost_atoms"
    """LAMMPS lost atoms: they moved too far between two neighbour lists."""
    NOT_FINITE = "not_finite"
    """An energy, a temperature or a position is not finite."""

    @property
    def verdict(self) -> HaltVerdict:
        """What a halt for this reason is."""
        return _VERDICTS[self]


class HaltVerdict(StrEnum):
    """Class of a halt. It decides which frame is labelled and where MD resumes."""

    NOVELTY = "novelty"
    """The halted frame is sampled and labelled; MD resumes from it."""
    SHORT_CONTACT = "short_contact"
    """The same for any gamma, since gamma does not see the core."""
    EXPLOSION = "explosion"
    """The frame is invalid: the last valid one is labelled, and MD resumes from it."""
    REPEAT = "repeat"
    """The halted frame was trained on before: an error, which ends the loop."""


_VERDICTS = {
    HaltReason.GAMMA: HaltVerdict.NOVELTY,
    HaltReason.UNSEEN: HaltVerdict.NOVELTY,
    HaltReason.FORCE_ERROR: HaltVerdict.NOVELTY,
    HaltReason.CORE_REPULSION: HaltVerdict.SHORT_CONTACT,
    HaltReason.EXPLOSION: HaltVerdict.EXPLOSION,
    HaltReason.EVAPORATION: HaltVerdict.EXPLOSION,
    HaltReason.LOST_ATOMS: HaltVerdict.EXPLOSION,
    HaltReason.NOT_FINITE: HaltVerdict.EXPLOSION,
}


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
        Where a linear ramp over the whole run ends; None keeps ``temperature_K``. Refused with ``ensemble="nve"``.
    colvars
        Text of a Colvars configuration (in a run file also the name of a file that holds it), with the collective
        variables and what acts on them, such as metadynamics: MD goes where plain MD takes too long to get to. Its
        frames are no part of a check. None: plain MD.
    """

    temperature_K: float
    pressure_GPa: float = 0.0
    temperature_end_K: float | None = None
    colvars: str | None = None

    def check(self) -> None:
        """Refuse temperatures that are not positive."""
        for name in ("temperature_K", "temperature_end_K"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidInputError.of(f"Condition.{name}", f"is {value}; it has to be positive and finite")
        if not math.isfinite(self.pressure_GPa):
            raise InvalidInputError.of("Condition.pressure_GPa", f"is {self.pressure_GPa}; give a finite number")
        if self.colvars is not None:
            check_configuration(self.colvars)

    def temperature_at(self, fraction: float) -> float:
        """Target temperature in K after ``fraction`` (0 to 1) of the run."""
        end = self.temperature_K if self.temperature_end_K is None else self.temperature_end_K
        return self.temperature_K + (end - self.temperature_K) * fraction


#: Larger than the expansion of any solid, including melting, before it evaporates.
MAX_EXPANSION = 1.5
#: Settings that are positive where they are given.
_POSITIVE = ("temperature_limit_K", "volume_limit_A3", "wall_time_s", "max_force_std_eV_A", "max_relative_force_std")


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
        ``nve``, ``nvt`` or ``npt`` (Nose-Hoover).
    barostat
        Changes of the cell by ``npt``: ``isotropic`` scales it, for cubic crystals, melts and glasses;
        ``anisotropic`` changes the three axes independently, for orthorhombic, tetragonal and hexagonal cells;
        ``triclinic`` the angles too.
    thermostat_damping_fs, barostat_damping_fs
        Damping times in fs.
    gamma_lo, gamma_hi
        Frames above ``gamma_lo`` are kept as candidates; above ``gamma_hi`` MD halts.
    gamma_explosion
        A grade beyond this one, with a valid frame before it, counts as an explosion. None: no limit, since gamma is
        also very large in valid frames with unseen pairs of elements.
    gamma_every
        MD steps between two evaluations of gamma.
    max_frames
        Most frames kept between the thresholds; beyond it every second one is dropped.
    temperature_limit_K
        Above this instantaneous temperature the run counts as exploded. None: ten times the
        target, at least 5000 K.
    volume_limit_A3
        Above this volume in A^3 the run counts as exploded: gamma is low in a gas, so a cell that evaporates would
        count as a completed run. None: :data:`MAX_EXPANSION` times that of the structure the whole run began with.
    wall_time_s
        Wall time in s after which a run writes a restart file and ends, for another job to
        continue; set it below the limit of the batch queue. LAMMPS takes whole seconds and reads
        its clock every ``gamma_every`` steps. None: no limit.
    halt_on_break_up
        Whether MD of a slab, wire or cluster that begins as one piece halts when pieces of it, of any size, are farther
        apart than the cutoff. Without, only single atoms that leave halt it.
    max_force_std_eV_A
        MD also halts where the expected error of the force on an atom (root mean square of its length) is above this,
        in eV/A. It needs the posterior of a linear fit and the library engine, and costs as much as ten to thirty
        evaluations in cells of up to about 250 atoms, more in larger ones, every
        ``gamma_every`` steps. None: gamma alone halts MD.
    max_relative_force_std
        Where that is None, the library engine has MD with a linear potential halt where gamma is above ``gamma_lo`` and
        that expected error above this share of the usual force (root mean square, of the median label). Only in cells
        where it takes less than about a second. None: gamma alone.
    swap
        Exchanges of two atoms of different elements between MD steps (Monte Carlo), with which alloys reach orders that
        diffusion does not reach in the time of MD. None: no exchanges.
    bias
        Biased MD before plain MD: each walker first makes a walk that is driven to where the energy is uncertain, then
        begins again without the bias; only plain MD converges and is checked. It needs the posterior of a linear fit
        and the library engine. None: plain MD alone.
    template
        Text of a LAMMPS input template that replaces the package's own; see docs/lammps.md.
    """

    n_steps: int = 10_000
    timestep_fs: float = 1.0
    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    thermostat_damping_fs: float = 100.0
    barostat_damping_fs: float = 1000.0
    gamma_lo: float = 2.0
    gamma_hi: float = 10.0
    gamma_explosion: float | None = None
    gamma_every: int = 10
    max_frames: int = 20
    temperature_limit_K: float | None = None
    volume_limit_A3: float | None = None
    wall_time_s: float | None = None
    template: str | None = None
    barostat: Barostat = "isotropic"
    halt_on_break_up: bool = True
    max_force_std_eV_A: float | None = None
    max_relative_force_std: float | None = 0.5
    swap: SwapSettings | None = None
    bias: BiasSettings | None = None

    def __post_init__(self) -> None:
        """Take plain data, as of a run file or of the input of an engine, for the sections."""
        if isinstance(self.swap, dict):
            self.swap = SwapSettings(**self.swap)
        if isinstance(self.bias, dict):
            self.bias = BiasSettings(**self.bias)

    def check(self) -> None:
        """Refuse invalid values, naming the field and the value."""
        for name in (
            "n_steps",
            "timestep_fs",
            "gamma_every",
            "thermostat_damping_fs",
            "barostat_damping_fs",
            "gamma_lo",
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInputError.of(f"MDSettings.{name}", f"is {getattr(self, name)!r}; it has to be positive")
        for name in ("n_steps", "gamma_every", "max_frames"):
            check_whole(f"MDSettings.{name}", getattr(self, name))
        if self.gamma_hi < self.gamma_lo:
            raise InvalidInputError.of("MDSettings.gamma_hi", f"is {self.gamma_hi}, below gamma_lo = {self.gamma_lo}")
        if self.explosive_gamma < self.gamma_hi:
            raise InvalidInputError.of(
                "MDSettings.gamma_explosion", f"is {self.gamma_explosion}, below gamma_hi = {self.gamma_hi}"
            )
        if self.ensemble not in ("nve", "nvt", "npt"):
            raise InvalidInputError.of("MDSettings.ensemble", f"is {self.ensemble!r}; nve, nvt and npt are known")
        if self.barostat not in get_args(Barostat):
            raise InvalidInputError.of(
                "MDSettings.barostat", f"is {self.barostat!r}; {', '.join(get_args(Barostat))} are known"
            )
        if self.max_frames < 0:
            raise InvalidInputError.of("MDSettings.max_frames", f"is {self.max_frames}; it cannot be negative")
        for optional in _POSITIVE:
            value = getattr(self, optional)
            if value is not None and not value > 0:
                raise InvalidInputError.of(f"MDSettings.{optional}", f"is {value!r}; it has to be positive, or None")
        if self.swap is not None:
            self.swap.check(self.gamma_every, self.ensemble)
        if self.bias is not None:
            self.bias.check(self.ensemble)

    @property
    def reads_posterior(self) -> bool:
        """Whether MD in the library engine looks at the error bars of a potential that has them."""
        return self.needs_posterior is not None or self.max_relative_force_std is not None

    @property
    def needs_posterior(self) -> str | None:
        """The setting that needs the error bars of a potential, which the library engine alone knows; None without."""
        return next((name for name in ("max_force_std_eV_A", "bias") if getattr(self, name) is not None), None)

    @property
    def explosive_gamma(self) -> float:
        """Grade beyond which a frame counts as exploded."""
        return math.inf if self.gamma_explosion is None else self.gamma_explosion

    @property
    def largest_volume_A3(self) -> float:
        """Volume in A^3 above which the run counts as exploded; infinite where no limit is known."""
        return math.inf if self.volume_limit_A3 is None else self.volume_limit_A3

    def begun_with(self, volume_A3: float | None) -> MDSettings:
        """Return the settings for a run whose first structure has this volume (A^3), None if that is unknown."""
        if volume_A3 is None:
            return self
        limit = MAX_EXPANSION * volume_A3 if self.volume_limit_A3 is None else self.volume_limit_A3
        bias = self.bias
        if bias is not None and bias.volume_A3 is None:
            bias = replace(bias, volume_A3=volume_A3)
        return replace(self, volume_limit_A3=limit, bias=bias)

    def of_walk(self, *, is_biased: bool) -> MDSettings:
        """Return the settings of one walk: of the biased one that explores first, or of plain MD."""
        if self.bias is None or not is_biased:
            return replace(self, bias=None)
        return replace(self, n_steps=self.n_steps if self.bias.n_steps is None else self.bias.n_steps)

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
        After an explosion the last valid frame.
    step
        MD step at which MD halted.
    reason
        Why MD halted.
    gamma_max
        Largest grade at the halt (infinite where it could not be computed).
    atom_index
        Atom of largest grade, or of largest expected error.
    force_std_eV_A
        Largest expected error of the force on an atom, where that halted MD.
    """

    atoms: Atoms
    step: int
    reason: HaltReason
    gamma_max: float
    atom_index: int
    force_std_eV_A: float | None = None


@dataclass
class ExplorationResult:
    """
    Outcome of :func:`run_exploration`.

    Parameters
    ----------
    status
        CONVERGED when all steps were done, HALTED, or TIMED_OUT.
    step
        MD step of ``final``, counted over all resumptions: where to resume. After an explosion
        it is earlier than the halt.
    final
        Last valid frame with velocities.
    halt
        Set when halted.
    frames
        Frames between the two thresholds (array ``gamma``; ``info``: ``step``, ``gamma_max``).
    spread
        A few frames of the whole way, whatever their gamma (``info``: ``step``), for a check of the potential.
    trace
        Equally long lists ``step``, ``temperature_K``, ``potential_energy_eV``,
        ``pressure_GPa``, ``volume_A3``, ``gamma_max``.
    seconds
        Wall time.
    engine
        The engine that ran.
    swaps
        Exchanges of atoms that were tried and done; None where none were asked for.
    restart_file
        LAMMPS restart file of the final state; None where ``final`` is an earlier, valid frame.
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
    spread: list[Atoms] = field(default_factory=list)
    swaps: SwapCount | None = None
