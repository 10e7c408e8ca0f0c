"""Numbers that a structure may hold: what is refused before a search for neighbours would hang on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import minkowski_reduce

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

#: Largest coordinate or cell vector (A), thinnest periodic cell (A), largest volume (A^3): 1000 A to the third.
LARGEST_A, THINNEST_A, LARGEST_A3 = 1e5, 0.3, 1e9
#: Vectors that lie in one plane but for this (A) have no shorter ones.
_FLAT_A = 1e-6
#: Of a file with atom types and without elements.
TYPES_ALONE = "the file has a column of atom types and none of elements; write one called species"


def shown_formula(atoms: Atoms) -> str:
    """Return the chemical formula, or the number of atoms where some of them are no elements."""
    numbers = np.asarray(atoms.numbers)
    if len(numbers) and not ((numbers >= 0) & (numbers < len(chemical_symbols))).all():
        return f"{len(atoms)} atoms"
    return str(atoms.get_chemical_formula())


def refuse_numbers(atoms: Atoms, what: str) -> None:
    """
    Refuse a structure without atoms, or with numbers on which a search for neighbours would hang.

    Raises
    ------
    InvalidInputError
        Names the structure, the atom or cell vector, and the value.
    """
    if len(atoms) == 0:
        raise InvalidInputError(f"{what} is empty (0 atoms); give a structure of at least one atom")
    _refuse_numbers(atoms, what)
    cell, pbc = atoms.cell.array, atoms.pbc
    far = np.abs(atoms.positions).max(axis=1)
    if far.max() > LARGEST_A:
        index = int(far.argmax())
        raise InvalidInputError(
            f"{what}: atom {index} is at {atoms.positions[index].tolist()} A, and {LARGEST_A:g} A is the largest "
            "coordinate; is it another unit?"
        )
    lengths = np.linalg.norm(cell, axis=1)
    if lengths.max() > LARGEST_A:
        index = int(lengths.argmax())
        raise InvalidInputError(
            f"{what}: cell vector {index} is {lengths[index]:g} A long; {LARGEST_A:g} A is the most"
        )
    if (pbc & (lengths == 0)).any():
        raise InvalidInputError(
            f"{what}: it is periodic along cell vector {int(np.flatnonzero(pbc & (lengths == 0))[0])}, which is "
            "missing; give that vector, or set pbc to False there (vacuum is then added)"
        )
    heights = _heights(atoms.cell.complete().array)
    if pbc.any() and heights[pbc].min() < THINNEST_A:
        axis = int(np.flatnonzero(pbc)[heights[pbc].argmin()])
        reduced = minkowski_reduce(atoms.cell.complete(), pbc=pbc)[0] if heights.min() > _FLAT_A else None
        if reduced is not None and _heights(np.asarray(reduced))[pbc].min() >= THINNEST_A:
            raise InvalidInputError(
                f"{what}: its cell is so skewed that it is {heights[axis]:.3g} A high along vector {axis}; shorter "
                "vectors make the same crystal: ase.build.niggli_reduce(atoms) finds them"
            )
        raise InvalidInputError(
            f"{what}: the cell is {heights[axis]:.3g} A high along vector {axis}: it is flat, or its vectors lie in "
            f"one plane ({cell.tolist()}); give a cell in A that holds the atoms"
        )
    extent = np.maximum(np.ptp(atoms.positions, axis=0), 1.0)
    volume = float(np.prod(heights)) if pbc.all() else float(np.prod(np.maximum(extent, np.where(pbc, heights, 1.0))))
    if volume > LARGEST_A3:
        raise InvalidInputError(
            f"{what} fills {volume:.3g} A^3, and {LARGEST_A3:g} A^3 is the most; is it another unit?"
        )


def _heights(cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances (A) between opposite faces of a cell, (3,)."""
    faces = [np.linalg.norm(np.cross(cell[axis - 2], cell[axis - 1])) for axis in range(3)]
    return np.asarray(abs(np.linalg.det(cell)) / np.maximum(faces, 1e-12))


def _refuse_numbers(atoms: Atoms, what: str) -> None:
    for name, values in (("position", atoms.positions), ("cell vector", atoms.cell.array)):
        if not np.isfinite(values).all():
            index = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise InvalidInputError(f"{what}: {name} {index} is {values[index].tolist()}; give finite numbers in A")
    strange = (atoms.numbers <= 0) | (atoms.numbers >= len(chemical_symbols))
    if strange.any():
        index = int(np.flatnonzero(strange)[0])
        number = int(atoms.numbers[index])
        named = f"'{chemical_symbols[number]}'" if number == 0 else f"of atomic number {number}"
        also = "" if number or not {"type", "types"} & set(atoms.arrays) else f" ({TYPES_ALONE})"
        raise InvalidInputError(f"{what}: atom {index} is {named}, no element; name it, or drop it{also}")
