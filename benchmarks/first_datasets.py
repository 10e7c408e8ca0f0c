"""How many labels a campaign takes in all, by the size of its first dataset; else it is as `init` writes it.

Errors of the potential delivered are root mean squares on frames of the oracle's own MD at the temperatures of the
walkers, energies without their mean; beside that of the forces is that of as many random frames of another such MD,
and no others. A line of `results.jsonl` in the folder for each campaign that has ended; what is
killed goes on where it was.

    python benchmarks/first_datasets.py [--system NAME ...] [--sizes 4:0 8:0 20:4 ...] [--seeds 0 1]
        [--folder first_datasets]

A size is the number of structures of the first dataset and of those held out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from ase.build import add_adsorbate, bulk, fcc111
from ase.io import write
from label_efficiency import (
    RESULTS,
    System,
    copper_gold,
    first_dataset,
    pool_and_test,
    random_errors,
    read_results,
    silicon,
)
from label_efficiency import test_errors as errors_on
from rich.console import Console
from rich.table import Table

from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.potentials.potential import ACEPotential

#: Of the potential delivered; the forces' also of one of as many random frames.
ERRORS = ("meV/atom", "meV/A", "random, meV/A", "GPa")
#: ps of the oracle's MD at each temperature.
PICOSECONDS = 12.0


def metal(atoms, *temperatures_K):
    """A system whose oracle is EMT and whose errors are measured where its walkers are."""
    temperatures = list(temperatures_K)
    oracle, first = EMTStaticMaker(), first_dataset(4, 64)
    return System(atoms, temperatures, temperatures, 2.0, oracle, first, ensemble="nvt", n_test=10), {}


def vacancy():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    del atoms[0]
    return metal(atoms, 300, 1300)


def adatom():
    atoms = fcc111("Cu", (3, 3, 4), vacuum=7)
    add_adsorbate(atoms, "Cu", 2.0, "fcc")
    atoms.info = {}
    atoms.pbc = True
    return metal(atoms, 300, 800)


def five_elements():
    atoms = bulk("Cu", a=3.95, cubic=True) * (3, 3, 2)
    atoms.symbols = np.random.default_rng(3).permutation((["Cu", "Ag", "Au", "Ni", "Pd"] * 15)[:72])
    return metal(atoms, 300, 1000)


def hot_alloy():
    """At constant pressure, and it melts."""
    dynamics = {"ensemble": "npt", "n_steps": 4000, "timestep_fs": 5.0}
    return copper_gold(), {"dynamics": dynamics, "conditions": [{"temperature_K": 1300, "pressure_GPa": 0.0}]}


def soft_silicon():
    system = silicon()
    system.walkers_K = system.temperatures_K = [300, 1500]
    system.timestep_fs, system.ensemble, system.n_test = 2.0, "nvt", 10
    maker = {name: getattr(system.oracle, name) for name in ("calculator_class", "calculator_kwargs", "energy_kind")}
    return system, {"oracle": {"kind": "ase", "maker": maker}}


SYSTEMS = {
    "copper with a vacancy": vacancy,
    "copper-gold": lambda: metal(copper_gold().atoms, 300, 1000),
    "copper-gold, melting": hot_alloy,
    "adatom on copper": adatom,
    "CuAgAuNiPd": five_elements,
    "silicon": soft_silicon,
}


def as_init_writes_it(system, folder):
    """The content of a run file."""
    write(folder / "structure.extxyz", system.atoms)
    path = folder / "init.yaml"
    path.unlink(missing_ok=True)
    temperatures = [word for kelvin in system.walkers_K for word in ("-T", str(kelvin))]
    oracle = "emt" if isinstance(system.oracle, EMTStaticMaker) else "ase"
    call(folder, "init", "structure.extxyz", "-o", path.name, "--oracle", oracle, *temperatures)
    content = yaml.safe_load(path.read_text())
    content.pop("validation", None)  # measured here
    return content


def call(folder, *arguments):
    """Run the command line in a folder; how it ends is written beside it."""
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "mlip_autopipec.cli", *arguments]
        return subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=False).returncode


def measure(system, settings, size, seed, folder, pool, test):
    """One campaign."""
    folder.mkdir(parents=True, exist_ok=True)
    n_structures, n_test = map(int, size.split(":"))
    content = as_init_writes_it(system, folder) | {"seed": seed}
    content["first_dataset"] |= {"n_structures": n_structures, "n_test": n_test}
    for name, section in settings.items():
        content[name] = content[name] | section if name == "dynamics" else section
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    started = time.perf_counter()
    call(folder, "run", "run.yaml", "--folder", "campaign", "--overwrite")
    seconds = time.perf_counter() - started
    ended = json.loads((folder / "campaign/result.json").read_text())
    potential = ACEPotential.from_files(folder / "campaign/potential/potential.yaml")
    calculator, energies = potential.calculator(), []
    for frame in test:
        atoms = frame.copy()
        atoms.calc = calculator
        energies.append((atoms.get_potential_energy() - frame.get_potential_energy()) / len(frame))
    errors = errors_on(system, potential, test)
    random = random_errors(system, ended["n_labels"], seed, [], pool, test)
    return {
        "status": ended["status"],
        "labels": ended["n_labels"],
        "cycles": ended["n_cycles"],
        "meV/atom": 1e3 * float(np.std(energies)),  # without energies of reference
        "meV/A": errors["forces_meV_A"],
        "random, meV/A": float("nan") if random is None else random["forces_meV_A"],
        "GPa": errors["stress_GPa"],
        "s": seconds,
    }


def report(results, console):
    """Print medians over the seeds."""
    table = Table(title="Labels in all, the first dataset and what is held out included; medians over seeds")
    for column in (
        "system",
        "first : held out",
        "status",
        "labels",
        "cycles",
        "meV/atom",
        "meV/A",
        "random",
        "GPa",
        "s",
    ):
        table.add_column(column, justify="right")
    for key in dict.fromkeys((r["system"], r["size"]) for r in results):
        rows = [r for r in results if (r["system"], r["size"]) == key]
        middle = [f"{statistics.median(r[c] for r in rows):.3g}" for c in list(rows[0])[4:]]
        table.add_row(*key, "/".join(sorted({r["status"] for r in rows})), *middle)
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--system", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--sizes", nargs="+", default=["4:0", "8:0", "20:4"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--folder", type=Path, default=Path("first_datasets"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=130)
    for name in options.system:
        system, settings = SYSTEMS[name]()
        if system.missing:
            console.print(f"{name}: skipped, {system.missing}")
            continue
        pool, test = pool_and_test(system, name, folder, PICOSECONDS)
        for size in options.sizes:
            for seed in options.seeds:
                done = {(r["system"], r["size"], r["seed"]) for r in read_results(folder)}
                if (name, size, seed) in done:
                    continue
                place = folder / f"{name}-{size}-{seed}".replace(" ", "-").replace(":", "-")
                found = {"system": name, "size": size, "seed": seed}
                found |= measure(system, settings, size, seed, place, pool, test)
                with (folder / RESULTS).open("a") as stream:
                    stream.write(json.dumps(found) + "\n")
    report(read_results(folder), console)


if __name__ == "__main__":
    main()
