"""What docs/command-line.md shows is run, and what it says of exit codes, JSON and errors is so."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from paths import ROOT
from typer.main import get_command
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, ExitCode, app
from mlip_autopipec.cli.exit_codes import MEANING
from mlip_autopipec.cli.local import outcome
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.schemas.loop import LoopStatus, OTFDocument

PAGE = ROOT / "docs" / "command-line.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def commands(language: str) -> list[list[str]]:
    lines = [line for block in blocks(language) for line in block.splitlines() if line.startswith("mlip-autopipec")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def shortened(path: Path) -> None:
    """The same campaign with less of everything."""
    content = yaml.safe_load(path.read_text())
    content["conditions"] = content["conditions"][:1]
    content["dynamics"]["n_steps"] = 50
    content["trainer"]["basis"] = {"number_of_functions_per_element": 10, "cutoff": 5.0}
    content["first_dataset"].update(n_structures=5, n_test=1)
    content["validation"] = None
    content["stop"]["n_check_labels"] = 0
    path.write_text(yaml.safe_dump(content))


def test_every_command_of_the_page_works(tmp_cwd):
    pytest.importorskip("tblite", reason="the page makes a run file for xTB")
    outputs = {}
    for arguments in commands("bash"):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == CONVERGED, f"{arguments}: {result.output}"
        outputs[" ".join(arguments)] = result.stdout
        if arguments[:2] == ["init", "--element"]:
            shortened(Path("Cu.yaml"))
    assert {path.name for path in Path().glob("*.yaml")} == {"Cu.yaml", "MgO.yaml", "silicon.yaml"}
    assert json.loads(outputs["status runs/Cu --json"])["status"] == "CONVERGED"
    assert json.loads(Path("run.schema.json").read_text())["properties"]
    assert Path("runs/Cu/potential/potential.yace").is_file()


def test_commands_that_need_a_server_parse_and_all_are_told():
    known = get_command(app)
    for arguments in commands("sh"):
        command = known.commands[arguments[0]]  # type: ignore[attr-defined]
        command.make_context(arguments[0], list(arguments[1:]))
    told = set(re.findall(r"`(\w+)`", PAGE.read_text().split("## A first potential")[0]))
    assert set(known.commands) <= told  # type: ignore[attr-defined]


def test_the_table_of_exit_codes_is_the_one_of_the_program():
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    assert {ExitCode(int(code)): meaning for code, meaning in rows.items()} == MEANING


def test_the_json_of_the_page_has_the_keys_of_the_program():
    (block,) = blocks("json")
    numbers = {"n_cycles": 1, "n_labels": 2, "walkers": [], "potential_id": None}
    document = OTFDocument(campaign_id="x", status=LoopStatus.CONVERGED, why="", **numbers)
    assert set(json.loads(block)) == {*outcome(document, {}, Path(), 1.0), "exit_code"}


def test_the_errors_of_the_page_are_those_of_the_program(tmp_path):
    text, told_errors = blocks("yaml")[0], [block for block in blocks("text") if block.startswith("line ")]
    assert len(told_errors) == 2
    path = tmp_path / "run.yaml"
    for told in told_errors:
        path.write_text(text)
        with pytest.raises(InvalidInputError) as caught:
            RunFile.load(path)
        assert told.strip() in str(caught.value)
        text = text.replace("repeats", "repeat")
