"""Which functions gamma looks at: the leading ones, no more than the atoms of the training set determine.

A basis may have as many functions as the labels bear with a regularised fit, six for ten atoms. An active
set of all of them is ill-conditioned: gamma of nearly every new frame of MD is above 5 there, however small the
errors of the forces, and MD halts for nothing (docs/benchmarks.md). With ten atoms or more for each function
gamma tells what is new, and its thresholds mean the same whatever the size of the basis.

In an inverse of an active set the rows and columns of functions that are not graded are exactly zero: gamma,
``max_j |(b A^-1)_j|``, then leaves them out in every MD engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlip_autopipec.potentials.basis import degree_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

#: Atoms of an element in the training set for each function of it that is graded.
ATOMS_PER_GRADED = 10
#: So many functions are graded however few atoms there are, if the atoms are more than they.
FEWEST_GRADED = 10
#: At most so many are graded, times one more than there are elements: enough to tell a new environment from a known
#: one. More of them would halt MD for details that cost the forces little.
MOST_GRADED = 25
#: The number of graded functions grows by this factor or stays, so that gamma stays comparable for some cycles.
_GROWTH = 1.5


def graded_functions(potential: ACEPotential, element: str, n_atoms: int) -> NDArray[np.bool_]:
    """
    Tell which functions of an element are graded: those of lowest degree.

    Parameters
    ----------
    potential
        Supplies the basis; all functions of a GRACE-FS potential are graded.
    element
        One of the potential's.
    n_atoms
        Atoms of the element in the training set.

    Returns
    -------
    numpy.ndarray
        (n_functions,), in the order of the projections.
    """
    n_functions = potential.n_functions[element]
    if potential.is_grace:
        return np.ones(n_functions, dtype=bool)
    number = FEWEST_GRADED
    most = min(n_atoms / ATOMS_PER_GRADED, MOST_GRADED * (1 + len(potential.elements)))
    while (larger := round(number * _GROWTH)) <= most:
        number = larger
    index = potential.elements.index(element)
    functions = (*potential.basis.basis_rank1[index], *potential.basis.basis[index])
    degrees = [degree_of(f.ns, f.ls) for f in functions]
    graded = np.zeros(n_functions, dtype=bool)
    graded[np.argsort(degrees, kind="stable")[:number]] = True
    return graded


def is_graded(inverse: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell from the inverse of an active set which functions are graded, (n_functions,)."""
    return np.asarray(np.asarray(inverse).any(axis=1))


def graded_block(matrix: NDArray[Any], graded: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the rows and columns of the graded functions."""
    return np.asarray(np.asarray(matrix)[np.ix_(graded, graded)])


def with_others(block: NDArray[Any], graded: NDArray[np.bool_]) -> NDArray[Any]:
    """Undo :func:`graded_block`: rows and columns of all other functions are zero; (n_functions, n_functions)."""
    whole = np.zeros((len(graded), len(graded)))
    whole[np.ix_(graded, graded)] = block
    return whole
