"""Forces of zero: by symmetry on a single atom, and on atoms that no symmetry holds, where they were not computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.data import covalent_radii

from mlip_autopipec.structures.distances import neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping, Sequence
    from typing import Any

    from ase import Atoms
    from numpy.typing import NDArray

#: Neighbours within so many sums of covalent radii push an atom; a sum of their directions above this is no symmetry.
_BONDED, _ONE_SIDED = 1.5, 0.02
#: Fewer labels may have forces without a component by the way their atoms were moved.
_ENOUGH = 5


def forces_set_to_zero(frames: Sequence[Atoms], names: Sequence[str]) -> Iterator[str]:
    """
    Name the labels with atoms whose force is exactly zero although no symmetry makes it so.

    A constraint has taken these forces off, or none were computed.

    Parameters
    ----------
    frames
        Labels with forces (eV/A).
    names
        How messages name each.
    """
    for atoms, name in zip(frames, names, strict=True):
        zero = ~atoms.calc.results["forces"].any(axis=1)
        if zero.sum() < 2 or not (zero & _is_pushed(atoms)).any():
            continue
        where = np.flatnonzero(zero)
        listed = ", ".join(map(str, where[:5])) + (" ..." if len(where) > 5 else "")
        which = "all atoms" if zero.all() else f"atoms {listed} ({len(where)} of {len(atoms)})"
        yield (
            f"{name} has forces of exactly zero on {which}, which no symmetry explains: they were not computed, or a "
            "constraint has taken them off. Write raw forces (in ASE: get_forces(apply_constraint=False))"
        )


def forces_without_a_component(frames: Sequence[Atoms], names: Sequence[str]) -> Iterator[str]:
    """
    Name a Cartesian component of the forces that is exactly zero in all labels although no symmetry makes it so.

    Parameters
    ----------
    frames
        Labels with forces (eV/A).
    names
        How messages name each.
    """
    several = [(atoms, name) for atoms, name in zip(frames, names, strict=True) if len(atoms) > 1]
    if len(several) < _ENOUGH:
        return
    for axis in range(3):
        if any(atoms.calc.results["forces"][:, axis].any() for atoms, _ in several):
            continue
        for atoms, name in several:
            if (np.abs(_pushes(atoms)[:, axis]) > _ONE_SIDED).any():
                yield (
                    f"{name} and all others have forces of exactly zero along {'xyz'[axis]}, which no symmetry "
                    "explains: a constraint has taken them off, or the column was lost. Write all three components"
                )
                break


def complete_single_atoms(frames: Sequence[Atoms], values: Sequence[MutableMapping[str, Any]]) -> None:
    """
    Give frames of one atom without forces those that they have by symmetry: zero, under the names of the other frames.

    Isolated atoms stand in many datasets with their energy alone.

    Parameters
    ----------
    frames
        Structures of a dataset.
    values
        What each of them carries, by name; completed in place.
    """
    named = [[key for key, value in one.items() if _are_forces(key, value)] for one in values]
    everywhere = dict.fromkeys(key for keys in named for key in keys) or {"forces": None}
    for atoms, one, keys in zip(frames, values, named, strict=True):
        if len(atoms) == 1 and not keys:
            one.update({key: np.zeros((1, 3)) for key in everywhere if key not in one})


def _are_forces(key: str, value: Any) -> bool:
    return "force" in key.lower() and np.ndim(value) == 2


def _is_pushed(atoms: Atoms) -> NDArray[np.bool_]:
    """Return which atoms have neighbours that do not lie around them symmetrically, (n_atoms,)."""
    return np.asarray(np.linalg.norm(_pushes(atoms), axis=1) > _ONE_SIDED)


def _pushes(atoms: Atoms) -> NDArray[np.float64]:
    """Return the sum of directions to the neighbours of each atom, near ones counting more, (n_atoms, 3)."""
    radii = covalent_radii[atoms.numbers]
    i, j, distance, vector = neighbours("ijdD", atoms, _BONDED * 2 * float(radii.max()))
    nearness = np.clip(1 - distance / (_BONDED * (radii[i] + radii[j])), 0, None)
    pushes = np.zeros((len(atoms), 3))
    np.add.at(pushes, i, (nearness / np.maximum(distance, 1e-6))[:, None] * vector)
    return pushes
