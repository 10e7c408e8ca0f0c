"""Atom types that stand where elements belong: in files of LAMMPS, in xyz files of programs that know no elements."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.distances import neighbours
from mlip_autopipec.structures.periodicity import goes_on_along
from mlip_autopipec.structures.texts import text_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ase import Atoms

#: Entry of ``atoms.info``: the elements of a structure, where someone said that they are meant.
NAMED = "elements"
#: Beginning of a file in which LAMMPS' own formats show, in characters.
_HEAD = 20_000
#: Share by which a mass may differ from that of its element: deuterium is twice as heavy as hydrogen.
_OTHER_MASS = 0.6
#: An atom of hydrogen whose nearest neighbour is farther than the first (A) has no bond; nearer than the second, it
#: is in matter as dense as other elements make it.
_APART_A, _DENSE_A = 1.3, 4.0
_WRITE = "name the elements of its atoms in the column of species"


def types_for_elements(atoms: Atoms) -> str | None:
    """
    Return why the elements of a structure are atom types that were read as atomic numbers; None if they need not be.

    Types 1, 2, 3 become hydrogen, helium, lithium, without the bonds that hydrogen has in any matter.

    Parameters
    ----------
    atoms
        A structure. ``info["elements"]`` says which elements are meant as they are.
    """
    numbers = sorted(set(map(int, atoms.numbers)))
    if numbers != list(range(1, len(numbers) + 1)) or (len(numbers) > 1 and len(atoms) < 3):
        return None
    if set(atoms.symbols) <= set(map(str, np.atleast_1d(atoms.info.get(NAMED, [])))):
        return None
    if len(numbers) == 1 and not goes_on_along(atoms).any():
        return None
    i, distance = neighbours("id", atoms, _DENSE_A)
    nearest = float(distance[atoms.numbers[i] == 1].min(initial=np.inf))
    if not _APART_A < nearest < np.inf:
        return None
    elements = ", ".join(chemical_symbols[number] for number in numbers)
    return (
        f"its elements are {elements}, as atom types 1 to {len(numbers)} become, and no hydrogen has a bond (the "
        f"nearest atom is {nearest:.2f} A away). Name the elements: in the run file {{file: ..., elements: [Cu, Au]}} "
        "in the order of the types (init: --types Cu,Au), in a file of labels in its column of species, in Python by "
        f'atoms.symbols. If {elements} are meant, say so in the same way, or by atoms.info["{NAMED}"] = '
        f"{[chemical_symbols[number] for number in numbers]}"
    )


def no_element(error: BaseException) -> tuple[str, str] | None:
    """
    Return what is wrong, and what to do, where a reader of ASE has met a word that is no element.

    Parameters
    ----------
    error
        Of the reader. None is returned for all others.
    """
    if isinstance(error, AttributeError) and "has no attribute 'capitalize'" in str(error):
        return "its species are numbers, not elements", f"{_WRITE}, as text (species:S:1)"
    if not isinstance(error, KeyError):
        return None
    if error.args in (("D",), ("T",)):
        masses = "call it H, and give the masses in u of all atoms, as the column masses:R:1 of extxyz"
        return f"{error.args[0]} is no element to ASE", masses
    word = str((*error.args, "")[0])
    if re.fullmatch(r"\d{1,3}", word):
        told = (
            f"{_WRITE}; if these are atom types, a structure of the run file takes their elements in the order of the "
            "types: {file: ..., elements: [Cu, Au]} (init: --types Cu,Au)"
        )
        return f"'{word}' is no element", told
    if re.fullmatch(r"[A-Z][\w()+-]{0,7}", word):
        return f"'{word}' is no element", "name the elements of its atoms: H, He, Li ..."
    return None


def named_xyz(path: Path, elements: Sequence[str]) -> str:
    """
    Return the text of an xyz file with elements for its atom types.

    Parameters
    ----------
    path
        Of the file. Types are in the column of species, or in one called type; the first one of plain xyz.
    elements
        Of the types 1, 2, ...; H, He ... stand for these, too, where a program has made elements of types.

    Raises
    ------
    InvalidInputError
        A type has no element, or the elements are none.
    """
    _check_names(elements)
    lines = text_of(path).splitlines()
    place = 0
    while place < len(lines) and lines[place].strip().isdigit():
        n_atoms = int(lines[place])
        lines[place + 1], column = _species(lines[place + 1] if place + 1 < len(lines) else "")
        for row in range(place + 2, min(place + 2 + n_atoms, len(lines))):
            words = lines[row].split()
            if column < len(words):
                words[column] = _element(words[column], elements, path)
                lines[row] = " ".join(words)
        place += 2 + n_atoms
    return "\n".join(lines) + "\n"


def _species(comment: str) -> tuple[str, int]:
    """Return the comment with the column of types called species, and the place of that column."""
    found = re.search(r"Properties=(\"?)([\w:.-]+)\1", comment)
    if found is None:
        return comment, 0
    words = found[2].split(":")
    columns = [(words[k], int(words[k + 2])) for k in range(0, len(words) - 2, 3)]
    names = [name.lower() for name, _ in columns]
    name = next((one for one in ("species", "type", "types", "z", "numbers") if one in names), None)
    if name is None:
        return comment, 0
    place = names.index(name)
    words[3 * place : 3 * place + 2] = ["species", "S"]
    return comment.replace(found[2], ":".join(words)), sum(width for _, width in columns[:place])


def _element(word: str, elements: Sequence[str], path: Path) -> str:
    number = int(word) if word.isdigit() else atomic_numbers.get(word, 0)
    if 1 <= number <= len(elements):
        return elements[number - 1]
    raise InvalidInputError.of(
        "structures.elements", f"is {list(elements)}, and '{path}' has an atom of the type {word}; name it, too"
    )


def _check_names(elements: Sequence[str]) -> None:
    if unknown := [element for element in elements if element not in atomic_numbers]:
        raise InvalidInputError(f"structures.elements: {unknown} are no elements")


def lammps_format(path: Path, elements: Sequence[str]) -> dict[str, Any] | None:
    """
    Return how ASE is to read a file of LAMMPS, whose atom types are no elements; None for other files.

    Parameters
    ----------
    path
        Of the file.
    elements
        Element of each atom type, in their order; empty where the file names them.

    Raises
    ------
    InvalidInputError
        It names no elements and none are given, or they do not fit.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD).decode(errors="replace")
    is_data = re.search(r"^\s*\d+\s+atom types", head, re.MULTILINE) and re.search(r"xlo\s+xhi|\bavec\b", head)
    columns = re.search(r"^ITEM: ATOMS (.*)$", head, re.MULTILINE)
    if not is_data and columns is None:
        return None
    _check_names(elements)
    if columns is not None:
        if not elements and not {"element", "mass"} & set(columns[1].split()):
            raise InvalidInputError(_nameless(path, "its columns are " + columns[1].strip()))
        return {"format": "lammps-dump-text"} | ({"specorder": list(elements)} if elements else {})
    types = {number + 1: atomic_numbers[element] for number, element in enumerate(elements)}
    text = path.read_text(errors="replace")
    n_types = int(re.findall(r"^\s*(\d+)\s+atom types", head, re.MULTILINE)[0])
    if types and len(types) != n_types:
        raise InvalidInputError.of("structures.elements", f"is {list(elements)}, and '{path}' has {n_types} atom types")
    named = _section(text, "Atom Type Labels")
    if not types and named and all(name in atomic_numbers for name in named):
        types = {number: atomic_numbers[name] for number, name in enumerate(named, 1)}
    if not types:
        masses = [float(mass) for mass in _section(text, "Masses")]
        if not masses:
            raise InvalidInputError(_nameless(path, "it has no section Masses"))
        # a mass of just 1, or the same one for several types, stands for nothing (hydrogen has 1.008 u)
        if 1.0 in masses or len({round(mass, 3) for mass in masses}) < len(masses):
            raise InvalidInputError(_nameless(path, f"its masses are {masses}"))
        for mass, word in zip(masses, _section(text, "Masses", of_comments=True), strict=True):
            named_so = atomic_numbers.get(word)
            if named_so is not None and abs(atomic_masses[named_so] - mass) > _OTHER_MASS * mass:
                raise InvalidInputError(_nameless(path, f"its mass {mass:g} has the comment {word}"))
    return {"format": "lammps-data"} | ({"Z_of_type": types} if types else {})


def _section(text: str, name: str, *, of_comments: bool = False) -> list[str]:
    """Return the second word, or the first of the comment, of each line of a section of a LAMMPS data file."""
    found: list[str] = []
    inside = False
    for full in text.splitlines():
        line, _, comment = full.partition("#")
        words = line.split()
        if words and not words[0].isdigit():
            inside = " ".join(words) == name
        elif inside and len(words) > 1:
            found.append((comment.split() or [""])[0] if of_comments else words[1])
    return found


def _nameless(path: Path, why: str) -> str:
    return (
        f"structures.file: '{path}' is a LAMMPS file that does not say which elements its atom types are ({why}). Name "
        "them in the run file, in the order of the types: {file: ..., elements: [Ni, Al]} (init: --types Ni,Al); or "
        "write the file with a section Masses, or a dump with a column element"
    )
