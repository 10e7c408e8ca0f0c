"""The text of a Colvars configuration is tried by LAMMPS once, before anything is computed for its MD."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mlip_autopipec.errors import ExecutableError, InvalidInputError
from mlip_autopipec.frames import pack_frames, unpack_frames
from mlip_autopipec.lammps import colvars, executable, input_script, structures
from mlip_autopipec.processes import run_process
from mlip_autopipec.structures.periodicity import boxed

if TYPE_CHECKING:
    from ase import Atoms

logger = logging.getLogger(__name__)

#: Wall time in s that reading a text may take.
TIME_S = 120.0
_LOG = "trial.log"
_COMMANDS = ["-log", input_script.LOG, "-screen", "none", "-nocite"]
#: What :func:`main` says where LAMMPS has no collective variables.
_LACKING = "no fix colvars here"
_SCRIPT = f"""units metal
atom_style atomic
atom_modify map yes
boundary p p p
box tilt large
read_data {input_script.STRUCTURE}
pair_style zero 3.0
pair_coeff * *
timestep 0.001
fix md all nve
fix cv all colvars {colvars.CONFIGURATION} output colvars
run 0
"""


def check_by_lammps(text: str, atoms: Atoms) -> None:
    """
    Refuse a text that Colvars refuses, in its words; without LAMMPS or its package COLVARS nothing is tried.

    Parameters
    ----------
    text
        Of a condition.
    atoms
        A structure it is for.

    Raises
    ------
    InvalidInputError
        Colvars refuses it.
    """
    plain = boxed(atoms)
    bare = type(plain)(plain.numbers, plain.positions, cell=plain.cell, pbc=plain.pbc)
    if (said := _said(text, pack_frames([bare]))) is not None:
        raise InvalidInputError.of(
            "Condition.colvars",
            f"is a text that LAMMPS' Colvars module refuses, tried in {atoms.get_chemical_formula()}: "
            f"{said.rstrip('.')}. Mend the text; the manual of Colvars has its keywords",
        )


@cache
def _said(text: str, packed: str) -> str | None:
    """Return the error of Colvars, or None where there is none, or nothing to try it with."""
    (atoms,) = unpack_frames(packed)
    if (command := _command()) is None:
        return None
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        structures.write_structure(folder / input_script.STRUCTURE, atoms, sorted(set(atoms.get_chemical_symbols())))
        (folder / input_script.INPUT).write_text(_SCRIPT)
        (folder / colvars.CONFIGURATION).write_text(text)
        try:
            code = run_process(command, folder / _LOG, environment, timeout=TIME_S)
        except (OSError, TimeoutError) as error:
            logger.warning("the text of `colvars` could not be tried beforehand: %s", error)
            return None
        log = (folder / _LOG).read_text(errors="replace")
        own = folder / input_script.LOG
        of_lammps = own.read_text(errors="replace") if own.is_file() else ""
    if code == 0 or _LACKING in log:
        return None
    if colvars.FAILED in log + of_lammps:
        return colvars.said(of_lammps or log)
    logger.warning(
        "the text of `colvars` could not be tried beforehand: LAMMPS ended with code %d: %s", code, log[-300:].strip()
    )
    return None


@cache
def _command() -> list[str] | None:
    """Return what reads the input in its folder: LAMMPS as a library, else the executable; None without either."""
    if find_spec("lammps") is not None:
        return [sys.executable, "-m", "mlip_autopipec.lammps.colvars_trial"]
    if executable.has_launcher():  # it may wait in a queue
        return None
    try:
        found = executable.find_command()
    except ExecutableError:
        return None
    return [*found, "-in", input_script.INPUT, *_COMMANDS] if executable.has_fix(colvars.STYLE) else None


def main() -> None:
    """Let LAMMPS read the input in this folder."""
    from mlip_autopipec.lammps.worker import import_lammps

    lmp = import_lammps()(cmdargs=_COMMANDS)
    if not lmp.has_style("fix", colvars.STYLE):
        sys.exit(_LACKING)
    lmp.file(input_script.INPUT)


if __name__ == "__main__":
    main()
