"""Potentials from files are loaded and evaluated in a process of their own first: damaged ones crash pyace."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

#: Wall time in s and memory in bytes that a potential may take to be loaded and evaluated once.
TIME_S, MEMORY = 120.0, 16 * 2**30
#: Largest file of a potential in bytes.
LARGEST = 500_000_000
_MARK = "examined: "


def examine(potential: ACEPotential, what: str) -> None:
    """
    Refuse a potential that pyace cannot load, that crashes it, or whose numbers are not finite.

    Parameters
    ----------
    potential
        As it was read.
    what
        How messages name it: its files.

    Raises
    ------
    InvalidInputError
        Says what happened.
    """
    from mlip_autopipec.potentials.potential import pack_active_set

    refuse_bad_active_set(potential.active_set_inverse, what)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "potential.yaml").write_text(potential.yaml, encoding="utf-8")
        if potential.active_set_inverse:
            Path(folder, "potential.asi").write_bytes(pack_active_set(potential.active_set_inverse))
        try:
            run = subprocess.run(
                [sys.executable, "-m", "mlip_autopipec.potentials.examine"],
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
    found = next((line for line in run.stdout.splitlines() if line.startswith(_MARK)), None)
    if found is None:
        crashed = -run.returncode if run.returncode < 0 else 0
        last = (run.stderr.strip().splitlines() or ["no message"])[-1][:300]
        why = f"pyace crashed on it ({signal.Signals(crashed).name})" if crashed else last
        raise InvalidInputError(_refused(what, why))
    if problem := json.loads(found.removeprefix(_MARK)):
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


def _problem() -> str:
    """Load and evaluate the potential of the present folder; return what is wrong, or nothing."""
    from ase import Atoms
    from ase.data import atomic_numbers

    from mlip_autopipec.potentials.potential import ACEPotential, unpack_active_set

    asi = Path("potential.asi")
    text = Path("potential.yaml").read_text(encoding="utf-8")
    potential = ACEPotential(text, unpack_active_set(asi.read_bytes() if asi.is_file() else b""))
    elements, cutoff = potential.elements, potential.cutoff
    if not elements or (strange := [e for e in elements if e not in atomic_numbers or e == "X"]):
        return f"it knows the elements {strange if elements else elements}"
    if not 0.5 <= cutoff <= 30:
        return f"its cutoff is {cutoff:g} A"
    if not np.isfinite(potential.coefficients).all():
        return "its coefficients are not all finite"
    if potential.active_set_inverse:
        potential.active_set_matrices()
    calculator = potential.calculator()
    for pair in combinations_with_replacement(elements, 2):
        for share in (0.35, 0.6, 0.8):
            distance = share * cutoff
            atoms = Atoms([*pair, *pair], [[0, 0, 0], [distance, 0, 0], [0, distance, 0], [0.1, 0.2, distance]])
            atoms.center(vacuum=cutoff)
            atoms.pbc = True
            calculator.calculate(atoms)
            values: dict[str, Any] = calculator.results
            for name in ("energy", "forces", *(["gamma"] if potential.active_set_inverse else [])):
                if name in values and not np.isfinite(values[name]).all():
                    return f"its {name} of {'-'.join(pair)} at {distance:.2f} A is not finite"
            if np.abs(values["forces"]).max() > 1e8:
                return (
                    f"its forces of {'-'.join(pair)} at {distance:.2f} A are {np.abs(values['forces']).max():.2g} eV/A"
                )
    return ""


def main() -> None:
    """Examine the potential of the present folder, and print what is wrong."""
    for kind, limit in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, int(TIME_S)), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        told = _problem()
    except (Exception, RecursionError) as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    print(_MARK + json.dumps(told), flush=True)  # noqa: T201 - read by examine()
    os._exit(0)  # what a damaged potential left in memory is not tidied up


if __name__ == "__main__":
    main()
