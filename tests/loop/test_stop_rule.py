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
