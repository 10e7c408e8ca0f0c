"""Assess: update the walkers by their results, judge the loop, and make the document of a cycle."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mlip_autopipec.jobs.asked import exceeded_left_out
from mlip_autopipec.jobs.base import current_uuid
from mlip_autopipec.jobs.failures import without_reason
from mlip_autopipec.loop.campaign_walkers import next_rungs_released
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.loop.walkers import Event, after_walk, happened
from mlip_autopipec.schemas.check import CheckDocument
from mlip_autopipec.schemas.loop import LoopState, LoopStatus, OTFDocument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlip_autopipec.schemas.label import ComparisonDocument, LabelBatch
    from mlip_autopipec.schemas.loop import ThrownAway
    from mlip_autopipec.schemas.potential import PotentialDocument
    from mlip_autopipec.schemas.walk import WalkDocument

#: Python frames one more nested cycle needs under ``run_locally``, with those of a deep call
#: into a library on top; measured by benchmarks/store_growth.py.
_FRAMES_NEEDED = 250


def update_state(
    state: LoopState,
    walks: Sequence[WalkDocument | None],
    walkers: Sequence[int],
    potential: PotentialDocument | None,
    batch: LabelBatch | None,
    learnt: Mapping[int, int] | None = None,
    check: CheckDocument | None = None,
    thrown_away: Sequence[ThrownAway] = (),
    *,
    learns_check: bool = False,
    crashes: Mapping[int, str | None] | None = None,
) -> LoopState:
    """
    Write the results of a cycle into the state.

    Parameters
    ----------
    state
        Before the cycle.
    walks
        One result for each of ``walkers``; None where the MD job failed.
    walkers
        Numbers of the walkers that were run.
    potential, batch
        Of this cycle, where there are any.
    learnt
        Walkers whose halted frame was labelled in this cycle, with the number of atoms of that label.
    check
        Of this cycle, if it was one.
    thrown_away
        Walks that led to where their temperature does not lead, by the labels of this cycle.
    learns_check
        Whether the labels of a check that passes are learnt as well.
    crashes
        What the errors of MD jobs that failed said, by the number of the walker.
    """
    updated = {w.index: w for w in state.walkers}
    for index, walk in zip(walkers, walks, strict=True):
        crash = (crashes or {}).get(index)
        updated[index] = after_walk(updated[index], walk, (learnt or {}).get(index), seed=state.seed, crash=crash)
    for one in thrown_away:
        updated[one.walker] = happened(updated[one.walker], Event.ROLLED_BACK, seed=state.seed)
    new_walkers = next_rungs_released([updated[w.index] for w in state.walkers])
    untrained = state.untrained_batch_id if potential is None or potential.uuid == state.potential_id else None
    if check is not None and (check.teaches or (check.passed and learns_check)):
        untrained = check.batch_id  # of a failed one, walkers begin anew in the next cycle, if there is one
    return state.model_copy(
        update={
            "walkers": new_walkers,
            "check": state.check if check is None else check.result(),
            "untrained_batch_id": untrained,
            "potential_id": state.potential_id if potential is None else potential.uuid,
            **_learning(state, potential, check),
            "n_labels": state.n_labels + (batch.n_labelled if batch else 0),
            "n_reused_labels": state.n_reused_labels + (batch.n_reused if batch else 0),
            "n_failed_labels": state.n_failed_labels + (len(batch.failed) if batch else 0),
            "n_halts": state.n_halts + sum(w is not None and w.status == "HALTED" for w in walks),
        }
    )


def after_last_training(rule: StopRule, state: LoopState, potential: PotentialDocument | None) -> LoopState:
    """
    Write the last training, of the labels of a check that has passed, into the state.

    Parameters
    ----------
    rule
        What is asked for.
    state
        Before it.
    potential
        That came out of it; None if it failed.
    """
    assert state.check is not None
    exceeded = []
    if potential is not None and rule.accuracy is not None:
        exceeded = exceeded_left_out(potential, rule.accuracy, rule.confidence)
    check = state.check.after_learning(potential, exceeded)
    update: dict[str, Any] = {"check": check, "untrained_batch_id": None}
    if potential is not None and check.delivered_id == potential.uuid:
        update |= {"potential_id": potential.uuid, "n_functions": sum(potential.n_functions.values())}
    return state.model_copy(update=update)


def _learning(state: LoopState, potential: PotentialDocument | None, check: CheckDocument | None) -> dict[str, Any]:
    """
    Count the checks in a row whose labels have errors above their limits even after training on them.

    Further labels do not mend that: the basis is too small. A basis that grew starts the count again.
    """
    update: dict[str, Any] = {}
    if check is not None and not check.exceeded:
        update = {"n_not_learnt": 0, "not_learnt": None}
    if potential is None or potential.uuid == state.potential_id:
        return update
    n_functions = sum(potential.n_functions.values())
    grown = state.n_functions is not None and n_functions > state.n_functions
    update["n_functions"] = n_functions
    of_check = state.check is not None and state.check.batch_id == state.untrained_batch_id
    if grown:
        update |= {"n_not_learnt": 0, "not_learnt": None}
    elif of_check and state.check is not None and potential.new_after is not None:
        above = state.check.limits_once_learnt.exceeded_by(potential.new_after)
        count = state.n_not_learnt + 1 if above else 0
        update |= {"n_not_learnt": count, "not_learnt": "; ".join(above.values()) or None}
    return update


def can_nest_further() -> bool:
    """Tell whether Python's stack has room for another cycle (``run_locally`` nests them)."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    return depth + _FRAMES_NEEDED < sys.getrecursionlimit()


def failed_step(potential: PotentialDocument | None, batch: LabelBatch | None, *, labelled: bool) -> str | None:
    """Name the step that left nothing, of a cycle that has labels or has not; None where all came."""
    if labelled and batch is None:
        return "label"
    return "train" if potential is None else None


def judge_cycle(
    rule: StopRule,
    state: LoopState,
    potential: PotentialDocument | None,
    batch: LabelBatch | None,
    *,
    labelled: bool,
    compared: ComparisonDocument | None = None,
    thrown_away: Sequence[ThrownAway] = (),
    reason: str | None = None,
    step: str | None = None,
) -> tuple[LoopStatus, str]:
    """
    Decide whether the loop goes on after a cycle, and say why: by its rule, unless a step failed.

    Parameters
    ----------
    rule
        When the loop ends.
    state
        After the cycle.
    potential, batch
        Of the cycle; None where none came out.
    labelled
        Whether there should be a batch.
    compared
        Of the user's own labels with the oracle, in the first cycle.
    thrown_away
        Walks that are not resumed: the loop goes on without their labels.
    reason
        Why the labels or the training failed, where that is known.
    step
        What failed first, where that is another step, which they waited for: the teaching.
    """
    if compared is not None and compared.refused is not None:
        return LoopStatus.FAILED, f"the dataset is refused: {compared.refused}"
    if batch is not None and batch.oracle_failing and not thrown_away:
        first = batch.failed[0].reason
        return LoopStatus.ORACLE_FAILING, f"{len(batch.failed)} of {batch.n_asked} labels failed; first reason: {first}"
    if (died := failed_step(potential, batch, labelled=labelled)) is not None:
        told = f"step '{step or died}' of cycle {state.cycle} failed"
        if reason:
            return LoopStatus.FAILED, f"{told}: {reason}"
        steps = ("request labels", "count labels") if died == "label" else (died,)
        return LoopStatus.FAILED, f"{told}: {without_reason(*(f'{step} c{state.cycle:03d}' for step in steps))}"
    assert potential is not None  # else a step failed
    # labels flagged by an earlier training are not of this cycle; a training grades all its new labels
    aside, graded = ([], []) if potential.cycle != state.cycle else (potential.quarantined, potential.graded)
    if labelled and graded and not thrown_away and {one.label_id for one in aside} >= {one.label_id for one in graded}:
        first_label = aside[0]
        return LoopStatus.STALLED, (
            f"all {len(aside)} labels of cycle {state.cycle} are flagged as outliers, the first "
            f"({first_label.label_id}) because {first_label.reasons[0]}. Check the oracle. "
            "Accept correct labels with Campaigns.accept, then continue with OTFMaker.extend"
        )
    status, why = rule.judge(state)
    if status is LoopStatus.LEARNING and not can_nest_further():
        return LoopStatus.PAUSED, f"this process cannot nest more than {state.cycle} cycles; continue from here"
    return status, why


def assessment(
    state: LoopState,
    status: LoopStatus,
    why: str,
    potential: PotentialDocument | None,
    batch: LabelBatch | None,
    walks: Sequence[WalkDocument | None],
    thrown_away: Sequence[ThrownAway] = (),
) -> OTFDocument:
    """Make the document of a cycle."""
    trained = potential is not None and potential.cycle == state.cycle
    seconds = {
        "label": 0.0 if batch is None else batch.seconds,
        "train": potential.seconds if potential is not None and trained else 0.0,
        "explore": sum(walk.seconds for walk in walks if walk is not None),
    }
    errors = {} if potential is None else potential.errors()
    if not trained:  # the potential is an earlier cycle's
        errors = {name: error for name, error in errors.items() if name in ("train", "test")}
    return OTFDocument(
        uuid=current_uuid(),
        status=status,
        why=why,
        n_cycles=state.cycle,
        n_new_labels=0 if batch is None else batch.n_labelled,
        seconds=seconds,
        thrown_away=list(thrown_away),
        linear=None if potential is None else potential.linear,
        fits_stress=None if potential is None else potential.fits_stress,
        **state.model_dump(),
        **errors,
    )
