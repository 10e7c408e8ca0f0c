"""The scientific self-test: what a campaign relies on, computed for real on a few atoms."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.doctor.result import Result, green, red, yellow
from mlip_autopipec.errors import MLIPError, TrainingError
from mlip_autopipec.kinds import TRAINERS
from mlip_autopipec.lammps.input_script import SKIN_A
from mlip_autopipec.structures.distances import neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.jobs.label import OracleMaker
    from mlip_autopipec.lammps.types import Engine
    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.training.training import ACETrainer

#: Step of central differences in A, and what they may be off in eV/A.
STEP_A, FORCE_TOLERANCE = 1e-3, 1e-3
#: Largest deviation of gamma between LAMMPS and pyace, relative to the largest gamma.
GAMMA_TOLERANCE = 1e-6
#: Largest gamma of what was trained on: MaxVol stops a little above 1.
LARGEST_KNOWN_GAMMA = 1.05
#: About so many neighbours an atom may have in pace/kk and pace/extrapolation/kk on CUDA (LAMMPS issue 5063).
MOST_NEIGHBOURS_GPU = 380
#: Above this an oracle is too slow for five more labels.
_QUICK_S = 3.0
_REINSTALL = "reinstall python-ace and lammps at the versions of constraints.txt"


def copper(rattle: float, seed: int, repeat: int = 2, stretch: float = 1.0) -> Atoms:
    """Return rattled fcc copper: ``4 * repeat^3`` atoms displaced by ``rattle`` (A) per component, cell stretched."""
    atoms = bulk("Cu", cubic=True) * (repeat, repeat, repeat)
    atoms.set_cell(stretch * atoms.cell.array, scale_atoms=True)
    atoms.positions += np.random.default_rng(seed).normal(0, rattle, (len(atoms), 3))
    return atoms


def labelled(frames: Sequence[Atoms]) -> list[Atoms]:
    """Return the structures with energies and forces of EMT."""
    done = []
    for frame in frames:
        atoms = frame.copy()
        probe = frame.copy()
        probe.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=probe.get_potential_energy(), forces=probe.get_forces())
        done.append(atoms)
    return done


def training_set() -> list[Atoms]:
    """Return the labels that the potential of the self-test is trained on."""
    return labelled([copper(0.02 * (1 + k % 4), seed=k) for k in range(8)])


def small_potential(ridge: float = 1e-6) -> ACEPotential:
    """
    Train the potential of the self-test: linear ACE on :func:`training_set`, in a second or two.

    Parameters
    ----------
    ridge
        Regularisation; with 1e3 the potential is rough, so that some iterations of any trainer improve on it.
    """
    from mlip_autopipec.potentials.basis import BasisSettings
    from mlip_autopipec.training.linear import LinearACETrainer

    basis = BasisSettings(number_of_functions_per_element=15, cutoff=4.5)
    return LinearACETrainer(basis=basis, ridge=ridge).train(training_set()).potential


def check_gamma(potential: ACEPotential, engine: Engine) -> Result:
    """
    Run some MD steps and compare gamma of its last frame with pyace: positive, equal, and at most 1 where trained.

    Parameters
    ----------
    potential
        Of copper, with its active set.
    engine
        ``library`` or ``executable``.
    """
    from mlip_autopipec.lammps.exploration import run_exploration
    from mlip_autopipec.lammps.types import Condition, MDSettings

    name = f"gamma, {engine}"
    remedy = _REINSTALL
    if engine == "executable":
        remedy = "update ML-PACE of this LAMMPS (lammps-user-pace 2023.11.25 or newer), or use engine: library"
    known = _gamma(potential, training_set())
    if not 0.5 < known.max() <= LARGEST_KNOWN_GAMMA:
        told = f"gamma of the training set goes up to {known.max():g}; with its own active set it is 1"
        return red(name, told, remedy)
    settings = MDSettings(n_steps=10, gamma_every=5, gamma_lo=1e4, gamma_hi=1e5)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            result = run_exploration(
                copper(0.05, seed=11), potential, Condition(300.0), settings, seed=1, engine=engine, directory=folder
            )
        except MLIPError as error:
            return red(name, f"MD failed: {_short(error)}", remedy)
    theirs = np.asarray(result.final.arrays["gamma"])
    ours = _gamma(potential, [result.final])
    if not np.isfinite(theirs).all() or not (theirs > 0).all() or not (ours > 0).all():
        return red(name, f"gamma is {theirs.min():g} to {theirs.max():g} in LAMMPS, {ours.max():g} in pyace", remedy)
    deviation = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    if not deviation <= GAMMA_TOLERANCE:
        return red(name, f"LAMMPS and pyace differ by {deviation:.1e} of {ours.max():.4g}", remedy)
    return green(name, f"{theirs.max():.4f} in LAMMPS and pyace after {result.step} steps, equal to {deviation:.0e}")


def _gamma(potential: ACEPotential, frames: Sequence[Atoms]) -> NDArray[np.float64]:
    """Return gamma of all atoms by pyace's own calculator and neighbour list."""
    calculator, found = potential.calculator(), []
    for atoms in frames:
        calculator.calculate(atoms)
        found.append(np.array(calculator.results["gamma"]))
    return np.concatenate(found)


def check_neighbours(structures: Sequence[Atoms], cutoff_A: float, *, is_assumed: bool = False) -> Result:
    """
    Compare the neighbours of an atom with what ACE on a GPU can take.

    Parameters
    ----------
    structures
        Cells of MD.
    cutoff_A
        Of the potential, in Angstrom. LAMMPS' skin is added.
    is_assumed
        Whether it is the largest that the trainer may choose, as none is given.
    """
    reach = cutoff_A + SKIN_A["executable"]
    counts = [max(np.bincount(neighbours("ij", atoms, reach)[0], minlength=1)) for atoms in structures]
    worst = int(np.argmax(counts))
    found = (
        f"at most {counts[worst]} neighbours of an atom within {reach:g} A (cutoff"
        f"{', assumed: the largest that may be chosen,' if is_assumed else ''} and skin), in "
        f"{structures[worst].get_chemical_formula()}"
    )
    if counts[worst] <= MOST_NEIGHBOURS_GPU:
        return green("neighbours", found)
    return yellow(
        "neighbours",
        f"{found}; pace/kk and pace/extrapolation/kk of LAMMPS end above about {MOST_NEIGHBOURS_GPU} on CUDA",
        "for MD on a GPU give a smaller trainer.basis.cutoff; on CPUs there is no such limit",
    )


def check_forces(potential: ACEPotential) -> Result:
    """Compare the potential's forces with central differences of its energy."""
    calculator = potential.calculator()

    def energy_and_forces(atoms: Atoms) -> tuple[float, NDArray[np.float64]]:
        calculator.calculate(atoms)
        return float(calculator.results["energy"]), np.array(calculator.results["forces"])

    worst, largest = _worst_difference(energy_and_forces, copper(0.08, seed=5), 6)
    if not worst <= FORCE_TOLERANCE:
        return red("forces of the potential", f"off the derivative of the energy by {worst:.2g} eV/A", _REINSTALL)
    found = f"the derivative of the energy to {worst:.0e} eV/A (largest {largest:.2f})"
    return green("forces of the potential", found)


def check_fine_tune(potential: ACEPotential, trainer: ACETrainer, kind: str, remedy: str = "") -> Result:
    """
    Fine-tune on new labels: coefficients have to move, the error on the new labels to fall, the basis to stay.

    Parameters
    ----------
    potential
        To continue from: a rough one, of :func:`small_potential`.
    trainer
        Who fits.
    kind
        Its name in a run file.
    remedy
        What to do where it fails.
    """
    name = f"fine-tune, {kind}"
    remedy = remedy or TRAINERS[kind].remedy
    known = training_set()[:4]
    new = labelled([copper(0.06, seed=100 + k, stretch=1.08) for k in range(3)])
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = trainer.train(known, potential, fine_tune=True, new_labels=new, directory=folder, seed=1)
        except (TrainingError, MLIPError) as error:
            return red(name, _short(error), remedy)
    before, after, moved = result.new_before, result.new_after, result.coefficients_moved
    if before is None or after is None or moved is None or not moved > 0:
        return red(name, f"coefficients moved by {moved}", remedy)
    if result.potential.n_functions != potential.n_functions:
        return red(name, f"the basis changed from {potential.n_functions} to {result.potential.n_functions}", remedy)
    told = f"new labels {before.forces_rmse_meV_A:.0f} -> {after.forces_rmse_meV_A:.0f} meV/A"
    if not after.forces_rmse_meV_A < before.forces_rmse_meV_A:
        return red(name, f"{told}: the fine-tune did not lower the error", remedy)
    return green(name, f"{told}, coefficients moved by {100 * moved:.2g} %")


def check_oracle(oracle: OracleMaker, atoms: Atoms, kind: str) -> Result:
    """
    Compute a label by the real oracle; where that is quick, compare a force with a difference of energies.

    Parameters
    ----------
    oracle
        As in a campaign.
    atoms
        What to label.
    kind
        Its name in a run file.
    """
    name = f"oracle, {kind}"
    remedy = "see docs/oracles.md and docs/vasp.md: its program, files and settings have to be found on this machine"

    def energy_and_forces(structure: Atoms) -> tuple[float, NDArray[np.float64]]:
        label = oracle.compute(structure).atoms
        return float(label.get_potential_energy()), np.asarray(label.get_forces())

    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        started = time.perf_counter()
        try:
            energy, forces = energy_and_forces(atoms)
            seconds = time.perf_counter() - started
            largest = np.abs(forces).max()
            told = f"{energy:.3f} eV, forces up to {largest:.3f} eV/A of {len(atoms)} atoms in {seconds:.1f} s"
            if not np.isfinite(energy) or not np.isfinite(forces).all():
                return red(name, told, remedy)
            if seconds > _QUICK_S:
                return green(name, f"{told}; too slow to check its forces here")
            worst, _ = _worst_difference(energy_and_forces, atoms, 1)
        except Exception as error:
            return red(name, f"{type(error).__name__}: {_short(error)}", remedy)
    if worst > 10 * FORCE_TOLERANCE:
        return yellow(
            name,
            f"{told}; a force is off the derivative of the energy by {worst:.2g} eV/A",
            "tighten its convergence (SCF, k-points): inconsistent forces spoil the potential",
        )
    return green(name, f"{told}, the derivative of the energy to {worst:.0e} eV/A")


def _worst_difference(
    energy_and_forces: Callable[[Atoms], tuple[float, NDArray[np.float64]]], atoms: Atoms, n: int
) -> tuple[float, float]:
    """Return the largest deviation of ``n`` force components from central differences, and the largest force, eV/A."""
    _, forces = energy_and_forces(atoms)
    components = np.argsort(-np.abs(forces).ravel())[:: max(1, forces.size // (2 * n))][:n]
    worst = 0.0
    for component in components:
        i, axis = divmod(int(component), 3)
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, axis] += sign * STEP_A
            energies.append(energy_and_forces(moved)[0])
        difference = -(energies[0] - energies[1]) / (2 * STEP_A)
        worst = max(worst, abs(difference - forces[i, axis]))
    return (worst, float(np.abs(forces).max())) if np.isfinite(forces).all() else (np.inf, np.inf)


@contextmanager
def _inside(folder: str | Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _short(error: Any) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([lines[0][:250], lines[-1][:150]])) if lines else type(error).__name__
