"""Processes that run a campaign and can be told where to die; forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.process import BaseProcess

    from jobflow import JobStore


#: Moments in the life of a job at which its process is killed.
MOMENTS = ("before", "between", "stored")
#: Whether each death is died in a campaign of its own, which takes long, or many in one after the other.
FULL = os.environ.get("MLIP_AUTOPIPEC_TEST_FAULTS") == "all"
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Death:
    """
    Where a process dies by SIGKILL, once.

    Parameters
    ----------
    moment
        ``before``: the job's function has not run. ``between``: it has run, its bulk is in the store ``data``, its
        document is not stored. ``stored``: its document is stored, and nobody was told. ``bulk``: in the midst of
        writing its bulk. ``document``: in the midst of writing its document (on disk).
    job
        Its name.
    """

    moment: str
    job: str

    def __str__(self) -> str:
        return f"{self.moment} {self.job}"


def named(cases: Sequence[Sequence[Death]]) -> list[str]:
    """Return names for lists of deaths: the death, the job, or the moment that they share."""
    return [
        str(case[0]) if len(case) == 1 else case[0].job if case[0].job == case[-1].job else f"{case[0].moment} each"
        for case in cases
    ]


def lost_labels(deaths: Sequence[Death]) -> list[str]:
    """Labels that were computed and not stored."""
    lost = [death.job for death in deaths if death.moment in ("between", "document")]
    return [job for job in lost if job.startswith("label ")]


def warm_context(fw_config: Path) -> multiprocessing.context.ForkServerContext:
    """
    Start the process that imports everything and runs a campaign (:mod:`faults.warm`), and forks on demand.

    Parameters
    ----------
    fw_config
        Settings of FireWorks, which it reads once, when it is imported.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults.warm"])
    before = dict(os.environ)
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(
            [*map(str, (HERE.parent, HERE.parent / "helpers")), *filter(None, [before.get("PYTHONPATH")])]
        ),
        "FW_CONFIG_FILE": str(fw_config),
        "PYTHONWARNINGS": "ignore",
    }
    try:
        from multiprocessing import forkserver

        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def start(
    context: multiprocessing.context.ForkServerContext,
    log: Path,
    function: Callable[..., None],
    *arguments: Any,
    deaths: Sequence[Death] = (),
    markers: Path | None = None,
    hours_behind: float = 0,
    worker_only: bool = False,
) -> BaseProcess:
    """
    Start a process, leader of a group of its own.

    Parameters
    ----------
    context
        Of :func:`warm_context`.
    log
        Where its output goes.
    function, arguments
        What it does, in the folder of the log.
    deaths
        Where it dies, unless another process did before.
    markers
        Folder of the files that remember deaths, shared by all processes; by default that of the log.
    hours_behind
        How far its clock is behind.
    worker_only
        Whether a worker process that it started dies alone, or with it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    process = context.Process(
        target=_live,
        args=(log, function, arguments, deaths, markers or log.parent, hours_behind, worker_only),
        daemon=True,
    )
    process.start()
    return process


def _live(
    log: Path,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    deaths: Sequence[Death],
    markers: Path,
    hours_behind: float,
    worker_only: bool,
) -> None:
    os.setsid()
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # may have children
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(log.parent)
    arm(deaths, markers, worker_only=worker_only)
    if hours_behind:
        set_clock(hours_behind)
    function(*arguments)
    sys.stdout.flush()


def arm(deaths: Sequence[Death], folder: Path, *, worker_only: bool = False) -> None:
    """
    Let this process die at the first of these deaths it comes to that no other has died.

    A worker that it forks later dies in its place, alone or with it.
    """
    from gridfs.synchronous.grid_file import GridIn
    from jobflow import Job

    run, flush = Job.run, GridIn._flush
    current, main = "", os.getpid()

    def die_if_it_is_time(moment: str) -> None:
        death = Death(moment, current)
        if death not in deaths:
            return
        try:
            (folder / str(death)).touch(exist_ok=False)
        except FileExistsError:
            return
        if not worker_only:
            os.kill(main, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def run_or_die(self: Job, store: JobStore, *args: Any, **kwargs: Any) -> Any:
        nonlocal current
        current = self.name
        documents = store.docs_store
        write = documents.update

        def write_or_die(*args: Any, **kwargs: Any) -> Any:
            die_if_it_is_time("between")
            return write(*args, **kwargs)

        documents.update = write_or_die
        try:
            die_if_it_is_time("before")
            response = run(self, store, *args, **kwargs)
            die_if_it_is_time("stored")
        finally:
            del documents.update
            current = ""
        return response

    def flush_or_die(self: Any) -> Any:
        """The chunks are written, what names them is not."""
        self._flush_buffer(force=True)
        die_if_it_is_time("bulk")
        return flush(self)

    class Doomed(sqlite3.Connection):
        """Dies when a row is written and not committed."""

        def __init__(self, file: str, *args: Any, **kwargs: Any) -> None:
            super().__init__(file, *args, **kwargs)
            self.moment = "bulk" if Path(file).stem == "data" else "document"

        def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
            cursor = super().execute(statement, *args)
            if statement.startswith("INSERT OR REPLACE INTO documents"):
                die_if_it_is_time(self.moment)
            return cursor

    Job.run, GridIn._flush = run_or_die, flush_or_die  # type: ignore[method-assign]
    sqlite3.connect = partial(sqlite3.connect, factory=Doomed)  # type: ignore[assignment]


def set_clock(hours_behind: float) -> None:
    """Let this process read an earlier time, as after the battery of a node's clock was changed."""
    import datetime as dt

    class Behind(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return super().now(tz) - dt.timedelta(hours=hours_behind)

    dt.datetime = Behind  # type: ignore[misc]


def open_any(address: str) -> JobStore:
    """Open a store on disk (a folder), or the one that a jobflow.yaml configures."""
    from jobflow.settings import JobflowSettings

    from mlip_autopipec.cli import open_store

    if not address.endswith(".yaml"):
        return open_store(Path(address))
    store = JobflowSettings(CONFIG_FILE=address).JOB_STORE
    store.connect()
    return store


def run_or_resume(
    address: str,
    events: Path,
    campaign_id: str,
    jobs: Path,
    dumped_bytes: int = 0,
    workers: int | None = None,
    shares: bool = False,
) -> None:
    """Run what is left of the campaign with ``run_locally``, or with so many workers, and ``shares`` of four cores."""
    from faults.parts import next_flow
    from forked_commands import forked_server
    from jobflow import run_locally

    from mlip_autopipec.flows.resources import Resources, Share
    from mlip_autopipec.managers.local import run_flow

    # forked before a store is open: SQLite's locks do not survive a fork
    with forked_server() if workers is not None else nullcontext() as server:
        store = open_any(address)
        flow = next_flow(store, events, campaign_id, dumped_bytes)
        if flow is not None and workers is None:
            jobs.mkdir(exist_ok=True)
            run_locally(flow, store=store, create_folders=True, root_dir=jobs, log=False)
        elif flow is not None:
            steps = {"label": Share(cores=2, at_once=2), "train": Share(cores=4), "explore": Share(cores=2)}
            resources = Resources(cores=4, shares=steps) if shares else None
            run_flow(flow, store, jobs, workers=workers or 0, server=server, resources=resources)
        store.close()


def rlaunch(jobflow_yaml: Path, name: str) -> None:
    """FireWorks' own command, for ever, as a worker of this name."""
    import jobflow
    import yaml
    from fireworks.scripts.rlaunch_run import rlaunch as command

    jobflow.SETTINGS.JOB_STORE = open_any(str(jobflow_yaml))
    Path("my_fworker.yaml").write_text(yaml.safe_dump({"name": name, "category": "", "query": "{}"}))
    pad = str(jobflow_yaml.with_name("my_launchpad.yaml"))
    command(["-l", pad, "-w", "my_fworker.yaml", "rapidfire", "--nlaunches", "infinite"])


def command_line(*arguments: str) -> None:
    """``mlip-autopipec`` with these arguments."""
    from forked_commands import exit_code_of

    sys.exit(exit_code_of(arguments))
