"""The notebooks as they are kept: valid, without outputs, none forgotten. ``make tutorials`` executes them."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import nbformat
import notebook_tools
import pytest
from paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

NOTEBOOKS = notebook_tools.load()
ALL = NOTEBOOKS.notebooks()
#: Folders of somebody's machine.
MACHINE = re.compile(r"(?<![\w.])/(home|Users|root|work|tmp|opt|scratch)/|\.venv/lib")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook == NOTEBOOKS.stripped(notebook), "strip it: .venv/bin/python docs/_ext/notebooks.py"
    assert MACHINE.search(path.read_text(encoding="utf-8")) is None


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_notebook_begins_with_a_title_and_ends_with_a_result_that_is_asserted(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert re.match(r"# \w", cells[0].source)
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert re.search(r"^assert ", code[-1], re.MULTILINE)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_loop_of_a_notebook_names_its_oracle(path: Path) -> None:
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    plain = re.sub(r"^[%!].*", "", "\n".join(code), flags=re.MULTILINE)  # magics of notebooks are no Python
    calls = [node for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.Call)]
    loops = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "OTFMaker"]
    assert loops
    assert all("oracle_maker" in [keyword.arg for keyword in call.keywords] for call in loops)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_links_of_notebooks_lead_to_files(path: Path) -> None:
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_every_notebook_is_on_the_site_and_in_the_list() -> None:
    pages = (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8")
    readme = (ROOT / "tutorials" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^notebooks/(.+)$", pages, re.MULTILINE) == list(
        dict.fromkeys(re.findall(r"\]\(([\w-]+)\.ipynb\)", readme))
    ), "docs/tutorials.md and tutorials/README.md list other notebooks, or in another order"
    assert sorted(re.findall(r"^notebooks/(.+)$", pages, re.MULTILINE)) == [path.stem for path in ALL]


def _notebook(*code: str) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_markdown_cell("# A title"), *map(nbformat.v4.new_code_cell, code)]
    return NOTEBOOKS.stripped(nbformat.v4.new_notebook(cells=cells))


def test_a_failing_cell_is_told_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NOTEBOOKS, "EXECUTED", tmp_path / "executed")
    path, folder = tmp_path / "bad.ipynb", tmp_path / "run"
    folder.mkdir()
    nbformat.write(_notebook("lattice_constant = 3.6", "assert lattice_constant > 4, 'far too small'"), path)
    with pytest.raises(NOTEBOOKS.NotebookFailedError, match=r"(?s)bad.ipynb.*AssertionError.*far too small") as raised:
        NOTEBOOKS.execute(path, folder)
    assert "\x1b" not in str(raised.value)
    assert NOTEBOOKS.executed(path) is None


def test_an_executed_copy_serves_until_the_notebook_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NOTEBOOKS, "EXECUTED", tmp_path / "executed")
    path, folder = tmp_path / "good.ipynb", tmp_path / "run"
    folder.mkdir()
    notebook = _notebook("from pathlib import Path\nPath('here.txt').touch()", "print(6 * 7)")
    nbformat.write(notebook, path)
    NOTEBOOKS.execute(path, folder)
    assert (folder / "here.txt").exists()
    assert (folder / "copper.yaml").exists()
    done = NOTEBOOKS.executed(path)
    assert done.cells[-1].outputs[0].text == "42\n"
    assert NOTEBOOKS.stripped(done) == notebook
    page = nbformat.reads(NOTEBOOKS.as_page(done, path), as_version=4)
    nbformat.validate(page)
    assert "42" in page.cells[-1].outputs[0].text
    nbformat.write(_notebook("print(6 * 9)"), path)
    assert NOTEBOOKS.executed(path) is None


def test_a_notebook_that_needs_a_server_is_left_out_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, notebook = tmp_path / "server.ipynb", _notebook("print(6 * 7)")
    nbformat.write(notebook, path)
    monkeypatch.delenv(NOTEBOOKS.SERVER, raising=False)
    assert NOTEBOOKS.cannot_run(path) is None
    notebook.cells[1].metadata["tags"] = [NOTEBOOKS.NEEDS_SERVER]
    assert NOTEBOOKS.stripped(notebook) == notebook
    nbformat.write(notebook, path)
    assert f"server.ipynb needs a MongoDB server: set {NOTEBOOKS.SERVER}" in NOTEBOOKS.cannot_run(path)
    monkeypatch.setenv(NOTEBOOKS.SERVER, "mongodb://server.example.org/")
    assert NOTEBOOKS.cannot_run(path) is None
    notebook.cells[0].source += "\n\n[Labels by VASP](../docs/vasp.md), [templates](../deploy/fireworks)"
    page = nbformat.reads(NOTEBOOKS.as_page(notebook, path, ran=False), as_version=4)
    nbformat.validate(page)
    assert "was not run" in page.cells[1].source
    assert page.cells[0].source.endswith("[Labels by VASP](../vasp.md), [templates](../templates.md)")
