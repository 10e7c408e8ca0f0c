"""Projections of atoms onto the basis: what gamma is computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlip_autopipec.potentials.row_cache import RowCache, basis_text, key_of

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


def kept_projections(potential: ACEPotential, frames: Sequence[Atoms]) -> list[dict[str, NDArray[Any]]]:
    """
    Return :func:`compute_projections`, of frames that are known from earlier cycles out of the cache.

    For a potential whose radial functions stay from cycle to cycle. The coefficients of the functions change no
    projection.
    """
    cache = RowCache.here()
    if cache is None:
        return compute_projections(potential, frames)
    bare = potential.own_basis()
    bare.basis_coeffs = np.zeros(len(bare.basis_coeffs))
    text, n_functions = basis_text(bare), potential.n_functions
    keys = [key_of(text, atoms) for atoms in frames]
    found: list[dict[str, NDArray[Any]]] = []
    for key, atoms in zip(keys, frames, strict=True):
        counts = atoms.symbols.formula.count()
        shapes = {element: (counts.get(element, 0), n) for element, n in n_functions.items()}
        known = cache.read_projections(key, shapes)
        if known is None:
            (known,) = compute_projections(potential, [atoms])
            cache.write_projections(key, known)
        found.append(known)
    return found
