"""What a teacher is worth: errors of fits to as many labels with it and without.

A cheap model labels frames of its own MD and structures of other volumes; what is learnt from them is the prior mean of
the fit to labels of the oracle (`teacher` of a run file). Labels are random frames of the oracle's own MD, errors those
on frames of another such MD, root mean squares, energies without their mean; medians over draws. For the DFT sets
(`--data`, as for dft_tables.py) the teacher labels the structures of the training set.

    python benchmarks/teacher.py [--system NAME ...] [--sizes 10 20 40] [--draws 3] [--folder teacher] [--data DATA]
        [--trainer linear]
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _teachers import PICOSECONDS, Case, eam, gfn, stillinger_weber, taught_by, tersoff, universal
from ase.build import molecule
from ase.io import read
from first_datasets import five_elements
from label_efficiency import (
    RESULTS,
    System,
    first_dataset,
    kept,
    labelled,
    pool_and_test,
    read_results,
    silicon,
)
from rich.console import Console
from rich.table import Table

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer

TRAINERS = {"linear": LinearACETrainer, "pacemaker": PacemakerTrainer}


def molecular(name):
    atoms = molecule(name)
    atoms.center(8.0)
    missing = "" if find_spec("tblite") else "tblite is not installed (extra 'xtb')"
    frames = {"ensemble": "nvt", "n_pool": 60, "n_test": 30, "settling_fs": 500.0, "length_fs": 2500.0}
    temperatures = [300, 800]
    oracle, first = gfn("GFN2-xTB"), first_dataset(4, 64)
    return Case(System(atoms, temperatures, temperatures, 0.5, oracle, first, missing, **frames), gfn("GFN1-xTB"))


def alloy():
    system, _ = five_elements()
    return Case(replace(system, n_pool=40), eam(["Ag", "Au", "Cu", "Ni", "Pd"]))


def soft_silicon():
    system = replace(silicon(), temperatures_K=[300, 1500], timestep_fs=2.0, ensemble="nvt", n_test=10)
    return Case(system, tersoff("Si"))


SYSTEMS = {
    "acetamide, GFN2-xTB by GFN1-xTB": lambda: molecular("CH3CONH2"),
    "ethanol, GFN2-xTB by GFN1-xTB": lambda: molecular("CH3CH2OH"),
    "CuAgAuNiPd, EMT by EAM": alloy,
    "silicon, Stillinger-Weber by Tersoff": soft_silicon,
}
#: Models that teach the DFT sets; universal ones are of the extra `foundation`.
UNIVERSAL = {"SevenNet-0": universal("sevenn.calculator.SevenNetCalculator", model="7net-0", device="cpu")}
UNIVERSAL["CHGNet"] = universal("chgnet.model.dynamics.CHGNetCalculator", use_device="cpu")
OF_DFT = {"Si": {"Stillinger-Weber": stillinger_weber, "Tersoff": tersoff}, "Ge": {"Tersoff": tersoff}}
OF_DFT = {element: models | UNIVERSAL for element, models in OF_DFT.items()}


def errors(potential, test):
    """Root mean squares: meV/atom without the mean, meV/A, GPa."""
    calculator, energies = potential.calculator(), []
    for frame in test:
        atoms = frame.copy()
        atoms.calc = calculator
        energies.append((atoms.get_potential_energy() - frame.get_potential_energy()) / len(frame))
    whole = compute_errors(potential, test)
    return [1e3 * float(np.std(energies)), whole.forces_rmse_meV_A, whole.stress_rmse_GPa]


def compare(labels, test, teacher, trainer):
    """Fit the labels with the teacher and without."""
    with TemporaryDirectory() as folder:
        try:
            alone = trainer.train(labels, directory=folder)
            taught = trainer.train(labels, directory=folder, teacher=teacher)
        except MLIPError as error:  # too few atoms of an element
            return {"refused": str(error)[:200]}
    found = {"alone": errors(alone.potential, test), "taught": errors(taught.potential, test)}
    return found | {"factor": (taught.linear or taught.progress).teacher_factor}


def of_dft(options):
    """Yield names, labels, test sets and teachers of the DFT sets."""
    for element, models in OF_DFT.items():
        train, test = (read(options.data / f"{element}_{part}.extxyz.gz", ":") for part in ("train", "test"))
        for model, make in models.items():
            name = f"{element}, DFT by {model}"
            if reason := getattr(make, "missing", ""):
                print(f"{name}: skipped, {reason}")
                continue
            calculator = make(element)._get_calculator()
            free = kept(options.folder, f"{name}-free", lambda c=calculator, t=train: [labelled(a, c) for a in t])
            yield name, train, test, options.trainer.learner_of_teacher([element]).train(free).potential


def of_systems(options):
    """Yield names, pools, test sets and teachers of the systems."""
    for name in options.system:
        case = SYSTEMS[name]()
        if case.system.missing:
            print(f"{name}: skipped, {case.system.missing}")
            continue
        pool, test = pool_and_test(case.system, name, options.folder, PICOSECONDS)
        yield name, pool, test, taught_by(case, name, options.folder, options.trainer)


def report(results, console):
    """Print medians over the draws."""
    table = Table(title="Errors of fits: alone, with the teacher (medians over draws)")
    for column in ("system", "trainer", "labels", "meV/atom", "meV/A", "GPa", "factor"):
        table.add_column(column, justify="right")

    def key_of(result):
        return result["system"], result.get("trainer", "linear"), str(result["n"])

    for key in dict.fromkeys(map(key_of, results)):
        rows = [r for r in results if key_of(r) == key and "alone" in r]
        if not rows:
            table.add_row(*key, "refused: too few atoms of an element")
            continue
        cells = []
        for i in range(3):
            both = [[r[how][i] for r in rows] for how in ("alone", "taught")]
            cells.append("-" if None in both[0] else ", ".join(f"{statistics.median(values):.3g}" for values in both))
        factors = ["none" if r["factor"] is None else f"{r['factor']:.2f}" for r in rows]
        table.add_row(*key, *cells, " ".join(factors))
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--system", nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[10, 20, 40])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("teacher"))
    parser.add_argument("--data", type=Path, help="folder of the DFT sets of Si and Ge, as for dft_tables.py")
    parser.add_argument("--trainer", default="linear", choices=list(TRAINERS))
    options = parser.parse_args()
    learner, options.trainer = options.trainer, TRAINERS[options.trainer]()
    options.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")  # of torch
    console = Console(width=130)
    sources = [of_systems(options), *([of_dft(options)] if options.data is not None else [])]
    for source in sources:
        for name, pool, test, teacher in source:
            for n in options.sizes:
                for draw in range(options.draws):
                    done = {
                        (r["system"], r["n"], r["draw"], r.get("trainer", "linear"))
                        for r in read_results(options.folder)
                    }
                    if (name, n, draw, learner) in done:
                        continue
                    chosen = np.random.default_rng(draw).permutation(len(pool))[:n]
                    found = {"system": name, "n": n, "draw": draw, "trainer": learner}
                    found |= compare([pool[i] for i in chosen], test, teacher, options.trainer)
                    with (options.folder / RESULTS).open("a") as stream:
                        stream.write(json.dumps(found) + "\n")
    report(read_results(options.folder), console)


if __name__ == "__main__":
    main()
