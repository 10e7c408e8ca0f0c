"""What a structure carries by another name than the one that is taken over: charges, moments, atoms that rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlip_autopipec.structures.electrons import CHARGE, MOMENTS, MULTIPLICITY
from mlip_autopipec.structures.frozen import FIXED, FROZEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ase import Atoms

#: Names of moments of the atoms.
_OF_MOMENTS = ("magmom", "magmoms", "magnetic_moments", "initial_magmom")
#: Columns of files that are charges or moments by another name than the one that is taken over.
OTHER_NAMES = {
    **dict.fromkeys(("charge", "charges", "formal_charges", "oxidation_states"), "initial_charges"),
    **dict.fromkeys((*_OF_MOMENTS, "spin", "spins"), MOMENTS),
}
#: Names under which a calculator, or a column that ASE takes for a result, holds moments of the atoms.
_COMPUTED_MOMENTS = ("magmom", "magmoms")
#: Numbers of the whole structure, by the name that is taken over.
_OF_ALL = {
    **dict.fromkeys(
        ("q", "qtot", "q_tot", "q_total", "cell_charge", "cellcharge", "system_charge", "formal_charge"), CHARGE
    ),
    **dict.fromkeys(("spinmultiplicity", "spin_mult", "mult", "2s+1"), MULTIPLICITY),
}
#: Columns that mark atoms which rest, or those which move, by another name.
_RESTING = frozenset(
    "fix is_fixed fixed_atoms fixed_mask fix_mask freeze freezed is_frozen frozen_atoms frozen_mask freeze_mask "
    "immobile constraint constraints selective_dynamics move moves mobile movable moveable move_mask".split()
) | {FROZEN, FIXED}
#: Moments (Bohr magnetons) and charges (e) below this are none.
_NOTHING = 0.1


def about_other_names(atoms: Atoms) -> list[str]:
    """Say what is not used of a structure because it has another name than the one that is taken over."""
    said = [
        f"'{name}' of its atoms is not used; ASE's name is {OTHER_NAMES[name.lower()]}"
        for name in (*atoms.arrays, *computed_moments(atoms))
        if name.lower() in OTHER_NAMES
    ]
    for name, value in _values(atoms):
        low = name.lower()
        if low in (*_OF_MOMENTS, MOMENTS) and _is_something(value):
            said.append(f"'{name}' of its comment (info) is not used; ASE's name is {MOMENTS}, a column of the atoms")
        elif low in _OF_ALL and np.size(value) == 1 and _is_something(value):
            said.append(f"'{name}' of its comment (info), {value}, is not used; the name is {_OF_ALL[low]}")
    of_atoms = [name for name in atoms.arrays if name.lower() in _RESTING and name not in (FROZEN, FIXED)]
    resting = [f"'{name}' of its atoms" for name in of_atoms]
    resting += [f"'{name}' of its comment (info)" for name, _ in _values(atoms) if name.lower() in _RESTING]
    told = f"is not used and freezes nothing; the column '{FROZEN}' (T for atoms that do not move in MD) does"
    return [*said, *(f"{named} {told}" for named in resting)]


def computed_moments(atoms: Atoms) -> list[str]:
    """
    Return under which names results of a calculator hold moments of the atoms, where it has none to begin with.

    ASE takes a column ``magmom`` or ``magmoms`` of an extxyz file for a result.
    """
    results = getattr(atoms.calc, "results", None) or {}
    return [
        name
        for name in _COMPUTED_MOMENTS
        if MOMENTS not in atoms.arrays and len(np.atleast_1d(results.get(name, 0.0))) == len(atoms) > 1
        if _is_something(results[name])
    ]


def _values(atoms: Atoms) -> Iterator[tuple[str, Any]]:
    """Iterate over the entries of ``info``, but for bare words of a comment ("fix of run 3")."""
    for name, value in atoms.info.items():
        if value is not None and not isinstance(value, (bool, np.bool_)):
            yield str(name), value


def _is_something(value: Any) -> bool:
    """Return whether an entry says more than zero; words do."""
    try:
        return bool((np.abs(np.asarray(value, dtype=float)) > _NOTHING).any())
    except (TypeError, ValueError):
        return True
