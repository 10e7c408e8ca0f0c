"""
Learning curves on the DFT sets of Zuo et al., J. Phys. Chem. A 124, 731 (2020), with default settings.

A trainer learns subsets of the training set of an element and all of it, and is measured on the test set.

    python benchmarks/dft_tables.py DATA [--elements Si Ge Li Mo] [--sizes 20 60] [--seeds 5] [--no-full]
        [--trainer linear]

DATA is a folder with ``<element>_train.extxyz.gz`` and ``<element>_test.extxyz.gz``: energies in eV, forces in eV/A,
stresses in eV/A^3 in ASE's order and sign. Elements without these files are left out; any other name may be given.
"Stable" are test structures within 1 eV/atom of the convex hull of all labels. Normal stresses are xx, yy and
zz: many labels of these sets have two shear components exchanged.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from ase.io import read
from rich.console import Console
from rich.table import Table

from mlip_autopipec.kinds import TRAINERS
from mlip_autopipec.training.accuracy import predict
from mlip_autopipec.training.excitation import energies_above_hull
from mlip_autopipec.training.ladder import md_cost
from mlip_autopipec.training.weights import EV_A3_IN_GPA

#: Structures so near the convex hull of all labels are what a potential is for.
STABLE_EV_ATOM = 1.0
#: Mean absolute errors in meV/atom and eV/A as ACEpotentials.jl prints them beside its own: GAP and MTP.
PUBLISHED = {
    "Si": {"GAP": (2.91, 0.07), "MTP": (2.21, 0.06)},
    "Ge": {"GAP": (2.06, 0.05), "MTP": (1.79, 0.05)},
    "Li": {"GAP": (0.49, 0.01), "MTP": (0.49, 0.01)},
    "Mo": {"GAP": (2.24, 0.09), "MTP": (2.83, 0.09)},
}


def normal_stresses(potential, test):
    """Return mean absolute error and root mean square of the normal stresses without vacuum, GPa; None without any."""
    found = [predict(potential, [atoms]) for atoms in test]
    differences = [(p.stress_potential - p.stress_label)[:3] for p in found if len(p.stress_label) == 6]
    if not differences:
        return None, None
    errors = EV_A3_IN_GPA * np.concatenate(differences)
    return float(np.abs(errors).mean()), float(np.sqrt(np.mean(errors**2)))


def stable_errors(potential, train, test):
    """Return mean absolute errors, meV/atom and meV/A, of test structures within 1 eV/atom of the most stable ones."""
    above = energies_above_hull([*train, *test])[len(train) :]
    found = predict(potential, [atoms for atoms, energy in zip(test, above, strict=True) if energy < STABLE_EV_ATOM])
    energy, forces = (found.energy_potential - found.energy_label, found.forces_potential - found.forces_label)
    return 1e3 * float(np.abs(energy).mean()), 1e3 * float(np.abs(forces).mean())


def measure(train, test, trainer="linear"):
    """Train with default settings; return what a row of the table shows."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = TRAINERS[trainer].trainer().train(train, test_labels=test, directory=Path(folder))
    seconds = time.perf_counter() - started
    errors, record, potential = result.test, result.linear, result.potential
    normal_mae, normal_rmse = normal_stresses(potential, test)
    stable = stable_errors(potential, train, test)
    return {
        "E MAE, meV/atom": errors.energy_mae_meV_atom,
        "E RMSE": errors.energy_rmse_meV_atom,
        "F MAE, meV/A": errors.forces_mae_meV_A,
        "F RMSE": errors.forces_rmse_meV_A,
        "E MAE, stable": stable[0],
        "F MAE, stable": stable[1],
        "stress MAE, GPa": errors.stress_mae_GPa,
        "stress RMSE": errors.stress_rmse_GPa,
        "normal stress MAE": normal_mae,
        "RMSE": normal_rmse,
        "cutoff, A": potential.cutoff,
        "functions": sum(potential.n_functions.values()),
        "MD, us/atom/step": None if potential.is_grace else md_cost(potential, train),
        "doubtful stresses": None if record is None else len(record.doubtful_stresses),
        "s": seconds,
    }


def row(label, rows):
    """Write medians over the seeds, with the range where there are several."""

    def cell(values):
        if any(v is None for v in values):
            return "-"
        middle = f"{statistics.median(values):.3g}"
        return middle if len(values) == 1 else f"{middle} ({min(values):.3g}-{max(values):.3g})"

    return [label, *(cell([r[key] for r in rows]) for key in rows[0])]


def main() -> None:
    """Print one table for each element."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--elements", nargs="+", default=["Si", "Ge", "Li", "Mo"])
    parser.add_argument("--sizes", nargs="*", type=int, default=[20, 60])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trainer", choices=["linear", "pacemaker", "grace"], default="linear")
    parser.add_argument("--no-full", action="store_true", help="leave out the whole training set")
    options = parser.parse_args()
    console = Console(width=230)
    for element in options.elements:
        if not (options.data / f"{element}_train.extxyz.gz").exists():
            console.print(f"{element}: no {element}_train.extxyz.gz in {options.data}")
            continue
        train, test = (read(options.data / f"{element}_{part}.extxyz.gz", ":") for part in ("train", "test"))
        table = None
        runs = [
            (str(size), [np.random.default_rng(seed).permutation(len(train))[:size] for seed in range(options.seeds)])
            for size in options.sizes
        ]
        if not options.no_full:
            runs.append((f"all {len(train)}", [np.arange(len(train))]))
        for label, subsets in runs:
            rows = []
            for subset in subsets:
                rows.append(measure([train[i] for i in subset], test, options.trainer))
                print(element, label, rows[-1], file=sys.stderr, flush=True)
            if table is None:
                table = Table(
                    title=f"{element}: errors on {len(test)} test structures, {options.trainer}, default settings"
                )
                for name in ("labels", *rows[0]):
                    table.add_column(name, justify="right")
            table.add_row(*row(label, rows))
        if table is not None:
            for name, (energy, force) in PUBLISHED.get(element, {}).items():
                table.add_row(f"{name}, published", f"{energy}", "", f"{1e3 * force:g}")
            console.print(table)


if __name__ == "__main__":
    main()
