"""The live view of a campaign that this process runs."""

from __future__ import annotations

import logging
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

from mlip_autopipec.database import disk
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.database.validation import KIND as FRAME_OF_ORACLE
from mlip_autopipec.flows.workers import ORACLE_MD
from mlip_autopipec.managers.local import Watch
from mlip_autopipec.progress.files import read_fit, read_look
from mlip_autopipec.progress.read import progress_of
from mlip_autopipec.progress.show import NARROW, VALIDATING, Shown, plain_line
from mlip_autopipec.progress.types import Look, RunningStep

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import Console, RenderableType

    from mlip_autopipec.managers.local import RunningJob
    from mlip_autopipec.progress.types import CampaignProgress
    from mlip_autopipec.schemas.campaign import CampaignDocument

logger = logging.getLogger(__name__)

#: Seconds between two readings of the files of MD and fit.
EVERY_S = 1.0
#: The store is read again when another job runs, and not before so many times what it took to read it.
RARER = 20.0
#: Seconds after which a line tells of a step where there is no terminal; then after twice as many, and so on.
FIRST_LINE_S = 60.0
#: Lines of the view besides those of the walkers, and lines left for what is printed above it.
_OTHER_LINES = 12
_NAME = re.compile(r"(?P<step>.+?) c(?P<cycle>\d{3,})(?: w(?P<walker>\d+))?")
#: What a job does, by the beginning of its name.
_DOING = {
    "generate": "making the first structures",
    "propose check": "choosing frames for a check",
    "propose": "sampling around the halts",
    "select": "choosing what to label",
    "request labels": "labelling",
    "teach": "learning from the teacher",
    "label": "labelling",
    "reuse": "labelling",
    "count labels": "labelling",
    "add up labels": "labelling",
    "train": "training",
    "explore": "exploring by MD",
    "check": "checking the potential",
    "assess": "assessing",
    ORACLE_MD: VALIDATING,
}


@contextmanager
def live_view(console: Console, folder: Path, watch: Watch | None = None) -> Iterator[None]:
    """
    Show how far the campaign in a folder is while the body runs it.

    Where there is no terminal (a pipe, a batch job) a line tells of a step that takes long: after one minute, two ...
    What is printed to the console meanwhile appears above the view. Nothing depends on the view: if it fails a warning
    is logged, and the body goes on.

    Parameters
    ----------
    console
        The one that everything is printed to.
    folder
        Of the campaign: its ``store`` and its ``jobs``.
    watch
        Knows the jobs that run.
    """
    watch = Watch() if watch is None else watch
    if not is_terminal(console):
        lines = _Lines(console, folder, watch)
        lines.thread.start()
        try:
            yield
        finally:
            lines.stop()
        return
    with View(console, folder, watch).shown():
        yield


def is_terminal(console: Console) -> bool:
    """Tell whether a view can be shown on a console."""
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


class View:
    """A thread that reads and shows."""

    def __init__(self, console: Console, folder: Path, watch: Watch) -> None:
        self.console = console
        self.watch = watch
        self.folder = folder
        self.live = Live(Text("starting", style="dim"), console=console, auto_refresh=False, transient=True)
        self.thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._ended = threading.Event()
        self._campaigns: Campaigns | None = None
        self._task: CampaignDocument | None = None
        self._progress: CampaignProgress | None = None
        self._read_jobs: frozenset[Path] | None = None
        self._read_at = self._not_before = 0.0
        self._n_frames = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it while the body runs, where there is a terminal."""
        if not is_terminal(self.console):
            yield
            return
        # rich decides it once, by standard output; with --json the view is on standard error
        interactive, self.console.is_interactive = self.console.is_interactive, True
        try:
            with self.live:
                self.thread.start()
                try:
                    yield
                finally:
                    self.stop()
        finally:
            self.console.is_interactive = interactive

    def stop(self) -> None:
        """End the thread; a read of the store that takes long is not waited for."""
        self._ended.set()
        self.thread.join(timeout=2.0)

    def _run(self) -> None:
        try:
            while not self._ended.wait(EVERY_S):
                shown = self._look()
                if shown is not None and not self._ended.is_set():
                    self.live.update(shown, refresh=True)
        except Exception as error:  # whatever it was, the campaign goes on
            if not self._ended.is_set():
                logger.warning("the live view ends: %s: %s; the campaign goes on", type(error).__name__, error)
                self.live.stop()
        finally:
            if self._campaigns is not None:
                self._campaigns.store.close()

    def _look(self) -> RenderableType | None:
        """Read what may have changed; None while there is nothing to show."""
        jobs = self.watch.jobs
        self._read_store(jobs)
        if self._progress is None:
            return None
        progress = with_jobs(self._progress.later(time.monotonic() - self._read_at), jobs)
        if progress.doing == VALIDATING:
            progress = replace(progress, n_oracle_frames=self._count_frames(progress.campaign_id))
        lines = self.console.size.height - _OTHER_LINES
        return Shown(progress, max_walkers=max(lines if self.console.width >= NARROW else lines // 2, 3))

    def _count_frames(self, campaign_id: str) -> int:
        """Count the frames of the oracle's own MD: they come while its jobs run."""
        now = time.monotonic()
        if self._campaigns is not None and now >= self._not_before:
            of_campaign = {"output.kind": FRAME_OF_ORACLE, "output.campaign_id": campaign_id}
            self._n_frames = self._campaigns.store.count(of_campaign)
            self._not_before = now + RARER * (time.monotonic() - now)
        return self._n_frames

    def _read_store(self, jobs: Sequence[RunningJob]) -> None:
        now, folders = time.monotonic(), frozenset(job.folder for job in jobs)
        if now < self._not_before or (folders == self._read_jobs and self._progress is not None):
            return
        if self._campaigns is None:
            # of this thread's own: a transaction of the loop is not to be read half done
            self._campaigns = Campaigns(disk.open_store(self.folder / "store"))
        names = self._campaigns.names()
        if names:
            found = next(filter(None, (_NAME.match(job.name) for job in jobs)), None)
            known = None if self._progress is None or not self._progress.doing else self._progress.cycle
            cycle = int(found["cycle"]) if found else known
            task = self._task or self._campaigns.task(names[0])
            self._progress = progress_of(self._campaigns, names[0], cycle=cycle, task=task)
            self._task = task if found else None  # one that was extended is just about to be recorded
            self._read_jobs, self._read_at = folders, time.monotonic()
        self._not_before = now + RARER * (time.monotonic() - now)


class _Lines(View):
    """The same without a terminal: a line now and then."""

    def _run(self) -> None:
        step, began, patience = None, 0.0, FIRST_LINE_S
        try:
            while not self._ended.wait(EVERY_S):
                shown = self._look()
                if not isinstance(shown, Shown):
                    continue
                progress, now = shown.progress, time.monotonic()
                if step != (progress.cycle, progress.doing):
                    step, began, patience = (progress.cycle, progress.doing), now, FIRST_LINE_S
                elif now - began > patience:
                    patience *= 2
                    self.console.print(plain_line(progress, now - began), markup=False)
        except Exception as error:  # as above
            if not self._ended.is_set():
                logger.warning("no lines on long steps: %s: %s; the campaign goes on", type(error).__name__, error)
        finally:
            if self._campaigns is not None:
                self._campaigns.store.close()


def with_jobs(progress: CampaignProgress, jobs: Sequence[RunningJob]) -> CampaignProgress:
    """
    Add what is known of the jobs that run: what they do, since when, and what the files of MD and fit tell.

    Parameters
    ----------
    progress
        By the documents.
    jobs
        That run now; none between two jobs.
    """
    now, doing = time.monotonic(), dict[str, None]()
    running, fit, looks = [], progress.fit, dict[int, Look | None]()
    for job in jobs:
        running.append(RunningStep(job.worker, job.name, now - job.since))
        doing |= next(({_DOING[step]: None} for step in _DOING if job.name.startswith(step)), {})
        if (found := _NAME.match(job.name)) is None:
            continue
        if found["step"] == "train":
            fit = read_fit(job.folder)
        elif found["step"] == "explore" and found["walker"] is not None:
            looks[int(found["walker"])] = read_look(job.folder)
    walkers = [
        replace(walker, state="running", look=looks[walker.index]) if walker.index in looks else walker
        for walker in progress.walkers
    ]
    doing_now = " and ".join(doing) or progress.doing
    return replace(progress, doing=doing_now, fit=fit, walkers=tuple(walkers), running=tuple(running))
