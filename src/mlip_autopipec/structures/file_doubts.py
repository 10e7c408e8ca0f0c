"""What a file of a structure says and its reader passes over: elements in a comment, atoms that are not there."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from ase.formula import Formula

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

#: Beginning of a file that is looked at, in characters.
_HEAD = 200_000


def about_file(path: Path, found: str, atoms: Atoms) -> list[str]:
    """
    Return what there is to say of a file beside its structure.

    Parameters
    ----------
    path
        Of the file; what is packed is not looked at.
    found
        Its format, by ASE's name.
    atoms
        The structure that was read.
    """
    look = {"vasp": _poscar, "cif": _cif, "proteindatabank": _pdb}.get(found)
    if look is None:
        return []
    with path.open(errors="replace") as stream:
        return look(stream.read(_HEAD), atoms)


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
