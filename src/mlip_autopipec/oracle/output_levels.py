"""The level of theory of outputs of codes: labels of one dataset belong to one."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mlip_autopipec.oracle.refused import switched_on

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Settings that may differ: energies of lone atoms are computed with others, and what they change is small.
_SMALL = frozenset(["smearing", "precision"])
#: Cutoffs that differ by a smaller share change energies by little, if they are converged.
_SAME_CUTOFF = 0.05
_CUTOFF = "cutoff"
#: How many files of one kind a message names.
_NAMED = 3


def level_of_vasp(settings: Mapping[str, Any], titles: Sequence[str]) -> dict[str, str]:
    """
    Return what a run of VASP was computed with, as far as it decides the scale of its energies.

    Parameters
    ----------
    settings
        Upper-case tags and their values, of the INCAR and of what VASP says it used.
    titles
        Of the pseudopotentials, in the order of the species: ``PAW_PBE Fe_pv 02Aug2007``.
    """
    functional = str(settings.get("GGA", "--")).strip().upper()[:2]
    if functional in ("--", "NO", "F", "") and titles:  # the one the potentials were made with
        functional = {"PAW_PBE": "PE", "PAW_GGA": "91"}.get(titles[0].split()[0], "CA")
    meta = str(settings.get("METAGGA", "")).strip().strip(".").upper()
    if meta not in ("", "--", "NONE", "F", "FALSE"):
        functional = meta[:6]
    if switched_on(settings.get("LHFCALC", False)):
        functional += (
            f" with {_short(settings.get('AEXX', 0.25))} exact exchange, HFSCREEN {_short(settings.get('HFSCREEN', 0))}"
        )
    level = {"code": "VASP", "functional": functional, "dispersion": _dispersion(settings)}
    level["spin-orbit coupling"] = "on" if switched_on(settings.get("LSORBIT", False)) else "off"
    if (cutoff := settings.get("ENMAX", settings.get("ENCUT"))) is not None:
        level[_CUTOFF] = f"{_short(cutoff)} eV"
    level["smearing"] = f"ISMEAR {_short(settings.get('ISMEAR', 1))}, SIGMA {_short(settings.get('SIGMA', 0.2))}"
    level["precision"] = (
        f"PREC {str(settings.get('PREC', 'Normal')).strip().lower()[:1]}, LREAL {_real_space(settings)}"
    )
    for index, title in enumerate(titles):
        words = title.split()
        element = re.split(r"[_.]", words[1] if len(words) > 1 else words[0])[0]
        level[f"potential of {element}"] = " ".join(words)
        level[f"U of {element}"] = _hubbard(settings, index)
    return level


def _real_space(settings: Mapping[str, Any]) -> str:
    return "on" if switched_on(settings.get("LREAL", False)) else "off"


def _dispersion(settings: Mapping[str, Any]) -> str:
    kinds = [f"IVDW {_short(settings['IVDW'])}"] if switched_on(settings.get("IVDW", 0)) else []
    kinds += ["LUSE_VDW"] if switched_on(settings.get("LUSE_VDW", False)) else []
    return ", ".join(kinds) or "none"


def _hubbard(settings: Mapping[str, Any], index: int) -> str:
    if not switched_on(settings.get("LDAU", False)):
        return "none"
    values = []
    for key in ("LDAUL", "LDAUU", "LDAUJ"):
        told = settings.get(key, [])
        told = told if isinstance(told, list) else str(told).split()
        values.append(_short(told[index]) if index < len(told) else "0")
    if values[0] == "-1" or values[1:] == ["0", "0"]:
        return "none"
    return f"l = {values[0]}, U = {values[1]}, J = {values[2]} eV"


def level_of_espresso(text: str) -> dict[str, str]:
    """Return the same of an output of ``pw.x``."""
    level = {"code": "Quantum ESPRESSO"}
    patterns = {
        "functional": r"^ +Exchange-correlation *= *(\S.*?) *(?:\(.*)?$",
        _CUTOFF: r"^ +kinetic-energy cutoff += +(\S+ +Ry)",
        "dispersion": r"^ +(DFT-D\S*|Grimme-D\S*|XDM|TS-vdW|MBD)\b.*(?:[Dd]ispersion|vdW|parameters)",
        "smearing": r"^ +number of k points= *\d+ +(\S.*?) *$",
    }
    level |= _found(patterns, text)
    for element, checksum in re.findall(
        r"PseudoPot\. # *\d+ for +(\w+) +read from file:?[^\n]*(?:\n[^\n]*?)??\n +MD5 check sum: *(\w+)", text
    ):
        level[f"potential of {element}"] = f"MD5 {checksum}"
    return level


def level_of_aims(text: str) -> dict[str, str]:
    """Return the same of an output of FHI-aims."""
    found = re.search(r"^ +XC: +(?:Using +|Running with +)?(\S.*?)\.? *$", text, re.MULTILINE)
    dispersion = re.search(r"^ +vdw_correction_hirshfeld|many_body_dispersion", text, re.MULTILINE)
    level = {"code": "FHI-aims", "dispersion": "on" if dispersion else "none"}
    return level | ({"functional": " ".join(found[1].split())} if found else {})


def level_of_castep(text: str) -> dict[str, str]:
    """Return the same of a ``.castep`` file."""
    level = {"code": "CASTEP"}
    patterns = {
        "functional": r"^ *using functional +: +(\S.*?) *$",
        _CUTOFF: r"^ *plane wave basis set cut-off +: +(\S+ +eV)",
        "dispersion": r"^ *DFT\+D: Semi-empirical dispersion correction +: +(\S+)",
    }
    return level | _found(patterns, text)


def _found(patterns: Mapping[str, str], text: str) -> dict[str, str]:
    searched = {name: re.search(pattern, text, re.MULTILINE) for name, pattern in patterns.items()}
    return {name: " ".join(found[1].split()) for name, found in searched.items() if found}


def compare_levels(levels: Mapping[str, Mapping[str, str]]) -> tuple[list[str], list[str]]:
    """
    Compare what several files were computed with.

    Parameters
    ----------
    levels
        Of each file, by its name. What a file does not say is not compared.

    Returns
    -------
    tuple
        Differences for which labels of these files do not belong together, and those that are only said.
    """
    refused: list[str] = []
    said: list[str] = []
    for name in dict.fromkeys(key for level in levels.values() for key in level):
        files: dict[str, list[str]] = {}
        for file, level in levels.items():
            if name in level:
                files.setdefault(level[name], []).append(file)
        if len(files) < 2:
            continue
        told = f"{name}: " + " and ".join(f"{value} in {_few(where)}" for value, where in files.items())
        small = name in _SMALL or (name == _CUTOFF and _close(list(files)))
        (said if small else refused).append(told)
    return refused, said


def _few(files: Sequence[str]) -> str:
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(f"'{file}'" for file in files[:_NAMED]) + more


def _close(cutoffs: Sequence[str]) -> bool:
    values = sorted(float(text.split()[0]) for text in cutoffs)
    return all(above - below <= _SAME_CUTOFF * above for below, above in pairwise(values))


def _short(value: Any) -> str:
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value).strip()
