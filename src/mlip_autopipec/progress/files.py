"""Progress of running MD or of a running fit, from the last lines of its files."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import yaml

from mlip_autopipec.lammps.input_script import TRACE, TRACE_COLUMNS
from mlip_autopipec.progress.types import FitLoss, Look

if TYPE_CHECKING:
    from pathlib import Path

#: Bytes of a file that are read from its end; a line of pacemaker's metrics has 450.
_TAIL = 4096
_METRICS = "metrics.txt"


def read_look(job: Path) -> Look | None:
    """
    Return the last grading step of the MD that runs in the folder of a job.

    Parameters
    ----------
    job
        Folder of the job; MD runs in the newest ``exploration-*`` in it.
    """
    folder = _newest(job, "exploration-*")
    for line in [] if folder is None else reversed(_last_lines(folder / TRACE)):
        words = line.split()
        if len(words) == len(TRACE_COLUMNS) and words[0].isdigit():
            row = dict(zip(TRACE_COLUMNS, words, strict=True))
            gamma = float(row["gamma"])
            return Look(int(row["step"]), float(row["temperature"]), gamma if math.isfinite(gamma) else math.inf)
    return None


def read_fit(job: Path) -> FitLoss | None:
    """
    Return the progress of pacemaker's fit that runs in the folder of a job.

    Parameters
    ----------
    job
        Folder of the job; pacemaker runs in the newest ``pacemaker-*`` in it.
    """
    folder = _newest(job, "pacemaker-*")
    if folder is None or not (folder / _METRICS).is_file():
        return None
    with (folder / _METRICS).open() as stream:
        names, first = stream.readline().split(), stream.readline().split()
    lines = [words for line in _last_lines(folder / _METRICS) if len(words := line.split()) == len(names)]
    if len(first) != len(names) or "loss" not in names or not lines:
        return None
    at, number = names.index("loss"), names.index("iter_num")
    if not lines[-1][number].isdigit():
        return None
    return FitLoss(int(lines[-1][number]), _max_iterations(folder), float(first[at]), float(lines[-1][at]))


def _max_iterations(folder: Path) -> int | None:
    try:
        most = yaml.safe_load((folder / "input.yaml").read_text())["fit"]["maxiter"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    return most if isinstance(most, int) else None


def _newest(job: Path, pattern: str) -> Path | None:
    # a fit by pacemaker may be followed by another one in the same job
    return max(job.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)


def _last_lines(path: Path) -> list[str]:
    """Whole lines at the end of a file; none if it is not there."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - _TAIL, 0))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.splitlines(keepends=True)
    return [line for line in (lines[1:] if size > _TAIL else lines) if line.endswith("\n")]
