"""The order of events, in a file: makers are copied and serialised at every turn and can hold no log."""

from __future__ import annotations

from pathlib import Path

from jobflow import CURRENT_JOB


def record_event(file: str | None, event: str) -> None:
    """
    Append one line to the log of events.

    Parameters
    ----------
    file
        Absolute path of the log, since every job runs in a folder of its own; None for no log.
    event
        What happened.
    """
    if file is not None:
        with Path(file).open("a") as log:
            log.write(f"{event}\n")


def read_events(file: str | Path) -> list[str]:
    """Return the events in the order in which they happened."""
    path = Path(file)
    return path.read_text().splitlines() if path.exists() else []


def is_current_job(patterns: list[str]) -> bool:
    """
    Tell whether the name of the job that runs now contains one of ``patterns``.

    Names tell cycle and number (``label c001 003``, ``train c002``), so this picks one job of
    a campaign without counting calls.
    """
    name = CURRENT_JOB.job.name if CURRENT_JOB.job is not None else ""
    return any(pattern in name for pattern in patterns)
