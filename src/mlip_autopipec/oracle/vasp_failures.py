"""Why a VASP run gave no label, in words a person can act on."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from atomate2 import SETTINGS
from monty.io import zopen
from monty.serialization import loadfn

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.refused import switched_on

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

#: Parts of the free energy that the last electronic step has in vasprun.xml.
_PARTS = ("alphaZ", "ewald", "hartreedc", "XCdc", "pawpsdc", "pawaedc", "eentropy", "bandstr", "atom")
#: Tags whose energy VASP adds in the last electronic step alone.
DISPERSION = ("IVDW", "LUSE_VDW", "LVDW")
#: Energies of the last two electronic steps may differ by this much more than EDIFF: VASP also looks at the
#: eigenvalues, and prints no more than eight digits.
EDIFF_TOLERANCE = 10.0


def step_energies(incar: dict[str, Any], steps: Sequence[Any]) -> list[float | None]:
    """
    Return the energy in eV after each electronic step, without what VASP adds in the last step alone.

    Parameters
    ----------
    incar
        Settings of the run. A dispersion correction is in the free energy of the last step, and in none before; the
        parts of the last step, which vasprun.xml has too, do not hold it.
    steps
        Electronic steps of emmet, or of pymatgen as dictionaries.

    Returns
    -------
    list
        None where a step does not say it.
    """
    said = [step if isinstance(step, dict) else step.model_dump() for step in steps]
    energies = [step.get("e_fr_energy") for step in said]
    if energies and any(switched_on(incar.get(key, False)) for key in DISPERSION):
        parts = [said[-1].get(part) for part in _PARTS]
        energies[-1] = None if any(part is None for part in parts) else float(sum(filter(None, parts)))
    return energies


def unconverged(
    where: str, incar: dict[str, Any], energies_eV: Sequence[float | None], nelm: int | None = None
) -> str | None:
    """
    Tell why the electrons of a run are not converged.

    Parameters
    ----------
    where
        Folder of the run.
    incar
        Its settings.
    energies_eV
        Free energy after each electronic step of the last ionic step, as :func:`step_energies` has them.
    nelm
        Largest number of electronic steps; by default the one of ``incar``, else VASP's 60.

    Returns
    -------
    str or None
        The reason, or None if they are converged.
    """
    nelm = int(nelm or incar.get("NELM") or 60)
    ediff = float(incar.get("EDIFF") or 1e-4)
    known = [e for e in energies_eV[-2:] if e is not None]
    change = abs(known[1] - known[0]) if len(known) == 2 else None
    said = "unknown" if change is None else f"{change:.1e} eV"
    if len(energies_eV) >= nelm:
        return (
            f"VASP in {where} did not converge: NELM = {nelm} electronic steps reached, last energy change {said} "
            f"against EDIFF = {ediff:g} eV. Raise NELM, or change ALGO or the mixing; the structure may also be "
            "unphysical"
        )
    # a run stopped by STOPCAR ends before NELM and looks converged
    if change is not None and change > EDIFF_TOLERANCE * ediff + 1e-7:
        return (
            f"VASP in {where} did not converge: it stopped after {len(energies_eV)} of NELM = {nelm} electronic steps "
            f"with a last energy change of {said} against EDIFF = {ediff:g} eV. Was it stopped (STOPCAR, wall "
            "time)?"
        )
    return None


def explain_failure(error: Exception, folder: Path, run_vasp: dict[str, Any]) -> LabelError:
    """
    Say what happened to a VASP run that ended in an exception.

    Parameters
    ----------
    error
        What atomate2, custodian or pymatgen raised.
    folder
        Folder of the run.
    run_vasp
        The maker's ``run_vasp_kwargs``.
    """
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.filename is not None and not (folder / "OUTCAR").exists():
        command = run_vasp.get("vasp_cmd", SETTINGS.VASP_CMD)
        if (
            str(error.filename)
            in command.split() + str(run_vasp.get("vasp_gamma_cmd", SETTINGS.VASP_GAMMA_CMD)).split()
        ):
            return LabelError(
                f"VASP could not be started in {folder}: '{error.filename}' of the command '{command}': "
                f"{error.strerror}. Set VASP_CMD in atomate2.yaml or ATOMATE2_VASP_CMD in the environment of the worker"
            )
    if not (folder / "POSCAR").exists():  # nothing was written, so nothing was run
        hint = ""
        if "POTCAR" in str(error) or "PMG_VASP_PSP_DIR" in str(error):
            hint = ". Set PMG_VASP_PSP_DIR to the folder of the POTCARs, and potcar_functional to the release it holds"
        return LabelError(f"the input of VASP could not be written in {folder}: {what}{hint}")
    return LabelError(f"{_state_of(folder)} [{what}]{_custodian(folder)}{_last_words(folder)}")


def _state_of(folder: Path) -> str:
    """How far VASP came."""
    found = _find(folder, "vasprun.xml")
    if found is None or found.stat().st_size == 0:
        return (
            f"VASP in {folder} left {'no' if found is None else 'an empty'} vasprun.xml: it was killed at once, or "
            "never ran. Run VASP_CMD of the worker by hand in that folder"
        )
    from pymatgen.io.vasp import Vasprun

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = Vasprun(str(found), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
        steps = run.ionic_steps[-1]["electronic_steps"]
        settings = {**run.parameters, **run.incar}
        reason = unconverged(str(folder), settings, step_energies(settings, steps), run.parameters.get("NELM"))
    except SyntaxError as error:  # of lxml or of the standard library, whichever pymatgen parses with
        return (
            f"{found} is cut off ({error.msg}; {found.stat().st_size} bytes): VASP ended before it was done. Its last "
            "words follow; if they say nothing, look for wall time or memory in the log of the batch system"
        )
    except Exception as error:
        logger.debug("%s cannot be read", found, exc_info=True)
        return f"{found} cannot be read ({type(error).__name__}: {error}); VASP did not end well"
    return reason or f"VASP in {folder} wrote a complete vasprun.xml, but its run was refused; read the output there"


def _custodian(folder: Path) -> str:
    found = _find(folder, "custodian.json")
    if found is None:
        return ""
    errors = [
        "+".join(one.get("errors") or []) for run in loadfn(found, cls=None) for one in run.get("corrections") or []
    ]
    return f"; custodian met {', '.join(errors)}" if errors else ""


def _last_words(folder: Path, n_lines: int = 3) -> str:
    words = ""
    for name in ("vasp.out", "std_err.txt"):
        found = _find(folder, name)
        if found is not None:
            with zopen(found, "rt", errors="replace") as stream:
                lines = [line.strip() for line in stream.read()[-4000:].splitlines() if line.strip()]
            if lines:
                words += f"; {name} ends: {' | '.join(lines[-n_lines:])}"
    return words


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)
