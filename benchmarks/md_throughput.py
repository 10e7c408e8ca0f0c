"""Microseconds per atom and MD step of the library engine, beside pyace's evaluation alone.

Both are measured in turn in one process on the same copper trajectory (1000 K, gamma every 10
steps), so that their ratio does not depend on how busy the machine is. "evaluation alone" is
pyace's C++ on a ready environment: no neighbour list, no time integration.

    python benchmarks/md_throughput.py [--quick]
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _machine import described
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from pyace.atomicenvironment import aseatoms_to_atomicenvironment
from pyace.calculator import ACECalculator
from pyace.evaluator import ACEBEvaluator, ACERecursiveEvaluator
from rich.console import Console
from rich.table import Table

from mlip_autopipec.lammps import executable, input_script, structures
from mlip_autopipec.lammps.exploration import run_exploration, with_velocities
from mlip_autopipec.lammps.types import Condition, MDSettings
from mlip_autopipec.lammps.worker import LibraryRun
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.processes import look_for_garbage_rarely
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.training.linear import LinearACETrainer

ROUNDS, FRAMES = 7, 10


def label(atoms):
    atoms = atoms.copy()
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def train(n_functions):
    cells = StructureGenerator(n_structures=24, n_test=0, max_atoms=32).generate([bulk("Cu", cubic=True)], seed=1)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=n_functions))
    return trainer.train([label(a) for a in cells]).potential


def measure(potential, repeat, steps):
    """Return microseconds per atom: MD step, fastest evaluation, evaluation with projections (gamma)."""
    atoms = with_velocities(bulk("Cu", cubic=True).repeat(repeat), 1000, seed=1)
    condition, settings = Condition(1000), MDSettings(n_steps=10**9, gamma_hi=1e9, gamma_lo=1e9, gamma_every=10)
    fastest = ACERecursiveEvaluator(ctilde := potential.basis.to_ACECTildeBasisSet())
    fastest.set_recursive(True)
    graded = ACEBEvaluator(basis := potential.basis)
    graded.set_active_set([potential.active_set_inverse[e] for e in potential.elements])
    calculators = [ACECalculator(), ACECalculator()]
    calculators[0].set_evaluator(fastest)
    calculators[1].set_evaluator(graded)
    with tempfile.TemporaryDirectory() as folder:
        home = Path.cwd()
        os.chdir(folder)
        structures.write_structure(Path("structure.data"), atoms, potential.elements)
        run = LibraryRun(potential, condition, settings, atoms)
        text = input_script.render(potential.elements, condition, settings, engine="library", cutoff_A=potential.cutoff)
        Path(input_script.INPUT).write_text(text)
        run.prepare(input_script.INPUT)
        gc.freeze()  # as in the process of the engine
        look_for_garbage_rarely()
        run.run(max(40, 20_000 // len(atoms)))  # off the lattice, caches warm
        times = {"md": [], "fast": [], "graded": []}
        for _ in range(ROUNDS):
            started = time.perf_counter()
            run.run_more(steps)
            times["md"].append((time.perf_counter() - started) / steps)
            environments = []
            for _ in range(FRAMES):
                run.run_more(settings.gamma_every)
                environments.append(
                    aseatoms_to_atomicenvironment(run.snapshot(), potential.cutoff, basis.elements_to_index_map)
                )
            for name, calculator in zip(("fast", "graded"), calculators, strict=True):
                n = max(FRAMES, steps // 10)
                started = time.perf_counter()
                for i in range(n):
                    calculator.compute(environments[i % FRAMES], compute_projections=name == "graded")
                times[name].append((time.perf_counter() - started) / n)
        os.chdir(home)
    del ctilde
    per_atom = {name: [1e6 * t / len(atoms) for t in values] for name, values in times.items()}
    ratios = [m / f for m, f in zip(per_atom["md"], per_atom["fast"], strict=True)]
    graded_ratios = [m / g for m, g in zip(per_atom["md"], per_atom["graded"], strict=True)]
    return (
        len(atoms),
        *(statistics.median(per_atom[n]) for n in ("md", "fast", "graded")),
        statistics.median(ratios),
        statistics.median(graded_ratios),
    )


def measure_executable(potential, repeat, steps):
    """Microseconds per atom and step of `lmp` with ML-PACE: a long run less a short one, so without start-up."""
    atoms = with_velocities(bulk("Cu", cubic=True).repeat(repeat), 1000, seed=1)
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in (steps, 5 * steps):
            settings = MDSettings(n_steps=n, gamma_hi=1e9, gamma_lo=1e9, gamma_every=10)
            runs = [
                run_exploration(atoms, potential, Condition(1000), settings, engine="executable", directory=folder)
                for _ in range(3)
            ]
            seconds[n] = statistics.median(r.seconds for r in runs)
    return 1e6 * (seconds[5 * steps] - seconds[steps]) / (4 * steps * len(atoms))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small cells only")
    quick = parser.parse_args().quick
    Console(width=110).print(described())
    table = Table(title="library engine, one core, copper 1000 K, us/atom/step (medians)")
    has_lmp = executable.is_available()
    for column in (
        "functions",
        "atoms",
        "MD step",
        "evaluation alone",
        "with projections",
        "MD/evaluation",
        "MD/with proj.",
        "lmp, ML-PACE",
    ):
        table.add_column(column, justify="right")
    for n_functions in (30, 150):
        potential = train(n_functions)
        for repeat, steps in ((3, 200), (5, 100), (7, 50), (10, 30))[: 2 if quick else 4]:
            n, md, fast, graded, ratio, ratio_graded = measure(potential, repeat, steps)
            lmp = f"{measure_executable(potential, repeat, steps):.1f}" if has_lmp else "not here"
            table.add_row(
                str(n_functions),
                str(n),
                f"{md:.1f}",
                f"{fast:.1f}",
                f"{graded:.1f}",
                f"{ratio:.2f}",
                f"{ratio_graded:.2f}",
                lmp,
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
