"""The jobs of several flows on one machine: which begins next, which run, and what came of them."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import randbelow
from typing import TYPE_CHECKING

from jobflow import SETTINGS

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.flows.resources import Resources
from mlip_autopipec.managers.schedule import Outcome
from mlip_autopipec.managers.worker import OUTPUT, NoSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from jobflow import Flow

    from mlip_autopipec.managers.schedule import Entry, Schedule

logger = logging.getLogger(__name__)

#: How often a job is begun whose worker dies.
ATTEMPTS = 3


@dataclass(frozen=True)
class RunningJob:
    """
    A job that runs now.

    Parameters
    ----------
    uuid, index, name
        Of the job.
    folder
        Where it runs.
    worker
        Number of its worker, from 1; 0 for this process.
    pid
        Its process.
    since
        ``time.monotonic()`` when it began.
    """

    uuid: str
    index: int
    name: str
    folder: Path
    worker: int
    pid: int
    since: float


class Watch:
    """Keeps the jobs that run now, for another thread to look at."""

    def __init__(self) -> None:
        self.jobs: tuple[RunningJob, ...] = ()

    def __call__(self, jobs: tuple[RunningJob, ...]) -> None:
        """Take them."""
        self.jobs = jobs


@dataclass(frozen=True)
class Run:
    """
    A flow and where its jobs run.

    Parameters
    ----------
    flow
        The flow.
    folder
        In which each job gets a folder of its own.
    resources
        What its jobs take of the machine; None: one worker each, whatever they start.
    """

    flow: Flow
    folder: Path
    resources: Resources | None = None


@dataclass(frozen=True)
class BegunJob:
    """A job that was taken from the queue, where it runs, and how many threads it may take (None: as it likes)."""

    schedule: Schedule
    entry: Entry
    folder: Path
    threads: int | None


class JobQueue:
    """The jobs of several schedules, and those that run."""

    def __init__(
        self, schedules: Sequence[Schedule], runs: Sequence[Run], watch: Callable[[tuple[RunningJob, ...]], None]
    ) -> None:
        self._schedules = list(zip(schedules, runs, strict=True))
        self._watch = watch
        self._running: dict[str, RunningJob] = {}
        self._taken: dict[str, tuple[str, int]] = {}

    def __bool__(self) -> bool:
        """Tell whether a job could begin now."""
        return any(self._next_of(schedule, run) is not None for schedule, run in self._schedules)

    def _next_of(self, schedule: Schedule, run: Run) -> Entry | None:
        """Return the next job of a flow for which there is room."""
        resources = run.resources
        return schedule.next_job(lambda name: resources is None or resources.fits(name, self._taken.values()))

    @property
    def is_over(self) -> bool:
        """Tell whether nothing runs or will run."""
        return all(schedule.is_over for schedule, _ in self._schedules)

    def begin(self, worker: int, pid: int) -> BegunJob:
        """Take the next job, for a worker, and make its folder."""
        able = [(one, entry) for one in self._schedules if (entry := self._next_of(*one)) is not None]
        # of several flows the one with the fewest running jobs, then that which has come least far: none waits for ever
        (schedule, run), entry = min(able, key=lambda one: (one[0][0].n_running, one[0][0].n_run))
        schedule.begin(entry)
        folder = _new_folder(run.folder)
        task = entry.task
        # beside a campaign that shares out the cores, a job of one that does not takes one
        step, share = (run.resources or Resources(1)).share_of(task.name)
        self._taken[folder.name] = (step, share.cores)
        self._running[folder.name] = RunningJob(task.uuid, task.index, task.name, folder, worker, pid, time.monotonic())
        self._watch(tuple(self._running.values()))
        return BegunJob(schedule, entry, folder, None if run.resources is None else share.threads_each)

    def end(self, begun: BegunJob, outcome: Outcome | NoSpace) -> None:
        """Note what came of a job."""
        self._ended(begun)
        name = begun.entry.task.name
        if isinstance(outcome, NoSpace):
            raise MLIPError(
                f"a disk is full: {name} in {begun.folder} failed with {outcome.error}. What was computed before is "
                "stored. Free some space, then resume the campaign"
            )
        if outcome.error is not None:
            where = {"job_folder": str(begun.folder)}
            logger.error("%s failed with exception:\n%s", name, outcome.error, extra=where)
        begun.schedule.end(begun.entry, outcome)

    def died(self, begun: BegunJob, how: str) -> None:
        """Let a job whose worker died begin again, or count it as failed."""
        name, attempts = begun.entry.task.name, begun.entry.attempts
        output, told = begun.folder / OUTPUT, ""
        if output.is_file() and output.stat().st_size:
            told = f" (see {output})"
        else:
            output.unlink(missing_ok=True)
        why = f"its process {how} while it ran in {begun.folder}{told}; if memory ran out, take fewer workers"
        if attempts < ATTEMPTS:
            logger.warning("%s begins again, attempt %d of %d: %s", name, attempts + 1, ATTEMPTS, why)
            self._ended(begun)
            begun.schedule.put_back(begun.entry)
        else:
            self.end(begun, Outcome(error=f"RuntimeError: in all of {ATTEMPTS} attempts {why}"))

    def _ended(self, begun: BegunJob) -> None:
        self._running.pop(begun.folder.name, None)
        self._taken.pop(begun.folder.name, None)
        self._watch(tuple(self._running.values()))


def _new_folder(root: Path) -> Path:
    """Make a folder for a job, named as ``run_locally`` names it."""
    while True:
        now = datetime.now(UTC).strftime(SETTINGS.DIRECTORY_FORMAT)
        folder = root.resolve() / f"job_{now}-{10_000 + randbelow(90_000)}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
