"""Labels far above the most stable ones: how far, and what that makes of the fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from pyace import ACEBBasisSet

from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.structures.provenance import Origin, mark
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.design import STRESS_SHARE, Design, basis_functions, build_design, units_of
from mlip_autopipec.training.excitation import energies_above_hull, softened
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.linear_fit import _likelier
from mlip_autopipec.training.training import FitTask
from mlip_autopipec.training.weights import FitWeights, Kind

BASIS = BasisSettings(number_of_functions_per_element=45, cutoff=4.5)


def with_energy(symbols: str, energy: float) -> Atoms:
    """Return atoms with nothing but an energy (eV)."""
    atoms = Atoms(symbols)
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def copper(n: int, seed: int, scale: tuple[float, float] = (0.97, 1.03), rattle: float = 0.1) -> list[Atoms]:
    """Return EMT labels of rattled copper, the lattice constant scaled within limits."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.set_cell(atoms.cell * rng.uniform(*scale), scale_atoms=True)
        atoms.positions += rng.normal(0, rattle, atoms.positions.shape)
        calc = EMT()
        results = {name: calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def test_energy_above_the_lowest_of_the_same_composition() -> None:
    above = energies_above_hull([with_energy("Cu2", -7.0), with_energy("Cu4", -12.0), with_energy("Cu", -3.5)])
    assert above == pytest.approx([0.0, 0.5, 0.0])


def test_energy_above_mixtures_of_other_compositions() -> None:
    """InP is 1 eV/atom more stable than its elements: In3P lies above the line from InP to In."""
    labels = [with_energy("In2", 0.0), with_energy("P4", 0.0), with_energy("InP", -2.0), with_energy("In3P", -0.8)]
    assert energies_above_hull(labels) == pytest.approx([0.0, 0.0, 0.0, 0.3])


def test_an_error_is_worth_twice_as_much_at_the_scale() -> None:
    assert softened(np.array([0.0, 2.0, 6.0]), 2.0) == pytest.approx([1.0, 1 / 4, 1 / 16])


def test_crushed_labels_do_not_spoil_the_solid() -> None:
    """Six cells at 20 to 40 % of the volume, up to 23 eV/atom above the others, as equations of state have them."""
    labels = [*copper(16, 0), *copper(6, 1, (0.6, 0.75))]
    test = copper(12, 2)
    hard, soft = (
        compute_errors(LinearACETrainer(basis=BASIS, soft_energy_eV_atom=scale).train(labels).potential, test)
        for scale in (None, 2.0)
    )
    assert hard is not None
    assert soft is not None
    assert soft.forces_rmse_meV_A < 0.7 * hard.forces_rmse_meV_A
    assert soft.energy_rmse_meV_atom < 0.7 * hard.energy_rmse_meV_atom


def test_crushed_labels_are_not_counted_among_those_left_out() -> None:
    """One cell at a fifth of its volume is wrong by electronvolts when it is left out, and asked accuracy never met."""
    stable = copper(24, 0)
    crushed = copper(1, 1, (0.6, 0.6))
    alone, both = (LinearACETrainer(basis=BASIS).train(labels).linear for labels in (stable, [*stable, *crushed]))
    assert alone is not None
    assert both is not None
    assert both.labels[-1].forces_rmse_meV_A > 50 * both.left_out.forces_meV_A
    assert both.left_out.forces_meV_A < 4 * alone.left_out.forces_meV_A
    assert both.left_out.energy_meV_atom < 5 * alone.left_out.energy_meV_atom


def fit_of(labels: list[Atoms]) -> tuple[Design, FitTask]:
    """Return the design of labels and the task of their fit."""
    basis = ACEBBasisSet(BASIS.configuration(["Cu"]))
    task = FitTask(labels, None, ["Cu"], {"Cu": 0.0}, False, [False] * len(labels), [1.0] * len(labels), [], Path(), 0)
    return build_design(basis, labels, task.reference_energies), task


@pytest.mark.parametrize("noisy_above", [True, False])
def test_the_labels_say_whether_errors_grow_with_the_energy(noisy_above: bool) -> None:
    labels = copper(20, 3, (0.80, 1.03))
    design, hard = fit_of(labels)
    soft = replace(hard, weights=list(softened(energies_above_hull(labels), 0.5)))
    assert min(soft.weights) < 0.5
    rng = np.random.default_rng(0)
    functions = basis_functions(ACEBBasisSet(BASIS.configuration(["Cu"])))
    weights = FitWeights()
    noise = units_of(design, weights, soft.weights if noisy_above else hard.weights) * rng.normal(size=len(design.kind))
    exact = design.matrix[:, design.columns(functions)] @ rng.normal(size=len(functions))
    chosen = _likelier(replace(design, target=exact + noise), {1: functions}, weights, [hard, soft])
    assert (chosen is soft) == noisy_above


def test_an_error_of_the_stress_is_worth_more_under_pressure() -> None:
    labels = copper(2, 4, (0.85, 0.85))
    design, _ = fit_of(labels)
    unit = units_of(design, FitWeights(), [1.0, 1.0])
    stress = design.kind == Kind.STRESS
    largest = max(np.abs(labels[0].get_stress()))
    assert unit[stress][:6] == pytest.approx(FitWeights().unit(design.kind)[stress][:6] + STRESS_SHARE * largest)
    assert unit[~stress] == pytest.approx(FitWeights().unit(design.kind)[~stress])


def trimers(symbols: str, n: int, seed: int, rattle: float, closer_A: float = 0.0) -> list[Atoms]:
    """Return EMT labels of rattled molecules of three atoms in a box, the third atom nearer to the second."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = Atoms(symbols, [(0, 0, 0), (2.3, 0, 0), (1.15, 2.0 - closer_A, 0)], cell=[15, 15, 15], pbc=True)
        atoms.positions += 6.0 + rng.normal(0, rattle, (3, 3))
        calc = EMT()
        results = {name: calc.get_property(name, atoms) for name in ("energy", "forces")}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def test_a_molecule_unlike_all_others_is_not_counted_among_those_left_out() -> None:
    """A fit without it says nothing of it, and says that: no error of MD, which halts there."""
    near, far = trimers("AuCu2", 40, 0, 0.03), trimers("AuCu2", 1, 1, 0.03, closer_A=1.0)
    trainer = LinearACETrainer(basis=BasisSettings(cutoff=4.5, number_of_functions_per_element=30))
    alone, both = (trainer.train(labels).linear for labels in (near, [*near, *far]))
    assert alone is not None
    assert both is not None
    assert both.labels[-1].forces_rmse_meV_A > 100 * both.left_out.forces_meV_A
    assert both.left_out.forces_meV_A < 4 * alone.left_out.forces_meV_A
    assert both.posterior.scale.forces < 4 * alone.posterior.scale.forces


def test_molecules_made_for_a_pair_of_elements_are_not_counted_among_those_left_out() -> None:
    """Au2Cu holds the pair Au-Au for the fit, and is no molecule of the user's."""
    own, foreign = trimers("AuCu2", 40, 0, 0.06), trimers("Au2Cu", 6, 1, 0.2)
    trainer = LinearACETrainer(basis=BasisSettings(cutoff=4.5, number_of_functions_per_element=12))
    counted = trainer.train([*own, *foreign]).linear
    for atoms in foreign:
        mark(atoms, origin=Origin.SEED_PAIR)
    left_alone = trainer.train([*own, *foreign]).linear
    assert counted is not None
    assert left_alone is not None
    own_errors = [error.forces_rmse_meV_A for error in left_alone.labels[:40]]
    assert left_alone.left_out.forces_meV_A == pytest.approx(np.sqrt(np.mean(np.square(own_errors))), rel=1e-6)
    assert left_alone.left_out.forces_meV_A < 0.8 * counted.left_out.forces_meV_A
