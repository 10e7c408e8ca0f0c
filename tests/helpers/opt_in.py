"""Folders of tests that are run only when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def left_out(folder: Path, path: Path, config: pytest.Config) -> bool | None:
    """Answer ``pytest_ignore_collect``: leave a folder alone unless it, or a file of it, was named."""
    asked = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    if any(one == folder or folder in one.parents for one in asked):
        return None
    return True if path == folder or folder in path.parents else None
