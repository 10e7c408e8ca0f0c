"""Settings of Quantum ESPRESSO, ABINIT and CP2K that change what their numbers mean: refused for labels."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from mlip_autopipec.oracle.refused import Rule, broken, one_of, other_than, switched_on
from mlip_autopipec.oracle.vasp_tags import refused_tags, stress_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_AT_REST = "the atoms move, and energy and forces would be of another structure"
_CHARGED = "every cell, of any size, would have this charge, isolated atoms too"
_OF_STRUCTURE = "give it to the structure that has it (info['charge'])"
_SPIN = "every cell, of any size, would have this spin, isolated atoms too"
_SPIN_OF_STRUCTURE = "give it to the structure that has it (info['multiplicity'])"
_FIELD = "a potential of positions alone cannot hold an external field"
_PENALTY = "a penalty is in the energy"
_LOOSE = "the electrons are stopped far from self-consistency, and forces are noise"
_ONE = "several calculations are made in one run"
#: Of a whole cell; in the input of a charged structure because of that structure.
CHARGE_OF_CP2K = "FORCE_EVAL/DFT/CHARGE"


def _field_of_pw(value: Any, settings: Mapping[str, Any]) -> bool:
    return switched_on(value) and switched_on(settings.get("eamp", 0.001))


def _negative(value: Any, settings: Mapping[str, Any]) -> bool:
    del settings
    return float(value) < 0


def _above(bound: float) -> Callable[[Any, Mapping[str, Any]], bool]:
    return lambda value, _: _number(value) > bound


def _below(bound: float) -> Callable[[Any, Mapping[str, Any]], bool]:
    return lambda value, _: _number(value) < bound


def _number(value: Any) -> float:
    """Return a number that may be written as Fortran does; what has a unit or is a name of CP2K's is not compared."""
    try:
        return float(str(value).strip().lower().replace("d", "e"))
    except ValueError:
        return math.nan


def _more_than_one(value: Any, settings: Mapping[str, Any]) -> bool:
    del settings
    return value is not None and float(value) > 1


def _potential_without_energy(value: Any, settings: Mapping[str, Any]) -> bool:
    """Tell whether ixc of ABINIT holds BJ06, TB09 or RPP09 of libxc: -XXXYYY of two functionals."""
    del settings
    number = -int(float(value))
    return number > 0 and bool({number % 1000, number // 1000} & {207, 208, 209})


#: Keywords of the namelists of ``pw.x``, and cards.
ESPRESSO = (
    Rule("calculation", other_than("scf"), "no single self-consistent calculation is made", "set scf"),
    Rule("conv_thr", _above(1e-3), _LOOSE, "set 1e-8 (Ry)"),
    Rule("electron_maxstep", _below(10), "the electrons cannot get to self-consistency", "leave it out (100)"),
    Rule("ecutwfc", _below(10), "no pseudopotential is made for so few plane waves (Ry)", "set what its file says"),
    Rule("scf_must_converge", lambda v, _: not switched_on(v), "an unconverged field would not be an error"),
    Rule("tot_charge", switched_on, _CHARGED, _OF_STRUCTURE),
    Rule(
        "tefield",
        _field_of_pw,
        _FIELD,
        "leave it out; for the dipole correction of slabs set tefield and dipfield alone, or eamp = 0",
    ),
    Rule("lelfield", switched_on, _FIELD),
    Rule("b_field", switched_on, _FIELD),
    Rule("gate", switched_on, "a charged plate is part of the energy"),
    *(Rule(name, switched_on, "the number of electrons is not fixed") for name in ("lfcp", "lfcpopt", "lfcpdyn")),
    Rule("constrained_magnetization", other_than("none"), _PENALTY),
    Rule("occupations", one_of("from_input"), "occupations are given, not those of the ground state", "set smearing"),
    Rule("twochem", switched_on, "excited electrons are computed"),
    Rule("nextffield", switched_on, "external forces are added to the computed ones"),
    Rule("lberry", switched_on, "no energy is computed"),
    Rule("ATOMIC_FORCES", switched_on, "external forces are added to the computed ones"),
    Rule("OCCUPATIONS", switched_on, "occupations are given, not those of the ground state"),
)
ABINIT = (
    Rule("ionmov", switched_on, _AT_REST),
    Rule("optcell", switched_on, "the cell changes, and the label would be of another structure"),
    Rule("optdriver", switched_on, "no ground state is computed"),
    Rule("toldfe", _above(1e-4), _LOOSE, "set 1e-9 (Hartree)"),
    Rule("toldff", _above(5e-3), _LOOSE, "set 1e-5 (Hartree/bohr)"),
    Rule("tolvrs", _above(1e-2), _LOOSE, "set 1e-10"),
    Rule("nstep", _below(10), "the electrons cannot get to self-consistency", "leave it out (30), or more"),
    Rule("iscf", _negative, "the density is kept, so the energy is not the one of the ground state"),
    Rule("ndtset", switched_on, _ONE),
    Rule("nimage", _more_than_one, _ONE),
    Rule("charge", switched_on, _CHARGED, _OF_STRUCTURE),
    Rule("cellcharge", switched_on, _CHARGED, _OF_STRUCTURE),
    Rule("berryopt", one_of(4, 6, 7, 14, 16, 17), _FIELD),
    Rule("zeemanfield", switched_on, _FIELD),
    Rule("magconon", switched_on, _PENALTY),
    Rule("constraint_kind", switched_on, "charges or moments are constrained"),
    Rule("occopt", one_of(0, 2, 9), "occupations are given, or electrons are excited", "set 3 and tsmear"),
    Rule("ixc", _potential_without_energy, "this potential has no energy whose derivative the forces are"),
    Rule("natfix", switched_on, "constraints change forces"),
    Rule("natcon", switched_on, "constraints change forces"),
)
TBLITE = (
    Rule("charge", switched_on, _CHARGED, _OF_STRUCTURE),
    Rule("multiplicity", _more_than_one, _SPIN, _SPIN_OF_STRUCTURE),
    Rule("electric_field", switched_on, _FIELD),
)
#: Keywords and sections by their path in the input.
CP2K = (
    Rule("GLOBAL/RUN_TYPE", other_than("ENERGY_FORCE", "ENERGY"), _AT_REST, "set ENERGY_FORCE"),
    Rule(CHARGE_OF_CP2K, switched_on, _CHARGED, _OF_STRUCTURE),
    Rule("FORCE_EVAL/DFT/SCF/EPS_SCF", _above(1e-3), _LOOSE, "set 1e-7"),
    Rule("FORCE_EVAL/DFT/MGRID/CUTOFF", _below(50), "the grid is too coarse for any density (Ry)", "set 400 and more"),
    Rule("FORCE_EVAL/RESCALE_FORCES", switched_on, "large forces are made smaller"),
    *(
        Rule(f"FORCE_EVAL/{name}", switched_on, _FIELD)
        for name in (
            "EXTERNAL_POTENTIAL",
            "DFT/EFIELD",
            "DFT/PERIODIC_EFIELD",
            "DFT/EXTERNAL_POTENTIAL",
            "DFT/EXTERNAL_VXC",
            "DFT/EXTERNAL_DENSITY",
        )
    ),
    *(
        Rule(f"FORCE_EVAL/DFT/QS/{name}", switched_on, _PENALTY)
        for name in ("CDFT", "DDAPC_RESTRAINT", "MULLIKEN_RESTRAINT", "S2_RESTRAINT")
    ),
    Rule("FORCE_EVAL/DFT/REAL_TIME_PROPAGATION", switched_on, "electrons in motion are computed"),
    Rule("FORCE_EVAL/DFT/EXCITED_STATES", switched_on, "an excited state is computed"),
    Rule("FORCE_EVAL/BSSE", switched_on, _ONE),
    Rule("FORCE_EVAL/MIXED", switched_on, _ONE),
    Rule("MOTION/CONSTRAINT", switched_on, "constraints change forces"),
)
#: Kinds of stress of which CP2K computes the diagonal alone and prints zeros beside it.
_DIAGONAL = ("DIAGONAL_ANALYTICAL", "DIAGONAL_NUMERICAL")


def refused_settings(calculator: str, settings: Mapping[str, Any]) -> list[str]:
    """
    Return why labels are not computed by an ASE calculator with its settings.

    Parameters
    ----------
    calculator
        Import path of its class. Settings of classes that are not known here are not looked at.
    settings
        What it is made with.

    Returns
    -------
    list of str
        One line for each setting: name, value, why, and what to do.
    """
    known = _READERS.get(calculator)
    return [] if known is None else known(settings)


def _of_espresso(settings: Mapping[str, Any]) -> list[str]:
    keywords: dict[str, Any] = {}
    for name, value in {**settings, **(settings.get("input_data") or {})}.items():
        told = value if isinstance(value, dict) else {name: value}
        keywords |= {re.sub(r"\(.*", "", key).strip().lower(): item for key, item in told.items()}
    cards = settings.get("additional_cards") or []
    lines = cards.splitlines() if isinstance(cards, str) else [line for card in cards for line in str(card).split("\n")]
    keywords |= {line.split()[0].upper(): True for line in lines if line.split()}
    return broken(ESPRESSO, keywords)


def _of_abinit(settings: Mapping[str, Any]) -> list[str]:
    keywords = {name.lower(): value for name, value in settings.items()}
    raw = keywords.get("raw") or []
    for line in raw.splitlines() if isinstance(raw, str) else raw:
        words = re.split(r"[#!]", str(line))[0].split()
        if len(words) > 1:
            keywords[words[0].lower()] = " ".join(words[1:])
    return broken(ABINIT, keywords)


def _of_cp2k(settings: Mapping[str, Any]) -> list[str]:
    given = {**cp2k_settings(str(settings.get("inp") or ""))}
    if switched_on(settings.get("charge", 0)):
        given[CHARGE_OF_CP2K] = settings["charge"]
    reasons = broken(CP2K, given)
    if diagonal_stress(given):
        reasons.append(
            f"FORCE_EVAL/STRESS_TENSOR = {given['FORCE_EVAL/STRESS_TENSOR']}: the stress has no shear; set ANALYTICAL"
        )
    return reasons


def _of_vasp(settings: Mapping[str, Any]) -> list[str]:
    tags = {name.upper(): value for name, value in settings.items() if value is not None}
    reasons = refused_tags(tags)
    reasons += [f"{name} = {settings[name]}: {_CHARGED}" for name in ("charge", "net_charge") if settings.get(name)]
    if stress_mode(tags) != stress_mode({"ISIF": 2}):
        reasons.append(f"ISIF = {tags.get('ISIF', 'not set')}: no stress, or its trace alone, is computed; set isif=2")
    return reasons


_READERS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "ase.calculators.espresso.Espresso": _of_espresso,
    "ase.calculators.abinit.Abinit": _of_abinit,
    "ase.calculators.cp2k.CP2K": _of_cp2k,
    "ase.calculators.vasp.Vasp": _of_vasp,
    "ase.calculators.vasp.vasp.Vasp": _of_vasp,
    "tblite.ase.TBLite": lambda settings: broken(TBLITE, settings),
}


def cp2k_settings(text: str) -> dict[str, str]:
    """
    Read an input of CP2K as a flat table.

    Parameters
    ----------
    text
        Sections ``&NAME parameter ... &END``, keywords with their values; ``!`` and ``#`` begin comments. Preprocessor
        commands (``@SET`` ...) are not followed.

    Returns
    -------
    dict
        Value of each keyword, parameter of each section (``T`` where it has none), by path: ``FORCE_EVAL/DFT/CHARGE``.
    """
    return dict(_cp2k_lines(text))


def _cp2k_lines(text: str) -> Iterator[tuple[str, str]]:
    path: list[str] = []
    for line in text.splitlines():
        words = re.split(r"[#!]", line)[0].split(maxsplit=1)
        if not words or words[0].startswith("@"):
            continue
        name, value = words[0].upper(), words[1].strip() if len(words) > 1 else "T"
        if name.startswith("&END"):
            path = path[:-1]
            continue
        if name.startswith("&"):
            path.append(name[1:])
            name = ""
        yield "/".join([*path, *([name] if name else [])]), value


def diagonal_stress(settings: Mapping[str, Any]) -> bool:
    """Tell from a table of :func:`cp2k_settings` whether CP2K computes the diagonal of the stress alone."""
    return str(settings.get("FORCE_EVAL/STRESS_TENSOR", "")).strip().upper() in _DIAGONAL
