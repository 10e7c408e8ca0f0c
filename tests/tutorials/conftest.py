"""Opt-in tests that execute the tutorials: collected only where this folder is asked for (``make tutorials``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from opt_in import left_out

if TYPE_CHECKING:
    import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder alone unless it, or a file of it, was named."""
    return left_out(Path(__file__).parent, collection_path, config)
