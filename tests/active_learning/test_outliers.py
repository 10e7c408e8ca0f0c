"""Outliers are flagged, and correct labels are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from monty.json import MontyDecoder

from mlip_autopipec.active_learning.calibration import grade_errors
from mlip_autopipec.active_learning.outliers import OutlierRule, fitted_errors
from mlip_autopipec.active_learning.spread import FittedErrors, Spread
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.training.accuracy import evaluate
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.validation.oracle_md import ValidationSettings, oracle_md_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ase import Atoms
    from numpy.typing import NDArray


class Case(NamedTuple):
    potential: ACEPotential
    others: list[Atoms]
    new: list[Atoms]


@pytest.fixture(scope="module", params=[0, 1, 2])
def copper(request: pytest.FixtureRequest, emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]]) -> Case:
    """A potential, what it was trained on, and fresh labels: distortions, and EMT's own MD from cold to liquid."""
    generator = StructureGenerator(n_structures=12, n_test=0, max_atoms=32, min_width=7)
    cell = bulk("Cu", cubic=True)
    others = emt_labelled(generator.generate([cell], seed=request.param))
    new = emt_labelled(generator.generate([cell], seed=100 + request.param))
    for temperature in (300, 1000, 2000):
        settings = ValidationSettings(n_frames=3, interval_steps=40, timestep_fs=2.0)
        new += oracle_md_frames(cell * (2, 2, 2), EMT(), temperature, settings, request.param)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=20))
    return Case(trainer.train(others).potential, others, new)


def spoiled(label: Atoms, energy_eV_atom: float = 0.0, factor: float = 1.0, atom: int | None = None) -> Atoms:
    atoms, forces = label.copy(), label.get_forces().copy()
    forces[slice(None) if atom is None else atom] *= factor
    energy = label.get_potential_energy() + energy_eV_atom * len(label)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def test_healthy_labels_are_kept_and_planted_ones_set_aside(copper: Case) -> None:
    rule = OutlierRule()
    potential, others, new = copper
    assert rule.judge(potential, new, others) == []
    # errors that were honest already make it no stricter than it is
    assert rule.judge(potential, new, others, [grade_errors(potential, label) for label in new]) == []
    known = [k for k, label in enumerate(new) if grade_errors(potential, label).gamma.max() <= 1.5]
    assert len(known) > 8
    for change in (0.1, -0.1):
        batch = [spoiled(label, energy_eV_atom=change) if k == known[2] else label for k, label in enumerate(new)]
        (found,) = rule.judge(potential, batch, others)
        assert found.index == known[2]
        assert f"its energy is {'+' if change > 0 else '-'}0." in found.reasons[0]
        assert len(found.reasons) == 1
    hot = max(known, key=lambda k: np.abs(new[k].get_forces()).max())
    (found,) = rule.judge(potential, [spoiled(new[hot], factor=10)], others)
    assert "the forces on" in found.reasons[0]
    atom = int(np.argmax(np.linalg.norm(new[hot].get_forces(), axis=1)))
    (found,) = rule.judge(potential, [spoiled(new[hot], factor=10, atom=atom)], others)
    assert f"the forces on 1 of 32 atoms are off what the potential expects, on atom {atom} (Cu)" in found.reasons[0]
    assert found == rule.judge(potential, [spoiled(new[hot], factor=10, atom=atom)], others)[0]


@pytest.mark.parametrize("copper", [0], indirect=True)
def test_what_the_potential_does_not_know_is_not_judged(copper: Case) -> None:
    rule = OutlierRule()
    potential, others, _ = copper
    far = bulk("Cu", cubic=True, a=5.5) * (2, 2, 2)
    far.rattle(0.3, seed=1)
    far.calc = SinglePointCalculator(far, energy=-999.0, forces=np.full((32, 3), 9.0))
    graded = grade_errors(potential, far)
    assert graded.gamma.min() > rule.gamma_max
    assert not graded.in_core
    assert rule.judge(potential, [far], others) == []
    # nor is anything with few labels
    bad = spoiled(others[0], energy_eV_atom=5.0)
    assert rule.judge(potential, [bad], others[:9]) == []
    assert [s.index for s in rule.judge(potential, [bad], others)] == [0]


@pytest.mark.parametrize("copper", [0], indirect=True)
def test_errors_that_are_known_judge_as_those_that_are_computed(copper: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    potential, others, rule = copper.potential, copper.others, OutlierRule()
    known = fitted_errors(potential, others)
    predicted = [(one.energy, one.forces) for one in evaluate(potential, others)]
    for found, again in zip(known, fitted_errors(potential, others, predicted), strict=True):
        assert found == pytest.approx(again, rel=1e-9, abs=1e-12)
    graded = [grade_errors(potential, label) for label in others]
    assert known.energy.n == len(others)
    assert known.force.n == sum(map(len, others))
    assert known.energy.middle == pytest.approx(np.median([one.energy_error for one in graded]))
    assert known.force.largest + known.force.middle == pytest.approx(
        max(one.force_error.max() for one in graded), rel=1e-9
    )
    new = [*copper.new, spoiled(copper.new[0], energy_eV_atom=0.5)]
    of_new = [grade_errors(potential, label) for label in new]
    computed = rule.judge(potential, new, others, (), of_new)
    monkeypatch.setattr(ACEPotential, "calculator", lambda _: pytest.fail("labels that are known were evaluated"))
    assert rule.judge(potential, new, others, (), of_new, known) == computed
    assert [one.index for one in computed] == [len(copper.new)]


@pytest.mark.parametrize("copper", [0], indirect=True)
def test_a_label_is_no_worse_than_others_were_when_left_out_of_the_fit(copper: Case) -> None:
    """A fit to few labels is many times nearer to them than to one it has not seen."""
    rule, (potential, others, new) = OutlierRule(), copper
    label = next(one for one in new if grade_errors(potential, one).gamma.max() <= rule.gamma_max)
    wrong = spoiled(label, energy_eV_atom=0.1)
    found = rule.judge(potential, [wrong], others)
    assert len(found) == 1

    def left_out(energy: float, n: int = 12) -> FittedErrors:
        return FittedErrors(Spread.of([energy, *[0.0] * (n - 1)]), Spread.of([0.1] * n))

    assert rule.judge(potential, [wrong], others, left_out=left_out(0.06)) == []
    assert rule.judge(potential, [wrong], others, left_out=left_out(0.005)) == found
    assert rule.judge(potential, [wrong], others, left_out=left_out(0.06, n=9)) == found, "these are too few"


def with_moments(label: Atoms, moments: Sequence[float] | NDArray[np.float64]) -> Atoms:
    atoms = label.copy()
    atoms.calc = SinglePointCalculator(atoms, **{**label.calc.results, "magmoms": np.resize(moments, len(atoms))})
    return atoms


@pytest.mark.parametrize("copper", [0], indirect=True)
@pytest.mark.parametrize(
    ("usual", "new", "reason"),
    [
        ([2.2], [0.1], "the moments of Cu collapsed: 0.10 muB, in the other labels 2.2"),
        ([2.2], [2.2] * 31 + [-2.1], "1 of 32 moments of Cu changed sign"),
        ([2.2], [4.0], "the moments of Cu grew"),
        ([0.0], [1.1], "the moments of Cu grew"),
        ([2.2, -2.2], [2.2], "the moments of Cu are aligned"),
        ([2.2], [-2.3], None),
        ([2.2], [2.6, 1.8, 2.9, 1.3], None),
        ([2.2, -2.2], [-2.0, 2.4], None),
        ([0.0], [0.2, -0.2], None),
        ([2.2], None, None),
    ],
)
def test_moments_that_left_the_branch(
    copper: Case, usual: list[float], new: list[float] | None, reason: str | None
) -> None:
    rng = np.random.default_rng(1)
    others = [with_moments(a, np.resize(usual, 32) + 0.05 * rng.normal(size=32)) for a in copper.others]
    label = others[3] if new is None else with_moments(others[3], new)
    found = OutlierRule().judge(copper.potential, [others[2], label], others)
    if reason is None:
        assert found == []
    else:
        assert [s.index for s in found] == [1]
        assert reason in found[0].reasons[0]


def test_settings_are_checked_and_survive_json() -> None:
    rule = OutlierRule(n_sigma=8.0)
    assert MontyDecoder().decode(rule.to_json()) == rule
    with pytest.raises(InvalidInputError, match="n_sigma is 0"):
        OutlierRule(n_sigma=0)
    with pytest.raises(InvalidInputError, match=r"gamma_max 0\.5"):
        OutlierRule(gamma_max=0.5)
