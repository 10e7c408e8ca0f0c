"""
The loop under jobflow-remote: its runner, a local worker for each kind of step, and its command line.

A process of its own runs the campaign, because jobflow-remote and jobflow read their configuration once, when they
are imported: this file is also that process' script.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from campaign_workers import needs_server
from own_process import python_path, run_script, stores_on_server, write_jobflow_yaml
from paths import ROOT

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.flows.workers import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator

HELPERS = ROOT / "tests" / "helpers"
PAGE = ROOT / "docs" / "jobflow-remote.md"
DEPLOY = ROOT / "deploy"
DEATHS = ["running label c000 001", "stored label c001 002", "running assess c000"]

needs_jobflow_remote = pytest.mark.skipif(
    find_spec("jobflow_remote") is None, reason="jobflow-remote is not installed (extra 'remote')"
)
pytestmark = needs_jobflow_remote


def write_project(folder: Path, uri: str, database: str) -> dict[str, str]:
    """Write a project and the JobStore of its workers; return the environment that finds them."""
    stores = stores_on_server(uri, database)
    write_jobflow_yaml(folder, stores)
    python = Path(sys.executable)
    workers = {}
    for step in STEPS:
        (folder / step).mkdir()
        workers[step] = {
            "type": "local",
            "scheduler_type": "shell",
            "work_dir": str(folder / step),
            "execution_cmd": f"{python} {HELPERS / 'remote_worker.py'} {folder / 'socket'} {{}}",
        }
    # one of them as documented: a process of its own for each job, told where the JobStore is
    del workers["train"]["execution_cmd"]
    workers["train"]["pre_run"] = (
        f"export JOBFLOW_CONFIG_FILE={folder / 'jobflow.yaml'}\nexport PATH={python.parent}:$PATH"
    )
    project = {
        "name": "campaigns",
        "base_dir": str(folder / "base"),
        "workers": workers,
        "queue": {"store": {"type": "MongoStore", "collection_name": "jobs", "database": database, "uri": uri}},
        "jobstore": stores,
        "runner": {"delay_checkout": 0.2, "delay_check_run_status": 0.2, "delay_advance_status": 0.2},
    }
    (folder / "campaigns.yaml").write_text(yaml.safe_dump(project))
    environment = {key: value for key, value in os.environ.items() if key != "JOBFLOW_CONFIG_FILE"}
    return environment | {
        "JFREMOTE_PROJECTS_FOLDER": str(folder),
        "JFREMOTE_CONFIG_FILE": str(folder / "no such file"),
        "PYTHONPATH": python_path(environment),
        "PYTHONWARNINGS": "ignore",
    }


def main() -> None:
    """Run a campaign in the project of the current folder, and write down what became of it."""
    from ase.build import bulk
    from campaign_workers import StumblingDynamicsMaker
    from jobflow_remote.config import ConfigManager
    from jobflow_remote.jobs.jobcontroller import JobController
    from jobflow_remote.jobs.runner import Runner
    from jobflow_remote.testing.cli import run_check_cli

    from mlip_autopipec.testing import Halt, StandInOracleMaker, stand_in_loop

    maker = stand_in_loop(
        str(Path("events.log").resolve()),
        dynamics_maker=StumblingDynamicsMaker(halts=[Halt(step=100)], wall_time_after=10),
        oracle_maker=StandInOracleMaker(failing=["c001 001"]),
    )
    flow = maker.make(bulk("Cu", cubic=True) * (2, 2, 2), 300, campaign_id="copper")
    run_check_cli(["admin", "reset", "-y"])
    submit, extend = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec(submit, {"flow": flow})
    jobs = JobController.from_project_name("campaigns")
    results: dict[str, Any] = {"cli": {}}

    def look() -> dict[str, Any]:
        found = jobs.get_jobs_info()
        named = {f"{one.name} {one.index}": [one.state.value, one.worker, one.db_id, one.error] for one in found}
        assert len(named) == len(found), "two jobs of one name"
        return named

    def jf(*command: str, error: bool = False) -> None:
        result = run_check_cli(list(command), error=error)
        results["cli"][" ".join(command)] = result.stdout + result.stderr

    while not Path("socket").exists():
        time.sleep(0.1)
    Runner("campaigns").run_all_jobs(max_seconds=600)
    results["died"] = before = look()
    jf("job", "rerun", before["label c000 001 1"][2], error=True)
    jf("job", "rerun", before["assess c000 1"][2])
    Runner("campaigns").run_all_jobs(max_seconds=600)
    results["jobs"] = look()
    jf("flow", "info", "1")
    jf("job", "rerun", "-f", before["train c000 1"][2], error=True)
    store = ConfigManager().get_project("campaigns").get_jobstore()
    store.connect()
    final = store.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1}, load=True)
    results["final"] = final["output"]
    namespace: dict[str, Any] = {}
    exec(extend, namespace)
    results["extended"] = [job.name for job, _ in namespace["flow"].iterflow()]
    results["labels"] = list(store.query({"output.kind": "label"}, ["output.state", "output.cycle", "output.index"]))
    Path("results.json").write_text(json.dumps(results, default=str))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    from uuid import uuid4

    from campaign_workers import MONGO_URI
    from pymongo import MongoClient

    if not MONGO_URI:
        pytest.skip("no MongoDB server")
    folder = tmp_path_factory.mktemp("remote")
    database = f"mlip_autopipec_test_{uuid4().hex[:8]}"
    environment = write_project(folder, MONGO_URI, database)
    (folder / "deaths").mkdir()
    at_worker = {
        **environment,
        "JOBFLOW_CONFIG_FILE": str(folder / "jobflow.yaml"),
        "DEATHS": json.dumps(DEATHS),
        "DEATHS_NOTED": str(folder / "deaths"),
    }
    with (folder / "worker.log").open("w") as log:
        command = [sys.executable, str(HELPERS / "remote_worker.py"), str(folder / "socket")]
        worker = subprocess.Popen(command, env=at_worker, stdout=log, stderr=log)
    try:
        yield run_script(
            __file__, folder, environment, timeout=300, more=lambda: (folder / "worker.log").read_text()[-3000:]
        )
    finally:
        worker.kill()
        worker.wait()
        with MongoClient(MONGO_URI) as client:
            client.drop_database(database)


@pytest.mark.long
@needs_server
def test_converges(results: dict[str, Any]) -> None:
    final = results["final"]
    assert (final["status"], final["n_cycles"], final["n_halts"]) == ("CONVERGED", 1, 1)
    assert final["potential"]["payload"]["yaml"]
    events = (Path(results["folder"]) / "events.log").read_text().splitlines()
    successful = [label for label in results["labels"] if label["output"]["state"] == "successful"]
    assert len(successful) == final["n_labels"] == events.count("label")
    assert (final["n_failed_labels"], events.count("bad label")) == (2, 1)  # one was killed before it began


@pytest.mark.long
@needs_server
def test_steps_go_to_their_workers(results: dict[str, Any]) -> None:
    """In all cycles, also where another worker's job appended them, and where a walk goes on after its wall time."""
    steps = {"label c": "label", "train c": "train", "explore c": "explore"}
    for name, (_, worker, *_) in results["jobs"].items():
        assert worker == next((step for part, step in steps.items() if name.startswith(part)), "light"), name
    walks = [name for name in results["jobs"] if name.startswith("explore")]
    assert sorted(walks) == [f"explore c{cycle:03d} w00 {part}" for cycle in (0, 1) for part in (1, 2)]


@pytest.mark.long
@needs_server
def test_killed_jobs(results: dict[str, Any]) -> None:
    """A label killed before it was computed is a failed one, later it counts; an assessment waits for its rerun."""
    died, in_the_end = results["died"], results["jobs"]
    assert {death.name for death in (Path(results["folder"]) / "deaths").iterdir()} == set(DEATHS)
    assert {name for name, (state, *_) in died.items() if state == "FAILED"} == {"label c000 001 1", "assess c000 1"}
    assert died["train c000 1"][0] == "COMPLETED"
    failed = {name for name, (state, *_) in in_the_end.items() if state != "COMPLETED"}
    assert failed == {"label c000 001 1", "label c001 002 1"}
    stored = {(label["output"]["cycle"], label["output"]["index"]) for label in results["labels"]}
    assert (0, 1) not in stored
    assert (1, 2) in stored
    assert in_the_end["assess c000 1"][2] == died["assess c000 1"][2], "another job was made to assess cycle 0"


@pytest.mark.long
@needs_server
def test_reruns_never_start_a_second_branch(results: dict[str, Any]) -> None:
    """jobflow-remote refuses to rerun what the loop went on from, also by force."""
    said = results["cli"]
    label, train = (results["died"][f"{name} 1"][2] for name in ("label c000 001", "train c000"))
    assert "has state COMPLETED which is not acceptable" in " ".join(said[f"job rerun {label}"].split())
    assert "is not allowed" in said[f"job rerun -f {train}"]
    assert sorted(name for name in results["jobs"] if name.startswith("assess")) == ["assess c000 1", "assess c001 2"]
    assert "assess c001" in said["flow info 1"]


@pytest.mark.long
@needs_server
def test_extended(results: dict[str, Any]) -> None:
    """Two walkers at the new temperature and the potential there is: no first dataset."""
    assert "explore c002 w01" in results["extended"]
    assert not [name for name in results["extended"] if name.startswith(("generate", "train"))]


def filled_in(template: Path) -> dict[str, Any]:
    return yaml.safe_load(template.read_text().replace("${MONGODB_URI}", "mongodb://server.example.org/"))


def test_the_project_template(tmp_path: Path) -> None:
    """jobflow-remote takes it, Slurm's header has all resources, and the stores are those of FireWorks' template."""
    from jobflow_remote.config.base import Project
    from monty.serialization import loadfn

    (tmp_path / "campaigns.yaml").write_text(yaml.safe_dump(filled_in(DEPLOY / "jobflow-remote" / "campaigns.yaml")))
    project = Project(**loadfn(tmp_path / "campaigns.yaml"), base_dir=str(tmp_path))
    assert set(STEPS) <= set(project.workers) <= {*STEPS, "label_pilot"}
    for worker in project.workers.values():
        assert "export JOBFLOW_CONFIG_FILE=" in worker.pre_run
        script = worker.get_scheduler_io().get_submission_script(["jf"], options=dict(worker.resources))
        assert script.count("#SBATCH") == len(worker.resources)
    assert project.jobstore == filled_in(DEPLOY / "fireworks" / "jobflow.yaml")["JOB_STORE"]
    assert project.get_jobstore() is not None
    on_queue = {
        project.queue.store["collection_name"],
        project.queue.flows_collection,
        project.queue.auxiliary_collection,
    }
    assert not on_queue & {"outputs", "outputs_data"}


def test_a_worker_without_jobstore_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobflow import SETTINGS, JobStore
    from jobflow_remote.jobs.run import CURRENT_JOBDOC
    from maggma.stores import MemoryStore

    from mlip_autopipec.jobs.base import current_store

    monkeypatch.setattr(SETTINGS, "JOB_STORE", JobStore(MemoryStore()))
    monkeypatch.setattr(CURRENT_JOBDOC, "job_doc", object())
    with pytest.raises(MLIPError, match="JOBFLOW_CONFIG_FILE"):
        current_store()


if __name__ == "__main__":
    main()
