"""This package beside a peer with the same labels: errors on MD of the oracle, elastic constants and phonons.

One oracle, one test set from its own MD, and labels of two kinds: those of the loop as it converges by itself, and
random frames of oracle MD, as many as the loop bought and 20, 40 and 80, with the same first dataset. Each set of
labels is learnt by this package with default settings and, where a Python with `quippy` is named, by `gap_fit` (GAP:
distance_2b and SOAP, settings below, the same for all systems). Errors in energy, force and stress are root mean
squares on the test frames; those of the elastic constants (ions at rest) and of the phonons at Gamma of the cell are
root mean squares over all constants and modes, at the geometry that the oracle relaxes to.

    python benchmarks/head_to_head.py [--system NAME ...] [--seeds 0 ...] [--budgets 20 40 80] [--picoseconds 20]
        [--gap /path/of/a/python/with/quippy] [--folder head_to_head]

The frames of MD are those of `label_efficiency.py`, if its folder is given. Finished lines are in `results.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from ase import units
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS
from label_efficiency import RESULTS, SYSTEMS, kept, labelled, pool_and_test, read_results, run
from rich.console import Console
from rich.table import Table

from mlip_autopipec.training.training import fit_reference_energies
from mlip_autopipec.training.weights import EV_A3_IN_GPA

#: Displacements (A) and strains of the central differences.
STEP_A, STRAIN = 0.01, 0.005
#: Settings of gap_fit for all systems: the best of three tried on copper-gold (20 labels; 82 to 110 meV/A).
SIGMAS = "{0.001 0.02 0.01 0.0}"
DISTANCE = "distance_2b cutoff={cutoff} covariance_type=ard_se delta=3.0 theta_uniform=1.0 n_sparse=20 add_species=T"
SOAP = (
    "soap cutoff={cutoff} covariance_type=dot_product zeta=2 delta=1.0 atom_sigma=0.5 l_max=6 n_max=8 "
    "n_sparse=600 sparse_method=cur_points add_species=T"
)
#: Runs in the other Python: energy, forces and stress of frames with a fitted GAP.
PREDICT = """
import sys, numpy as np
from ase.io import read, write
from ase.calculators.singlepoint import SinglePointCalculator
from quippy.potential import Potential
potential, out = Potential(param_filename=sys.argv[1]), []
for atoms in read(sys.argv[2], ":"):
    moving = atoms.copy()
    moving.calc = potential
    results = dict(energy=moving.get_potential_energy(), forces=moving.get_forces(), stress=moving.get_stress())
    atoms.calc = SinglePointCalculator(atoms, **results)
    out.append(atoms)
write(sys.argv[3], out)
"""
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


def ours(system, labels, frames):
    """Frames with what this package's potential says, trained with default settings."""
    calculator = system.trainer().train(labels).potential.calculator()
    return [labelled(frame, calculator) for frame in frames]


def gap(python, _system, labels, frames):
    """Frames with what a GAP of the same labels says."""
    cutoff = 5.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training = []
        for label in labels:
            atoms = label.copy()
            atoms.calc = None
            atoms.info = {"REF_energy": label.get_potential_energy()}
            atoms.arrays["REF_forces"] = label.get_forces()
            stress = label.get_stress(voigt=False)
            atoms.info["REF_virial"] = -stress * atoms.get_volume()
            training.append(atoms)
        write(folder / "train.xyz", training, format="extxyz")
        write(folder / "frames.xyz", [frame.copy() for frame in frames], format="extxyz")
        (folder / "predict.py").write_text(PREDICT)
        references = ":".join(f"{symbol}:{energy}" for symbol, energy in fit_reference_energies(labels).items())
        arguments = [
            "at_file=train.xyz",
            f"gap={{{DISTANCE.format(cutoff=cutoff)} : {SOAP.format(cutoff=cutoff)}}}",
            f"default_sigma={SIGMAS}",
            f"e0={references}",
            "energy_parameter_name=REF_energy",
            "force_parameter_name=REF_forces",
            "virial_parameter_name=REF_virial",
            "sparse_jitter=1e-8",
            "do_copy_at_file=F",
            "gp_file=gap.xml",
        ]
        for command in (
            [str(python.parent / "gap_fit"), *arguments],
            [python, "predict.py", "gap.xml", "frames.xyz", "out.xyz"],
        ):
            done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(
                    f"{command[0]} ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}"
                )
        return read(folder / "out.xyz", ":")


def label_sets(system, seed, pool, picoseconds, budgets):
    """Name and labels of each set."""
    first = system.first_labels(seed)
    document, bought, _, _ = run(system, "default", seed, picoseconds, (2.0, 5.0), first, check=True)
    if str(document.status) != "CONVERGED":
        raise RuntimeError(f"the loop ended as {document.status}: {document.why}")
    yield "loop", [*first, *(label.to_atoms() for label in bought)]
    order = np.random.default_rng([seed, 11]).permutation(len(pool))
    for n in (len(bought), *(budget for budget in budgets if budget <= len(pool))):
        yield f"{'as many' if n == len(bought) else n} random", [*first, *(pool[i] for i in order[:n])]


def report(results, console):
    """Print medians over the seeds."""
    for name in dict.fromkeys(r["system"] for r in results):
        table = Table(title=f"{name}: root mean square errors, medians over seeds")
        for column in ("labels from", "learner", "labels", *COLUMNS, "s"):
            table.add_column(column, justify="right")
        of_system = [r for r in results if r["system"] == name]
        for source, learner in dict.fromkeys((r["source"], r["learner"]) for r in of_system):
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
    parser.add_argument("--gap", type=Path, help="a Python with quippy; gap_fit lies beside it")
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
        learners = {"this package": ours} | ({"GAP": partial(gap, options.gap)} if options.gap else {})
        for seed in options.seeds:
            key = {"system": name, "seed": seed, "picoseconds": options.picoseconds}
            if any(key.items() <= r.items() for r in read_results(folder)):
                continue
            lines = []
            for source, labels in label_sets(system, seed, pool, options.picoseconds, options.budgets):
                for learner, learn in learners.items():
                    started = time.perf_counter()
                    predicted = learn(system, labels, truth)
                    line = {**key, "source": source, "learner": learner, "labels": len(labels)}
                    lines.append({**line, **errors_of(predicted, truth, len(test)), "s": time.perf_counter() - started})
                    print(lines[-1], file=sys.stderr, flush=True)
            with (folder / RESULTS).open("a") as file:
                file.write("".join(f"\n{json.dumps(line)}" for line in lines))
    report(read_results(folder), console)
    if options.gap is None:
        console.print("GAP: skipped, name a Python with quippy by --gap (pip install quippy-ase in one of its own)")


if __name__ == "__main__":
    main()
