"""CIF files: settings of space groups that ASE's reader does not know, and what it passes over."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers
from ase.formula import Formula
from ase.spacegroup import Spacegroup
from ase.spacegroup.spacegroup import SpacegroupError
from pymatgen.io.cif import CifParser

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.electrons import MOMENTS, along_one_axis

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from pymatgen.core import Structure

_I = re.MULTILINE | re.IGNORECASE
_NAME = r"^_(?:symmetry_space_group_name_H-M|space_group_name_H-M_alt)[ \t]+"
_SYMBOL = re.compile(rf"({_NAME})(['\"])(.*?)(?: *:([12HR])| +([SZHR]))[ \t]*\2", _I)
#: Settings of a group, by what stands behind its symbol: choices of the origin, hexagonal and rhombohedral axes.
_SETTINGS = {"1": 1, "S": 1, "H": 1, "2": 2, "Z": 2, "R": 2}
_NAMED = re.compile(rf"{_NAME}(?:'([^'\n]*)'|\"([^\"\n]*)\"|(\S+))", _I)
_NUMBER = re.compile(r"^_(?:symmetry_Int_Tables_number|space_group_IT_number)\s+['\"]?(\d+)", _I)
_OPERATIONS = re.compile(r"^_(?:symmetry_equiv_pos_as_xyz|space_group_symop[._]operation_xyz)", _I)
_MOMENTS = re.compile(r"^[ \t]*_atom_site_moment", _I)
#: Columns of moments that no dictionary of CIF has; pymatgen writes the first.
_OTHER_MOMENTS = re.compile(r"^[ \t]*(_atom_site_(?:magmoms?|magnetic_moments?|spins?|initial_magmoms))\b", _I)
#: A symbol of two letters, both capitals.
_CAPITALS = re.compile(r"[A-Z]{2}(?![A-Za-z])")
#: Components of moments (Bohr magnetons) across the axis of all are none if they are smaller.
_ACROSS = 0.1
_REMEDY = "write the operations of the group into it (_space_group_symop_operation_xyz), or all atoms with P 1"


def in_a_known_setting(text: str) -> str:
    """
    Write the setting of a space group as ASE reads it.

    ``F d -3 m :2``, ``F d -3 m Z`` and ``R -3 m H``, as databases write them, name a group that ASE does not know.

    Parameters
    ----------
    text
        Of a CIF file.
    """

    def plain(found: re.Match[str]) -> str:
        setting = _SETTINGS[(found[4] or found[5]).upper()]
        return f"{found[1]}{found[2]}{found[3]}{found[2]}\n_symmetry_space_group_setting {setting}"

    return text if "_symmetry_space_group_setting" in text else _SYMBOL.sub(plain, text)


def with_elements(text: str) -> str:
    """
    Write elements in capitals (``NA1``, ``SI+4``) as ASE reads them, which takes the first letter of them alone.

    Symbols (``_atom_site_type_symbol``) are elements. Labels may be names of atoms (``CA`` is carbon in a protein), so
    that the formula of the file decides.

    Parameters
    ----------
    text
        Of a CIF file.

    Raises
    ------
    InvalidInputError
        There are no symbols and no formula, and labels that may be either of two elements.
    """
    lines = text.split("\n")
    for column in ("_atom_site_type_symbol", "_atom_site_label"):
        places = _words_of(lines, column)
        if not places:
            continue
        changed = {place: _capitalised(word) for place, word in places.items() if _capitalised(word) != word}
        if changed and column == "_atom_site_label" and not _formula_wants(text, places, changed):
            return text
        for (at, start), word in changed.items():
            lines[at] = lines[at][:start] + word + lines[at][start + len(word) :]
        return "\n".join(lines)
    return text


def _words_of(lines: Sequence[str], column: str) -> dict[tuple[int, int], str]:
    """Return the words of a column of a loop, by line and place in it."""
    names: list[str] | None = None  # of the columns of the loop that is read
    found: dict[tuple[int, int], str] = {}
    for at, line in enumerate(lines):
        stripped = line.strip()
        if stripped.lower() == "loop_":
            names = []
        elif names is not None and stripped.startswith("_"):
            names.append(stripped.split()[0].lower())
        elif not stripped or stripped.startswith(("#", "data_")):
            continue
        elif names is not None and column in names:
            words = list(re.finditer(r"\S+", line))
            if len(words) == len(names):
                word = words[names.index(column)]
                found[at, word.start()] = word[0]
        if names and stripped.startswith("_") and len(stripped.split()) > 1:
            names = None  # an entry behind the loop
    return found


def _capitalised(word: str) -> str:
    """Return a symbol of two capitals as that of the element, if there is one."""
    symbol = word[:2].capitalize()
    return symbol + word[2:] if _CAPITALS.match(word) and symbol in atomic_numbers else word


def _formula_wants(text: str, places: Mapping[tuple[int, int], str], changed: Mapping[tuple[int, int], str]) -> bool:
    """Tell whether labels in capitals are elements of two letters, by the formula."""
    if (told := _formula(text)) is None:
        word = next(places[place] for place in changed)
        raise InvalidInputError(
            f"its site {word} may be {word[0]} or {word[:2].capitalize()}, and the file has no symbols and no formula; "
            "write _atom_site_type_symbol, or labels like Na1"
        )
    elements = {_element(word) for word in {**places, **changed}.values()}
    return elements == set(told[1])


def _element(word: str) -> str:
    found = re.match(r"[A-Z][a-z]?", word)
    return "" if found is None else "H" if found[0] == "D" else found[0]


def has_moments(text: str) -> bool:
    """Return whether a CIF file has magnetic moments, which pymatgen reads and ASE passes over."""
    return bool(_MOMENTS.search(text))


def magnetic_structure(text: str) -> Structure:
    """
    Read a structure with its magnetic moments (a magnetic CIF, mcif): numbers where they are along one axis.

    Raises
    ------
    InvalidInputError
        It holds no structure that pymatgen reads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = CifParser(StringIO(text), occupancy_tolerance=1.0).parse_structures(primitive=False)
    if not found:
        raise InvalidInputError("it holds no structure that pymatgen reads; write it as extxyz with initial_magmoms")
    structure = found[-1]
    moments = [getattr(one, "global_moment", None) for one in structure.site_properties.get("magmom", [])]
    known = np.array([one for one in moments if one is not None], dtype=float)
    if len(known) == len(structure) and known.any():
        along = along_one_axis(known, _ACROSS)
        structure.add_site_property("magmom", (known if along is None else along).tolist())
    return structure


def about_cif(text: str, atoms: Atoms) -> list[str]:
    """
    Compare the atoms of a CIF file with what it says of them: its formula, their number, its space group.

    Parameters
    ----------
    text
        Of the file.
    atoms
        As ASE has read them.

    Raises
    ------
    InvalidInputError
        The cell holds another number of formula units than the file says, or elements of which its formula has none.
    """
    if len(re.findall(r"^data_", text, re.MULTILINE)) > 1:
        return []
    return [*_about_moments(text), *_about_formula(text, atoms), *_about_setting(text, atoms)]


def _about_moments(text: str) -> list[str]:
    """Say that a column of moments is not used, where one of them is not zero."""
    lines = text.split("\n")
    said = []
    for name in dict.fromkeys(found[1] for found in _OTHER_MOMENTS.finditer(text)):
        words = [word.split("(")[0] for word in _words_of(lines, name.lower()).values()]
        if any(not re.fullmatch(r"[-+]?0*\.?0*|[.?]", word) for word in words):
            said.append(
                f"'{name}' of its atoms is not used; ASE's name is {MOMENTS} (a column of extxyz), that of a magnetic "
                "CIF _atom_site_moment"
            )
    return said


def _formula(text: str) -> tuple[str, dict[str, float]] | None:
    told = re.findall(r"^_chemical_formula_sum[ \t]+(?:'([^'\n]+)'|\"([^\"\n]+)\"|(\S+))[ \t]*$", text, re.MULTILINE)
    if len(told) != 1:
        return None
    words = "".join(told[0])
    parts = re.findall(r"([A-Z][a-z]?)(\d+\.?\d*)?", words)
    if re.sub(r"\s", "", words) != "".join(map("".join, parts)):
        return None
    if not {element for element, _ in parts} <= {*atomic_numbers, "D"}:  # in capitals
        parts = re.findall(r"([A-Z][a-z]?)(\d+\.?\d*)?", " ".join(map(_capitalised, words.split())))
    said: dict[str, float] = {}
    for element, count in parts:
        name = "H" if element == "D" else element
        said[name] = said.get(name, 0.0) + float(count or 1)
    return words, said


def _about_formula(text: str, atoms: Atoms) -> list[str]:
    """Say that the formula of the file has other atoms than its sites: often hydrogen is missing."""
    if (found := _formula(text)) is None:
        return []
    words, said = found
    # of one formula unit or of several: the ratios to the element that has the most are compared
    there = Counter(atoms.symbols)
    common = set(said) & set(there)
    if not common:
        raise InvalidInputError(
            f"its formula is {words}, and its sites are read as {atoms.get_chemical_formula()}, without one element of "
            "it; write the elements in _atom_site_type_symbol, as Na and Cl"
        )
    most = min(there[element] / said[element] for element in common)
    ratio = max(there[element] / said[element] for element in common)
    missing = sorted(set(said) - set(there))
    if missing or ratio >= 1.01 * most:
        formula = Formula.from_dict(dict(there)).format("hill")
        lost = f": {', '.join(missing)} have no place" if missing else ""
        return [f"its formula is {words}, and the atoms are {formula}{lost}; add what is missing"]
    _refuse_other_number(text, words, said, len(atoms))
    return []


def _refuse_other_number(text: str, words: str, said: dict[str, float], n_atoms: int) -> None:
    """Refuse a cell with more or fewer formula units than the file says: its symmetry was read otherwise."""
    units = re.findall(r"^_cell_formula_units_Z[ \t]+(\d+)[ \t]*$", text, re.MULTILINE)
    # a formula that is not whole has partly occupied sites
    if len(units) != 1 or int(units[0]) < 1 or any(number != round(number) for number in said.values()):
        return
    # some programs write the formula of the whole cell beside the number of units
    reduced = Formula.from_dict({element: round(number) for element, number in said.items()}).reduce()[0]
    allowed = {sum(said.values()) * int(units[0]), float(len(reduced) * int(units[0]))}
    if all(abs(n_atoms - number) > 0.01 * number for number in allowed):
        raise InvalidInputError(
            f"it says that its cell holds {units[0]} units of {words} (_cell_formula_units_Z), and by its space group "
            f"it holds {n_atoms} atoms; {_REMEDY}, or correct that number"
        )


def _about_setting(text: str, atoms: Atoms) -> list[str]:
    """Say that a group without its operations has several settings, where the file does not name one."""
    if _OPERATIONS.search(text) or "_symmetry_space_group_setting" in in_a_known_setting(text):
        return []
    name, number = _NAMED.search(text), _NUMBER.search(text)
    given = int(number[1]) if number else "".join(filter(None, name.groups())) if name else None
    if given is None or given == 1:
        return []
    try:
        other = Spacegroup(given, 2)
    except (SpacegroupError, ValueError, AssertionError):
        return []
    a, b, c, alpha, beta, gamma = atoms.cell.cellpar()
    if other.lattice == "rhombohedral" or "R" in str(other.symbol)[:1]:
        if not (abs(a - b) + abs(b - c) < 1e-3 * a and abs(alpha - beta) + abs(beta - gamma) < 0.01):
            return []  # hexagonal axes, which the first setting has
        raise InvalidInputError(
            f"its cell has rhombohedral axes, and '{given}' without its operations is read as on hexagonal ones; "
            f"{_REMEDY}, or ':R' behind the name of the group"
        )
    told = (
        f"it names the group '{given}' without its operations, which has several settings (origins or axes); the first "
        f"of them is taken ({len(atoms)} atoms). If that is wrong, {_REMEDY}"
    )
    return [told]
