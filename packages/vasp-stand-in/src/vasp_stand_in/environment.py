"""One line that makes atomate2 run the stand-in: the environment for a process."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from vasp_stand_in.potcars import write_potcars

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

OPTIONS_VARIABLE = "VASP_STAND_IN_OPTIONS"


def vasp_stand_in_environment(
    folder: str | Path,
    calculator: str = "emt",
    calculator_arguments: dict[str, Any] | None = None,
    *,
    options: Iterable[str] = (),
    elements: Iterable[str] | None = None,
    functional: str = "PBE_64",
) -> dict[str, str]:
    """
    Write make-believe POTCARs and return the variables that make atomate2 run the stand-in.

    Set them before atomate2 and pymatgen are imported (both read their settings at import): pass
    ``os.environ | vasp_stand_in_environment(...)`` to a subprocess, or export them.

    Parameters
    ----------
    folder
        Where the POTCARs go.
    calculator
        ``emt``, ``lj``, ``gfn-xtb`` or ``module.Class`` of an ASE calculator.
    calculator_arguments
        Its keyword arguments; have to be expressible in JSON.
    options
        Further options of the executable, e.g. ``["--fail", "killed", "--fraction", "0.2"]``.
    elements
        Elements to write POTCARs for; default all.
    functional
        POTCAR functional of the input set; MatPES wants ``PBE_64``.

    Returns
    -------
    dict
        ``ATOMATE2_VASP_CMD``, ``..._GAMMA_CMD``, ``..._NCL_CMD`` and ``PMG_VASP_PSP_DIR``. Options can also be
        given later, in the variable ``VASP_STAND_IN_OPTIONS`` that each run of the executable reads.
    """
    command = [sys.executable, "-m", "vasp_stand_in", "--calculator", calculator]
    if calculator_arguments:
        command += ["--arguments", json.dumps(calculator_arguments)]
    line = shlex.join([*command, *options])
    names = ("ATOMATE2_VASP_CMD", "ATOMATE2_VASP_GAMMA_CMD", "ATOMATE2_VASP_NCL_CMD")
    psp_dir = write_potcars(folder, elements, functional).resolve()
    return dict.fromkeys(names, line) | {"PMG_VASP_PSP_DIR": str(psp_dir)}
