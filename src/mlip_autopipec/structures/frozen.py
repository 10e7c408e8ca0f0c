"""Atoms that do not move in MD: marked by an array of the structure, so that every frame of a walk carries it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.constraints import FixAtoms, FixCartesian, FixScaled

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: Array of a structure that holds whether each atom is frozen.
FROZEN = "frozen"
#: Array of the atoms that the given structure fixes, by a constraint or a column of that name.
FIXED = "fixed"
#: Part of the remark on them; it is dropped where somebody asks to freeze them.
FREEZES_NOTHING = "that alone freezes nothing in MD"
#: Words and numbers for yes and no.
_SAID = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}


def frozen_atoms(atoms: Atoms) -> NDArray[np.intp]:
    """Return the indices of the atoms that are marked as frozen."""
    return np.flatnonzero(atoms.arrays[FROZEN]) if FROZEN in atoms.arrays else np.empty(0, dtype=np.intp)


def marked(atoms: Atoms, name: str, what: str) -> NDArray[np.bool_]:
    """
    Return which atoms a column of yes and no marks, (n_atoms,); of three values of an atom all have to.

    Parameters
    ----------
    atoms
        With the array.
    name
        Of the array. Words of a file are read by what they say: as such they would all be true.
    what
        How the message names the structure.

    Raises
    ------
    InvalidInputError
        A value is neither yes nor no.
    """
    found = []
    for value in np.asarray(atoms.arrays[name]).ravel().tolist():
        said = _SAID.get(str(value).lower())
        if said is None:
            raise InvalidInputError(
                f"{what}: '{name}' of an atom is {value!r}; give T or F (or 1 and 0), or take the column out"
            )
        found.append(said)
    columns = len(found) // max(len(atoms), 1)
    return np.asarray(np.array(found, dtype=bool).reshape(len(atoms), columns).all(axis=1))


def freeze(atoms: Atoms, indices: Sequence[int] | NDArray[np.intp]) -> Atoms:
    """
    Return a copy in which some atoms are frozen and no constraint is left.

    Raises
    ------
    InvalidInputError
        If an index is none of the structure, or no atom is left to move.
    """
    n, chosen = len(atoms), np.asarray(indices, dtype=np.intp)
    wrong = [int(i) for i in chosen if not 0 <= i < n]
    if wrong:
        raise InvalidInputError(f"frozen names the atoms {wrong}; {atoms.get_chemical_formula()} has 0 to {n - 1}")
    if len(set(chosen.tolist())) == n:
        raise InvalidInputError(f"frozen holds all {n} atoms of {atoms.get_chemical_formula()}; leave some to move")
    copy = atoms.copy()
    copy.set_constraint()
    copy.arrays.pop(FROZEN, None)
    if len(chosen):
        copy.set_array(FROZEN, np.isin(np.arange(n), chosen))
    return copy


def constrained_atoms(atoms: Atoms) -> NDArray[np.intp]:
    """
    Return the indices of the atoms that constraints of ASE hold in all directions.

    Raises
    ------
    InvalidInputError
        For constraints that hold an atom in some directions only, or something else than atoms.
    """
    held: list[int] = []
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms) or (isinstance(constraint, FixCartesian) and bool(np.all(constraint.mask))):
            held += [int(i) for i in constraint.index]
        else:
            raise InvalidInputError(
                f"{atoms.get_chemical_formula()} has the constraint {constraint}; MD freezes whole atoms only "
                "(FixAtoms): replace it, or do not ask for atoms frozen from the structure"
            )
    return np.unique(np.array(held, dtype=np.intp))


def fixed_atoms(atoms: Atoms, what: str) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """
    Find the atoms that a structure fixes wholly, by its constraints or a column ``fixed``.

    Parameters
    ----------
    atoms
        The structure.
    what
        How messages name it.

    Returns
    -------
    tuple
        Which atoms, (n_atoms,), None where it is none; and what to say of them and of other constraints. Nothing is
        said of fixed atoms that are frozen already.

    Raises
    ------
    InvalidInputError
        The column holds something else than yes and no.
    """
    fixed = np.zeros(len(atoms), dtype=bool)
    if FIXED in atoms.arrays:
        fixed |= marked(atoms, FIXED, what)
    others: dict[str, int] = {}
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms) or (
            isinstance(constraint, (FixCartesian, FixScaled)) and np.all(constraint.mask)
        ):
            fixed[constraint.get_indices()] = True
        else:
            name = type(constraint).__name__
            others[name] = others.get(name, 0) + 1
    remarks = []
    if fixed.any() and not (FROZEN in atoms.arrays and marked(atoms, FROZEN, what)[fixed].all()):
        remarks.append(
            f"{fixed.sum()} of {len(atoms)} atoms are fixed in it; {FREEZES_NOTHING}, `frozen: from_structure` does "
            "(freeze=True in Python), and labels and errors take the forces of all atoms"
        )
    if others:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(others.items()))
        remarks.append(
            f"constraints are not used: {listed}; MD freezes whole atoms: fix them in all directions and give "
            "`frozen: from_structure` (freeze=True in Python), or name them (`frozen: [0, 1]`, `{below_A: z}`)"
        )
    return (fixed if fixed.any() else None), remarks


def held_by(atoms: Atoms) -> NDArray[np.intp]:
    """Return the indices of the atoms that a structure that was taken in says to rest: frozen ones, else fixed ones."""
    name = FROZEN if FROZEN in atoms.arrays else FIXED
    return np.flatnonzero(atoms.arrays.get(name, np.zeros(0)))
