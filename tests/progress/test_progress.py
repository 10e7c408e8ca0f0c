"""How far a campaign is: by its documents, by the files of MD and fit, on screens wide and narrow, in a terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml
from ase.build import bulk
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from oracles import emt_oracle
from rich.console import Console
from run_files import SMALL

from mlip_autopipec.cli.exit_codes import ExitCode
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.database.disk import open_store
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.jobs.teach import TeachMaker
from mlip_autopipec.lammps import input_script
from mlip_autopipec.lammps.exploration import run_exploration
from mlip_autopipec.lammps.readback import read_looks
from mlip_autopipec.lammps.types import Condition, MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.managers.local import RunningJob, Watch
from mlip_autopipec.progress import CampaignProgress, Shown, WalkerProgress, live, live_view, progress_of
from mlip_autopipec.progress.files import read_fit, read_look
from mlip_autopipec.progress.forecast import forecast
from mlip_autopipec.progress.live import with_jobs
from mlip_autopipec.progress.show import duration
from mlip_autopipec.progress.types import Budget, FitLoss, Forecast, Labels, Look
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop

if TYPE_CHECKING:
    from pathlib import Path

#: The first lines of metrics.txt of a real fit by pacemaker, columns left out.
METRICS = """\
ladder_step cycle_step iter_num loss                   e_loss_contrib         f_loss_contrib        \n\
0           0          0        0.16437351434661343    0.0036883568114725158  0.16068515753514093   \n\
0           0          1        0.16267753397569007    0.00433831080893913    0.15833922316675094   \n\
0           0          2        0.1497"""


def rendered(progress: CampaignProgress, width: int, **options) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO(), soft_wrap=True, highlight=False)
    console.print(Shown(progress, **options))
    return [line.rstrip() for line in console.export_text().splitlines()]


def running(name: str, folder: Path, worker: int = 0) -> RunningJob:
    return RunningJob("some", 1, name, folder, worker, 0, time.monotonic() - 5)


def plain_text(shown: str) -> str:
    """What a terminal was sent, without its codes."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)


@pytest.fixture(scope="module")
def complete() -> JobStore:
    """A campaign of two walkers: w0 halts once, one label of cycle 1 fails."""
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    maker = stand_in_loop(
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100, walker=0)]),
        oracle_maker=StandInOracleMaker(failing=["c001 000"]),
        stop_rule=StopRule(max_cycles=7, max_labels=90, max_hours=5.0, n_check_labels=0),
    )
    flow = maker.make(bulk("Cu", cubic=True), [300, 600], campaign_id="copper")
    run_locally(flow, store=store, log=False)
    return store


@pytest.fixture
def halfway(complete: JobStore) -> Campaigns:
    """The same as it was when cycle 1 had labelled all but its last structure."""
    store = JobStore(MemoryStore(), additional_stores={"data": complete.additional_stores["data"]})
    store.connect()
    later = [
        {"output.kind": "loop", "output.cycle": {"$gte": 1}},
        {"output.kind": {"$in": ["labels", "potential", "walk"]}, "output.cycle": 1},
    ]
    for doc in complete.docs_store.query({"$nor": later}):
        store.docs_store.update({k: v for k, v in doc.items() if k != "_id"}, key=["uuid", "index"])
    labels = list(store.query({"output.kind": "label", "output.cycle": 1}, ["uuid", "output.index"]))
    store.docs_store.remove_docs({"uuid": max(labels, key=lambda doc: doc["output"]["index"])["uuid"]})
    return Campaigns(store)


def test_a_campaign_that_is_half_way(halfway: Campaigns) -> None:
    progress = progress_of(halfway, "copper")
    assert (progress.status, progress.cycle, progress.doing) == ("LEARNING", 1, "labelling")
    (selection,) = halfway.store.query({"output.kind": "selection"}, ["output"])
    asked = len(selection["output"]["choices"])
    before = halfway.cycles("copper")[0].n_labels
    assert asked >= 2
    assert progress.labels == Labels(asked=asked, done=asked - 2, failed=1, total=before + asked - 2)
    assert progress.labels.left == 1
    halted, through = progress.walkers
    assert (halted.state, halted.step, halted.n_halts, halted.reason) == ("halted", 100, 1, "gamma")
    assert (through.state, through.step) == ("through", through.n_steps)
    assert progress.budget == Budget(max_cycles=7, max_labels=90, max_hours=5.0)
    assert (progress.gamma_lo, progress.gamma_hi) == (MDSettings().gamma_lo, MDSettings().gamma_hi)
    assert progress.hours is not None
    assert 0 <= progress.hours < 1
    assert progress.forecast is None, "stand-ins take no time, so nothing is known"
    assert any("unknown yet" in line for line in rendered(progress, 80))


def test_labels_of_ones_own_are_told_apart_from_those_that_cost_something(emt_labelled) -> None:
    """Three given, one bought: the budget has one label of it."""
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    maker = stand_in_loop(
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100, walker=0)]),
        stop_rule=StopRule(max_labels=90, n_check_labels=0),
    )
    copper = bulk("Cu", cubic=True)
    flow = maker.make(
        copper, 300, labels=emt_labelled([bulk("Cu", a=a, cubic=True) for a in (3.6, 3.7, 3.8)]), campaign_id="copper"
    )
    run_locally(flow, store=store, log=False)
    progress = progress_of(Campaigns(store), "copper")
    (last,) = Campaigns(store).cycles("copper")[-1:]
    assert progress.labels.given == 3
    assert progress.labels.total == last.n_labels > 3
    assert f"{last.n_labels} in all, 3 of them given" in " ".join(rendered(progress, 120))
    under_way = replace(progress, doing="labelling")
    assert f"{last.n_labels - 3} of 90 labels" in " ".join(rendered(under_way, 120))


def test_the_step_of_a_cycle_follows_from_what_it_left(complete: JobStore, halfway: Campaigns) -> None:
    def add(kind: str) -> str:
        for doc in complete.docs_store.query({"output.kind": kind, "output.cycle": 1}):
            halfway.store.docs_store.update({k: v for k, v in doc.items() if k != "_id"}, key=["uuid", "index"])
        return progress_of(halfway, "copper").doing

    assert [add(kind) for kind in ("label", "labels", "potential", "walk")] == [
        "labelling",
        "training",
        "exploring by MD",
        "assessing",
    ]
    assert progress_of(halfway, "copper").walkers[0].state == "through"


def test_before_the_first_assessment_and_after_the_last(complete: JobStore, halfway: Campaigns) -> None:
    ended = progress_of(Campaigns(complete), "copper")
    assert (ended.status, ended.doing) == ("CONVERGED", "")
    assert ended.labels.total == Campaigns(complete).status("copper").n_labels
    assert "CONVERGED" in rendered(ended, 80)[1]

    halfway.store.docs_store.remove_docs({"output.cycle": 1})
    halfway.store.docs_store.remove_docs({"output.kind": {"$in": ["loop", "labels", "potential", "walk"]}})
    first = progress_of(halfway, "copper")
    assert (first.cycle, first.doing) == (0, "labelling")
    assert first.labels.asked == first.labels.done == first.labels.total > 0
    assert [w.temperature_K for w in first.walkers] == [300, 600]
    assert {(w.state, w.step, w.formula) for w in first.walkers} == {("due", 0, "Cu4")}
    with pytest.raises(MLIPError, match="no campaign 'gold'"):
        progress_of(halfway, "gold")


def test_an_extension_is_seen_before_its_first_assessment(halfway: Campaigns, complete: JobStore) -> None:
    store = halfway.store
    for doc in complete.docs_store.query():
        store.docs_store.update({k: v for k, v in doc.items() if k != "_id"}, key=["uuid", "index"])
    assert progress_of(halfway, "copper").doing == ""
    flow = OTFMaker.extend("copper", store, conditions=[900])
    flow.jobs[0].run(store=store)
    progress = progress_of(halfway, "copper")
    assert (progress.cycle, progress.doing) == (2, "choosing what to label")
    assert [(w.index, w.temperature_K, w.state) for w in progress.walkers] == [
        (0, 300, "through"),
        (1, 600, "through"),
        (2, 900, "due"),
    ]
    flow.jobs[1].run(store=store)
    after = progress_of(halfway, "copper")
    assert [w.state for w in after.walkers] == ["through"] * 3
    assert after.labels.total == progress.labels.total == halfway.status("copper").n_labels


def assessed(**fields) -> OTFDocument:
    return OTFDocument.model_construct(
        **{"cycle": 0, "n_new_labels": 4, "seconds": {"label": 40, "train": 20}, **fields}
    )


def made(**fields) -> CampaignProgress:
    walkers = (
        WalkerProgress(0, "Cu32", 1200, state="running", step=200, n_steps=1000, timestep_fs=1.0),
        WalkerProgress(1, "Cu32", 600, state="through", step=1000, n_steps=1000, timestep_fs=1.0),
    )
    given = {"walkers": walkers, "labels": Labels(asked=6, done=4, failed=0, total=14), "budget": Budget(max_cycles=5)}
    return CampaignProgress(
        **{
            "campaign_id": "copper",
            "name": "copper",
            "status": "LEARNING",
            "why": "",
            "cycle": 3,
            "doing": "labelling",
            **given,
            **fields,
        }
    )


def test_the_forecast_is_a_range_from_the_campaigns_own_pace() -> None:
    walks = [(100, 10.0), (300, 50.0)]
    slow = assessed(cycle=1, n_new_labels=2, seconds={"label": 60, "train": 30})
    found = forecast(made(), [assessed(), slow], walks, is_trained=False)
    assert found is not None
    assert found.least_s == pytest.approx(2 * 10 + 20 + 800 * 0.1)
    assert found.most_s == pytest.approx(2 * 30 + 30 + 800 * 60 / 400 + (5 - 3) * 90)
    assert forecast(made(), [assessed(n_new_labels=0)], walks, is_trained=False) is None
    assert forecast(made(), [assessed()], [], is_trained=False) is None
    endless = forecast(made(budget=Budget()), [assessed()], walks, is_trained=True)
    assert endless is not None
    assert endless.most_s is None
    in_hours = forecast(
        made(budget=Budget(max_cycles=500, max_hours=1.0), hours=0.5), [assessed()], walks, is_trained=True
    )
    assert in_hours is not None
    assert in_hours.most_s == pytest.approx(1800 + 60)
    assert found.later(50).least_s == pytest.approx(70)
    assert found.later(1e6) == Forecast(0.0, 0.0)


@pytest.mark.parametrize("width", [80, 40, 30])
def test_nothing_overflows(width: int) -> None:
    walkers = tuple(
        WalkerProgress(
            index=i,
            formula="Al12Cu4Mg108Si23" if i % 2 else "Cu",
            temperature_K=1250.5,
            pressure_GPa=12.5,
            state=state,
            step=123_456,
            n_steps=1_000_000,
            timestep_fs=2.0,
            n_halts=11,
            reason="core_repulsion",
            gamma_max=1.2e9,
            look=Look(234_567, 1301.2, 3.4) if state == "running" else None,
        )
        for i, state in enumerate(["running", "halted", "through", "waiting", "due", "not run"] * 3)
    )
    progress = made(
        campaign_id="a-campaign-with-a-name-that-goes-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on",
        walkers=walkers,
        fit=FitLoss(42, 200, 0.16, 0.0123),
        energy_rmse_meV_atom=12.34,
        forces_rmse_meV_A=123.4,
        errors_on="held-out",
        gamma_lo=1.5,
        gamma_hi=10.0,
        hours=12.0,
        budget=Budget(max_cycles=50, max_labels=1000, max_hours=72.0),
        forecast=Forecast(100.0, 1e6),
    )
    lines = rendered(progress, width, max_walkers=8, note="if nothing runs, resume it")
    assert max(map(len, lines)) <= width, "\n".join(lines)
    joined = re.sub(r"\s+", " ", " ".join(lines))
    words = ["iteration 42 of at most 200", "4 of 6", "50 cycles", "more through", "gamma 3.4", "1301 K"]
    if width == 30:  # words are broken only where there is no other way
        words = ["gamma", "50 cycles"]
    assert [word for word in words if word not in joined] == [], "\n".join(lines)
    assert sum("w0" in line for line in lines) == 1


def test_the_library_engine_can_be_followed(tmp_path: Path, copper_potential) -> None:
    """A real MD run: the trace it writes on its way is the one it returns, and what is cut off is left out."""
    settings = MDSettings(n_steps=60, gamma_every=10, gamma_lo=1e6, gamma_hi=1e6)
    result = run_exploration(
        bulk("Cu", cubic=True) * (2, 2, 2),
        copper_potential,
        Condition(300),
        settings,
        engine="library",
        directory=tmp_path,
    )
    (path,) = tmp_path.glob(f"exploration-*/{input_script.TRACE}")
    looks = list(read_looks(path))
    assert [look.step for look in looks] == result.trace["step"]
    assert [look.gamma_max for look in looks] == pytest.approx(result.trace["gamma_max"])
    assert [look.pressure_GPa for look in looks] == pytest.approx(result.trace["pressure_GPa"])
    assert {look.stop for look in looks} == {0}

    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:20])  # heading, steps 0, 10, 20; step 30 is being written
    look = read_look(tmp_path)
    assert look == Look(20, looks[2].temperature_K, looks[2].gamma_max)
    progress = with_jobs(made(), [running("explore c003 w00", tmp_path)])
    assert (progress.doing, progress.walkers[0].state, progress.walkers[0].look) == ("exploring by MD", "running", look)
    assert progress.walkers[1].look is None
    assert f"gamma {look.gamma_max:.1f}" in "".join(rendered(progress, 80))


def test_what_runs_on_which_worker_is_seen(tmp_path: Path) -> None:
    jobs = [running("label c003 004", tmp_path, worker=2), running("label c003 003", tmp_path, worker=1)]
    progress = with_jobs(made(), [*jobs, running("explore c003 w00", tmp_path, worker=3)])
    assert progress.doing == "labelling and exploring by MD"
    assert [walker.state for walker in progress.walkers].count("running") == 1
    shown = " ".join(" ".join(rendered(progress, 100)).split())
    assert "workers 1: label c003 003, 5 s; 2: label c003 004, 5 s; 3: explore c003 w00, 5 s" in shown
    many = with_jobs(made(), [running(f"label c003 {k:03d}", tmp_path, worker=k) for k in range(1, 17)])
    assert "8: label c003 008, 5 s; and 8 more" in " ".join(" ".join(rendered(many, 100)).split())


def test_md_of_the_oracle_for_the_validation_is_seen(tmp_path: Path, complete: JobStore) -> None:
    """It runs after the loop has ended: no forecast, no labels to come, and frames that come one by one."""
    store = open_store(tmp_path / "store")
    documents = [{k: v for k, v in doc.items() if k != "_id"} for doc in complete.query({}, load=True)]
    store.update(documents, key=["uuid", "index"], save={"data": ["payload"]})
    watch = Watch()
    watch((running("oracle MD w00 start", tmp_path, worker=1), running("oracle MD w01 end", tmp_path, worker=2)))
    view = live.View(Console(width=100), tmp_path, watch)
    for n_frames in (0, 3):
        frames = [
            {"uuid": f"run-{k}", "index": 1, "output": {"kind": "validation", "campaign_id": "copper", "number": k}}
            for k in range(n_frames)
        ]
        store.update(frames, key=["uuid", "index"])
        view._not_before = 0.0
        shown = view._look()
        lines = [" ".join(line.split()) for line in rendered(shown.progress, 100)]
        assert "copper, cycle 1: validating on MD of the oracle" in lines
        assert "workers 1: oracle MD w00 start, 5 s; 2: oracle MD w01 end, 5 s" in lines
        assert f"frames {n_frames} by MD of the oracle so far" in lines
        assert not [line for line in lines if line.startswith(("to go", "gamma"))]
    view._campaigns.store.close()
    store.close()


def test_a_fit_under_way_tells_its_loss(tmp_path: Path) -> None:
    assert read_fit(tmp_path) is None
    folder = tmp_path / "pacemaker-abc"
    folder.mkdir()
    (folder / "metrics.txt").write_text(METRICS.splitlines()[0][:30])
    assert read_fit(tmp_path) is None
    (folder / "metrics.txt").write_text(METRICS)
    (folder / "input.yaml").write_text("fit: {maxiter: 150}")
    assert read_fit(tmp_path) == FitLoss(1, 150, 0.16437351434661343, 0.16267753397569007)
    progress = with_jobs(made(), [running("train c003", tmp_path)])
    assert "iteration 1 of at most 150, loss 0.163 (began with 0.164)" in "\n".join(rendered(progress, 80))
    assert with_jobs(made(), [running("label c003 004", tmp_path)]).fit is None


@pytest.mark.parametrize(
    ("seconds", "told"), [(12, "12 s"), (700, "12 min"), (12_000, "3.3 h"), (1e5, "28 h"), (1e6, "11.6 days")]
)
def test_durations_are_told_in_the_unit_one_thinks_in(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_without_a_terminal_there_is_no_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich believe in a terminal
    monkeypatch.setattr(live, "View", None)
    written = io.StringIO()
    console = Console(file=written, highlight=False)
    with live_view(console, tmp_path):
        console.print("cycle   0", markup=False)
    assert written.getvalue() == "cycle   0\n"
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_a_step_that_takes_long_is_told_less_and_less_often(
    tmp_path: Path, halfway: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "EVERY_S", 0.02)
    monkeypatch.setattr(live, "FIRST_LINE_S", 0.2)
    store = open_store(tmp_path / "store")
    documents = [{k: v for k, v in doc.items() if k != "_id"} for doc in halfway.store.query({}, load=True)]
    store.update(documents, key=["uuid", "index"], save={"data": ["payload"]})
    written = io.StringIO()
    with live_view(Console(file=written, highlight=False), tmp_path):
        deadline = time.monotonic() + 20
        while written.getvalue().count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
    lines = written.getvalue().splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"cycle   1  labelling for 0 s  \| \d of \d labels \(1 failed\)", lines[0]), lines


def test_a_view_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(live, "EVERY_S", 0.05)
    (tmp_path / "store").write_text("no folder")
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, caplog.at_level(logging.WARNING):
        console = Console(file=terminal, force_terminal=True, width=80)
        with live_view(console, tmp_path):
            deadline = time.monotonic() + 20
            while not caplog.records and time.monotonic() < deadline:
                time.sleep(0.05)
            console.print("the campaign goes on")
    shown = ""
    with suppress(OSError):  # what is left in a terminal whose other end is closed, in pieces; then an error
        while piece := os.read(master, 100_000):
            shown += piece.decode()
    os.close(master)
    assert "the live view ends: FileExistsError" in caplog.text
    assert "the campaign goes on" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is hidden still"


def test_in_a_terminal_walkers_are_seen_and_ctrl_c_leaves_it_as_it_was(tmp_path: Path) -> None:
    """The real program in a terminal of its own, interrupted in the middle of MD."""
    # MD that is under way until it is interrupted
    run = {**SMALL, "dynamics": {"n_steps": 1_000_000, "gamma_lo": 50.0, "gamma_hi": 1e9, "gamma_explosion": 1e10}}
    path, folder = tmp_path / "run.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(run | {"conditions": [{"temperature_K": 100}]}))
    result = tmp_path / "result.json"  # standard output goes there: the view is on standard error
    words = [sys.executable, "-W", "ignore", "-m", "mlip_autopipec.cli", "run", str(path), "--folder", str(folder)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        os.dup2(os.open(result, os.O_CREAT | os.O_WRONLY), 1)
        os.execv(sys.executable, [*words, "--json"])
    shown, interrupted, deadline = "", False, time.monotonic() + 180
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        shown += data.decode(errors="replace")
        if not interrupted and re.search(r"\d K, gamma \d", plain_text(shown)):
            interrupted = True
            os.write(terminal, b"\x03")
    else:
        os.killpg(pid, signal.SIGKILL)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    plain = plain_text(shown)
    assert interrupted, plain[-2000:]
    assert os.waitstatus_to_exitcode(status) == ExitCode.INTERRUPTED, plain[-2000:]
    assert "cycle 0: exploring by MD" in plain
    assert "8 of 8 in this cycle, 8 in all" in plain
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is hidden still"
    assert plain.rstrip().splitlines()[-1].endswith(f"--folder {folder}"), plain[-500:]
    assert "Traceback" not in plain
    assert json.loads(result.read_text())["status"] == "INTERRUPTED"


def test_while_the_teacher_labels_it_is_said_so(memory_jobstore: JobStore) -> None:
    maker = OTFMaker(oracle_maker=emt_oracle(), teach_maker=TeachMaker(static_maker=EMTStaticMaker(), n_labels=8))
    flow = maker.make(bulk("Cu", a=3.6, cubic=True) * (2, 1, 1), 300, campaign_id="taught")
    memory_jobstore.connect()
    for step in ("record", "generate"):  # labels wait for the teacher, whatever else is done
        for job, _ in flow.iterflow():
            if job.name.startswith(step):
                job.run(memory_jobstore)
        assert progress_of(Campaigns(memory_jobstore), "taught").doing == "learning from the teacher"
