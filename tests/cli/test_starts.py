"""What a run file may start is one list, shown before anything runs; names of any letters are shown as they are."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml
from paths import ROOT
from run_files import QUIET
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, FAILED, app
from mlip_autopipec.lammps.input_script import shipped_template
from mlip_autopipec.runfile.starts import STARTS


def dry(tmp_path, **over):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**QUIET, **over}))
    return CliRunner().invoke(app, ["run", str(path), "--dry-run", "--no-measure", "--json"])


def test_a_run_file_that_starts_nothing_says_so(tmp_path):
    result = dry(tmp_path)
    assert result.exit_code == CONVERGED, result.output
    plan = json.loads(result.stdout)
    assert plan["starts"] == plan["programs"] == []


def test_what_is_started_is_told_with_its_field(tmp_path):
    (tmp_path / "md.lmp").write_text(shipped_template())
    trainer = {
        "kind": "pacemaker",
        "command": "srun pacemaker",
        "input_sections": {"fit": {"callbacks": ["my.function"]}},
    }
    result = dry(tmp_path, trainer=trainer, dynamics={**QUIET["dynamics"], "template": "md.lmp"})
    assert result.exit_code == CONVERGED, result.output
    starts = json.loads(result.stdout)["starts"]
    assert [line.partition(":")[0] for line in starts] == [
        "trainer.command",
        "trainer.input_sections.fit.callbacks",
        "dynamics.template",
    ]
    assert "srun pacemaker (a program that fits)" in starts[0]


def test_the_engine_that_auto_takes_is_told(tmp_path, monkeypatch):
    """A LAMMPS without ML-PACE is not started; which one auto takes depends on the settings, too."""
    lacking, able = tmp_path / "lacking", tmp_path / "able"
    lacking.write_text("#!/bin/sh\necho LAMMPS: pair styles: eam zero\n")
    able.write_text("#!/bin/sh\necho LAMMPS: pair styles: eam pace/extrapolation\n")
    quiet = {name: value for name, value in QUIET["dynamics"].items() if name != "engine"}
    library = "LAMMPS as a Python library, forces by pyace"
    for command, dynamics, told in (
        (lacking, {}, f"{library} (the LAMMPS command '{lacking}' ({lacking}) has no pair_style pace/extrapolation)"),
        (able, {}, f"LAMMPS: {able}"),
        (able, {"max_force_std_eV_A": 1.0}, f"{library} (dynamics.max_force_std_eV_A needs it)"),
    ):
        command.chmod(0o755)
        monkeypatch.setenv("MLIP_AUTOPIPEC_LAMMPS_CMD", str(command))
        result = dry(tmp_path, dynamics={**quiet, **dynamics}, trainer={"kind": "linear"})
        assert result.exit_code == CONVERGED, result.output
        assert json.loads(result.stdout)["programs"] == [told]
    waiting = tmp_path / "srun"
    waiting.write_text(f"#!/bin/sh\ntouch {tmp_path / 'waited'}\n")
    waiting.chmod(0o755)
    monkeypatch.setenv("MLIP_AUTOPIPEC_LAMMPS_CMD", f"{waiting} lmp")
    for engine, told in (("auto", "; as a Python library, forces by pyace, if that lacks ML-PACE"), ("executable", "")):
        result = dry(tmp_path, dynamics={**quiet, "engine": engine})
        assert json.loads(result.stdout)["programs"] == [f"LAMMPS: {waiting} lmp{told}"]
    assert not (tmp_path / "waited").exists(), "a launcher is not started for a dry run"
    monkeypatch.setenv("MLIP_AUTOPIPEC_LAMMPS_CMD", str(lacking))
    plan = json.loads(dry(tmp_path, dynamics={**quiet, "engine": "executable"}).stdout)
    assert plan["programs"] == [f"LAMMPS: {lacking}"]
    (told,) = [note for note in plan["notes"] if note.startswith("dynamics.engine is executable")]
    assert "has no pair_style" in told
    assert "run refuses it on this machine" in told


def test_a_code_that_is_not_here_is_told_with_its_files(tmp_path, monkeypatch):
    """Else all labels fail, one after the other."""
    monkeypatch.setenv("MLIP_AUTOPIPEC_ESPRESSO_CMD", str(tmp_path / "pw.x"))
    monkeypatch.delenv("MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR", raising=False)
    maker = {"pseudopotentials": {"Cu": "Cu.upf"}, "input_data": {"system": {"ecutwfc": 40}}}

    def told():
        result = dry(tmp_path, oracle={"kind": "espresso", "maker": maker})
        assert result.exit_code == CONVERGED, result.output
        return [note for note in json.loads(result.stdout)["notes"] if note.startswith("oracle")]

    program, files = told()
    assert "pw.x' is not on PATH here, and labels need it: set MLIP_AUTOPIPEC_ESPRESSO_CMD" in program
    assert "Cu.upf is not here: no folder is named, and labels need pseudopotentials" in files
    maker["pseudo_dir"] = str(tmp_path)
    (tmp_path / "pw.x").write_text("")
    (tmp_path / "pw.x").chmod(0o755)
    (files,) = told()
    assert f"Cu.upf is not in {tmp_path}" in files
    (tmp_path / "Cu.upf").write_text("")
    assert told() == []


def test_the_page_has_the_same_list():
    page = (ROOT / "docs/command-line.md").read_text()
    for start in STARTS:
        assert f"`{start.field}`" in page, start


@pytest.mark.parametrize("called", ["antigravity.Calc", "my_module.Calc", "subprocess.Popen", "os"])
def test_a_calculator_of_an_unknown_package_is_refused_before_it_is_imported(tmp_path, called, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_module.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')\nclass Calc: pass\n")
    result = dry(tmp_path, oracle={"kind": "ase", "maker": {"calculator_class": called}})
    assert result.exit_code == FAILED
    assert "calculator_class" in json.loads(result.stdout)["error"]
    assert not (tmp_path / "touched").exists()


def test_the_owner_of_the_machine_may_allow_a_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_lab_calculators.py").write_text("from ase.calculators.emt import EMT\nclass Calc(EMT): pass\n")
    monkeypatch.setenv("MLIP_AUTOPIPEC_CODE_FROM", "my_lab_calculators")
    maker = {"calculator_class": "my_lab_calculators.Calc", "energy_kind": "potential_energy"}
    result = dry(tmp_path, oracle={"kind": "ase", "maker": maker})
    assert result.exit_code == CONVERGED, result.output
    (line,) = json.loads(result.stdout)["starts"]
    assert line.startswith("oracle.maker.calculator_class: my_lab_calculators.Calc")


@pytest.mark.parametrize("name", ["a[/]b", "[red]x", "[bold]", "a]b[", "<b>&x", "Cu15(PdAu)14"])
def test_names_are_shown_as_they_are(tmp_path, name):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**QUIET, "name": name}))
    result = CliRunner().invoke(app, ["run", str(path), "--dry-run", "--no-measure"])
    assert result.exit_code == CONVERGED, result.exception
    assert name in result.output


def test_a_campaign_of_a_strange_name_in_a_strange_folder_runs(tmp_path, monkeypatch):
    folder = tmp_path / "[bold]x [/red]"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    name = "a[/]b <b>&x"
    (folder / "r [bold].yaml").write_text(yaml.safe_dump({**QUIET, "name": name}))
    for arguments in (
        ["run", "r [bold].yaml"],
        ["status", f"runs/{name}"],
        ["status", "r [bold].yaml"],
        ["report", f"runs/{name}"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code in (0, 3, 4), result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    page = (folder / "runs" / name / "report.html").read_text()
    assert "<b>&x" not in page.partition("</style>")[2].partition("<script")[0]
    assert name in CliRunner().invoke(app, ["run", "r [bold].yaml"]).output


def test_a_name_with_control_characters_is_refused(tmp_path):
    for name in ("a\x1b[31mb", "a\nb", "x" * 400):
        result = dry(tmp_path, name=name)
        assert result.exit_code == FAILED
        assert "name: name is '" in json.loads(result.stdout)["error"]


def test_printed_commands_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["init", "-e", "Cu", "--name", "Cu15Ni14Ag15(PdAu)14 x"])
    assert result.exit_code == CONVERGED, result.output
    line = result.output.splitlines()[-1].strip()
    assert shlex.split(line) == ["mlip-autopipec", "run", "Cu15Ni14Ag15(PdAu)14 x.yaml"]
