"""How far labels are above the most stable ones, and how much less that makes their errors worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: Compositions that differ by less are the same.
_DIGITS = 6


def energies_above_hull(labels: Sequence[Atoms]) -> NDArray[np.float64]:
    """
    Return how far the energy of each label is above the lower convex hull of all of them, in eV/atom.

    The hull is the lowest energy that labels of other compositions, mixed to the same one, would have; with one
    composition it is the lowest energy per atom.

    Parameters
    ----------
    labels
        Structures with energies (eV) in attached calculators.

    Returns
    -------
    numpy.ndarray
        (n_labels,), zero on the hull.
    """
    from scipy.optimize import linprog

    if not labels:
        return np.zeros(0)
    symbols = sorted({symbol for atoms in labels for symbol in atoms.get_chemical_symbols()})
    counts = np.array([[atoms.get_chemical_symbols().count(s) for s in symbols] for atoms in labels], dtype=float)
    n_atoms = counts.sum(axis=1)
    energies = np.array([atoms.get_potential_energy() for atoms in labels]) / n_atoms
    compositions, of = np.unique(np.round(counts / n_atoms[:, None], _DIGITS), axis=0, return_inverse=True)
    of = of.ravel()
    lowest = np.full(len(compositions), np.inf)
    np.minimum.at(lowest, of, energies)
    hull = lowest.copy()
    if len(compositions) > 1:
        # shares of the compositions that give the one asked for at the lowest energy; itself is among them
        for i, composition in enumerate(compositions):
            found = linprog(lowest, A_eq=compositions.T, b_eq=composition, bounds=(0.0, None))
            if found.status == 0:
                hull[i] = min(found.fun, lowest[i])
    return np.asarray(energies - hull[of])


def softened(above: NDArray[np.float64], scale_eV_atom: float) -> NDArray[np.float64]:
    """
    Return the weights of labels in a sum of squares, 1 for the most stable.

    What an error is worth grows as ``1 + above / scale``: a crystal compressed to half its volume, a free atom or a
    surface that nobody will see have errors that need not be as small as those of the solid, and a basis that has to
    make them small does so at the expense of the solid.

    Parameters
    ----------
    above
        Of :func:`energies_above_hull`, eV/atom.
    scale_eV_atom
        Where an error is worth twice as much.
    """
    return np.asarray((1.0 + above / scale_eV_atom) ** -2)
