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
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection, wait
from secrets import randbelow
from typing import TYPE_CHECKING

from jobflow import SETTINGS
from jobflow.core.flow import get_flow
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder
from monty.os import cd

from mlip_autopipec.errors import InvalidInputError, MLIPError
from mlip_autopipec.flows.resources import Resources
from mlip_autopipec.managers.fork_server import ForkServer, end_group
from mlip_autopipec.managers.schedule import Outcome, Schedule, Task
from mlip_autopipec.managers.worker import OUTPUT, NoSpace, Setup, pack, pinned, run_job
from mlip_autopipec.settings import thread_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from jobflow import Flow, Job, JobStore

    from mlip_autopipec.managers.schedule import Entry

logger = logging.getLogger(__name__)

#: How often a job is begun whose worker dies.
ATTEMPTS = 3
#: Seconds that a worker has, once interrupted, to end the programs it started (LAMMPS takes up to ten).
LAST_WORDS_S = 15.0


@dataclass(frozen=True)
class RunningJob:
    """
    A job that runs now.

    Parameters
    ----------
    uuid, index, name
        Of the job.
    folder
        Where it runs.
    worker
        Number of its worker, from 1; 0 for this process.
    pid
        Its process.
    since
        ``time.monotonic()`` when it began.
    """

    uuid: str
    index: int
    name: str
    folder: Path
    worker: int
    pid: int
    since: float


class Watch:
    """Keeps the jobs that run now, for another thread to look at."""

    def __init__(self) -> None:
        self.jobs: tuple[RunningJob, ...] = ()

    def __call__(self, jobs: tuple[RunningJob, ...]) -> None:
        """Take them."""
        self.jobs = jobs


@dataclass(frozen=True)
class Run:
    """
    A flow and where its jobs run.

    Parameters
    ----------
    flow
        The flow.
    folder
        In which each job gets a folder of its own.
    resources
        What its jobs take of the machine; None: one worker each, whatever they start.
    """

    flow: Flow
    folder: Path
    resources: Resources | None = None


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
    Run several flows on the same workers and store; the flow with the fewest running jobs begins the next one.

    Parameters and results are those of :func:`run_flow`.
    """
    packed = pack if workers else _as_it_is
    schedules = [Schedule(Task.all_of(get_flow(run.flow), packed)) for run in runs]
    for run in runs:
        run.folder.mkdir(parents=True, exist_ok=True)
    queue = _Queue(schedules, runs, watch or (lambda _: None))
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


class _Queue:
    """The jobs of several schedules, and those that run."""

    def __init__(
        self, schedules: Sequence[Schedule], runs: Sequence[Run], watch: Callable[[tuple[RunningJob, ...]], None]
    ) -> None:
        self._schedules = list(zip(schedules, runs, strict=True))
        self._watch = watch
        self._running: dict[str, RunningJob] = {}
        self._taken: dict[str, tuple[str, int]] = {}

    def __bool__(self) -> bool:
        """Tell whether a job could begin now."""
        return any(self._next_of(schedule, run) is not None for schedule, run in self._schedules)

    def _next_of(self, schedule: Schedule, run: Run) -> Entry | None:
        """Return the next job of a flow for which there is room."""
        resources = run.resources
        return schedule.next_job(lambda name: resources is None or resources.fits(name, self._taken.values()))

    @property
    def is_over(self) -> bool:
        """Tell whether nothing runs or will run."""
        return all(schedule.is_over for schedule, _ in self._schedules)

    def begin(self, worker: int, pid: int) -> _Begun:
        """Take the next job, for a worker, and make its folder."""
        able = [(one, entry) for one in self._schedules if (entry := self._next_of(*one)) is not None]
        (schedule, run), entry = min(able, key=lambda one: one[0][0].n_running)
        schedule.begin(entry)
        folder = _new_folder(run.folder)
        task = entry.task
        # beside a campaign that shares out the cores, a job of one that does not takes one
        step, share = (run.resources or Resources(1)).share_of(task.name)
        self._taken[folder.name] = (step, share.cores)
        self._running[folder.name] = RunningJob(task.uuid, task.index, task.name, folder, worker, pid, time.monotonic())
        self._watch(tuple(self._running.values()))
        return _Begun(schedule, entry, folder, None if run.resources is None else share.threads_each)

    def end(self, begun: _Begun, outcome: Outcome | NoSpace) -> None:
        """Note what came of a job."""
        self._ended(begun)
        name = begun.entry.task.name
        if isinstance(outcome, NoSpace):
            raise MLIPError(
                f"a disk is full: {name} in {begun.folder} failed with {outcome.error}. What was computed before is "
                "stored. Free some space, then resume the campaign"
            )
        if outcome.error is not None:
            where = {"job_folder": str(begun.folder)}
            logger.error("%s failed with exception:\n%s", name, outcome.error, extra=where)
        begun.schedule.end(begun.entry, outcome)

    def died(self, begun: _Begun, how: str) -> None:
        """Let a job whose worker died begin again, or count it as failed."""
        name, attempts = begun.entry.task.name, begun.entry.attempts
        output, told = begun.folder / OUTPUT, ""
        if output.is_file() and output.stat().st_size:
            told = f" (see {output})"
        else:
            output.unlink(missing_ok=True)
        why = f"its process {how} while it ran in {begun.folder}{told}; if memory ran out, take fewer workers"
        if attempts < ATTEMPTS:
            logger.warning("%s begins again, attempt %d of %d: %s", name, attempts + 1, ATTEMPTS, why)
            self._ended(begun)
            begun.schedule.put_back(begun.entry)
        else:
            self.end(begun, Outcome(error=f"RuntimeError: in all of {ATTEMPTS} attempts {why}"))

    def _ended(self, begun: _Begun) -> None:
        self._running.pop(begun.folder.name, None)
        self._taken.pop(begun.folder.name, None)
        self._watch(tuple(self._running.values()))


@dataclass(frozen=True)
class _Begun:
    schedule: Schedule
    entry: Entry
    folder: Path
    threads: int | None


def _new_folder(root: Path) -> Path:
    """Make a folder for a job, named as ``run_locally`` names it."""
    while True:
        now = datetime.now(UTC).strftime(SETTINGS.DIRECTORY_FORMAT)
        folder = root.resolve() / f"job_{now}-{10_000 + randbelow(90_000)}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def _run_here(queue: _Queue, store: JobStore) -> None:
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
    begun: _Begun | None = None


class _Pool:
    """Worker processes, each with a connection; started when there is work for them."""

    def __init__(self, server: ForkServer, size: int, store: str) -> None:
        self._server, self._size, self._store = server, size, store
        self.workers: list[_Worker] = []

    def run(self, queue: _Queue) -> None:
        """Run all jobs."""
        while not queue.is_over:
            self._begin_what_can(queue)
            for connection in wait([worker.connection for worker in self.workers]):
                (worker,) = (one for one in self.workers if one.connection is connection)
                self._hear(worker, queue)

    def _begin_what_can(self, queue: _Queue) -> None:
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

    def _hear(self, worker: _Worker, queue: _Queue) -> None:
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
