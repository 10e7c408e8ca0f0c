"""Opt-in tests with real DFT codes: collected only where this folder is asked for (``make test-dft``)."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opt_in import left_out

from mlip_autopipec.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
#: Where Debian's packages put their data.
DEBIAN_PSEUDOPOTENTIALS = Path("/usr/share/espresso/pseudo")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder alone unless it, or a file of it, was named."""
    return left_out(HERE, collection_path, config)


@pytest.fixture
def need() -> Callable[[str, str], str]:
    """Skip where a program is not installed, saying which package has it."""

    def check(command: str, packages: str) -> str:
        program = shlex.split(command)[0]
        if shutil.which(program) is None:
            pytest.skip(f"'{program}' is not installed; on Debian: apt-get install {packages}")
        return command

    return check


@pytest.fixture
def espresso(need: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the pseudopotentials of a Quantum ESPRESSO that is installed here."""
    need(get_settings().ESPRESSO_CMD, "quantum-espresso quantum-espresso-data")
    folder = Path(get_settings().ESPRESSO_PSEUDO_DIR or DEBIAN_PSEUDOPOTENTIALS)
    if not (folder / "Si.pz-vbc.UPF").is_file():
        pytest.skip(f"there is no Si.pz-vbc.UPF in {folder}; on Debian: apt-get install quantum-espresso-data")
    monkeypatch.setenv("MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    return folder
