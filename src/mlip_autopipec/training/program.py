"""A fitting program as a process: its command, its environment, its time limit, its end."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlip_autopipec.errors import ExecutableError
from mlip_autopipec.processes import run_process
from mlip_autopipec.training.pacemaker.log import fail

if TYPE_CHECKING:
    from collections.abc import Sequence


def find_program(name: str, command: str | None, advice: str) -> list[str]:
    """
    Return the words of a command: the one given, else the script beside the running Python, else the one on PATH.

    Raises
    ------
    ExecutableError
        With ``advice``, if there is none.
    """
    words = shlex.split(command) if command else [name]
    beside = Path(sys.executable).with_name(name)
    if not command and os.access(beside, os.X_OK):
        return [str(beside)]
    found = shutil.which(words[0])
    if found is None:
        where = "on PATH" if command else f"beside {sys.executable} or on PATH"
        raise ExecutableError(f"'{words[0]}' was not found {where}; {advice}")
    return [str(Path(found).absolute()), *words[1:]]


def run_program(name: str, arguments: Sequence[str], log: Path, timeout: float | None = None) -> str:
    """
    Run a fitting program in the folder of its log and return what it printed.

    Parameters
    ----------
    name
        What to call it in errors.
    arguments
        Starts it; may hold a launcher.
    log
        File for what it prints; its folder was not used before, so that nothing found there is
        older than the run.
    timeout
        Seconds after which the program and all it started are ended.

    Raises
    ------
    TrainingError
        If it takes too long or ends with another exit code than 0.
    """
    try:
        code = run_process(arguments, log, environment(), timeout=timeout, own_group=True)
    except TimeoutError:
        problem = f"{name} did not end within {timeout:g} s"
        fail(problem, log, log.read_text(errors="replace"), "raise timeout or lower maxiter")
    text = log.read_text(errors="replace")
    if code:
        killed = "it was killed; if the memory ran out lower batch_size" if code < 0 else ""
        fail(f"{name} ended with exit code {code}", log, text, killed)
    return text


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
