"""Projections of atoms onto the basis: what gamma is computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential


def compute_projections(potential: ACEPotential, frames: Sequence[Atoms]) -> list[dict[str, NDArray[Any]]]:
    """
    Project the atoms of every frame onto the basis.

    Returns
    -------
    list of dict
        For each frame and element an array (n_atoms of that element, n_functions).
    """
    from pyace.activelearning import compute_B_projections

    projections = []
    for atoms in frames:
        potential.check_elements(atoms)
        by_species = compute_B_projections(potential.basis, [atoms])
        projections.append({potential.elements[st]: rows for st, rows in by_species.items()})
    return projections
