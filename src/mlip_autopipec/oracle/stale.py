"""Results of a calculator that belong to other positions than those of its structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Atoms and cell vectors that differ by less (A) are where they were, as files round them.
_MOVED_A = 1e-3
_OWN = (
    "give each label a calculator of its own when it is computed: atoms.calc = SinglePointCalculator(atoms, "
    "energy=..., forces=..., stress=...)"
)


def refuse_stale(atoms: Atoms, name: str) -> None:
    """
    Refuse a label whose calculator holds the results of another structure.

    One calculator that several structures share holds those of the last one; a structure that was changed after it was
    computed has those of before. Positions may differ by lattice vectors, or all by one vector.

    Parameters
    ----------
    atoms
        With a calculator that holds results. One that does not know its structure is believed.
    name
        How the message calls it.

    Raises
    ------
    InvalidInputError
        Says what differs.
    """
    of = getattr(atoms.calc, "atoms", None)
    if not isinstance(of, Atoms) or of is atoms:
        return
    why = _differs(atoms, of)
    if why:
        raise InvalidInputError(f"{name}: its calculator holds the results of {why}; {_OWN}")


def _differs(atoms: Atoms, of: Atoms) -> str:
    """Return what the results are of instead; empty where they are of this structure."""
    if len(of) != len(atoms) or (of.numbers != atoms.numbers).any():
        return f"another structure ({of.get_chemical_formula()}; do several labels share one calculator?)"
    along = atoms.pbc | of.pbc
    if (np.abs(atoms.cell.array - of.cell.array)[along] > _MOVED_A).any():  # pbc that was lost is another matter
        return "another cell (was it strained after it was computed, or do several labels share one calculator?)"
    away = _away(atoms, of)
    if away.max() > _MOVED_A:
        index = int(away.argmax())
        return (
            f"other positions (atom {index} is {away[index]:.3g} A from there; was it moved after it was computed, or "
            "do several labels share one calculator?)"
        )
    return ""


def _away(atoms: Atoms, of: Atoms) -> NDArray[np.float64]:
    """Return how far (A) each atom is from where it was, but for lattice vectors and what all moved, (n_atoms,)."""
    moved = np.asarray(atoms.positions - of.positions)
    moved = moved - moved[0]
    if atoms.pbc.any():
        moved = find_mic(moved, atoms.cell.complete(), atoms.pbc)[0]
    return np.asarray(np.linalg.norm(moved - np.median(moved, axis=0), axis=1))
