"""What the orchestration itself sustains: many campaigns of trivial parts on one LaunchPad and one MongoDB server.

Each campaign has one walker that halts twice; MD, sampling, labels (two per cycle) and training are stand-ins that
return at once, so that what is left is FireWorks, jobflow and the database. FireWorks' own `rlaunch rapidfire` is
started 1, 2 and 4 times, in turn for each round; each worker has run a campaign before the clock starts (imports cost
seconds). The gain over the first number of workers is the median of the rounds, each with its own ratio. The server is
the one that MLIP_AUTOPIPEC_TEST_MONGO_URI names; with one of its own for the time of the run:

    python tests/server/mongo.py python benchmarks/many_campaigns.py [--campaigns 4] [--workers 1 2 4] [--rounds 3]
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import yaml
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


def start_worker(folder, name):
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
        return subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)


def submit_campaigns(pad, names):
    for name in names:
        # another lattice constant each: no campaign finds its labels in the store
        lattice_A = 3.5 + 1e-3 * pad.workflows.count_documents({})
        halts = [Halt(step=100), Halt(step=200)]
        maker = stand_in_loop(
            dynamics_maker=ScriptedDynamicsMaker(halts=halts), select_maker=StandInSelectMaker(n_max=2)
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


def measure(n_workers, n_campaigns):
    """Return how many Fireworks took how many seconds."""
    with tempfile.TemporaryDirectory() as name, database(Path(name)) as (pad, campaigns):
        folder, workers = Path(name), []
        try:
            workers = [start_worker(folder, f"worker{number}") for number in range(n_workers)]
            warm = 0
            while len(pad.launches.distinct("fworker.name")) < n_workers or warm < n_workers:
                submit_campaigns(pad, [f"warm-up {warm}"])
                warm += 1
                wait_for(lambda: set(states(pad)) == {"COMPLETED"}, workers)
            before = pad.fireworks.count_documents({})
            n_launches = pad.launches.count_documents({})
            names = [f"campaign {number}" for number in range(n_campaigns)]
            submit_campaigns(pad, names)
            clock = time.perf_counter()
            wait_for(lambda: states(pad).count("COMPLETED") == warm + n_campaigns, workers)
            seconds = time.perf_counter() - clock
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
        return n_fireworks, seconds


def main():
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--campaigns", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    if not os.environ.get(SERVER):
        raise SystemExit(f"{SERVER} names no MongoDB server")
    with MongoClient(os.environ[SERVER]) as client:
        version = client.server_info()["version"]
    what = f"{options.campaigns} campaigns at once, medians of {options.rounds}; {os.cpu_count()} cores"
    table = Table(title=f"{what}, server says version {version}")
    for column in ("workers", "jobs", "seconds", "gain", "jobs/s", "campaigns/h", "s/job of a worker", "load"):
        table.add_column(column, justify="right")
    jobs, taken = 0, {n_workers: [] for n_workers in options.workers}
    for _ in range(options.rounds):
        for n_workers in options.workers:
            jobs, seconds = measure(n_workers, options.campaigns)
            taken[n_workers].append(seconds)
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
            f"{n_workers * seconds / jobs:.2f}",
            f"{os.getloadavg()[0]:.1f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
