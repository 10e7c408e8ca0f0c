"""
MD of the library engine in processes forked from that of the tests, which has imported everything: a second less each.

Such a process does the same as ``python -m mlip_autopipec.lammps.worker``, but for the time it takes to import. Tests
that ask for ``imported_anew`` get processes of their own; so do those in ``faults/`` that kill campaigns with LAMMPS.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
import traceback
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from mlip_autopipec import processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import IO

MODULE = "mlip_autopipec.lammps.worker"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


class ForkedMD:
    """A process that runs MD, with those methods of ``subprocess.Popen`` that ``run_process`` uses."""

    def __init__(self, log: IO[bytes], folder: Path, environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # a signal in the midst of a fork would be lost in what Python does there, or reach the child, too
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _run(log.fileno(), folder, environment)
            finally:  # whatever comes before it is ready, it never goes on as its parent
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        until = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(MODULE, timeout or 0.0)
            else:
                time.sleep(0.005)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self.returncode is None:
            os.kill(self.pid, number)


def started(arguments: Sequence[str], **how: Any) -> subprocess.Popen[bytes] | ForkedMD:
    """Start a program as ``subprocess.Popen`` does."""
    if list(arguments) != [sys.executable, "-m", MODULE]:
        return subprocess.Popen(arguments, **how)
    return ForkedMD(how["stdout"], how["cwd"], how["env"])


@pytest.fixture(scope="session", autouse=True)
def _forked_md() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": started}))
        yield


@pytest.fixture
def imported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run MD in processes that import everything themselves, as campaigns do."""
    monkeypatch.setattr(processes, "subprocess", subprocess)


def _run(log: int, folder: Path, environment: Mapping[str, str]) -> NoReturn:
    """Become the process."""
    code = 1
    try:
        with open(os.devnull) as nothing:  # noqa: PTH123 - the descriptor is wanted
            os.dup2(nothing.fileno(), 0)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        faulthandler.disable()
        for one in _SIGNALS:
            signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        from mlip_autopipec.lammps.worker import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
