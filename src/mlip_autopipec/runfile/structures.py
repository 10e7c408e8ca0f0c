"""Structures as a run file names them: a file, a crystal, an id of the Materials Project."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ase.build
import ase.io
from ase import Atoms
from ase.io.formats import UnknownFileTypeError
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Environment variables with the key of the Materials Project.
KEYS = ("MP_API_KEY", "PMG_MAPI_KEY")
_PARAMETERS = "name, crystalstructure, a, b, c, alpha, covera, u, orthorhombic, cubic, basis"


def load_structure(
    folder: Path, file: Path | None, bulk: Mapping[str, Any] | None, materials_project: str | None
) -> Atoms:
    """
    Read, build or fetch one structure; just one of the last three parameters is given.

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

    Raises
    ------
    InvalidInputError
        Names the field, its value and what is wrong.
    """
    if file is not None:
        return read_structure(folder / file)
    if bulk is not None:
        return _bulk(bulk)
    return _fetched(materials_project or "")


def read_structure(path: Path) -> Atoms:
    """Read a structure, of several the last."""
    if not path.is_file():
        raise InvalidInputError(f"structures.file: '{path}' does not exist")
    try:
        try:
            atoms = ase.io.read(path)
        except UnknownFileTypeError:
            atoms = AseAtomsAdaptor.get_atoms(Structure.from_file(path), msonable=False)
    except Exception as error:
        raise InvalidInputError(f"structures.file: '{path}' cannot be read: {type(error).__name__}: {error}") from error
    assert isinstance(atoms, Atoms)
    return atoms


def _bulk(arguments: Mapping[str, Any]) -> Atoms:
    # the field's short word for it
    named = {("crystalstructure" if name == "crystal" else name): value for name, value in arguments.items()}
    try:
        return ase.build.bulk(**named)
    except Exception as error:
        raise InvalidInputError(
            f"structures.bulk: {dict(arguments)} is not understood by ase.build.bulk: {error}; it takes {_PARAMETERS}"
        ) from error


def _fetched(material_id: str) -> Atoms:
    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
    if key is None:
        raise InvalidInputError(
            f"structures.materials_project: {material_id} needs a key of the Materials Project in the environment "
            f"variable {KEYS[0]} (from your dashboard at https://materialsproject.org/dashboard); or download the "
            "structure and give it as 'file'"
        )
    from pymatgen.ext.matproj import MPRester

    try:
        structure = MPRester(key).get_structure_by_material_id(material_id, conventional_unit_cell=True)
    except Exception as error:
        # the key is no part of what the libraries say
        raise InvalidInputError(
            f"structures.materials_project: {material_id} cannot be fetched: {type(error).__name__}: "
            f"{str(error).replace(key, '...')}"
        ) from error
    return AseAtomsAdaptor.get_atoms(structure, msonable=False)
