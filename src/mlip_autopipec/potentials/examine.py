"""Potentials from files are loaded and evaluated in a process of their own first: damaged ones crash pyace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Wall time in s and memory in bytes that a potential may take to be loaded and evaluated once.
TIME_S, MEMORY = 120.0, 16 * 2**30
#: Largest file of a potential in bytes.
LARGEST = 500_000_000
#: Beginning of the line that the process prints.
MARK = "examined: "


def examine(text: str, asi: bytes, inverse: Mapping[str, NDArray[np.float64]], what: str) -> None:
    """
    Refuse a potential that pyace cannot load, that crashes it, or whose numbers are not finite.

    Parameters
    ----------
    text, asi, inverse
        Its B-basis file; the file of its active set, and the matrices in it.
    what
        How messages name it: its files.

    Raises
    ------
    InvalidInputError
        Says what happened.
    """
    refuse_bad_active_set(inverse, what)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "potential.yaml").write_text(text, encoding="utf-8")
        if asi:
            Path(folder, "potential.asi").write_bytes(asi)
        try:
            run = subprocess.run(
                [sys.executable, "-m", "mlip_autopipec.potentials.probe"],
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIME_S,
                check=False,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except subprocess.TimeoutExpired as error:
            raise InvalidInputError(_refused(what, f"it was not loaded within {TIME_S:.0f} s")) from error
    found = next((line for line in run.stdout.splitlines() if line.startswith(MARK)), None)
    if found is None:
        crashed = -run.returncode if run.returncode < 0 else 0
        last = (run.stderr.strip().splitlines() or ["no message"])[-1][:300]
        why = f"pyace crashed on it ({signal.Signals(crashed).name})" if crashed else last
        raise InvalidInputError(_refused(what, why))
    if problem := json.loads(found.removeprefix(MARK)):
        raise InvalidInputError(_refused(what, problem))


def refuse_bad_active_set(inverse: Mapping[str, NDArray[np.float64]], what: str) -> None:
    """Refuse matrices of an active set that are not square, or hold something else than finite numbers."""
    for element, matrix in inverse.items():
        if matrix.dtype.kind not in "fiu" or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InvalidInputError(
                _refused(what, f"'{element}' of its active set has shape {matrix.shape} and type {matrix.dtype}")
            )
        if not np.isfinite(matrix).all():
            raise InvalidInputError(_refused(what, f"its active set of {element} holds numbers that are not finite"))


def _refused(what: str, why: str) -> str:
    return (
        f"{what}: the potential cannot be used: {why}. Give the B-basis .yaml (of pacemaker, gracemaker or this "
        "package; a .yace is another form) and the .asi made for it; if they are these, they are damaged: copy them "
        "again"
    )
