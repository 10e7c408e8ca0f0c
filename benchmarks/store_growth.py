"""What the loop itself costs and stores: the real OTFMaker with parts that do nothing.

A walker halts in every cycle; sampling, selection, one label and training are stand-ins that return at once. Run by
run_locally in memory, in the on-disk store of `mlip-autopipec run`, and on the MongoDB server that
MLIP_AUTOPIPEC_TEST_MONGO_URI names (with the indexes of `Campaigns.create_indexes`). Printed are documents, bytes and
seconds per cycle, of the first and of the last ten cycles: what a cycle stores must not grow with their number.

    python benchmarks/store_growth.py [CYCLES ...] [--stores memory disk server]

With a server of one's own for the time of the run: python tests/server/mongo.py python benchmarks/store_growth.py
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import tempfile
import uuid
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import bson
from ase.build import bulk
from jobflow import JobStore, run_locally
from maggma.stores import GridFSStore, MemoryStore, MongoStore
from rich.console import Console
from rich.table import Table

from mlip_autopipec.database.disk import open_store
from mlip_autopipec.jobs.indexes import create_indexes
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.testing import PeriodicHaltsDynamicsMaker, StandInSelectMaker, stand_in_loop

SERVER = "MLIP_AUTOPIPEC_TEST_MONGO_URI"
WINDOW = 10


@contextmanager
def open_kind(kind, folder):
    """A JobStore in memory, on disk or on the server."""
    if kind == "memory":
        store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
        store.connect()
        yield store
    elif kind == "disk":
        yield open_store(folder / "store")
    else:
        uri, name = os.environ[SERVER], f"mlip_autopipec_benchmark_{uuid.uuid4().hex[:8]}"
        documents, data = MongoStore(name, "documents", uri=uri), GridFSStore(name, "data", uri=uri)
        store = JobStore(documents, additional_stores={"data": data})
        store.connect()
        create_indexes(store)
        yield store
        documents._collection.database.client.drop_database(name)
        store.close()


@dataclass
class PerCycle:
    """Counters by cycle."""

    documents: Counter = field(default_factory=Counter)
    bytes: Counter = field(default_factory=Counter)
    data_bytes: Counter = field(default_factory=Counter)
    assessed: dict = field(default_factory=dict)
    largest: int = 0

    @classmethod
    def of(cls, store):
        """Read everything that is stored."""
        found, of_job = cls(), {}
        for doc in store.query():
            match = re.search(r" c(\d{3,})", doc["name"])  # a job that replaced itself has no output to ask
            cycle = of_job[doc["uuid"], doc["index"]] = int(match[1]) if match else 0
            size = len(bson.encode(doc))
            found.documents[cycle] += 1
            found.bytes[cycle] += size
            found.largest = max(found.largest, size)
            if doc["name"].startswith("assess"):
                found.assessed[cycle] = datetime.fromisoformat(doc["completed_at"])
        data = store.additional_stores["data"]
        if isinstance(data, GridFSStore):
            files = ((file["metadata"], file["length"]) for file in data._files_collection.find())
        else:
            files = ((blob, len(bson.encode(blob))) for blob in data.query())
        for blob, size in files:
            found.data_bytes[of_job[blob["job_uuid"], blob["job_index"]]] += size
        return found

    def mean(self, counter, cycles):
        return sum(counter[cycle] for cycle in cycles) / len(cycles)

    def seconds(self, cycles):
        return (self.assessed[cycles[-1]] - self.assessed[cycles[0] - 1]).total_seconds() / len(cycles)


def measure(kind, n_cycles):
    """Run the loop for so many cycles; return its last document and what is stored."""
    maker = stand_in_loop(
        dynamics_maker=PeriodicHaltsDynamicsMaker(n_halts=n_cycles),
        select_maker=StandInSelectMaker(n_max=1),
        stop_rule=StopRule(max_cycles=n_cycles + 1),
    )
    flow = maker.make(bulk("Cu", cubic=True), [300.0])
    with tempfile.TemporaryDirectory() as folder, open_kind(kind, Path(folder)) as store:
        run_locally(flow, store=store, log=False, create_folders=True, root_dir=folder)
        document = store.query_one({"uuid": flow.output.uuid}, sort={"index": -1})
        return document["output"], PerCycle.of(store)


def main():
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cycles", type=int, nargs="*", default=[10, 30, 100, 300])
    parser.add_argument("--stores", nargs="+", default=["memory", "disk", "server"])
    options = parser.parse_args()
    if "server" in options.stores and not os.environ.get(SERVER):
        print(f"server: skipped, {SERVER} names none")
        options.stores.remove("server")
    console = Console(width=130)
    measure("memory", 1)  # imports and the like
    for kind in options.stores:
        table = Table(
            title=f"{kind}: first {WINDOW} | last {WINDOW} cycles (recursion limit {sys.getrecursionlimit()})"
        )
        for column in ("asked", "done", "status", "s/cycle", "documents/cycle", "B/cycle", "B/cycle in data"):
            table.add_column(column, justify="right")
        table.add_column("largest document outside data", justify="right")
        for asked in options.cycles:
            output, stored = measure(kind, asked)
            n = output["n_cycles"]
            # the last cycle ends the loop, and its document holds the potential
            windows = range(1, min(WINDOW + 1, n)), range(max(1, n - WINDOW), n)

            def both(value, form, windows=windows):
                return " | ".join(f"{value(window):{form}}" for window in windows)

            table.add_row(
                str(asked),
                str(n),
                output["status"],
                both(stored.seconds, ".3f"),
                *(
                    both(lambda window, c=counter: stored.mean(c, window), ".0f")  # noqa: B023
                    for counter in (stored.documents, stored.bytes, stored.data_bytes)
                ),
                f"{stored.largest} B",
            )
        console.print(table)


if __name__ == "__main__":
    main()
