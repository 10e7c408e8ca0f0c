"""Every state that the folder of a campaign can be in, and what each command does in it: there is no dead end."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from run_files import SMALL
from typer.testing import CliRunner

from mlip_autopipec.cli import app
from mlip_autopipec.cli.base import open_store
from mlip_autopipec.cli.folder import begin_results, held
from mlip_autopipec.database.validation import KIND
from mlip_autopipec.frames import unpack_frames
from mlip_autopipec.schemas.validation import ValidationDocument
from mlip_autopipec.validation import oracle_md

if TYPE_CHECKING:
    from pathlib import Path

GOLD = {"bulk": {"name": "Au", "cubic": True}, "repeat": [2, 2, 2]}
VALIDATED = {**SMALL, "validation": {"n_frames": 5, "interval_steps": 5}}


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def said(result: Any) -> str:
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign that has ended, with its run file beside its folder ``f``."""
    place = tmp_path_factory.mktemp("ended")
    (place / "run.yaml").write_text(yaml.safe_dump(VALIDATED))
    result = invoke("run", place / "run.yaml", "--folder", place / "f")
    assert result.exit_code == 0, result.output
    return place


@pytest.fixture
def place(ended: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    return tmp_path


def with_status(place: Path, status: str) -> None:
    """Let the last assessment have said something else."""
    documents = open_store(place / "f" / "store").docs_store
    last = max(documents.query({"output.kind": "loop"}), key=lambda document: document["output"]["cycle"])
    last["output"].update(status=status, why=f"made {status} by the test")
    documents.update(last, key=["uuid", "index"])


def missing(place: Path) -> None:
    shutil.rmtree(place / "f")


def foreign(place: Path) -> None:
    shutil.rmtree(place / "f")
    (place / "f").mkdir()
    (place / "f" / "store").write_text("x")
    (place / "f" / "thesis.tex").write_text("y")


def recorded_only(place: Path) -> None:
    store = open_store(place / "f" / "store")
    store.docs_store.remove_docs({"output.kind": {"$ne": "campaign"}})


def broken_off(place: Path) -> None:
    with_status(place, "LEARNING")


def unfinished(place: Path) -> None:
    begin_results(place / "f")
    for name in ("result.json", "dataset.extxyz", "report.html"):
        (place / "f" / name).unlink()


def damaged(place: Path) -> None:
    for file in (place / "f" / "store").glob("documents.sqlite*"):
        file.unlink()
    (place / "f" / "store" / "documents.sqlite").write_bytes(b"no database" * 500)


STATES = {
    "no folder": missing,
    "something else": foreign,
    "recorded only": recorded_only,
    "broken off": broken_off,
    "paused": lambda place: with_status(place, "PAUSED"),
    "stalled": lambda place: with_status(place, "STALLED"),
    "budget spent": lambda place: with_status(place, "BUDGET_SPENT"),
    "most cycles": lambda place: with_status(place, "MAX_ITER_REACHED"),
    "results missing": unfinished,
    "ended": lambda _: None,
    "damaged": damaged,
}
#: State -> command -> exit code and words of the answer.
TABLE: dict[str, dict[str, tuple[int, str]]] = {
    "no folder": {"run": (0, "CONVERGED"), "resume": (1, "holds no campaign"), "extend": (1, "holds no campaign")},
    "something else": {
        "run": (1, "holds no campaign, but store"),
        "run --overwrite": (1, "holds no campaign, but store"),
        "resume": (1, "holds no campaign"),
        "extend": (1, "holds no campaign"),
    },
    "recorded only": {
        "run": (1, "go on with it by `mlip-autopipec resume`"),
        "resume": (0, "CONVERGED"),
        "extend": (1, "resume it before it is extended"),
    },
    "broken off": {"run": (1, "mlip-autopipec resume"), "resume": (0, "CONVERGED")},
    "paused": {"run": (1, "mlip-autopipec resume"), "resume": (0, "CONVERGED")},
    "stalled": {"resume": (1, "has ended: STALLED; to go on, extend it"), "extend": (1, "nothing is left to do")},
    "budget spent": {"resume": (1, "has ended: BUDGET_SPENT"), "extend": (1, "nothing is left to do")},
    "most cycles": {"resume": (1, "has ended: MAX_ITER_REACHED"), "extend": (1, "nothing is left to do")},
    "results missing": {"run": (1, "mlip-autopipec resume"), "resume": (0, "CONVERGED")},
    "ended": {
        "run": (1, "go on with it by `mlip-autopipec resume`"),
        "run --overwrite": (0, "CONVERGED"),
        "resume": (1, "has ended: CONVERGED; to go on, extend it"),
        "extend": (1, "nothing is left to do"),
    },
    "damaged": {
        "run": (1, "cannot be read"),
        "run --overwrite": (1, "cannot be read"),
        "resume": (1, "cannot be read"),
        "extend": (1, "cannot be read"),
        "status": (1, "cannot be read"),
    },
}


@pytest.mark.parametrize(
    ("state", "command"), [(state, command) for state, commands in TABLE.items() for command in commands]
)
def test_states_and_commands(place: Path, state: str, command: str):
    STATES[state](place)
    before = {path: path.read_bytes() for path in place.rglob("thesis.tex")}
    words = command.split()
    target = [place / "f"] if words[0] == "status" else [place / "run.yaml", "--folder", place / "f"]
    result = invoke(*words, *target)
    code, words_of_it = TABLE[state][command]
    assert result.exit_code == code, result.output
    assert words_of_it in said(result)
    assert all(path.read_bytes() == content for path, content in before.items())
    if code == 0:
        assert (place / "f" / "result.json").is_file()
        assert (place / "f" / "potential" / "potential.yaml").is_file()
        # what is finished needs nothing more
        assert "has ended" in said(invoke("resume", place / "run.yaml", "--folder", place / "f"))


def test_another_process_holds_it(place: Path):
    with held(place / "f"):
        for command in ("resume", "extend"):
            result = invoke(command, place / "run.yaml", "--folder", place / "f")
            assert result.exit_code == 1
            assert "is run by process" in said(result)


def test_overwrite_deletes_what_the_program_made_and_nothing_else(place: Path):
    folder, elsewhere = place / "f", place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("1")
    shutil.rmtree(folder / "jobs")
    (folder / "jobs").symlink_to(elsewhere)
    (folder / "notes.md").write_text("2")
    (folder / "potential" / "mine.txt").write_text("3")
    (folder / "run.yaml").write_text((place / "run.yaml").read_text())
    result = invoke("run", folder / "run.yaml", "--folder", folder, "--overwrite")
    assert result.exit_code == 0, result.output
    assert "jobs, notes.md, potential, run.yaml" in said(result)
    assert (elsewhere / "precious").read_text() == "1"
    assert (folder / "notes.md").read_text() == "2"
    assert (folder / "potential" / "mine.txt").read_text() == "3"
    assert (folder / "run.yaml").is_file()


def test_an_engine_that_is_gone_stops_only_what_needs_md(place: Path, monkeypatch):
    folder, run_file = place / "f", place / "run.yaml"
    monkeypatch.setenv("MLIP_AUTOPIPEC_LAMMPS_CMD", "no-such-lmp")
    run_file.write_text(yaml.safe_dump({**VALIDATED, "dynamics": {**VALIDATED["dynamics"], "engine": "executable"}}))
    unfinished(place)
    assert invoke("resume", run_file, "--folder", folder).exit_code == 0, "all MD was run"
    more = {**VALIDATED, "conditions": [*VALIDATED["conditions"], {"temperature_K": 310}]}
    run_file.write_text(yaml.safe_dump({**more, "dynamics": {**VALIDATED["dynamics"], "engine": "executable"}}))
    for words in (["extend"], ["run", "--overwrite"]):
        result = invoke(*words, run_file, "--folder", folder)
        assert result.exit_code == 1, result.output
        assert "the LAMMPS command 'no-such-lmp' was not found on PATH" in said(result)
        assert (folder / "result.json").exists(), "what is there stays"


def test_killed_in_the_validation_it_is_finished_without_computing_a_frame_twice(place: Path, monkeypatch):
    folder = place / "f"
    store = open_store(folder / "store")
    frames = sorted(store.query({"output.kind": KIND}, load=True), key=lambda d: d["uuid"])
    assert sorted(d["output"]["number"] for d in frames) == [0, 0, 1, 1, 2], "from the start, and from the end"
    store.docs_store.remove_docs({"output.kind": KIND, "output.number": {"$gte": 1}})
    unfinished(place)
    runs = []
    original = oracle_md.Langevin.run
    monkeypatch.setattr(oracle_md.Langevin, "run", lambda self, n: (runs.append(n), original(self, n)))
    result = invoke("resume", place / "run.yaml", "--folder", folder, "--json")
    assert result.exit_code == 0, result.output
    assert runs == [5, 5, 5]
    again = sorted(store.query({"output.kind": KIND}, load=True), key=lambda d: d["uuid"])
    for one, other in zip(frames, again, strict=True):  # but for rounding: a new calculator has a new neighbour list
        assert one["output"]["payload"]["random"] == other["output"]["payload"]["random"]
        was, now = (unpack_frames(d["output"]["payload"]["frame"])[0] for d in (one, other))
        assert np.abs(was.positions - now.positions).max() < 1e-9
    errors = json.loads(result.stdout)["errors"]["validation"]
    stored = ValidationDocument.model_validate(store.query_one({"output.kind": "validated"}, ["output"])["output"])
    assert stored.errors.model_dump() == errors
    assert [(w.walker, w.begins, w.errors.n_structures) for w in stored.walks] == [(0, "start", 3), (0, "end", 2)]
    told = f"{errors['energy_rmse_meV_atom']:.2f} meV/atom, {errors['forces_rmse_meV_A']:.1f} meV/A"
    assert (
        f"<p>{told}, {errors['stress_rmse_GPa']:.2f} GPa (5 frames of 2 runs)" in (folder / "report.html").read_text()
    )
    assert told in said(invoke("status", folder))
    exported = place / "exported"
    assert invoke("export", folder, "-o", exported).exit_code == 0
    line = next(x for x in (exported / "README.md").read_text().splitlines() if "MD of the oracle itself" in x)
    assert f"{errors['forces_rmse_meV_A']:.3g} meV/A, {errors['stress_rmse_GPa']:.2g} GPa (5 structures)" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"structures": [{"bulk": {"name": "Au", "cubic": True}, "repeat": [2, 2, 2]}]},
            "structures[0] is another Au32",
        ),
        ({"structures": [*SMALL["structures"], *SMALL["structures"]]}, "1 structures are new"),
        ({"conditions": [{"temperature_K": 300}]}, "the condition 1200 K is missing or changed"),
        ({"seed": 99}, "seed is 99"),
        ({"oracle": {"kind": "lennard-jones"}}, "Labels of two levels of theory do not go together"),
    ],
)
def test_a_resume_with_another_campaign_in_the_run_file_is_refused(place: Path, change, words):
    broken_off(place)
    (place / "run.yaml").write_text(yaml.safe_dump({**VALIDATED, **change}))
    result = invoke("resume", place / "run.yaml", "--folder", place / "f")
    assert result.exit_code == 1
    assert words in said(result)


def test_changed_settings_are_applied_and_said(place: Path):
    broken_off(place)
    changed = {**VALIDATED, "selection": {"n_max": 3}}
    (place / "run.yaml").write_text(yaml.safe_dump(changed))
    result = invoke("resume", place / "run.yaml", "--folder", place / "f")
    assert result.exit_code == 0, result.output
    assert "select_maker.n_max is 3 from now on, before it was 2" in said(result)


def test_a_folder_that_is_a_file(tmp_path: Path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "f").write_text("")
    result = invoke("run", tmp_path / "run.yaml", "--folder", tmp_path / "f")
    assert result.exit_code == 1
    assert "is no folder" in said(result)
