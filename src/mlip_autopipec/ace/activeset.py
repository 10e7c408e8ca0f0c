"""Extrapolation grade, active set and D-optimal (MaxVol) selection.

The projections b of an atom onto the m basis functions of its element are one row; the active
set A is the m rows of largest |det A|, and gamma = max_j |(b A^-1)_j|: the factor by which
|det A| would grow if the atom replaced row j (Lysogorskiy et al., PRM 7, 043801 (2023)).
gamma <= 1 inside, > 1 outside of what the active set spans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pyace.activelearning import compute_A_active_inverse, compute_active_set, compute_B_projections
from pyace.maxvol import maxvol

from mlip_autopipec.errors import InvalidInputError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.ace.potential import ACEPotential

#: MaxVol stops when no row would enlarge the volume by more than this factor, so gamma of
#: every training atom is at most this.
GAMMA_TOLERANCE = 1.001
_MAXVOL_ITERATIONS = 1000


def compute_projections(potential: ACEPotential, frames: Sequence[Atoms]) -> list[dict[str, NDArray[Any]]]:
    """
    Project the atoms of every frame onto the basis.

    Returns
    -------
    list of dict
        For each frame and element an array (n_atoms of that element, n_functions).
    """
    projections = []
    for atoms in frames:
        potential.check_elements(atoms)
        by_species = compute_B_projections(potential.basis, [atoms])
        projections.append({potential.elements[st]: rows for st, rows in by_species.items()})
    return projections


def build_active_set(potential: ACEPotential, frames: Sequence[Atoms]) -> ACEPotential:
    """
    Return ``potential`` with the active set of ``frames``: all atoms of all of them.

    pacemaker's ``pace_activeset`` by default leaves out the atoms with the largest force
    errors, just those that were bought last; here none is left out.

    Raises
    ------
    TrainingError
        If an element has fewer atoms than basis functions, or its environments are too alike.
    """
    per_frame = compute_projections(potential, frames)
    stacked = {
        index: np.vstack([rows[element] for rows in per_frame]) for index, element in enumerate(potential.elements)
    }
    for index, element in enumerate(potential.elements):
        n_atoms, n_functions = stacked[index].shape
        if n_atoms <= n_functions:
            raise TrainingError(
                f"{n_atoms} atoms of {element} in the training set, but {n_functions} basis functions: the active "
                "set is under-determined. Label more or larger structures, or lower number_of_functions_per_element"
            )
    try:
        active = compute_active_set(stacked, tol=GAMMA_TOLERANCE, max_iters=_MAXVOL_ITERATIONS)
    except ValueError as error:
        raise TrainingError(
            f"no active set for {potential.elements}: {error}. The environments are too alike; add structures "
            "with larger displacements, strains and volumes, or lower number_of_functions_per_element"
        ) from error
    inverse = compute_A_active_inverse(active)
    return replace(
        potential,
        active_set_inverse={element: np.asarray(inverse[i]) for i, element in enumerate(potential.elements)},
    )


def compute_gamma(potential: ACEPotential, atoms: Atoms) -> NDArray[Any]:
    """Return the extrapolation grade of every atom, shape (n_atoms,)."""
    if not potential.active_set_inverse:
        raise InvalidInputError("the potential has no active set, so gamma is unknown; give its .asi file")
    calculator = potential.calculator()
    calculator.calculate(atoms)
    return np.asarray(calculator.results["gamma"])


@dataclass(frozen=True)
class SelectedCandidate:
    """One chosen candidate: its place in the list given, and its gamma when it was chosen."""

    index: int
    gamma: float


def select_active_set(
    potential: ACEPotential,
    candidates: Sequence[Atoms],
    n_max: int,
    *,
    first: Sequence[int] = (),
    required: Sequence[int] = (),
    gamma_min: float = 1.1,
) -> list[SelectedCandidate]:
    """
    Choose the candidates that enlarge the active set most (D-optimality, MaxVol).

    The most informative candidate is taken, the active set is updated with all its atoms by
    MaxVol, the grades of the others are computed anew, and so on: what resembles a chosen
    candidate falls below ``gamma_min`` and is never labelled.

    Parameters
    ----------
    potential
        Supplies the basis and the present active set.
    candidates
        Candidates of all halts together.
    n_max
        At most so many are chosen.
    first
        Indices considered before all others (the halted frames): labelling them is what
        lets their walkers go on.
    required
        Indices chosen before all others whatever their grade: frames that halted for what gamma
        does not see, such as a pair inside the core.
    gamma_min
        Candidates below this grade add nothing and are left out.

    Returns
    -------
    list of SelectedCandidate
        In the order of choice; empty when nothing exceeds ``gamma_min``.
    """
    if n_max < 1:
        raise InvalidInputError(f"n_max is {n_max}; at least one candidate has to be allowed")
    if not potential.active_set_inverse:
        raise InvalidInputError("the potential has no active set to select against; give its .asi file")
    rows = compute_projections(potential, candidates)
    inverse = {e: np.asarray(m) for e, m in potential.active_set_inverse.items()}
    active = {e: np.linalg.pinv(m) for e, m in inverse.items()}
    remaining = list(range(len(candidates)))
    chosen: list[SelectedCandidate] = []
    while remaining and len(chosen) < n_max:
        grades = {i: _grade(rows[i], inverse) for i in remaining}
        due = [i for i in required if i in grades]
        preferred = due or [i for i in first if i in grades and grades[i] > gamma_min] or remaining
        best = max(preferred, key=lambda i: grades[i])
        if not due and not grades[best] > gamma_min:
            break
        chosen.append(SelectedCandidate(best, float(grades[best])))
        remaining.remove(best)
        for element, new in rows[best].items():
            if len(new):
                active[element], inverse[element] = _update(active[element], new)
    return chosen


def _grade(rows: dict[str, NDArray[Any]], inverse: dict[str, NDArray[Any]]) -> float:
    grades = [np.abs(b @ inverse[element]).max() for element, b in rows.items() if len(b)]
    return float(max(grades, default=0.0))


def _update(active: NDArray[Any], new: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """MaxVol on the present active rows and new ones; functions that are zero so far stay harmless."""
    stacked = np.vstack([active, new])
    empty = np.flatnonzero(~stacked.any(axis=0))
    stacked[np.arange(len(empty)), empty] = 1e-16  # what pyace does for functions never seen
    try:
        index, _ = maxvol(stacked, tol=GAMMA_TOLERANCE, max_iters=_MAXVOL_ITERATIONS)
    except ValueError:  # rank-deficient although nothing is exactly zero: keep what there is
        return active, np.linalg.pinv(active)
    best = stacked[index[: active.shape[0]]]
    return best, np.linalg.pinv(best)
