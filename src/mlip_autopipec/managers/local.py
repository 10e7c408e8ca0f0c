"""
A flow on this machine, its ready jobs side by side in worker processes.

The same jobs, documents and order as under ``jobflow.run_locally``, but in a loop, without nesting. A worker that dies
costs the job it ran, not those of the others; that job begins again in another worker.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from jobflow.core.flow import get_flow
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from monty.os import cd

from mlip_autopipec.errors import InvalidInputError, MLIPError
from mlip_autopipec.managers.fork_server import ForkServer, end_group
from mlip_autopipec.managers.queue import BegunJob, JobQueue, Run, RunningJob, Watch
from mlip_autopipec.managers.schedule import Schedule, Task
from mlip_autopipec.managers.worker import Setup, pack, pinned, run_job
from mlip_autopipec.settings import thread_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from jobflow import Flow, Job, JobStore

    from mlip_autopipec.flows.resources import Resources


__all__ = ["Run", "RunningJob", "Watch", "run_flow", "run_flows"]

#: Seconds that a worker has, once interrupted, to end the programs it started (LAMMPS takes up to ten).
LAST_WORDS_S = 15.0


def run_flow(
    flow: Flow,
    store: JobStore,
    folder: Path,
    *,
    workers: int,
    watch: Callable[[tuple[RunningJob, ...]], None] | None = None,
    server: ForkServer | None = None,
    resources: Resources | None = None,
) -> Mapping[str, str]:
    """
    Run a flow on this machine.

    Parameters
    ----------
    flow
        The flow.
    store
        Connected. With workers it has to be one that several processes can open.
    folder
        In which each job gets a folder of its own.
    workers
        Number of worker processes; 0 runs the jobs one after the other in this process.
    watch
        Called with the jobs that run whenever they change.
    server
        That forks the workers; by default one is started.
    resources
        What the jobs take of the machine.

    Returns
    -------
    Mapping
        Why jobs failed, by their uuids. The loop of a campaign deals with failed jobs itself.

    Raises
    ------
    MLIPError
        A disk is full, or no workers could be started. What was computed is stored.
    """
    return run_flows([Run(flow, folder, resources)], store, workers=workers, watch=watch, server=server)


def run_flows(
    runs: Sequence[Run],
    store: JobStore,
    *,
    workers: int,
    watch: Callable[[tuple[RunningJob, ...]], None] | None = None,
    server: ForkServer | None = None,
) -> Mapping[str, str]:
    """
    Run several flows on the same workers and store.

    The next job is one of the flow with the fewest running jobs; among these, of the flow that has run the fewest.

    Parameters and results are those of :func:`run_flow`.
    """
    packed = pack if workers else _as_it_is
    schedules = [Schedule(Task.all_of(get_flow(run.flow), packed)) for run in runs]
    for run in runs:
        run.folder.mkdir(parents=True, exist_ok=True)
    queue = JobQueue(schedules, runs, watch or (lambda _: None))
    if not workers:
        _run_here(queue, store)
    else:
        packed_store = _packed(store, workers)
        with ExitStack() as stack:
            if server is None:
                server = stack.enter_context(ForkServer(thread_variables(workers)))
            pool = stack.enter_context(_pool(server, workers, packed_store))
            pool.run(queue)
    return {uuid: why for schedule in schedules for uuid, why in schedule.failed.items()}


def _packed(store: JobStore, workers: int) -> str:
    """Return a store as JSON, from which workers make it again; refuse one of which they cannot."""
    why = "it is in memory"
    if not isinstance(store.docs_store, MemoryStore) or hasattr(store.docs_store, "path"):
        text = json.dumps(store, cls=MontyEncoder)
        try:
            MontyDecoder().decode(text)
        except Exception as error:  # whatever a class of stores may raise
            why = f"{type(error).__name__}: {error}"
        else:
            return text
    raise InvalidInputError(
        f"{workers} worker processes cannot share the store {store.docs_store!r} ({why}); give a store on disk or a "
        "MongoStore of a server, or take 0 workers"
    )


def _as_it_is(job: Job) -> Job:
    return job


def _run_here(queue: JobQueue, store: JobStore) -> None:
    """Run one job after the other in this process."""
    with _imports_left_alone():
        while queue:
            begun = queue.begin(0, os.getpid())
            with cd(begun.folder), pinned(begun.threads):
                outcome = run_job(partial(_as_it_is, begun.entry.task.payload), store, _as_it_is)
            queue.end(begun, outcome)


@contextmanager
def _imports_left_alone() -> Iterator[None]:
    """
    Keep Python from looking for garbage in what is there already: a million objects that stay.

    It looks through all of them whenever a quarter has been added, which reading many labels does: two thirds of what
    a cycle costs more after hundreds of cycles.
    """
    if gc.get_freeze_count():  # whoever did it knows until when
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass
class _Worker:
    number: int
    pid: int
    connection: Connection
    begun: BegunJob | None = None


class _Pool:
    """Worker processes, each with a connection; started when there is work for them."""

    def __init__(self, server: ForkServer, size: int, store: str) -> None:
        self._server, self._size, self._store = server, size, store
        self.workers: list[_Worker] = []

    def run(self, queue: JobQueue) -> None:
        """Run all jobs."""
        while not queue.is_over:
            self._begin_what_can(queue)
            for connection in wait([worker.connection for worker in self.workers]):
                (worker,) = (one for one in self.workers if one.connection is connection)
                self._hear(worker, queue)

    def _begin_what_can(self, queue: JobQueue) -> None:
        while queue:
            idle = next((worker for worker in self.workers if worker.begun is None), None)
            if idle is None:
                if len(self.workers) == self._size:
                    return
                idle = self._start()
            idle.begun = queue.begin(idle.number, idle.pid)
            with suppress(OSError):  # it died, which is heard of next
                idle.connection.send((idle.begun.entry.task.payload, str(idle.begun.folder), idle.begun.threads))

    def _start(self) -> _Worker:
        taken = {worker.number for worker in self.workers}
        number = next(number for number in range(1, self._size + 1) if number not in taken)
        ours, theirs = socket.socketpair()
        with theirs:
            pid = self._server.fork(theirs.fileno())
        worker = _Worker(number, pid, Connection(ours.detach()))
        self.workers.append(worker)
        with suppress(OSError):
            worker.connection.send(Setup(self._store, logging.getLogger().level, f"worker {number}"))
        return worker

    def _hear(self, worker: _Worker, queue: JobQueue) -> None:
        """Take a message of a worker, or its death."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self.workers.remove(worker)
            how = self._buried(worker)
            if worker.begun is not None:
                queue.died(worker.begun, how)
            return
        if isinstance(message, logging.LogRecord):
            to = logging.getLogger(message.name)
            message.job_folder = None if worker.begun is None else str(worker.begun.folder)
            if to.isEnabledFor(message.levelno):
                to.handle(message)
            return
        begun, worker.begun = worker.begun, None
        assert begun is not None
        queue.end(begun, message)

    def _buried(self, worker: _Worker) -> str:
        """Clear up after a worker that has ended; tell how it did."""
        worker.connection.close()
        end_group(worker.pid)  # programs that it started
        code = self._server.reap(worker.pid)
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def stop(self) -> None:
        """End all workers: those that work are interrupted, and have a moment to end what they started."""
        for worker in self.workers:
            with suppress(OSError):
                worker.connection.send(None)
            if worker.begun is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGINT)
        until = time.monotonic() + LAST_WORDS_S
        left = {worker.connection: worker for worker in self.workers}
        try:
            while left and (ready := wait(list(left), timeout=max(until - time.monotonic(), 0.0))):
                for connection in ready:
                    assert isinstance(connection, Connection)
                    try:
                        connection.recv()  # a line of its log, or an outcome that came too late
                    except (EOFError, OSError):
                        del left[connection]
        finally:
            for worker in self.workers:
                end_group(worker.pid)
                worker.connection.close()
                with suppress(MLIPError):
                    self._server.reap(worker.pid)
            self.workers.clear()


@contextmanager
def _pool(server: ForkServer, size: int, store: str) -> Iterator[_Pool]:
    pool = _Pool(server, size, store)
    try:
        yield pool
    finally:
        pool.stop()
