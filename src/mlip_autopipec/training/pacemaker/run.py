"""pacemaker as a process."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mlip_autopipec.errors import INSTALL_ACE, ExecutableError
from mlip_autopipec.kinds import Availability
from mlip_autopipec.settings import get_settings
from mlip_autopipec.training.program import find_program, run_program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Names of what a run leaves in its folder: the fitted potential, and all that was printed.
OUTPUT, LOG = "output_potential.yaml", "pacemaker.out"


def run_pacemaker(command: Sequence[str], folder: Path, timeout: float | None = None) -> str:
    """Run pacemaker on the ``input.yaml`` in ``folder`` and return its log; see :func:`.program.run_program`."""
    # --no-predict: errors are measured by the caller, with the potential as MD evaluates it;
    # --verbose-tf: TensorFlow tells which device it takes
    arguments = [*command, "input.yaml", "-o", OUTPUT, "--no-predict", "--verbose-tf"]
    return run_program("pacemaker", arguments, folder / LOG, timeout)


def look_for_pacemaker(trainer: Any = None) -> Availability:
    """Find pacemaker and what its gradient fit needs; a command that the user gave is not checked."""
    if getattr(trainer, "command", None) is not None:
        return Availability(trainer.command)
    command = get_settings().PACEMAKER_CMD
    try:
        words = find_program("pacemaker", command, INSTALL_ACE)
    except ExecutableError as error:
        found, _, remedy = str(error).partition("; ")
        return Availability(found, remedy or INSTALL_ACE)
    if command is None and find_spec("tensorpotential") is None:
        return Availability(f"{words[0]}, but tensorpotential is missing: no gradient fit", INSTALL_ACE)
    return Availability(shlex.join(words))
