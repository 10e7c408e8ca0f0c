"""Labels from outputs of codes: every step of a run whose field converged, with the energy its forces derive from."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import warnings
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import UnknownFileTypeError, filetype

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.left_out import about_left_out
from mlip_autopipec.oracle.vasp_tags import refused_tags, stress_mode
from mlip_autopipec.structures.electrons import CHARGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ase import Atoms

_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
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
_REMEDY = (
    "write it as extended XYZ: attach SinglePointCalculator(atoms, energy=..., forces=...) with the energy in eV that "
    "the forces derive from and forces in eV/A, then ase.io.write('labels.extxyz', frames)"
)
#: Words with which a code says that a field did not converge, where it does not say for which step.
_UNCONVERGED = {
    "espresso-out": re.compile(r"scf_must_converge\s*=\s*\.false\."),
    "castep-castep": re.compile(r"max\. SCF cycles performed but system has not reached the groundstate"),
    "aims-output": re.compile(r"Self-consistency cycle not converged|SCF cycle not converged"),
}
#: VASP's tags for moving atoms: each step of such a run is a label of its own. PSTRESS: ASE takes P V off again.
_MOVING = ("NSW", "IBRION", "PSTRESS", "NELECT")
#: Volumes that differ by a smaller share are one.
_SAME_VOLUME = 0.01
#: A total charge (e) below this is rounding.
_NO_CHARGE = 0.01


@dataclass
class Run:
    """
    What a file says beside energies and forces.

    Parameters
    ----------
    refused
        Why none of its steps is a label.
    unconverged
        Which of the steps that have an energy did not converge.
    other_basis
        Which of them have other plane waves than the others.
    charge
        Total charge in e.
    no_stress
        Why its stress is not used; empty if it is.
    """

    refused: list[str] = field(default_factory=list)
    unconverged: set[int] = field(default_factory=set)
    other_basis: set[int] = field(default_factory=set)
    charge: float = 0.0
    no_stress: str = ""


def is_output(path: Path) -> bool:
    """Return whether a file is no extended XYZ, whatever else it is."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _OPENERS]
    return not suffixes or suffixes[-1] not in (".xyz", ".extxyz")


def read_output(path: Path) -> tuple[list[Atoms], list[str], list[str]]:
    """
    Read all steps of a run that are labels.

    Parameters
    ----------
    path
        An output of a code (:data:`READ`), packed by gzip, bzip2 or xz or not.

    Returns
    -------
    tuple
        Structures with energy and free energy (eV), forces (eV/A) and, if known, stress (eV/A^3) attached; their names
        for messages; and what there is to say.

    Raises
    ------
    InvalidInputError
        The file is not known, damaged, of a run whose numbers are not those of its structures, or holds no step that
        converged.
    """
    found = _format_of(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of readers, about what they leave out
            frames: list[Any] = list(ase.io.iread(str(path), ":", format=found, do_not_split_by_at_sign=True))
        run = _LOOKS[found](path) if found in _LOOKS else Run(refused=_said_unconverged(path, found))
    except InvalidInputError:
        raise
    except Exception as error:  # readers raise what they like
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InvalidInputError(
            f"the labels '{path}' ({READ[found]}) cannot be read ({why}): is the run complete? Else {_REMEDY}"
        ) from error
    if run.refused:
        raise InvalidInputError(f"'{path}' ({READ[found]}) holds no labels: {'. '.join(run.refused)}")
    return _kept(path, found, frames, run)


def _kept(path: Path, found: str, frames: list[Any], run: Run) -> tuple[list[Atoms], list[str], list[str]]:
    kept: list[Atoms] = []
    names: list[str] = []
    lost: list[int] = []
    late: list[int] = []
    others: list[int] = []
    n_energies = -1
    for i, atoms in enumerate(frames):
        results = {} if atoms.calc is None else dict(atoms.calc.results)
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
        label = atoms.copy()
        label.set_constraint()
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
    if not kept:
        raise InvalidInputError(
            f"'{path}' ({READ[found]}) holds no label: {'; '.join(left_out) or 'it has no step'}. Converge the field "
            "(more iterations, other mixing), and have forces printed"
        )
    told = f"labels: '{path.name}' ({READ[found]}): {len(kept)} of {len(frames)} steps"
    said = [told + (f"; left out: {'; '.join(left_out)}" if left_out else "")]
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


def _text(path: Path, length: int = -1) -> str:
    opener: Any = _OPENERS.get(path.suffix, open)
    with opener(path, "rb") as stream:
        return bytes(stream.read(length)).decode(errors="replace")


def _format_of(path: Path) -> str:
    try:
        head = _text(path, _HEAD)
        found = next((name for sign, name in _SIGNS if sign.search(head)), None) or filetype(str(path))
    except UnknownFileTypeError:
        found = None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InvalidInputError(f"the file of labels '{path}' cannot be read: {error}") from error
    if "<!ENTITY" in head:
        raise InvalidInputError(f"'{path}' defines entities of XML, which no code does that is read here; {_REMEDY}")
    if found in READ:
        return str(found)
    if found in _OTHERS:
        code, unit = _OTHERS[found]
        raise InvalidInputError(f"'{path}' is an output of {code} ({unit}), which is not read here; {_REMEDY}")
    raise InvalidInputError(
        f"'{path}' is no extended XYZ file (.xyz, .extxyz) and no output that labels are read from "
        f"({', '.join(READ.values())}); {_REMEDY}"
    )


def _said_unconverged(path: Path, found: str) -> list[str]:
    pattern = _UNCONVERGED.get(found)
    if pattern is None or (said := pattern.search(text := _text(path))) is None:
        return [] if pattern is None else _other_units(text, found)
    told = (
        f"it says '{' '.join(said[0].split())}', and not all of its steps are converged; take those out that are not, "
        f"and {_REMEDY}"
    )
    return [told]


def _other_units(text: str, found: str) -> list[str]:
    if found != "castep-castep":
        return []
    units = dict(re.findall(r"output +(energy|force) unit +: +(\S+)", text))
    wrong = {name: unit for name, unit in units.items() if unit not in ("eV", "eV/A")}
    return [f"its {name}s are in {unit}; they are read as eV and eV/A" for name, unit in wrong.items()]


def _vasprun(path: Path) -> Run:
    """Read of vasprun.xml what ASE's reader leaves out: settings, electrons, and which steps converged."""
    opener: Any = _OPENERS.get(path.suffix, open)
    tags: dict[str, dict[str, Any]] = {"incar": {}, "parameters": {}}
    electrons, counts = 0.0, []
    with opener(path, "rb") as stream:
        try:
            for _, element in ET.iterparse(stream, events=("end",)):  # noqa: S314 (without entities, see _format_of)
                if element.tag in tags:
                    given = ((one.get("name", ""), one.text or "") for one in element.iter() if one.tag in ("i", "v"))
                    tags[element.tag] |= {name.upper(): _value(text) for name, text in given}
                elif element.tag == "array" and element.get("name") == "atomtypes":
                    for row in element.iter("rc"):
                        cells = [cell.text or "" for cell in row]
                        electrons += float(cells[0]) * float(cells[3])
                elif element.tag == "calculation":
                    counts.append(_iterations(element))
                    element.clear()
        except ET.ParseError:  # a run that was stopped
            pass
    used = {**tags["parameters"], **tags["incar"]}
    most, accuracy = int(_number(used.get("NELM"), 60)), _number(used.get("EDIFF"), 1e-4)
    late = {i for i, (n, last) in enumerate(counts) if n >= most and not last <= accuracy}
    return _vasp(tags["incar"], tags["parameters"], late, electrons, _number(used.get("NELECT"), electrons))


def _iterations(calculation: ET.Element) -> tuple[int, float]:
    """Return the number of electronic iterations of a step, and by how much the last changed the energy in eV."""
    energies = [one.find("energy/i[@name='e_fr_energy']") for one in calculation.findall("scstep")]
    values = [_number(one.text, np.nan) for one in energies if one is not None]
    return len(energies), abs(values[-1] - values[-2]) if len(values) > 1 else np.nan


def _outcar(path: Path) -> Run:
    text = _text(path)
    tags: dict[str, Any] = {}
    for name in ("ISIF", "PSTRESS", "NELECT", "LHFCALC", "IBRION", "LMONO", "LDIPOL", "IDIPOL", "SCALEE", "ICHARG"):
        if told := re.search(rf"^ +{name} *= *(\S+)", text, re.MULTILINE):
            tags[name] = _value(told[1].rstrip(";"))
    if re.search(r"ML_LMLFF *= *T", text):
        tags["ML_LMLFF"] = True
    steps = text.split("TOTAL-FORCE (eV/Angst)")[:-1]
    late = {i for i, step in enumerate(steps) if "EDIFF is reached" not in step}
    counted = re.search(r"ions per type = +([\d ]+)", text)
    # the last of these lines has all species
    valences = re.findall(r"^ +ZVAL +=([\d. ]+)$", text, re.MULTILINE)
    if counted and valences:
        numbers, charges = (np.array(line.split(), dtype=float) for line in (counted[1], valences[-1]))
        electrons = float(numbers @ charges) if len(numbers) == len(charges) else np.nan
    else:
        electrons = np.nan
    return _vasp({}, tags, late, electrons, _number(tags.get("NELECT"), np.nan))


def _vasp(incar: dict[str, Any], parameters: dict[str, Any], late: set[int], neutral: float, electrons: float) -> Run:
    incar = {key: value for key, value in incar.items() if key not in _MOVING}
    shown = {key: value for key, value in parameters.items() if key not in _MOVING}
    run = Run(refused=refused_tags(incar, shown), unconverged=late)
    if np.isfinite(neutral - electrons):
        run.charge = round(neutral - electrons, 6)
    if stress_mode(incar, parameters) < 2:
        run.no_stress = "with its ISIF VASP computes none, or the trace alone"
    if _number(parameters.get("PSTRESS"), 0.0):
        run.no_stress = "PSTRESS is set, which is part of what VASP prints"
    return run


def _espresso(path: Path) -> Run:
    run = Run(refused=_said_unconverged(path, "espresso-out"))
    text = _text(path)
    electrons = re.search(r"number of electrons +=\s+([\d.]+)", text)
    species = dict(re.findall(r"^ +(\w+) +(\d+\.\d+) +\d+\.\d+ +\w+\( ?\d\.\d+\)", text, re.MULTILINE))
    sites = re.findall(r"^ +\d+ +(\w+) +tau\(", text, re.MULTILINE)
    if electrons and sites and set(sites) <= set(species):
        n_atoms = int((re.search(r"number of atoms/cell +=\s+(\d+)", text) or [0, len(sites)])[1])
        run.charge = round(sum(float(species[name]) for name in sites[:n_atoms]) - float(electrons[1]), 4)
    # with scf_must_converge = .false. it says of the last iteration that it was allowed that it converged
    wanted = re.search(r"convergence threshold +=\s+(\S+)", text)
    reached = re.findall(r"^! +total energy.*\n(?:.*\n){0,3}? +estimated scf accuracy +< +(\S+) Ry", text, re.MULTILINE)
    if wanted:
        most = 1.01 * float(wanted[1].replace("D", "E"))
        run.unconverged = {i for i, accuracy in enumerate(reached) if _number(accuracy, np.inf) > most}
    if (
        re.search(r"final scf calculation at the relaxed|G-vectors are recalculated for the final", text)
        and len(reached) > 1
    ):
        run.other_basis = {len(reached) - 1}
    return run


def _value(text: str) -> Any:
    words = text.split()
    return words[0] if len(words) == 1 else (words or "")


def _number(value: Any, otherwise: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return otherwise


#: Formats of which more is to be known than ASE's readers say.
_LOOKS: dict[str, Callable[[Path], Run]] = {"vasp-xml": _vasprun, "vasp-out": _outcar, "espresso-out": _espresso}
