"""submit, mend and status where something is configured wrongly or away: one message that says what."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from io import StringIO

import pytest
import yaml
from pymongo.errors import AutoReconnect
from rich.console import Console
from run_files import QUIET
from typer.testing import CliRunner

from mlip_autopipec.cli import FAILED, app, queue, status
from mlip_autopipec.cli.base import in_words
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.schemas.loop import OTFDocument

needs_fireworks = pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed")
SERVER = {"database": "x", "uri": "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300"}
DOCUMENTS = {"type": "MongoStore", "collection_name": "a", **SERVER}


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("command", ["status", "report", "export"])
@pytest.mark.parametrize(
    ("store", "told"),
    [
        ({"docs_store": DOCUMENTS}, "additional stores [], and bulk data goes to one named 'data'"),
        ({"docs_store": DOCUMENTS, "additional_stores": {"data": {"type": "MemoryStore"}}}, "'data' is in memory"),
        ({"docs_store": {"type": "MemoryStore"}}, "store in memory"),
        (
            {"docs_store": DOCUMENTS, "additional_stores": {"data": {**DOCUMENTS, "collection_name": "b"}}},
            "does not answer",
        ),
    ],
)
def test_a_store_that_cannot_hold_a_campaign_is_refused(tmp_path, monkeypatch, command, store, told):
    (tmp_path / "jobflow.yaml").write_text(yaml.safe_dump({"JOB_STORE": store}))
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
    result = invoke(command, "--campaign", "copper")
    assert result.exit_code == FAILED
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert told in result.output


@pytest.mark.parametrize(
    "text", ["JOB_STORE: [1, 2", "JOB_STORE: {docs_store: {type: MongStore}}"], ids=["no YAML", "no store"]
)
def test_a_configuration_of_jobflow_that_cannot_be_read_is_told_in_one_message(tmp_path, text):
    file = tmp_path / "jobflow.yaml"
    file.write_text(text)
    command = [sys.executable, "-c", "from mlip_autopipec.cli import app; app()", "status"]
    environment = {**os.environ, "JOBFLOW_CONFIG_FILE": str(file)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == FAILED
    assert f"error: the configuration of jobflow, '{file}', cannot be used" in told
    assert "Traceback" not in told


@needs_fireworks
@pytest.mark.parametrize("text", ["host: [1, 2", "name: fireworks", ""], ids=["no YAML", "no host", "empty"])
def test_a_file_that_is_no_launchpad_is_told_in_one_message(tmp_path, text):
    (tmp_path / "pad.yaml").write_text(text)
    result = invoke("mend", "--launchpad", str(tmp_path / "pad.yaml"))
    assert result.exit_code == FAILED
    assert "is no LaunchPad" in result.output


def test_what_a_launchpad_does_not_do_is_said(tmp_path):
    more = {
        "validation": {"n_frames": 4, "interval_steps": 10, "timestep_fs": 2.0},
        "resources": {"label": {"cores": 2}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(QUIET | more))
    validation, resources = queue._not_run_here(RunFile.load(tmp_path / "run.yaml"))
    assert "validation" in validation
    assert "--workers" in resources
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(QUIET))
    assert queue._not_run_here(RunFile.load(tmp_path / "run.yaml")) == []


def test_a_database_that_goes_away_is_told_and_watched_on(monkeypatch):
    assert "the database does not answer, or refuses (AutoReconnect: 127.0.0.1:9: reset)" in in_words(
        AutoReconnect("127.0.0.1:9: reset")
    )
    going, done = (OTFDocument.model_construct(status=what, walkers=[]) for what in ("LEARNING", "CONVERGED"))

    class Campaigns:
        answers = iter([going, AutoReconnect("away"), done])

        def status(self, campaign: str) -> OTFDocument:
            answer = next(self.answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

    text = StringIO()
    monkeypatch.setattr(status, "console", Console(file=text, force_terminal=True, width=200))
    monkeypatch.setattr(status, "_detail", lambda campaigns, document, folder: str(document.status))
    assert status._watched(Campaigns(), "copper", 0.01, None) is done
    assert "trying again" in text.getvalue()
