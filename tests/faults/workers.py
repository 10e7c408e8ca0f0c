"""Workers of FireWorks that share one LaunchPad."""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from faults.parts import Ledger, computed_keys
from faults.processes import rlaunch, start

from mlip_autopipec.managers.fireworks.launchpad import mend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from campaign_workers import Configured
    from faults.processes import Death
    from fireworks import LaunchPad

N_WORKERS = 3


class Workers:
    """Workers on one LaunchPad; who is killed is replaced, and ``lpad detect_lostruns`` looks after what they left."""

    def __init__(self, context: ForkServerContext, configured: Configured, folder: Path) -> None:
        self.context, self.configured, self.folder = context, configured, folder
        self.pad: LaunchPad = configured.launchpad()
        self.events = folder / "events.log"
        self.ledger = Ledger(self.events)
        self.n_started = self.n_killed = 0
        self.running: dict[str, BaseProcess] = {}
        self.deaths: Sequence[Death] = ()
        self.server_goes_away = False

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
            status = self.running.pop(name).exitcode
            assert status == -signal.SIGKILL or self.server_goes_away, self.said()
            self.n_killed += status == -signal.SIGKILL
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
        deadline = time.monotonic() + 300
        while not until() and not all(self.state(i) in ("COMPLETED", "FIZZLED") for i in fw_ids):
            assert time.monotonic() < deadline, self.report()
            for name in self.bury():
                if rescue:
                    self.rescue(name)
                    self.start(1, self.deaths)
            time.sleep(0.05)

    def wait_through(self, fw_ids: Sequence[int], *faults: Callable[[], None]) -> None:
        """Wait for the end while the server goes away now and then, and do what docs/fireworks.md says against it."""
        self.server_goes_away = True
        todo = list(faults)
        unlocked: dict[int, float] = {}
        n_before = len(computed_keys(self.events))
        deadline = time.monotonic() + 600
        while todo or not all(self.state(i) == "COMPLETED" for i in fw_ids):
            assert time.monotonic() < deadline, self.report()
            if todo and len(computed_keys(self.events)) > n_before:
                todo.pop(0)()
                n_before = len(computed_keys(self.events))
            for name in self.bury():
                self.rescue(name)
                self.start(1)
            if any(self.state(i) == "FIZZLED" for i in fw_ids):
                self.lpad("rerun_fws", "-s", "FIZZLED")
            for i in fw_ids:
                if self.pad.workflows.find_one({"nodes": i, "locked": True}) is None:
                    unlocked[i] = time.monotonic()
                elif time.monotonic() - unlocked.get(i, 0) > 10:  # whoever locked it could not unlock it
                    self.lpad("admin", "unlock", "-i", str(i))
            if all(time.monotonic() - unlocked.get(i, 0) < 1 for i in fw_ids):
                mend(self.pad, older_than_s=5)
            time.sleep(0.2)

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
        lines = []
        for one in launches:
            why = ((one.get("action") or {}).get("stored_data") or {}).get("_exception") or {}
            end = why.get("_stacktrace", "").strip().splitlines()[-1:]
            lines.append(f"{names[one['fw_id']]}: {one['fworker']['name']} {one['state']} {end}")
        return "\n".join([*lines, self.said()])

    def jobs(self, fw_id: int) -> list[Any]:
        return self.pad.get_wf_by_fw_id(fw_id).fws

    def check_one_branch(self, fw_id: int) -> None:
        jobs = self.jobs(fw_id)
        assert {job.state for job in jobs} == {"COMPLETED"}, self.report()
        assert [name for name, n in Counter(job.name for job in jobs).items() if n > 1] == []
