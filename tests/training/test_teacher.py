"""A teacher: its potential is the prior mean of a fit, where the labels are for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.structures.dimers import is_dimer
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.design import basis_functions, build_design
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.linear_start import linear_start
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer
from mlip_autopipec.training.teacher import learn
from mlip_autopipec.training.training import FitTask

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from mlip_autopipec.potentials.potential import ACEPotential

#: Radial functions and cutoff are given, so that only the size of the basis is chosen.
TRAINER = LinearACETrainer(basis=BasisSettings(cutoff=4.5, radial_basis="SBessel"))


def alloy(seed: int, amplitude: float = 0.15) -> Atoms:
    atoms = bulk("Cu", a=3.87, cubic=True) * (2, 2, 1)
    rng = np.random.default_rng(seed)
    atoms.symbols = rng.permutation(["Cu", "Au"] * 8)
    atoms.set_cell(atoms.cell * rng.uniform(0.97, 1.04), scale_atoms=True)
    atoms.positions += rng.normal(scale=amplitude, size=atoms.positions.shape)
    return atoms


def labelled(atoms: Atoms, calculator: Calculator, factor: float = 1.0, per_atom: float = 0.0) -> Atoms:
    """Label; with a factor and an energy for each atom of gold it is another model."""
    atoms = atoms.copy()
    energy = factor * calculator.get_potential_energy(atoms) + per_atom * atoms.symbols.count("Au")
    results: dict[str, Any] = {"energy": energy, "forces": factor * calculator.get_forces(atoms)}
    results["stress"] = factor * calculator.get_stress(atoms)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def learn_factor(frames: list[Atoms], teacher: ACEPotential) -> float:
    """What :func:`learn` finds, whether or not the fit with it is kept."""
    weights = [TRAINER.dimer_weight if is_dimer(atoms) else 1.0 for atoms in frames]
    task = FitTask(frames, None, ["Au", "Cu"], {}, False, [False] * len(frames), weights, [], Path(), 0, teacher)
    design = build_design(teacher.own_basis(), frames, {}, 1)
    return learn(design, task, teacher).factor


@pytest.fixture(scope="module")
def soft_teacher():
    """What a model taught that is too soft, and whose energies have another zero."""
    return TRAINER.train([labelled(alloy(s), EMT(), 0.8, -2.0) for s in range(100, 130)]).potential


@pytest.fixture(scope="module")
def labels():
    return [labelled(alloy(seed), EMT()) for seed in range(4)]


@pytest.fixture(scope="module")
def test_set():
    return [labelled(alloy(seed), EMT()) for seed in range(50, 60)]


@pytest.fixture(scope="module")
def taught(labels, soft_teacher):
    return TRAINER.train(labels, teacher=soft_teacher)


def test_four_labels_with_a_teacher_are_worth_more_than_four(labels, test_set, taught):
    alone = TRAINER.train(labels)
    mine, other = compute_errors(taught.potential, test_set), compute_errors(alone.potential, test_set)
    assert mine.forces_rmse_meV_A < 0.5 * other.forces_rmse_meV_A
    assert mine.stress_rmse_GPa < 0.7 * other.stress_rmse_GPa
    assert mine.energy_rmse_meV_atom < other.energy_rmse_meV_atom


def test_factor_and_zero_of_the_teacher_are_found(taught):
    assert taught.linear.teacher_factor == pytest.approx(1 / 0.8, rel=0.02)
    assert "what the teacher says, times 1.2" in taught.log


def test_dimers_and_a_torn_structure_do_not_change_the_factor(labels, soft_teacher):
    dimers = [Atoms("CuAu", [(0, 0, 0), (d, 0, 0)], cell=[14, 14, 14], pbc=True) for d in np.arange(2.2, 3.4, 0.2)]
    torn = alloy(30)
    torn.positions[0] += (torn.positions[1] - torn.positions[0]) / 3
    odd = [*(labelled(one, EMT(), 3.0) for one in dimers), labelled(torn, EMT(), 0.3)]
    found = TRAINER.train([*labels, *odd], teacher=soft_teacher)
    assert found.linear.teacher_factor in (None, pytest.approx(1 / 0.8, rel=0.05))
    assert learn_factor([*labels, *odd], soft_teacher) == pytest.approx(1 / 0.8, rel=0.05)


def test_it_is_one_potential_in_the_basis_of_the_teacher(taught, soft_teacher):
    mine, theirs = taught.potential, soft_teacher
    assert set(basis_functions(theirs.basis)) <= set(basis_functions(mine.basis))
    assert mine.posterior.mean == pytest.approx(np.array(mine.basis.basis_coeffs))
    # error bars are of what the labels determine
    atoms = alloy(77)
    found = mine.error_bars.of(atoms)
    assert np.isfinite(found.forces).all()
    assert found.forces.max() > 0


def test_forces_are_the_derivative_of_the_energy(taught):
    atoms = alloy(78)
    atoms.calc = taught.potential.calculator()
    force, step = atoms.get_forces()[3, 1], 1e-4
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions[3, 1] += sign * step
        energies.append(moved.get_potential_energy())
    assert force == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-5)


def test_gamma_is_that_of_the_labels_alone(labels, taught):
    alone = TRAINER.train(labels)
    for element in ("Au", "Cu"):
        graded = [
            np.asarray(p.active_set_inverse[element]).any(axis=1).sum() for p in (taught.potential, alone.potential)
        ]
        assert graded[0] == graded[1]


@pytest.mark.parametrize("wrong", ["another material", "against it"])
def test_a_wrong_teacher_costs_nothing(labels, wrong):
    calculator = LennardJones(sigma=2.9, epsilon=0.1, rc=6.0, smooth=True) if wrong == "another material" else EMT()
    factor = 1.0 if wrong == "another material" else -1.0
    teacher = TRAINER.train([labelled(alloy(s), calculator, factor) for s in range(100, 112)]).potential
    alone, found = TRAINER.train(labels), TRAINER.train(labels, teacher=teacher)
    assert found.linear.teacher_factor is None
    assert found.potential.yaml == alone.potential.yaml


def test_a_fit_that_goes_on_keeps_the_basis_and_enlarges_the_active_set(labels, taught, soft_teacher):
    new = [labelled(alloy(20, amplitude=0.25), EMT())]
    found = TRAINER.train(labels, taught.potential, fine_tune=True, new_labels=new, teacher=soft_teacher)
    assert found.potential.n_functions == taught.potential.n_functions
    assert found.new_after.forces_rmse_meV_A < found.new_before.forces_rmse_meV_A
    assert found.linear.teacher_factor == pytest.approx(1 / 0.8, rel=0.02)


@pytest.mark.long
def test_many_labels_outgrow_a_small_teacher(test_set):
    small = replace(TRAINER, max_functions_per_element=20)
    teacher = small.train([labelled(alloy(s), EMT(), 0.8) for s in range(100, 110)]).potential
    many = [labelled(alloy(seed), EMT()) for seed in range(24)]
    found, alone = TRAINER.train(many, teacher=teacher), TRAINER.train(many)
    assert max(found.potential.n_functions.values()) > 20
    mine, other = compute_errors(found.potential, test_set), compute_errors(alone.potential, test_set)
    assert mine.forces_rmse_meV_A < 1.1 * other.forces_rmse_meV_A


def test_who_takes_no_teacher_says_so(labels, soft_teacher):
    with pytest.raises(InvalidInputError, match="takes no teacher"):
        PacemakerTrainer(linear_start=False).train(labels, teacher=soft_teacher)
    with pytest.raises(InvalidInputError, match="takes no teacher"):
        LinearACETrainer(ridge=1e-6).train(labels, teacher=soft_teacher)
    copper = [labelled(bulk("Cu", cubic=True) * 2, EMT())]
    with pytest.raises(InvalidInputError, match="the teacher knows"):
        TRAINER.train(copper, teacher=soft_teacher)


#: Few functions and iterations: TensorFlow takes most of the time.
GRADIENT = PacemakerTrainer(
    basis=BasisSettings(cutoff=4.0, radial_basis="SBessel", number_of_functions_per_element=150, ndensity=2),
    maxiter=3,
    fine_tune_maxiter=3,
    refit_every=None,
)


@pytest.fixture(scope="module")
def close_teacher():
    """What a model taught that is too soft, with labels of shorter distances, as a gradient fit may take it."""
    close = [alloy(s) for s in range(100, 115)]
    close[0].set_cell(close[0].cell * 0.93, scale_atoms=True)
    learner = GRADIENT.learner_of_teacher(["Au", "Cu"])
    return learner.train([labelled(atoms, EMT(), 0.8, -2.0) for atoms in close]).potential


def begin(labels, teacher):
    references = dict.fromkeys(["Au", "Cu"], float(np.mean([a.get_potential_energy() / len(a) for a in labels])))
    given = ([False] * len(labels), [1.0] * len(labels), [], Path(), 0, teacher)
    return linear_start(GRADIENT.basis, FitTask(labels, None, ["Au", "Cu"], references, False, *given), {})


def test_a_gradient_fit_begins_at_what_a_teacher_taught(labels, test_set, close_teacher):
    found, alone = begin(labels, close_teacher), begin(labels, None)
    assert found.linear.teacher_factor == pytest.approx(1 / 0.8, rel=0.05)
    assert "what the teacher says, times 1.2" in found.log
    mine, other = (compute_errors(fit.potential, test_set) for fit in (found, alone))
    assert mine.forces_rmse_meV_A < 0.7 * other.forces_rmse_meV_A
    assert all(block.ndensityi == 2 for block in found.potential.configuration().funcspecs_blocks)


def test_a_gradient_fit_begins_without_a_wrong_teacher(labels):
    learner = GRADIENT.learner_of_teacher(["Au", "Cu"])
    wrong = learner.train([labelled(alloy(s), EMT(), -1.0) for s in range(100, 112)]).potential
    alone, found = begin(labels, None), begin(labels, wrong)
    assert found.linear.teacher_factor is None
    assert found.potential.yaml == alone.potential.yaml


@pytest.mark.long
def test_pacemaker_keeps_what_a_teacher_taught(labels, test_set, close_teacher, tmp_path):
    pytest.importorskip("tensorpotential", reason="pacemaker is not installed (extra 'ace')")
    found = GRADIENT.train(labels, teacher=close_teacher, directory=tmp_path)
    assert found.progress.teacher_factor == pytest.approx(1 / 0.8, rel=0.05)
    mine, begun = (compute_errors(p, test_set) for p in (found.potential, begin(labels, close_teacher).potential))
    assert mine.forces_rmse_meV_A < 1.2 * begun.forces_rmse_meV_A
    # gold came nearer in the labels of the teacher
    nearest = close_teacher.core_radii["Au", "Au"]
    assert found.potential.core_radii["Au", "Au"] == pytest.approx(nearest)
    new = [labelled(alloy(20, amplitude=0.25), EMT())]
    given = {"fine_tune": True, "new_labels": new, "directory": tmp_path, "teacher": close_teacher}
    tuned = GRADIENT.train(labels, found.potential, **given)
    assert tuned.new_after.forces_rmse_meV_A < tuned.new_before.forces_rmse_meV_A
    assert tuned.potential.core_radii["Au", "Au"] <= nearest + 1e-6
