"""Structures as a run file names them: a file, a crystal, an id of the Materials Project."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ase.build
from ase import Atoms

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.outputs import charge_of_run
from mlip_autopipec.structures.electrons import CHARGE
from mlip_autopipec.structures.intake import CHARGES, TakenIn, take_in
from mlip_autopipec.structures.limits import LARGEST_A
from mlip_autopipec.structures.readers import read_structure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pymatgen.core import Structure

#: Environment variables with the key of the Materials Project.
KEYS = ("MP_API_KEY", "PMG_MAPI_KEY")
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
        Element of each atom type of a LAMMPS or xyz file.

    Raises
    ------
    InvalidInputError
        Names the field, its value and what is wrong.
    """
    if file is not None:
        (read, said), what = read_structure(folder / file, elements), f"structures.file: '{file}'"
        try:
            if (
                isinstance(read, Atoms)
                and not set(CHARGES) & set(read.info)
                and (charge := charge_of_run(folder / file))
            ):
                read.info[CHARGE] = charge
            taken = take_in(read, what)
            return replace(taken, remarks=(*(f"{what}: {one}" for one in said), *taken.remarks))
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(
                f"{what} holds something that is not understood ({type(error).__name__}: {error}); write it as extxyz "
                "with elements, positions and cell alone"
            ) from error
    if elements:
        raise InvalidInputError.of("structures.elements", f"is {list(elements)}; it goes with a LAMMPS or xyz file")
    if bulk is not None:
        return take_in(_bulk(bulk), f"structures.bulk: {bulk.get('name')}")
    return take_in(_fetched(materials_project or ""), f"structures.materials_project: {materials_project}")


def _bulk(arguments: Mapping[str, Any]) -> Atoms:
    # the field's short word for it
    named = {("crystalstructure" if name == "crystal" else name): value for name, value in arguments.items()}
    if not isinstance(named.get("name"), str):
        raise InvalidInputError.of(
            "structures.bulk.name",
            f"is {named.get('name')!r}; give its formula, and quote what YAML reads as true or false ('No')",
        )
    for name in ("a", "b", "c", "covera", "alpha"):
        value = named.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value <= LARGEST_A):
            shown = f"{value!r}"[:40]
            raise InvalidInputError.of(
                f"structures.bulk.{name}", f"is {shown}; give a positive number (A; alpha in degrees)"
            )
    try:
        return ase.build.bulk(**named)
    except Exception as error:
        given = f"{dict(arguments)}"[:300]
        raise InvalidInputError(
            f"structures.bulk: {given} is not understood by ase.build.bulk: {error}; it takes {_PARAMETERS}"
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
