"""What a file of a structure says and its reader passes over: elements in a comment, atoms that are not there."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from ase.formula import Formula

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.texts import text_of

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

#: Beginning of a file that is looked at, in characters.
_HEAD = 200_000
#: An occupancy from here on is 1 as files round it.
_FULL = 0.99


def about_file(path: Path, found: str, atoms: Atoms) -> list[str]:
    """
    Return what there is to say of a file beside its structure.

    Parameters
    ----------
    path
        Of the file.
    found
        Its format, by ASE's name.
    atoms
        The structure that was read. A charge that its reader passes over is set (``info["charge"]``).

    Raises
    ------
    InvalidInputError
        Sites are partly occupied, isotopes are named, or the comment may be a charge and a multiplicity.
    """
    look = _LOOKS.get(found)
    return [] if look is None else look(text_of(path, _HEAD), atoms)


def _poscar(text: str, atoms: Atoms) -> list[str]:
    """Say that the elements are those of the comment, where there is no line of elements."""
    lines = text.splitlines()
    if len(lines) < 6 or not lines[5].split() or not all(word.isdigit() for word in lines[5].split()):
        return []
    elements = ", ".join(dict.fromkeys(atoms.symbols))
    told = (
        f"it has no line of elements (VASP 4): {elements} are taken from its first line, '{lines[0].strip()[:60]}', or "
        "a POTCAR beside it; if that is wrong, write the elements above the numbers of atoms"
    )
    return [told]


def _pdb(text: str, atoms: Atoms) -> list[str]:
    """Say that elements are guessed where there is no column of them: CA is a carbon in proteins, and calcium."""
    lines = [line for line in text.splitlines() if line.startswith(("ATOM", "HETATM"))]
    # formal charges: 2+, 1-
    _set_charge(
        atoms, sum(int(f"{word[1]}{word[0]}") for line in lines if re.fullmatch(r"\d[+-]", word := line[78:80]))
    )
    if all(line[76:78].strip() for line in lines):
        return []
    elements = ", ".join(dict.fromkeys(atoms.symbols))
    told = (
        f"it has no element in columns 77 and 78 of some atoms: {elements} are guessed from their names (CA becomes "
        "calcium); if that is wrong, write the elements there, or an xyz file"
    )
    return [told]


def _cif(text: str, atoms: Atoms) -> list[str]:
    """Say that the formula of the file has other atoms than its sites: often hydrogen is missing."""
    told = re.findall(r"^_chemical_formula_sum[ \t]+(?:'([^'\n]+)'|\"([^\"\n]+)\"|(\S+))[ \t]*$", text, re.MULTILINE)
    if len(told) != 1 or len(re.findall(r"^data_", text, re.MULTILINE)) > 1:
        return []
    words = "".join(told[0])
    parts = re.findall(r"([A-Z][a-z]?)(\d+\.?\d*)?", words)
    if re.sub(r"\s", "", words) != "".join(map("".join, parts)):
        return []
    said = {element: float(count or 1) for element, count in parts}
    # of one formula unit or of several: the ratios to the element that has the most are compared
    there = Counter(atoms.symbols)
    common = set(said) & set(there)
    if not common:
        return []
    most = min(there[element] / said[element] for element in common)
    ratio = max(there[element] / said[element] for element in common)
    missing = sorted(set(said) - set(there))
    if not missing and ratio < 1.01 * most:
        return []
    formula = Formula.from_dict(dict(there)).format("hill")
    lost = f": {', '.join(missing)} have no place" if missing else ""
    return [f"its formula is {words}, and the atoms are {formula}{lost}; add what is missing"]


def _molfile(text: str, atoms: Atoms) -> list[str]:
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


def _set_charge(atoms: Atoms, total: int) -> None:
    if total:
        atoms.info["charge"] = total


def _xyz(text: str, _: Atoms) -> list[str]:
    """Refuse a comment that is a charge and a multiplicity, as quantum chemistry programs write it."""
    lines = text.splitlines()
    found = re.fullmatch(r"\s*([+-]?\d)\s+(\d)\s*", lines[1]) if len(lines) > 1 else None
    if found is None or found.groups() == ("0", "1") or int(found[2]) == 0:
        return []
    raise InvalidInputError(
        f"the comment '{lines[1].strip()}' looks like a charge and a multiplicity, and is not read as such; write "
        f"charge={int(found[1])} multiplicity={found[2]} there, or another comment"
    )


def _res(text: str, _: Atoms) -> list[str]:
    """Refuse sites of a SHELX file that are partly occupied, which its reader passes over."""
    for line in text.splitlines():
        words = line.split()
        site = len(words) >= 6 and re.match(r"[A-Z][a-z]?\d*$", words[0]) and words[1].isdigit()
        if not site or words[0] in ("CELL", "ZERR", "UNIT", "SFAC"):
            continue
        # SHELX adds 10 to what is not refined; a special position of high symmetry has less than 1 as well
        occupancy = float(words[5]) % 10
        if 0 < occupancy < _FULL:
            raise InvalidInputError(
                f"the site {words[0]} has an occupancy of {occupancy:g}; MD and the oracle need one whole atom on "
                "every site. Make an ordered cell first, or write 1 where it is that of a special position"
            )
    return []


_LOOKS = {
    "vasp": _poscar,
    "cif": _cif,
    "proteindatabank": _pdb,
    "mol": _molfile,
    "sdf": _molfile,
    "xyz": _xyz,
    "extxyz": _xyz,
    "res": _res,
}
