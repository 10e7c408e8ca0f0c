"""A limit of the cost of MD: of the bases within it the labels choose, cutoffs and radial functions among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training import cutoff, linear_fit
from mlip_autopipec.training.budget import Budget
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase import Atoms
    from pyace import BBasisConfiguration

    from mlip_autopipec.potentials.potential import ACEPotential


def cells(n: int, reach: float = 4.2) -> list[Atoms]:
    """Rattled and strained copper of 8 atoms, labelled with pair forces that end smoothly at a distance (A)."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(n):
        atoms = bulk("Cu", a=3.61, cubic=True) * (2, 1, 1)
        strain = rng.normal(0, 0.03, (3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        calculator = LennardJones(sigma=2.3, epsilon=0.4, rc=reach, ro=0.8 * reach, smooth=True)
        energy, forces = calculator.get_potential_energy(atoms), calculator.get_forces(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    return frames


def cost_of(potential: ACEPotential) -> float:
    """Return a cost that grows with neighbours and functions, as the measured one does."""
    return 1e-3 * potential.cutoff**3 * (10 + max(potential.n_functions.values()))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutoff, "CUTOFFS", (2.8, 3.4, 4.4, 5.2))
    monkeypatch.setattr(linear_fit, "md_cost", lambda potential, _: cost_of(potential))


def trained(labels: list[Atoms], limit: float | None, of: float | None = None) -> ACEPotential:
    return LinearACETrainer(max_us_per_atom_step=limit, basis=BasisSettings(cutoff=of)).train(labels).potential


def forces_meV_A(potential: ACEPotential, labels: list[Atoms]) -> float:
    errors = []
    for atoms in labels:
        copy = atoms.copy()
        copy.calc = potential.calculator()
        errors.append(copy.get_forces() - atoms.get_forces())
    return 1e3 * float(np.sqrt(np.mean(np.square(np.concatenate(errors)))))


@pytest.mark.usefixtures("stand_in")
def test_a_form_is_chosen_by_what_can_be_paid_of_it() -> None:
    """The labels prefer 4.4 A and longer; of the ten functions that can be paid there the forces are far worse."""
    labels = cells(22)
    free = trained(labels, None)
    assert free.cutoff >= 4.4
    limit = 1e-3 * free.cutoff**3 * 21  # ten functions of the cutoff that labels choose without a limit
    limited, few = trained(labels, limit), trained(labels, limit, free.cutoff)
    assert cost_of(limited) <= limit
    assert cost_of(few) <= limit
    assert limited.cutoff < free.cutoff
    assert max(limited.n_functions.values()) > max(few.n_functions.values())
    assert forces_meV_A(limited, labels) < forces_meV_A(few, labels)


@pytest.mark.usefixtures("stand_in")
def test_a_shorter_cutoff_is_taken_where_no_basis_of_the_longer_ones_is_within_the_limit() -> None:
    limit = 1e-3 * 3.4**3 * 21
    potential = trained(cells(16), limit)
    assert potential.cutoff <= 3.4
    assert cost_of(potential) <= limit


@pytest.mark.usefixtures("stand_in")
def test_only_where_no_basis_is_within_the_limit_it_is_refused_and_the_cheapest_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"cheapest basis \(10 functions of each element, cutoff 2\.8 A\)"):
        trained(cells(16), 1e-3 * 2.8**3 * 19)
    assert trained(cells(16), 1e-3 * 2.8**3 * 21).cutoff == 2.8


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("functions", [10, 30, 70])
def test_more_labels_neither_end_a_campaign_nor_make_its_basis_smaller_for_its_cost(functions: int) -> None:
    """The first labels are of forces that end at 3 A, further ones of forces that go farther."""
    limit = 1e-3 * 3.4**3 * (11 + functions)
    trainer = LinearACETrainer(max_us_per_atom_step=limit)
    first = trainer.train(cells(16, reach=3.0)).potential
    far = cells(22)
    assert trained(far, None).cutoff > first.cutoff
    more = trainer.train(far[:16], first, fine_tune=True, new_labels=far[16:]).potential
    assert max(more.n_functions.values()) >= max(first.n_functions.values())
    assert cost_of(more) <= limit
    same = trained(far, limit, first.cutoff)
    assert forces_meV_A(more, far) < 1.1 * forces_meV_A(same, far)


@pytest.mark.usefixtures("stand_in")
def test_a_potential_beyond_a_new_limit_is_not_continued() -> None:
    labels = cells(22)
    first = trained(labels[:16], None)
    trainer = LinearACETrainer(max_us_per_atom_step=0.3 * cost_of(first))
    for new in (1, 6):  # few labels are no reason to choose a cutoff again; the cost is
        more = trainer.train(labels[:16], first, fine_tune=True, new_labels=labels[16 : 16 + new]).potential
        assert cost_of(more) <= 0.3 * cost_of(first)


@pytest.mark.usefixtures("stand_in")
def test_a_busy_moment_does_not_change_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = cells(22)
    trainer = LinearACETrainer(max_us_per_atom_step=2.0)
    first = trainer.train(labels[:16]).potential
    monkeypatch.setattr(linear_fit, "md_cost", lambda potential, _: 1.9 * cost_of(potential))
    more = trainer.train(labels[:16], first, fine_tune=True, new_labels=labels[16:]).potential
    assert (more.cutoff, more.n_functions) == (first.cutoff, first.n_functions)


def test_a_limit_that_allows_everything_changes_nothing() -> None:
    """With the real measurement."""
    labels = cells(16)
    free, limited = trained(labels, None), trained(labels, 1e6)
    assert limited.yaml == free.yaml
    tuned = [
        LinearACETrainer(max_us_per_atom_step=limit).train(labels, free, fine_tune=True, new_labels=cells(22)[16:])
        for limit in (None, 1e6)
    ]
    assert tuned[0].potential.yaml == tuned[1].potential.yaml


def test_few_bases_of_a_ladder_are_measured_and_none_of_them_twice() -> None:
    measured: list[int] = []

    def make(form: float) -> Callable[[int], BBasisConfiguration]:
        return lambda n: BasisSettings(n, form).configuration(["Cu"])

    def cost(potential: ACEPotential) -> float:
        measured.append(max(potential.n_functions.values()))
        return cost_of(potential)

    sizes, budget = [10, 20, 30, 45, 70, 100, 150, 220], Budget(5.0, cost)
    assert budget.those_within(sizes, make(4.0), 4.0) == [10, 20, 30, 45]
    assert len(measured) <= 4
    assert budget.those_within(sizes, make(4.0), 4.0) == [10, 20, 30, 45]
    assert budget.those_within([*sizes, 320], make(4.0), 4.0) == [10, 20, 30, 45]
    assert len(measured) <= 4, "what is known is not measured again"
    tight = Budget(1.0, cost)
    assert [tight.those_within(sizes, make(form), form) for form in (9.0, 6.0)] == [[], []]
    assert "10 functions of each element, cutoff 6 A" in str(tight.refuse())
