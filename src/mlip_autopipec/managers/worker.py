"""What a worker process does: one job after the other, each in its folder, with a store of its own."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from jobflow import Job
from monty.json import MontyDecoder, MontyEncoder
from monty.os import cd
from threadpoolctl import threadpool_limits

from mlip_autopipec.errors import MLIPError, lacks_space
from mlip_autopipec.managers.schedule import Outcome
from mlip_autopipec.settings import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobflow import JobStore

#: In the folder of a job: what it, and the libraries it uses, printed. Removed where that is nothing.
OUTPUT = "output.txt"


@dataclass(frozen=True)
class Setup:
    """
    What a worker is told first.

    Parameters
    ----------
    store
        The JobStore as JSON.
    log_level
        Of the root logger.
    name
        Of the worker, in the log.
    """

    store: str
    log_level: int
    name: str


@dataclass(frozen=True)
class NoSpace:
    """Says that a job failed because a disk is full, and how."""

    error: str


class _ToParent(QueueHandler):
    """Sends the records of a worker's log to the process that runs the campaign."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(SimpleQueue())  # not used
        self._connection = connection
        self.setFormatter(logging.Formatter("%(message)s"))

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send one."""
        with suppress(OSError):
            self._connection.send(record)


def pack(job: Job) -> bytes:
    """Return a job as bytes, from which any process can make it again."""
    return json.dumps(job, cls=MontyEncoder).encode()


def unpack(packed: bytes) -> Job:
    """
    Make a job again.

    Raises
    ------
    MLIPError
        A class or function of it cannot be imported here.
    """
    made: Any = None
    with suppress(ImportError, AttributeError):
        made = MontyDecoder().decode(packed.decode())
    if not isinstance(made, Job) or not callable(made.function):
        named = json.loads(packed).get("function") or {}
        raise MLIPError(
            f"{named.get('@module')}.{named.get('@callable')}, or what it is given, cannot be imported by a worker "
            "process; put jobs and makers into a module, not into the program that is run or a notebook, or take 0 "
            "workers"
        )
    return made


def run_job(make: Callable[[], Job], store: JobStore, packed: Callable[[Job], Any]) -> Outcome | NoSpace:
    """
    Run a job here and now.

    Parameters
    ----------
    make
        Makes the job.
    store
        As for ``Job.run``.
    packed
        Makes the payload of an appended job.
    """
    try:
        return Outcome.of(make().run(store=store), packed)
    except Exception as error:
        if lacks_space(error):
            return NoSpace(f"{type(error).__name__}: {error}")
        return Outcome(error=traceback.format_exc())


def work(descriptor: int) -> None:
    """
    Run jobs as they come, until there are no more or the other end is closed.

    Ctrl-C, SIGTERM or SIGHUP end the job that runs as they end a campaign without workers: its programs are ended.

    Parameters
    ----------
    descriptor
        Of the connection to the process that runs the campaign.
    """
    os.set_inheritable(descriptor, False)
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.default_int_handler)
    warnings.simplefilter("ignore", FutureWarning)
    connection = Connection(descriptor)
    store: JobStore | None = None
    with suppress(KeyboardInterrupt, EOFError, OSError):
        setup: Setup = connection.recv()
        logging.basicConfig(handlers=[_ToParent(connection)], level=setup.log_level, force=True)
        store = MontyDecoder().decode(setup.store)
        store.connect()
        while (asked := connection.recv()) is not None:
            packed, folder, threads = asked
            with cd(folder), pinned(threads), _output_to(Path(OUTPUT)):
                outcome = run_job(partial(unpack, packed), store, pack)
            connection.send(outcome)
    if store is not None:
        store.close()


@contextmanager
def pinned(threads: int | None) -> Iterator[None]:
    """Give a job, and the programs that it starts, so many threads; None leaves them as they are."""
    if threads is None:
        yield
        return
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        with threadpool_limits(threads):  # libraries that are loaded have read the environment
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Send what Python, libraries in C and Fortran, and a crash print to a file; remove it if that is nothing."""
    kept = os.dup(1), os.dup(2)
    with file.open("ab") as stream:
        _flush()
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    faulthandler.enable(file=2)
    try:
        yield
    finally:
        _flush()
        for old, descriptor in zip(kept, (1, 2), strict=True):
            os.dup2(old, descriptor)
            os.close(old)
        with suppress(OSError):
            if file.stat().st_size == 0:
                file.unlink()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ctypes.CDLL(None).fflush(None)
