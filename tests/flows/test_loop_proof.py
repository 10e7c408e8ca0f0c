"""The loop converges on walks from the start with the final potential, and throws away those that a wrong one led."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from ase.build import bulk
from jobflow import Job, run_locally

from mlip_autopipec import BasisSettings, LinearACETrainer, OTFMaker
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import TrainingError
from mlip_autopipec.export.bundle import write_export
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.report import walks
from mlip_autopipec.report.collect import Limits, collect
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import OTFDocument, WalkerState
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, read_events, stand_in_loop
from mlip_autopipec.testing.trainer import StandInTrainer

COPPER = bulk("Cu", cubic=True) * (2, 2, 2)


def loop(events: Any = None, halts: Any = (), displacement_A: float = 0.02, **makers: Any) -> OTFMaker:
    """MD by a script, EMT labels; the loop has to prove what it says."""
    maker = stand_in_loop(
        None if events is None else str(events),
        dynamics_maker=ScriptedDynamicsMaker(halts=list(halts), displacement_A=displacement_A),
        oracle_maker=StandInOracleMaker(physics="emt"),
        **makers,
    )
    maker.stop_rule = StopRule(n_check_labels=0)
    return maker


def linear() -> dict[str, Any]:
    """A trainer whose potential knows energies."""
    return {
        "generate_maker": GenerateMaker(
            generator=StructureGenerator(n_structures=5, n_test=1, max_atoms=32, rattle_amplitudes=[0.05, 0.1])
        ),
        "train_maker": TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5)),
            quarantine=None,
        ),
    }


def test_what_halted_on_its_way_runs_once_more_from_its_start(tmp_path, run_loop, stored_documents):
    events = tmp_path / "events"
    final = run_loop(loop(events, [Halt(step=100, walker=0)]).make(COPPER, [300, 600], campaign_id="c"))
    assert final.status == "CONVERGED", final.why
    assert "from their start and with the final potential" in final.why
    # walker 1 had completed with the first potential, which is not the final one
    last = [walk for walk in stored_documents(WalkDocument) if walk.cycle == final.cycle]
    assert sorted(walk.walker for walk in last) == [0, 1]
    assert {(walk.start_step, walk.restart_of, walk.potential_id) for walk in last} == {(0, None, final.potential_id)}
    assert final.n_labels == stored_documents(OTFDocument)[1].n_labels, "it costs no label"
    assert [e for e in read_events(str(events)) if e.startswith("start w0")] == ["start w0 0"] * 2


def failing_at(events: Any, halts: list[Halt], *cycles: int) -> OTFMaker:
    maker = loop(events, halts)
    failing = [f"label c{cycle:03d}" for cycle in cycles]
    maker.oracle_maker = StandInOracleMaker(physics="emt", failing=failing)
    return maker


@pytest.mark.parametrize("reason", ["force_error", "explosion", "core_repulsion"])
def test_a_structure_that_md_broke_and_no_oracle_computes_is_left_behind(tmp_path, run_loop, stored_documents, reason):
    """An SCF that does not converge for a torn molecule is no failing oracle; to compute it again would not help."""
    events = tmp_path / "events"
    maker = failing_at(events, [Halt(step=100, walker=0, reason=reason)], 1)
    final = run_loop(maker.make(COPPER, [300, 600], campaign_id="c"))
    assert final.status == "CONVERGED", final.why
    first, second = stored_documents(OTFDocument)[:2]
    assert (first.n_halts, second.n_failed_labels) == (1, second.n_failed_labels) == (1, final.n_failed_labels)
    assert second.n_failed_labels > 0
    (thrown,) = second.thrown_away
    assert (thrown.walker, thrown.steps, thrown.reason) == (0, 100, "no labels")
    assert "could not be computed" in second.line()
    assert second.potential_id == first.potential_id
    assert [e for e in read_events(str(events)) if e.startswith("start w0")][:2] == ["start w0 0"] * 2


def test_an_oracle_that_fails_again_and_again_is_said_to(tmp_path, run_loop):
    halts = [Halt(step=100 * (k + 1), walker=0, reason="explosion") for k in range(5)]
    final = run_loop(failing_at(tmp_path / "events", halts, *range(1, 20)).make(COPPER, 300, campaign_id="c"))
    assert final.status == "ORACLE_FAILING", final.why
    assert "told to fail" in final.why
    assert final.walkers[0].n_rolled_back == 2
    assert final.potential is not None


def test_where_all_completed_from_their_start_nothing_runs_again(run_loop, stored_documents):
    final = run_loop(loop().make(COPPER, [300, 600], campaign_id="c"))
    assert (final.status, final.n_cycles) == ("CONVERGED", 0)
    assert len(stored_documents(WalkDocument)) == 2


@dataclass
class HaltsInTheProof(ScriptedDynamicsMaker):
    """Halts at the first walk, and at the one that is to prove."""

    def next_halt(self, walker: WalkerState) -> Halt | None:
        return {(0, 0): Halt(step=100), (1, 1): Halt(step=50)}.get((walker.replica, walker.n_halts))


def test_a_halt_on_the_way_of_the_proof_is_learnt_from_and_proven_again(run_loop, stored_documents):
    maker = loop()
    maker.dynamics_maker = HaltsInTheProof()
    final = run_loop(maker.make(COPPER, 300, campaign_id="c"))
    assert final.status == "CONVERGED", final.why
    ran = [(walk.cycle, walk.start_step, walk.status) for walk in stored_documents(WalkDocument)]
    assert ran == [
        (0, 0, "HALTED"),
        (1, 100, "CONVERGED"),
        (2, 0, "HALTED"),
        (3, 50, "CONVERGED"),
        (4, 0, "CONVERGED"),
    ]


@pytest.mark.parametrize("name", ["explore c002 w00", "explore c002 w01", "assess c002"])
def test_broken_off_in_the_proof_it_ends_the_same(name, run_loop, memory_jobstore, monkeypatch, stored_documents):
    maker = loop(halts=[Halt(step=100)])
    expected = run_loop(maker.make(COPPER, [300, 600], campaign_id="whole"))
    assert expected.n_cycles == 2
    original = Job.run

    def run(self, *args, **kwargs):
        if self.name == name:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", run)
        with pytest.raises(KeyboardInterrupt):
            run_locally(maker.make(COPPER, [300, 600], campaign_id="cut"), store=memory_jobstore, log=False)
    final = run_loop(OTFMaker.resume("cut", memory_jobstore))

    def walked(campaign_id: str) -> list[Any]:
        own = [w for w in stored_documents(WalkDocument) if w.campaign_id == campaign_id and w.cycle == 2]
        return [(w.walker, w.seed, w.final_atoms().positions.tolist()) for w in own]

    assert final.status == "CONVERGED"
    assert [w.seed for w in final.walkers] == [w.seed for w in expected.walkers]
    assert sorted(walked("cut")) == sorted(walked("whole")), "what was stored is not run again"


def test_extended_by_a_condition_only_what_is_not_proven_runs(tmp_path, memory_jobstore, run_loop, stored_documents):
    events = tmp_path / "events"
    final = run_loop(loop(events, [Halt(step=100, walker=0)]).make(COPPER, [300, 600], campaign_id="c"))
    assert final.status == "CONVERGED", final.why
    ran = len(read_events(str(events)))
    n_walks = len(stored_documents(WalkDocument))
    extended = run_loop(OTFMaker.extend("c", memory_jobstore, conditions=900))
    assert (extended.status, extended.potential_id) == ("CONVERGED", final.potential_id)
    assert [event for event in read_events(str(events))[ran:] if event.startswith("start")] == ["start w2 0"]
    assert [walk.walker for walk in stored_documents(WalkDocument)[n_walks:]] == [2]


def test_a_state_out_of_thermal_reach_is_thrown_away(run_loop, stored_documents, memory_jobstore, tmp_path):
    # displacements of 0.3 A are not of 300 K
    maker = loop(halts=[Halt(step=100)], displacement_A=0.3, **linear())
    final = run_loop(maker.make(COPPER, 300, campaign_id="c"))
    assert final.status == "CONVERGED"
    (walker,) = final.walkers
    assert (walker.n_rolled_back, walker.steps_thrown_away) == (1, maker.dynamics_maker.settings.n_steps)
    told = {d.cycle: d for d in stored_documents(OTFDocument)}[1]
    (thrown,) = told.thrown_away
    assert thrown.energy_above_start_eV_atom > thrown.limit_eV_atom > 0.15
    assert "w0 rolled back to its start" in told.line()
    assert stored_documents(WalkDocument)[-1].start_step == 0
    note = walks.progress(collect(Campaigns(memory_jobstore), "c", Limits())).note
    assert f"cycle 1: w0 rolled back to its start, {walker.steps_thrown_away} steps thrown away" in note
    write_export(tmp_path / "export", Campaigns(memory_jobstore), "c")
    readme = (tmp_path / "export/README.md").read_text()
    assert f"| walks thrown away | w0 1 ({walker.steps_thrown_away} steps): states that only an early" in readme


def test_a_thermal_state_is_resumed(run_loop):
    maker = loop(halts=[Halt(step=100)], displacement_A=0.1, **linear())
    final = run_loop(maker.make(COPPER, 600, campaign_id="c"))
    assert (final.status, final.walkers[0].n_rolled_back) == ("CONVERGED", 0)


def test_after_an_evaporation_a_walker_goes_back_to_its_start(run_loop, stored_documents):
    final = run_loop(loop(halts=[Halt(step=100, reason="evaporation")]).make(COPPER, 300, campaign_id="c"))
    assert final.status == "CONVERGED"
    (thrown,) = {d.cycle: d for d in stored_documents(OTFDocument)}[1].thrown_away
    assert (thrown.reason, thrown.energy_above_start_eV_atom) == ("evaporation", None)
    labels = stored_documents(OTFDocument)
    assert labels[1].n_new_labels > 0, "the last valid frame is labelled all the same"


def test_labels_of_a_walk_that_is_thrown_away_do_not_end_the_loop(run_loop, monkeypatch):
    maker = loop(halts=[Halt(step=100, reason="evaporation")])
    calls = []
    train = StandInTrainer.train

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise TrainingError("these labels are not for me")
        return train(self, *args, **kwargs)

    monkeypatch.setattr(StandInTrainer, "train", failing)
    final = run_loop(maker.make(COPPER, 300, campaign_id="c"))
    assert len(calls) == 2
    assert final.status == "CONVERGED", final.why
    assert final.walkers[0].n_rolled_back == 1
