"""Structures as a run file names them: a file, a crystal, an id of the Materials Project."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import ase.build
import ase.io
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.formats import UnknownFileTypeError
from pymatgen.core import Structure

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.intake import TakenIn, take_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: Environment variables with the key of the Materials Project.
KEYS = ("MP_API_KEY", "PMG_MAPI_KEY")
#: Beginning of a file in which LAMMPS' own formats show, in characters.
_HEAD = 20_000
_PARAMETERS = "name, crystalstructure, a, b, c, alpha, covera, u, orthorhombic, cubic, basis"


def load_structure(
    folder: Path,
    file: Path | None,
    bulk: Mapping[str, Any] | None,
    materials_project: str | None,
    elements: Sequence[str] = (),
) -> TakenIn:
    """
    Read, build or fetch one structure, and take it in; just one of ``file``, ``bulk``, ``materials_project`` is given.

    Parameters
    ----------
    folder
        What ``file`` is relative to.
    file
        Read by ASE, or by pymatgen where ASE does not know the format.
    bulk
        Arguments of ``ase.build.bulk``.
    materials_project
        Id in the Materials Project: the conventional cell.
    elements
        Element of each atom type of a LAMMPS file.

    Raises
    ------
    InvalidInputError
        Names the field, its value and what is wrong.
    """
    if file is not None:
        return take_in(read_structure(folder / file, elements), f"structures.file: '{file}'")
    if elements:
        raise InvalidInputError.of("structures.elements", f"is {list(elements)}; it goes with a LAMMPS file alone")
    if bulk is not None:
        return take_in(_bulk(bulk), f"structures.bulk: {bulk.get('name')}")
    return take_in(_fetched(materials_project or ""), f"structures.materials_project: {materials_project}")


def read_structure(path: Path, elements: Sequence[str] = ()) -> Atoms | Structure:
    """Read a structure, of several the last; ``elements`` names the atom types of a LAMMPS file."""
    if not path.is_file():
        raise InvalidInputError(f"structures.file: '{path}' does not exist")
    try:
        of_lammps = _lammps_format(path, elements)
        if of_lammps is None and elements:
            raise InvalidInputError.of(
                "structures.elements",
                f"is {list(elements)}, and '{path}' is no LAMMPS file: it names its elements itself",
            )
        if of_lammps is not None:
            atoms = ase.io.read(path, **of_lammps)
        else:
            try:
                atoms = ase.io.read(path)
            except UnknownFileTypeError:
                return Structure.from_file(path)
    except InvalidInputError:
        raise
    except Exception as error:
        raise InvalidInputError(f"structures.file: '{path}' cannot be read: {type(error).__name__}: {error}") from error
    assert isinstance(atoms, Atoms)
    return atoms


def _lammps_format(path: Path, elements: Sequence[str]) -> dict[str, Any] | None:
    """Return how ASE is to read a file of LAMMPS, whose atom types are no elements; None for other files."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD).decode(errors="replace")
    is_data = re.search(r"^\s*\d+\s+atom types", head, re.MULTILINE) and re.search(r"xlo\s+xhi|\bavec\b", head)
    columns = re.search(r"^ITEM: ATOMS (.*)$", head, re.MULTILINE)
    if not is_data and columns is None:
        return None
    if unknown := [element for element in elements if element not in atomic_numbers]:
        raise InvalidInputError(f"structures.elements: {unknown} are no elements")
    if columns is not None:
        if not elements and not {"element", "mass"} & set(columns[1].split()):
            raise InvalidInputError(_nameless(path, "its columns are " + columns[1].strip()))
        return {"format": "lammps-dump-text", "index": -1} | ({"specorder": list(elements)} if elements else {})
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
    return {"format": "lammps-data"} | ({"Z_of_type": types} if types else {})


def _section(text: str, name: str) -> list[str]:
    """Return the second word of each line of a section of a LAMMPS data file; empty if there is no such section."""
    found: list[str] = []
    inside = False
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words and not words[0].isdigit():
            inside = " ".join(words) == name
        elif inside and len(words) > 1:
            found.append(words[1])
    return found


def _nameless(path: Path, why: str) -> str:
    return (
        f"structures.file: '{path}' is a LAMMPS file that does not say which elements its atom types are ({why}). Name "
        "them in the run file, in the order of the types: {file: ..., elements: [Ni, Al]}; or write the file with a "
        "section Masses, or a dump with a column element"
    )


def _bulk(arguments: Mapping[str, Any]) -> Atoms:
    # the field's short word for it
    named = {("crystalstructure" if name == "crystal" else name): value for name, value in arguments.items()}
    try:
        return ase.build.bulk(**named)
    except Exception as error:
        raise InvalidInputError(
            f"structures.bulk: {dict(arguments)} is not understood by ase.build.bulk: {error}; it takes {_PARAMETERS}"
        ) from error


def _fetched(material_id: str) -> Structure:
    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
    if key is None:
        raise InvalidInputError(
            f"structures.materials_project: {material_id} needs a key of the Materials Project in the environment "
            f"variable {KEYS[0]} (from your dashboard at https://materialsproject.org/dashboard); or download the "
            "structure and give it as 'file'"
        )
    from pymatgen.ext.matproj import MPRester

    try:
        structure: Structure = MPRester(key).get_structure_by_material_id(material_id, conventional_unit_cell=True)
    except Exception as error:
        # the key is no part of what the libraries say
        raise InvalidInputError(
            f"structures.materials_project: {material_id} cannot be fetched: {type(error).__name__}: "
            f"{str(error).replace(key, '...')}"
        ) from error
    return structure
