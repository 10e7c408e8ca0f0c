"""
The life of a walker: its states, what can happen to it, and what follows.

One table, :data:`TRANSITIONS`, says which state follows when an event happens in a state; one function,
:func:`happened`, applies it and writes down what the event leaves behind. Nothing else changes a walker's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.lammps.types import HaltReason, HaltVerdict
from mlip_autopipec.schemas.loop import WalkerState
from mlip_autopipec.seeds import SeedPurpose, derive_seed

if TYPE_CHECKING:
    from mlip_autopipec.schemas.walk import WalkDocument


class State(StrEnum):
    """What a walker waits for, or how its last run ended."""

    WAITING = "WAITING"
    """For the walker of the rung below."""
    PENDING = "PENDING"
    """To be run: from its start, or, if MD became longer, from where it ended."""
    HALTED = "HALTED"
    """In unknown territory; labelled and trained on, it goes on from there."""
    CRASHED = "CRASHED"
    """The process of its MD failed; MD is run again from its last state."""
    TIMED_OUT = "TIMED_OUT"
    """The wall time was over; it goes on from its restart file."""
    NOT_RUN = "NOT_RUN"
    """There was no potential to run it with."""
    CONVERGED = "CONVERGED"
    """All steps are done without a halt."""


class Event(StrEnum):
    """What can happen to a walker."""

    RELEASED = "released"
    """The walker of the rung below has done all its steps."""
    COMPLETED = "completed"
    """MD did all its steps."""
    NOVELTY = "novelty"
    """MD halted on gamma, on an expected force error, or on unseen elements."""
    SHORT_CONTACT = "short_contact"
    """MD halted on a pair in the repulsive core."""
    EXPLOSION = "explosion"
    """MD halted on an explosion."""
    CRASHED = "crashed"
    """The process of MD failed."""
    TIMED_OUT = "timed_out"
    """The wall time of MD was over, and no job went on with it."""
    NOT_RUN = "not_run"
    """There was no potential."""
    BEGUN_ANEW = "begun_anew"
    """It has to take another way, with other velocities: a check failed, or it kept exploding."""
    EXPLORED = "explored"
    """Its biased walk did all its steps: it begins anew without the bias, with other velocities."""
    PROOF = "proof"
    """It completed, but not from its start with the final potential: it runs once more, with other velocities."""
    ROLLED_BACK = "rolled_back"
    """Its state is out of thermal reach by the oracle: the walk is thrown away, it goes back to its start."""
    EXTENDED = "extended"
    """The campaign was extended: the count of halts without progress starts again at zero."""
    LENGTHENED = "lengthened"
    """The campaign was extended by longer MD."""


_DUE = (State.PENDING, State.HALTED, State.CRASHED, State.TIMED_OUT, State.NOT_RUN)
_RUN = {
    Event.COMPLETED: State.CONVERGED,
    Event.EXPLORED: State.PENDING,
    Event.NOVELTY: State.HALTED,
    Event.SHORT_CONTACT: State.HALTED,
    Event.EXPLOSION: State.HALTED,
    Event.CRASHED: State.CRASHED,
    Event.TIMED_OUT: State.TIMED_OUT,
    Event.NOT_RUN: State.NOT_RUN,
}
#: State that follows, by state and event; what is not here cannot happen.
TRANSITIONS: dict[tuple[State, Event], State] = {
    **{(state, event): follows for state in _DUE for event, follows in _RUN.items()},
    (State.WAITING, Event.RELEASED): State.PENDING,
    **{(state, Event.BEGUN_ANEW): State.PENDING for state in (*_DUE, State.CONVERGED)},
    (State.CONVERGED, Event.PROOF): State.PENDING,
    **{
        (state, Event.ROLLED_BACK): State.PENDING
        for state in (State.HALTED, State.CRASHED, State.TIMED_OUT, State.NOT_RUN, State.CONVERGED)
    },
    **{(state, Event.EXTENDED): state for state in State},
    **{(state, Event.LENGTHENED): state for state in State},
    (State.CONVERGED, Event.LENGTHENED): State.PENDING,
}
#: How a state is stored, in ``status`` and ``reason``: crashes and time-outs are halts without a frame.
_STORED = {
    State.CRASHED: {"status": "HALTED", "reason": "crashed"},
    State.TIMED_OUT: {"status": "HALTED", "reason": "timed_out"},
}


@dataclass(frozen=True)
class Outcome:
    """
    What a run of MD leaves behind.

    Parameters
    ----------
    step
        MD step reached.
    walk_id
        uuid of the walk.
    reason, gamma_max, atom_index
        Of a halt.
    potential_id
        uuid of the potential it ran with.
    force_std_eV_A
        Of a halt by the expected force error.
    learnt_before
        Whether the frame it had halted at before was labelled and trained on.
    partly
        Whether that was a cut-out, so that another atom may halt the same frame.
    """

    step: int
    walk_id: str
    reason: str | None = None
    gamma_max: float | None = None
    atom_index: int | None = None
    potential_id: str | None = None
    force_std_eV_A: float | None = None
    learnt_before: bool = False
    partly: bool = False


def state_of(walker: WalkerState) -> State:
    """Return the state of a walker as it is stored."""
    for state, stored in _STORED.items():
        if (walker.status, walker.reason) == (stored["status"], stored["reason"]):
            return state
    return State(walker.status)


def event_of(walk: WalkDocument | None, *, biased: bool = False) -> Event:
    """Return the event that a walk is for its walker; None is a job that failed. A biased walk proves nothing."""
    if walk is None:
        return Event.CRASHED
    if walk.status == "HALTED":
        return Event(str(walk.verdict or HaltVerdict.NOVELTY))
    done = Event.EXPLORED if biased else Event.COMPLETED
    return {"CONVERGED": done, "TIMED_OUT": Event.TIMED_OUT, "NOT_RUN": Event.NOT_RUN}[walk.status]


def happened(
    walker: WalkerState, event: Event, outcome: Outcome | None = None, *, seed: int = 0, crash: str | None = None
) -> WalkerState:
    """
    Return a walker after an event.

    Parameters
    ----------
    walker
        Before the event.
    event
        What happened.
    outcome
        Of the run; needed by ``completed``, ``timed_out`` and the halts.
    seed
        Of the campaign; needed by ``begun_anew``, ``explored``, ``proof`` and ``rolled_back``.
    crash
        What the error of ``crashed`` said.

    Raises
    ------
    MLIPError
        The event cannot happen in this state.
    """
    before = state_of(walker)
    if (before, event) not in TRANSITIONS:
        raise MLIPError(f"walker {walker.index} is {before}; the event '{event}' is invalid in this state")
    after = TRANSITIONS[before, event]
    if event in (Event.BEGUN_ANEW, Event.EXPLORED, Event.PROOF):
        return _begun_anew(walker, seed)
    if event is Event.ROLLED_BACK:
        return _rolled_back(walker, seed)
    update: dict[str, Any] = {"status": str(after), **_STORED.get(after, {})}
    if event in (Event.EXTENDED, Event.LENGTHENED):
        # its verdict was about halts that no longer count
        update |= {"n_repeats": 0, "n_explosions": 0, "verdict": None, "reason": walker.reason}
        if before is after:
            update["status"] = walker.status
    elif event is Event.CRASHED:  # no new label: it is run again from its last state
        update |= {"verdict": None, "gamma_max": None, "n_repeats": walker.n_repeats + 1, "crash": crash}
    elif event is Event.NOT_RUN:
        update |= {"verdict": None, "gamma_max": None, "reason": None}
    elif event is not Event.RELEASED:
        assert outcome is not None
        update |= _ended(walker, event, outcome) | _STORED.get(after, {})
    return walker.model_copy(update=update)


def _ended(walker: WalkerState, event: Event, outcome: Outcome) -> dict[str, Any]:
    """Return what a run of MD that came to an end changes."""
    found: dict[str, Any] = {
        "step": outcome.step,
        "walk_id": outcome.walk_id,
        "only_potential_id": outcome.potential_id
        if walker.walk_id is None or walker.only_potential_id == outcome.potential_id
        else None,
        "reason": outcome.reason,
        "gamma_max": outcome.gamma_max,
        "atom_index": outcome.atom_index,
        "force_std_eV_A": outcome.force_std_eV_A,
        "verdict": None,
        "crash": None,
    }
    if event is Event.TIMED_OUT:
        found["atom_index"] = walker.atom_index
        return {**found, "n_repeats": 0 if outcome.step > walker.step else walker.n_repeats + 1}
    if event is Event.COMPLETED:
        return {**found, "n_repeats": 0, "n_explosions": 0}
    exploded = event is Event.EXPLOSION
    # where one explosion follows another, the few steps between them lead nowhere
    in_a_row = exploded and (walker.n_explosions > 0 or walker.verdict is HaltVerdict.EXPLOSION)
    other = outcome.partly and outcome.atom_index != walker.atom_index
    reached = max(walker.step, walker.stuck_at) if exploded else walker.step
    no_progress = walker.n_halts > 0 and (in_a_row or (outcome.step <= reached and not other))
    # gamma of what is trained on is at most 1; after an explosion another path may lead on, and an expected error
    # falls a little with every label
    expected = outcome.reason == HaltReason.FORCE_ERROR
    repeats = no_progress and outcome.learnt_before and not exploded and not expected
    kept = walker.n_repeats if outcome.step <= walker.stuck_at else 0
    return {
        **found,
        "verdict": HaltVerdict.REPEAT if repeats else HaltVerdict(str(event)),
        "n_halts": walker.n_halts + 1,
        "n_repeats": walker.n_repeats + 1 if no_progress else kept,
        "n_explosions": walker.n_explosions + 1 if exploded else 0,
    }


def after_walk(
    walker: WalkerState, walk: WalkDocument | None, n_learnt: int | None, seed: int = 0, crash: str | None = None
) -> WalkerState:
    """
    Return a walker after a run of its MD.

    Parameters
    ----------
    walker
        Before it.
    walk
        The result; None where the job failed.
    n_learnt
        Number of atoms of the label of its halted frame, if that was labelled and trained on in this cycle: of a large
        cell the surroundings of some atoms are learnt at a time.
    seed
        Of the campaign.
    crash
        What the error of a job that failed said, where that is known.
    """
    if walk is None:
        return happened(walker, Event.CRASHED, crash=crash)
    halted = walk.status == "HALTED"
    outcome = Outcome(
        step=walk.step,
        walk_id=walk.uuid,
        potential_id=walk.potential_id,
        reason=walk.reason if halted else None,
        gamma_max=walk.gamma_max if halted else None,
        atom_index=walk.atom_index,
        force_std_eV_A=walk.force_std_eV_A if halted else None,
        learnt_before=n_learnt is not None,
        partly=n_learnt is not None and n_learnt < walk.n_atoms,
    )
    return happened(walker, event_of(walk, biased=walker.biased), outcome, seed=seed)


def _begun_anew(walker: WalkerState, seed: int) -> WalkerState:
    kept = {
        "index",
        "formula",
        "condition",
        "start_id",
        "start_index",
        "start_volume_A3",
        "n_halts",
        "n_rolled_back",
        "steps_thrown_away",
    }
    new_seed = derive_seed(seed, SeedPurpose.WALKER, walker.index, walker.replica + 1)
    return WalkerState(**walker.model_dump(include=kept), seed=new_seed, replica=walker.replica + 1)


def _rolled_back(walker: WalkerState, seed: int) -> WalkerState:
    """Throw the walk away. Halts on the new one are no progress before it is as far as the old one."""
    return _begun_anew(walker, seed).model_copy(
        update={
            "n_repeats": walker.n_repeats + 1,
            "stuck_at": max(walker.step, walker.stuck_at),
            "n_rolled_back": walker.n_rolled_back + 1,
            "steps_thrown_away": walker.steps_thrown_away + walker.step,
        }
    )
