"""Labels from outputs of codes: every step of a run whose field converged, with the energy its forces derive from."""

from __future__ import annotations

import io
import lzma
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.aims import read_aims_output
from ase.io.formats import UnknownFileTypeError, filetype

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.left_out import about_left_out
from mlip_autopipec.oracle.output_runs import LOOKS, REMEDY, Run, said_unconverged
from mlip_autopipec.oracle.roles import no_labels
from mlip_autopipec.structures.electrons import CHARGE
from mlip_autopipec.structures.texts import OPENERS, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Beginning of a file in which its code shows, in characters.
_HEAD = 20_000
#: What stands there, and ASE's name of the format.
_SIGNS = (
    (re.compile(r"<modeling>"), "vasp-xml"),
    (re.compile(r"^ vasp\.\d", re.MULTILINE), "vasp-out"),
    (re.compile(r"Program PWSCF"), "espresso-out"),
    (re.compile(r"Invoking FHI-aims"), "aims-output"),
    (re.compile(r"\| +CCC +AA +SSS +TTTTT"), "castep-castep"),
    (re.compile(r"CP2K\|"), "cp2k"),
    (re.compile(r"Version .* of ABINIT"), "abinit-out"),
    (re.compile(r"^ *\|__ \| +_\|___\|", re.MULTILINE), "gpaw-out"),
)
#: Codes whose outputs are read.
READ = {
    "vasp-xml": "vasprun.xml of VASP",
    "vasp-out": "OUTCAR of VASP",
    "espresso-out": "output of Quantum ESPRESSO's pw.x",
    "aims-output": "output of FHI-aims",
    "castep-castep": ".castep file of CASTEP",
    "traj": "trajectory of ASE",
}
#: Codes that are known and whose outputs are not read: units of energies and forces there.
_OTHERS = {
    "cp2k": ("CP2K", "Hartree and Hartree/bohr"),
    "abinit-out": ("ABINIT", "Hartree and Hartree/bohr"),
    "gpaw-out": ("GPAW", "eV and eV/A"),
}
#: Volumes that differ by a smaller share are one.
_SAME_VOLUME = 0.01
#: A total charge (e) below this is rounding.
_NO_CHARGE = 0.01


def is_output(path: Path) -> bool:
    """Return whether a file is no extended XYZ, whatever else it is."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in OPENERS]
    return not suffixes or suffixes[-1] not in (".xyz", ".extxyz")


@dataclass(frozen=True)
class Output:
    """
    What a file holds.

    Parameters
    ----------
    frames
        Structures with energy and free energy (eV), forces (eV/A) and, if known, stress (eV/A^3) attached.
    names
        Theirs, for messages.
    remarks
        What there is to say.
    doubts
        Settings that make its labels noisy, or right for some materials alone.
    level
        What it was computed with, as far as other files have to agree.
    """

    frames: list[Atoms]
    names: list[str]
    remarks: list[str]
    doubts: list[str]
    level: dict[str, str]


def read_output(path: Path) -> Output:
    """
    Read all steps of a run that are labels.

    Parameters
    ----------
    path
        An output of a code (:data:`READ`), packed by gzip, bzip2 or xz or not.

    Raises
    ------
    InvalidInputError
        The file is not known, damaged, of a run whose numbers are not those of its structures, or holds no step that
        converged.
    """
    found = _format_of(path)
    try:
        run = LOOKS[found](path) if found in LOOKS else Run(refused=said_unconverged(path, found))
        if run.refused:
            raise InvalidInputError(f"'{path}' ({READ[found]}) holds no labels: {'. '.join(run.refused)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of readers, about what they leave out
            frames: list[Any] = _read(path, found, run)
    except InvalidInputError:
        raise
    except Exception as error:  # readers raise what they like
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        other = "take its vasprun.xml, or " if found == "vasp-out" else ""
        raise InvalidInputError(
            f"the labels '{path}' ({READ[found]}) cannot be read ({why}): is the run complete? Else {other}{REMEDY}"
        ) from error
    return Output(*_kept(path, found, frames, run), run.doubts, run.level)


def code_of(path: Path) -> str | None:
    """Return ASE's name of the format of a code's output, by how the file begins; None for other files."""
    return _code_in(text_of(path, _HEAD))


def _code_in(head: str) -> str | None:
    return next((name for sign, name in _SIGNS if sign.search(head)), None)


def charge_of_run(path: Path) -> float:
    """Return the total charge (e) of a run, by its output; 0 for files of other kinds. ASE's structures lack it."""
    found = code_of(path)
    charge = LOOKS[found](path).charge if found in LOOKS else 0.0
    return charge if abs(charge) >= _NO_CHARGE else 0.0


def _read(path: Path, found: str, run: Run) -> list[Any]:
    if run.text is None:
        return list(ase.io.iread(str(path), ":", format=found, do_not_split_by_at_sign=True))
    return list(read_aims_output(io.StringIO(run.text), index=slice(None), non_convergence_ok=True))


def _kept(path: Path, found: str, frames: list[Any], run: Run) -> tuple[list[Atoms], list[str], list[str]]:
    kept: list[Atoms] = []
    names: list[str] = []
    lost: list[int] = []
    late: list[int] = []
    others: list[int] = []
    n_energies = -1
    for i, atoms in enumerate(frames):
        results = {} if atoms.calc is None else {**atoms.calc.results, **_with_dispersion(atoms.calc.results)}
        has_energy = results.get("energy", results.get("free_energy")) is not None
        n_energies += has_energy
        if not has_energy or results.get("forces") is None:
            lost.append(i)
            continue
        if n_energies in run.unconverged | run.other_basis:
            (late if n_energies in run.unconverged else others).append(i)
            continue
        if run.no_stress:
            results.pop("stress", None)
        values = {key: results[key] for key in ("energy", "free_energy", "forces", "stress") if key in results}
        moments = results.get("magmoms")
        if moments is not None and np.any(moments):
            values["magmoms"] = moments
        label = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        for array in ("initial_charges", "initial_magmoms") if found == "traj" else ():
            if array in atoms.arrays:
                label.set_array(array, atoms.arrays[array])
        label.info = {key: value for key, value in atoms.info.items() if found == "traj"}
        if abs(run.charge) >= _NO_CHARGE:
            label.info[CHARGE] = run.charge
        label.calc = SinglePointCalculator(label, **{key: value for key, value in values.items() if value is not None})
        kept.append(label)
        names.append(f"'{path}', step {i} ({atoms.get_chemical_formula()})")
    left_out = []
    if late:
        left_out.append(f"{_steps(late)} did not converge")
    if others:
        left_out.append(f"{_steps(others)} with other plane waves")
    if lost:
        left_out.append(f"{_steps(lost)} without energy or forces")
    if not kept and len(lost) == len(frames) and found == "traj":
        raise InvalidInputError(
            f"'{path}' holds {len(frames)} structures without energies and forces: a structure to begin with goes to "
            "structures. For labels let the calculator of ASE be attached when the trajectory is written"
        )
    if not kept:
        raise InvalidInputError(
            f"'{path}' ({READ[found]}) holds no label: {'; '.join(left_out) or 'it has no step'}. Converge the field "
            "(more iterations, other mixing), and have forces printed"
        )
    told = f"labels: '{path.name}' ({READ[found]}): {len(kept)} of {len(frames)} steps"
    said = [told + (f"; left out: {'; '.join(left_out)}" if left_out else ""), *run.remarks]
    if run.no_stress:
        said.append(f"labels: the stress of '{path.name}' is not used: {run.no_stress}")
    said += about_left_out([atoms for i, atoms in enumerate(frames) if i not in lost], f"'{path.name}'")
    return kept, names, [*said, *_about_cells(path, found, kept)]


def _about_cells(path: Path, found: str, kept: list[Atoms]) -> list[str]:
    """Say that a run whose cell changes keeps the plane waves of its first cell."""
    if found not in ("vasp-xml", "vasp-out", "espresso-out", "castep-castep"):
        return []
    volumes = [atoms.get_volume() for atoms in kept]
    if (change := max(volumes) / min(volumes) - 1) < _SAME_VOLUME:
        return []
    told = (
        f"labels: the volume changes by {100 * change:.1f} % in '{path.name}', and a run keeps the plane waves of its "
        "first cell, so energies and stresses are those of another cutoff; single calculations of its structures are "
        "better labels"
    )
    return [told]


def _steps(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")
    return f"step {shown}" if len(numbers) == 1 else f"{len(numbers)} steps ({shown})"


def _format_of(path: Path) -> str:
    try:
        head = text_of(path, _HEAD)
        found = _code_in(head) or filetype(str(path))
    except UnknownFileTypeError:
        found = None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InvalidInputError(f"the file of labels '{path}' cannot be read: {error}") from error
    if "<!ENTITY" in head:
        raise InvalidInputError(f"'{path}' defines entities of XML, which no code does that is read here; {REMEDY}")
    if found in READ:
        return str(found)
    if found in _OTHERS:
        code, unit = _OTHERS[found]
        raise InvalidInputError(f"'{path}' is an output of {code} ({unit}), which is not read here; {REMEDY}")
    if told := no_labels(path, found, head):
        raise InvalidInputError(f"'{path}' is no output that labels are read from: it {told}")
    raise InvalidInputError(
        f"'{path}' is no extended XYZ file (.xyz, .extxyz) and no output that labels are read from "
        f"({', '.join(READ.values())}); {REMEDY}"
    )


def _with_dispersion(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the energies (eV) that the forces of CASTEP belong to, which ASE's reader keeps under other names."""
    found = {
        name: results.get(f"{name}_with_dispersion_correlation") for name in ("energy_zero", "energy", "free_energy")
    }
    free = found["free_energy"] if found["free_energy"] is not None else found["energy"]
    if free is None:
        return {}
    return {"free_energy": free, "energy": found["energy_zero"] if found["energy_zero"] is not None else free}
