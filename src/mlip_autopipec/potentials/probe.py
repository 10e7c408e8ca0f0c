"""The process that loads and evaluates the potential of its folder; see :mod:`.examine`."""

from __future__ import annotations

import json
import os
import resource
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from mlip_autopipec.potentials.examine import MARK, MEMORY, TIME_S
from mlip_autopipec.potentials.potential import ACEPotential, unpack_active_set


def _problem() -> str:
    """Load and evaluate the potential of the present folder; return what is wrong, or nothing."""
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
    print(MARK + json.dumps(told), flush=True)  # noqa: T201 - read by examine()
    os._exit(0)  # what a damaged potential left in memory is not tidied up


if __name__ == "__main__":
    main()
