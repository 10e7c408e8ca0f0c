"""Do documents stay small when everything else is large? Real sizes, real jobs and document classes.

1. One walk of 4000 atoms with 1000 dumped frames, each with positions, velocities and gamma, in the on-disk store and
   on the MongoDB server that MLIP_AUTOPIPEC_TEST_MONGO_URI names: documents outside `data` have to stay below 1 MB.
2. A request for hundreds of labels with the real VASP maker under FireWorks: the Fireworks of all labels stand in one
   launch document, which MongoDB limits to 16 MB.
3. The other documents that grow with something.

    python tests/server/mongo.py python benchmarks/document_sizes.py [--frames 1000] [--labels 100 500]

With mongo-java-server give --server-frames 130: it answers a query in one message, whose limit is 48 MB, where
MongoDB answers in batches of 16 MB.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import tempfile
import time
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import bson
import numpy as np
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from jobflow import JobStore, run_locally
from jobflow.managers.fireworks import job_to_firework
from maggma.stores import GridFSStore, MemoryStore
from monty.json import jsanitize
from rich.console import Console
from rich.table import Table
from store_growth import SERVER, open_kind

from mlip_autopipec import OracleMaker
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.base import current_uuid, loop_job
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.oracle.vasp import isolated_atom_maker, vasp_static_maker
from mlip_autopipec.schemas.label import FailedLabel, LabelBatch, LabelDocument
from mlip_autopipec.schemas.loop import OTFDocument, WalkerState
from mlip_autopipec.schemas.walk import Choice, ProposalDocument, SelectionDocument, WalkDocument
from mlip_autopipec.testing import ScriptedDynamicsMaker, stand_in_loop

MB = 1e6
CRYSTAL = bulk("Cu", cubic=True)


@dataclass
class DumpingDynamicsMaker(ScriptedDynamicsMaker):
    """A walk that dumps frames as LAMMPS would leave them."""

    n_frames: int = 1000

    def explore(self, walker, potential, atoms, restart_file):
        result = super().explore(walker, potential, atoms, restart_file)
        rng = np.random.default_rng(0)
        for step in range(self.n_frames):
            frame = atoms.copy()
            frame.positions += rng.normal(0, 0.1, (len(frame), 3))
            frame.arrays["momenta"] = rng.normal(0, 1, (len(frame), 3))
            frame.arrays["gamma"] = rng.uniform(1, 2, len(frame))
            frame.info = {"step": step, "gamma_max": 2.0}
            result.frames.append(frame)
        return result


def walk(kind, n_frames):
    """Run a campaign whose one walk is large; return bytes by kind of documents and of bulk data, and seconds."""
    maker = stand_in_loop(dynamics_maker=DumpingDynamicsMaker(n_frames=n_frames))
    flow = maker.make(CRYSTAL.repeat(10), 1000)
    with tempfile.TemporaryDirectory() as folder, open_kind(kind, Path(folder)) as store:
        started = time.perf_counter()
        run_locally(flow, store=store, log=False, create_folders=True, root_dir=folder, ensure_success=True)
        seconds = time.perf_counter() - started
        largest = {doc["name"]: len(bson.encode(doc)) for doc in store.query()}
        data, in_data = store.additional_stores["data"], defaultdict(int)
        if isinstance(data, GridFSStore):
            for file in data._files_collection.find():
                in_data[file["metadata"]["job_uuid"]] += file["length"]
        else:
            for blob in data.query():
                in_data[blob["job_uuid"]] += len(bson.encode(blob))
        name, size = max(largest.items(), key=lambda item: item[1])
        began = time.perf_counter()
        found = store.query_one({"output.kind": "walk"}, ["output"], load=True)
        if len(WalkDocument.model_validate(found["output"]).dumped_frames()) != n_frames:
            raise SystemExit("frames are missing")
        return name, size, max(in_data.values()), seconds, time.perf_counter() - began


@loop_job()
def propose(n):
    """Make a proposal of so many structures, each another."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(n):
        frames.append(CRYSTAL.repeat(2))
        frames[-1].rattle(0.05, rng=rng)
        frames[-1].info = {"origin": "displacement"}
    payload = {"candidates": pack_frames(frames)}
    return ProposalDocument(uuid=current_uuid(), n_candidates=n, origins={"displacement": n}, seed=0, payload=payload)


def request(n, oracle):
    """Bytes of a launch that requests so many labels, and of the largest Firework that comes of it."""
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    proposal = propose(n)
    proposal.run(store)
    firework = job_to_firework(oracle.make(proposal.output, "a-campaign-of-size", 0), store)
    started = time.perf_counter()
    action = firework.tasks[0].run_task({})
    seconds = time.perf_counter() - started
    fireworks = [
        len(bson.encode(jsanitize(one.to_dict(), strict=True))) for workflow in action.detours for one in workflow.fws
    ]
    return len(bson.encode(action.to_dict())), max(fireworks), seconds


def stored_size(document):
    return len(bson.encode(jsanitize(document.model_dump(mode="json"), strict=True)))


def others():
    """Documents that grow with something, at a size that is large."""
    rng = np.random.default_rng(0)
    atoms = CRYSTAL.repeat(10)
    atoms.rattle(0.1, rng=rng)
    results = {"energy": -1.0 / 3, "forces": rng.normal(size=(4000, 3)), "stress": rng.normal(size=6)}
    atoms.calc = SinglePointCalculator(atoms, **results)
    uuid = "00000000-0000-0000-0000-000000000000"
    where = {"uuid": uuid, "campaign_id": uuid}
    yield "label of 4000 atoms", LabelDocument.from_labelled(atoms, index=0, origin="halted", **where)
    choices = [Choice(source_id=uuid, source_index=i, walker=1, gamma=10 / 3) for i in range(2000)]
    yield "selection of 2000", SelectionDocument(n_candidates=2000, choices=choices, **where)
    failed = [FailedLabel(index=i, reason="x" * 2000) for i in range(2000)]
    batch = LabelBatch(n_asked=2000, n_labelled=0, failed=failed, **where)
    yield "count of 2000 labels, all failed for reasons of 2000 letters", batch
    fields = {"status": "HALTED", "reason": "gamma", "gamma_max": 10 / 3, "start_id": uuid, "walk_id": uuid}
    walkers = [
        WalkerState(index=i, formula="Cu4000", condition=Condition(300.0), seed=2**30, step=10**6, **fields)
        for i in range(500)
    ]
    counts = {"n_cycles": 300, "n_labels": 2000, "potential_id": uuid}
    yield "assessment of 500 walkers", OTFDocument(status="LEARNING", why="", walkers=walkers, **counts, **where)


def main():
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--server-frames", type=int, help="for the server; default: as --frames")
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 500])
    options = parser.parse_args()
    console = Console(width=130)

    table = Table(title="documents that grow, as stored")
    for column in ("document", "bytes"):
        table.add_column(column, justify="right")
    for what, document in others():
        table.add_row(what, f"{stored_size(document)}")
    console.print(table)

    table = Table(title="a request for labels with the VASP maker under FireWorks")
    for column in ("labels", "oracle", "launch document, B", "B/label", "16 MB at", "largest Firework, B", "s"):
        table.add_column(column, justify="right")
    with_atoms = OracleMaker(static_maker=vasp_static_maker(), atom_maker=isolated_atom_maker())
    for name, oracle in (("VASP", OracleMaker(static_maker=vasp_static_maker())), ("VASP, atoms apart", with_atoms)):
        for n in options.labels:
            launch, largest, seconds = request(n, oracle)
            limit = f"{16 * 1024**2 * n / launch:.0f} labels"
            table.add_row(str(n), name, str(launch), f"{launch / n:.0f}", limit, str(largest), f"{seconds:.0f}")
    console.print(table)

    table = Table(title="a walk of 4000 atoms with dumped frames")
    for column in (
        "store",
        "frames",
        "largest document outside data",
        "B",
        "bulk of the walk, MB",
        "s campaign",
        "s reading it",
    ):
        table.add_column(column, justify="right")
    for kind, n_frames in (("disk", options.frames), ("server", options.server_frames or options.frames)):
        if kind == "server" and not os.environ.get(SERVER):
            print(f"server: skipped, {SERVER} names none")
            continue
        name, size, in_data, seconds, reading = walk(kind, n_frames)
        table.add_row(kind, str(n_frames), name, str(size), f"{in_data / MB:.1f}", f"{seconds:.0f}", f"{reading:.0f}")
    console.print(table)
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
