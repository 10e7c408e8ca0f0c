"""What a stop rule refuses, and how it words the end of a loop."""

from __future__ import annotations

import pytest

from mlip_autopipec import AccuracyTargets
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.loop.next_cycle import next_cycle
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.schemas.check import CheckResult
from mlip_autopipec.schemas.loop import LoopState, LoopStatus, WalkerState
from mlip_autopipec.schemas.potential import Errors


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


def failed_check(**update) -> CheckResult:
    """Forces are 40 meV/A, and 20 are allowed."""
    errors = Errors(
        n_structures=4,
        n_atoms=128,
        energy_rmse_meV_atom=1.0,
        energy_max_meV_atom=1.0,
        forces_rmse_meV_A=40.0,
        forces_max_meV_A=90.0,
    )
    found = {"potential_id": "p", "batch_id": "b", "errors": errors, "limit_meV_A": 20.0, "passed": False}
    return CheckResult(**(found | update))


def test_the_end_after_a_failed_check_tells_of_the_check():
    state = completed(check=failed_check(), untrained_batch_id="b", cycle=3, n_labels=9)
    told = "all 1 walkers completed without a halt, and the last check failed: forces 40 meV/A, limit 20"
    assert StopRule(max_cycles=3).judge(state) == (LoopStatus.MAX_ITER_REACHED, f"3 cycles done, {told}")
    assert StopRule(max_labels=9).judge(state) == (LoopStatus.BUDGET_SPENT, f"9 labels computed, {told}")
    assert StopRule().judge(state)[0] is LoopStatus.LEARNING
    still = completed(check=failed_check(is_still=True), untrained_batch_id="b")
    assert StopRule().judge(still)[0] is LoopStatus.LEARNING, "the labels of the others are learnt first"


def test_walkers_begin_anew_in_the_cycle_after_a_failed_check_and_once_only():
    state = completed(check=failed_check(), untrained_batch_id="b")
    after = next_cycle(StopRule(), state)
    assert [(w.status, w.replica, w.step) for w in after.walkers] == [("PENDING", 1, 0)]
    # as earlier versions stored them after the check
    earlier = state.model_copy(update={"walkers": after.walkers})
    assert next_cycle(StopRule(), earlier).walkers == after.walkers


def test_a_stress_that_nobody_measured_ends_the_loop_at_once():
    told = "a stress is asked for, and no label of MD has one: remove stress_GPa from accuracy"
    check = failed_check(unmeasured=[told], confidence=0.9)
    status, why = StopRule().judge(completed(check=check))
    assert status is LoopStatus.STALLED
    assert told in why
    assert "true errors are within" not in why
