"""status, submit and mend: from a folder's store, from the database, to a LaunchPad."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from ase.build import bulk
from campaign_workers import configured, needs_server  # noqa: F401 - a fixture
from jobflow import run_locally
from run_files import SMALL
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, FAILED, NOT_CONVERGED, ExitCode, app, open_store
from mlip_autopipec.cli.run import _interrupted
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, stand_in_loop

needs_fireworks = pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed")
HALTS = [Halt(step=100, walker=0), Halt(step=300, walker=1)]


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def ran(folder: Path, name: str, halts: list[Halt], **maker) -> Path:
    """Run a campaign of stand-ins into the store of a folder."""
    store = open_store(folder / "store")
    loop = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=halts), **maker)
    flow = loop.make(bulk("Cu", cubic=True), [300, 600], campaign_id=name)
    (folder / "jobs").mkdir()
    run_locally(flow, store=store, create_folders=True, root_dir=folder / "jobs", log=False)
    store.close()
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return ran(tmp_path_factory.mktemp("finished"), "copper", HALTS)


@pytest.fixture(scope="module")
def spent(tmp_path_factory) -> Path:
    rule = StopRule(max_cycles=1, n_check_labels=0)
    return ran(
        tmp_path_factory.mktemp("spent"), "spent", [Halt(step=100, walker=0), Halt(step=200, walker=0)], stop_rule=rule
    )


def test_who_interrupts_what_has_ended_is_told_so(finished, spent, tmp_path):
    file = tmp_path / "run.yaml"
    told = _interrupted(file, None, finished)
    assert "after the loop ended as CONVERGED" in told["why"]
    assert told["go_on"] == f"mlip-autopipec resume {file}"
    assert "MAX_ITER_REACHED" in _interrupted(file, None, spent)["why"]
    shutil.copytree(finished, whole := tmp_path / "whole")
    (whole / "result.json").touch()
    told = _interrupted(file, None, whole)
    assert "after all was written; the campaign ended as CONVERGED" in told["why"]
    assert told["go_on"].startswith("mlip-autopipec report ")
    (learning := tmp_path / "learning").mkdir()
    assert "start again" in _interrupted(file, None, learning)["why"]


def test_status_of_a_folder_tells_walkers_and_its_exit_code(finished):
    shown = invoke("status", str(finished))
    assert shown.exit_code == CONVERGED, shown.output
    assert "copper: CONVERGED" in shown.output
    document = json.loads(invoke("status", str(finished), "--json").stdout)
    assert (document["status"], document["exit_code"], document["n_halts"]) == ("CONVERGED", 0, 2)
    first, second = document["walkers"]
    assert (first["temperature_K"], second["temperature_K"]) == (300, 600)
    assert first["n_halts"] == second["n_halts"] == 1
    assert first["step"] == first["n_steps"]
    assert first["ps"] == pytest.approx(first["step"] * 1e-3)
    assert f"{first['step']}/{first['n_steps']}" in shown.output


def test_exit_codes_tell_how_a_campaign_ended(spent):
    document = json.loads((result := invoke("status", str(spent), "--json")).stdout)
    assert result.exit_code == document["exit_code"] == NOT_CONVERGED
    assert document["status"] == "MAX_ITER_REACHED"
    assert [w["status"] for w in document["walkers"]] == ["HALTED", "CONVERGED"]


def test_a_campaign_under_way_is_unfinished(tmp_path, finished):
    """As it was after cycle 0: the store of a campaign whose process is gone, or still there."""
    shutil.copytree(finished / "store", tmp_path / "store")
    store = open_store(tmp_path / "store")
    store.remove_docs({"output.kind": "loop", "output.cycle": {"$gte": 1}})
    store.close()
    result = invoke("status", str(tmp_path), "--json")
    assert result.exit_code == ExitCode.UNFINISHED, result.output
    assert json.loads(result.stdout)["status"] == "LEARNING"
    assert "resume" in invoke("status", str(tmp_path)).output


def test_watch_ends_with_the_campaign(finished):
    result = invoke("status", str(finished), "--watch", "0.1")
    assert result.exit_code == CONVERGED
    assert "CONVERGED" in result.output


def test_status_without_a_campaign(tmp_path, monkeypatch):
    assert invoke("status", str(tmp_path)).exit_code == FAILED
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "none.yaml"))
    result = invoke("status")
    assert result.exit_code == FAILED
    assert "store in memory" in result.output
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SMALL))
    assert "store in memory" in invoke("submit", str(tmp_path / "run.yaml")).output


def test_status_above_several_campaigns_lists_them_all(tmp_path, monkeypatch, finished, spent):
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "none.yaml"))
    monkeypatch.chdir(tmp_path)
    for folder, source in (("runs/Cu", finished), ("runs/sweep/[spent]", spent), ("runs/broken off", finished)):
        shutil.copytree(source / "store", tmp_path / folder / "store")
    store = open_store(tmp_path / "runs" / "broken off" / "store")
    store.remove_docs({"output.kind": "loop", "output.cycle": {"$gte": 1}})
    store.close()
    (tmp_path / "runs" / "broken off" / ".lock").touch()
    (tmp_path / "runs" / "damaged" / "store").mkdir(parents=True)
    (tmp_path / "runs" / "damaged" / "store" / "documents.sqlite").write_bytes(b"no database" * 100)
    for arguments in (["status"], ["status", "runs"], ["status", "."]):
        result = invoke(*arguments)
        if arguments[-1] != ".":
            assert result.exit_code == 0, result.output
            ends = ("CONVERGED", "MAX_ITER_REACHED", "interrupted")
            states = [word for word in result.output.split() if word in ends]
            assert states == ["CONVERGED", "interrupted", "MAX_ITER_REACHED"], result.output
        assert "the store in 'runs/damaged' cannot be read" in " ".join(result.output.split())
    document = json.loads(invoke("status", "runs", "--json").stdout)
    assert {one["folder"]: (one["status"], one["running"]) for one in document["campaigns"]} == {
        "runs/Cu": ("CONVERGED", None),
        "runs/sweep/[spent]": ("MAX_ITER_REACHED", None),
        "runs/broken off": ("LEARNING", False),
    }
    assert [one["folder"] for one in document["unread"]] == ["runs/damaged"]
    assert json.loads(invoke("status", "runs", "--json", "-e", "Au").stdout)["campaigns"] == []


def test_a_run_file_stands_for_its_folder(tmp_path, monkeypatch, finished):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "store", tmp_path / "runs" / "of copper" / "store")
    (tmp_path / "Cu.yaml").write_text("name: of copper\nanything: else")
    assert json.loads(invoke("status", "Cu.yaml", "--json").stdout)["status"] == "CONVERGED"
    assert invoke("report", "Cu.yaml").exit_code == 0
    assert (tmp_path / "runs" / "of copper" / "report.html").is_file()
    (tmp_path / "Cu.yaml").write_text("no: name")
    assert "'Cu.yaml' holds no campaign" in invoke("status", "Cu.yaml").output


def test_a_database_that_does_not_answer_is_told_in_one_message(tmp_path, monkeypatch):
    away = "mongodb://nobody:s3cret@127.0.0.1:9/?serverSelectionTimeoutMS=300"
    store = {"database": "x", "uri": away}
    config = {
        "JOB_STORE": {
            "docs_store": {"type": "MongoStore", "collection_name": "a", **store},
            "additional_stores": {"data": {"type": "GridFSStore", "collection_name": "b", **store}},
        }
    }
    (tmp_path / "jobflow.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
    result = invoke("status", "--json")
    assert result.exit_code == FAILED
    error = json.loads(result.stdout)["error"]
    assert "does not answer" in error
    assert "s3cret" not in error


@needs_fireworks
def test_a_launchpad_that_does_not_answer_is_told_in_one_message(tmp_path):
    pad = {"host": "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300", "uri_mode": True, "name": "fireworks"}
    (tmp_path / "my_launchpad.yaml").write_text(yaml.safe_dump(pad))
    result = invoke("mend", "--launchpad", str(tmp_path / "my_launchpad.yaml"))
    assert result.exit_code == FAILED
    assert "does not answer" in result.output
    assert "does not exist" in invoke("mend", "--launchpad", str(tmp_path / "none.yaml")).output


@needs_server
@needs_fireworks
def test_submitted_run_by_a_worker_and_seen(configured, tmp_path, monkeypatch):  # noqa: F811
    """Real FireWorks, LAMMPS and EMT; then submitted again, extended, and mended."""
    import jobflow
    from fireworks import FWorker
    from fireworks.core.rocket_launcher import rapidfire

    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(configured.file))
    monkeypatch.setattr(jobflow.SETTINGS, "JOB_STORE", configured.store)
    monkeypatch.chdir(tmp_path)
    pad = configured.launchpad()
    file = ["--launchpad", str(configured.file.with_name("my_launchpad.yaml"))]
    run = {**SMALL, "conditions": [{"temperature_K": 300}], "dynamics": {**SMALL["dynamics"], "n_steps": 50}}
    Path("run.yaml").write_text(yaml.safe_dump(run))
    Path("workers.yaml").write_text("label: {_category: dft}\n")
    pad.fw_id_assigner.delete_many({})  # as before the first `lpad reset`
    assert "never set up; do it once: `lpad reset`" in invoke("submit", "run.yaml", *file).output
    pad.reset("", require_password=False)
    result = invoke("submit", "run.yaml", *file, "--workers", "workers.yaml", "--priority", "3", "--json")
    assert result.exit_code == CONVERGED, result.output
    submission = json.loads(result.stdout)
    assert submission["campaign_id"] == "small"
    again = invoke("submit", "run.yaml", *file, "--resume")
    assert again.exit_code == FAILED  # it has not been recorded, or is under way
    for category in ("light", "dft", "train", "explore") * 3:
        rapidfire(pad, FWorker(category=category), nlaunches=0, sleep_time=0.1, strm_lvl="CRITICAL")
    assert {fw["spec"]["_category"] for fw in pad.fireworks.find({"name": {"$regex": "^label"}})} == {"dft"}

    seen = invoke("status", "--campaign", "small", "--json")
    assert seen.exit_code == CONVERGED, seen.output
    assert json.loads(seen.stdout)["n_labels"] == 8
    assert [c["campaign_id"] for c in json.loads(invoke("status", "--json").stdout)["campaigns"]] == ["small"]
    assert "holds a campaign 'small' already" in invoke("submit", "run.yaml", *file).output
    Path("other.yaml").write_text(yaml.safe_dump({**run, "name": "other", "conditions": [{"temperature_K": 700}]}))
    told = " ".join(invoke("submit", "other.yaml", *file, "--campaign", "small", "--resume").output.split())
    assert "this run file is named 'other', and the campaign was begun by one named" in told
    assert "or use `mlip-autopipec submit --extend` for further ones" in told
    unknown = invoke("status", "--campaign", "copper-7")
    assert unknown.exit_code == FAILED
    assert "appears when a worker has run its first job" in " ".join(unknown.output.split())
    assert "nothing is left to do" in invoke("submit", "run.yaml", *file, "--extend").output
    run["conditions"].append({"temperature_K": 310})
    Path("run.yaml").write_text(yaml.safe_dump(run))
    assert invoke("submit", "run.yaml", *file, "--extend", "--json").exit_code == CONVERGED
    mended = invoke("mend", *file, "--older-than", "0", "--json")
    assert json.loads(mended.stdout) == {"carried_on": [], "removed": []}, mended.output


def test_documents_of_the_summary_are_fields_of_the_document():
    from mlip_autopipec.cli import status

    assert set(status._summary(OTFDocument.model_construct(walkers=[]))) <= set(OTFDocument.model_fields)
