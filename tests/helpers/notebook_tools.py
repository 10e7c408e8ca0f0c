"""The extension of the documentation that executes and shows the notebooks, for tests."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from paths import ROOT

if TYPE_CHECKING:
    from types import ModuleType

_FILE = ROOT / "docs" / "_ext" / "notebooks.py"


def load() -> ModuleType:
    """Import docs/_ext/notebooks.py, which no package holds."""
    spec = importlib.util.spec_from_file_location("notebooks", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
