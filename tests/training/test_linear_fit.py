"""The linear fit: stress rows, leaving out, choice of the basis, error bars, stresses in another convention."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from pyace import ACEBBasisSet, create_multispecies_basis_config
from teacher import labelled_by

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.active_learning.outliers import fitted_errors
from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.derivatives import Derivatives
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.training import linear_fit
from mlip_autopipec.training.accuracy import compute_errors, evaluate
from mlip_autopipec.training.design import basis_functions, build_design
from mlip_autopipec.training.ladder import FUNCTIONS_PER_ATOM, fit_rung
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.regression import Factorisation
from mlip_autopipec.training.weights import FitWeights, Kind, errors_by_kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mlip_autopipec.training.design import Design

SMALL = BasisSettings(number_of_functions_per_element=15, cutoff=4.5)


def labelled(atoms: Atoms, stress: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None) -> Atoms:
    """Label with EMT; ``stress`` turns its stress into another convention."""
    calculator = EMT()
    results = {
        "energy": calculator.get_potential_energy(atoms),
        "forces": calculator.get_forces(atoms),
        "stress": calculator.get_stress(atoms),
    }
    if stress is not None:
        results["stress"] = stress(results["stress"])
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def lennard_jones(atoms: Atoms, reach: float = 4.2) -> Atoms:
    """Label with pair forces that end smoothly at a distance (A)."""
    atoms = atoms.copy()
    calculator = LennardJones(sigma=2.3, epsilon=0.4, rc=reach, ro=0.8 * reach, smooth=True)
    energy, forces = calculator.get_potential_energy(atoms), calculator.get_forces(atoms)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def cells(n: int, seed: int = 0, formula: str = "Cu") -> list[Atoms]:
    """Rattled, sheared and strained cells, 8 atoms each."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk(
            formula, "rocksalt" if len(formula) > 2 else "fcc", a=5.1 if len(formula) > 2 else 3.61, cubic=True
        )
        atoms *= (1, 1, 1) if len(formula) > 2 else (2, 1, 1)
        strain = rng.normal(0, 0.03, (3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        frames.append(atoms)
    return frames


def basis_of(elements: list[str], n: int = 15, cutoff: float = 4.5) -> ACEBBasisSet:
    settings = BasisSettings(number_of_functions_per_element=n, cutoff=cutoff)
    return ACEBBasisSet(create_multispecies_basis_config(settings.section(elements)))


def design_of(frames: list[Atoms], n: int = 15) -> Design:
    elements = sorted({s for a in frames for s in a.get_chemical_symbols()})
    return build_design(basis_of(elements, n), frames, dict.fromkeys(elements, 3.0), processes=1)


TRICLINIC = Atoms(
    "Cu3",
    [[0, 0, 0], [1.5, 1.6, 0.4], [2.2, 0.2, 2.0]],
    cell=[[3.1, 0.2, -0.3], [0.9, 3.4, 0.1], [-0.5, 0.7, 3.8]],
    pbc=True,
)


@pytest.mark.parametrize(
    "atoms",
    [bulk("Cu", cubic=True), TRICLINIC, cells(1, formula="CuAu")[0]],
    ids=["cubic", "triclinic", "two elements"],
)
def test_stress_rows_are_the_strain_derivatives_of_the_energy(atoms: Atoms) -> None:
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=1)
    basis = basis_of(sorted(set(atoms.get_chemical_symbols())))
    coefficients = np.random.default_rng(0).normal(size=len(basis.basis_coeffs))
    rows = Derivatives(basis).of(atoms)
    basis.basis_coeffs = coefficients
    calculator = ACEPotential.from_basis(basis).calculator()

    def energy(strain: NDArray[np.float64]) -> float:
        strained = atoms.copy()
        strained.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        calculator.calculate(strained)
        return float(calculator.results["energy"])

    h = 1e-4
    expected = []
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[i, j] += 0.5
        strain[j, i] += 0.5
        # fourth order, so that the difference is no limit
        near, far = (energy(x * strain) - energy(-x * strain) for x in (h, 2 * h))
        expected.append((8 * near - far) / (12 * h))
    scale = np.abs(expected).max()
    assert np.abs(rows.virial @ coefficients - expected).max() < 1e-6 * scale
    calculator.calculate(atoms)
    assert np.allclose(rows.forces @ coefficients, calculator.results["forces"], atol=1e-9 * scale)
    assert rows.energy @ coefficients == pytest.approx(calculator.results["energy"])
    assert np.allclose(rows.virial @ coefficients / atoms.get_volume(), calculator.results["stress"], atol=1e-9 * scale)


def test_the_core_is_taken_from_the_labels() -> None:
    from mlip_autopipec.potentials.core import set_core

    frames = [labelled(a) for a in cells(3)]
    configuration = create_multispecies_basis_config(SMALL.section(["Cu"]))
    set_core(configuration, frames, ["Cu"], -0.2)  # begins above the shortest distance
    rows = Derivatives(ACEBBasisSet(configuration)).of(frames[0])
    assert rows.core_energy > 0.01
    assert np.abs(rows.core_forces).max() > 0.01
    volume, pressure = frames[0].get_volume(), -rows.core_virial[:3].mean()
    assert pressure / volume > 1e-4


def test_two_processes_build_the_same_matrix() -> None:
    frames = [labelled(a) for a in cells(5)]
    one, two = (build_design(basis_of(["Cu"]), frames, {"Cu": 3.0}, processes=n) for n in (1, 2))
    assert np.array_equal(one.matrix, two.matrix)
    assert np.array_equal(one.target, two.target)


@pytest.mark.parametrize("elements", [["Cu"], ["Au", "Cu"]])
def test_smaller_bases_are_columns_of_larger_ones(elements: list[str]) -> None:
    frames = [labelled(a) for a in cells(2, formula="CuAu" if len(elements) == 2 else "Cu")]
    small, large = (build_design(basis_of(elements, n), frames, dict.fromkeys(elements, 0.0), 1) for n in (12, 40))
    assert len(small.functions) < len(large.functions)
    assert np.allclose(small.matrix, large.matrix[:, large.columns(small.functions)], rtol=1e-9, atol=1e-12)


def test_errors_of_structures_left_out_are_those_of_refits() -> None:
    design, weights = design_of([labelled(a) for a in cells(9)]), FitWeights()
    unit = weights.unit(design.kind)
    matrix, target = design.matrix / unit[:, None], design.target / unit
    scale = np.linspace(1, 3, matrix.shape[1])
    factorisation = Factorisation.of(matrix, target, design.blocks, scale)
    strength = 1e-6 * factorisation.singular[0] ** 2
    found = factorisation.leave_out(strength).residuals
    for rows in design.blocks:
        keep = np.ones(len(target), dtype=bool)
        keep[rows] = False
        penalty = np.sqrt(strength) * np.diag(scale)
        refit = np.linalg.lstsq(
            np.vstack([matrix[keep], penalty]), np.concatenate([target[keep], np.zeros(len(scale))]), rcond=None
        )[0]
        expected = target[rows] - matrix[rows] @ refit
        assert np.abs(found[rows] - expected).max() < 1e-8 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("n_functions", [8, 40])
def test_structures_left_out_with_related_ones_are_judged_by_refits_without_these(n_functions: int) -> None:
    frames = [labelled(a) for a in cells(9)]
    design = build_design(basis_of(["Cu"], n_functions), frames, {"Cu": 3.0}, 1)
    unit = FitWeights().unit(design.kind)
    matrix, target = design.matrix / unit[:, None], design.target / unit
    factorisation = Factorisation.of(matrix, target, design.blocks, np.linspace(1, 3, matrix.shape[1]))
    strength = 1e-6 * factorisation.singular[0] ** 2
    related = [np.array(others) for others in ([0, 1, 2], [0, 1], [2, 0, 5], [3], [4], [2, 5], [6, 7], [7, 6, 8], [8])]
    found = factorisation.leave_out(strength, related)
    for i, others in enumerate(related):
        keep = np.ones(len(target), dtype=bool)
        for j in others:
            keep[design.blocks[j]] = False
        normal = matrix[keep].T @ matrix[keep] + strength * np.diag(np.linspace(1, 3, matrix.shape[1]) ** 2)
        own = matrix[design.blocks[i]]
        expected = target[design.blocks[i]] - own @ np.linalg.solve(normal, matrix[keep].T @ target[keep])
        assert np.abs(found.residuals[design.blocks[i]] - expected).max() < 1e-6 * max(1.0, np.abs(expected).max())
        variance = np.einsum("ij,ji->i", own, np.linalg.solve(normal, own.T))
        assert np.allclose(found.variance[design.blocks[i]], variance, rtol=1e-5, atol=1e-8)


def test_labels_without_stress_give_no_rows_and_all_rows_have_their_units() -> None:
    frames = [labelled(a) for a in cells(3)]
    frames[1].calc = SinglePointCalculator(
        frames[1], energy=frames[1].get_potential_energy(), forces=frames[1].get_forces()
    )
    design = design_of(frames)
    assert [int((design.kind[rows] == Kind.STRESS).sum()) for rows in design.blocks] == [6, 0, 6]
    assert np.allclose(design.target[design.blocks[2]][-6:], frames[2].get_stress())
    assert np.allclose(design.target[design.blocks[2]][1:25], frames[2].get_forces().ravel())


def test_stress_rows_lower_the_error_of_the_stress() -> None:
    train, test = [labelled(a) for a in cells(12)], [labelled(a) for a in cells(10, seed=5)]
    trainer = LinearACETrainer(basis=replace(SMALL, number_of_functions_per_element=30))
    with_stress = trainer.train(train, test_labels=test).test
    for atoms in train:
        atoms.calc.results.pop("stress")
    result = trainer.train(train, test_labels=test)
    assert with_stress is not None
    assert result.test is not None
    assert result.train.stress_rmse_GPa is None
    assert with_stress.stress_rmse_GPa is not None
    assert result.test.stress_rmse_GPa is not None
    assert with_stress.stress_rmse_GPa < 0.85 * result.test.stress_rmse_GPa


@pytest.mark.parametrize(
    ("turned", "said"),
    [(lambda s: -s, "opposite sign"), (lambda s: 1602.1766 * s, "kB"), (lambda s: -160.21766 * s, "GPa and the opp")],
)
def test_stresses_of_another_sign_or_unit_are_refused(
    turned: Callable[[NDArray[np.float64]], NDArray[np.float64]], said: str
) -> None:
    frames = [labelled(a, turned) for a in cells(12)]
    with pytest.raises(InvalidInputError, match=said):
        LinearACETrainer(basis=SMALL).train(frames)


@pytest.mark.parametrize(
    ("sign", "said"), [(1.0, "volume of the cell: that"), (-1.0, "volume of the cell and the opp")]
)
def test_virials_under_the_name_of_stresses_are_refused_in_cells_of_two_sizes(sign: float, said: str) -> None:
    sizes = [a if i % 2 else a * (2, 1, 1) for i, a in enumerate(cells(12))]
    frames = [labelled(a, lambda s, a=a: sign * a.get_volume() * s) for a in sizes]
    with pytest.raises(InvalidInputError, match=said):
        LinearACETrainer(basis=SMALL).train(frames)


def test_shear_stresses_in_another_order_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    frames = cells(30)
    labels = [labelled(a, (lambda s: s[[0, 1, 2, 5, 3, 4]]) if i % 3 == 0 else None) for i, a in enumerate(frames)]
    with caplog.at_level(logging.WARNING):
        result = LinearACETrainer(basis=replace(SMALL, number_of_functions_per_element=30)).train(labels)
    assert result.linear is not None
    doubtful = set(result.linear.doubtful_stresses)
    assert doubtful <= set(range(0, 30, 3))
    assert len(doubtful) >= 7
    assert "in the order" in caplog.text
    # the normal components say the same in both orders: they are fitted
    assert result.linear.labels[min(doubtful)].stress_rmse_GPa is not None
    assert result.linear.labels[min(doubtful)].stress_rmse_GPa < 0.3


def test_normal_stresses_are_learnt_from_labels_whose_shear_components_are_in_another_order() -> None:
    basis = replace(SMALL, number_of_functions_per_element=30)
    test = [labelled(a) for a in cells(10, seed=7)]
    permuted = [labelled(a, (lambda s: s[[0, 1, 2, 5, 3, 4]]) if i % 5 else None) for i, a in enumerate(cells(30))]
    without = [labelled(a) for a in cells(30)]
    for atoms in without:
        del atoms.calc.results["stress"]
    found, least = (LinearACETrainer(basis=basis).train(x, test_labels=test) for x in (permuted, without))
    assert found.linear is not None
    assert len(found.linear.doubtful_stresses) >= 18
    assert found.test is not None
    assert least.test is not None
    assert found.test.stress_rmse_GPa is not None
    assert least.test.stress_rmse_GPa is not None
    assert found.test.stress_rmse_GPa < 0.8 * least.test.stress_rmse_GPa


def test_the_cutoff_is_chosen_by_the_labels_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlip_autopipec.training import cutoff

    monkeypatch.setattr(cutoff, "CUTOFFS", (2.8, 3.4, 4.4, 5.2))
    labels = [lennard_jones(a) for a in cells(16)]
    chosen = {}
    for reach in (3.0, 4.2):  # of the forces that are learnt
        trained = LinearACETrainer().train([lennard_jones(a, reach) for a in cells(16)])
        chosen[reach] = trained.potential.cutoff
    assert chosen[3.0] < chosen[4.2]
    new = [lennard_jones(cells(17)[-1])]
    more = LinearACETrainer().train(labels, trained.potential, fine_tune=True, new_labels=new)
    assert more.potential.cutoff == trained.potential.cutoff
    given = LinearACETrainer(basis=BasisSettings(cutoff=3.9)).train(labels)
    assert given.potential.cutoff == pytest.approx(3.9)


def test_the_cutoff_is_chosen_again_when_the_labels_have_become_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlip_autopipec.training import cutoff

    monkeypatch.setattr(cutoff, "CUTOFFS", (2.8, 3.4, 4.4, 5.2))
    short = LinearACETrainer().train([lennard_jones(a, 3.0) for a in cells(16)]).potential
    far = [lennard_jones(a) for a in cells(22)]
    best = LinearACETrainer().train(far).potential.cutoff
    assert short.cutoff < best
    tuned = {n: LinearACETrainer().train(far[:16], short, fine_tune=True, new_labels=far[16 : 16 + n]) for n in (1, 6)}
    assert tuned[1].potential.cutoff == short.cutoff, "one label more is no reason"
    assert tuned[6].potential.cutoff == best
    assert tuned[6].coefficients_moved is None, "the functions are others"
    assert tuned[6].train.forces_rmse_meV_A < tuned[1].train.forces_rmse_meV_A
    assert max(compute_gamma(tuned[6].potential, far[-1])) <= 1 + 1e-6, "the active set is built anew"
    own = BasisSettings(cutoff=short.cutoff, radial_basis="ChebPow", radial_parameters=[2.0])
    given = LinearACETrainer(basis=own).train(far[:16]).potential
    kept = LinearACETrainer().train(far[:16], given, fine_tune=True, new_labels=far[16:])
    assert kept.potential.cutoff == short.cutoff, "a basis of the user's own stays"


def taught_by(radial_basis: str, cutoff: float, frames: list[Atoms]) -> list[Atoms]:
    """Label with an ACE potential of the given radial functions."""
    settings = BasisSettings(40, cutoff, radial_basis=radial_basis)
    return labelled_by(ACEBBasisSet(create_multispecies_basis_config(settings.section(["Cu"]))), frames)


def radial_functions(potential: ACEPotential) -> tuple[str, float]:
    return potential.configuration().funcspecs_blocks[0].radbase, potential.cutoff


def test_the_radial_functions_are_chosen_by_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlip_autopipec.training import cutoff

    monkeypatch.setattr(cutoff, "CUTOFFS", (2.8, 3.4, 4.4, 5.2))
    frames = cells(16, seed=3)
    fine, even = (taught_by(kind, 4.4, frames) for kind in ("ChebExpCos", "SBessel"))
    chosen = LinearACETrainer().train(fine).potential
    assert radial_functions(chosen) == ("ChebExpCos", pytest.approx(4.4))
    assert radial_functions(LinearACETrainer().train(even).potential) == ("SBessel", pytest.approx(4.4))
    given = LinearACETrainer(basis=BasisSettings(radial_basis="SBessel")).train(fine).potential
    assert radial_functions(given)[0] == "SBessel"
    at = LinearACETrainer(basis=BasisSettings(cutoff=4.4)).train(fine).potential
    assert radial_functions(at) == ("ChebExpCos", pytest.approx(4.4))


def test_radial_functions_are_chosen_again_when_the_labels_have_become_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlip_autopipec.training import cutoff

    monkeypatch.setattr(cutoff, "CUTOFFS", (3.4, 4.4))
    frames = cells(22, seed=3)
    fine = taught_by("ChebExpCos", 4.4, frames)
    first = LinearACETrainer(basis=BasisSettings(radial_basis="SBessel", cutoff=4.4)).train(fine[:8]).potential
    tuned = LinearACETrainer().train(fine[:16], first, fine_tune=True, new_labels=fine[16:])
    assert radial_functions(tuned.potential) == ("ChebExpCos", pytest.approx(4.4))
    assert max(compute_gamma(tuned.potential, fine[-1])) <= 1 + 1e-6, "the active set is built anew"
    one = LinearACETrainer().train(fine[:16], first, fine_tune=True, new_labels=fine[16:17])
    assert radial_functions(one.potential) == ("SBessel", pytest.approx(4.4)), "one label more is no reason"
    named = LinearACETrainer(basis=BasisSettings(radial_basis="SBessel"))
    kept = named.train(fine[:16], first, fine_tune=True, new_labels=fine[16:])
    assert radial_functions(kept.potential)[0] == "SBessel"


def test_the_cutoff_of_many_elements_is_chosen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlip_autopipec.training import cutoff

    monkeypatch.setattr(cutoff, "CUTOFFS", (3.4, 6.0))
    monkeypatch.setattr(cutoff, "RADIAL_BASES", ("SBessel",))
    labels = []
    for i, atoms in enumerate(cells(16)):
        atoms.symbols = np.roll(["Cu", "Ag", "Au", "Ni", "Cu", "Ag", "Au", "Ni"], i)
        labels.append(lennard_jones(atoms, 3.2))
    assert LinearACETrainer().train(labels).potential.cutoff == pytest.approx(3.4)


def test_cutoffs_follow_the_distance_to_the_nearest_neighbour() -> None:
    from mlip_autopipec.training.cutoff import CUTOFFS, cutoffs_for

    assert cutoffs_for([bulk("Cu")]) == list(CUTOFFS)
    caesium = bulk("Cs", "bcc", a=6.05, cubic=True)  # 5.24 A apart
    assert cutoffs_for([caesium]) == [round(c * 5.239 / 3.0, 1) for c in CUTOFFS]


def test_a_basis_of_larger_evidence_is_taken_and_a_larger_one_of_the_same_is_not() -> None:
    from mlip_autopipec.training.ladder import climb

    frames = [labelled(a) for a in cells(12)]
    design = design_of(frames, 40)
    functions = sorted(design.functions, key=lambda f: f.degree)
    bases = {n: functions[:n] for n in (5, 15, 25)}
    # targets that the first 15 functions give exactly, and noise
    rng = np.random.default_rng(3)
    coefficients = rng.normal(size=15)
    unit = FitWeights().unit(design.kind)
    target = design.matrix[:, design.columns(bases[15])] @ coefficients + 0.1 * unit * rng.normal(size=len(unit))
    fitted, rungs = climb(replace(design, target=target), bases, unit)
    assert fitted.rung.n_functions == 15
    assert [rung.n_functions for rung in rungs] == [5, 15, 25]
    assert rungs[1].log_evidence > rungs[0].log_evidence + 5


def test_slabs_and_labels_of_little_shear_do_not_bring_back_what_was_left_out() -> None:
    """Every label in another order, slabs with three components of the stress among them, many with little shear."""
    basis = replace(SMALL, number_of_functions_per_element=30)
    slabs = [fcc111("Cu", (2, 2, 3), vacuum=8.0, periodic=True) for _ in range(3)]
    rng = np.random.default_rng(1)
    for slab in slabs:
        slab.positions += rng.normal(0, 0.05, slab.positions.shape)
    frames = [*slabs, *cells(24)]
    for atoms in frames[8:]:
        atoms.set_cell(np.diag(np.linalg.norm(atoms.cell, axis=1)), scale_atoms=True)
    test = [labelled(a) for a in cells(10, seed=7)]
    permuted = [labelled(a.copy(), lambda s: s[[0, 1, 2, 5, 3, 4]]) for a in frames]
    right = [labelled(a.copy()) for a in frames]
    found, best = (LinearACETrainer(basis=basis).train(x, test_labels=test) for x in (permuted, right))
    assert found.linear is not None
    assert len(found.linear.doubtful_stresses) >= 3
    assert found.test is not None
    assert best.test is not None
    assert found.test.energy_rmse_meV_atom < 1.2 * best.test.energy_rmse_meV_atom


def test_a_label_or_two_in_another_order_by_chance_are_fitted() -> None:
    labels = [labelled(a, (lambda s: s[[0, 1, 2, 5, 3, 4]]) if i in {3, 9} else None) for i, a in enumerate(cells(24))]
    result = LinearACETrainer(basis=replace(SMALL, number_of_functions_per_element=30)).train(labels)
    assert result.linear is not None
    assert result.linear.doubtful_stresses == ()


def test_the_basis_grows_with_the_data_and_a_fixed_one_stays() -> None:
    labels = [labelled(a) for a in cells(24)]
    growing = LinearACETrainer(basis=BasisSettings(cutoff=4.0))
    few = growing.train(labels[:8])
    assert few.linear is not None
    many = growing.train(labels[:8], few.potential, fine_tune=True, new_labels=labels[8:])
    assert many.linear is not None
    assert few.potential.n_functions["Cu"] <= FUNCTIONS_PER_ATOM * sum(map(len, labels[:8]))
    assert many.potential.n_functions["Cu"] > few.potential.n_functions["Cu"]
    small, large = (set(basis_functions(p.basis)) for p in (few.potential, many.potential))
    assert small < large
    assert many.coefficients_moved is None
    assert many.new_before is not None
    assert many.new_after is not None
    assert many.new_after.forces_rmse_meV_A < many.new_before.forces_rmse_meV_A
    assert many.potential.active_set_inverse["Cu"].shape == (many.potential.n_functions["Cu"],) * 2
    fixed = LinearACETrainer(basis=SMALL).train(labels[:12])
    again = LinearACETrainer(basis=SMALL).train(labels[:12], fixed.potential, fine_tune=True, new_labels=labels[12:])
    assert again.potential.n_functions == fixed.potential.n_functions == {"Cu": 15}


def test_a_limit_on_the_cost_of_md_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [labelled(a) for a in cells(15)]
    basis = BasisSettings(cutoff=4.0)
    free = LinearACETrainer(basis=basis).train(labels).linear
    assert free is not None
    assert free.us_per_atom_step > 0  # measured; on a busy machine two measurements of one basis may differ by half
    costs = 2.0 + 0.1 * free.n_functions["Cu"]
    monkeypatch.setattr(linear_fit, "md_cost", lambda potential, _: 2.0 + 0.1 * sum(potential.n_functions.values()))
    capped = LinearACETrainer(basis=basis, max_us_per_atom_step=0.6 * costs).train(labels).linear
    assert capped is not None
    assert capped.n_functions["Cu"] < free.n_functions["Cu"]
    assert capped.us_per_atom_step <= 0.6 * costs
    monkeypatch.undo()
    with pytest.raises(InvalidInputError, match=r"max_us_per_atom_step is 0\.001"):
        LinearACETrainer(basis=basis, max_us_per_atom_step=1e-3).train(labels)


def test_a_busy_moment_neither_ends_a_campaign_nor_makes_its_basis_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [labelled(a) for a in cells(15)]
    busy = [1.0]
    monkeypatch.setattr(linear_fit, "md_cost", lambda potential, _: busy[0] * sum(potential.n_functions.values()))
    capped = LinearACETrainer(basis=BasisSettings(cutoff=4.0), max_us_per_atom_step=50.0)
    first = capped.train(labels[:12])
    busy[0] = 1.9
    again = capped.train(labels[:12], first.potential, fine_tune=True, new_labels=labels[12:])
    assert again.potential.n_functions == first.potential.n_functions
    busy[0] = 19.0
    with pytest.raises(InvalidInputError, match="max_us_per_atom_step"):
        capped.train(labels[:12], first.potential, fine_tune=True, new_labels=labels[12:])


def test_the_number_of_functions_to_choose_from_is_bounded() -> None:
    labels = [labelled(a) for a in cells(15)]
    basis = BasisSettings(cutoff=4.0)
    free, few = (
        LinearACETrainer(basis=basis, max_functions_per_element=most).train(labels).potential for most in (None, 30)
    )
    assert free.n_functions["Cu"] > 30 >= few.n_functions["Cu"]


def test_error_bars_agree_with_an_ensemble_of_bootstrap_fits() -> None:
    labels, fresh = [labelled(a) for a in cells(40)], cells(12, seed=7)
    record = LinearACETrainer(basis=SMALL).train(labels).linear
    assert record is not None
    design, weights = design_of(labels), FitWeights()
    rng = np.random.default_rng(3)
    fits = []
    for _ in range(60):
        blocks = [design.blocks[i] for i in rng.integers(len(labels), size=len(labels))]
        rows = np.concatenate([np.arange(b.start, b.stop) for b in blocks])
        unit = weights.unit(design.kind[rows])
        factorisation = Factorisation.of(
            design.matrix[rows] / unit[:, None], design.target[rows] / unit, [slice(0, len(rows))], np.ones(15)
        )
        fits.append(factorisation.coefficients(record.strength))
    derivatives = Derivatives(basis_of(["Cu"]))
    expected = np.array([record.posterior.of(derivatives, a).forces for a in fresh])
    spread = np.array([np.std([derivatives.of(a).forces @ c for c in fits], axis=0) for a in fresh])
    # the same atoms are uncertain
    assert np.corrcoef(expected.ravel(), spread.ravel())[0, 1] > 0.5
    # and the size of the error is right on structures that were never seen
    truth = np.array([labelled(a).get_forces() for a in fresh])
    error = np.array([derivatives.of(a).forces @ record.posterior.mean for a in fresh]) - truth
    assert 0.5 < np.sqrt(np.mean(error**2) / np.mean(expected**2)) < 2.0
    draws = record.posterior.committee(400, seed=1)
    drawn = np.std([derivatives.of(fresh[0]).forces @ c for c in draws], axis=0)
    assert np.allclose(drawn, expected[0], rtol=0.25)


def test_weights_are_what_an_error_is_worth() -> None:
    design = design_of([labelled(a) for a in cells(15)])
    errors = []
    for weights in (FitWeights(stress_GPa=10), FitWeights(energy_meV_atom=0.01), FitWeights(stress_GPa=0.01)):
        unit = weights.unit(design.kind)
        fitted = fit_rung(design, design.functions, 15, unit)
        residuals = design.target - design.matrix @ fitted.coefficients
        errors.append(errors_by_kind(residuals, design.kind))
    assert errors[1].energy_meV_atom < 0.5 * errors[0].energy_meV_atom
    assert errors[0].stress_GPa is not None
    assert errors[2].stress_GPa is not None
    assert errors[2].stress_GPa < 0.5 * errors[0].stress_GPa
    with pytest.raises(InvalidInputError, match="forces_meV_A is 0"):
        FitWeights(forces_meV_A=0)


def test_settings_stored_by_version_0_1_give_the_same_fit() -> None:
    stored = {
        "@module": "mlip_autopipec.training.linear",
        "@class": "LinearACETrainer",
        "basis": BasisSettings(cutoff=4.0).as_dict(),
        "reference_energies": None,
        "dimer_weight": 0.001,
        "energy_weight": 100.0,
        "force_weight": 1.0,
        "ridge": 1e-6,
        "core_repulsion": True,
        "core_margin": 0.3,
        "processes": 1,
    }
    trainer = LinearACETrainer.from_dict(stored)
    assert trainer.is_plain
    labels = [labelled(a) for a in cells(12)]
    result = trainer.train(labels)
    assert result.potential.n_functions == {"Cu": 30}
    assert "ridge 1e-06" in result.log
    assert result.linear is None
    # the normal equations that version 0.1 solved
    design = design_of_plain(trainer, labels)
    assert np.allclose(result.potential.basis.basis_coeffs, design, rtol=1e-4, atol=1e-7)
    assert LinearACETrainer.from_dict(LinearACETrainer().as_dict()) == LinearACETrainer()
    assert not LinearACETrainer().is_plain
    assert asdict(LinearACETrainer())["ridge"] is None


def design_of_plain(trainer: LinearACETrainer, labels: list[Atoms]) -> NDArray[np.float64]:
    from mlip_autopipec.potentials.core import set_core
    from mlip_autopipec.training.references import fit_reference_energies

    configuration = create_multispecies_basis_config(
        replace(trainer.basis, number_of_functions_per_element=30).section(["Cu"])
    )
    set_core(configuration, labels, ["Cu"], 0.3)
    design = build_design(ACEBBasisSet(configuration), labels, fit_reference_energies(labels), 1)
    design = design.rows(design.kind != Kind.STRESS)
    weight = np.where(design.kind == Kind.ENERGY, 100.0, 1.0)[:, None] * design.matrix
    return np.linalg.solve(design.matrix.T @ weight + 1e-6 * np.eye(30), weight.T @ design.target)


def test_errors_of_the_stress_stand_beside_the_others() -> None:
    labels = [labelled(a) for a in cells(12)]
    result = LinearACETrainer(basis=SMALL).train(labels)
    found = compute_errors(result.potential, labels)
    assert found is not None
    assert found.stress_rmse_GPa is not None
    assert found.stress_mae_GPa is not None
    assert found.energy_mae_meV_atom is not None
    assert 0 < found.stress_mae_GPa <= found.stress_rmse_GPa < 5
    assert found.energy_mae_meV_atom <= found.energy_rmse_meV_atom


def test_stresses_across_vacuum_are_not_fitted() -> None:
    slabs = []
    for seed in range(4):
        slab = fcc111("Cu", (2, 2, 3), vacuum=8)
        slab.pbc = True
        slab.rattle(0.08, seed=seed)
        slabs.append(labelled(slab))
    design = design_of(slabs)
    assert (design.kind == Kind.STRESS).sum() == 3 * len(slabs)
    spoilt = [atoms.copy() for atoms in slabs]
    for one, atoms in zip(spoilt, slabs, strict=True):
        results = {**atoms.calc.results, "stress": atoms.calc.results["stress"] + [0, 0, 0.3, 0.2, 0.1, 0]}
        one.calc = SinglePointCalculator(one, **results)
    assert (design_of(spoilt).target == design.target).all()
    trainer = LinearACETrainer(SMALL)
    one, other = trainer.train(spoilt), trainer.train(slabs)
    assert one.train == other.train
    assert one.linear is not None
    assert other.linear is not None
    assert one.linear.labels == other.linear.labels
    # the components in the plane count
    for one in spoilt:
        one.calc.results["stress"] = one.calc.results["stress"] + [0.3, 0, 0, 0, 0, 0]
    assert not np.allclose(design_of(spoilt).target, design.target)


def test_what_the_potential_says_of_its_labels_is_what_pyace_says(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [labelled(atoms) for atoms in cells(12)]
    evaluated: list[int] = []

    def noting(potential, some):
        evaluated.append(len(some))
        return evaluate(potential, some)

    monkeypatch.setattr("mlip_autopipec.training.training.evaluate", noting)
    result = LinearACETrainer().train(labels[:-2], new_labels=labels[-2:])
    assert not evaluated  # rows times coefficients
    assert result.train.as_dict() == pytest.approx(compute_errors(result.potential, labels).as_dict(), rel=1e-6)
    for found, expected in zip(result.fitted, fitted_errors(result.potential, labels), strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_potential_that_is_evaluated_otherwise_than_it_was_fitted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(potential, some):
        return [one._replace(forces=one.forces + 1e-3) for one in evaluate(potential, some)]

    monkeypatch.setattr("mlip_autopipec.training.linear_fit.evaluate", other)
    with pytest.raises(TrainingError, match=r"gives other forces than its fit for .*python-ace"):
        LinearACETrainer().train([labelled(atoms) for atoms in cells(12)])


@pytest.mark.parametrize("every", [2, 5])
@pytest.mark.parametrize(("factor", "said"), [(-1.0, "opposite sign"), (160.21766, "GPa"), (-1602.1766, "kB and the")])
def test_stresses_of_another_sign_or_unit_in_some_labels_are_refused_by_number(
    every: int, factor: float, said: str
) -> None:
    """A set put together of two conversions: no convention fits all, and the fit would be a mean of both."""
    frames = [labelled(a, (lambda s: factor * s) if i % every == 1 else None) for i, a in enumerate(cells(30))]
    with pytest.raises(InvalidInputError, match=rf"stresses of \d+ of 30 labels \(\d+, .*{said}") as refused:
        LinearACETrainer(basis=replace(SMALL, number_of_functions_per_element=30)).train(frames)
    named = re.search(r"labels \(([\d, ]+)", str(refused.value))
    assert named is not None
    assert {int(word) % every for word in named[1].split(",")} == {1}
