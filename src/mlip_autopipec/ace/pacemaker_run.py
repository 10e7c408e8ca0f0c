"""pacemaker as a process: its environment, its time limit, its end."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

from mlip_autopipec.ace.pacemaker_log import fail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Names of what a run leaves in its folder: the fitted potential, and all that was printed.
OUTPUT, LOG = "output_potential.yaml", "pacemaker.out"
#: Seconds between the polite and the final signal to a fit that took too long.
GRACE = 5.0


def run_pacemaker(command: Sequence[str], folder: Path, timeout: float | None = None) -> str:
    """
    Run pacemaker on the ``input.yaml`` in ``folder`` and return its log.

    Parameters
    ----------
    command
        Starts pacemaker; may hold a launcher.
    folder
        Where to run; not used before, so that nothing found there is older than the run.
    timeout
        Seconds after which the program and all it started are ended.

    Raises
    ------
    TrainingError
        If it takes too long or ends with another exit code than 0.
    """
    path = folder / LOG
    # --no-predict: errors are measured by the caller, with the potential as MD evaluates it;
    # --verbose-tf: TensorFlow tells which device it takes
    arguments = [*command, "input.yaml", "-o", OUTPUT, "--no-predict", "--verbose-tf"]
    with path.open("wb") as out:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment(),
            start_new_session=True,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            _end_group(process)
            problem = f"pacemaker did not end within {timeout:g} s"
            fail(problem, path, path.read_text(errors="replace"), "raise timeout or lower maxiter")
        except BaseException:
            _end_group(process)
            raise
    log = path.read_text(errors="replace")
    if code:
        killed = "it was killed; if the memory ran out lower batch_size" if code < 0 else ""
        fail(f"pacemaker ended with exit code {code}", path, log, killed)
    return log


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program and all that it started (a launcher's pacemaker would run on)."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def environment() -> dict[str, str]:
    """Return the environment of the fit: as many threads as there are cores for this process, unless it is set."""
    env = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = env.get("OMP_NUM_THREADS", str(cores))
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        env.setdefault(name, threads)
    env["TF_CPP_MIN_LOG_LEVEL"] = "0"  # the device is told at this level only
    env.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leave the rest of a GPU's memory to others
    env["MPLBACKEND"] = "Agg"
    return env
