"""VASP's table of parameters as vasprun.xml lists it, filled with the INCAR of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from vasp_stand_in.electrons import DEFAULT_EDIFF_EV, plane_wave_cutoff
from vasp_stand_in.inputs import DEFAULT_KSPACING, is_true

if TYPE_CHECKING:
    from vasp_stand_in.inputs import Incar, VaspInput

# of tags that VASP does not list among the parameters, or lists under another name
OTHER_KINDS = {"ENCUT": "float", "MAGMOM": "floats", "LDAUU": "floats", "LDAUJ": "floats", "LDAUL": "ints"}
# belong to many-body theory there, and are named again further up
NOT_FROM_INCAR = {("response functions", "CSHIFT"), ("response functions", "OMEGAMAX")}
IALGO = {"n": 38, "v": 48, "f": 68, "a": 58, "c": 58, "d": 53}


@dataclass(frozen=True)
class Parameter:
    """One line of ``<parameters>``; kind is string, logical, int or float, with an s for vectors."""

    section: str  # names of the separators, joined by "/"
    name: str
    kind: str
    default: str


@cache
def parameter_table() -> tuple[Parameter, ...]:
    """Read the names, kinds and defaults in VASP's order."""
    section, table = "", []
    for line in files(__package__).joinpath("parameters.txt").read_text().splitlines():
        if line.startswith("["):
            section = line[1:-1]
        elif line:
            name, kind, default = (*line.split(" ", 2), "")[:3]
            table.append(Parameter(section, name, kind, default))
    return tuple(table)


def kind_of(name: str, text: str) -> str:
    """Kind of an INCAR tag: VASP's where it is known, else what its text looks like."""
    known = OTHER_KINDS | {parameter.name: parameter.kind for parameter in parameter_table()}
    if name in known:
        return known[name]
    words = text.split()
    if len(words) == 1 and words[0].strip(".").upper() in {"T", "F", "TRUE", "FALSE"}:
        return "logical"
    for kind, convert in (("int", int), ("float", float)):
        try:
            [convert(word) for word in words]
        except ValueError:
            continue
        return kind + "s" * (len(words) > 1)
    return "string"


def format_value(kind: str, text: str) -> str:
    """Write a value as vasprun.xml has it."""
    match kind:
        case "logical":
            return f" {'T' if is_true(text) else 'F'}  "
        case "int" | "ints":
            return "".join(f"{int(float(word)):6d}" for word in text.split())
        case "float" | "floats":
            return "".join(f"{float(word.lower().replace('d', 'e')):16.8f}" for word in text.split())
    return text


def parameter_values(given: VaspInput) -> list[tuple[Parameter, str]]:
    """Return each parameter with the text that belongs to this run."""
    computed = _computed(given)
    values = []
    for parameter in parameter_table():
        text = computed.get(parameter.name)
        if text is None:
            own = parameter.name in given.incar.tags and (parameter.section, parameter.name) not in NOT_FROM_INCAR
            text = given.incar.tags[parameter.name] if own else parameter.default
        values.append((parameter, text))
    return values


def _computed(given: VaspInput) -> dict[str, str]:
    incar, atoms = given.incar, given.atoms
    coarse, fine = fft_grids(given)
    magmoms = incar.reals("MAGMOM") or [1.0] * len(atoms)
    ialgo = incar.integer("IALGO", IALGO.get(incar.text("ALGO", "N").lower()[:1], 38))
    computed = {
        "PREC": incar.text("PREC", "normal").lower()[:6],  # VASP keeps six letters
        "GGA": incar.text("GGA", "--").upper(),
        "ENMAX": str(given.encut_eV),
        "ENINI": str(given.encut_eV),
        "ENAUG": str(incar.real("ENAUG", max(kind.eaug_eV for kind in given.species))),
        "EDIFFG": str(incar.real("EDIFFG", 10 * incar.real("EDIFF", DEFAULT_EDIFF_EV))),
        "IALGO": str(ialgo),
        "NELMDL": str(incar.integer("NELMDL", {48: -12, 68: 0}.get(ialgo, -5))),
        "NBANDS": str(given.bands),
        "NELECT": str(given.electrons),
        "MAGMOM": " ".join(map(str, magmoms)),
        "IBRION": "-1",  # what VASP takes when NSW = 0
        "POMASS": " ".join(str(kind.pomass_amu) for kind in given.species),
        "RWIGS": " ".join("-1" for _ in given.species),
        "DARWINR": " ".join("0" for _ in given.species),
        "DARWINV": " ".join("1" for _ in given.species),
        "ROPT": " ".join("0" for _ in given.species),
        "KSPACING": str(incar.real("KSPACING", DEFAULT_KSPACING)),
        "LMETAGGA": "T" if incar.text("METAGGA", "--").strip("- ").lower() not in {"", "none"} else "F",
        "EBREAK": str(abs(incar.real("EDIFF", DEFAULT_EDIFF_EV)) / given.bands / 4),
        "NPAR": "1",
    }
    for axes, grid in (("NGX NGY NGZ", coarse), ("NGXF NGYF NGZF", fine)):
        computed |= {
            name: str(incar.integer(name, int(number))) for name, number in zip(axes.split(), grid, strict=True)
        }
    return computed


def fft_grids(given: VaspInput) -> tuple[list[int], list[int]]:
    """
    FFT grids of the wave functions and of the density.

    VASP's: room for 3/2 (PREC normal) or 2 (accurate) times the largest plane wave in each
    direction, rounded up to an even number with prime factors of 2, 3, 5 and 7.
    """
    wrap = 2.0 if given.incar.text("PREC", "n").lower()[:1] in "ah" else 1.5
    reach = plane_wave_cutoff(given.encut_eV) * given.atoms.cell.lengths() / (2 * math.pi)
    coarse = [_fft_size(2 * wrap * number) for number in reach]
    return coarse, [2 * number for number in coarse]


def _fft_size(least: float) -> int:
    size = 2 * max(1, math.ceil(least / 2))
    while True:
        rest = size
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def incar_kinds(incar: Incar) -> list[tuple[str, str, str]]:
    """Return name, kind and text of every tag of an INCAR."""
    return [(name, kind_of(name, text), text) for name, text in incar.tags.items()]
