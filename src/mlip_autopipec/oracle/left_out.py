"""What given labels carry beside structure and label: left out, and said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_masses

from mlip_autopipec.structures.other_names import OTHER_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

#: Masses (u) that differ by less are the element's own, as files round them.
_SAME_MASS = 0.02


def about_left_out(frames: Sequence[Atoms], whose: str) -> list[str]:
    """
    Say what of labels is left out, one line for constraints and one for all else.

    Parameters
    ----------
    frames
        Structures as they were read or given.
    whose
        How the lines begin: the name of the file, or what the labels are called.
    """
    said = []
    if held := [atoms for atoms in frames if atoms.constraints]:
        kinds = sorted({type(constraint).__name__ for atoms in held for constraint in atoms.constraints})
        said.append(
            f"labels: {whose}: {', '.join(kinds)} of {len(held)} of {len(frames)} frames taken off; the forces are "
            f"used as they were given, of all atoms ({held[0].get_chemical_formula()}: {_n_held(held[0])} of "
            f"{len(held[0])} atoms constrained)"
        )
    counts: dict[str, int] = {}
    for atoms in frames:
        for name in _carried(atoms):
            counts[name] = counts.get(name, 0) + 1
    if counts:
        listed = ", ".join(f"{name} ({n})" for name, n in counts.items())
        said.append(f"labels: {whose}: not used, of so many of {len(frames)} frames: {listed}")
    return said


def _n_held(atoms: Atoms) -> int:
    held: set[int] = set()
    for constraint in atoms.constraints:
        indices = getattr(constraint, "get_indices", None)
        of_it = np.asarray(indices() if indices is not None else range(len(atoms)), dtype=int)
        mask = np.asarray(getattr(constraint, "mask", True), dtype=bool)  # of some axes only, for each atom or for all
        if mask.shape == (len(of_it), 3):
            of_it = of_it[mask.any(axis=1)]
        held.update(map(int, of_it))
    return len(held)


def _carried(atoms: Atoms) -> list[str]:
    found = []
    if atoms.has("momenta") and np.any(atoms.get_momenta()):
        found.append("velocities")
    if atoms.has("masses") and np.any(np.abs(atoms.get_masses() - atomic_masses[atoms.numbers]) > _SAME_MASS):
        found.append("masses of its own")
    if atoms.has("initial_charges") and np.any(atoms.get_initial_charges()):
        found.append("charges of single atoms")
    found += [f"'{name}' of its atoms" for name in atoms.arrays if name.lower() in OTHER_NAMES]
    return found
