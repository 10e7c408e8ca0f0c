"""The live view of several campaigns that this process runs: a line each."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from mlip_autopipec.database import disk
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.progress.live import RARER, View, with_jobs
from mlip_autopipec.progress.read import progress_of
from mlip_autopipec.progress.show import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from rich.console import Console

    from mlip_autopipec.managers.local import RunningJob, Watch
    from mlip_autopipec.progress.types import CampaignProgress


@contextmanager
def view_together(console: Console, folder: Path, names: Mapping[Path, str], watch: Watch) -> Iterator[None]:
    """
    Show how far campaigns are while the body runs them; without a terminal, nothing.

    Parameters
    ----------
    console
        The one that everything is printed to.
    folder
        The common one, with the store.
    names
        The campaigns by their folders.
    watch
        Knows the jobs that run.
    """
    view = _Together(console, folder, names, watch)
    with view.shown():
        yield


class _Together(View):
    def __init__(self, console: Console, folder: Path, names: Mapping[Path, str], watch: Watch) -> None:
        super().__init__(console, folder, watch)
        self.names = names
        self._of: dict[str, tuple[CampaignProgress, frozenset[Path], float]] = {}

    def _look(self) -> Table | None:
        """Read what may have changed; a line for each campaign."""
        table = Table.grid(padding=(0, 2, 0, 0))
        for name in ("campaign", "cycle", "labels", "doing", "workers"):
            table.add_column(name, no_wrap=name in ("cycle", "labels"), overflow="fold")
        jobs = self.watch.jobs
        for folder, name in self.names.items():
            table.add_row(*self._line(name, [job for job in jobs if job.folder.is_relative_to(folder)]))
        return table

    def _line(self, name: str, jobs: list[RunningJob]) -> tuple[str, ...]:
        now, folders = time.monotonic(), frozenset(job.folder for job in jobs)
        known = self._of.get(name)
        if now >= self._not_before and (known is None or known[1] != folders):
            if self._campaigns is None:
                self._campaigns = Campaigns(disk.open_store(self.folder / "store"))
            if name in self._campaigns.names():
                known = self._of[name] = (progress_of(self._campaigns, name), folders, now)
            self._not_before = now + RARER * (time.monotonic() - now) / max(len(self.names), 1)
        running = ", ".join(f"{job.worker}: {job.name}, {duration(now - job.since)}" for job in jobs if job.worker)
        if known is None:
            return escape(name), "", "", "starting" if jobs else "waits", escape(running)
        progress = with_jobs(replace(known[0], fit=None), jobs)
        labels = progress.labels
        counted = f"{labels.total} labels" + (f", {labels.left} to come" if labels.left else "")
        if progress.fit is not None:
            running += f", loss {progress.fit.loss:.3g}"
        return (
            escape(name),
            f"cycle {progress.cycle}",
            counted,
            f"[cyan]{escape(progress.doing or str(progress.status))}[/]",
            escape(running),
        )
