"""Campaigns on a LaunchPad: queues by step, failures, reruns by FireWorks' own commands."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import jobflow
import pytest
import yaml
from ase.build import bulk
from campaign_workers import (
    Configured,
    FailsOnceTrainer,
    MendableOracleMaker,
    StumblingDynamicsMaker,
    campaign,
    labelled,
    needs_server,
    start_worker,
)
from jobflow import Flow, Job, JobStore, run_locally
from jobflow.settings import JobflowSettings
from maggma.stores import MemoryStore
from paths import ROOT

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.flows.workers import HEAVY_STEPS, assign_workers
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.managers.fireworks.launchpad import submit
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInTrainer, read_events, stand_in_loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fireworks import LaunchPad

pytestmark = pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed (extra 'fireworks')")

#: What each job of a campaign needs, written down here once more, by name.
STEP_OF = {
    r"label c\d{3} \d{3}|label compared c000 \d{3}": "label",
    r"train c\d{3}": "train",
    r"explore c\d{3} w\d{2}": "explore",
    r"record campaign|import labels \d{3}|import potential"
    r"|(generate|request labels|count labels|add up labels|select|propose check|check|assess) c\d{3}( from \d{3})?"
    r"|propose c\d{3} w\d{2}|reuse c\d{3} \d{3}": "light",
}
COPPER = bulk("Cu", cubic=True) * (2, 2, 2)


def small_campaign(events: Path, campaign_id: str | None = None, n_halts: int = 1, **makers: Any) -> Flow:
    """One walker that halts, is labelled for, and runs through."""
    dynamics = ScriptedDynamicsMaker(halts=[Halt(step=100 * (i + 1)) for i in range(n_halts)])
    maker = stand_in_loop(str(events), **{"dynamics_maker": dynamics, **makers})
    return maker.make(COPPER, 300, campaign_id=campaign_id)


def step_of(name: str) -> str:
    found = [step for pattern, step in STEP_OF.items() if re.fullmatch(pattern, name)]
    assert len(found) == 1, f"job '{name}' belongs to the steps {found}"
    return found[0]


def test_jobs_of_all_cycles_know_their_worker(
    monkeypatch: pytest.MonkeyPatch, memory_jobstore: jobflow.JobStore, tmp_path: Path
) -> None:
    """Any manager that runs jobs by jobflow's own ``Job.run``; with a walk that goes on in a second job."""
    seen: list[tuple[str, Any]] = []
    run = Job.run

    def noted(self: Job, *args: Any, **kwargs: Any) -> Any:
        seen.append((self.name, self.config.manager_config))
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Job, "run", noted)
    halts = [Halt(step=100), Halt(step=200)]
    flow = stand_in_loop(dynamics_maker=StumblingDynamicsMaker(halts=halts, wall_time_after=10)).make(COPPER, 300)
    workers = {step: {"worker": f"the {step} one"} for step in (*HEAVY_STEPS, "light")}
    assign_workers(flow, workers)
    run_locally(flow, store=memory_jobstore, create_folders=True, root_dir=tmp_path, log=False, ensure_success=True)
    assert Counter(name for name, _ in seen)["explore c001 w00"] == 2, "no walk went on in a second job"
    assert {"label c000 000", "label c002 000", "train c002", "explore c002 w00", "assess c002"} <= {n for n, _ in seen}
    assert [(name, config) for name, config in seen if config != workers[step_of(name)]] == []


@pytest.fixture
def pad(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> LaunchPad:
    """A LaunchPad, for workers in this process too."""
    monkeypatch.setattr(jobflow.SETTINGS, "JOB_STORE", configured.store)
    return configured.launchpad()


@pytest.fixture
def work(pad: LaunchPad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """FireWorks' own loop of a worker, until it finds nothing more to do."""
    from fireworks import FWorker
    from fireworks.core.rocket_launcher import rapidfire

    monkeypatch.chdir(tmp_path)

    def run(category: str = "") -> None:
        worker = FWorker(name=f"the {category} one", category=category)
        rapidfire(pad, worker, nlaunches=0, sleep_time=0.1, strm_lvl="CRITICAL")

    return run


@pytest.fixture
def lpad(configured: Configured, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """FireWorks' own command."""
    from fireworks.scripts.lpad_run import lpad as command

    def run(*arguments: str) -> str:
        capsys.readouterr()
        logging.disable(logging.INFO)  # a handler of an earlier test may write to the same stream
        try:
            command(["-l", str(configured.file.with_name("my_launchpad.yaml")), *arguments])
        finally:
            logging.disable(logging.NOTSET)
        return capsys.readouterr().out

    return run


def fireworks_named(pad: LaunchPad, name: str) -> list[int]:
    return pad.get_fw_ids({"name": name})


def branches(pad: LaunchPad) -> dict[str, int]:
    """Return the jobs there is more than one of."""
    return {name: n for name, n in Counter(fw["name"] for fw in pad.fireworks.find({}, ["name"])).items() if n > 1}


@needs_server
def test_workers_of_each_step_run_that_step(
    configured: Configured, pad: LaunchPad, work: Callable[..., None], lpad: Callable[..., str], tmp_path: Path
) -> None:
    flow = campaign(tmp_path / "events.log")
    nodes = {"_category": "label", "_queueadapter": {"nodes": 4}}
    submission = submit(flow, pad, {"label": nodes}, priority=7)
    assert all(job.config.manager_config == {} for job, _ in flow.iterflow()), "the user's flow was changed"
    for _ in range(9):
        for step in (*HEAVY_STEPS, "light"):
            work(step)
    workflow = pad.get_wf_by_fw_id(submission.fw_ids[0])
    assert workflow.state == "COMPLETED"
    assert configured.final(flow).status == "CONVERGED"
    names = {firework.name for firework in workflow.fws}
    assert {"label c002 000", "train c002", "explore c002 w01", "assess c002"} <= names
    for firework in workflow.fws:
        step = step_of(firework.name)
        assert [launch.fworker.name for launch in firework.launches] == [f"the {step} one"], firework.name
        assert firework.spec["_category"] == step
        assert firework.spec["_priority"] == 7
        assert firework.spec["campaign_id"] == submission.campaign_id
        assert firework.spec.get("_queueadapter") == ({"nodes": 4} if step == "label" else None)

    assert submission.campaign_id in submission.workflow_name
    found = json.loads(lpad("get_wflows", "-n", submission.workflow_name))
    by_metadata = json.loads(lpad("get_wflows", "-q", str({"metadata.campaign_id": submission.campaign_id})))
    assert found["state"] == by_metadata["state"] == "COMPLETED"


@needs_server
def test_a_campaign_runs_once_at_a_time(
    configured: Configured, pad: LaunchPad, work: Callable[..., None], tmp_path: Path
) -> None:
    """What is unfinished keeps a second workflow out; what failed is archived, so that no rerun wakes it up."""

    def flow() -> Flow:
        train_maker = TrainMaker(trainer=StandInTrainer(failing=["train"]))
        return stand_in_loop(train_maker=train_maker).make(COPPER, 300, campaign_id="copper")

    failing = submit(flow(), pad).fw_ids[0]
    with pytest.raises(InvalidInputError, match=rf"copper .*Firework {failing} .*lpad archive_wflows"):
        submit(flow(), pad)
    work()
    assert pad.get_wf_by_fw_id(failing).state == "FIZZLED"
    resumed = OTFMaker.resume("copper", configured.store, stand_in_loop())
    again = submit(resumed, pad)
    assert pad.get_wf_by_fw_id(failing).state == "ARCHIVED"
    work()
    assert pad.get_wf_by_fw_id(again.fw_ids[0]).state == "COMPLETED"
    assert configured.final(resumed).status == "CONVERGED"

    extended = OTFMaker.extend("copper", configured.store, conditions=600, maker=stand_in_loop())
    submit(extended, pad)
    assert pad.get_wf_by_fw_id(again.fw_ids[0]).state == "COMPLETED"


@needs_server
def test_the_example_of_the_documentation(pad: LaunchPad, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "fireworks.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.setattr(type(pad), "auto_load", lambda: pad)
    exec(block, {})
    (workflow,) = (pad.get_wf_by_fw_id(fw_id) for fw_id in pad.get_wf_ids())
    assert f"lpad get_wflows -n '{workflow.name}'" in text
    assert {f.spec["_priority"] for f in workflow.fws} == {10}


def test_submit_refuses_what_it_cannot_mean() -> None:
    flow = stand_in_loop().make(COPPER, 300)
    with pytest.raises(InvalidInputError, match=r"'md'.*label, train, explore, light"):
        submit(flow, workers={"md": {"_category": "gpu"}})
    with pytest.raises(InvalidInputError, match="holds 2 campaigns"):
        submit(Flow([flow, stand_in_loop().make(COPPER, 300)]))


@needs_server
def test_no_password_leaves_the_configuration(
    configured: Configured,
    pad: LaunchPad,
    work: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """maggma prefers the address to user and password, so that the store works with a made-up one."""
    secret = "correct-horse-battery"
    stores = yaml.safe_load(configured.file.read_text())["JOB_STORE"]
    for store in (stores["docs_store"], stores["additional_stores"]["data"]):
        store |= {"username": "someone", "password": secret}
    file = tmp_path / "with_password.yaml"
    file.write_text(json.dumps({"JOB_STORE": stores}))
    store = JobflowSettings(CONFIG_FILE=str(file)).JOB_STORE
    monkeypatch.setattr(jobflow.SETTINGS, "JOB_STORE", store)
    flow = small_campaign(tmp_path / "events.log")
    submit(flow, pad)
    work()
    assert configured.final(flow).status == "CONVERGED"

    database = configured.client[configured.name]
    collections = set(database.list_collection_names())
    assert {"fireworks", "launches", "workflows", "documents", "data.files"} <= collections
    for name in sorted(collections):
        assert secret not in str(list(database[name].find())), name
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != file]
    assert any(path.name == "FW.json" for path in files)
    assert [path for path in files if secret.encode() in path.read_bytes()] == []

    from jobflow.managers.fireworks import flow_to_workflow

    careless = flow_to_workflow(small_campaign(tmp_path / "events.log"), store=store)
    assert secret in str(careless.to_dict()), (
        "a store handed to jobflow shows its password: the test looks in the right place"
    )


@needs_server
def test_a_rerun_leaves_one_branch(
    configured: Configured,
    pad: LaunchPad,
    work: Callable[..., None],
    lpad: Callable[..., str],
    tmp_path: Path,
) -> None:
    """An MD job died, the loop went on, and the user reruns what fizzled, then jobs that had appended others."""
    events = tmp_path / "events.log"
    dynamics = StumblingDynamicsMaker(
        halts=[Halt(step=100)], crashing=["explore c000 w00"], marker=str(tmp_path / "marker")
    )
    flow = small_campaign(events, dynamics_maker=dynamics)
    fw_id = submit(flow, pad).fw_ids[0]
    work()
    assert pad.get_wf_by_fw_id(fw_id).state == "COMPLETED"
    assert [f.name for f in pad.get_wf_by_fw_id(fw_id).fws if f.state == "FIZZLED"] == ["explore c000 w00"]
    before, done = configured.final(flow), read_events(events)
    assert before.status == "CONVERGED"
    documents = configured.documents()
    # the job that died forgets its reason when it runs again
    failures = [doc for doc in documents if isinstance(doc["output"], dict) and doc["output"].get("kind") == "failure"]
    stored = {(doc["uuid"], doc["index"]): doc["completed_at"] for doc in documents if doc not in failures}
    assert len(failures) <= 1 < len(stored)
    jobs = len(pad.get_wf_by_fw_id(fw_id).fws)

    lpad("rerun_fws", "-s", "FIZZLED")
    work()
    assert {f.state for f in pad.get_wf_by_fw_id(fw_id).fws} == {"COMPLETED"}
    new = read_events(events)[len(done) :]
    assert new[:2] == ["start w0 0", "halt w0 100"], "the job that had died was not run again"
    assert new[2:] == []
    for name in ("assess c001", "request labels c002", "label c002 001", "explore c002 w00"):
        (again,) = fireworks_named(pad, name)
        launches = pad.launches.count_documents({"fw_id": again})
        lpad("rerun_fws", "-i", str(again))
        assert pad.get_wf_by_fw_id(fw_id).state != "COMPLETED"
        work()
        assert pad.launches.count_documents({"fw_id": again}) == launches + 1, name
        assert {f.state for f in pad.get_wf_by_fw_id(fw_id).fws} == {"COMPLETED"}, name
        assert branches(pad) == {}, name
    assert len(pad.get_wf_by_fw_id(fw_id).fws) == jobs
    assert configured.final(flow) == before
    now = {(doc["uuid"], doc["index"]): doc["completed_at"] for doc in configured.documents()}
    assert {key: now[key] for key in stored} == stored, "a document on which the loop had gone on was written again"


@needs_server
@pytest.mark.long
def test_jobflow_alone_would_append_a_second_branch(
    pad: LaunchPad, work: Callable[..., None], lpad: Callable[..., str], tmp_path: Path
) -> None:
    """What CampaignFiretask is for; once this fails, it is no longer needed."""
    from jobflow.managers.fireworks import flow_to_workflow

    pad.add_wf(flow_to_workflow(small_campaign(tmp_path / "events.log")))
    work()
    lpad("rerun_fws", "-i", str(fireworks_named(pad, "assess c000")[0]))
    work()
    assert branches(pad)["assess c001"] == 2


@needs_server
def test_a_failed_campaign_is_not_completed(
    configured: Configured,
    pad: LaunchPad,
    work: Callable[..., None],
    lpad: Callable[..., str],
    tmp_path: Path,
) -> None:
    """The loop ends with a document, not with a COMPLETED workflow; a rerun of what fizzled goes on from there."""
    events = tmp_path / "events.log"
    trainer = FailsOnceTrainer(failing=["train c001"], marker=str(tmp_path / "marker"))
    flow = small_campaign(events, train_maker=TrainMaker(trainer=trainer))
    fw_id = submit(flow, pad).fw_ids[0]
    work()
    workflow = pad.get_wf_by_fw_id(fw_id)
    assert workflow.state == "FIZZLED"
    fizzled = {f.name: f for f in workflow.fws if f.state == "FIZZLED"}
    assert fizzled.keys() == {"train c001", "assess c001"}
    trace = fizzled["assess c001"].launches[-1].action.stored_data["_exception"]["_stacktrace"]
    assert "ended FAILED: step 'train' of cycle 1 failed" in trace
    failed = configured.final(flow)
    assert (failed.status, failed.cycle) == ("FAILED", 1)
    assert failed.potential is not None

    n_labels = read_events(events).count("label")
    lpad("rerun_fws", "-s", "FIZZLED")
    work()
    assert {f.state for f in pad.get_wf_by_fw_id(fw_id).fws} == {"COMPLETED"}
    assert branches(pad) == {}
    final = configured.final(flow)
    assert (final.status, final.n_cycles) == ("CONVERGED", 1)
    assert read_events(events).count("label") == n_labels == final.n_labels


@needs_server
@pytest.mark.parametrize("lost", ["everything", "bulk data"])
def test_a_worker_whose_store_would_lose_the_campaign_computes_nothing(
    configured: Configured,
    pad: LaunchPad,
    work: Callable[..., None],
    lpad: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """A node without jobflow.yaml ran a campaign to COMPLETED in a store in memory, and all was lost."""
    flow = small_campaign(tmp_path / "events.log")
    fw_id = submit(flow, pad).fw_ids[0]
    documents = MemoryStore() if lost == "everything" else configured.store.docs_store
    with monkeypatch.context() as worker:
        worker.setattr(jobflow.SETTINGS, "JOB_STORE", JobStore(documents, additional_stores={"data": MemoryStore()}))
        work()
    workflow = pad.get_wf_by_fw_id(fw_id)
    (fizzled,) = (f for f in workflow.fws if f.state == "FIZZLED")
    assert fizzled.name == "record campaign"
    trace = fizzled.launches[-1].action.stored_data["_exception"]["_stacktrace"]
    assert "Let JOBFLOW_CONFIG_FILE of the worker name" in trace
    lpad("rerun_fws", "-s", "FIZZLED")
    work()
    assert configured.final(flow).status == "CONVERGED"


@needs_server
def test_labels_of_an_oracle_that_failed_are_rerun(
    configured: Configured, pad: LaunchPad, work: Callable[..., None], lpad: Callable[..., str], tmp_path: Path
) -> None:
    """No job died, labels that failed are documents: a rerun of the job that asked for them computes those alone."""
    events, mended = tmp_path / "events.log", tmp_path / "mended"
    oracle = MendableOracleMaker(failing=["c001 000", "c001 001", "c001 002"], mended=str(mended))
    flow = small_campaign(events, oracle_maker=oracle)
    fw_id = submit(flow, pad).fw_ids[0]
    work()
    assert configured.final(flow).status == "ORACLE_FAILING"
    assert pad.get_wf_by_fw_id(fw_id).state == "FIZZLED"
    (fizzled,) = (f for f in pad.get_wf_by_fw_id(fw_id).fws if f.state == "FIZZLED")
    assert fizzled.name == "assess c001"
    trace = fizzled.launches[-1].action.stored_data["_exception"]["_stacktrace"]
    assert "rerun its job 'request labels c001', not this one" in trace
    done = read_events(events)
    assert done.count("bad label") == 3

    mended.touch()
    lpad("rerun_fws", "-i", str(fireworks_named(pad, "request labels c001")[0]))
    work()
    assert {f.state for f in pad.get_wf_by_fw_id(fw_id).fws} == {"COMPLETED"}
    assert branches(pad) == {}
    assert read_events(events)[len(done) :].count("label") == 3
    final = configured.final(flow)
    assert (final.status, final.n_failed_labels) == ("CONVERGED", 0)
    assert final.n_labels == read_events(events).count("label") == len(labelled(configured.store, final))


DEATHS = [
    "stored record campaign",
    "running label c000 001",
    "running explore c000 w00",
    "half-way assess c000",
    "running select c001",
    "stored request labels c001",
    "stored label c001 000",
    "half-way train c001",
    "completed assess c001",
    "completed request labels c002",
]


@needs_server
@pytest.mark.long
def test_killed_workers_lose_nothing(configured: Configured, pad: LaunchPad, tmp_path: Path) -> None:
    """SIGKILL, ``lpad detect_lostruns --rerun --refresh``, ``mend``, the next worker; ten times in one campaign."""
    flow = small_campaign(tmp_path / "events.log", n_halts=2)
    fw_id = submit(flow, pad).fw_ids[0]
    worker = start_worker(tmp_path / "worker", configured.file, deaths=DEATHS, n_launches="0")
    try:
        worker.wait(300)
    finally:
        worker.kill()
        worker.wait()
    log = (tmp_path / "worker" / "worker.log").read_text()
    assert re.findall(r"^killed: (.*)$", log, re.MULTILINE) == DEATHS, log[-3000:]
    mended = re.findall(r"^Mended\(carried_on=\[(.*)\], removed=\[(.*)\]\)$", log, re.MULTILINE)
    assert len(mended) == len(DEATHS)
    for death, (carried_on, removed) in zip(DEATHS, mended, strict=True):
        assert bool(carried_on) is death.startswith("half-way"), death
        assert bool(removed) is (death == "half-way assess c000"), death
    assert {f.state for f in pad.get_wf_by_fw_id(fw_id).fws} == {"COMPLETED"}, log[-3000:]
    assert branches(pad) == {}
    final = configured.final(flow)
    assert (final.status, final.n_halts) == ("CONVERGED", 2)
    labels = labelled(configured.store, final)
    assert len(labels) == final.n_labels

    alone = small_campaign(tmp_path / "alone.log", n_halts=2)
    run_locally(alone, store=configured.store, create_folders=True, root_dir=tmp_path, log=False)
    expected = labelled(configured.store, configured.final(alone))
    assert labels.keys() == expected.keys()
    for key, label in labels.items():
        assert label.to_atoms() == expected[key].to_atoms(), key
    assert read_events(tmp_path / "events.log").count("label") == final.n_labels, "a label was computed twice"
