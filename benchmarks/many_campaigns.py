"""What the orchestration itself sustains: many campaigns of trivial parts on one LaunchPad and one MongoDB server.

Each campaign has one walker that halts twice; MD, sampling, labels (two per cycle) and training are stand-ins that
return at once, so that what is left is FireWorks, jobflow and the database. FireWorks' own `rlaunch rapidfire` is
started 1, 2 and 4 times, in turn for each round; each worker has run a campaign before the clock starts (imports cost
seconds). The gain over the first number of workers is the median of the rounds, each with its own ratio; processor time
of a job, by its worker and by the server, says what limits them. The server is the one that
MLIP_AUTOPIPEC_TEST_MONGO_URI names; with one of its own for the time of the run:

    python tests/server/mongo.py python benchmarks/many_campaigns.py [--campaigns 4] [--workers 1 2 4] [--rounds 3]

With the server on a core of its own, and the workers on the others in turn:

    taskset -c 0 python tests/server/mongo.py python benchmarks/many_campaigns.py --cores 1 2 3 4

Where two workers have but one core for both, two jobs that only compute cannot be faster than one. What can be shown
there is that jobs of which most of the time is no processor time of this machine (a label on a queue, MD on a GPU) run
side by side: with --md-seconds each of the three runs of MD of a campaign sleeps so long.

    taskset -c 0 python tests/server/mongo.py python benchmarks/many_campaigns.py --cores 1 --md-seconds 5
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import uuid
import warnings
from collections import defaultdict
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import yaml
from _machine import described
from ase.build import bulk
from fireworks import LaunchPad
from jobflow.settings import JobflowSettings
from pymongo import MongoClient
from rich.console import Console
from rich.table import Table

from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.managers.fireworks.launchpad import submit
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInSelectMaker, stand_in_loop

SERVER = "MLIP_AUTOPIPEC_TEST_MONGO_URI"
TIMEOUT_S = 500
#: Cores of this process: workers may use those that it may not, where the server was started on one of its own.
ALLOWED = os.sched_getaffinity(0)


@contextmanager
def database(folder):
    """A JobStore, configured by a file, and an empty LaunchPad in a database of their own."""
    uri, name = os.environ[SERVER], f"mlip_autopipec_benchmark_{uuid.uuid4().hex[:8]}"
    where = {"database": name, "uri": uri}
    stores = {
        "docs_store": {"type": "MongoStore", "collection_name": "documents", **where},
        "additional_stores": {"data": {"type": "GridFSStore", "collection_name": "data", **where}},
    }
    (folder / "jobflow.yaml").write_text(yaml.safe_dump({"JOB_STORE": stores}))
    (folder / "FW_config.yaml").write_text(yaml.safe_dump({"RAPIDFIRE_SLEEP_SECS": 0.1}))
    pad = LaunchPad(host=uri, name=name, uri_mode=True, strm_lvl="CRITICAL")
    pad.reset("", require_password=False)
    pad.to_file(str(folder / "my_launchpad.yaml"))
    campaigns = Campaigns(JobflowSettings(CONFIG_FILE=str(folder / "jobflow.yaml")).JOB_STORE)
    campaigns.create_indexes()
    try:
        yield pad, campaigns
    finally:
        with MongoClient(uri) as client:
            client.drop_database(name)


def start_worker(folder, name, core):
    home = folder / name
    home.mkdir()
    (home / "my_fworker.yaml").write_text(yaml.safe_dump({"name": name, "category": "", "query": "{}"}))
    environment = {
        **os.environ,
        "JOBFLOW_CONFIG_FILE": str(folder / "jobflow.yaml"),
        "FW_CONFIG_FILE": str(folder / "FW_config.yaml"),
        "PYTHONWARNINGS": "ignore",
    }
    rlaunch = [str(Path(sys.executable).with_name("rlaunch")), "-l", str(folder / "my_launchpad.yaml")]
    command = [*rlaunch, "-w", str(home / "my_fworker.yaml"), "rapidfire", "--nlaunches", "infinite"]
    with (home / "worker.log").open("w") as log:
        worker = psutil.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    worker.cpu_affinity(sorted(ALLOWED) if core is None else [core])
    return worker


def processor_s(process):
    """Processor time of a process so far, in s."""
    times = process.cpu_times()
    return times.user + times.system


def server_process():
    """The server, where it is a process of ours on this machine; else None."""
    port = urlsplit(os.environ[SERVER]).port
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections()):
                return process
    return None


def submit_campaigns(pad, names, md_seconds):
    for name in names:
        # another lattice constant each: no campaign finds its labels in the store
        lattice_A = 3.5 + 1e-3 * pad.workflows.count_documents({})
        halts = [Halt(step=100), Halt(step=200)]
        maker = stand_in_loop(
            dynamics_maker=ScriptedDynamicsMaker(halts=halts, seconds=md_seconds),
            select_maker=StandInSelectMaker(n_max=2),
        )
        submit(maker.make(bulk("Cu", a=lattice_A, cubic=True), 300, campaign_id=name), pad)


def wait_for(condition, workers):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline or any(worker.poll() is not None for worker in workers):
            raise SystemExit("a worker left, or the campaigns did not end in time")
        time.sleep(0.1)


def states(pad):
    return [workflow["state"] for workflow in pad.workflows.find({}, {"state": 1})]


def measure(n_workers, n_campaigns, md_seconds, cores):
    """Return how many Fireworks took how many seconds, and the processor seconds of all workers and of the server."""
    with tempfile.TemporaryDirectory() as name, database(Path(name)) as (pad, campaigns):
        folder, workers = Path(name), []
        try:
            workers = [
                start_worker(folder, f"worker{i}", cores[i % len(cores)] if cores else None) for i in range(n_workers)
            ]
            warm, server = 0, server_process()
            while len(pad.launches.distinct("fworker.name")) < n_workers or warm < n_workers:
                submit_campaigns(pad, [f"warm-up {warm}"], 0.0)
                warm += 1
                wait_for(lambda: set(states(pad)) == {"COMPLETED"}, workers)
            before = pad.fireworks.count_documents({})
            n_launches = pad.launches.count_documents({})
            names = [f"campaign {number}" for number in range(n_campaigns)]
            submit_campaigns(pad, names, md_seconds)
            used = [sum(map(processor_s, workers)), 0.0 if server is None else processor_s(server)]
            clock = time.perf_counter()
            wait_for(lambda: states(pad).count("COMPLETED") == warm + n_campaigns, workers)
            seconds = time.perf_counter() - clock
            now = [sum(map(processor_s, workers)), 0.0 if server is None else processor_s(server)]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        wrong = [one.line() for one in campaigns.list() if (one.status, one.n_halts) != ("CONVERGED", 2)]
        if wrong:
            raise SystemExit(f"these campaigns did not end as they should: {wrong}")
        n_fireworks = pad.fireworks.count_documents({}) - before
        if pad.launches.count_documents({}) - n_launches != n_fireworks:
            raise SystemExit("a Firework was launched more than once, or never")
        return n_fireworks, seconds, *(b - a for a, b in zip(used, now, strict=True))


def main():
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--campaigns", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--cores", type=int, nargs="+", help="of the workers, in turn; without, any")
    parser.add_argument("--md-seconds", type=float, default=0.0, help="that each run of MD sleeps")
    options = parser.parse_args()
    if not os.environ.get(SERVER):
        raise SystemExit(f"{SERVER} names no MongoDB server")
    with MongoClient(os.environ[SERVER]) as client:
        version = client.server_info()["version"]
    where = "any core" if options.cores is None else f"cores {options.cores}"
    what = f"{options.campaigns} campaigns at once, medians of {options.rounds}; MD sleeps {options.md_seconds:g} s"
    what += f"; workers on {where}"
    table = Table(title=f"{what}, server says version {version}")
    for column in (
        "workers",
        "jobs",
        "seconds",
        "gain",
        "jobs/s",
        "campaigns/h",
        "ms/job, worker",
        "ms/job, server",
        "load",
    ):
        table.add_column(column, justify="right")
    jobs, taken, used = 0, defaultdict(list), defaultdict(list)
    for _ in range(options.rounds):
        for n_workers in options.workers:
            jobs, seconds, *processor = measure(n_workers, options.campaigns, options.md_seconds, options.cores)
            taken[n_workers].append(seconds)
            used[n_workers].append(processor)
    for n_workers, seconds_of in taken.items():
        seconds = statistics.median(seconds_of)
        gain = statistics.median(a / b for a, b in zip(taken[options.workers[0]], seconds_of, strict=True))
        table.add_row(
            str(n_workers),
            str(jobs),
            f"{seconds:.1f}",
            f"{gain:.2f}",
            f"{jobs / seconds:.2f}",
            f"{3600 * options.campaigns / seconds:.0f}",
            *(f"{1e3 * statistics.median(some) / jobs:.0f}" for some in zip(*used[n_workers], strict=True)),
            f"{os.getloadavg()[0]:.1f}",
        )
    console = Console(width=110)
    console.print(described())
    console.print(table)


if __name__ == "__main__":
    main()
