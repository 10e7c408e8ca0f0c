"""Does MD that is driven to where the energy is uncertain (`dynamics.bias`) find more with fewer labels and steps?

The loop of `label_efficiency.py` with its systems, oracles, first datasets and test frames of the oracle's own MD. A
walker is done after one plain walk of the full length without a halt; with a bias it makes a biased walk before, of a
share of that length. Beside each error is that of as many random frames of the oracle's MD. Each finished run is one
line of `results.jsonl` in the folder: what is killed goes on where it was.

    python benchmarks/biased_md.py [--system NAME ...] [--strength 0 0.5 ...] [--seeds 0 1 ...] [--picoseconds 20]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import warnings
from pathlib import Path

from label_efficiency import KINDS, RESULTS, SYSTEMS, measure, pool_and_test, read_results
from rich.console import Console
from rich.table import Table

from mlip_autopipec.lammps.bias import BiasSettings


def bias_of(system, strength, share, picoseconds):
    """Return the bias of walks of a system, as a share of the length of the plain ones; None for plain MD."""
    if strength == 0:
        return None
    n_steps = round(1000 * picoseconds / system.timestep_fs)
    return BiasSettings(strength, ramp_steps=n_steps // 100, n_steps=round(share * n_steps))


def report(results, console):
    """Print medians over the seeds for each system and strength."""
    for system in SYSTEMS:
        table = Table(title=f"{system}: medians over seeds; errors beside those of as many random frames")
        for column in ("strength", "seeds", "labels", "cycles", "MD ps", *KINDS.values(), "not worse in", "CPU s"):
            table.add_column(column, justify="right")
        for strength in sorted({r["strength"] for r in results if r["system"] == system}):
            done = [r for r in results if (r["system"], r["strength"]) == (system, strength)]
            done = [r for r in done if r["status"] == "CONVERGED" and r["random"]]
            if not done:
                continue
            middle = {name: statistics.median(r[name] for r in done) for name in ("labels", "cycles", "md_ps")}
            errors = [
                " | ".join(f"{statistics.median(r[of][kind] for r in done):.3g}" for of in ("errors", "random"))
                for kind in KINDS
            ]
            better = sum(r["errors"]["forces_meV_A"] <= r["random"]["forces_meV_A"] for r in done)
            table.add_row(
                f"{strength:g}",
                str(len(done)),
                *(f"{value:.3g}" for value in middle.values()),
                *errors,
                f"{better} of {len(done)}",
                f"{statistics.median(r['seconds_cpu'] for r in done):.0f}",
            )
        if table.row_count:
            console.print(table)


def main(arguments=None):
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(20_000)  # run_locally nests the cycles
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--system", nargs="+", default=["copper-gold"], choices=list(SYSTEMS))
    parser.add_argument("--strength", nargs="+", type=float, default=[0.0, 0.5])
    parser.add_argument("--share", type=float, default=0.25, help="length of the biased walk, of that of the plain one")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--picoseconds", type=float, default=20.0)
    parser.add_argument("--gamma", nargs=2, type=float, default=[2.0, 5.0])
    parser.add_argument("--folder", type=Path, default=Path("biased_md"))
    options = parser.parse_args(arguments)
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"picoseconds": options.picoseconds, "gamma": options.gamma, "share": options.share}
    console = Console(width=130)
    for name in options.system:
        system = SYSTEMS[name]()
        if system.missing:
            console.print(f"{name}: skipped, {system.missing}")
            continue
        pool, test = pool_and_test(system, name, folder, options.picoseconds)
        for seed in options.seeds:
            for strength in options.strength:
                key = {"system": name, "strength": strength, "seed": seed, **asked}
                if any(key.items() <= r.items() for r in read_results(folder)):
                    continue
                told = (system, "default", seed, options.picoseconds, options.gamma, pool, test)
                bias = bias_of(system, strength, options.share, options.picoseconds)
                found = measure(*told, check=False, bias=bias)
                with (folder / RESULTS).open("a") as file:
                    file.write("\n" + json.dumps({**key, **found}) + "\n")  # the line before may have been cut short
    report([r for r in read_results(folder) if asked.items() <= r.items()], console)


if __name__ == "__main__":
    main()
