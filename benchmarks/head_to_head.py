"""This package beside peers with the same labels: errors on MD of the oracle, elastic constants and phonons.

One oracle, one test set from its own MD, and labels of three kinds, all with the same first dataset:

- those of the loop as it converges by itself;
- the first 20, 40 and 80 of loops that go on until 80 are bought (`--loops`): the default, with a teacher (a cheap
  model, `TEACHERS`), with biased MD first, with the whole halted cells, with all candidates around them;
- random frames of oracle MD, as many as the loop bought and 20, 40 and 80.

Each set is learnt by this package with default settings, those of the loop with a teacher and random frames with the
teacher as well; sets of the first and last kind, where a Python with `quippy` is named, also by `gap_fit` (GAP:
distance_2b and SOAP, settings in `_peers.py`, the same for all systems), and where one with `flare` is named, by its
sparse Gaussian process. FLARE's own loop then buys labels, too, where the oracle is EMT (`_peer_flare.py`); this
package learns these as well. Errors in energy, force and stress are root mean squares on the test frames; those of the
elastic constants (ions at rest) and of the phonons at Gamma of the cell are root mean squares over all constants and
modes, at the geometry that the oracle relaxes to.

    python benchmarks/head_to_head.py [--system NAME ...] [--seeds 0 ...] [--budgets 20 40 80] [--picoseconds 20]
        [--loops default teacher biased halted every] [--gap /path/of/a/python/with/quippy]
        [--flare /path/of/a/python/with/flare] [--folder head_to_head]

The frames of MD are those of `label_efficiency.py`, if its folder is given. Finished lines are in `results.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from _peers import flare, flare_loop, gap, has_flare_loop
from _teachers import Case, eam, rigid_ions, taught_by, tersoff
from ase import units
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from biased_md import bias_of
from label_efficiency import RESULTS, SYSTEMS, kept, labelled, pool_and_test, read_results, run
from rich.console import Console
from rich.table import Table

from mlip_autopipec.jobs.teach import TeachMaker
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.training.weights import EV_A3_IN_GPA
from mlip_autopipec.validation.targets import AccuracyTargets

#: Displacements (A) and strains of the central differences.
STEP_A, STRAIN = 0.01, 0.005
#: Cheap models that teach.
TEACHERS = {
    "copper-gold": lambda: eam(["Cu", "Au"]),
    "copper-gold-solid": lambda: eam(["Cu", "Au"]),
    "silicon": lambda: tersoff("Si"),
    "MgO": rigid_ions,
}
#: What a loop that spends its budget labels at a halt.
LOOPS = {"default": "default", "teacher": "default", "biased": "default", "halted": "halted", "every": "every"}
#: Errors that no potential has: a loop goes on until its labels are spent.
NEVER = AccuracyTargets(energy_meV_atom=1e-6, forces_meV_A=1e-6)
COLUMNS = ("meV/atom", "meV/A", "GPa", "C_ij, GPa", "phonons, THz")


def relaxed(system):
    """The cell and the atoms at rest, by the oracle."""
    atoms = system.atoms.copy()
    atoms.calc = system.calculator()
    if system.ensemble == "npt":
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.005, steps=300)
    else:
        BFGS(atoms, logfile=None).run(fmax=0.005, steps=300)
    return atoms


def property_frames(atoms):
    """Frames whose stresses and forces give elastic constants and phonons by central differences."""
    frames = []
    for i in range(6):
        for sign in (1, -1):
            strain = np.zeros(6)
            strain[i] = sign * STRAIN
            xx, yy, zz, yz, xz, xy = strain
            matrix = np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])
            frame = atoms.copy()
            frame.set_cell(frame.cell @ (np.eye(3) + matrix), scale_atoms=True)
            frames.append(frame)
    for atom in range(len(atoms)):
        for axis in range(3):
            for sign in (1, -1):
                frame = atoms.copy()
                frame.positions[atom, axis] += sign * STEP_A
                frames.append(frame)
    return frames


def elastic_constants(frames):
    """C_ij in GPa, (6, 6), of the first frames of :func:`property_frames`."""
    stresses = [frame.get_stress() for frame in frames[:12]]
    constants = [(stresses[2 * i] - stresses[2 * i + 1]) / (2 * STRAIN) for i in range(6)]
    return EV_A3_IN_GPA * np.array(constants)


def phonons(frames):
    """Frequencies in THz, imaginary ones negative, of the rest of the frames."""
    forces = np.array([frame.get_forces().ravel() for frame in frames[12:]])
    hessian = -(forces[::2] - forces[1::2]) / (2 * STEP_A)
    masses = np.repeat(frames[0].get_masses(), 3)
    squares = np.linalg.eigvalsh((hessian + hessian.T) / 2 / np.sqrt(np.outer(masses, masses)))
    # eV/A^2/u to THz
    return np.sign(squares) * np.sqrt(np.abs(squares)) * units.s / (2 * np.pi) / 1e12


def errors_of(predicted, truth, n_test):
    """Errors of each column of the table; the first frames are the test set."""

    def rms(values):
        return float(np.sqrt(np.mean(np.square(np.concatenate([np.ravel(v) for v in values])))))

    pairs = list(zip(predicted[:n_test], truth[:n_test], strict=True))
    return {
        "meV/atom": 1e3 * rms([(p.get_potential_energy() - t.get_potential_energy()) / len(t) for p, t in pairs]),
        "meV/A": 1e3 * rms([p.get_forces() - t.get_forces() for p, t in pairs]),
        "GPa": EV_A3_IN_GPA * rms([p.get_stress() - t.get_stress() for p, t in pairs]),
        "C_ij, GPa": rms([elastic_constants(predicted[n_test:]) - elastic_constants(truth[n_test:])]),
        "phonons, THz": rms([phonons(predicted[n_test:]) - phonons(truth[n_test:])]),
    }


def ours(system, labels, frames, teacher=None):
    """Frames with what this package's potential says, trained with default settings."""
    calculator = system.trainer().train(labels, teacher=teacher).potential.calculator()
    return [labelled(frame, calculator) for frame in frames]


def loop_labels(system, seed, picoseconds):
    """Labels that the loop buys until it has converged by itself."""
    first = system.first_labels(seed)
    document, bought, _, _ = run(system, "default", seed, picoseconds, (2.0, 5.0), first, check=True)
    if str(document.status) != "CONVERGED":
        raise RuntimeError(f"the loop ended as {document.status}: {document.why}")
    return bare(bought)


def spent_labels(system, kind, seed, picoseconds, n_labels, teacher):
    """Labels of a loop, as they were bought, that goes on until so many are."""
    others = {
        "stop_rule": StopRule(
            max_cycles=300, max_labels=n_labels, max_repeats=100, max_not_learnt=100, accuracy=NEVER, prove=False
        )
    }
    if kind == "teacher":
        others["teach_maker"] = TeachMaker(potential=teacher.yaml)
    bias = bias_of(system, 0.5 if kind == "biased" else 0, 0.25, picoseconds)
    first = system.first_labels(seed)
    told = (system, LOOPS[kind], seed, picoseconds, (2.0, 5.0), first)
    document, bought, _, md_ps = run(*told, check=True, bias=bias, **others)
    print(f"loop {kind}: {len(bought)} labels, {md_ps:.0f} ps of MD, {document.status}: {document.why}", flush=True)
    return bare(sorted(bought, key=lambda label: label.cycle))


def bare(bought):
    """Labels without what the loop knows of them."""
    frames = []
    for label in bought:
        frames.append(label.to_atoms())
        frames[-1].info = {}
    return frames


def label_sets(first, seed, pool, bought, budgets):
    """Name and labels of each set."""
    yield "the loop", [*first, *bought]
    order = np.random.default_rng([seed, 11]).permutation(len(pool))
    for name, n in {"as many random": len(bought), **{f"{n} random": n for n in budgets if n <= len(pool)}}.items():
        yield name, [*first, *(pool[i] for i in order[:n])]


def compare(system, name, seed, pool, truth, learners, teacher, options):
    """Source of labels, learner, the labels, and what predicts the frames, for one seed."""
    first = system.first_labels(seed)
    bought = kept(options.folder, f"{name}-loop-{seed}", partial(loop_labels, system, seed, options.picoseconds))
    for source, labels in label_sets(first, seed, pool, bought, options.budgets):
        yield source, "this package", labels, partial(ours, system, labels, truth)
        if teacher is not None and source != "the loop":
            yield source, "this package, taught", labels, partial(ours, system, labels, truth, teacher)
    for kind in options.loops if options.budgets else []:
        if kind == "teacher" and teacher is None:
            continue
        buy = partial(spent_labels, system, kind, seed, options.picoseconds, max(options.budgets), teacher)
        spent = kept(options.folder, f"{name}-{kind}-{seed}", buy)
        for n in (n for n in options.budgets if n <= len(spent)):
            learner = "this package, taught" if kind == "teacher" else "this package"
            labels = [*first, *spent[:n]]
            given = teacher if kind == "teacher" else None
            yield f"{kind} loop, {n}", learner, labels, partial(ours, system, labels, truth, given)
    if options.flare is not None and has_flare_loop(system):
        budgets = sorted({len(bought), *options.budgets})
        told = (seed, first, truth, budgets, options.picoseconds, options.folder / name)
        for n, labels, predicted in flare_loop(options.flare, system, *told):
            yield f"FLARE's loop, {n}", "FLARE", labels, partial(list, predicted)
            yield f"FLARE's loop, {n}", "this package", labels, partial(ours, system, labels, truth)
    for source, labels in label_sets(first, seed, pool, bought, options.budgets):
        for learner, learn in learners.items():
            yield source, learner, labels, partial(learn, system, labels, truth)


def report(results, console):
    """Print medians over the seeds."""
    for name in dict.fromkeys(r["system"] for r in results):
        table = Table(title=f"{name}: root mean square errors, medians over seeds")
        for column in ("labels from", "learner", "labels", *COLUMNS, "s"):
            table.add_column(column, justify="right")
        of_system = [r for r in results if r["system"] == name]
        for source, learner in sorted(dict.fromkeys((r["source"], r["learner"]) for r in of_system)):
            rows = [r for r in of_system if (r["source"], r["learner"]) == (source, learner)]
            middle = [f"{statistics.median(r[c] for r in rows):.3g}" for c in ("labels", *COLUMNS, "s")]
            table.add_row(source, learner, *middle)
        console.print(table)


def main(arguments=None):
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(20_000)  # run_locally nests the cycles
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--system", nargs="+", default=["copper-gold", "silicon", "MgO"], choices=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budgets", nargs="*", type=int, default=[20, 40, 80])
    parser.add_argument("--picoseconds", type=float, default=20.0)
    parser.add_argument("--loops", nargs="*", default=list(LOOPS), choices=list(LOOPS))
    parser.add_argument("--gap", type=Path, help="a Python with quippy; gap_fit lies beside it")
    parser.add_argument("--flare", type=Path, help="a Python with mir-flare; runs its loop, too")
    parser.add_argument("--folder", type=Path, default=Path("head_to_head"))
    options = parser.parse_args(arguments)
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=130)
    for name in options.system:
        system = SYSTEMS[name]()
        if system.missing:
            console.print(f"{name}: skipped, {system.missing}")
            continue
        pool, test = pool_and_test(system, name, folder, options.picoseconds)

        def properties(system=system):
            calculator = system.calculator()
            return [labelled(frame, calculator) for frame in property_frames(relaxed(system))]

        truth = [*test, *kept(folder, f"{name}-properties", properties)]
        learners = {}
        for peer, learn, python in (("GAP", gap, options.gap), ("FLARE", flare, options.flare)):
            if python is not None:
                learners[peer] = partial(learn, python)
        teacher = None
        if "teacher" in options.loops and name in TEACHERS:
            teacher = taught_by(Case(system, TEACHERS[name]()), name, folder)
        for seed in options.seeds:
            key = {"system": name, "seed": seed, "picoseconds": options.picoseconds}
            for source, learner, labels, predict in compare(
                system, name, seed, pool, truth, learners, teacher, options
            ):
                line = {**key, "source": source, "learner": learner, "labels": len(labels)}
                if any(line.items() <= r.items() for r in read_results(folder)):
                    continue
                started = time.perf_counter()
                line |= errors_of(predict(), truth, len(test))
                with (folder / RESULTS).open("a") as file:
                    file.write(f"\n{json.dumps({**line, 's': time.perf_counter() - started})}\n")
    report(read_results(folder), console)
    if options.gap is None:
        console.print("GAP: skipped, name a Python with quippy by --gap (pip install quippy-ase in one of its own)")
    if options.flare is None:
        console.print(
            "FLARE: skipped, name a Python with mir-flare by --flare (docs/comparison.md says how to build it)"
        )


if __name__ == "__main__":
    main()
