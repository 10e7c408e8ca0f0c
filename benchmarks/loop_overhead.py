"""What the loop itself costs: the real OTFMaker with parts that do nothing.

A walker halts in every cycle; sampling, selection, one label and training are stand-ins that
return at once. Everything runs in memory under run_locally. Printed are seconds per cycle,
the bytes stored in the documents and in the `data` store by the first and by the last ten
cycles (they have to agree: what a cycle stores must not grow), and where nesting ends.

    python benchmarks/loop_overhead.py [CYCLES ...]
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
import time
import warnings

from ase.build import bulk
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from rich.console import Console
from rich.table import Table

from mlip_autopipec.jobs.assess import StopRule
from mlip_autopipec.testing import PeriodicHaltsDynamicsMaker, StandInSelectMaker, stand_in_loop


def measure(cycles):
    """Run the loop for so many cycles; return status, seconds and bytes per cycle (documents, data)."""
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    maker = stand_in_loop(
        dynamics_maker=PeriodicHaltsDynamicsMaker(n_halts=cycles),
        select_maker=StandInSelectMaker(n_max=1),
        stop_rule=StopRule(max_cycles=cycles + 1),
    )
    flow = maker.make(bulk("Cu", cubic=True), [300.0])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run_locally(flow, store=store, log=False, create_folders=True, root_dir=folder)
        seconds = time.perf_counter() - started
    document = store.query_one({"uuid": flow.output.uuid}, sort={"index": -1})
    sizes, data = {}, {}
    of_job = {}
    for doc in store.query():
        doc.pop("_id", None)
        match = re.search(r" c(\d{3,})", doc["name"])  # a job that replaced itself has no output to ask
        cycle = int(match[1]) if match else 0
        of_job[doc["uuid"], doc["index"]] = cycle
        sizes[cycle] = sizes.get(cycle, 0) + len(json.dumps(doc, default=str))
    for blob in store.additional_stores["data"].query():
        blob.pop("_id", None)
        cycle = of_job[blob["job_uuid"], blob["job_index"]]
        data[cycle] = data.get(cycle, 0) + len(json.dumps(blob, default=str))
    n = document["output"]["n_cycles"]
    early, late = range(1, min(11, n)), range(max(1, n - 10), n)

    def mean(per_cycle, which):
        return sum(per_cycle.get(c, 0) for c in which) / max(len(which), 1)

    return document["output"], seconds, [mean(s, w) for s in (sizes, data) for w in (early, late)]


def main():
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    counts = [int(a) for a in sys.argv[1:]] or [10, 50, 100, 200, 300, 1000]
    table = Table(title=f"the loop alone, in memory (recursion limit {sys.getrecursionlimit()})")
    for column in (
        "asked",
        "done",
        "status",
        "s/cycle",
        "documents/cycle: first 10",
        "last 10",
        "data: first 10",
        "last 10",
    ):
        table.add_column(column, justify="right")
    measure(1)  # imports and the like
    for cycles in counts:
        output, seconds, sizes = measure(cycles)
        n = output["n_cycles"]
        table.add_row(
            str(cycles), str(n), output["status"], f"{seconds / max(n, 1):.3f}", *(f"{s:.0f} B" for s in sizes)
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
