"""run, resume and extend as scripts use them: JSON, exit codes, Ctrl-C, --dry-run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import GPa
from forked_commands import ForkedCommand
from run_files import SMALL
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, FAILED, ExitCode, app, open_store
from mlip_autopipec.cli.exit_codes import MEANING, exit_code
from mlip_autopipec.schemas.loop import LoopStatus

PROGRAM = [sys.executable, "-W", "ignore", "-m", "mlip_autopipec.cli"]


def written(folder: Path, **changes) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


def started(path: Path, folder: Path) -> ForkedCommand:
    """``run`` in a process group of its own, MD of cycle 1 under way; it stands still until SIGCONT."""
    process = ForkedCommand(["run", str(path), "--folder", str(folder)], together=True, own_group=True)
    for line in process.stdout:
        if line.startswith("cycle   0"):
            assert "halted" in line, line
            break
    for _ in range(3000):
        if len(list(folder.glob("jobs/*/exploration-*/exploration.log"))) == 2:
            os.killpg(process.pid, signal.SIGSTOP)
            return process
        time.sleep(0.02)
    raise AssertionError(f"no MD of cycle 1 within a minute; exit code {process.poll()}")


def overwritten(path: Path, folder: Path):
    return CliRunner().invoke(app, ["run", str(path), "--folder", str(folder), "--overwrite"])


def dry_run(path: Path) -> str:
    result = CliRunner().invoke(app, ["run", str(path), "--dry-run", "--no-measure"])
    assert result.exit_code == CONVERGED, result.output
    return result.output


def in_group(group: int) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.mark.long
@pytest.mark.usefixtures("imported_anew")  # a signal while one forks may be lost
def test_after_ctrl_c_resume_goes_on_and_json_is_all_that_stands_in_its_standard_output(tmp_path):
    path, folder = written(tmp_path, dynamics={**SMALL["dynamics"], "n_steps": 1200}), tmp_path / "out"
    process = started(path, folder)
    second = CliRunner().invoke(app, ["resume", str(path), "--folder", str(folder)])
    assert second.exit_code == FAILED, "two processes would do everything twice"
    assert f"is run by process {process.pid} on " in second.output
    assert f"is run by process {process.pid} on " in overwritten(path, folder).output
    assert json.loads(CliRunner().invoke(app, ["status", str(folder), "--json"]).stdout)["running"] is True
    process.send_signal(signal.SIGINT)  # a terminal would send it to LAMMPS, too; so we have to end it ourselves
    os.killpg(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == ExitCode.INTERRUPTED == 130, said
    assert f"mlip-autopipec resume {path} --folder {folder}" in said
    assert "Traceback" not in said
    for _ in range(600):  # SIGKILL takes a moment on a busy machine
        if not in_group(process.pid):
            break
        time.sleep(0.1)
    assert in_group(process.pid) == []
    stands = CliRunner().invoke(app, ["status", str(folder)]).output
    assert "interrupted while exploring by MD" in stands
    assert "no process runs it" in stands

    done = subprocess.run(
        [*PROGRAM, "resume", str(path), "--folder", str(folder), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == CONVERGED, done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], document["exit_code"]) == ("CONVERGED", 0)
    assert document["errors"]["train"]["forces_rmse_meV_A"] > 0
    assert all(Path(file).is_file() for file in document["potential"])
    assert {Path(file).suffix for file in document["potential"]} == {".yaml", ".yace", ".asi", ".npz"}
    assert Path(document["report"]).stat().st_size > 1e6
    assert "cycle   1" in done.stderr
    labels = open_store(folder / "store").query({"output.kind": "label", "output.reused_from": None}, ["output.key"])
    keys = [doc["output"]["key"] for doc in labels]
    assert len(keys) == len(set(keys)) > 8, "a label was computed twice"

    again = CliRunner().invoke(app, ["run", str(path), "--folder", str(folder), "--json"])
    assert again.exit_code == FAILED
    error = json.loads(again.stdout)
    assert (error["status"], error["exit_code"]) == ("ERROR", FAILED)
    assert "--overwrite" in error["error"]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_of_a_batch_system_or_a_closed_terminal_ends_it_as_ctrl_c_does(tmp_path, monkeypatch, sent):
    before = signal.signal(sent, signal.SIG_DFL)
    monkeypatch.setattr("mlip_autopipec.managers.local.run_flows", lambda *_, **__: os.kill(os.getpid(), sent))
    result = CliRunner().invoke(app, ["run", str(written(tmp_path)), "--folder", str(tmp_path / "out")])
    assert result.exit_code == ExitCode.INTERRUPTED
    assert "interrupted" in result.output
    assert signal.signal(sent, before) is signal.SIG_DFL


def test_interrupted_before_anything_was_computed(tmp_path, monkeypatch):
    """A real signal would have to hit the second between the two."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlip_autopipec.managers.local.run_flows", interrupted)
    path, folder = written(tmp_path), tmp_path / "out"
    result = CliRunner().invoke(app, ["run", str(path), "--folder", str(folder), "--json"])
    assert result.exit_code == ExitCode.INTERRUPTED
    document = json.loads(result.stdout)
    assert document["status"] == "INTERRUPTED"
    assert document["go_on"] == f"mlip-autopipec run {path} --folder {folder} --overwrite"


def test_overwrite_deletes_campaigns_and_nothing_else(tmp_path, monkeypatch):
    path, folder = written(tmp_path), tmp_path / "home"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years")
    (folder / "store").mkdir()  # named as a campaign's, and none
    (folder / "store" / "labels").touch()
    assert "holds no campaign" in overwritten(path, folder).output
    assert (folder / "thesis.tex").read_text() == "years"
    assert (folder / "store" / "labels").exists()


def test_a_run_file_that_is_not_there_is_told_with_the_one_that_was_meant(tmp_path):
    path = written(tmp_path)
    told = CliRunner().invoke(app, ["run", str(tmp_path / "runn.yaml"), "--dry-run"]).output
    assert "does not exist" in told
    assert str(path) in told
    # a folder stands for the run files in it, none of which was begun
    assert "does not hold the campaigns ['small']" in CliRunner().invoke(app, ["extend", str(tmp_path)]).output


def test_an_error_that_looks_like_markup_is_told_whole(tmp_path):
    result = CliRunner().invoke(app, ["run", str(written(tmp_path, name="[red]x[/]", sed=1))])
    assert result.exit_code == FAILED
    result = CliRunner().invoke(app, ["run", str(tmp_path / "[bold].yaml")])
    assert "[bold].yaml" in result.output


def test_dry_run_says_what_would_be_done_and_does_nothing(tmp_path):
    validation = {"n_frames": 3, "interval_steps": 10}
    path = written(
        tmp_path, stop={"max_cycles": 5}, validation=validation, conditions=[{"temperature_K": t} for t in (300, 600)]
    )
    folder = tmp_path / "out"
    result = CliRunner().invoke(app, ["run", str(path), "--folder", str(folder), "--dry-run", "--json"])
    assert result.exit_code == CONVERGED, result.output
    plan = json.loads(result.stdout)
    assert plan["structures"] == ["Cu32 (32 atoms)"]
    assert (plan["n_walkers"], plan["n_steps"], plan["md_atom_steps"]) == (2, 300, 2 * 300 * 32)
    assert (plan["first_labels"], plan["labels_per_cycle"], plan["most_labels"]) == (8, 3, 23)
    assert plan["validation_labels"] == 60
    assert plan["label_seconds"] > 0
    assert plan["oracle_hours"] == pytest.approx(83 * plan["label_seconds"] / 3600)
    assert not folder.exists()
    shown = CliRunner().invoke(app, ["run", str(path), "--dry-run", "--no-measure"])
    assert "labels at most" in shown.output
    assert "unknown" in shown.output


def test_dry_run_computes_one_label_by_the_teacher(tmp_path):
    """One that could not compute it was found out when the campaign had begun."""
    free = {"n_labels": 40, "interval_steps": 10}

    def planned(teacher, *options):
        path = written(tmp_path, teacher=teacher)
        return CliRunner().invoke(app, ["run", str(path), "--dry-run", *options])

    result = planned({"kind": "emt", **free}, "--json")
    plan = json.loads(result.stdout)
    assert plan["teacher_seconds"] > 0
    assert plan["teacher_hours"] == pytest.approx(310 * plan["teacher_seconds"] / 3600)
    assert plan["label_seconds"] > 0
    missing = {"calculator_class": "ase.calculators.eam.EAM", "calculator_kwargs": {"potential": "no.alloy"}}
    eam = {"kind": "ase", "maker": missing, **free}
    result = planned(eam, "--measure")
    assert result.exit_code == FAILED
    told = " ".join(result.output.split())
    assert 'the teacher EAM {"potential": "no.alloy"} could not compute Cu32: FileNotFoundError' in told
    assert "section teacher of the run file" in told
    for options in ((), ("--no-measure",)):
        result = planned(eam, *options)
        assert result.exit_code == CONVERGED, result.output
        assert "a label of ase was not computed" in " ".join(result.output.split())


def test_dry_run_tells_of_a_lattice_constant_that_is_not_the_oracles(tmp_path):
    """Positive when compressed; the potential would be learnt where nobody wants it."""

    def planned(**changes):
        result = CliRunner().invoke(app, ["run", str(written(tmp_path, **changes)), "--dry-run", "--json"])
        return json.loads(result.stdout)

    plan = planned()
    assert abs(plan["pressure_GPa"]) < 4
    assert plan["notes"] == []
    small = [{"bulk": {"name": "Cu", "cubic": True, "a": 3.5}, "repeat": [2, 2, 2]}]
    plan = planned(structures=small)
    copper = bulk("Cu", cubic=True, a=3.5)
    copper.calc = EMT()
    assert plan["pressure_GPa"] == pytest.approx(-copper.get_stress()[:3].mean() / GPa)
    assert f"by emt the structure is under {plan['pressure_GPa']:.1f} GPa" in plan["notes"][0]
    assert planned(structures=small, dynamics={**SMALL["dynamics"], "ensemble": "npt"})["notes"] == []


@pytest.mark.parametrize(
    ("changes", "most"),
    [({"stop": {"max_labels": 10}}, 10), ({"stop": {"max_labels": 9}}, 9), ({"stop": {"max_cycles": 0}}, 8)],
)
def test_dry_run_counts_labels_at_most(tmp_path, changes, most):
    result = CliRunner().invoke(app, ["run", str(written(tmp_path, **changes)), "--dry-run", "--no-measure", "--json"])
    assert json.loads(result.stdout)["most_labels"] == most


def test_dry_run_refuses_what_run_refuses_and_warns_of_a_basis_that_is_too_large(tmp_path):
    refused = CliRunner().invoke(app, ["run", str(written(tmp_path, structures=[{"file": "no.cif"}])), "--dry-run"])
    assert refused.exit_code == FAILED
    assert "no.cif" in refused.output
    refused = CliRunner().invoke(app, ["run", str(written(tmp_path, stop={"max_labels": 2})), "--dry-run"])
    assert re.search(r"line \d+, stop\.max_labels: .*first dataset alone has 8", refused.output)
    large = {"kind": "linear", "basis": {"number_of_functions_per_element": 5000}}
    result = CliRunner().invoke(app, ["run", str(written(tmp_path, trainer=large)), "--dry-run", "--json"])
    (note,) = json.loads(result.stdout)["notes"]
    assert "5000 basis functions" in note


def test_what_is_hardly_meant_is_told_and_run_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("MLIP_AUTOPIPEC_PACEMAKER_CMD", "/no/such/pacemaker")
    untrainable = dry_run(written(tmp_path, trainer={"kind": "pacemaker"}))
    assert "note: trainer pacemaker: '/no/such/pacemaker' was not found" in untrainable, "before labels are bought"
    assert "note:" not in dry_run(written(tmp_path))
    path = written(
        tmp_path,
        conditions=[{"temperature_K": 30000}],
        dynamics={"timestep_fs": 20},
    )
    shown = dry_run(path)
    assert re.search(r"conditions: 30000 K is above the boiling point of Cu, \d+ K", shown)
    assert "dynamics.timestep_fs is 20; with Cu 2 is usual" in shown
    basis = {"number_of_functions_per_element": 20, "cutoff": 2.0}
    blind = written(tmp_path, trainer={"kind": "linear", "basis": basis})
    refused = CliRunner().invoke(app, ["run", str(blind), "--dry-run"])
    assert refused.exit_code == ExitCode.FAILED
    assert "no atom has another one within the cutoff of 2 A" in " ".join(refused.output.split())
    alloy = [{"bulk": {"name": "CuAu", "crystalstructure": "cesiumchloride", "a": 3.2}, "repeat": [3, 3, 3]}]
    assert "30000 K; no compound" in dry_run(
        written(tmp_path, structures=alloy, conditions=[{"temperature_K": 30000}], stop={"max_cycles": 1})
    )
    small = written(tmp_path, structures=[{"bulk": {"name": "Cu", "cubic": True}}])
    assert "Cu4 is 3.6 A wide, less than the cutoff of 4.5 A" in dry_run(small)
    # zinc boils at 1180 K and copper at 2835 K; what holds for the elements does not for their compounds
    brass = [{"bulk": {"name": "CuZn", "crystalstructure": "cesiumchloride", "a": 2.95}, "repeat": [3, 3, 3]}]
    alloy = written(tmp_path, structures=brass, oracle={"kind": "vasp"}, conditions=[{"temperature_K": 3000}])
    assert "boiling" not in dry_run(alloy)


def test_every_status_has_an_exit_code_and_every_code_a_meaning():
    assert {exit_code(status) for status in LoopStatus} < set(ExitCode) == set(MEANING)
    assert exit_code(LoopStatus.BUDGET_SPENT) not in (exit_code(LoopStatus.CONVERGED), exit_code(LoopStatus.FAILED))
    shown = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for code, meaning in MEANING.items():
        assert f"{code.value}: {meaning}" in shown


@pytest.mark.parametrize("name", ["run", "resume", "extend", "schema"])
def test_help_teaches_by_examples(name):
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert f"mlip-autopipec {name}" in result.output


def test_an_engine_that_is_not_there_costs_no_label(tmp_path, monkeypatch):
    monkeypatch.setenv("MLIP_AUTOPIPEC_LAMMPS_CMD", "no-such-lmp")
    path, folder = written(tmp_path, dynamics={**SMALL["dynamics"], "engine": "executable"}), tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(path), "--folder", str(folder)])
    assert done.exit_code == FAILED
    assert "the LAMMPS command 'no-such-lmp' was not found on PATH" in " ".join(done.output.split())
    assert not (folder / "store").exists()


def test_what_a_teacher_failed_of_is_told_when_it_fails_and_in_the_last_line(tmp_path):
    maker = {"calculator_class": "ase.calculators.eam.EAM", "calculator_kwargs": {"potential": "no.alloy"}}
    path = written(tmp_path, teacher={"kind": "ase", "maker": maker, "n_labels": 8})
    result = CliRunner().invoke(app, ["run", str(path), "--folder", str(tmp_path / "out"), "--workers", "0"])
    assert result.exit_code == ExitCode.FAILED, result.output
    told = " ".join(result.output.split())
    assert "FAILED: step 'teach' of cycle 0 failed: the teacher has not come: the teacher EAM" in told
    assert told.count("No such file or directory: 'no.alloy'") == 2, told
    assert "request labels" not in told
    assert "request labels c000 failed" in (tmp_path / "out" / "campaign.log").read_text()
