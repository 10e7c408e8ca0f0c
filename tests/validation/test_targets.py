"""Errors of all three kinds are judged, against what is asked for or what the data vary by."""

from __future__ import annotations

import numpy as np
import pytest

from mlip_autopipec import AccuracyTargets
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.schemas.potential import Errors
from mlip_autopipec.validation.confidence import Bounds, bound_factor, frames_wanted
from mlip_autopipec.validation.targets import Limits

LARGE = {"energy_spread_meV_atom": 200.0, "forces_rms_meV_A": 1000.0, "stress_rms_GPa": 10.0}


def errors(energy: float, forces: float, stress: float | None) -> Errors:
    return Errors(
        n_structures=2,
        n_atoms=64,
        energy_rmse_meV_atom=energy,
        energy_max_meV_atom=energy,
        forces_rmse_meV_A=forces,
        forces_max_meV_A=forces,
        stress_rmse_GPa=stress,
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (errors(29, 140, 1.4), []),
        (errors(35, 140, 1.4), ["energy 35 meV/atom, limit 30"]),  # forces are good
        (errors(29, 140, 2.6), ["stress 2.6 GPa, limit 1.5"]),
        (
            errors(35, 160, 2.6),
            ["energy 35 meV/atom, limit 30", "forces 160 meV/A, limit 150", "stress 2.6 GPa, limit 1.5"],
        ),
        (errors(29, 140, None), []),
    ],
)
def test_without_targets_relative_to_the_data(found: Errors, said: list[str]):
    assert list(Limits.of(AccuracyTargets(), **LARGE).exceeded_by(found).values()) == said


def test_the_least_limits_of_data_that_hardly_vary():
    still = Limits.of(AccuracyTargets(), energy_spread_meV_atom=0.0, forces_rms_meV_A=1.0, stress_rms_GPa=0.0)
    assert still == Limits(5.0, 20.0, 0.5)


def test_where_the_training_set_is_fitted_better_more_is_asked_for():
    limits = Limits.of(AccuracyTargets(), **LARGE, training=errors(1.0, 30.0, 0.1))
    assert limits == Limits(10.0, 60.0, 0.5)  # a third of the share, twice the training error, the floor
    badly = Limits.of(AccuracyTargets(), **LARGE, training=errors(50.0, 90.0, None))
    assert badly == Limits(30.0, 150.0, 1.5), "never more than the share"
    asked = Limits.of(AccuracyTargets(forces_meV_A=200.0), **LARGE, training=errors(1.0, 30.0, 0.1))
    assert asked.forces_meV_A == 200.0


def test_targets_take_their_place():
    targets = AccuracyTargets(energy_meV_atom=2.0, stress_GPa=0.3)
    limits = Limits.of(targets, **LARGE)
    assert limits == Limits(2.0, 150.0, 0.3)
    assert limits.exceeded_by(errors(3, 100, 0.2)) == {"energy": "energy 3 meV/atom, limit 2"}
    assert Limits.of(targets, **{**LARGE, "stress_rms_GPa": None}).stress_GPa is None


def test_targets_are_positive():
    with pytest.raises(InvalidInputError, match=r"accuracy\.stress_GPa is 0\.0"):
        AccuracyTargets(stress_GPa=0.0).check()


@pytest.mark.parametrize("n", [1, 2, 4, 30])
@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_the_true_error_is_below_the_bound_as_often_as_is_said(n: int, confidence: float):
    measured = np.sqrt(np.mean(np.random.default_rng(n).normal(0, 1, (20_000, n)) ** 2, axis=1))
    assert np.mean(measured * bound_factor(n, confidence) >= 1.0) == pytest.approx(confidence, abs=0.01)


def test_more_frames_and_less_confidence_make_closer_bounds():
    assert bound_factor(2, 0.9) > bound_factor(4, 0.9) > bound_factor(4, 0.8) > bound_factor(100, 0.8) > 1
    assert frames_wanted(0.9) == 4
    assert frames_wanted(0.99) > frames_wanted(0.9) > frames_wanted(0.6)


def test_what_is_asked_for_is_compared_with_the_bound_and_the_rest_with_the_error():
    targets = AccuracyTargets(energy_meV_atom=2.0)
    bounds = targets.bounds(2, 64, 0.9)
    assert (bounds.forces, bounds.stress) == (1.0, 1.0)
    limits = Limits.of(targets, **LARGE)
    assert limits.exceeded_by(errors(1.5, 149, 1.4)) == {}
    (told,) = limits.exceeded_by(errors(1.5, 149, 1.4), bounds).values()
    assert told == "energy 1.5 meV/atom, limit 2 (at most 4.62 with 90% confidence)"
    assert limits.exceeded_by(errors(0.6, 149, 1.4), bounds) == {}


def test_errors_of_labels_left_out_have_bounds_too():
    targets = AccuracyTargets(energy_meV_atom=2.0, forces_meV_A=100.0)
    few, many = (targets.bounds(n, 32 * n, 0.9) for n in (6, 400))
    assert targets.exceeded_by_left_out(1.5, 90.0, 9.9, many) == []
    (told,) = targets.exceeded_by_left_out(1.5, 90.0, 9.9, few)
    assert told.startswith("energy of labels left out of the fit 1.5 meV/atom, asked for 2 (at most ")
    (forces,) = targets.exceeded_by_left_out(1.0, 101.0, None, many)
    assert forces.startswith("forces of labels left out")
    assert AccuracyTargets().exceeded_by_left_out(1e9, 1e9, 1e9, Bounds(0.9)) == []


def test_an_error_that_is_not_a_number_is_within_no_limit():
    nan = float("nan")
    assert list(Limits(1.0, 1.0, 1.0).exceeded_by(errors(nan, nan, nan))) == ["energy", "forces", "stress"]
    assert list(Limits(1.0, None, 1.0).exceeded_by(errors(nan, nan, None))) == ["energy"]
    assert len(AccuracyTargets(1.0, 1.0, 1.0).exceeded_by_left_out(nan, nan, nan, Bounds(0.9))) == 3
