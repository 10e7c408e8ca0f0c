"""Programs in processes of their own end with the wait for them, whatever ends that."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from mlip_autopipec.processes import run_process

if TYPE_CHECKING:
    from pathlib import Path

#: A launcher: it starts a program, writes its process id, and waits for it.
LAUNCHER = "sleep 60 & echo $! > program.pid; wait"


def shell(text: str, folder: Path, **more) -> int:
    return run_process(["sh", "-c", text], folder / "log", os.environ, **more)


def runs(folder: Path) -> bool:
    """Whether the launched program is there, and no zombie."""
    try:
        return psutil.Process(int((folder / "program.pid").read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_it_prints_is_in_the_log_and_its_exit_code_is_returned(tmp_path):
    assert shell("cat; echo out; echo err >&2; pwd; exit 3", tmp_path) == 3
    assert (tmp_path / "log").read_text() == f"out\nerr\n{tmp_path}\n"
    assert shell("kill -9 $$", tmp_path) == -9


def test_a_timeout_ends_what_a_launcher_started(tmp_path):
    with pytest.raises(TimeoutError, match=r"sh did not end within 0\.5 s"):
        shell(LAUNCHER, tmp_path, timeout=0.5, own_group=True)
    time.sleep(0.1)
    assert not runs(tmp_path)


@pytest.mark.parametrize("own_group", [True, False])
def test_a_program_that_ignores_the_polite_signal_is_killed(tmp_path, monkeypatch, own_group):
    monkeypatch.setattr("mlip_autopipec.processes.LAST_WORDS_S", 0.3)
    program = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=1); time.sleep(60)"
    with pytest.raises(TimeoutError):
        run_process([sys.executable, "-c", program], tmp_path / "log", os.environ, timeout=2, own_group=own_group)
    assert not psutil.pid_exists(int((tmp_path / "log").read_text()))


def test_an_error_of_the_watch_ends_it_and_is_raised(tmp_path):
    def watch() -> bool:
        if (tmp_path / "program.pid").is_file():
            raise ValueError("wrong first frame")
        return False

    with pytest.raises(ValueError, match="wrong first frame"):
        shell(LAUNCHER, tmp_path, watch=watch, own_group=True)
    time.sleep(0.1)
    assert not runs(tmp_path)


def test_the_watch_is_asked_until_it_is_true_and_at_the_end(tmp_path):
    answers = iter([False, True])
    assert shell("sleep 1", tmp_path, watch=lambda: next(answers)) == 0
    asked = []
    assert shell("exit 0", tmp_path, watch=lambda: bool(asked.append(1))) == 0
    assert asked, "a program that is quicker than the watch is looked at once"


def test_a_program_that_cannot_be_started_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_process([str(tmp_path / "nothing")], tmp_path / "log", os.environ)
