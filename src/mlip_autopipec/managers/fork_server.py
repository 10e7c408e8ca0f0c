"""
A process that has imported what jobs need, and forks worker processes on demand.

Importing the package and atomate2 takes some seconds of processor time; a fork takes milliseconds. The process does
nothing else, has no threads and no open store (SQLite's locks do not survive a fork), so forking is safe, whatever the
process that runs the campaign has done before.

It ends its workers, with the programs they started, as soon as the process that runs the campaign is gone, however
that ended: otherwise they would go on writing into a store that another process resumes from.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from mlip_autopipec.errors import MLIPError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

#: What nearly every job of a campaign needs.
PRELOADED = (
    "mlip_autopipec.flows.otf",
    "mlip_autopipec.jobs.static",
    "mlip_autopipec.database.disk",
    "mlip_autopipec.managers.worker",
    "atomate2.ase.jobs",
)
#: Seconds in which the process ends after its socket was closed, unless it is not ready yet.
LAST_WORDS_S = 0.5
_FORK, _REAP = b"f", b"r"
_MESSAGE = struct.Struct("!ci")
_START = "import sys; sys.path[:] = {path!r}; from mlip_autopipec.managers.fork_server import serve; serve({socket})"


class ForkServer:
    """
    The process, as the one that started it sees it; a context manager that ends it.

    Parameters
    ----------
    environment
        Of the process and its workers, added to this one's: numbers of threads, which libraries read when they load.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _START.format(path=sys.path, socket=theirs.fileno())],
                env={**os.environ, **environment},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which ends the others
            )

    def fork(self, descriptor: int) -> int:
        """
        Fork a worker.

        Parameters
        ----------
        descriptor
            The worker's end of its connection.

        Returns
        -------
        int
            Its process id.
        """
        return self._ask(_FORK, 0, [descriptor])

    def reap(self, pid: int) -> int:
        """Wait for the end of a worker that is about to end; return its exit code, negative for a signal."""
        return self._ask(_REAP, pid, [])

    def close(self) -> None:
        """End the process and its workers."""
        self._socket.close()
        try:
            self._process.wait(LAST_WORDS_S)
        except subprocess.TimeoutExpired:  # it imports still, and has no workers
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process and its workers."""
        self.close()

    def _ask(self, what: bytes, number: int, descriptors: list[int]) -> int:
        with suppress(OSError):
            socket.send_fds(self._socket, [_MESSAGE.pack(what, number)], descriptors)
            while len(answer := self._socket.recv(_MESSAGE.size, socket.MSG_WAITALL)) == _MESSAGE.size:
                answered, number = _MESSAGE.unpack(answer)
                if answered == what:  # else to a question in which Ctrl-C came
                    return int(number)
        raise MLIPError(
            "the process that starts workers has ended; what it printed says why. All labels are kept: resume the "
            "campaign"
        )


def serve(descriptor: int) -> None:
    """
    Fork workers until the other end of a socket is closed, then end those that are left.

    Parameters
    ----------
    descriptor
        Of the socket.
    """
    os.set_inheritable(descriptor, False)
    gc.disable()  # what is imported stays for ever: looking through it again and again takes a fifth of the time
    for module in PRELOADED:
        import_module(module)
    gc.freeze()  # nor do workers look through it, which would copy its pages
    gc.enable()
    workers: set[int] = set()
    with socket.socket(fileno=descriptor) as asked:
        while True:
            message, descriptors, _, _ = socket.recv_fds(asked, _MESSAGE.size, 1, socket.MSG_WAITALL)
            if len(message) != _MESSAGE.size:
                break
            what, number = _MESSAGE.unpack(message)
            if what == _FORK:
                number = _forked(asked, descriptors[0])
                workers.add(number)
            else:
                workers.discard(number)
                number = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
            try:
                asked.sendall(_MESSAGE.pack(what, number))
            except OSError:
                break
    for pid in workers:
        end_group(pid)


def end_group(pid: int) -> None:
    """Kill a worker and the programs it started, which are a process group."""
    for kill in (os.killpg, os.kill):  # a worker that was forked a moment ago has no group yet
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _forked(asked: socket.socket, descriptor: int) -> int:
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    code = 1
    try:
        os.setsid()
        asked.close()
        from mlip_autopipec.managers.worker import work

        work(descriptor)
        code = 0
    finally:
        os._exit(code)
