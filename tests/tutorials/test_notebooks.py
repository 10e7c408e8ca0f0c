"""Every notebook runs as its reader would run it: in an empty folder, cell after cell, each of its asserts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import notebook_tools
import pytest

if TYPE_CHECKING:
    from pathlib import Path

NOTEBOOKS = notebook_tools.load()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", NOTEBOOKS.notebooks(), ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    if why := NOTEBOOKS.cannot_run(path):
        pytest.skip(why)
    try:
        NOTEBOOKS.execute(path, tmp_path)
    except NOTEBOOKS.NotebookFailedError as error:
        pytest.fail(str(error), pytrace=False)
