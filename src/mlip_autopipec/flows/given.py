"""What a user gives to a flow, in one form: structures, labels, conditions."""

from __future__ import annotations

import logging
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms
from pymatgen.core import IMolecule, IStructure

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.oracle.given import GivenLabels, take_in_labels
from mlip_autopipec.structures.frozen import FREEZES_NOTHING, FROZEN, frozen_atoms, held_by
from mlip_autopipec.structures.frozen import freeze as freeze_atoms
from mlip_autopipec.structures.intake import take_in
from mlip_autopipec.structures.limits import shown_formula
from mlip_autopipec.structures.periodicity import BOX_VACUUM_A, boxed, shape_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymatgen.core import Structure

logger = logging.getLogger(__name__)


class TakenStructures(list[Atoms]):
    """Structures that were taken in before, whose remarks have been said (those of a run file)."""


def as_frames(structures: Structure | Atoms | Sequence[Structure | Atoms], freeze: bool = False) -> list[Atoms]:
    """
    Turn what a user gives as structures into ASE structures that MD and ACE take, by :func:`.intake.take_in`.

    Cells are right-handed and periodic in all directions, with vacuum where the structure is not periodic.

    Parameters
    ----------
    structures
        Any of ASE and pymatgen, of any periodicity.
    freeze
        Whether atoms that the structures fix are frozen in MD.

    Raises
    ------
    InvalidInputError
        Names the structure by its place in the list, and what is wrong with it; or none of them fixes an atom, and
        ``freeze`` is asked for.
    """
    items = [structures] if isinstance(structures, (Atoms, IStructure, IMolecule, str, Path)) else list(structures)
    _refuse_paths(items)
    taken = [take_in(given, f"structures[{i}] ({_formula(given)})") for i, given in enumerate(items)]
    said = isinstance(structures, TakenStructures)
    for remark in (remark for one in taken if not said for remark in one.remarks):
        if not (freeze and FREEZES_NOTHING in remark):
            logger.warning("%s", remark)
    frames = [_boxed(_held(one.atoms, freeze)) for one in taken]
    if freeze and frames and not any(len(frozen_atoms(atoms)) for atoms in frames):
        formulas = ", ".join(atoms.get_chemical_formula() for atoms in frames)
        raise InvalidInputError(
            f"freeze is True, but no atom of {formulas} is fixed in all directions, so nothing would be frozen; fix "
            "atoms (ase.constraints.FixAtoms), give the structure an array 'frozen' of booleans, or leave freeze out"
        )
    return frames


def _refuse_paths(items: Sequence[Any]) -> None:
    """Refuse names of files where structures belong."""
    for i, one in enumerate(items):
        if isinstance(one, (str, Path)):
            raise InvalidInputError(
                f"structures[{i}] is '{one}', a {type(one).__name__}, and no file is read here; give "
                f"ase.io.read('{one}'), or pymatgen's Structure.from_file('{one}')"
            )


def as_labels(labels: Sequence[Atoms]) -> GivenLabels:
    """
    Bring the labels that a user gives into one form, by :func:`.given.take_in_labels`.

    Raises
    ------
    InvalidInputError
        Names the label, its value and what is wrong with it.
    """
    taken = take_in_labels(labels)
    if taken is not labels:  # those of a run file were taken in, and talked of, when it was read
        for remark in taken.remarks:
            logger.warning("%s", remark)
    boxes = [boxed(atoms) for atoms in taken]
    return taken if all(a is b for a, b in zip(boxes, taken, strict=True)) else GivenLabels(boxes, taken.remarks)


def _formula(given: Structure | Atoms) -> str:
    return shown_formula(given) if isinstance(given, Atoms) else str(getattr(given, "formula", given))[:80]


def _held(atoms: Atoms, freeze: bool) -> Atoms:
    """Freeze the atoms that the structure fixes, if that is asked for."""
    if not freeze or FROZEN in atoms.arrays or not len(held := held_by(atoms)):
        return atoms
    logger.info("%d of %d atoms of %s do not move in MD", len(held), len(atoms), atoms.get_chemical_formula())
    return freeze_atoms(atoms, held)


def _boxed(atoms: Atoms) -> Atoms:
    """Give a structure a cell with vacuum where it is not periodic, and say so."""
    made = boxed(atoms)
    if made is not atoms:
        open_along = [axis + 1 for axis in range(3) if not atoms.pbc[axis]]
        logger.info(
            "%s (%s) is not periodic along cell vector %s: its MD cell has %g A of vacuum or more there",
            atoms.get_chemical_formula(),
            shape_of(atoms),
            " and ".join(map(str, open_along)),
            BOX_VACUUM_A,
        )
    return made


def as_conditions(conditions: float | Condition | Sequence[float | Condition]) -> list[Condition]:
    """
    Turn what a user gives as conditions into a list of them.

    Raises
    ------
    InvalidInputError
        One is neither a temperature nor a :class:`.Condition`.
    """
    items = [conditions] if isinstance(conditions, (Real, Condition, str)) else list(conditions)  # type: ignore[arg-type]
    return [one if isinstance(one, Condition) else _at(one, i) for i, one in enumerate(items)]


def _at(given: Any, index: int) -> Condition:
    try:
        return Condition(float(given))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"conditions[{index}] is {given!r}; give a temperature in K, or "
            "Condition(temperature_K=300, pressure_GPa=1) with a pressure"
        ) from error
