"""
Learning curves on the DFT sets of Zuo et al., J. Phys. Chem. A 124, 731 (2020), with default settings.

The linear trainer learns subsets of the training set of an element and all of it, and is measured on the test set.

    python benchmarks/dft_tables.py DATA [--elements Si Ge] [--sizes 20 60] [--seeds 5] [--no-full]

DATA is a folder with ``<element>_train.extxyz.gz`` and ``<element>_test.extxyz.gz``: energies in eV, forces in eV/A,
stresses in eV/A^3 in ASE's order and sign.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from ase.io import read
from rich.console import Console
from rich.table import Table

from mlip_autopipec.training.linear import LinearACETrainer

#: Mean absolute errors in meV/atom and eV/A as published: GAP and MTP.
PUBLISHED = {"Si": {"GAP": (2.91, 0.07), "MTP": (2.21, 0.06)}, "Ge": {"GAP": (2.06, 0.05), "MTP": (1.79, 0.05)}}


def measure(train, test):
    """Train with default settings; return what a row of the table shows."""
    started = time.perf_counter()
    result = LinearACETrainer().train(train, test_labels=test)
    errors, record = result.test, result.linear
    return {
        "E MAE, meV/atom": errors.energy_mae_meV_atom,
        "E RMSE": errors.energy_rmse_meV_atom,
        "F MAE, meV/A": errors.forces_mae_meV_A,
        "F RMSE": errors.forces_rmse_meV_A,
        "stress MAE, GPa": errors.stress_mae_GPa,
        "stress RMSE": errors.stress_rmse_GPa,
        "functions": sum(record.n_functions.values()),
        "MD, us/atom/step": record.us_per_atom_step,
        "doubtful stresses": len(record.doubtful_stresses),
        "s": time.perf_counter() - started,
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
    parser.add_argument("--elements", nargs="+", default=["Si", "Ge"])
    parser.add_argument("--sizes", nargs="*", type=int, default=[20, 60])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-full", action="store_true", help="leave out the whole training set")
    options = parser.parse_args()
    console = Console(width=200)
    for element in options.elements:
        train, test = (read(options.data / f"{element}_{part}.extxyz.gz", ":") for part in ("train", "test"))
        table = None
        runs = [
            (str(size), [np.random.default_rng(seed).permutation(len(train))[:size] for seed in range(options.seeds)])
            for size in options.sizes
        ]
        if not options.no_full:
            runs.append((f"all {len(train)}", [np.arange(len(train))]))
        for label, subsets in runs:
            rows = [measure([train[i] for i in subset], test) for subset in subsets]
            if table is None:
                table = Table(title=f"{element}: errors on {len(test)} test structures, default settings")
                for name in ("labels", *rows[0]):
                    table.add_column(name, justify="right")
            table.add_row(*row(label, rows))
        if table is not None:
            for name, (energy, force) in PUBLISHED.get(element, {}).items():
                table.add_row(f"{name}, published", f"{energy}", "", f"{1e3 * force:g}")
            console.print(table)


if __name__ == "__main__":
    main()
