"""
The command line in processes forked from that of the tests, which has imported everything: seconds less each.

A command is the same as in a process of its own, but for the time it takes to import. The tests of workers and of
several campaigns still start one command each by ``python -m``, with the worker processes that it starts itself.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from contextlib import suppress
from threading import Thread, Timer
from typing import TYPE_CHECKING, NoReturn

from mlip_autopipec.managers import fork_server
from mlip_autopipec.managers.fork_server import ForkServer, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import IO


class ForkedCommand:
    """
    A running command, with those methods of ``subprocess.Popen`` that tests use; its output is text.

    Parameters
    ----------
    words
        What stands behind ``mlip-autopipec``.
    folder
        Where it runs; by default where the tests do.
    together
        Whether its standard error goes where its standard output goes.
    own_group
        Whether it leads a process group.
    first
        What its process does before.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        folder: Path | None = None,
        together: bool = False,
        own_group: bool = False,
        first: Callable[[], None] | None = None,
    ) -> None:
        out, theirs_out = os.pipe()
        error, theirs_error = (None, theirs_out) if together else os.pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.args = ["mlip-autopipec", *words]
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run([*words], folder, theirs_out, theirs_error, own_group, first)
        for descriptor in {theirs_out, theirs_error}:
            os.close(descriptor)
        self.stdout: IO[str] = os.fdopen(out)
        self.stderr: IO[str] | None = None if error is None else os.fdopen(error)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 600.0) -> int:
        """Wait for its end."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill this process alone."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 600.0) -> tuple[str, str]:
        """Return what is left of its output, once it has ended; it is killed when its time is over."""
        killer = Timer(timeout, self.kill)
        killer.start()
        errors: list[str] = []
        reader = Thread(target=lambda: errors.append(self.stderr.read() if self.stderr else ""), daemon=True)
        reader.start()
        said = self.stdout.read()
        reader.join()
        killer.cancel()
        self.wait(10)
        return said, errors[0]


def run_forked(
    words: Sequence[str], *, folder: Path | None = None, first: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = ForkedCommand(words, folder=folder, first=first)
    out, error = command.communicate()
    return subprocess.CompletedProcess(command.args, command.wait(), out, error)


class _Forked(ForkServer):
    """The process that forks workers, itself forked from this one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            os.setsid()
            self._socket.close()
            serve(theirs.detach())
            os._exit(0)
        theirs.close()

    def close(self) -> None:
        """End it and its workers."""
        self._socket.close()
        os.waitpid(self._pid, 0)


def forked_server() -> ForkServer:
    """Return the process that forks workers, itself forked from this one, which has imported everything."""
    return _Forked()


def _run(
    words: list[str],
    folder: Path | None,
    out: int,
    error: int,
    own_group: bool,
    first: Callable[[], None] | None,
) -> NoReturn:
    """Become the command."""
    code = 70
    try:
        if own_group:
            os.setsid()
        with open(os.devnull) as nothing:  # noqa: PTH123 - the descriptor is wanted
            os.dup2(nothing.fileno(), 0)
        os.dup2(out, 1)
        os.dup2(error, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        faulthandler.enable(file=2)
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        logging.getLogger().handlers = []
        logging.getLogger("jobflow").handlers = []
        warnings.simplefilter("ignore")
        if folder is not None:
            os.chdir(folder)
        if first is not None:
            first()
        code = exit_code_of(words)
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def exit_code_of(words: Sequence[str]) -> int:
    """Run a command in this process, with workers that are forked from it; return its exit code."""
    from mlip_autopipec.cli import app

    fork_server.ForkServer = _with  # type: ignore[assignment, misc]
    sys.argv = ["mlip-autopipec", *words]
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _with(environment: Mapping[str, str]) -> ForkServer:
    os.environ.update(environment)
    return forked_server()
