"""What a stop rule refuses, and how it words the end of a loop."""

from __future__ import annotations

import pytest

from mlip_autopipec import AccuracyTargets
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.schemas.loop import LoopState, LoopStatus, WalkerState


def completed(**update) -> LoopState:
    """One walker that did all its steps with the present potential."""
    done = WalkerState(
        index=0, formula="Cu4", condition=Condition(300), seed=1, status="CONVERGED", step=100, only_potential_id="p"
    )
    return LoopState(campaign_id="c", seed=0, elements=["Cu"], potential_id="p", walkers=[done], **update)


def test_what_is_asked_for_needs_labels_of_a_check():
    asked = AccuracyTargets(energy_meV_atom=5.0)
    with pytest.raises(InvalidInputError, match=r"n_check_labels is 0, and accuracy asks .* \(at least 4 are taken\)"):
        StopRule(accuracy=asked, n_check_labels=0).check()
    StopRule(accuracy=AccuracyTargets(), n_check_labels=0).check()
    StopRule(accuracy=asked, n_check_labels=1).check()


def test_a_stored_rule_that_is_refused_today_can_still_be_read_and_says_what_it_did_not_look_at():
    stored = StopRule(accuracy=AccuracyTargets(energy_meV_atom=5.0), n_check_labels=0).as_dict()
    rule = StopRule.from_dict(stored)
    status, why = rule.judge(completed())
    assert status is LoopStatus.CONVERGED
    assert "what accuracy asks for was not looked at" in why
    assert "accuracy" not in StopRule(n_check_labels=0).judge(completed())[1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"accuracy": {"energy_meV_atom": "5"}}, r"accuracy\.energy_meV_atom is '5'"),
        ({"accuracy": {"forces_meV_A": float("inf")}}, r"accuracy\.forces_meV_A is inf"),
        ({"accuracy": {"stress_GPa": float("nan")}}, r"accuracy\.stress_GPa is nan"),
        ({"accuracy": {"stress_GPa": True}}, r"accuracy\.stress_GPa is True"),
        ({"accuracy": 5.0}, r"StopRule\.accuracy is 5\.0"),
        ({"confidence": "0.9"}, r"StopRule\.confidence is '0\.9'"),
        ({"max_hours": "2 h"}, r"StopRule\.max_hours is '2 h'"),
        ({"max_labels": "many"}, r"StopRule\.max_labels is 'many'"),
        ({"n_check_labels": None}, r"StopRule\.n_check_labels is None"),
        ({"max_cycles": True}, r"StopRule\.max_cycles is True"),
    ],
)
def test_what_is_no_number_is_named_with_its_value(settings, told):
    with pytest.raises(InvalidInputError, match=told):
        StopRule(**settings).check()


def test_targets_are_taken_as_plain_data():
    rule = StopRule(accuracy={"energy_meV_atom": 5})
    rule.check()
    assert rule.accuracy == AccuracyTargets(energy_meV_atom=5)
    assert StopRule.from_dict(rule.as_dict()) == rule
