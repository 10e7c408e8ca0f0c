"""Campaigns on one machine: what several workers gain, and what the manager itself costs.

Labels are single points of GFN1-xTB, walkers are MD of an ACE potential without halts, one thread each. For more
workers than there are cores the jobs are stand-ins that sleep, so that the manager alone is measured. The cost of a
cycle is that of the loop with stand-ins that do nothing, as in store_growth.py, in the store on disk.

    python benchmarks/local_scaling.py [--rounds 3] [--quick] [--cycles 300] [--parts labels walkers manager cycles]
    python benchmarks/local_scaling.py --parts cycles --cycles 3000 --rounds 1
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
from _machine import described
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from atomate2.ase.jobs import GFNxTBStaticMaker
from jobflow import Flow, job
from pymatgen.io.ase import AseAtomsAdaptor
from rich.console import Console
from rich.table import Table

from mlip_autopipec.database.disk import open_store
from mlip_autopipec.lammps.exploration import run_exploration
from mlip_autopipec.lammps.types import Condition, MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.managers.fork_server import ForkServer
from mlip_autopipec.managers.local import run_flow
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.settings import available_cores, thread_variables
from mlip_autopipec.testing import PeriodicHaltsDynamicsMaker, StandInSelectMaker, stand_in_loop
from mlip_autopipec.training.linear import LinearACETrainer

sys.path.insert(0, str(Path(__file__).parent))


def potential():
    """Return a linear ACE of copper, 60 functions."""
    frames = []
    for atoms in StructureGenerator(n_structures=20, n_test=0, max_atoms=32).generate([bulk("Cu", cubic=True)], seed=1):
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    found = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=60)).train(frames).potential
    return PotentialDocument.from_potential(found).model_dump(mode="json")


@job
def walk(document, temperature_K, n_steps):
    """Run MD of 256 atoms to its end."""
    potential = PotentialDocument.model_validate(document).to_potential()
    settings = MDSettings(n_steps=n_steps, gamma_lo=1e9, gamma_hi=1e9, gamma_explosion=1e10)
    result = run_exploration(
        bulk("Cu", cubic=True) * (4, 4, 4), potential, Condition(temperature_K), settings, seed=1, engine="library"
    )
    return str(result.status)


@job
def sleep(seconds):
    """Take time and no processor."""
    time.sleep(seconds)


def labels(repeat):
    """Return eight single points of silicon."""
    jobs = []
    for seed in range(8):
        atoms = bulk("Si", cubic=True) * repeat
        atoms.rattle(0.05, seed=seed)
        maker = GFNxTBStaticMaker(calculator_kwargs={"method": "GFN1-xTB", "verbosity": 0})
        jobs.append(maker.make(AseAtomsAdaptor.get_structure(atoms)))
    return Flow(jobs)


def seconds(make_flow, workers, warm):
    """Return the wall time of a flow, whose workers have run the jobs of another one before."""
    with tempfile.TemporaryDirectory() as folder, ForkServer(thread_variables(max(workers, 1))) as server:
        store = open_store(Path(folder) / "store")
        # the process that forks has imported everything; workers import the rest in their first job
        run_flow(warm(), store, Path(folder) / "warm", workers=1, server=server)
        started = time.perf_counter()
        failed = run_flow(make_flow(), store, Path(folder) / "jobs", workers=workers, server=server)
        taken = time.perf_counter() - started
        store.close()
    if failed:
        raise RuntimeError(next(iter(failed.values())))
    return taken


def compare(table, name, make_flow, counts, rounds, warm, ideal=None):
    """Measure a flow with each number of workers in turn, and write the medians."""
    taken = defaultdict(list)
    for _ in range(rounds):
        for workers in counts:
            taken[workers].append(seconds(make_flow, workers, warm))
    one = statistics.median(taken[counts[0]])
    for workers in counts:
        here = statistics.median(taken[workers])
        gain = statistics.median(a / b for a, b in zip(taken[counts[0]], taken[workers], strict=True))
        best = "" if ideal is None else f"{here - ideal(workers):.2f}"
        table.add_row(name, str(workers), f"{here:.2f}", f"{gain:.2f}", best)
    return one


def cycles(n, workers, engine):
    """Return wall and processor seconds of each of the first and last ten cycles of a loop of stand-ins."""
    maker = stand_in_loop(
        # atoms move a little at each halt: after thousands of cycles they must not have come too close to each other
        dynamics_maker=PeriodicHaltsDynamicsMaker(n_halts=n, displacement_A=0.02 * min(1.0, (200 / n) ** 0.5)),
        select_maker=StandInSelectMaker(n_max=1),
        stop_rule=StopRule(max_cycles=n + 1),
    )
    flow = maker.make(bulk("Cu", cubic=True), [300.0])
    began = {}

    def watch(jobs):
        for one in jobs:
            if one.name.startswith("propose c"):
                now = time.perf_counter(), _processor_s(one.pid)
                began.setdefault(int(one.name.split()[1][1:]), now)

    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "store")
        started = time.perf_counter()
        run_flow(flow, store, Path(folder) / "jobs", workers=workers, watch=watch, server=engine)
        taken = time.perf_counter() - started
        output = store.query_one({"uuid": flow.output.uuid}, ["output.n_cycles", "output.status"], sort={"index": -1})
        n_jobs = store.count({})
        store.close()
    last = max(began)
    span = min(10, last - 1)
    windows = (began[1], began[1 + span]), (began[last - span], began[last])
    first, late = ([(b - a) / span for a, b in zip(*window, strict=True)] for window in windows)
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return output["output"], first, late, taken, taken / n_jobs, most / 1024


def _processor_s(pid):
    """Return the processor time of this process, and of the worker that runs a job if that is another."""
    others = [] if pid == os.getpid() else [psutil.Process(pid).cpu_times()]
    return time.process_time() + sum(times.user + times.system for times in others)


def main():
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="shorter labels and walks")
    parser.add_argument("--cycles", type=int, nargs="+", default=[300])
    parser.add_argument("--parts", nargs="+", default=["labels", "walkers", "manager", "cycles"])
    options = parser.parse_args()
    console = Console(width=110)
    console.print(f"{described()}; medians of {options.rounds}")

    def wall_times():
        table = Table(title="wall time of a flow")
        for column in ("jobs", "workers", "s", "gain over one", "s beyond the sleep"):
            table.add_column(column, justify="right")
        return table

    def warm():
        return Flow([sleep(0)])

    counts = [n for n in (1, 2) if n <= available_cores()]
    if "labels" in options.parts:
        repeat = (2, 2, 1) if options.quick else (3, 2, 2)
        table = wall_times()
        compare(table, "8 labels, GFN1-xTB", lambda: labels(repeat), counts, options.rounds, warm)
        console.print(table)
    if "walkers" in options.parts:
        document = potential()
        steps = 200 if options.quick else 2000
        table = wall_times()
        compare(
            table,
            "4 walkers",
            lambda: Flow([walk(document, t, steps) for t in (400, 600, 800, 1000)]),
            counts,
            options.rounds,
            warm,
        )
        console.print(table)
    if "manager" in options.parts:
        table = wall_times()
        for workers in (1, 2, 4, 8):
            compare(
                table,
                "4 sleeps of 0.5 s for each worker",
                lambda workers=workers: Flow([sleep(0.5) for _ in range(4 * workers)]),
                [workers],
                options.rounds,
                warm,
                ideal=lambda _: 2.0,
            )
        compare(
            table,
            "100 jobs that do nothing",
            lambda: Flow([sleep(0) for _ in range(100)]),
            [1, 2],
            options.rounds,
            warm,
        )
        console.print(table)
    if "cycles" in options.parts:
        table = Table(title="loop of stand-ins, store on disk")
        columns = ("cycles", "workers", "status", "s/cycle, first 10", "last 10", "ratio", "ratio of CPU", "ms/job")
        for column in (*columns, "s in all", "MB"):
            table.add_column(column, justify="right")
        for n in options.cycles:
            for workers in (0, 1):
                measured = []
                for _ in range(options.rounds):
                    with ForkServer(thread_variables(1)) as server:
                        output, first, late, *rest = cycles(n, workers, server)
                    measured.append((first[0], late[0], late[0] / first[0], late[1] / first[1], *rest))
                first, late, ratio, of_cpu, taken, per_job, most = map(statistics.median, zip(*measured, strict=True))
                row = (output["status"], f"{first:.3f}", f"{late:.3f}", f"{ratio:.2f}", f"{of_cpu:.2f}")
                row = (*row, f"{per_job * 1e3:.1f}", f"{taken:.0f}", f"{most:.0f}")
                table.add_row(str(output["n_cycles"]), str(workers), *row)
        console.print(table)


if __name__ == "__main__":
    # workers find the jobs in a module, not in the program that was started
    from local_scaling import main as main_of_module

    main_of_module()
