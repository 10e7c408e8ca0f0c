"""Total charge, spin multiplicity and magnetic moments of a structure: what the electrons of an oracle begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.periodicity import Shape, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ase import Atoms
    from numpy.typing import NDArray

#: Entries of ``atoms.info``: total charge of the cell (e), absent where neutral; spin multiplicity 2S + 1.
CHARGE, MULTIPLICITY = "charge", "multiplicity"
#: Array of the atoms: the moments in Bohr magnetons that the oracle begins with, as ASE calls it.
MOMENTS = "initial_magmoms"


def charge_of(atoms: Atoms) -> int:
    """Return the total charge of a structure in e; 0 where none is given."""
    return int(atoms.info.get(CHARGE) or 0)


def multiplicity_of(atoms: Atoms) -> int | None:
    """Return the spin multiplicity 2S + 1 of a structure, None where it is left to the oracle."""
    found = atoms.info.get(MULTIPLICITY)
    return None if found is None else int(found)


def moments_of(atoms: Atoms) -> NDArray[np.float64] | None:
    """Return the moments in Bohr magnetons that an oracle is to begin with, (n_atoms,); None where none are given."""
    return np.asarray(atoms.arrays[MOMENTS], dtype=float) if MOMENTS in atoms.arrays else None


def has_total(atoms: Atoms) -> bool:
    """Return whether a structure has a charge or a multiplicity, which belong to the whole cell."""
    return charge_of(atoms) != 0 or multiplicity_of(atoms) is not None


def take_over(source: Atoms, target: Atoms, moments: bool = True) -> Atoms:
    """
    Give a structure the charge, multiplicity and moments of another one with the same atoms; return it.

    Parameters
    ----------
    source
        Where they are read. What it lacks is taken off ``target``.
    target
        The same atoms, in the same order where there are moments. Is changed.
    moments
        Whether moments of the atoms are taken over, too.
    """
    for name in (CHARGE, MULTIPLICITY):
        target.info.pop(name, None)
        if source.info.get(name) is not None:
            target.info[name] = source.info[name]
    if moments:
        target.arrays.pop(MOMENTS, None)
        if MOMENTS in source.arrays:
            target.set_array(MOMENTS, np.array(source.arrays[MOMENTS], dtype=float))
    return target


def repeated(source: Atoms, target: Atoms) -> Atoms:
    """
    Give a supercell the charge and the unpaired electrons of all its cells; return it.

    Unpaired electrons of all cells are parallel.

    Parameters
    ----------
    source
        The cell.
    target
        A supercell of it. Is changed.
    """
    times = len(target) // max(len(source), 1)
    for name in (CHARGE, MULTIPLICITY):
        target.info.pop(name, None)
    if charge_of(source):
        target.info[CHARGE] = times * charge_of(source)
    if (multiplicity := multiplicity_of(source)) is not None:
        target.info[MULTIPLICITY] = times * (multiplicity - 1) + 1
    return target


def told(atoms: Atoms, none: str = "charge") -> str:
    """Return charge and multiplicity as messages name them; ``none`` is what a structure without both has none of."""
    multiplicity = multiplicity_of(atoms)
    parts = [f"a total charge of {charge_of(atoms):+d} e"] if charge_of(atoms) else []
    parts += [] if multiplicity is None else [f"a spin multiplicity of {multiplicity}"]
    return " and ".join(parts) or f"no {none}"


def check_parity(atoms: Atoms, what: str) -> None:
    """
    Refuse a multiplicity that no number of paired and unpaired electrons gives.

    Raises
    ------
    InvalidInputError
        Names the structure, its electrons and the multiplicity.
    """
    multiplicity = multiplicity_of(atoms)
    if multiplicity is None:
        return
    electrons = int(atoms.numbers.sum()) - charge_of(atoms)
    if multiplicity < 1 or multiplicity - 1 > electrons or (electrons - multiplicity + 1) % 2:
        raise InvalidInputError(
            f"{what} has {electrons} electrons, which have no spin multiplicity of {multiplicity}; the multiplicity is "
            "2S + 1, one more than the number of unpaired electrons. Mend the entry, or the charge"
        )


def check_one_state(frames: Iterable[Atoms], what: str) -> None:
    """
    Refuse structures of one composition in several states: a potential of positions alone cannot tell them apart.

    Crystals, slabs and wires are compared by formula unit, molecules by their whole formula: a radical is no part of
    the closed shell of twice as many atoms. Lone atoms are not compared: they are references.

    Parameters
    ----------
    frames
        Structures and labels of one campaign.
    what
        How the message names them.

    Raises
    ------
    InvalidInputError
        Names the composition and the states.
    """
    frames = list(frames)
    if not any(map(has_total, frames)):
        return
    states: dict[tuple[bool, str], dict[tuple[float, float], Atoms]] = {}
    for atoms in frames:
        molecule = shape_of(atoms) is Shape.CLUSTER
        if molecule and len(atoms) == 1:
            continue
        formula, cells = (atoms.symbols.formula, 1) if molecule else atoms.symbols.formula.reduce()
        state = charge_of(atoms) / cells, ((multiplicity_of(atoms) or 1) - 1) / cells
        states.setdefault((molecule, formula.format("hill")), {}).setdefault(state, atoms)
    for (_, formula), found in states.items():
        if len(found) > 1:
            none = "charge" if any(map(charge_of, found.values())) else "multiplicity"
            listed = ", and with ".join(told(atoms, none) for atoms in found.values())
            raise InvalidInputError(
                f"{what} hold {formula} with {listed}; ACE knows positions alone, so one composition can be learnt in "
                "one state only. Leave one out"
            )


def along_one_axis(moments: NDArray[np.float64], tolerance: float) -> NDArray[np.float64] | None:
    """
    Return moments that are all parallel to one axis as numbers along it.

    Parameters
    ----------
    moments
        In Bohr magnetons, (n_atoms, 3), not all zero.
    tolerance
        Components across the axis may be this large.

    Returns
    -------
    numpy.ndarray or None
        (n_atoms,); None for moments that are not collinear.
    """
    axis = moments[np.linalg.norm(moments, axis=1).argmax()]
    axis = axis / np.linalg.norm(axis) * (1.0 if axis[np.abs(axis).argmax()] > 0 else -1.0)
    along = np.asarray(moments @ axis)
    return along if np.abs(moments - along[:, None] * axis).max() < tolerance else None
