"""Errors of all three kinds are judged, against what is asked for or what the data vary by."""

from __future__ import annotations

import pytest

from mlip_autopipec import AccuracyTargets
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.schemas.potential import Errors
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
    assert Limits.of(AccuracyTargets(), **LARGE).exceeded_by(found) == said


def test_the_least_limits_of_data_that_hardly_vary():
    still = Limits.of(AccuracyTargets(), energy_spread_meV_atom=0.0, forces_rms_meV_A=1.0, stress_rms_GPa=0.0)
    assert still == Limits(10.0, 20.0, 0.5)


def test_targets_take_their_place():
    targets = AccuracyTargets(energy_meV_atom=2.0, stress_GPa=0.3)
    limits = Limits.of(targets, **LARGE)
    assert limits == Limits(2.0, 150.0, 0.3)
    assert limits.exceeded_by(errors(3, 100, 0.2)) == ["energy 3 meV/atom, limit 2"]
    assert Limits.of(targets, **{**LARGE, "stress_rms_GPa": None}).stress_GPa is None


def test_targets_are_positive():
    with pytest.raises(InvalidInputError, match=r"accuracy\.stress_GPa is 0\.0"):
        AccuracyTargets(stress_GPa=0.0).check()
