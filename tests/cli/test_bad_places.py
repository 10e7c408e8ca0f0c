"""Commands given places where nothing can be: each ends in a sentence, and nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from forked_commands import run_forked
from run_files import QUIET
from typer.testing import CliRunner

from mlip_autopipec.cli import FAILED, app
from mlip_autopipec.cli.base import in_words


def ended(arguments):
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == FAILED, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "error: " in result.output
    return result.output


@pytest.fixture
def places(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(QUIET))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "garbage" / "store").mkdir(parents=True)
    (tmp_path / "garbage" / "store" / "documents.sqlite").write_bytes(b"garbage" * 1000)
    (tmp_path / "garbage" / "store" / "data.sqlite").write_bytes(b"garbage" * 1000)
    (tmp_path / "empty" / "store").mkdir(parents=True)
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


PLACES = ["file", "loop", "garbage", "empty", "fifo", "/dev/null", "/dev/full", "/proc/self/mem", "none/none"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", ["run", "resume", "extend"])
def test_folders_of_campaigns(places, place, command):
    if command == "run" and place in ("empty", "none/none"):
        pytest.skip("a campaign can begin there")
    before = sorted(places.rglob("*"))
    for more in ([], ["--overwrite"]) if command == "run" else ([],):
        ended([command, places / "run.yaml", "--folder", places / place, *more])
    assert (places / "file").read_text() == "mine"
    assert sorted(places.rglob("*")) == before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", ["status", "report", "export"])
def test_folders_to_look_at(places, place, command):
    output = ended([command, places / place])
    assert "campaign" in output or "cannot be read" in output or "--folder" in output


@pytest.mark.parametrize("place", ["/dev/full", "loop", "file/x", "garbage", "/proc/x/y"])
def test_files_to_write(places, place, monkeypatch):
    monkeypatch.chdir(places)
    ended(["init", "-e", "Cu", "-o", place])
    ended(["schema", "-o", place])


def to_a_full_disk():
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    sys.stdout.reconfigure(line_buffering=False)


@pytest.mark.parametrize(
    "command",
    [
        ["schema"],
        ["init", "-e", "Cu", "--json", "-o", "x.yaml"],
        ["run", "run.yaml", "--dry-run", "--no-measure", "--json"],
    ],
)
def test_a_full_disk_behind_standard_output(places, command):
    """The shell has sent the output to a full disk."""
    if command == ["schema"]:
        with Path("/dev/full").open("w") as full:
            run = subprocess.run(
                [sys.executable, "-m", "mlip_autopipec.cli", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                cwd=places,
                check=False,
            )
    else:
        run = run_forked(command, folder=places, first=to_a_full_disk)
    assert run.returncode == FAILED
    assert "Traceback" not in run.stderr
    assert "no space" in run.stderr.lower()


def test_a_full_disk_while_a_campaign_runs_is_told_and_resume_is_named():
    import errno

    told = in_words(OSError(errno.ENOSPC, "No space left on device", "runs/Cu/result.json"))
    assert "no space is left on the disk while 'runs/Cu/result.json' was written" in told
    assert "`resume` continues" in told
    import sqlite3

    assert "no space is left" in in_words(sqlite3.OperationalError("database or disk is full"))
    assert "nothing in it is deleted" in in_words(sqlite3.DatabaseError("file is not a database"))
    assert "memory of this machine" in in_words(MemoryError("Unable to allocate"))


def test_a_campaign_on_a_full_disk(places):
    """A small file system of its own, where one may be mounted; else the limit of the size of a file stands for it."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))

    run = run_forked(["run", "run.yaml", "--json"], folder=places, first=limited)
    assert run.returncode == FAILED, run.stderr[-2000:]
    assert json.loads(run.stdout)["status"] in ("ERROR", "FAILED")
    assert "Traceback" not in run.stderr
    resumed = run_forked(["resume", "run.yaml", "--json"], folder=places)
    if resumed.returncode == FAILED:  # killed before its first document: begun anew
        resumed = run_forked(["run", "run.yaml", "--overwrite", "--json"], folder=places)
    assert json.loads(resumed.stdout)["status"] in ("CONVERGED", "MAX_ITER_REACHED"), resumed.stderr[-2000:]


def test_a_misspelt_argument_of_emt_is_refused(places):
    run = {**QUIET, "oracle": {"kind": "emt", "maker": {"calculator_kwargs": {"asap_cutof": True}}}}
    (places / "run.yaml").write_text(yaml.safe_dump(run))
    assert "asap_cutof" in ended(["run", places / "run.yaml", "--dry-run"])
