"""Campaigns that broke off go on as if nothing had happened; those that ended can be extended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from jobflow import Job, JobStore, run_locally
from maggma.stores import MemoryStore

from mlip_autopipec import BasisSettings, LinearACETrainer, OTFMaker
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.resume import recorded_maker
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.judging import judge_new
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.schemas.potential import FlaggedLabel
from mlip_autopipec.testing import (
    Halt,
    PeriodicHaltsDynamicsMaker,
    ScriptedDynamicsMaker,
    StandInOracleMaker,
    StandInTrainer,
    read_events,
    stand_in_loop,
    tiny_potential,
)

COPPER = bulk("Cu", cubic=True) * (2, 2, 2)
N_JOBS = 46
#: Jobs that other jobs follow which were not in the flow before: those that ask for labels and assess.
WITH_SUCCESSORS = [2, 10, 14, 23, 26, 34, 37]
#: Where the campaign is broken off. After a job is before the next one, but where there are successors and at the end;
#: before a job of each kind, in the midst of those that come in numbers.
BROKEN_OFF = [
    *((n, "before") for n in (0, 1, 4, 6, 7, 9, 10, 12, 13, 17, 20, 22, 25, 32, 33, 36, 45)),
    *((n, "after") for n in (*WITH_SUCCESSORS, N_JOBS - 1)),
]
HALTS = [Halt(step=100), Halt(step=250, walker=1), Halt(step=400, walker=1)]


class Killed(BaseException):
    """No error: the end of a process."""


def new_store() -> JobStore:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    return store


def two_walkers(events, **makers):
    """Two walkers with one and three halts, EMT labels."""
    makers = {
        "dynamics_maker": ScriptedDynamicsMaker(halts=HALTS),
        "oracle_maker": StandInOracleMaker(physics="emt"),
        **makers,
    }
    return stand_in_loop(events, **makers)


@pytest.fixture
def run(tmp_path):
    """Run a flow; break off before or after its n-th job; return the final document, None if there is none."""

    def run(flow, store, monkeypatch=None, n=None, when="before"):
        if n is not None:
            original, count = Job.run, iter(range(10_000))

            def break_off(self, *args, **kwargs):
                number = next(count)
                if number == n and when == "before":
                    raise Killed
                response = original(self, *args, **kwargs)
                if number == n and when == "after":
                    raise Killed
                return response

            with monkeypatch.context() as patch:
                patch.setattr(Job, "run", break_off)
                with pytest.raises(Killed):
                    run_locally(flow, store=store, create_folders=True, root_dir=tmp_path, log=False)
            return None
        run_locally(flow, store=store, create_folders=True, root_dir=tmp_path, log=False)
        found = store.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1}, load=True)
        return None if found is None else OTFDocument.model_validate(found["output"])

    return run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The campaign as it should be: final document, dataset, events."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    store, events = new_store(), str(folder / "events.log")
    flow = two_walkers(events).make(COPPER, [300, 600], campaign_id="c")
    original, responses = Job.run, []

    def run(self, *args, **kwargs):
        responses.append(original(self, *args, **kwargs))
        return responses[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "run", run)
        run_locally(flow, store=store, create_folders=True, root_dir=folder, log=False)
    successors = [n for n, one in enumerate(responses) if one.replace or one.addition or one.detour]
    assert (len(responses), successors) == (N_JOBS, WITH_SUCCESSORS), "give N_JOBS and WITH_SUCCESSORS new values"
    found = store.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1})
    final = OTFDocument.model_validate(found["output"])
    assert (final.status, final.n_cycles, final.n_halts) == ("CONVERGED", 3, 4)
    return final, dataset(store, "c"), read_events(events)


def dataset(store, campaign_id):
    """What a potential is trained on: structures, energies, forces, and what asked for them."""
    rows = []
    for label in read_labels(campaign_id, store=store):
        atoms = label.to_atoms()
        arrays = [atoms.positions, atoms.cell.array, atoms.get_forces()]
        what = (label.cycle, label.index, label.split, label.origin, label.walker, label.key, label.energy_eV)
        rows.append((*what, *(a.tobytes() for a in arrays)))
    return rows


def n_trainings(events):
    return sum(event.startswith("train ") for event in read_events(events))


def without_ids(walkers):
    return [w.model_dump(exclude={"walk_id", "start_id"}) for w in walkers]


def check(final, store, events, uninterrupted):
    expected, labels, events_then = uninterrupted
    assert final.status == "CONVERGED"
    assert dataset(store, "c") == labels
    assert read_events(events).count("label") == events_then.count("label"), "a label was computed twice"
    for name in ("n_cycles", "n_labels", "n_halts", "n_failed_labels", "seed"):
        assert getattr(final, name) == getattr(expected, name), name
    assert without_ids(final.walkers) == without_ids(expected.walkers)


@pytest.mark.parametrize(("n", "when"), BROKEN_OFF)
def test_broken_off_anywhere_it_ends_the_same(run, monkeypatch, events, uninterrupted, n, when):
    """Before a job runs, and after its document is stored but before its successors are known."""
    store = new_store()
    maker = two_walkers(events)
    run(maker.make(COPPER, [300, 600], campaign_id="c"), store, monkeypatch, n, when)
    if n == 0 and when == "before":
        with pytest.raises(InvalidInputError, match="no campaign 'c'"):
            OTFMaker.resume("c", store)
        return
    if n == N_JOBS - 1 and when == "after":
        with pytest.raises(InvalidInputError, match="has ended: CONVERGED"):
            OTFMaker.resume("c", store)
        return
    check(run(OTFMaker.resume("c", store), store), store, events, uninterrupted)


def test_broken_off_again_and_again(run, monkeypatch, events, uninterrupted):
    """Every attempt gets two jobs further than what it did not have to do again."""
    store = new_store()
    run(two_walkers(events).make(COPPER, [300, 600], campaign_id="c"), store, monkeypatch, 9)
    for n in (1, 4, 7, 3, 11):
        run(OTFMaker.resume("c", store), store, monkeypatch, n, "after")
    check(run(OTFMaker.resume("c", store), store), store, events, uninterrupted)


def test_nothing_stored_is_done_again(run, monkeypatch, events):
    """A cycle that broke off in its MD keeps its labels, its potential and the walk that had ended."""
    store = new_store()
    maker = two_walkers(events)
    flow = maker.make(COPPER, [300, 600], campaign_id="c")
    names = [job.name for job, _ in flow.iterflow()]
    assert names[-3:] == ["explore c000 w00", "explore c000 w01", "assess c000"]
    labels = 3 + 1 + 1  # the jobs that label, the one that counts and the one that asked for them
    run(flow, store, monkeypatch, len(names) - 1 + labels - 3, "after")
    before = read_events(events)
    assert before[-1].startswith(("halt w0", "halt w1"))
    again = OTFMaker.resume("c", store)
    names = [job.name for job, _ in again.iterflow()]
    assert "train c000" not in names
    assert len([name for name in names if name.startswith("explore")]) == 1
    run(again, store)
    assert n_trainings(events) == 1 + 3


def test_failed_steps_are_done_again(run, events):
    store = new_store()
    dying = TrainMaker(trainer=StandInTrainer(failing=["train c002"]))
    maker = two_walkers(events, train_maker=dying)
    assert run(maker.make(COPPER, [300, 600], campaign_id="c"), store).status == "FAILED"
    with_cure = replace(maker, train_maker=TrainMaker(trainer=StandInTrainer(events=events)))
    assert run(OTFMaker.resume("c", store), store).status == "FAILED"
    final = run(OTFMaker.resume("c", store, maker=with_cure), store)
    assert (final.status, final.n_cycles) == ("CONVERGED", 3)
    assert recorded_maker("c", store).as_dict() == with_cure.as_dict()


def test_a_failing_oracle_is_mended(run, events):
    store = new_store()
    maker = two_walkers(events, oracle_maker=StandInOracleMaker(physics="emt", failing=["label c001"], events=events))
    assert run(maker.make(COPPER, [300, 600], campaign_id="c"), store).status == "ORACLE_FAILING"
    mended = replace(maker, oracle_maker=StandInOracleMaker(physics="emt", events=events))
    assert run(OTFMaker.resume("c", store, maker=mended), store).status == "CONVERGED"
    assert read_events(events).count("label") == 3 + 3 * 4


def labelled(n):
    """Frames along a straight way; the energy falls by 0.1 eV from one to the next, as their forces say."""
    frames = []
    way = np.zeros((len(COPPER), 3))
    way[:, 0] = 0.03 * (-1.0) ** np.arange(len(COPPER))
    for i in range(n):
        atoms = COPPER.copy()
        atoms.positions += i * way
        atoms.calc = SinglePointCalculator(atoms, energy=-0.1 * i, forces=0.1 * way / (way**2).sum())
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("with_potential", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_what_the_user_gave_is_not_used_twice(run, monkeypatch, events, n, with_potential):
    """Broken off before the first assessment, a campaign begins again with the labels and potential in its store."""
    store = new_store()
    potential = tiny_potential("Cu") if with_potential else None
    flow = two_walkers(events).make(COPPER, 300, campaign_id="c", labels=labelled(4), initial_potential=potential)
    run(flow, store, monkeypatch, n, "after")
    if n < 1 + with_potential:
        with pytest.raises(Exception, match=r"was interrupted while its input was being stored"):
            OTFMaker.resume("c", store)
        return
    before = [label.uuid for label in read_labels("c", store=store) if label.origin == "given"]
    final = run(OTFMaker.resume("c", store), store)
    assert final.status == "CONVERGED"
    given = [label for label in read_labels("c", store=store) if label.origin == "given"]
    assert [label.uuid for label in given] == before  # imported again, they are the same labels
    assert len(set(before)) == 4
    assert [label.energy_eV for label in given] == [-0.0, -0.1, -0.2, -0.30000000000000004]
    assert final.n_labels == len(read_labels("c", store=store))


def test_a_taken_name_is_refused(run, events):
    store = new_store()
    first = run(two_walkers(events).make(COPPER, 300, campaign_id="c"), store)
    assert first.status == "CONVERGED"
    final = run(two_walkers(events).make(COPPER, 300, campaign_id="c"), store)
    assert final.status == "FAILED"
    assert n_trainings(events) == first.n_cycles + 1


def test_paused_goes_on(run, monkeypatch, events):
    """What run_locally cannot nest any deeper is continued in a new call."""
    store = new_store()
    maker = stand_in_loop(
        events, dynamics_maker=PeriodicHaltsDynamicsMaker(n_halts=4), oracle_maker=StandInOracleMaker(physics="emt")
    )
    with monkeypatch.context() as patch:
        patch.setattr("mlip_autopipec.jobs.assess.can_nest_further", lambda: False)
        assert run(maker.make(COPPER, 300, campaign_id="c"), store).status == "PAUSED"
    final = run(OTFMaker.resume("c", store), store)
    assert (final.status, final.n_cycles) == ("CONVERGED", 4)


def test_extended_by_conditions_and_structures(run, events):
    store = new_store()
    run(two_walkers(events).make(COPPER, [300, 600], campaign_id="c"), store)
    labels = len(read_labels("c", store=store))
    supercell = bulk("Cu", cubic=True) * (3, 2, 2)
    final = run(OTFMaker.extend("c", store, structures=supercell, conditions=900), store)
    assert final.status == "CONVERGED"
    walkers = [(w.index, w.formula, w.condition.temperature_K, w.n_halts) for w in final.walkers]
    assert walkers[:2] == [(0, "Cu32", 300, 1), (1, "Cu32", 600, 3)]
    assert [w[1:] for w in walkers[2:]] == [("Cu32", 900, 1), ("Cu48", 300, 1), ("Cu48", 600, 1), ("Cu48", 900, 1)]
    assert len({w.seed for w in final.walkers}) == 6
    assert final.n_cycles == 5
    assert final.n_labels == len(read_labels("c", store=store)) > labels
    again = run(OTFMaker.extend("c", store, conditions=[300, 1200]), store)
    assert [w.condition.temperature_K for w in again.walkers[6:]] == [1200, 1200]
    with pytest.raises(InvalidInputError, match="nothing is left to do"):
        OTFMaker.extend("c", store, conditions=[300])
    with pytest.raises(InvalidInputError, match=r"\['Ni'\]"):
        OTFMaker.extend("c", store, structures=bulk("Ni", cubic=True))


def test_an_extension_that_broke_off_is_resumed(run, monkeypatch, events):
    store = new_store()
    run(two_walkers(events).make(COPPER, [300], campaign_id="c"), store)
    run(OTFMaker.extend("c", store, conditions=900), store, monkeypatch, 5)
    final = run(OTFMaker.resume("c", store), store)
    assert final.status == "CONVERGED"
    assert [w.condition.temperature_K for w in final.walkers] == [300, 900]


def test_extended_by_budget(run, events):
    store = new_store()
    maker = two_walkers(events, stop_rule=StopRule(max_cycles=1, n_check_labels=0))
    assert run(maker.make(COPPER, [300, 600], campaign_id="c"), store).status == "MAX_ITER_REACHED"
    with pytest.raises(InvalidInputError, match="has ended: MAX_ITER_REACHED"):
        OTFMaker.resume("c", store)
    with pytest.raises(InvalidInputError, match=r"max_cycles=1.*ends the campaign at once"):
        OTFMaker.extend("c", store)
    wider = replace(recorded_maker("c", store), stop_rule=StopRule(max_cycles=9, n_check_labels=0, prove=False))
    final = run(OTFMaker.extend("c", store, maker=wider), store)
    assert (final.status, final.n_cycles) == ("CONVERGED", 3)
    assert n_trainings(events) == 4


def test_extended_by_longer_md(run, events):
    """Walkers that have run through go on from where they ended, without new labels until they halt."""
    store = new_store()
    settings = MDSettings(n_steps=300)
    maker = two_walkers(events, dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)], settings=settings))
    run(maker.make(COPPER, [300], campaign_id="c"), store)
    n_labels = len(read_labels("c", store=store))
    recorded = recorded_maker("c", store)
    longer = replace(recorded, dynamics_maker=replace(recorded.dynamics_maker, settings=MDSettings(n_steps=900)))
    final = run(OTFMaker.extend("c", store, maker=longer), store)
    assert (final.status, final.walkers[0].step, final.n_labels) == ("CONVERGED", 900, n_labels)
    assert read_events(events)[-2:] == ["restart w0 300", "finish w0 900"]


def test_a_ladder_gets_further_rungs(run, events):
    store = new_store()
    run(two_walkers(events, ladder=True).make(COPPER, [300, 600], campaign_id="c"), store)
    final = run(OTFMaker.extend("c", store, conditions=[900, 1200]), store)
    assert final.status == "CONVERGED"
    assert [w.after for w in final.walkers] == [None, 0, 1, 2]
    runs = [event for event in read_events(events) if event.startswith("start")]
    assert runs == ["start w0 0", "start w1 0", "start w2 0", "start w3 0"]


def test_a_walker_that_stalled_in_a_repeat_is_extended(run, events):
    store = new_store()
    halts = [Halt(step=100), Halt(step=100)]
    maker = two_walkers(events, dynamics_maker=ScriptedDynamicsMaker(halts=halts))
    stalled = run(maker.make(COPPER, [300], campaign_id="c"), store)
    assert (stalled.status, stalled.walkers[0].verdict) == ("STALLED", "repeat")
    final = run(OTFMaker.extend("c", store), store)
    assert final.status == "CONVERGED"


def test_hours_between_an_interruption_and_its_resume_do_not_count(run, monkeypatch, events):
    store = new_store()
    run(two_walkers(events).make(COPPER, [300, 600], campaign_id="c"), store, monkeypatch, 30)
    long_ago = "2026-01-01T00:00:00+00:00"
    for document in store.query({"output.kind": "campaign"}, load=True):
        document["output"]["created_at"] = long_ago
        store.update(document, key=["uuid", "index"], save={"data": "payload"})
    for document in store.query({"output.kind": "loop"}):
        store.update({**document, "output": {**document["output"], "hours": 2.0}}, key=["uuid", "index"])
    maker = recorded_maker("c", store)
    maker = replace(maker, stop_rule=replace(maker.stop_rule, max_hours=2.5))
    final = run(OTFMaker.resume("c", store, maker=maker), store)
    assert final.status == "CONVERGED"
    assert 2.0 < final.hours < 2.1


def checked(events):
    """Two walkers without a halt, a real fit, and a check."""
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
    parts = {"dynamics_maker": ScriptedDynamicsMaker(halts=[]), "train_maker": TrainMaker(trainer=trainer)}
    return two_walkers(events, check=True, **parts)


def test_a_check_that_was_done_twice_counts_each_frame_once(run, monkeypatch, events):
    """Its labels were there when the process died; those of the first time were computed under other settings."""
    store = new_store()
    maker = checked(events)
    maker.stop_rule.max_relative_force_error = 3.0  # so small a basis is above 5 meV/atom
    names = []
    original = Job.run

    def noted(self, *args, **kwargs):
        names.append(self.name)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", noted)
        run(maker.make(COPPER, [300, 600], campaign_id="x"), new_store())
    run(maker.make(COPPER, [300, 600], campaign_id="c"), store, monkeypatch, names.index("check c001"))
    other = replace(maker, oracle_maker=replace(maker.oracle_maker, reuse_labels=False))
    final = run(OTFMaker.resume("c", store, maker=other), store)
    assert final.check.errors.n_structures == 2
    assert len(list(store.query({"output.kind": "label", "output.origin": "check"}))) == 4


def test_a_check_that_passed_ends_well_whatever_was_set_aside_before(run, events):
    """Outliers that an earlier training flagged are not labels of the check."""
    store = new_store()
    maker = checked(events)

    def distrustful(*args):
        trusted, graded, _ = judge_new(*args)
        return trusted, graded, [FlaggedLabel(label_id=f"old {i}", reasons=["no reason"]) for i in range(3)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlip_autopipec.jobs.train.judge_new", distrustful)
        final = run(maker.make(COPPER, [300, 600], campaign_id="c"), store)
    assert (final.status, final.check.passed, len(final.potential.quarantined)) == ("CONVERGED", True, 3)
