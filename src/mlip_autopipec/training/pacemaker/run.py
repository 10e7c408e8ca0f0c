"""pacemaker as a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip_autopipec.training.program import run_program

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
