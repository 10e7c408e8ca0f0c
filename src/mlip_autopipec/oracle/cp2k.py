"""CP2K: labels from the documents of atomate2's makers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units
from atomate2.utils.path import strip_hostname
from monty.io import zopen
from monty.os.path import zpath

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.extracted import labelled

if TYPE_CHECKING:
    from mlip_autopipec.oracle.extracted import ExtractedLabel

_FORCES = re.compile(r"ATOMIC FORCES in \[(.+?)\]")
_STRESS = re.compile(r"STRESS\|.*stress tensor \[(.+?)\]")


def label_from_cp2k(document: Any) -> ExtractedLabel:
    """
    Read a label off the ``TaskDocument`` of ``atomate2.cp2k``.

    Its energy is in eV and holds the electronic entropy, so the forces derive from it. Forces and stress are stored
    as CP2K printed them, and an unconverged field counts as a success there: the units, and whether the field
    converged, are read from ``cp2k.out`` in the folder of the run.

    Raises
    ------
    LabelError
        If the run failed or did not converge, if ``cp2k.out`` is gone, or prints units that are not known here.
    """
    if str(getattr(document.state, "value", document.state)) != "successful":
        raise LabelError(f"CP2K in {document.dir_name} ended as '{document.state}', not successful")
    file = Path(zpath(Path(strip_hostname(document.dir_name)) / "cp2k.out"))
    if not file.is_file():
        raise LabelError(f"{file} is missing; the units of CP2K's forces and stress are in this file only")
    with zopen(file, mode="rt", encoding="utf-8", errors="replace") as stream:
        printed = str(stream.read())
    if "SCF run NOT converged" in printed:
        raise LabelError(f"'SCF run NOT converged' ({file})")
    output = document.output
    if output is None or output.energy is None or output.forces is None:
        raise LabelError(f"the CP2K document of {file} holds no energy or no forces; print_forces has to be on")
    if (unit := _unit(_FORCES, printed)) != "a.u.":
        raise LabelError(f"CP2K printed forces in '{unit}' ({file}); known is 'a.u.' (Hartree/Bohr), of CP2K 2023.1")
    stress_kbar = None
    if output.stress is not None:
        if (unit := _unit(_STRESS, printed)) != "GPa":
            raise LabelError(f"CP2K printed the stress in '{unit}' ({file}); known is 'GPa', of CP2K 2023.1")
        stress_kbar = 10.0 * np.array(output.stress)  # positive = compressed, as VASP has it
    forces = np.array(output.forces) * units.Hartree / units.Bohr
    return labelled(output.structure, output.energy, forces, stress_kbar, "free_energy")


def _unit(pattern: re.Pattern[str], printed: str) -> str | None:
    found = pattern.search(printed)
    return found[1] if found else None
