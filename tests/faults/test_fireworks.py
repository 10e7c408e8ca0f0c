"""Three workers of FireWorks at once on one LaunchPad, of which one after the other is killed."""

from __future__ import annotations

import signal
import time
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from campaign_workers import Configured, needs_server
from faults.parts import CAMPAIGN, IN_ORDER, KINDS, Expected, Ledger, check_campaign, make_campaign
from faults.processes import FULL, MOMENTS, Death, lost_labels, named, rlaunch, start

from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.launchpad import submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from fireworks import LaunchPad

pytestmark = [
    needs_server,
    pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed (extra 'fireworks')"),
]

N_WORKERS = 3
SINGLY = [[Death(moment, job)] for job in KINDS.values() for moment in MOMENTS]
BY_MOMENT = [[Death(moment, KINDS[kind]) for kind in IN_ORDER] for moment in MOMENTS]
GIVEN_UP = SINGLY if FULL else [[Death("between", "label c001 001")], [Death("stored", "assess c001")]]


class Workers:
    """Workers on one LaunchPad; who is killed is replaced, and ``lpad detect_lostruns`` looks after what they left."""

    def __init__(self, context: ForkServerContext, configured: Configured, folder: Path) -> None:
        self.context, self.configured, self.folder = context, configured, folder
        self.pad: LaunchPad = configured.launchpad()
        self.events = folder / "events.log"
        self.ledger = Ledger(self.events)
        self.n_started = self.n_killed = 0
        self.running: dict[str, BaseProcess] = {}

    def start(self, n: int, deaths: Sequence[Death] = ()) -> None:
        for _ in range(n):
            name = f"worker{self.n_started}"
            self.n_started += 1
            log = self.folder / name / "worker.log"
            arguments = (self.configured.file, name)
            self.running[name] = start(self.context, log, rlaunch, *arguments, deaths=deaths, markers=self.folder)

    def lpad(self, *arguments: str) -> None:
        from fireworks.scripts.lpad_run import lpad

        lpad(["-l", str(self.configured.file.with_name("my_launchpad.yaml")), *arguments])

    def bury(self) -> list[str]:
        """Take those out that are gone."""
        gone = [name for name, process in self.running.items() if not process.is_alive()]
        for name in gone:
            assert self.running.pop(name).exitcode == -signal.SIGKILL, self.said()
            self.n_killed += 1
            self.ledger.note(self.configured.store)
        return gone

    def rescue(self, name: str) -> None:
        """Rerun what a worker that is gone was doing, and no other's job."""
        query = str({"fworker.name": name})
        self.lpad("detect_lostruns", "--time", "0", "--rerun", "--refresh", "--launch_query", query)

    def state(self, fw_id: int) -> str:
        return self.pad.workflows.find_one({"nodes": fw_id})["state"]

    def wait(self, fw_ids: Sequence[int], until: Callable[[], bool] = lambda: False, rescue: bool = True) -> None:
        """Wait until all workflows have ended, or something else is true."""
        deadline = time.monotonic() + 60
        while not until() and not all(self.state(i) in ("COMPLETED", "FIZZLED") for i in fw_ids):
            assert time.monotonic() < deadline, self.report()
            for name in self.bury():
                if rescue:
                    self.rescue(name)
                    self.start(1, self.deaths)
            time.sleep(0.05)

    deaths: Sequence[Death] = ()

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.join()
        self.running.clear()

    def said(self) -> str:
        return "\n".join(log.read_text()[-2000:] for log in sorted(self.folder.glob("*/worker.log")))

    def report(self) -> str:
        """Return what FireWorks knows."""
        names = {fw["fw_id"]: f"{fw['name']} ({fw['state']})" for fw in self.pad.fireworks.find()}
        launches = list(self.pad.launches.find(sort=[("launch_id", 1)]))
        lines = [f"{names[one['fw_id']]}: {one['fworker']['name']} {one['state']}" for one in launches]
        return "\n".join([*lines, self.said()])

    def jobs(self, fw_id: int) -> list[Any]:
        return self.pad.get_wf_by_fw_id(fw_id).fws

    def check_one_branch(self, fw_id: int) -> None:
        jobs = self.jobs(fw_id)
        assert {job.state for job in jobs} == {"COMPLETED"}, self.report()
        assert [name for name, n in Counter(job.name for job in jobs).items() if n > 1] == []


@pytest.fixture
def workers(context: ForkServerContext, configured: Configured, tmp_path: Path) -> Iterator[Workers]:
    some = Workers(context, configured, tmp_path)
    yield some
    some.stop()


@pytest.mark.parametrize("deaths", SINGLY if FULL else BY_MOMENT, ids=named(SINGLY if FULL else BY_MOMENT))
def test_lost_jobs_come_back(workers: Workers, deaths: Sequence[Death], expected: Expected) -> None:
    """By ``lpad detect_lostruns --rerun``, while the other workers go on."""
    workers.deaths = deaths
    workers.start(N_WORKERS, deaths)
    fw_id = submit(make_campaign(workers.events), workers.pad).fw_ids[0]
    workers.wait([fw_id])
    assert not [str(death) for death in deaths if not (workers.folder / str(death)).exists()], workers.report()
    workers.ledger.check(workers.configured.store, lost_labels(deaths))
    check_campaign(workers.configured.store, expected)
    workers.check_one_branch(fw_id)


@pytest.mark.parametrize("give_up", ["archive_wflows", "defuse_wflows"])
@pytest.mark.parametrize("deaths", GIVEN_UP, ids=named(GIVEN_UP))
def test_given_up_and_resumed(workers: Workers, deaths: list[Death], give_up: str, expected: Expected) -> None:
    """The workflow is put away, and a new one goes on from the store."""
    workers.start(N_WORKERS, deaths)
    first = submit(make_campaign(workers.events), workers.pad).fw_ids[0]
    workers.wait([first], until=lambda: workers.n_killed > 0, rescue=False)
    workers.stop()
    workers.ledger.note(workers.configured.store)
    workers.lpad(give_up, "-i", str(first))
    again = submit(OTFMaker.resume(CAMPAIGN, workers.configured.store), workers.pad).fw_ids[0]
    workers.start(N_WORKERS)
    workers.wait([again])
    workers.ledger.check(workers.configured.store, N_WORKERS)
    check_campaign(workers.configured.store, expected)
    workers.check_one_branch(again)
