"""
The tutorials' notebooks: executed, shown on the site, stripped.

They live in tutorials/ without outputs. ``make tutorials`` executes them and keeps the executed copies in
docs/_build/notebooks. The site shows these; what has no copy, or was edited since, is executed when the site is built.
``python docs/_ext/notebooks.py`` strips them of what running them left behind.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from sphinx.application import Sphinx

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "tutorials"
EXECUTED = ROOT / "docs" / "_build" / "notebooks"
#: Where Sphinx finds them; made again by each build, not in the repository.
PAGES = ROOT / "docs" / "notebooks"
#: Of one cell.
TIMEOUT_S = 600
#: A notebook with a cell of this tag needs a MongoDB server; the variable holds its address.
NEEDS_SERVER, SERVER = "needs-mongodb", "MLIP_AUTOPIPEC_TEST_MONGO_URI"
#: Links from tutorials/ into the repository, and from the page of a notebook on the site.
LINKS = {"](../docs/": "](../", "](../deploy/fireworks)": "](../templates.md)"}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class NotebookFailedError(RuntimeError):
    """A cell raised an error; the message holds the cell and its traceback."""


def notebooks() -> list[Path]:
    """Return all notebooks, by name."""
    return sorted(TUTORIALS.glob("*.ipynb"))


def stripped(notebook: NotebookNode) -> NotebookNode:
    """Return a notebook as the repository holds it: without outputs, counts and what an editor remembered."""
    notebook = nbformat.from_dict(notebook)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in ("tags",) if cell.metadata.get(key)})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def execute(path: Path, folder: Path) -> NotebookNode:
    """
    Execute a notebook as a reader does, and keep the executed copy.

    Parameters
    ----------
    path
        The notebook.
    folder
        An empty one to run it in; the run files and structures of tutorials/ are put beside it.

    Raises
    ------
    NotebookFailedError
        A cell failed or took longer than ``TIMEOUT_S``.
    """
    for file in TUTORIALS.iterdir():
        if file.is_file() and file.suffix not in (".md", ".ipynb"):
            shutil.copy(file, folder)
    # nobody's own database or history is touched; a notebook may write this jobflow.yaml
    env = {**os.environ, "JOBFLOW_CONFIG_FILE": str(folder / "jobflow.yaml"), "IPYTHONDIR": str(folder / ".ipython")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # MD runs in processes of its own, which start faster from bytecode
    env.setdefault("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=resources)
    try:
        client.execute(env=env)
    except (CellExecutionError, CellTimeoutError) as error:
        raise NotebookFailedError(f"{path.name}: {_COLOURS.sub('', str(error))}") from error
    EXECUTED.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, EXECUTED / path.name)
    return notebook


def cannot_run(path: Path) -> str | None:
    """Return why a notebook cannot be executed here; None where it can."""
    cells = nbformat.read(path, as_version=4).cells
    if os.environ.get(SERVER) or not any(NEEDS_SERVER in cell.metadata.get("tags", []) for cell in cells):
        return None
    return f"{path.name} needs a MongoDB server: set {SERVER} to its address; make tutorials starts one where it can"


def executed(path: Path) -> NotebookNode | None:
    """Return the executed copy of a notebook; None if there is none of these very cells."""
    copy = EXECUTED / path.name
    if not copy.exists():
        return None
    found, wanted = nbformat.read(copy, as_version=4), nbformat.read(path, as_version=4)
    cells = [[(cell.cell_type, cell.source) for cell in one.cells] for one in (found, wanted)]
    return found if cells[0] == cells[1] else None


def as_page(notebook: NotebookNode, path: Path, *, ran: bool = True) -> str:
    """Return a notebook as the site shows it: what it is is told after the title, and it is never executed again."""
    how = "as it ran" if ran else "which was not run when this site was built"
    told = f"*This page is the notebook* {{download}}`{path.name} <../../tutorials/{path.name}>` *{how}.*"
    note = nbformat.v4.new_markdown_cell(told, id="notebook-of-this-page")
    page = nbformat.from_dict(notebook)
    page.cells = [page.cells[0], note, *page.cells[1:]]
    page.metadata["mystnb"] = {"execution_mode": "off"}
    for cell in page.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../docs/", "](../")
        if cell.cell_type == "markdown":
            for link, there in LINKS.items():
                cell.source = cell.source.replace(link, there)
    return nbformat.writes(page) + "\n"


def make_pages(_: Sphinx) -> None:
    """Put the executed notebooks where Sphinx finds them; those that did not change are not read again."""
    PAGES.mkdir(exist_ok=True)
    for path in notebooks():
        notebook, why = executed(path), cannot_run(path)
        ran = notebook is not None or why is None
        if not ran:
            logger.info("%s", why)
            notebook = nbformat.read(path, as_version=4)
        elif notebook is None:
            with tempfile.TemporaryDirectory() as folder:
                notebook = execute(path, Path(folder))
        page, text = PAGES / path.name, as_page(notebook, path, ran=ran)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
    for page in set(PAGES.glob("*.ipynb")) - {PAGES / path.name for path in notebooks()}:
        page.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx."""
    app.connect("builder-inited", make_pages, priority=100)  # before sources are looked for
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    for file in notebooks():
        nbformat.write(stripped(nbformat.read(file, as_version=4)), file)
