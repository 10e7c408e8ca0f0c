"""The life of a walker: every event in every state, and long random lives."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.lammps.types import Condition, HaltVerdict
from mlip_autopipec.loop.campaign_walkers import (
    as_ladders,
    begun_anew,
    extended,
    given_another_way,
    is_proven,
    next_rungs_released,
    sent_to_proof,
)
from mlip_autopipec.loop.next_cycle import next_cycle
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.loop.walkers import TRANSITIONS, Event, Outcome, State, after_walk, happened, state_of
from mlip_autopipec.schemas.loop import LoopState, LoopStatus, OTFDocument, WalkerState
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.seeds import SeedPurpose, derive_seed

HALTS = (Event.NOVELTY, Event.SHORT_CONTACT, Event.EXPLOSION)
RUNS = (Event.COMPLETED, *HALTS, Event.CRASHED, Event.TIMED_OUT)


def walker(**fields) -> WalkerState:
    return WalkerState(**{"index": 0, "formula": "Cu4", "condition": Condition(300), "seed": 1, **fields})


IN_STATE = {
    State.WAITING: walker(status="WAITING", after=1),
    State.PENDING: walker(),
    State.HALTED: walker(status="HALTED", reason="gamma", verdict="novelty", step=90, walk_id="w", n_halts=1),
    State.CRASHED: walker(status="HALTED", reason="crashed", step=90, walk_id="w", n_repeats=1),
    State.TIMED_OUT: walker(status="HALTED", reason="timed_out", step=90, walk_id="w"),
    State.NOT_RUN: walker(status="NOT_RUN"),
    State.CONVERGED: walker(status="CONVERGED", step=100, walk_id="w"),
}


def outcome(event: Event, step: int = 95, **fields) -> Outcome:
    reason = {Event.NOVELTY: "gamma", Event.SHORT_CONTACT: "core_repulsion", Event.EXPLOSION: "explosion"}.get(event)
    return Outcome(step=step, walk_id="new", reason=reason, **fields)


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_event_in_every_state(state: State, event: Event):
    before = IN_STATE[state]
    assert state_of(before) is state
    if (state, event) not in TRANSITIONS:
        with pytest.raises(MLIPError, match="invalid in this state"):
            happened(before, event, outcome(event))
        return
    after = happened(before, event, outcome(event), seed=3)
    assert state_of(after) is TRANSITIONS[state, event]
    assert after.verdict == (str(event) if event in HALTS else None)  # none is older than its event


def test_no_state_is_without_a_way_on():
    for state in State:
        follows = {TRANSITIONS[key] for key in TRANSITIONS if key[0] is state} - {state}
        assert follows, state


def test_a_crash_after_an_explosion_keeps_the_way_so_far():
    one = happened(walker(), Event.EXPLOSION, outcome(Event.EXPLOSION, 9000))
    crashed = happened(one, Event.CRASHED)
    assert given_another_way(crashed, seed=0) == crashed
    assert (crashed.step, crashed.walk_id) == (9000, "new")
    # the second explosion is the second in a row whatever died between them
    two = happened(crashed, Event.EXPLOSION, outcome(Event.EXPLOSION, 9005))
    assert given_another_way(two, seed=0).step == 0


def test_a_repeat_can_be_extended():
    stuck = walker(status="HALTED", reason="gamma", verdict=HaltVerdict.REPEAT, step=90, walk_id="w", n_repeats=4)
    rule = StopRule(n_check_labels=0)
    state = LoopState(campaign_id="c", seed=0, elements=["Cu"], potential_id="p", walkers=[stuck])
    assert rule.judge(state)[0] is LoopStatus.STALLED
    again = state.model_copy(update={"walkers": extended([stuck], n_steps=100)})
    assert rule.judge(again)[0] is LoopStatus.LEARNING
    assert again.walkers[0].asks_for_labels


def test_longer_md_lets_those_go_on_that_were_done():
    done = IN_STATE[State.CONVERGED]
    assert state_of(extended([done], n_steps=100)[0]) is State.CONVERGED
    (on,) = extended([done], n_steps=200)
    assert (state_of(on), on.step, on.walk_id) == (State.PENDING, 100, "w")


def ran(one: WalkerState, event: Event, step: int, potential: str) -> WalkerState:
    return happened(one, event, outcome(event, step, potential_id=potential))


def test_a_walk_proves_the_potential_that_led_it_from_its_start_to_its_end():
    halted = ran(walker(), Event.NOVELTY, 90, "early")
    assert not is_proven(halted, "early")
    resumed = ran(halted, Event.COMPLETED, 100, "final")
    assert not is_proven(resumed, "final"), "another potential led to where it was resumed"
    (again,) = sent_to_proof([resumed], "final", seed=3)
    assert (state_of(again), again.step, again.walk_id, again.n_halts) == (State.PENDING, 0, None, 1)
    assert again.seed != resumed.seed
    proven = ran(again, Event.COMPLETED, 100, "final")
    assert is_proven(proven, "final")
    assert not is_proven(proven, "newer")
    assert sent_to_proof([proven], "final", seed=3) == [proven]
    # the wall time was over, and the same potential went on: it is one run
    parted = ran(ran(walker(), Event.TIMED_OUT, 50, "final"), Event.COMPLETED, 100, "final")
    assert is_proven(parted, "final")
    assert not is_proven(ran(ran(walker(), Event.TIMED_OUT, 50, "early"), Event.COMPLETED, 100, "final"), "final")


def test_the_loop_converges_only_when_all_walkers_are_proven():
    done = [ran(walker(), Event.COMPLETED, 100, "p"), ran(walker(index=1), Event.COMPLETED, 100, "early")]
    state = LoopState(campaign_id="c", seed=0, elements=["Cu"], potential_id="p", walkers=done)
    status, why = StopRule(n_check_labels=0).judge(state)
    assert status is LoopStatus.LEARNING
    assert "all 2 walkers completed without a halt, 1 of them still have to run from their start" in why
    assert not StopRule().needs_check(state), "the check takes its frames from the walks that prove"
    after = next_cycle(StopRule(), state)
    assert [state_of(w) for w in after.walkers] == [State.CONVERGED, State.PENDING]
    assert after.cycle == 1
    # MD costs no labels: a budget that is spent does not forbid it where none are asked for after it
    spent = state.model_copy(update={"n_labels": 5})
    assert StopRule(n_check_labels=0, max_labels=5).judge(spent)[0] is LoopStatus.LEARNING
    assert StopRule(max_labels=5).judge(spent)[0] is LoopStatus.BUDGET_SPENT
    # labels that the user brought along were paid for before
    brought = spent.model_copy(update={"n_labels": 1004, "n_given_labels": 1000})
    assert StopRule(max_labels=5).judge(brought)[0] is LoopStatus.LEARNING
    assert StopRule(max_labels=5).labels_left(brought) == 1
    spent = brought.model_copy(update={"n_labels": 1005})
    assert "5 labels computed" in StopRule(max_labels=5).judge(spent)[1]
    assert StopRule(n_check_labels=0, prove=False).judge(state)[0] is LoopStatus.CONVERGED


def test_a_walk_that_is_thrown_away_again_and_again_stalls():
    one = walker()
    for n in range(1, 4):
        one = happened(ran(one, Event.NOVELTY, 90, f"p{n}"), Event.ROLLED_BACK, seed=3)
        assert (state_of(one), one.step, one.walk_id) == (State.PENDING, 0, None)
        assert (one.n_rolled_back, one.steps_thrown_away, one.n_repeats) == (n, 90 * n, n)
        one = ran(one, Event.NOVELTY, 20, "q")  # this side of where it was thrown away, a halt is no progress
        assert one.n_repeats == n
        one = happened(one, Event.CRASHED).model_copy(update={"n_repeats": n})
    state = LoopState(campaign_id="c", seed=0, elements=["Cu"], potential_id="p", walkers=[one])
    status, why = StopRule(max_repeats=3).judge(state)
    assert status is LoopStatus.STALLED
    assert "rolled back to its start 3 times" in why
    beyond = ran(one, Event.NOVELTY, 95, "q")
    assert beyond.n_repeats == 0


def test_a_biased_walk_proves_nothing():
    """Done, it begins anew without the bias; so does one that explodes again and again, or is thrown away."""
    one = walker(biased=True)
    done = WalkDocument(uuid="w", walker=0, status="CONVERGED", step=100, n_steps=100, potential_id="p", is_biased=True)
    after = after_walk(one, done, None, seed=3)
    assert (state_of(after), after.biased, after.step, after.walk_id) == (State.PENDING, False, 0, None)
    assert (after.replica, after.seed) == (1, derive_seed(3, SeedPurpose.WALKER, 0, 1))
    plain = after_walk(after, done.model_copy(update={"is_biased": False}), None, seed=3)
    assert state_of(plain) is State.CONVERGED
    assert is_proven(plain, "p")
    halted = after_walk(one, done.model_copy(update={"status": "HALTED", "reason": "gamma"}), None, seed=3)
    assert (state_of(halted), halted.biased) == (State.HALTED, True), "it goes on from there with its bias"
    assert not happened(halted, Event.ROLLED_BACK, seed=3).biased


def test_those_that_wait_go_on_waiting_when_others_begin_anew():
    walkers = as_ladders([walker(index=0), walker(index=1)])
    assert [state_of(w) for w in begun_anew(walkers, 0)] == [State.PENDING, State.WAITING]


events = st.sampled_from(
    [*RUNS, Event.NOT_RUN, Event.EXTENDED, Event.LENGTHENED, Event.BEGUN_ANEW, Event.EXPLORED, Event.PROOF]
)


@given(st.lists(st.tuples(events, st.integers(0, 200), st.booleans(), st.booleans()), max_size=40))
def test_random_lives(life):
    """Whatever happens: counters are sound, no verdict outlives its event, and there is a way on."""
    one, most = walker(), 3
    for event, further, learnt, partly in life:
        if (state_of(one), event) not in TRANSITIONS:
            assert state_of(one) is State.CONVERGED or event is Event.PROOF
            continue
        before = one
        one = happened(
            before, event, outcome(event, before.step + further, learnt_before=learnt, partly=partly), seed=7
        )
        assert one.verdict in ({None} if event not in HALTS else {HaltVerdict(str(event)), HaltVerdict.REPEAT})
        assert one.n_halts == before.n_halts + (event in HALTS)
        assert min(one.n_repeats, one.n_explosions, one.stuck_at, one.step) >= 0
        assert one.n_repeats <= before.n_repeats + 1
        if event not in (Event.BEGUN_ANEW, Event.EXPLORED, Event.PROOF):
            assert one.step >= before.step
        assert (one.seed == before.seed) == (one.replica == before.replica)
        one = given_another_way(one, seed=7)
        # a stalled walker can be extended, and everything but a walker that is done is run
        rule = StopRule(n_check_labels=0, max_repeats=most, max_cycles=99, prove=False)
        state = LoopState(campaign_id="c", seed=0, elements=["Cu"], potential_id="p", walkers=[one])
        status = rule.judge(state)[0]
        assert status in (LoopStatus.LEARNING, LoopStatus.CONVERGED, LoopStatus.STALLED)
        assert (status is LoopStatus.CONVERGED) == (state_of(one) is State.CONVERGED)
        if status is LoopStatus.STALLED:
            wider = state.model_copy(update={"walkers": extended([one], n_steps=10**6)})
            assert rule.judge(wider)[0] is LoopStatus.LEARNING
        assert one.is_due == (state_of(one) is not State.CONVERGED)


@given(st.lists(st.sampled_from(RUNS), max_size=60), st.integers(1, 4))
def test_random_ladders(life, n_rungs):
    """A rung is run when the one below is done, never before, and all are reached."""
    walkers = as_ladders([walker(index=k) for k in range(n_rungs)])
    for event in life:
        due = [w for w in walkers if w.is_due]
        if not due:
            break
        assert len(due) == 1
        one = happened(due[0], event, outcome(event, due[0].step + 1))
        walkers = next_rungs_released([one if w.index == one.index else w for w in walkers])
        done = [state_of(w) is State.CONVERGED for w in walkers]
        assert done == sorted(done, reverse=True)
    assert state_of(walkers[0]) is State.CONVERGED or walkers[0].is_due


def table(first_cell: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return header and rows of the table of docs/campaigns.md that begins so."""
    lines = (ROOT / "docs" / "campaigns.md").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"| {first_cell} |"))
    cells = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return cells[0][1:], {row[0]: row[1:] for row in cells[2:]}


def test_the_documentation_has_the_table():
    told, rows = table("walker")
    assert told == [str(event) for event in Event]
    expected = {str(s): [str(TRANSITIONS.get((s, event), "-")) for event in Event] for s in State}
    assert rows == expected
    assert list(table("status")[1]) == [str(status) for status in LoopStatus]


def test_a_halt_by_an_expected_error_may_come_back_after_its_label():
    halted = walker(status="HALTED", reason="force_error", verdict="novelty", step=90, walk_id="w", n_halts=1)
    again = Outcome(step=90, walk_id="new", reason="force_error", force_std_eV_A=0.31, learnt_before=True)
    after = happened(halted, Event.NOVELTY, again)
    assert (after.verdict, after.n_repeats) == (HaltVerdict.NOVELTY, 1), "its expected error only falls a little"
    assert after.describe() == "w0 300 K halted at step 90 (force_error 0.31 eV/A)"
    by_gamma = happened(halted, Event.NOVELTY, Outcome(step=90, walk_id="new", reason="gamma", learnt_before=True))
    assert by_gamma.verdict is HaltVerdict.REPEAT
    stuck = after.model_copy(update={"n_repeats": 4})
    state = LoopState(campaign_id="c", seed=0, elements=["Cu"], potential_id="p", walkers=[stuck])
    status, why = StopRule().judge(state)
    assert status is LoopStatus.STALLED
    assert "raise MDSettings.max_force_std_eV_A" in why


def test_the_line_of_a_cycle_whose_biased_walks_ended_says_where_its_walkers_are():
    done = WalkDocument(uuid="w", walker=0, status="CONVERGED", step=100, n_steps=100, potential_id="p", is_biased=True)
    state = LoopState(campaign_id="c", seed=0, elements=["Cu"], walkers=[after_walk(walker(biased=True), done, None)])
    document = OTFDocument(uuid="o", status=LoopStatus.LEARNING, why="", n_cycles=1, **state.model_dump())
    assert "w0 300 K pending at step 0  | labels" in document.line()
