"""Projections of atoms onto the basis: what gamma is computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlip_autopipec.potentials.grace import first_structure
from mlip_autopipec.potentials.row_cache import RowCache, basis_text, key_of
from mlip_autopipec.structures.periodicity import boxed_if_mixed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    return list(iter_projections(potential, frames))


def iter_projections(potential: ACEPotential, frames: Sequence[Atoms]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what :func:`compute_projections` returns, frame by frame: that of thousands of labels has gigabytes."""
    from pyace.activelearning import compute_B_projections

    basis = potential.basis
    before = [first_structure(basis)] if potential.is_grace else []
    n_before = [sum(atoms.symbols.count(element) for atoms in before) for element in potential.elements]
    for atoms in frames:
        potential.check_elements(atoms)
        by_species = compute_B_projections(basis, [*before, boxed_if_mixed(atoms)])
        yield {potential.elements[st]: rows[n_before[st] :] for st, rows in by_species.items()}


def kept_projections(potential: ACEPotential, frames: Sequence[Atoms]) -> Iterator[dict[str, NDArray[Any]]]:
    """
    Do as :func:`iter_projections`; frames that are known from earlier cycles come out of the cache.

    For a potential whose radial functions stay from cycle to cycle. The coefficients of the functions change no
    projection.
    """
    cache = RowCache.here()
    if cache is None:
        yield from iter_projections(potential, frames)
        return
    bare = potential.own_basis()
    bare.basis_coeffs = np.zeros(len(bare.basis_coeffs))
    text, n_functions = basis_text(bare), potential.n_functions
    keys = [key_of(text, atoms) for atoms in frames]
    for key, atoms in zip(keys, frames, strict=True):
        counts = atoms.symbols.formula.count()
        shapes = {element: (counts.get(element, 0), n) for element, n in n_functions.items()}
        known = cache.read_projections(key, shapes)
        if known is None:
            (known,) = compute_projections(potential, [atoms])
            cache.write_projections(key, known)
        yield known
