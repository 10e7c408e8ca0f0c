"""``run A.yaml B.yaml``: campaigns on one pool of workers and one store, with shared labels."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import ase.io
import pytest
import yaml
from forked_commands import ForkedCommand
from rich.console import Console
from run_files import QUIET
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, FAILED, ExitCode, app, open_store
from mlip_autopipec.managers.local import RunningJob, Watch
from mlip_autopipec.progress.together import _Together

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = [sys.executable, "-W", "ignore", "-m", "mlip_autopipec.cli"]
#: What campaigns of seconds share; their first structures are the same, and so are their labels.
FIRST = {**QUIET, "stop": {"max_cycles": 1, "n_check_labels": 0}}


def written(folder: Path, **files: dict[str, Any]) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name, changes in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**FIRST, "name": name, **changes}))
    return [str(folder / f"{name}.yaml") for name in files]


def invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def labels(folder: Path) -> list[dict[str, Any]]:
    store = open_store(folder / "store")
    found = [doc["output"] for doc in store.query({"output.kind": "label"}, ["output"])]
    store.close()
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory):
    """Three campaigns, of which one cannot be trained; the folder of the run files, the result, and what was said."""
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLIP_AUTOPIPEC_PACEMAKER_CMD", "/no/such/pacemaker")
        patch.chdir(folder)
        written(
            folder / "sweep",
            first={},
            second={"conditions": [{"temperature_K": 400}]},
            bad={"trainer": {"kind": "pacemaker"}},
        )
        result = invoke("run", "sweep", "--json")
    return folder, json.loads(result.stdout), result


def test_each_campaign_has_its_results_and_one_that_fails_stops_no_other(ran):
    folder, document, result = ran
    assert result.exit_code == document["exit_code"] == FAILED
    by_name = {one["campaign_id"]: one for one in document["campaigns"]}
    assert {name: one["exit_code"] for name, one in by_name.items()} == {"bad": 1, "first": 0, "second": 0}
    assert "/no/such/pacemaker" in result.stderr
    for name in ("first", "second"):
        own = folder / "runs" / "sweep" / name
        assert json.loads((own / "result.json").read_text())["status"] == "CONVERGED"
        assert (own / "potential" / "potential.yace").is_file()
        assert "CONVERGED" in (own / "report.html").read_text()
        assert len(ase.io.read(own / "dataset.extxyz", index=":")) == by_name[name]["n_labels"]
    assert any(line.startswith("second: cycle") for line in result.stderr.splitlines()), result.stderr
    assert any(line.split()[:2] == ["runs/sweep/first", "first"] for line in result.stderr.splitlines())


def test_a_label_that_campaigns_share_is_computed_once(ran):
    folder, _, _ = ran
    found = labels(folder / "runs" / "sweep")
    computed = [one["key"] for one in found if one["reused_from"] is None]
    shared = {one["key"] for one in found if one["campaign_id"] == "first"} & {
        one["key"] for one in found if one["campaign_id"] == "second"
    }
    assert len(shared) >= 8, "first structures and atoms"
    assert len(computed) == len(set(computed))


def test_commands_take_the_folder_of_each_and_status_that_of_all(ran, monkeypatch):
    folder, _, _ = ran
    monkeypatch.chdir(folder)
    one = json.loads(invoke("status", "runs/sweep/second", "--json").stdout)
    assert (one["campaign_id"], one["status"], one["running"]) == ("second", "CONVERGED", False)
    for above in ("runs/sweep", "runs"):
        everything = json.loads(invoke("status", above, "--json").stdout)["campaigns"]
        assert {one["folder"] for one in everything} >= {"runs/sweep/first", "runs/sweep/second"}
    page = folder / "page.html"
    assert invoke("report", "runs/sweep/first", "--output", page).exit_code == CONVERGED
    assert "first" in page.read_text()
    single = invoke("run", "sweep/first.yaml", "--folder", "runs/sweep/first", "--overwrite")
    assert single.exit_code == FAILED
    assert "mlip-autopipec resume sweep/first.yaml --folder runs/sweep" in single.output


def test_what_is_there_is_not_run_over(ran, monkeypatch):
    folder, _, _ = ran
    monkeypatch.chdir(folder)
    again = invoke("run", "sweep")
    assert again.exit_code == FAILED
    assert "--overwrite" in again.output
    part = invoke("run", "sweep/first.yaml", "sweep/second.yaml", "--folder", "runs/sweep", "--overwrite")
    assert part.exit_code == FAILED
    assert "bad" in part.output
    alone = invoke("run", "sweep/first.yaml", "--folder", "runs/sweep", "--overwrite")
    assert alone.exit_code == FAILED
    assert len(labels(folder / "runs" / "sweep")) > 8
    resumed = invoke("resume", "sweep/first.yaml", "sweep/second.yaml", "--folder", "runs/sweep", "--json")
    assert resumed.exit_code == CONVERGED, resumed.output
    assert [one["status"] for one in json.loads(resumed.stdout)["campaigns"]] == ["CONVERGED"] * 2


def test_invalid_run_files_are_told_all_at_once_before_anything_runs(tmp_path):
    files = written(tmp_path / "sweep", good={}, cold={"conditions": [{"temperature_K": -1}]}, odd={"sed": 1})
    result = invoke("run", *files, "--folder", tmp_path / "out")
    assert result.exit_code == FAILED
    for words in ("cold.yaml", "temperature_K is -1", "odd.yaml", "sed", "no campaign was begun"):
        assert words in result.output
    assert not (tmp_path / "out").exists()
    (tmp_path / "sweep" / "twin.yaml").write_text((tmp_path / "sweep" / "good.yaml").read_text())
    twins = invoke("run", files[0], tmp_path / "sweep" / "twin.yaml", "--dry-run")
    assert "its name is 'good'" in twins.output
    (tmp_path / "empty").mkdir()
    assert "without run files" in invoke("run", tmp_path / "empty").output


def test_a_dry_run_plans_each(tmp_path):
    files = written(tmp_path / "sweep", one={}, two={"conditions": [{"temperature_K": t} for t in (300, 600)]})
    plans = json.loads(invoke("run", *files, "--dry-run", "--no-measure", "--json").stdout)["campaigns"]
    assert [plan["n_walkers"] for plan in plans] == [1, 2]


@pytest.mark.long
def test_after_ctrl_c_resume_goes_on_with_all_on_workers(tmp_path):
    longer = {"dynamics": {**QUIET["dynamics"], "n_steps": 2000}, "validation": {"n_frames": 2, "interval_steps": 4}}
    files = written(tmp_path / "sweep", one=longer, two={**longer, "conditions": [{"temperature_K": 400}]})
    folder = tmp_path / "out"

    words = [*files, "--folder", str(folder), "--workers", "2", "--json"]
    process = ForkedCommand(["run", *words])
    deadline = time.monotonic() + 200
    while any(len(list(folder.glob(f"{name}/jobs/*"))) < 5 for name in ("one", "two")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=100)
    assert process.returncode == ExitCode.INTERRUPTED, said
    assert json.loads(out)["go_on"] == f"mlip-autopipec resume {' '.join(files)} --folder {folder}"

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*PROGRAM, "resume", *words]
    resumed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    out, said = resumed.stdout, resumed.stderr
    assert resumed.returncode == CONVERGED, said
    results = json.loads(out)["campaigns"]
    assert [one["status"] for one in results] == ["CONVERGED"] * 2
    assert [one["errors"]["validation"]["n_structures"] for one in results] == [2, 2]
    assert said.count("validating on MD of the oracle") == 1, "its jobs run side by side"
    computed = [one["key"] for one in labels(folder) if one["reused_from"] is None and one["state"] == "successful"]
    assert len(computed) == len(set(computed)) >= 8
    sets = [ase.io.read(folder / name / "dataset.extxyz", index=":") for name in ("one", "two")]
    assert all(len(frames) >= 8 for frames in sets)


def test_the_live_view_has_a_line_for_each_with_what_its_workers_do(ran):
    folder = ran[0] / "runs" / "sweep"
    names = {folder / name: name for name in ("bad", "first", "second", "later")}
    watch = Watch()
    watch((RunningJob("1", 1, "explore c001 w00", folder / "second" / "jobs" / "job_1", 2, 1, time.monotonic()),))
    view = _Together(Console(), folder, names, watch)
    for _ in names:  # the store is not read all the time
        view._not_before = 0.0
        table = view._look()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    lines = {line.split()[0]: line for line in console.export_text().splitlines()}
    assert "CONVERGED" in lines["first"]
    assert "exploring by MD" in lines["second"]
    assert "2: explore c001 w00" in lines["second"]
    assert "waits" in lines["later"]
    view._campaigns.store.close()


def test_extend_goes_on_with_those_whose_run_files_ask_for_more(ran, monkeypatch):
    folder, _, _ = ran
    monkeypatch.chdir(folder)
    files = ["sweep/first.yaml", "sweep/second.yaml"]
    nothing = invoke("extend", *files, "--folder", "runs/sweep")
    assert nothing.exit_code == FAILED
    for name in ("first", "second"):
        assert f"nothing is left to do in campaign '{name}'" in nothing.output.replace("\n", " ")
    more = {"conditions": [{"temperature_K": 400}, {"temperature_K": 500}], "stop": {**FIRST["stop"], "max_cycles": 9}}
    written(folder / "sweep", second=more)
    extended = invoke("extend", *files, "--folder", "runs/sweep", "--json")
    assert extended.exit_code == CONVERGED, extended.output
    by_name = {one["campaign_id"]: one for one in json.loads(extended.stdout)["campaigns"]}
    assert {name: one["status"] for name, one in by_name.items()} == {"first": "CONVERGED", "second": "CONVERGED"}
    walkers = json.loads((folder / "runs" / "sweep" / "second" / "result.json").read_text())["walkers"]
    assert [walker["condition"]["temperature_K"] for walker in walkers] == [400, 500]
    missing = written(folder / "more", third={})
    refused = invoke("extend", *files, *missing, "--folder", "runs/sweep")
    assert refused.exit_code == FAILED
    assert "does not hold the campaigns ['third']" in refused.output
