"""The LAMMPS input of an exploration, rendered from a template, and the names of the files it writes."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jinja2 import Environment, StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps import structures
from mlip_autopipec.lammps.cell import MDCell
from mlip_autopipec.lammps.colvars import CONFIGURATION
from mlip_autopipec.lammps.swaps import fixes
from mlip_autopipec.seeds import SeedPurpose, derive_seed
from mlip_autopipec.structures.frozen import frozen_atoms
from mlip_autopipec.structures.masses import mass_of_elements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from mlip_autopipec.lammps.swaps import SwapSettings
    from mlip_autopipec.lammps.types import Condition, MDSettings

#: The template of this package; ``MDSettings.template`` takes its place.
TEMPLATE = "exploration.lmp"

INPUT, LOG, SCREEN = "in.lammps", "log.lammps", "screen.log"
STRUCTURE, START_RESTART = "structure.data", "start.restart"
TRACE, FRAMES, LOOKS, FIRST = "trace.dat", "frames.dump", "look.*.dump", "first.dump"
SPREAD = "spread.dump"
FINAL, RESTART = "final.dump", "final.restart"
#: Last line in the log of an input script that LAMMPS executed to its end, halted or not.
END = "EXPLORATION_END"
#: Line in the log with the exchanges of atoms.
SWAPS = "EXPLORATION_SWAPS"

#: Columns of the trace file. ``stop`` is 0, or the sum of the :data:`STOP` that apply.
TRACE_COLUMNS = ("step", "temperature", "energy", "pressure", "volume", "gamma", "stop")
#: Why to halt, by weight: the larger one decides.
STOP = {"force_error": 32, "evaporation": 16, "not_finite": 8, "explosion": 4, "gamma": 2, "core_repulsion": 1}

#: Skin of the neighbour list in Angstrom. With forces from pyace each pair beyond the cutoff
#: costs more, a rebuild less.
SKIN_A = {"executable": 1.0, "library": 0.7}
#: Files of the last grading steps that are kept: the present one, the one before, and one more because
#: LAMMPS counts a step twice when it writes it again at the start of a run.
KEPT_LOOKS = 3
#: Frames between the thresholds that LAMMPS may write for each one that is kept, so that a
#: long run cannot fill the disk.
DUMPED_PER_FRAME = 50

#: Frames of a run, spread over its way, that are kept whatever their gamma.
N_SPREAD = 4

_FRAME = "id type x y z vx vy vz"
_BOTH = {
    r"^timestep\s": "timestep: the time step",
    r"^reset_timestep\s": "reset_timestep: a resumed run counts on",
    r"^newton\s+on\b": "newton on: ACE needs it",
    r"^thermo_modify\s.*\blost\s+error\b": "thermo_modify ... lost error: lost atoms end the run",
}
#: What a rendered template has to hold, a regular expression each, and what it is for.
NEEDED: dict[str, dict[str, str]] = {
    "executable": _BOTH
    | {
        r"^pair_style\s+pace/extrapolation\b": "pair_style pace/extrapolation: ACE with gamma",
        r"^fix\s+\S+\s+all\s+pair\s.*\bgamma\s+1\b": "fix ... pair ... gamma 1: gamma of every atom",
        rf"^fix\s.*\sprint\s.*\bfile\s+{re.escape(TRACE)}\b.*\"{' '.join(TRACE_COLUMNS)}\"": (
            f'fix ... print ... file {TRACE} ... title "{" ".join(TRACE_COLUMNS)}": the numbers of each grading step'
        ),
        rf"^dump\s.*\s{re.escape(LOOKS)}\s+{_FRAME} f_grade\[1\]": (
            f"dump ... {LOOKS} {_FRAME} f_grade[1]: the last grading steps, from which a halt takes its frame"
        ),
        rf"^dump\s.*\s{re.escape(FIRST)}\s+{_FRAME} fx fy fz f_grade\[1\]": (
            f"dump ... {FIRST} {_FRAME} fx fy fz f_grade[1]: the first frame, checked against pyace"
        ),
        r"^fix\s+\S+\s+all\s+halt\s.*\berror\s+soft\b": "fix ... halt ... error soft: the halt that keeps its frame",
        rf"^write_dump\s.*\s{re.escape(FINAL)}\s+{_FRAME}\b": f"write_dump ... {FINAL} {_FRAME}: the last frame",
        rf"^write_restart\s+{re.escape(RESTART)}\b": f"write_restart {RESTART}: where a further job goes on",
        rf"^print\s+\"{END} step ": f'print "{END} step ${{...}}": the sign that the input ran to its end',
    },
    "library": _BOTH
    | {
        r"^pair_style\s+zero\s+\S+\s+full\b": "pair_style zero ... full: the neighbour list pyace works on",
        r"^fix\s+ace\s+all\s+external\s+pf/callback\s+1\s+1\b": "fix ace all external pf/callback 1 1: forces of pyace",
    },
}


def render(
    elements: Sequence[str],
    condition: Condition,
    settings: MDSettings,
    *,
    engine: Literal["library", "executable"],
    start_step: int = 0,
    from_restart: bool = False,
    cutoff_A: float = 0.0,
    masses: Sequence[float] | None = None,
    cell: MDCell | None = None,
    atoms: Atoms | None = None,
    seed: int = 0,
) -> str:
    """
    Return the input of one exploration.

    Parameters
    ----------
    elements
        Of the potential; atom types 1, 2, ... in this order.
    condition, settings
        What to run and when to halt.
    engine
        Which of the two ways of the template.
    start_step
        Steps already done; a temperature ramp goes on where it was.
    from_restart
        Start from :data:`START_RESTART` instead of :data:`STRUCTURE`.
    cutoff_A
        Of the potential in Angstrom.
    masses
        Of ``elements`` in u; None for those of the elements. A restart file holds its own.
    cell
        Vacuum and frozen atoms; None for bulk in which all atoms move.
    atoms
        What MD moves: atoms of its elements are exchanged. None: of all elements.
    seed
        For exchanges of atoms and collective variables.

    Raises
    ------
    InvalidInputError
        If the template cannot be rendered, or lacks something that is read back; the message names it.
    """
    what = f"the LAMMPS template {TEMPLATE}" if settings.template is None else "MDSettings.template"
    values = _variables(elements, condition, settings, engine, start_step, cell or MDCell()) | {
        "masses": mass_of_elements(elements) if masses is None else list(masses),
        "from_restart": from_restart,
        "cutoff_A": cutoff_A,
        "swap_fixes": _swap_fixes(
            elements, condition, settings, engine, atoms, derive_seed(seed, SeedPurpose.SWAPS, start_step), cell
        ),
    }
    values |= {"colvars": condition.colvars is not None}
    values["colvars_seed"] = derive_seed(seed, SeedPurpose.COLVARS, start_step) % 900_000_000 + 1
    values["swap_ids"] = [line.split()[1] for line in values["swap_fixes"]]
    try:
        text = _compiled(settings.template or shipped_template()).render(values)
    except TemplateError as error:
        line = f" in line {number}" if (number := getattr(error, "lineno", None)) else ""
        raise InvalidInputError.of(
            what, f"cannot be rendered{line}: {error}; the variables are {', '.join(sorted(values))}"
        ) from error
    source = f"read_restart {START_RESTART}" if from_restart else f"read_data {STRUCTURE}"
    needed = NEEDED[engine] | {"^" + re.escape(source).replace(r"\ ", r"\s+"): f"{source}: what it starts from"}
    if settings.wall_time_s is not None and engine == "executable":
        needed[r"^timer\s+timeout\s"] = "timer timeout: the wall-time limit"
    if values["swap_fixes"]:
        needed[r"^fix\s+\S+\s+\S+\s+atom/swap\s"] = "the lines of swap_fixes: the exchanges that dynamics.swap asks for"
    if condition.colvars is not None:
        needed[rf"^fix\s+cv\s+\S+\s+colvars\s+{re.escape(CONFIGURATION)}\b"] = (
            f"fix cv all colvars {CONFIGURATION}: the collective variables of the condition"
        )
    commands = command_lines(text)
    missing = [meaning for pattern, meaning in needed.items() if not any(re.search(pattern, c) for c in commands)]
    if missing:
        raise InvalidInputError.of(
            what,
            f"was rendered for the {engine} engine and lacks what is needed to read the run back:\n  "
            + "\n  ".join(missing)
            + f"\nstart from a copy of the package's own, {shipped_path()}",
        )
    runs = [c for c in commands if re.match(r"(run|minimize|rerun)\s", c)]
    if engine == "library" and runs:
        raise InvalidInputError.of(
            what, f"holds '{runs[0]}' for the library engine, which runs the steps itself; drop it"
        )
    return text


def check_template(elements: Sequence[str], condition: Condition, settings: MDSettings, engine: str) -> None:
    """Refuse a template that could not be read back, before anything is computed (``auto``: for all it may take)."""
    engines = ("library", "executable") if engine == "auto" else (engine,)
    if engine == "auto" and settings.swap is not None and not _has_one_temperature(condition, settings.swap):
        engines = ("library",)  # which auto takes then
    for name in engines:
        for from_restart in (False, True):
            render(elements, condition, settings, engine=name, from_restart=from_restart, cutoff_A=5.0)  # type: ignore[arg-type]


@cache
def shipped_template() -> str:
    """Text of this package's template, to copy and change."""
    return files(__package__).joinpath(TEMPLATE).read_text()


def shipped_path() -> str:
    """Where this package's template lies, to tell a user."""
    return f"{__package__.replace('.', '/')}/{TEMPLATE}"


def command_lines(text: str) -> list[str]:
    """Split LAMMPS input into commands: continued lines joined, without comments and white space."""
    joined = re.sub(r"&[ \t]*\n[ \t]*", "", text)
    return [stripped for line in joined.splitlines() if (stripped := line.strip()) and not stripped.startswith("#")]


def _variables(
    elements: Sequence[str], condition: Condition, settings: MDSettings, engine: str, start_step: int, cell: MDCell
) -> dict[str, Any]:
    """Everything a template may use; docs/lammps.md lists it."""
    every, fs = settings.gamma_every, 1e-3
    return {
        "engine": engine,
        "elements": list(elements),
        "skin_A": SKIN_A[engine],
        "start_step": start_step,
        "n_steps": settings.n_steps,
        "timestep_ps": settings.timestep_fs * fs,
        "ensemble": settings.ensemble,
        "temperature_K": condition.temperature_at(start_step / settings.n_steps),
        "temperature_end_K": condition.temperature_at(1.0),
        "thermostat_damping_ps": settings.thermostat_damping_fs * fs,
        "pressure_bar": condition.pressure_GPa * structures.GPA_TO_BAR,
        "barostat": {"isotropic": "iso", "anisotropic": "aniso", "triclinic": "tri"}[settings.barostat],
        "barostat_damping_ps": settings.barostat_damping_fs * fs,
        "barostat_words": cell.barostat(
            settings.barostat, condition.pressure_GPa * structures.GPA_TO_BAR, settings.barostat_damping_fs * fs
        ),
        "movers": "mobile" if cell.frozen else "all",
        "frozen_ids": [index + 1 for index in cell.frozen],
        "thermometer": "mobile_temp" if cell.frozen else "thermo_temp",
        "evaporates": cell.evaporates,
        "breaks_up": cell.is_one_piece and settings.halt_on_break_up,
        "gamma_lo": settings.gamma_lo,
        "gamma_hi": settings.gamma_hi,
        "gamma_every": every,
        "hottest_K": settings.hottest_allowed_K(condition),
        "largest_A3": min(settings.largest_volume_A3, 1e300),  # LAMMPS reads no infinity
        "stop": STOP,
        "max_frames": settings.max_frames,
        "frames_every": every * max(1, settings.n_steps // every // (DUMPED_PER_FRAME * max(1, settings.max_frames))),
        "spread_every": spread_every(settings),
        "kept_looks": KEPT_LOOKS,
        # LAMMPS takes whole seconds
        "wall_time_s": None if settings.wall_time_s is None else max(1, int(settings.wall_time_s)),
    }


def fixed_temperature(condition: Condition, swap: SwapSettings) -> float:
    """Return the one temperature (K) that ``fix atom/swap`` takes; refuse a ramp without one."""
    if not _has_one_temperature(condition, swap):
        raise InvalidInputError.of(
            "MDSettings.swap.temperature_K",
            f"is not given, the condition goes from {condition.temperature_K} to {condition.temperature_end_K} K, and "
            "fix atom/swap of the lmp executable knows one temperature only; give it, or use engine: library",
        )
    return swap.at(condition.temperature_K)


def _has_one_temperature(condition: Condition, swap: SwapSettings) -> bool:
    return swap.temperature_K is not None or condition.temperature_at(1.0) == condition.temperature_K


def _swap_fixes(
    elements: Sequence[str],
    condition: Condition,
    settings: MDSettings,
    engine: str,
    atoms: Atoms | None,
    seed: int,
    cell: MDCell | None,
) -> list[str]:
    """Lines with which the executable exchanges atoms; the library engine does it itself."""
    if settings.swap is None or engine != "executable":
        return []
    there = set(elements)
    if atoms is not None:
        there = set(np.delete(np.array(atoms.get_chemical_symbols()), frozen_atoms(atoms)).tolist())
    types = [number for number, element in enumerate(elements, 1) if element in there]
    temperature_K = fixed_temperature(condition, settings.swap)
    return fixes(types, settings.swap, "mobile" if cell is not None and cell.frozen else "all", temperature_K, seed)


def spread_every(settings: MDSettings) -> int:
    """MD steps between the frames that are kept whatever their gamma; a multiple of ``gamma_every``."""
    return settings.gamma_every * max(1, settings.n_steps // (settings.gamma_every * (N_SPREAD + 1)))


@cache
def _environment() -> Environment:
    return ImmutableSandboxedEnvironment(  # a template of a user's own must not reach Python
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_number,
        autoescape=False,  # LAMMPS input is no HTML
    )


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


def _number(value: Any) -> Any:
    """Write floats so that LAMMPS reads the same bits."""
    if isinstance(value, float):
        short = f"{value:.15g}"
        return short if float(short) == value else f"{value:.17g}"
    return value
