"""What an output of a code says beside energies and forces: settings, electrons, and which steps converged."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers

from mlip_autopipec.oracle.output_levels import level_of_aims, level_of_castep, level_of_espresso, level_of_vasp
from mlip_autopipec.oracle.refused import switched_on
from mlip_autopipec.oracle.vasp_doubts import DOUBTS, Cutoffs, cutoff_too_low, doubtful_tags
from mlip_autopipec.oracle.vasp_failures import DISPERSION, EDIFF_TOLERANCE
from mlip_autopipec.oracle.vasp_tags import GRIDS, PER_SPECIES, RULES, refused_tags, stress_mode
from mlip_autopipec.structures.texts import OPENERS, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

#: What to do with outputs that are not read.
REMEDY = (
    "write it as extended XYZ: attach SinglePointCalculator(atoms, energy=..., forces=...) with the energy in eV that "
    "the forces derive from and forces in eV/A, then ase.io.write('labels.extxyz', frames)"
)
#: Words with which a code says that a field did not converge, where it does not say for which step.
_UNCONVERGED = {
    "espresso-out": re.compile(r"scf_must_converge\s*=\s*\.false\."),
    "castep-castep": re.compile(r"max\. SCF cycles performed but system has not reached the groundstate"),
    "aims-output": re.compile(r"Self-consistency cycle not converged|SCF cycle not converged"),
}
#: What ends a step of FHI-aims in MD, and in a relaxation; what begins anew within a step.
_AIMS_STEP = (
    "Begin self-consistency loop: Re-initialization",
    "Geometry optimization: Attempting to predict improved coordinates.",
)
_AIMS_WITHIN = re.compile(r"restarting mixer to attempt|see comments in numerical_stress|numerical stress completed")
#: VASP's tags for moving atoms: each step of such a run is a label of its own. PSTRESS: ASE takes P V off again. The
#: others are wrong for cells of other sizes alone, or seen in the steps.
_OF_ONE_RUN = frozenset("NSW IBRION PSTRESS NELECT NELM NUPDOWN NBANDS KSPACING ENMAX".split()) | {*GRIDS}
#: What OUTCAR prints of VASP's tags; its ENMAX are those of the POTCARs.
_PRINTED = frozenset(rule.name for rule in (*RULES, *DOUBTS) if rule.name != "ENMAX") | frozenset(
    "ISIF GGA METAGGA LHFCALC AEXX HFSCREEN ENCUT ISMEAR SIGMA ISPIN LDIPOL LDAU LDAUL LDAUU LDAUJ AGGAC".split()
)


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
    remarks
        What else there is to say.
    text
        What a reader is given instead of the file; None for the file itself.
    doubts
        Settings that make its labels noisy, or right for some materials alone.
    level
        What it was computed with, as far as other files have to agree
        (:mod:`~mlip_autopipec.oracle.output_levels`).
    """

    refused: list[str] = field(default_factory=list)
    unconverged: set[int] = field(default_factory=set)
    other_basis: set[int] = field(default_factory=set)
    charge: float = 0.0
    no_stress: str = ""
    remarks: list[str] = field(default_factory=list)
    text: str | None = None
    doubts: list[str] = field(default_factory=list)
    level: dict[str, str] = field(default_factory=dict)


def said_unconverged(path: Path, found: str) -> list[str]:
    """Return why a run is refused that says that some field did not converge, and not which."""
    pattern = _UNCONVERGED.get(found)
    if pattern is None or (said := pattern.search(text_of(path))) is None:
        return []
    told = (
        f"it says '{' '.join(said[0].split())}', and not all of its steps are converged; take those out that are not, "
        f"and {REMEDY}"
    )
    return [told]


def _castep(path: Path) -> Run:
    """Read of a .castep file what its structures and energies have to do with each other."""
    text = text_of(path)
    run = Run(refused=said_unconverged(path, "castep-castep"), level=level_of_castep(text))
    units = dict(re.findall(r"output +(energy|force) unit +: +(\S+)", text))
    wrong = {name: unit for name, unit in units.items() if unit not in ("eV", "eV/A")}
    run.refused += [f"its {name}s are in {unit}; they are read as eV and eV/A" for name, unit in wrong.items()]
    kind = re.search(r"type of calculation +: +(\S.*?) *$", text, re.MULTILINE)
    if kind and (kind[1].startswith("transition state") or "finite displacement" in text):
        what = kind[1] if kind[1].startswith("transition state") else "phonon calculation by finite displacements"
        run.refused.append(f"a {what} prints energies of structures that it does not print; take single calculations")
    n_corrected, n_final = (text.count(words) for words in ("Dispersion corrected final", "Final energy"))
    if n_corrected == 0 and n_final and re.search(r"DFT\+D: .*: +on *$", text, re.MULTILINE):
        run.refused.append("its dispersion correction is on, and no corrected energy is printed")
    steps = len(re.findall(r"(?<!BFGS): finished iteration", text))
    if steps > 1:
        run.remarks.append(f"labels: of the {steps} steps of '{path.name}' the last alone is read")
    return run


def _vasprun(path: Path) -> Run:
    """Read of vasprun.xml what ASE's reader leaves out: settings, electrons, and which steps converged."""
    opener: Any = OPENERS.get(path.suffix, open)
    tags: dict[str, dict[str, Any]] = {"incar": {}, "parameters": {}}
    electrons, counts, titles = 0.0, [], []
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
                        titles.append(" ".join(cells[4].split()))
                elif element.tag == "calculation":
                    counts.append(_iterations(element))
                    element.clear()
        except ET.ParseError:  # a run that was stopped
            pass
    used = {**tags["parameters"], **tags["incar"]}
    most, accuracy = int(_number(used.get("NELM"), 60)), _number(used.get("EDIFF"), 1e-4)
    late = {i for i, (n, last) in enumerate(counts) if n >= most and not last <= accuracy}
    if not any(switched_on(used.get(key, False)) for key in DISPERSION):  # it is in the last iteration alone
        late |= {i for i, (n, last) in enumerate(counts) if n < most and last > EDIFF_TOLERANCE * accuracy + 1e-7}
    run = _vasp(tags["incar"], tags["parameters"], titles, late)
    run.charge = _charge(electrons, _number(used.get("NELECT"), electrons))
    return run


def _iterations(calculation: ET.Element) -> tuple[int, float]:
    """Return the number of electronic iterations of a step, and by how much the last changed the energy in eV."""
    energies = [one.find("energy/i[@name='e_fr_energy']") for one in calculation.findall("scstep")]
    values = [_number(one.text, np.nan) for one in energies if one is not None]
    return len(energies), abs(values[-1] - values[-2]) if len(values) > 1 else np.nan


def _outcar(path: Path) -> Run:
    text = text_of(path)
    head = text[: found.start()] if (found := re.search(r"^-+ Iteration +1\(", text, re.MULTILINE)) else text
    tags = {name: _value(told[1]) for name in _PRINTED if (told := _printed(name, head)) and told[1].strip()}
    steps = text.split("TOTAL-FORCE (eV/Angst)")[:-1]
    late = {i for i, step in enumerate(steps) if "EDIFF is reached" not in step}
    titles = [" ".join(title.split()) for title in re.findall(r"^ +TITEL +=(.*)$", head, re.MULTILINE)]
    run = _vasp({}, tags, titles, late, _cutoffs(head, titles))
    counted = re.search(r"ions per type = +([\d ]+)", head)
    # the last of these lines has all species
    valences = re.findall(r"^ +ZVAL +=([\d. ]+)$", head, re.MULTILINE)
    if counted and valences:
        numbers, charges = (np.array(line.split(), dtype=float) for line in (counted[1], valences[-1]))
        if len(numbers) == len(charges):
            run.charge = _charge(float(numbers @ charges), _number(tags.get("NELECT"), np.nan))
    return run


def _printed(name: str, head: str) -> re.Match[str] | None:
    """Find a tag; those with a value for each species fill their line."""
    values = r"(.*)" if name in PER_SPECIES else r"([^\s;]+)"
    return re.search(rf"(?:^|[\s;]){name} *= *{values}", head, re.MULTILINE)


def _cutoffs(head: str, titles: list[str]) -> list[Cutoffs]:
    found = re.findall(r"ENMAX += +([\d.]+); +ENMIN += +([\d.]+)", head)
    if len(found) != len(titles):
        return []
    return [(title, float(least), float(most)) for title, (most, least) in zip(titles, found, strict=True)]


def _charge(neutral: float, electrons: float) -> float:
    return round(neutral - electrons, 6) if np.isfinite(neutral - electrons) else 0.0


def _vasp(
    incar: dict[str, Any],
    parameters: dict[str, Any],
    titles: list[str],
    late: set[int],
    cutoffs: Sequence[Cutoffs] = (),
) -> Run:
    asked = {key: value for key, value in incar.items() if key not in _OF_ONE_RUN}
    shown = {key: value for key, value in parameters.items() if key not in _OF_ONE_RUN}
    used = {**parameters, **incar}
    elements = [re.split(r"[_.]", title.split()[1])[0] for title in titles if len(title.split()) > 1]
    encut = _number(used.get("ENMAX", used.get("ENCUT")), np.nan)
    too_low, doubts = cutoff_too_low(encut, cutoffs, elements) if np.isfinite(encut) else ([], [])
    run = Run(refused=refused_tags(asked, shown) + too_low, unconverged=late)
    run.doubts = doubtful_tags({**asked, **_in_motion(incar)}, {**shown, **_in_motion(parameters)}, elements) + doubts
    run.level = level_of_vasp(used, titles)
    if stress_mode(incar, parameters) < 2:
        run.no_stress = "with its ISIF VASP computes none, or the trace alone"
    if _number(parameters.get("PSTRESS"), 0.0):
        run.no_stress = "PSTRESS is set, which is part of what VASP prints"
    return run


def _in_motion(tags: dict[str, Any]) -> dict[str, Any]:
    return {"IBRION": tags["IBRION"]} if "IBRION" in tags else {}


def _espresso(path: Path) -> Run:
    text = text_of(path)
    run = Run(refused=said_unconverged(path, "espresso-out"), level=level_of_espresso(text))
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


def _aims(path: Path) -> Run:
    """Read of an output of FHI-aims which steps are finished and converged, under the headings that ASE looks for."""
    # the structure of the last step has another heading, without which ASE takes the first structure of the run
    text = text_of(path).replace("Final atomic structure (and velocities)", "Atomic structure (and velocities)")
    relaxes = "Geometry relaxation:" in text
    end = _AIMS_STEP[relaxes]
    steps = text.split(end)
    run = Run(text=text, level=level_of_aims(text))
    if "Have a nice day." not in text[-2000:]:
        if len(steps) == 1:
            run.refused.append("the run was stopped before its first step was finished")
        steps = steps[:-1]
        run.text = end.join(steps) + (f"{end}\n\n" if relaxes else "")  # there the reader leaves out what comes last
        run.remarks.append(f"labels: the run of '{path.name}' did not end; its {len(steps)} finished steps are read")
    electrons = re.search(r"contains +(\d+) atoms, +and a total of +([\d.]+) electrons", text)
    species = re.findall(r"^ +\| +\d+: Species (\w+) ", text, re.MULTILINE)
    if electrons and set(species) <= set(atomic_numbers):
        nuclei = sum(atomic_numbers[name] for name in species[: int(electrons[1])])
        run.charge = round(nuclei - float(electrons[2]), 4)
    if _AIMS_WITHIN.search(text):  # steps cannot be told apart
        run.refused += said_unconverged(path, "aims-output")
    run.unconverged = {i for i, step in enumerate(steps) if _UNCONVERGED["aims-output"].search(step)}
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
LOOKS: dict[str, Callable[[Path], Run]] = {
    "vasp-xml": _vasprun,
    "vasp-out": _outcar,
    "espresso-out": _espresso,
    "castep-castep": _castep,
    "aims-output": _aims,
}
