"""Gamma against the true error: synthetic laws, and copper by EMT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk
from monty.json import MontyDecoder

from mlip_autopipec.active_learning.calibration import (
    Calibration,
    GradedErrors,
    ThresholdAdapter,
    calibrate,
    grade_errors,
)
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

Pairs = list[tuple["NDArray[np.float64]", "NDArray[np.float64]"]]


def law(n_labels: int, prefactor: float = 0.05, noise: float = 0.3, seed: int = 0) -> Pairs:
    """Errors of ``prefactor`` times gamma, with a scatter."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n_labels):
        gamma = np.exp(rng.uniform(-1.5, rng.uniform(0, 3.5), size=30))
        pairs.append((gamma, prefactor * gamma * np.exp(noise * rng.normal(size=30))))
    return pairs


def test_the_threshold_of_a_known_law_is_found() -> None:
    found = calibrate(law(30), wished_error=0.2)
    # nine of ten errors are below 0.05 gamma exp(1.2816 * 0.3)
    expected = 0.2 / 0.05 / np.exp(1.2816 * 0.3)
    assert found.threshold == pytest.approx(expected, rel=0.1)
    assert found.threshold_low is not None
    assert found.threshold_high is not None
    assert found.threshold_low < expected < found.threshold_high
    assert found.spearman is not None
    assert found.spearman > 0.9
    assert found.log_pearson is not None
    assert found.log_pearson > 0.9
    assert (found.n_labels, found.n_atoms) == (30, 900)
    assert found == calibrate(law(30), wished_error=0.2)
    assert MontyDecoder().decode(found.to_json()) == found


def test_what_cannot_be_told_is_not_told() -> None:
    few = calibrate(law(4), wished_error=0.2)
    assert (few.threshold, few.spearman, few.why) == (None, None, "4 labels, at least 5 are needed")
    hopeless = calibrate(law(10, prefactor=100.0), wished_error=0.01)
    assert hopeless.threshold is None
    assert hopeless.why == "errors exceed 0.01 eV/A at every gamma of the labels"
    fine = calibrate(law(10, prefactor=1e-3), wished_error=5.0)
    assert fine.beyond
    assert fine.threshold == pytest.approx(max(g.max() for g, _ in law(10)))
    rng = np.random.default_rng(1)
    unrelated = calibrate([(np.exp(rng.normal(size=30)), np.exp(rng.normal(size=30))) for _ in range(30)], 1.0)
    assert unrelated.spearman is not None
    assert abs(unrelated.spearman) < 0.15
    same = calibrate([(np.ones(3), np.ones(3))] * 6, 0.1)
    assert same.spearman is None
    with pytest.raises(InvalidInputError, match="not finite pairs"):
        calibrate([(np.array([1.0, np.nan]), np.ones(2))] * 6, 0.1)
    with pytest.raises(InvalidInputError, match=r"wished_error is 0 eV/A"):
        calibrate(law(6), 0)


def rattled(amplitude: float, volume: float, seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.set_cell(atoms.cell * volume ** (1 / 3), scale_atoms=True)
    atoms.rattle(amplitude, seed=seed)
    return atoms


def test_copper_the_threshold_holds_for_labels_that_were_not_used(
    emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]],
) -> None:
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=20))
    potential = trainer.train(emt_labelled([rattled(0.05 + 0.02 * (k % 4), 1.0, k) for k in range(12)])).potential
    rng = np.random.default_rng(1)
    frames = [rattled(rng.uniform(0.05, 0.25), rng.uniform(0.98, 1.12), 100 + k) for k in range(60)]
    graded = [grade_errors(potential, label) for label in emt_labelled(frames)]
    outside = [g for g in graded if not g.in_core]
    assert 10 < len(outside) < 60
    used, others = graded[::2], graded[1::2]
    found = calibrate(used, wished_error=0.05)
    assert found.n_labels == sum(not g.in_core for g in used)
    assert found.spearman is not None
    assert found.spearman > 0.3
    assert found.threshold is not None
    assert not found.beyond
    gamma, error = (np.concatenate([getattr(g, x) for g in others if not g.in_core]) for x in ("gamma", "force_error"))
    assert np.mean(error[gamma <= found.threshold] < 0.05) > 0.85
    assert np.mean(error[gamma > found.threshold] < 0.05) < np.mean(error[gamma <= found.threshold] < 0.05)
    # a pair inside the core has huge errors at any gamma
    assert max(g.worst[1] for g in graded if g.in_core) > 10 * max(g.worst[1] for g in outside)


def test_grades_and_errors_are_those_of_the_calculator(
    copper_potential: ACEPotential, emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]]
) -> None:
    (label,) = emt_labelled([rattled(0.2, 1.0, 1)])
    graded = grade_errors(copper_potential, label)
    atoms = label.copy()
    atoms.calc = copper_potential.calculator()
    assert graded.energy_error == pytest.approx((atoms.get_potential_energy() - label.get_potential_energy()) / 32)
    difference = atoms.get_forces() - label.get_forces()
    assert graded.force_error[7] == pytest.approx(np.sqrt((difference[7] ** 2).sum()))
    assert graded.worst == (atoms.calc.results["gamma"].max(), graded.force_error.max())
    with pytest.raises(InvalidInputError, match="no active set"):
        grade_errors(ACEPotential(copper_potential.yaml), label)


def test_thresholds_follow_within_bounds_and_not_at_once() -> None:
    adapter = ThresholdAdapter(wished_error=0.2, bounds=(3.0, 20.0), max_change=1.5)

    def known(**fields: object) -> Calibration:
        return Calibration(**{"n_labels": 20, "n_atoms": 600, "wished_error": 0.2, **fields})  # type: ignore[arg-type]

    assert adapter.adapt(2, 10, known(n_labels=3, why="3 labels")) == (2, 10)
    low = known(threshold=5.0, threshold_low=4.0, threshold_high=6.0)
    assert adapter.adapt(2, 10, low) == pytest.approx((2 / 1.5, 10 / 1.5))
    assert adapter.adapt(2, 5, low)[1] == pytest.approx(4.0)
    assert adapter.adapt(2, 3.5, known(why="errors exceed"))[1] == 3.0
    assert adapter.adapt(2, 18, known(threshold=90.0, threshold_low=80.0, threshold_high=99.0))[1] == 20.0
    assert adapter.adapt(2, 10, known(threshold=8.0, threshold_low=7.0, threshold_high=8.0, beyond=True))[1] == 10
    assert adapter.adapt(1.1, 3.3, low)[0] > 1
    assert MontyDecoder().decode(adapter.to_json()) == adapter
    with pytest.raises(InvalidInputError, match="bounds"):
        ThresholdAdapter(bounds=(5.0, 2.0))
    with pytest.raises(InvalidInputError, match="max_change 1"):
        ThresholdAdapter(max_change=1)


def test_one_pair_per_label_is_enough() -> None:
    worst = [GradedErrors(g, e, 0.0).worst for g, e in law(40)]
    found = calibrate([(np.array(g), np.array(e)) for g, e in worst], 0.5)
    assert found.n_atoms == 40
    assert found.threshold is not None
