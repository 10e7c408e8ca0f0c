"""FLARE beside this package: its sparse Gaussian process and its on-the-fly MD; runs in a Python that has FLARE.

`head_to_head.py` starts it, in a folder with `job.json`, `first.xyz` (labels to begin with, isolated atoms among them
or not) and `frames.xyz` (frames to predict). FLARE learns the first labels. If the job has `n_steps`, its own class
`OTF` then runs MD from `start.xyz` with a fixed pressure of zero, calls the oracle (EMT) where its uncertainty says so,
and stops after the largest of `budgets` or at the end of the MD. Written are `frames-N.xyz` with what it predicts
after N labels beyond the first, for each budget that was reached and the end, and `labels.xyz` with these labels.

Settings are those of FLARE's commented example (examples/full.yaml): B2 descriptor with n_max 8 and l_max 4, squared
normalized dot product, cutoff 5 A, local variance, noises and width of the kernel optimized by the likelihood after
each label. The threshold of a label is the job's `label_above` (0.02 there), that of an environment half of it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import numpy as np
from ase import units
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from flare.bffs.sgp import SGP_Wrapper
from flare.bffs.sgp._C_flare import B2, NormalizedDotProduct
from flare.bffs.sgp.calculator import SGP_Calculator
from flare.learners.otf import OTF

CUTOFF = 5.0  # A
N_MAX, L_MAX = 8, 4
SIGMA, POWER = 2.0, 2
#: eV, eV/A, eV/A^3, to begin with.
NOISES = (0.01, 0.05, 0.005)
#: Share of the threshold of a label above which an environment becomes a sparse point, and that for labels given.
ENVIRONMENT_SHARE, ENVIRONMENT_ABOVE = 0.5, 0.01
#: ASE's order of a stress (xx yy zz yz xz xy) in FLARE's (xx xy xz yy yz zz).
STRESS = [0, 5, 4, 1, 3, 2]
#: Steps of the optimizer after each label, and after all labels of a set that is given.
ITERATIONS, ITERATIONS_AT_ONCE = 1, 10


class CachedCalculator(SGP_Calculator):
    """FLARE's calculator computes anew at every question about the same atoms; this one does not."""

    def calculation_required(self, atoms, properties):
        return Calculator.calculation_required(self, atoms, properties)


class BudgetSpentError(Exception):
    """The largest budget of labels is reached."""


class Loop(OTF):
    """FLARE's loop, which stops at a budget and predicts the frames at each."""

    def compute_properties(self):
        # FLARE computes anew what the MD step has just computed at the same positions
        if self.atoms.calc is not self.flare_calc or not self.flare_calc.results:
            super().compute_properties()
        else:
            self.atoms.get_forces()

    def update_gp(self, *arguments, **keywords):
        super().update_gp(*arguments, **keywords)
        n_bought = len(self.gp.training_data) - self.job["n_first"]
        print(f"step {self.curr_step}: {n_bought} labels", flush=True)
        if n_bought in self.job["budgets"]:
            predict(self.gp, n_bought)
        if n_bought >= max(self.job["budgets"]):
            raise BudgetSpentError


def references(labels):
    """Energies of single atoms that fit the labels best, as the other learners have them."""
    kinds = sorted({number for atoms in labels for number in atoms.numbers})
    counts = np.array([[np.sum(atoms.numbers == kind) for kind in kinds] for atoms in labels], dtype=float)
    energies = np.array([atoms.get_potential_energy() for atoms in labels])
    return kinds, np.linalg.lstsq(counts, energies, rcond=None)[0]


def learnt(labels, iterations):
    """A sparse Gaussian process of labels; of each label those environments that are uncertain are sparse points."""
    kinds, energies = references(labels)
    kernel = NormalizedDotProduct(SIGMA, POWER)
    cutoffs = CUTOFF * np.ones((len(kinds), len(kinds)))
    descriptor = B2("chebyshev", "quadratic", [0.0, CUTOFF], [], [len(kinds), N_MAX, L_MAX], cutoffs)
    model = SGP_Wrapper(
        [kernel],
        [descriptor],
        CUTOFF,
        *NOISES,
        {int(kind): i for i, kind in enumerate(kinds)},
        single_atom_energies={i: float(energy) for i, energy in enumerate(energies)},
        variance_type="local",
        opt_method="L-BFGS-B",
        bounds=[(None, None)] + [(noise / 1000, None) for noise in NOISES],
        max_iterations=iterations,
    )
    model.kept = (kernel, descriptor)  # the compiled part holds no references
    calculator = CachedCalculator(model)
    for k, atoms in enumerate(labels):
        chosen = list(range(len(atoms)))
        if k > 0:
            calculator.reset()
            moving = atoms.copy()
            moving.calc = calculator
            calculator.calculate(moving)
            stds = calculator.results["stds"].max(axis=1)
            chosen = [i for i in chosen if stds[i] > ENVIRONMENT_ABOVE]
        stress = -atoms.get_stress()[STRESS]
        model.update_db(
            atoms, atoms.get_forces(), custom_range=chosen, energy=atoms.get_potential_energy(), stress=stress
        )
    model.train()
    return model


def predict(model, n_bought):
    """Write the frames with what the model says."""
    calculator, out = CachedCalculator(model), []
    for atoms in read("frames.xyz", ":"):
        calculator.reset()
        moving = atoms.copy()
        moving.calc = calculator
        results = {"energy": float(np.ravel(moving.get_potential_energy())[0]), "forces": moving.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, stress=moving.get_stress(), **results)
        out.append(atoms)
    write(f"frames-{n_bought}.xyz", out, format="extxyz")
    print(
        f"{n_bought} labels, hyperparameters {model.hyps}, {len(np.concatenate(model.sparse_gp.sparse_indices[0]))} "
        "sparse points",
        flush=True,
    )


def check_oracle(labels):
    """EMT of this ASE has to be that of the labels."""
    for atoms in labels[:2]:
        again = atoms.copy()
        again.calc = EMT()
        difference = abs(again.get_potential_energy() - atoms.get_potential_energy())
        if difference > 1e-6:
            raise SystemExit(f"EMT here differs by {difference} eV from the oracle of the labels; use another ASE")


def main():
    job = json.loads(Path("job.json").read_text())
    labels = read("first.xyz", ":")
    model = learnt(labels, ITERATIONS if job["n_steps"] else ITERATIONS_AT_ONCE)
    if not job["n_steps"]:
        predict(model, 0)
        return
    check_oracle(labels)
    model.max_iterations = ITERATIONS
    atoms = read("start.xyz")
    rng = np.random.RandomState(job["seed"])
    MaxwellBoltzmannDistribution(atoms, temperature_K=job["temperature_K"], rng=rng)
    Stationary(atoms)
    thermostat = {
        "temperature_K": job["temperature_K"],
        "pressure_au": 0.0,
        "taut": 100 * units.fs,
        "taup": job["barostat_fs"] * units.fs,
        "compressibility_au": job["compressibility_A3_eV"],
    }
    loop = Loop(
        atoms,
        job["timestep_fs"] / 1000,
        job["n_steps"],
        EMT(),
        "NPTBerendsen",
        thermostat,
        flare_calc=CachedCalculator(model),
        force_only=False,
        std_tolerance_factor=-job["label_above"],
        max_atoms_added=-1,
        update_style="threshold",
        update_threshold=ENVIRONMENT_SHARE * job["label_above"],
        train_hyps=(0, np.inf),
        skip=10**9,
        output_name="otf",
    )
    loop.job = {**job, "n_first": len(labels)}
    try:
        loop.run()
    except BudgetSpentError:
        print(f"the budget was spent at step {loop.curr_step}")
    n_bought = len(model.training_data) - len(labels)
    if n_bought not in job["budgets"]:
        predict(model, n_bought)


if __name__ == "__main__":
    sys.exit(main())
