"""run_locally in a process that is killed, and OTFMaker.resume in the next one."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from campaign_workers import MONGO_URI
from faults.parts import CAMPAIGN, IN_ORDER, KINDS, Expected, Ledger, check_campaign, files_left
from faults.processes import MOMENTS, Death, open_any, run_or_resume, start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess
    from pathlib import Path

FULL = os.environ.get("MLIP_AUTOPIPEC_TEST_FAULTS") == "all"
SINGLY = [[Death(moment, job)] for job in KINDS.values() for moment in MOMENTS]
BY_KIND = [[Death(moment, job) for moment in MOMENTS] for job in KINDS.values()]
BY_MOMENT = [[Death(moment, KINDS[kind]) for kind in IN_ORDER] for moment in MOMENTS]


def named(cases: Sequence[Sequence[Death]]) -> list[str]:
    return [
        str(case[0]) if len(case) == 1 else case[0].job if case[0].job == case[-1].job else f"{case[0].moment} each"
        for case in cases
    ]


class Campaign:
    """A run folder, its store, and the processes that come and go."""

    def __init__(self, context: ForkServerContext, folder: Path, address: str) -> None:
        self.context, self.folder, self.address = context, folder, address
        self.events = folder.with_name("events.log")
        self.log = folder.with_name("processes") / "log"

    def start(self, *deaths: Death) -> BaseProcess:
        arguments = (self.address, self.events, CAMPAIGN, self.folder / "jobs")
        return start(self.context, self.log, run_or_resume, *arguments, deaths=deaths)

    def ends(self, *deaths: Death) -> int:
        process = self.start(*deaths)
        process.join(120)
        assert process.exitcode is not None, self.log.read_text()[-3000:]
        return process.exitcode


@pytest.fixture(params=["disk", "server"])
def store_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def begin(context: ForkServerContext, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Campaign]:
    def begin(kind: str) -> Campaign:
        folder = tmp_path / "run"
        folder.mkdir()
        if kind == "disk":
            return Campaign(context, folder, str(folder / "store"))
        if not MONGO_URI:
            pytest.skip("no MongoDB server: set MLIP_AUTOPIPEC_TEST_MONGO_URI to its address, or use .ci/run")
        return Campaign(context, folder, str(request.getfixturevalue("configured").file))

    return begin


def lost_labels(deaths: Sequence[Death]) -> list[str]:
    return [death.job for death in deaths if death.moment == "between" and death.job.startswith("label ")]


def survive(campaign: Campaign, deaths: Sequence[Death], expected: Expected) -> None:
    store: Any = None
    for death in deaths:
        assert campaign.ends(death) == -signal.SIGKILL, campaign.log.read_text()[-3000:]
        store = open_any(campaign.address) if store is None else store
        ledger = Ledger(store, campaign.events) if death is deaths[0] else ledger  # noqa: F821
        ledger.note()
    assert campaign.ends() == 0, campaign.log.read_text()[-3000:]
    ledger.check(lost_labels(deaths))
    check_campaign(store, expected)
    assert files_left(campaign.folder) == []


@pytest.mark.parametrize("deaths", SINGLY if FULL else BY_KIND, ids=named(SINGLY if FULL else BY_KIND))
def test_on_disk(begin: Callable[[str], Campaign], deaths: Sequence[Death], expected: Expected) -> None:
    survive(begin("disk"), deaths, expected)


@pytest.mark.parametrize("deaths", SINGLY if FULL else BY_MOMENT, ids=named(SINGLY if FULL else BY_MOMENT))
def test_on_a_server(begin: Callable[[str], Campaign], deaths: Sequence[Death], expected: Expected) -> None:
    survive(begin("server"), deaths, expected)
