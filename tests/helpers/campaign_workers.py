"""
Shared by the tests with a MongoDB server: a JobStore in it, a campaign, and FireWorks' workers.

As a script it is ``rlaunch`` in a process that has imported everything, so that workers start level, and that
can be told where to die.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ase.build import bulk
from jobflow import CURRENT_JOB, Flow, Job, JobStore, run_locally
from jobflow.settings import JobflowSettings
from maggma.stores import MemoryStore
from own_process import stores_on_server, write_jobflow_yaml
from pymongo import MongoClient

from mlip_autopipec.errors import ExplorationError
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.lammps.types import ExplorationResult, WalkStatus
from mlip_autopipec.managers.fireworks.launchpad import mend
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, StandInTrainer, stand_in_loop
from mlip_autopipec.testing.events import is_current_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ase import Atoms
    from fireworks import LaunchPad

    from mlip_autopipec.oracle.extracted import ExtractedLabel
    from mlip_autopipec.schemas.label import LabelDocument
    from mlip_autopipec.schemas.loop import WalkerState
    from mlip_autopipec.schemas.potential import PotentialDocument
    from mlip_autopipec.training.results import TrainingResult

MONGO_URI = os.environ.get("MLIP_AUTOPIPEC_TEST_MONGO_URI")
needs_server = pytest.mark.skipif(
    not MONGO_URI, reason="no MongoDB server: set MLIP_AUTOPIPEC_TEST_MONGO_URI to its address, or use .ci/run"
)


@dataclass
class Configured:
    """A jobflow.yaml, the store it configures, and the client that looks behind it."""

    file: Path
    name: str
    store: JobStore
    client: MongoClient[dict[str, Any]]

    def documents(self) -> list[dict[str, Any]]:
        """Return what stands in the documents' collection."""
        return list(self.client[self.name]["documents"].find())

    def final(self, flow: Flow) -> OTFDocument:
        """Return the last document of a campaign."""
        found = self.store.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1}, load=True)
        assert found is not None, "no assessment was stored"
        return OTFDocument.model_validate(found["output"])

    def launchpad(self) -> LaunchPad:
        """Return an empty LaunchPad in the same database; ``my_launchpad.yaml`` beside jobflow.yaml names it."""
        from fireworks import LaunchPad

        pad = LaunchPad(host=MONGO_URI, name=self.name, uri_mode=True, strm_lvl="CRITICAL")
        pad.reset("", require_password=False)
        pad.to_file(str(self.file.with_name("my_launchpad.yaml")))
        return pad


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Configured]:
    """A database of the test's own, dropped at the end."""
    name = f"mlip_autopipec_test_{uuid.uuid4().hex[:8]}"
    file = write_jobflow_yaml(tmp_path, stores_on_server(str(MONGO_URI), name))
    store = JobflowSettings(CONFIG_FILE=str(file)).JOB_STORE
    store.connect()
    client: MongoClient[dict[str, Any]] = MongoClient(MONGO_URI)
    try:
        yield Configured(file, name, store, client)
    finally:
        client.drop_database(name)
        client.close()
        store.close()


def campaign(events: Path) -> Flow:
    """Three walkers, of which two halt."""
    halts = [Halt(step=100, walker=0), Halt(step=100, walker=1), Halt(step=200, walker=1)]
    maker = stand_in_loop(str(events), dynamics_maker=ScriptedDynamicsMaker(halts=halts))
    return maker.make(bulk("Cu", cubic=True) * (3, 3, 3), [300, 600, 900])


def labelled(store: JobStore, flow_output: OTFDocument) -> dict[tuple[int, int], LabelDocument]:
    """Return the labels of a campaign by cycle and number."""
    return {(label.cycle, label.index): label for label in read_labels(flow_output.campaign_id, store=store)}


@dataclass
class FailsOnceTrainer(StandInTrainer):
    """A trainer whose ``failing`` jobs succeed when they are run again; ``marker`` is the file that remembers."""

    marker: str = ""

    def train(self, *args: Any, **kwargs: Any) -> TrainingResult:
        """Fail, or not."""
        if not is_current_job(self.failing):
            return super().train(*args, **kwargs)
        again = Path(self.marker).exists()
        Path(self.marker).touch()
        return StandInTrainer.train(replace(self, failing=[]) if again else self, *args, **kwargs)


@dataclass
class MendableOracleMaker(StandInOracleMaker):
    """An oracle whose ``failing`` labels succeed once the file ``mended`` exists."""

    mended: str = ""

    def compute(self, atoms: Atoms) -> ExtractedLabel:
        """Fail, or not."""
        oracle = replace(self, failing=[]) if Path(self.mended).exists() else self
        return StandInOracleMaker.compute(oracle, atoms)


@dataclass
class StumblingDynamicsMaker(ScriptedDynamicsMaker):
    """
    A script, and the walls a first attempt runs into.

    Parameters
    ----------
    crashing
        Parts of the names of jobs that die the first time; ``marker`` is the file that remembers.
    wall_time_after
        Every walk ends there first, TIMED_OUT, and goes on in another job.
    """

    crashing: list[str] = field(default_factory=list)
    marker: str = ""
    wall_time_after: int | None = None

    def explore(
        self, walker: WalkerState, potential: PotentialDocument, atoms: Atoms | None, restart_file: str | None
    ) -> ExplorationResult:
        """Crash, stop early, or follow the script."""
        if is_current_job(self.crashing) and not Path(self.marker).exists():
            Path(self.marker).touch()
            raise ExplorationError("the test says that MD crashes here, once")
        if self.wall_time_after is not None and CURRENT_JOB.job.index == 1:
            return ExplorationResult(WalkStatus.TIMED_OUT, walker.step + self.wall_time_after, atoms, halt=None)
        return super().explore(walker, potential, atoms, restart_file)


def start_worker(
    folder: Path, jobflow_yaml: Path, *, deaths: Sequence[str] = (), n_launches: str = "infinite"
) -> subprocess.Popen[bytes]:
    """
    Start ``rlaunch rapidfire`` (:func:`main`) with the ``my_launchpad.yaml`` beside the JobStore's ``jobflow.yaml``.

    Without ``infinite`` launches a worker leaves as soon as all ready jobs run elsewhere, as
    FireWorks cannot know that a job will append others.

    Parameters
    ----------
    folder
        The worker's own; its log is worker.log.
    jobflow_yaml
        Configuration of the JobStore.
    deaths
        Where workers die by SIGKILL, one after the other, before the last one is left in peace; see :func:`die_at`.
        In between ``lpad detect_lostruns --rerun --refresh`` and ``mend`` look after what they left.
    n_launches
        Of rlaunch.
    """
    folder.mkdir()
    (folder / "my_fworker.yaml").write_text(yaml.safe_dump({"name": folder.name, "category": "", "query": "{}"}))
    settings = {"RAPIDFIRE_SLEEP_SECS": 0.1, "WFLOCK_EXPIRATION_SECS": 1, "WFLOCK_EXPIRATION_KILL": bool(deaths)}
    (folder / "FW_config.yaml").write_text(yaml.safe_dump(settings if deaths else {"RAPIDFIRE_SLEEP_SECS": 0.1}))
    pad = str(jobflow_yaml.with_name("my_launchpad.yaml"))
    rapidfire = ["-l", pad, "-w", str(folder / "my_fworker.yaml"), "rapidfire", "--nlaunches", n_launches]
    environment = {
        **os.environ,
        "JOBFLOW_CONFIG_FILE": str(jobflow_yaml),
        "FW_CONFIG_FILE": str(folder / "FW_config.yaml"),
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, __file__, json.dumps(list(deaths)), *rapidfire]
    with (folder / "worker.log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def die_at(place: str) -> None:
    """
    Let this process die by SIGKILL.

    Parameters
    ----------
    place
        A moment and a job's name: ``running label c000 001`` dies before there is a document, ``stored ...`` when the
        document is in the store and FireWorks does not know, ``completed ...`` when FireWorks has noted
        what the job returned and holds the lock of the workflow, but has not acted upon it, ``half-way ...`` when it
        has written the Fireworks and not yet the workflow.
    """
    from fireworks import LaunchPad

    moment, name = place.split(" ", 1)
    run, update = Job.run, LaunchPad._update_wf

    def die() -> None:
        print(f"killed: {place}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def run_or_die(self: Job, *args: Any, **kwargs: Any) -> Any:
        if self.name == name and moment == "running":
            die()
        response = run(self, *args, **kwargs)
        if self.name == name and moment == "stored":
            die()
        return response

    def update_or_die(self: LaunchPad, wf: Any, updated_ids: Any) -> Any:
        done = {wf.id_fw[i].name for i in updated_ids if wf.id_fw[i].state == "COMPLETED"}
        if moment == "completed" and name in done:
            die()
        if moment == "half-way" and name in done:
            self._upsert_fws([wf.id_fw[i] for i in updated_ids])
            die()
        return update(self, wf, updated_ids)

    Job.run, LaunchPad._update_wf = run_or_die, update_or_die  # type: ignore[method-assign]


def in_a_child(function: Callable[[], Any]) -> int:
    """Run something in a forked process; return its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            function()
            sys.stdout.flush()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(deaths: str, *command: str) -> None:
    """
    ``rlaunch``, in a process that has run a campaign before.

    The first jobs of a process cost seconds of imports, in which another would run all of the others.
    """
    from fireworks import LaunchPad
    from fireworks.scripts.lpad_run import lpad
    from fireworks.scripts.rlaunch_run import rlaunch

    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(campaign(Path("warm-up.log").resolve()), store=store, log=False)

    def doomed(place: str) -> None:
        die_at(place)
        rlaunch(command)

    for place in json.loads(deaths):
        status = in_a_child(lambda place=place: doomed(place))  # type: ignore[misc]
        if status != -signal.SIGKILL:
            raise SystemExit(f"the worker that was to die at '{place}' ended with status {status}")
        in_a_child(lambda: lpad([*command[:2], "detect_lostruns", "--time", "0", "--rerun", "--refresh"]))
        in_a_child(lambda: print(mend(LaunchPad.from_file(command[1]), older_than_s=0), flush=True))
    rlaunch(command)


if __name__ == "__main__":
    main(*sys.argv[1:])
