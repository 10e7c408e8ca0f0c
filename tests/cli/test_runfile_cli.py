"""The run file and the command line, as a user meets them."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING

import ase.io
import pytest
import yaml
from ase.build import bulk
from forked_commands import ForkedCommand
from paths import ROOT
from PIL import Image
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, FAILED, NOT_CONVERGED, app, open_store
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.runfile.model import RunFile

if TYPE_CHECKING:
    from pathlib import Path

TUTORIALS = ROOT / "tutorials"
SMALL = {
    "name": "small",
    "seed": 3,
    "structures": [{"bulk": {"name": "Cu", "cubic": True}, "repeat": [2, 2, 2]}],
    "conditions": [{"temperature_K": 600}],
    "oracle": {"kind": "emt"},
    "trainer": {"kind": "linear", "basis": {"number_of_functions_per_element": 20, "cutoff": 4.5}},
    "dynamics": {"n_steps": 400, "gamma_lo": 1.5, "gamma_hi": 3.0},
    "first_dataset": {"n_structures": 6, "n_test": 2, "rattle_amplitudes": [0.05, 0.1]},
    "validation": {"n_frames": 2, "interval_steps": 5},
}


def written(folder: Path, **changes) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


def prepare(path: Path):
    run = RunFile.load(path)
    return run.flow()


@pytest.mark.parametrize(
    "path",
    sorted([*TUTORIALS.glob("*.yaml"), *TUTORIALS.glob("metals/*.yaml")]),
    ids=lambda p: str(p.relative_to(TUTORIALS)),
)
def test_tutorials_are_valid(path: Path) -> None:
    assert prepare(path).jobs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"oracle": {"kind": "quantum-espresso"}}, r"oracle\.kind.*'emt'.*quantum-espresso"),
        ({"oracle": {"kind": "emt", "maker": {"foo": 1}}}, r"oracle\.maker.*foo.*EMTStaticMaker"),
        ({"dynamcs": {}}, "dynamcs"),
        ({"dynamics": {"n_step": 3}}, r"dynamics\.n_step"),
        ({"dynamics": {"n_steps": "many"}}, r"dynamics\.n_steps.*'many'"),
        ({"dynamics": {"gamma_lo": 3, "gamma_hi": 1}}, "gamma_hi is 1"),
        ({"conditions": []}, "conditions"),
        ({"conditions": [{"temperature_K": -3}]}, "temperature_K is -3"),
        ({"structures": []}, "structures"),
        ({"structures": [{"bulk": {"name": "Si"}}]}, r"line \d+, oracle: .*EMT was made for Ag, Al, .*not for Si"),
        ({"structures": [{"file": "no.cif"}]}, r"no\.cif"),
        ({"structures": [{"bulk": {"name": "Xx"}}]}, "Xx"),
        ({"structures": [{}]}, "either 'file' or 'bulk'"),
        ({"trainer": {"kind": "mace"}}, "'mace'"),
        ({"trainer": {"kind": "linear", "basis": {"cutof": 3}}}, "cutof"),
        ({"start_from": {"potential": "x.yaml"}}, r"x\.yaml"),
        ({"start_from": {"labels": "data.pckl.gzip"}}, "extxyz"),
        ({"stop": {"max_cycles": -1}}, "max_cycles is -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, change, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        prepare(written(tmp_path, **change))


def test_run_leaves_everything_in_one_folder_and_can_be_started_from(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    result = CliRunner().invoke(app, ["run", str(written(tmp_path)), "--folder", str(folder)])
    assert result.exit_code == CONVERGED, result.output
    assert "cycle   0" in result.output
    document = json.loads((folder / "result.json").read_text())
    assert document["status"] == "CONVERGED"
    dataset = ase.io.read(folder / "dataset.extxyz", index=":")
    assert len(dataset) == document["n_labels"]
    assert (folder / "parity.png").stat().st_size > 10_000
    assert Image.open(folder / "parity.png").width == 3 * 675  # energies, forces and stresses
    assert re.search(r"│ report +│ ", result.output), result.output
    assert "CONVERGED" in (folder / "report.html").read_text()
    files = [folder / "potential" / f"potential.{suffix}" for suffix in ("yaml", "asi")]
    potential = ACEPotential.from_files(*files, document["potential"]["reference_energies_eV"])
    atoms = bulk("Cu", cubic=True)
    atoms.calc = potential.calculator()
    assert atoms.get_potential_energy() / 4 == pytest.approx(0.0, abs=0.05)  # EMT's zero is near fcc copper

    again = CliRunner().invoke(app, ["run", str(tmp_path / "run.yaml"), "--folder", str(folder)])
    assert again.exit_code == FAILED
    assert "--overwrite" in again.output

    start = {
        "potential": str(files[0]),
        "active_set": str(files[1]),
        "reference_energies": document["potential"]["reference_energies_eV"],
        "labels": str(folder / "dataset.extxyz"),
    }
    continued = written(tmp_path, start_from=start, conditions=[{"temperature_K": 700}])
    second = CliRunner().invoke(app, ["run", str(continued), "--folder", str(tmp_path / "second")])
    assert second.exit_code == CONVERGED, second.output
    result2 = json.loads((tmp_path / "second" / "result.json").read_text())
    assert result2["n_labels"] >= document["n_labels"]


def test_exit_code_tells_that_it_did_not_converge(tmp_path: Path) -> None:
    hard = {"dynamics": {"n_steps": 4000, "gamma_lo": 1.01, "gamma_hi": 1.02}, "stop": {"max_cycles": 1}}
    hard["selection"] = {"gamma_min": 1.01}
    path = written(tmp_path, validation=None, conditions=[{"temperature_K": 1500}], **hard)
    result = CliRunner().invoke(app, ["run", str(path), "--folder", str(tmp_path / "out")])
    assert result.exit_code == NOT_CONVERGED, result.output
    assert "MAX_ITER_REACHED" in result.output
    assert (tmp_path / "out" / "potential" / "potential.yace").is_file()


def test_a_killed_run_is_resumed_and_then_extended(tmp_path: Path) -> None:
    """SIGKILL to the whole group, as when a node goes down."""
    hot = {"conditions": [{"temperature_K": 1200}], "dynamics": {**SMALL["dynamics"], "n_steps": 700}}
    path, folder = written(tmp_path, validation=None, **hot), tmp_path / "out"
    process = ForkedCommand(["run", str(path), "--folder", str(folder)], together=True, own_group=True)
    shown: list[str] = []
    for line in process.stdout:
        shown.append(line)
        if line.startswith("cycle   0"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert shown, "nothing was printed"
    assert "halted" in shown[-1], shown

    def invoke(command: str, file: Path):
        return CliRunner().invoke(app, [command, str(file), "--folder", str(folder)])

    assert "mlip-autopipec resume" in invoke("run", path).output
    in_the_way = folder / "report.html"
    in_the_way.mkdir()
    resumed = invoke("resume", path)
    assert resumed.exit_code == CONVERGED, resumed.output
    (warning,) = [line for line in resumed.output.splitlines() if "no report" in line]
    assert f"IsADirectoryError: [Errno 21] Is a directory: '{in_the_way}'" in warning
    assert "Traceback" in (folder / "campaign.log").read_text()
    assert resumed.output.count("IsADirectoryError") == 1, "its traceback is in the log alone"
    in_the_way.rmdir()
    labels = open_store(folder / "store").query({"output.kind": "label", "output.reused_from": None}, ["output.key"])
    keys = [doc["output"]["key"] for doc in labels]
    assert len(keys) == len(set(keys)), "a label was computed twice"
    first = json.loads((folder / "result.json").read_text())
    assert invoke("resume", path).exit_code == FAILED
    assert "nothing is left to do" in invoke("extend", path).output

    larger = {"kind": "linear", "basis": {"number_of_functions_per_element": 30, "cutoff": 4.5}}
    refused = invoke("extend", written(tmp_path, validation=None, trainer=larger, **hot))
    assert refused.exit_code == FAILED, "a fine-tune would silently keep the basis there is"
    assert "number_of_functions_per_element 20 -> 30" in refused.output
    further = written(tmp_path, validation=None, **{**hot, "conditions": [*hot["conditions"], {"temperature_K": 300}]})
    extended = invoke("extend", further)
    assert extended.exit_code == CONVERGED, extended.output
    second = json.loads((folder / "result.json").read_text())
    assert [w["condition"]["temperature_K"] for w in second["walkers"]] == [1200, 300]
    assert second["n_labels"] >= first["n_labels"] > 8
    assert second["campaign_id"] == first["campaign_id"]
    assert in_the_way.is_file()


def test_resume_needs_a_campaign(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["resume", str(written(tmp_path)), "--folder", str(tmp_path / "none")])
    assert result.exit_code == FAILED
    assert "holds no campaign" in result.output


def test_a_bad_run_file_is_told_in_one_message(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(written(tmp_path, sed=1)), "--folder", str(tmp_path / "out")])
    assert result.exit_code == FAILED
    assert "sed" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change", [{"conditions": [{"temperature_K": -1}]}, {"oracle": {"kind": "vasp"}}], ids=["condition", "validation"]
)
def test_an_old_run_is_not_deleted_for_a_run_that_is_refused(tmp_path: Path, change) -> None:
    old = tmp_path / "out" / "result.json"
    old.parent.mkdir()
    old.write_text("{}")
    arguments = ["run", str(written(tmp_path, **change)), "--folder", str(old.parent), "--overwrite"]
    assert CliRunner().invoke(app, arguments).exit_code == FAILED
    assert old.read_text() == "{}"
