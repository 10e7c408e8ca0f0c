"""A limit of the cost of MD holds for fits with a teacher, too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training import linear_fit, teacher
from mlip_autopipec.training.ladder import md_cost
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.teacher import refuse_beyond_limit

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.potentials.potential import ACEPotential

TRAINER = LinearACETrainer(basis=BasisSettings(cutoff=4.0, radial_basis="SBessel"))


def cells(n: int, first: int = 0) -> list[Atoms]:
    """Rattled copper of 8 atoms by EMT."""
    frames = []
    for seed in range(first, first + n):
        atoms = bulk("Cu", a=3.5 + 0.02 * (seed % 8), cubic=True) * (2, 1, 1)
        atoms.rattle(0.12, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    return frames


def size(potential: ACEPotential) -> int:
    return max(potential.n_functions.values())


def cost_of(potential: ACEPotential) -> float:
    """One us for each function: a stand-in for the measurement, which is another one each time."""
    return float(size(potential))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (linear_fit, teacher):
        monkeypatch.setattr(module, "md_cost", lambda potential, _: cost_of(potential))


@pytest.fixture(scope="module")
def small() -> ACEPotential:
    """A teacher of twenty functions."""
    return replace(TRAINER, max_functions_per_element=20).train(cells(12, 100)).potential


@pytest.mark.usefixtures("stand_in")
def test_bases_larger_than_that_of_the_teacher_are_taken_within_the_limit(small: ACEPotential) -> None:
    before = replace(TRAINER, max_us_per_atom_step=35.0).train(cells(4), teacher=small)
    assert before.linear.teacher_factor is not None
    given = {"fine_tune": True, "new_labels": cells(1, 50), "teacher": small}
    sizes = {}
    for limit in (None, 35.0, 20.0):
        found = replace(TRAINER, max_us_per_atom_step=limit).train(cells(13), before.potential, **given)
        assert found.linear.teacher_factor is not None
        sizes[limit] = size(found.potential)
    assert sizes == {None: 45, 35.0: 30, 20.0: 20}


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("functions", [None, 10])
def test_a_teacher_beyond_the_limit_is_in_no_fit(functions: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """As one that was learnt before the limit was lowered."""
    large, labels = replace(TRAINER, max_functions_per_element=45).train(cells(20, 100)).potential, cells(7)
    assert size(large) == 45
    before = TRAINER.train(labels, teacher=large)
    assert before.linear.teacher_factor is not None
    basis = replace(TRAINER.basis, number_of_functions_per_element=functions)
    low = replace(TRAINER, basis=basis, max_us_per_atom_step=20.0)
    first = low.train(labels, teacher=large)
    tuned = low.train(labels, before.potential, fine_tune=True, new_labels=cells(5, 50), teacher=large)
    for found in (first, tuned):
        assert found.linear.teacher_factor is None
        assert size(found.potential) <= 20
    assert "the teacher is in no fit: it costs 45 us per atom and step of MD" in caplog.text
    assert "max_us_per_atom_step is 20" in caplog.text


@pytest.mark.usefixtures("stand_in")
def test_a_busy_moment_does_not_drop_the_teacher(small: ACEPotential, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_fit, "md_cost", lambda potential, _: 1.9 * cost_of(potential))
    found = replace(TRAINER, max_us_per_atom_step=20.0).train(cells(4), teacher=small)
    assert found.linear.teacher_factor is not None
    assert size(found.potential) == 20


def test_a_given_potential_beyond_the_limit_is_refused_with_what_it_costs(small: ACEPotential) -> None:
    """With the real measurement."""
    frames = cells(2)
    cost = md_cost(small, frames)
    refuse_beyond_limit(replace(TRAINER, max_us_per_atom_step=100 * cost), small, frames)
    with pytest.raises(
        InvalidInputError, match=r"TeachMaker.potential costs .* \(20 functions .* max_us_per_atom_step is .*raise it"
    ):
        refuse_beyond_limit(replace(TRAINER, max_us_per_atom_step=0.1 * cost), small, frames)
