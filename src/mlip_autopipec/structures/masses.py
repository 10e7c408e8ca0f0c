"""Masses of a structure's own: isotopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_masses, chemical_symbols

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: A mass further than this factor from the element's (tritium is 2.99 times hydrogen) belongs to no isotope.
_HEAVIEST = 3.5
#: Masses that differ by less than this share are the same.
_SAME_MASS = 2e-3


def masses_of(atoms: Atoms, heavy: Mapping[int, float], what: str) -> NDArray[np.float64] | None:
    """
    Return the masses of a structure's atoms in u, (n_atoms,); None if they are those of the elements.

    Parameters
    ----------
    atoms
        As it was given.
    heavy
        Masses in u of single atoms that were given as isotopes.
    what
        Name of the structure in messages.

    Raises
    ------
    InvalidInputError
        A mass belongs to no isotope, or an element has several.
    """
    if not atoms.has("masses") and not heavy:
        return None
    masses = np.array(atoms.get_masses(), dtype=float)
    for index, mass in heavy.items():
        masses[index] = mass
    usual = atomic_masses[atoms.numbers]
    if np.allclose(masses, usual, rtol=_SAME_MASS, atol=0):
        return None
    ratio = masses / usual
    wrong = ~(np.isfinite(ratio) & (ratio < _HEAVIEST) & (ratio > 1 / _HEAVIEST))
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise InvalidInputError(
            f"{what}: atom {index} ({atoms.symbols[index]}) has a mass of {masses[index]:g}, and "
            f"{atoms.symbols[index]} has {usual[index]:.3f} u; give masses in u, or none"
        )
    for number in np.unique(atoms.numbers):
        own = masses[atoms.numbers == number]
        if not np.allclose(own, own[0], rtol=_SAME_MASS, atol=0):
            raise InvalidInputError(
                f"{what}: {chemical_symbols[number]} has masses of {own.min():.3f} and {own.max():.3f} u; MD knows one "
                "mass for each element. Give all atoms of the element the same mass: the mean for a natural mixture, "
                "the labels do not depend on it"
            )
    return masses


def mass_of_elements(elements: Sequence[str], atoms: Atoms | None = None) -> list[float]:
    """Return the mass in u of each element: that of the structure where it has it, else the element's."""
    own = _own(atoms) if atoms is not None and atoms.has("masses") else {}
    return [float(own.get(element, atomic_masses[chemical_symbols.index(element)])) for element in elements]


def told_masses(atoms: Atoms) -> str:
    """Name the masses that the elements of a structure have in it."""
    return ", ".join(f"{symbol} {mass:.4g} u" for symbol, mass in sorted(_own(atoms).items()))


def _own(atoms: Atoms) -> dict[str, float]:
    """Return the mass in u of each element as the structure has it."""
    return dict(zip(atoms.get_chemical_symbols(), atoms.get_masses().tolist(), strict=True))
