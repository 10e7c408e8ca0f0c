"""Extrapolation grade, active set and D-optimal (MaxVol) selection.

The projections b of an atom onto the m graded basis functions of its element (``graded.py``) are one row; the
active set A is the m rows of largest ``|det A|``, and gamma = ``max_j |(b A^-1)_j|``: the factor by which
``|det A|`` would grow if the atom replaced row j (Lysogorskiy et al., PRM 7, 043801 (2023)).
gamma <= 1 inside, > 1 outside of what the active set spans.

A function that is zero in the whole training set, as those of an unseen pair of elements,
gets a row of its own (:data:`NEVER_SEEN`), so that gamma is huge as soon as it is not zero. pyace cuts
such functions away, and its gamma is 0 there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.blas import dger

from mlip_autopipec.active_learning.duplicates import Duplicates
from mlip_autopipec.active_learning.graded import graded_block, graded_functions, is_graded, with_others
from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.potentials.projections import compute_projections, iter_projections
from mlip_autopipec.processes import in_one_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.active_learning.coverage import Coverage, Unseen
    from mlip_autopipec.potentials.potential import ACEPotential

#: A projection that stays below this in the training set was never seen; at this size it has gamma = 1.
#: Projections are of the order of 0.01 to 100, and zeros that rest on symmetry are good to 1e-14.
NEVER_SEEN = 1e-10
#: MaxVol stops when no row would enlarge the volume by more than this factor, so gamma of
#: every training atom is at most this.
GAMMA_TOLERANCE = 1.001
_MAXVOL_ITERATIONS = 1000
_NOISE = 1e-8
#: Coefficients of a row of an active set in itself are a unit vector up to this.
_SAME_ROW = 1e-5


@in_one_thread
def build_active_set(
    potential: ACEPotential,
    frames: Sequence[Atoms],
    present: ACEPotential | None = None,
    projections: Iterable[dict[str, NDArray[Any]]] | None = None,
) -> ACEPotential:
    """
    Return ``potential`` with the active set of ``frames``: all atoms of all of them.

    pacemaker's ``pace_activeset`` by default leaves out the atoms with the largest force
    errors, which are usually those of the newest labels; here none is left out.

    Parameters
    ----------
    potential
        Supplies the basis.
    frames
        The training set.
    present
        A potential whose active set is enlarged instead of choosing all rows again, where that is
        possible: if its rows are among those of ``frames``, that is if only function
        coefficients were trained since. So gamma stays comparable from one potential to the next.
        With one, environments that are too alike are no error: a first label of a new pair of elements
        cannot span all functions of that pair, and the next halts bring more.
    projections
        Those of the frames, in their order, where they are known.

    Raises
    ------
    TrainingError
        If an element has fewer atoms than graded functions, or its environments are too alike
        and there is no potential at present.
    """
    n_atoms = Counter(symbol for atoms in frames for symbol in atoms.symbols)
    of_element = {e: graded_functions(potential, e, n_atoms[e]) for e in potential.elements}
    for element, graded in of_element.items():
        if n_atoms[element] <= graded.sum():
            raise TrainingError(
                f"{n_atoms[element]} atoms of {element} in the training set, but {graded.sum()} basis functions: the "
                "active set is under-determined. Label more or larger structures, or lower "
                f"{'basis.nradmax_by_orders' if potential.is_grace else 'number_of_functions_per_element'}"
            )
    # of each frame the graded functions alone: all functions of thousands of labels have gigabytes
    parts: dict[str, list[NDArray[Any]]] = {element: [] for element in potential.elements}
    for frame in iter_projections(potential, frames) if projections is None else projections:
        for element, part in parts.items():
            part.append(frame[element][:, of_element[element]])
    inverse = {}
    for element, graded in of_element.items():
        rows = np.vstack(parts.pop(element))
        start = None if present is None else present.active_set_inverse.get(element)
        if start is not None:
            start = graded_block(start, graded) if np.array_equal(is_graded(start), graded) else None
        try:
            active = _most_volume(_with_never_seen(rows, everywhere=present is not None), start)
        except ValueError as error:
            raise TrainingError(
                f"no active set for {element}: {error}. The environments are too similar; add structures "
                "with larger displacements, strains and volumes, or lower number_of_functions_per_element"
            ) from error
        inverse[element] = with_others(_invert(active), graded)
    return replace(potential, active_set_inverse=inverse)


def compute_gamma(potential: ACEPotential, atoms: Atoms) -> NDArray[Any]:
    """Return the extrapolation grade of every atom, shape (n_atoms,)."""
    if not potential.active_set_inverse:
        raise InvalidInputError("the potential has no active set, so gamma is unknown; give its .asi file")
    calculator = potential.calculator()
    calculator.calculate(atoms)
    return np.asarray(calculator.results["gamma"])


@in_one_thread
def complete_active_set(potential: ACEPotential) -> ACEPotential:
    """
    Return ``potential`` with an active set that sees functions which its training set never had.

    For a potential of other origin: in active sets of ``pace_activeset`` gamma is 0 for them. One that
    is complete is returned as it is.
    """
    inverse = {}
    for element, matrix in potential.active_set_inverse.items():
        graded = is_graded(matrix)
        given = graded_block(matrix, graded)
        # pyace puts 1e-16 there before it inverts, which leaves noise; functions that were seen have about 1
        missing = np.abs(given).max(axis=1) < _NOISE
        if missing.any():
            # rank-deficient: of its rows the best for the functions that were seen
            rows = np.linalg.pinv(given)
            rows[:, missing] = 0.0
            given = _invert(_most_volume(_with_never_seen(rows), None))
        inverse[element] = with_others(given, graded)
    return replace(potential, active_set_inverse=inverse)


@in_one_thread
def enlarge_active_set(potential: ACEPotential, frames: Sequence[Atoms]) -> ACEPotential:
    """
    Return ``potential`` with the active set that it would have if it were trained on ``frames`` as well.

    Its functions stay as they are, so that gamma is that of a training set with these labels.
    """
    potential = complete_active_set(potential)
    inverse = {element: np.asarray(matrix) for element, matrix in potential.active_set_inverse.items()}
    for rows in iter_projections(potential, frames):
        for element, new in rows.items():
            if len(new):
                graded = is_graded(inverse[element])
                active = _invert(graded_block(inverse[element], graded))
                inverse[element] = with_others(_invert(_enlarge(active, new[:, graded])), graded)
    return replace(potential, active_set_inverse=inverse)


@dataclass(frozen=True)
class SelectedCandidate:
    """
    One chosen candidate.

    Parameters
    ----------
    index
        Its place in the list given.
    gamma
        Its grade when it was chosen.
    unseen
        What of it the training set did not hold: as good as an infinite grade.
    """

    index: int
    gamma: float
    unseen: tuple[Unseen, ...] = ()


@in_one_thread
def select_active_set(
    potential: ACEPotential,
    candidates: Sequence[Atoms],
    n_max: int,
    *,
    required: Sequence[int] = (),
    gamma_min: float = 2.0,
    coverage: Coverage | None = None,
) -> list[SelectedCandidate]:
    """
    Choose the candidates that enlarge the active set most (D-optimality, MaxVol).

    The most informative candidate is taken, the active set is updated with all its atoms by
    MaxVol, the grades of the others are computed again, and so on: what resembles a chosen
    candidate falls below ``gamma_min`` and is never labelled. The same input gives the same
    choice; of equals the one listed first is taken.

    Parameters
    ----------
    potential
        Supplies the basis and the present active set.
    candidates
        Candidates of all halts together.
    n_max
        At most so many are chosen.
    required
        Indices chosen before all others whatever their grade: frames that halted for what gamma
        does not see, such as a pair inside the core.
    gamma_min
        Candidates below this grade add nothing and are left out.
    coverage
        Of the training set. Candidates with surroundings that it does not hold come before all
        that are not required.

    Returns
    -------
    list of SelectedCandidate
        In the order of choice; empty when nothing exceeds ``gamma_min``.
    """
    if n_max < 1:
        raise InvalidInputError(f"n_max is {n_max}; at least one candidate has to be allowed")
    if not potential.active_set_inverse:
        raise InvalidInputError("the potential has no active set to select against; give its .asi file")
    potential = complete_active_set(potential)
    projections = compute_projections(potential, candidates)
    graded = {e: is_graded(m) for e, m in potential.active_set_inverse.items()}
    rows = [{e: b[:, graded[e]] for e, b in frame.items()} for frame in projections]
    inverse = {e: graded_block(m, graded[e]) for e, m in potential.active_set_inverse.items()}
    active = {e: _invert(m) for e, m in inverse.items()}
    known = Duplicates(potential)
    remaining = list(range(len(candidates)))
    chosen: list[SelectedCandidate] = []
    while remaining and len(chosen) < n_max:
        grades = {i: _grade(rows[i], inverse) for i in remaining}
        unseen = {i: coverage.unseen(candidates[i]) if coverage is not None else [] for i in remaining}
        novel = [i for i in remaining if unseen[i]]
        promising = [i for i in (novel or remaining) if novel or grades[i] > gamma_min]
        due = [i for i in required if i in grades]
        preferred = due or promising
        if not preferred:
            break
        best = max(preferred, key=lambda i: (grades[i], -i))
        remaining.remove(best)
        if known.has(candidates[best], projections[best]):
            continue
        chosen.append(SelectedCandidate(best, float(grades[best]), tuple(unseen[best])))
        known.add(candidates[best], projections[best])
        if coverage is not None:
            coverage = coverage.merge(coverage.of([candidates[best]], coverage.cutoff))
        for element, new in rows[best].items():
            if len(new):
                active[element] = _enlarge(active[element], new)
                inverse[element] = _invert(active[element])
    return chosen


def _grade(rows: dict[str, NDArray[Any]], inverse: dict[str, NDArray[Any]]) -> float:
    grades = [np.abs(b @ inverse[element]).max() for element, b in rows.items() if len(b)]
    return float(max(grades, default=0.0))


def _with_never_seen(rows: NDArray[Any], everywhere: bool = False) -> NDArray[Any]:
    """Add to the atoms' rows one for each function that is zero in all of them, or for every one."""
    added = (np.abs(rows).max(axis=0) < NEVER_SEEN) | everywhere
    return np.vstack([rows, NEVER_SEEN * np.eye(rows.shape[1])[added]]) if added.any() else rows


def _most_volume(rows: NDArray[Any], start: NDArray[Any] | None) -> NDArray[Any]:
    """
    Choose as many rows as functions, of the largest determinant, so that gamma of all is at most the tolerance.

    Parameters
    ----------
    rows
        All rows, (n, n_functions).
    start
        Inverse of the rows to start from. They are used if they are among ``rows``.
    """
    if start is not None and start.shape == (rows.shape[1],) * 2:
        coefficients = rows @ start
        # a row of the start has the coefficients of a unit vector; one of other projections has not
        units = np.abs(coefficients - 1) < _SAME_ROW
        sums = np.abs(coefficients).sum(axis=1) < 1 + _SAME_ROW * len(start)
        if (units & sums[:, None]).any(axis=0).all():
            active = _invert(start)
            while len(outside := np.flatnonzero(np.abs(coefficients).max(axis=1) > GAMMA_TOLERANCE)):
                active = _enlarge(active, rows[outside])
                coefficients = rows @ _invert(active)
            return active
    from pyace.maxvol import maxvol

    index, _ = maxvol(rows, tol=GAMMA_TOLERANCE, max_iters=_MAXVOL_ITERATIONS)
    return rows[index[: rows.shape[1]]]


def _enlarge(active: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    """Exchange rows for new ones while that enlarges the volume: MaxVol from a given start."""
    rows = np.vstack([active, new])
    index = np.arange(len(active))
    for _ in range(_MAXVOL_ITERATIONS):
        coefficients = np.asfortranarray((rows @ _invert(rows[index])).T)
        exchanged = False
        for _ in range(len(active)):
            i, j = np.unravel_index(np.argmax(np.abs(coefficients)), coefficients.shape)
            pivot = coefficients[i, j]
            if not abs(pivot) > GAMMA_TOLERANCE:
                break
            row, column = coefficients[i].copy(), coefficients[:, j].copy()
            column[i] -= 1.0
            coefficients = dger(-1.0 / pivot, column, row, a=coefficients, overwrite_a=1)
            index[i], exchanged = j, True
        if not exchanged:
            break
    return rows[index]


def _invert(matrix: NDArray[Any]) -> NDArray[Any]:
    """Invert an active set, or undo that; rows and columns, which differ by orders of magnitude, are scaled first."""
    columns = np.abs(matrix).max(axis=0)
    columns[columns == 0] = 1.0
    rows = np.abs(matrix / columns).max(axis=1)
    rows[rows == 0] = 1.0
    return np.asarray(np.linalg.pinv(matrix / columns / rows[:, None]) / columns[:, None] / rows)
