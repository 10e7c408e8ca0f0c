"""Assess: what the walkers' fates mean for the loop. Plain logic, no jobs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.base import SEED_WALKER, current_uuid, derive_seed
from mlip_autopipec.lammps.types import HaltVerdict
from mlip_autopipec.schemas.loop import CheckDocument, LoopState, LoopStatus, OTFDocument, WalkerState
from mlip_autopipec.validation.criteria import Gate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlip_autopipec.schemas.campaign import CampaignDocument
    from mlip_autopipec.schemas.label import LabelBatch
    from mlip_autopipec.schemas.potential import PotentialDocument
    from mlip_autopipec.schemas.walk import WalkDocument

#: Python frames one more nested cycle needs under ``run_locally``, with those of a deep call
#: into a library on top; measured by benchmarks/store_growth.py.
_FRAMES_NEEDED = 250
#: After so many explosions in a row, not counting the first, a walker begins anew.
_EXPLOSIONS = 1


@dataclass
class StopRule(MSONable):
    """
    When the loop ends.

    Parameters
    ----------
    max_cycles
        Most cycles of halt, label and train.
    max_labels
        Most labels, including the first dataset; None for no limit.
    max_hours
        Wall time in hours since the campaign was recorded, looked at after each cycle; None for no limit.
    max_repeats
        Halts in a row at the same place after which a walker counts as stalled.
    n_check_labels
        When all walkers have run through, so many frames of their MD are labelled and the potential is compared with
        them before it is trained on them. If it is worse than the limits below, they are learnt and all walkers begin
        anew with other seeds. 0: halt-free MD is believed.
    max_relative_force_error, force_error_floor_meV_A
        The root mean square force error may be this share of the root mean square force of these labels, and at least
        this many meV/A.
    property_gate
        What is compared with the oracle's in the same check: properties of the campaign's crystals
        (:class:`~mlip_autopipec.validation.properties.PropertyGate`), or what a
        :class:`~mlip_autopipec.validation.criteria.CellGate` of one's own asks for.
    """

    max_cycles: int = 50
    max_labels: int | None = None
    max_hours: float | None = None
    max_repeats: int = 4
    n_check_labels: int = 2
    max_relative_force_error: float = 0.15
    force_error_floor_meV_A: float = 20.0
    property_gate: Gate | None = None

    def check(self) -> None:
        """Refuse values that cannot be meant."""
        if self.max_cycles < 0:
            raise InvalidInputError(f"StopRule.max_cycles is {self.max_cycles}; it cannot be negative")
        if self.max_labels is not None and self.max_labels < 1:
            raise InvalidInputError(f"StopRule.max_labels is {self.max_labels}; give at least 1, or None")
        for name in ("max_hours", "max_relative_force_error", "force_error_floor_meV_A"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInputError(f"StopRule.{name} is {value}; it has to be positive")
        if self.n_check_labels < 0:
            raise InvalidInputError(f"StopRule.n_check_labels is {self.n_check_labels}; give 0 for no check, or more")
        if self.max_repeats < 1:
            raise InvalidInputError(f"StopRule.max_repeats is {self.max_repeats}; it has to be at least 1")

    def labels_left(self, state: LoopState) -> int | None:
        """Return how many labels may still be bought; None for no limit."""
        return None if self.max_labels is None else self.max_labels - state.n_labels

    def needs_check(self, state: LoopState) -> bool:
        """Whether the potential is to be compared with labels from MD that ran through."""
        ran_through = all(w.status == "CONVERGED" for w in state.walkers)
        checked = state.check is not None and state.check.potential_id == state.potential_id
        asked = self.n_check_labels > 0 or self.property_gate is not None
        return asked and ran_through and not checked

    def judge(self, state: LoopState) -> tuple[LoopStatus, str]:
        """Decide whether the loop goes on, and say why."""
        open_walkers = [w for w in state.walkers if w.status != "CONVERGED"]
        ran_through = f"all {len(state.walkers)} walkers ran through without a halt"
        passed = state.check is None or state.check.passed
        if not open_walkers and not self.needs_check(state) and passed:
            checked = "" if state.check is None else f"; {state.check.describe()}"
            return LoopStatus.CONVERGED, ran_through + checked
        if state.check is not None and not state.check.passed and not state.check.teaches and not open_walkers:
            found = state.check.describe()
            if state.check.beyond_budget:
                return LoopStatus.BUDGET_SPENT, f"{state.n_labels} labels bought, {ran_through}; {found}"
            return LoopStatus.STALLED, (
                f"the oracle does not give what the potential is to be compared with: {found}. Mend "
                "that, or ask for other properties; OTFMaker.extend goes on"
            )
        repeated = [w for w in open_walkers if w.verdict is HaltVerdict.REPEAT]
        if repeated:
            return LoopStatus.STALLED, (
                f"{repeated[0].describe()}, a frame that was labelled and trained on after it had halted there before: "
                "the potential, its active set and the MD engine do not belong together"
            )
        stuck = [w for w in open_walkers if w.n_repeats >= self.max_repeats]
        if stuck:
            return LoopStatus.STALLED, f"{self.max_repeats} times in a row without progress: {stuck[0].describe()}"
        left = f"{len(open_walkers)} walkers have not run through" if open_walkers else f"{ran_through}, unchecked"
        if state.cycle >= self.max_cycles:
            return LoopStatus.MAX_ITER_REACHED, f"{state.cycle} cycles done, {left}"
        if self.max_labels is not None and state.n_labels >= self.max_labels:
            return LoopStatus.BUDGET_SPENT, f"{state.n_labels} labels bought, {left}"
        if self.max_hours is not None and state.hours >= self.max_hours:
            return LoopStatus.BUDGET_SPENT, f"{state.hours:.1f} h spent, {left}"
        return LoopStatus.LEARNING, left


def new_walkers(
    task: CampaignDocument, start_id: str, seed: int, walkers: Sequence[WalkerState] = ()
) -> list[WalkerState]:
    """
    Make a walker for each structure and condition of a campaign.

    Parameters
    ----------
    task
        What is asked for.
    start_id
        uuid of the document that holds its structures.
    seed
        Of the campaign.
    walkers
        Those there are already; their structures and conditions are left out.
    """
    volumes_A3 = [atoms.get_volume() for atoms in task.structures()]
    known = [(walker.start_index, walker.condition) for walker in walkers]
    wanted = [pair for pair in product(range(len(task.formulas)), task.conditions) if pair not in known]
    return [
        WalkerState(
            index=i,
            formula=task.formulas[k],
            condition=condition,
            seed=derive_seed(seed, SEED_WALKER, i),
            start_id=start_id,
            start_index=k,
            start_volume_A3=volumes_A3[k],
        )
        for i, (k, condition) in enumerate(wanted, start=len(walkers))
    ]


def as_ladders(walkers: Sequence[WalkerState]) -> list[WalkerState]:
    """
    Let each new walker wait for the one before it in the same structure.

    Parameters
    ----------
    walkers
        In the order of the rungs; those that have been run stay as they are.
    """
    last: dict[int, int] = {}
    rungs = []
    for walker in walkers:
        below = last.get(walker.start_index)
        last[walker.start_index] = walker.index
        waits = below is not None and walker.status == "PENDING" and walker.walk_id is None
        rungs.append(walker.model_copy(update={"status": "WAITING", "after": below}) if waits else walker)
    return _next_rungs_opened(rungs)


def update_state(
    state: LoopState,
    walks: Sequence[WalkDocument | None],
    walkers: Sequence[int],
    potential: PotentialDocument | None,
    batch: LabelBatch | None,
    learnt: Mapping[int, int] | None = None,
    check: CheckDocument | None = None,
) -> LoopState:
    """
    Write the results of a cycle into the state.

    Parameters
    ----------
    state
        Before the cycle.
    walks
        One result for each of ``walkers``; None where the MD job died.
    walkers
        Numbers of the walkers that were run.
    potential, batch
        Of this cycle, where there are any.
    learnt
        Walkers whose halted frame was labelled in this cycle, with the number of atoms of that label.
    check
        Of this cycle, if it was one.
    """
    updated = {w.index: w for w in state.walkers}
    for index, walk in zip(walkers, walks, strict=True):
        updated[index] = _update_walker(updated[index], walk, (learnt or {}).get(index))
    new_walkers = _next_rungs_opened([updated[w.index] for w in state.walkers])
    untrained = state.untrained_batch_id if potential is None or potential.uuid == state.potential_id else None
    if check is not None and check.teaches:
        new_walkers = begun_anew(new_walkers, state.seed)
        untrained = check.batch_id
    return state.model_copy(
        update={
            "walkers": new_walkers,
            "check": state.check if check is None else check.result(),
            "untrained_batch_id": untrained,
            "potential_id": state.potential_id if potential is None else potential.uuid,
            "n_labels": state.n_labels + (batch.n_labelled if batch else 0),
            "n_reused_labels": state.n_reused_labels + (batch.n_reused if batch else 0),
            "n_failed_labels": state.n_failed_labels + (len(batch.failed) if batch else 0),
            "n_halts": state.n_halts + sum(w is not None and w.status == "HALTED" for w in walks),
        }
    )


def begun_anew(walkers: Sequence[WalkerState], seed: int) -> list[WalkerState]:
    """Let walkers that have run through take other ways."""
    kept = {"index", "formula", "condition", "start_id", "start_index", "start_volume_A3", "n_halts"}
    return [
        WalkerState(
            **walker.model_dump(include=kept),
            seed=derive_seed(seed, SEED_WALKER, walker.index, walker.replica + 1),
            replica=walker.replica + 1,
        )
        for walker in walkers
    ]


def given_another_way(walker: WalkerState, seed: int) -> WalkerState:
    """Let a walker begin anew that explodes again and again, as its last sane frame leads there."""
    if walker.verdict is not HaltVerdict.EXPLOSION or walker.n_repeats < _EXPLOSIONS:
        return walker
    (anew,) = begun_anew([walker], seed)
    return anew.model_copy(update={"n_repeats": walker.n_repeats, "stuck_at": max(walker.step, walker.stuck_at)})


def _next_rungs_opened(walkers: Sequence[WalkerState]) -> list[WalkerState]:
    """Let those walkers run whose rung below has been run through."""
    done = {w.index for w in walkers if w.status == "CONVERGED"}
    return [
        w.model_copy(update={"status": "PENDING"}) if w.status == "WAITING" and w.after in done else w for w in walkers
    ]


def _update_walker(walker: WalkerState, walk: WalkDocument | None, n_learnt: int | None) -> WalkerState:
    if walk is None:  # the process died: nothing was learnt, it is run again from where it stood
        crashed = {"status": "HALTED", "reason": "crashed", "gamma_max": None, "n_repeats": walker.n_repeats + 1}
        return walker.model_copy(update=crashed)
    if walk.status == "NOT_RUN":
        return walker.model_copy(update={"status": "NOT_RUN"})
    if walk.status == "TIMED_OUT":  # the job that was to go on died: the next one goes on from the same restart file
        found = {"status": "HALTED", "reason": "timed_out", "gamma_max": None, "walk_id": walk.uuid, "step": walk.step}
        return walker.model_copy(update={**found, "n_repeats": 0 if walk.step > walker.step else walker.n_repeats + 1})
    halted = walk.status == "HALTED"
    # of a large cell the surroundings of some atoms are learnt at a time: then another one may halt the same frame
    cut = n_learnt is not None and n_learnt < walk.n_atoms
    other = cut and walk.atom_index != walker.atom_index
    exploded = halted and walk.verdict is HaltVerdict.EXPLOSION
    # where one explosion follows another, the few steps between them lead nowhere
    in_a_row = exploded and walker.verdict is HaltVerdict.EXPLOSION
    reached = max(walker.step, walker.stuck_at) if exploded else walker.step
    no_progress = halted and walker.n_halts > 0 and (in_a_row or (walk.step <= reached and not other))
    # gamma of what is trained on is at most 1; after an explosion another path may lead on
    repeats = no_progress and n_learnt is not None and not exploded
    repeated = walker.n_repeats if halted and walk.step <= walker.stuck_at else 0
    return walker.model_copy(
        update={
            "status": walk.status,
            "step": walk.step,
            "reason": walk.reason,
            "verdict": HaltVerdict.REPEAT if repeats else walk.verdict,
            "gamma_max": walk.gamma_max,
            "atom_index": walk.atom_index,
            "walk_id": walk.uuid,
            "n_halts": walker.n_halts + halted,
            "n_repeats": walker.n_repeats + 1 if no_progress else repeated,
        }
    )


def can_nest_further() -> bool:
    """Tell whether Python's stack has room for another cycle (``run_locally`` nests them)."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    return depth + _FRAMES_NEEDED < sys.getrecursionlimit()


def judge_cycle(
    rule: StopRule, state: LoopState, potential: PotentialDocument | None, batch: LabelBatch | None, *, labelled: bool
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
    """
    if batch is not None and batch.oracle_failing:
        first = batch.failed[0].reason
        return LoopStatus.ORACLE_FAILING, f"{len(batch.failed)} of {batch.n_asked} labels failed; first reason: {first}"
    if potential is None or (labelled and batch is None):
        died = "label" if labelled and batch is None else "train"
        return LoopStatus.FAILED, f"step '{died}' of cycle {state.cycle} died; its job's log tells why"
    if labelled and batch is not None and 0 < batch.n_labelled <= len(potential.quarantined):
        first_label = potential.quarantined[0]
        return LoopStatus.STALLED, (
            f"all {batch.n_labelled} labels of cycle {state.cycle} were set aside, the first ({first_label.label_id}) "
            f"because {first_label.reasons[0]}. Look at the oracle; good labels are let in with Campaigns.admit, and "
            "OTFMaker.extend goes on"
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
        **state.model_dump(),
        **errors,
    )
