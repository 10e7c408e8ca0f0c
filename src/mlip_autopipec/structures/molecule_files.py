"""What files of molecules say and their readers pass over: charges, symmetry, alternatives, elements behind names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ase.data import atomic_numbers

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.electrons import CHARGE, MULTIPLICITY
from mlip_autopipec.structures.intake import CHARGES
from mlip_autopipec.structures.xyz_text import refuse_unread

if TYPE_CHECKING:
    from ase import Atoms

#: Names of charge and multiplicity as comments have them, with a number behind.
_CHARGED = re.compile(r"\bcharge\b[^\w+-]{0,3}([+-]?\d+)", re.IGNORECASE)
#: Sites of water models and of lone pairs, which are no atoms.
_VIRTUAL = re.compile(r"(?:MW|LP|EP|VS|M)\d*")


def about_pdb(text: str, atoms: Atoms) -> list[str]:
    """
    Say that elements are guessed where there is no column of them: CA is a carbon in proteins, and calcium.

    Raises
    ------
    InvalidInputError
        It holds a part of the cell alone, whose symmetry is not applied, or an atom in several places.
    """
    lines = [line for line in text.splitlines() if line.startswith(("ATOM", "HETATM"))]
    said = _about_cell_of_pdb(text, atoms)
    if len(others := sorted({line[16:17].strip() for line in lines} - {""})) > 1:
        raise InvalidInputError(
            f"some of its atoms have alternative places ({', '.join(others)} in column 17); keep one of each"
        )
    # formal charges: 2+, 1-
    _set_charge(
        atoms, sum(int(f"{word[1]}{word[0]}") for line in lines if re.fullmatch(r"\d[+-]", word := line[78:80]))
    )
    if all(line[76:78].strip() for line in lines):
        return said
    elements = ", ".join(dict.fromkeys(atoms.symbols))
    told = (
        f"it has no element in columns 77 and 78 of some atoms: {elements} are guessed from their names (CA becomes "
        "calcium); if that is wrong, write the elements there, or an xyz file"
    )
    return [*said, told]


def _about_cell_of_pdb(text: str, atoms: Atoms) -> list[str]:
    """Take off a cell that stands for none; refuse one whose symmetry makes further atoms."""
    found = re.search(r"^CRYST1(.{9})(.{9})(.{9})(.{0,21})(.{0,12})", text, re.MULTILINE)
    if found is None:
        return []
    group = " ".join(found[5].split())
    if all(word.strip() in ("1.000", "1.00", "0.000", "0.00") for word in found.groups()[:3]):
        atoms.set_cell(None)
        atoms.set_pbc(False)
        return ["its cell of 1 A stands for none (CRYST1), and is left out"]
    if group.replace(" ", "").upper() not in ("", "P1"):
        raise InvalidInputError(
            f"its space group is {group} (CRYST1), and the file holds a part of the cell alone, whose symmetry is not "
            "applied; write all atoms of the cell, with P 1"
        )
    return []


def about_molfile(text: str, atoms: Atoms) -> list[str]:
    """Take over the charges of a molfile, in its property lines or, without these, in the column of its atoms."""
    if re.search(r"^M  ISO", text, re.MULTILINE):
        raise InvalidInputError(
            "the file names isotopes (M  ISO), which are not read; write it as extxyz with the column masses:R:1 (u)"
        )
    properties = re.findall(r"^M  CHG +\d+((?: +\d+ +-?\d+)+)", text, re.MULTILINE)
    if properties:
        total = sum(int(word) for line in properties for word in line.split()[1::2])
    else:
        columns = [line[36:39].strip() for line in text.splitlines()[4 : 4 + len(atoms)]]
        total = sum(4 - int(word) for word in columns if word in ("1", "2", "3", "5", "6", "7"))
    _set_charge(atoms, total)
    return []


def _set_charge(atoms: Atoms, total: float) -> None:
    if total:
        atoms.info[CHARGE] = total


def about_xyz(text: str, atoms: Atoms) -> list[str]:
    """Refuse a comment that is a charge and a multiplicity, as quantum chemistry programs write it."""
    refuse_unread(atoms, "its last frame")
    lines = text.splitlines()
    found = re.fullmatch(r"\s*([+-]?\d)\s+(\d)\s*", lines[1]) if len(lines) > 1 else None
    if found is None or found.groups() == ("0", "1") or int(found[2]) == 0:
        if len(lines) > 1:
            _refuse_charge_in_prose(lines[1], atoms)
        return []
    raise InvalidInputError(
        f"the comment '{lines[1].strip()}' looks like a charge and a multiplicity, and is not read as such; write "
        f"charge={int(found[1])} multiplicity={found[2]} there, or another comment"
    )


def _refuse_charge_in_prose(comment: str, atoms: Atoms) -> None:
    told = _CHARGED.search(comment)
    # with an = sign ASE's reader has it; of a bare word it makes True
    known = any(str(name).lower() in CHARGES and not isinstance(one, bool) for name, one in atoms.info.items())
    if told is None or int(told[1]) == 0 or known:
        return
    raise InvalidInputError(
        f"the comment '{comment.strip()[:80]}' names a charge, and is not read as such; write charge={int(told[1])} "
        "(and multiplicity=1) there, or another comment"
    )


def about_turbomole(text: str, atoms: Atoms) -> list[str]:
    """Take over charge and unpaired electrons, as Turbomole and xtb write them behind the coordinates."""
    for pattern in (r"^\$eht.*\bcharge=([+-]?\d+)", r"^\$chrg\s+([+-]?\d+)", r"^\$charge\s+([+-]?\d+)"):
        if told := re.search(pattern, text, re.MULTILINE):
            _set_charge(atoms, int(told[1]))
    for pattern in (r"^\$eht.*\bunpaired=(\d+)", r"^\$(?:uhf|spin)\s+(\d+)"):
        if (told := re.search(pattern, text, re.MULTILINE)) and int(told[1]):
            atoms.info[MULTIPLICITY] = int(told[1]) + 1
    return []


def about_gromacs(text: str, atoms: Atoms) -> list[str]:
    """
    Say which elements the names of atoms have become, and give ions theirs: NA, CL and CA are read as N, C and C.

    Raises
    ------
    InvalidInputError
        A site is no atom: M of water models, a lone pair.
    """
    lines = text.splitlines()[2 : 2 + len(atoms)]
    read: dict[str, str] = {}
    symbols = list(atoms.symbols)
    for index, line in enumerate(lines):
        residue, name = line[5:10].strip(), line[10:15].strip()
        if _VIRTUAL.fullmatch(name):
            raise InvalidInputError(f"its atom {index} is called {name}, a site without a nucleus; leave such out")
        bare = re.sub(r"[\d+-]", "", name).capitalize()
        if re.sub(r"[\d+-]", "", residue).upper() == bare.upper() and bare in atomic_numbers:
            symbols[index] = bare  # an ion
        read.setdefault(name, symbols[index])
    atoms.set_chemical_symbols(symbols)
    return [_guessed(read)]


def about_dlpoly(text: str, atoms: Atoms) -> list[str]:
    """Say which elements the names of atoms have become."""
    names = [words[0] for line in text.splitlines()[1:] if (words := line.split()) and words[0][0].isalpha()]
    if len(names) != len(atoms) or all(name in atomic_numbers for name in names):
        return []
    return [_guessed(dict(zip(names, atoms.symbols, strict=True)))]


def _guessed(read: dict[str, str]) -> str:
    listed = ", ".join(f"{name} {symbol}" for name, symbol in list(read.items())[:12])
    more = " ..." if len(read) > 12 else ""
    return f"elements are guessed from the names of its atoms: {listed}{more}; if that is wrong, write an xyz file"
