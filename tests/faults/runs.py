"""Campaigns whose processes are killed and begun again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from faults.parts import CAMPAIGN, IN_ORDER, KINDS, Expected, Ledger, check_campaign, files_left
from faults.processes import MOMENTS, Death, lost_labels, open_any, run_or_resume, start

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess
    from pathlib import Path

SINGLY = [[Death(moment, job)] for job in KINDS.values() for moment in MOMENTS]
BY_KIND = [[Death(moment, job) for moment in MOMENTS] for job in KINDS.values()]
IN_ANY_JOB = [Death("stored", KINDS[kind]) for kind in IN_ORDER]
BY_MOMENT = [[Death(moment, KINDS[kind]) for kind in IN_ORDER] for moment in MOMENTS]


class Campaign:
    """A run folder, its store, and the processes that come and go."""

    def __init__(
        self,
        context: ForkServerContext,
        folder: Path,
        address: str,
        workers: int | None = None,
        *,
        shares: bool = False,
    ) -> None:
        self.workers, self.shares = workers, shares
        self.context, self.folder, self.address = context, folder, address
        self.events = folder.with_name("events.log")
        self.log = folder.with_name("processes") / "log"

    def start(self, *deaths: Death, dumped_bytes: int = 0, **how: Any) -> BaseProcess:
        arguments = (self.address, self.events, CAMPAIGN, self.folder / "jobs", dumped_bytes, self.workers, self.shares)
        return start(self.context, self.log, run_or_resume, *arguments, deaths=deaths, **how)

    def ends(self, *deaths: Death, **options: float) -> int:
        process = self.start(*deaths, **options)
        process.join(400)
        assert process.exitcode is not None, self.log.read_text()[-3000:]
        return process.exitcode

    def note(self, ledger: Ledger) -> None:
        store = open_any(self.address)
        ledger.note(store)
        store.close()


def survive(
    campaign: Campaign,
    deaths: Sequence[Death],
    expected: Expected,
    hours: float = 0,
    *,
    at_most: bool = False,
    **options: int,
) -> None:
    """
    Die, and go on in a new process, whose clock is so many hours behind the one before, until the end.

    ``at_most``: other workers may have lost labels, too.
    """
    ledger = Ledger(campaign.events)
    for n, death in enumerate(deaths):
        assert campaign.ends(death, hours_behind=n * hours, **options) == -signal.SIGKILL, campaign.log.read_text()
        campaign.note(ledger)
    assert campaign.ends(hours_behind=len(deaths) * hours, **options) == 0, campaign.log.read_text()
    most = (campaign.workers or 1) * len(deaths)
    finish(campaign, ledger, expected, most if at_most else lost_labels(deaths))


def finish(campaign: Campaign, ledger: Ledger, expected: Expected, interrupted: int | Sequence[str]) -> None:
    store = open_any(campaign.address)
    ledger.check(store, interrupted)
    check_campaign(store, expected)
    store.close()
    left = {file: (campaign.folder / file).read_bytes()[:2000] for file in files_left(campaign.folder)}
    assert left == {}, left
