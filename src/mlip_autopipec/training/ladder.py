"""A ladder of nested bases: the one with the best error on structures left out is taken."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlip_autopipec.training.regression import Factorisation, LeftOut, prior_scale, triangle_of
from mlip_autopipec.training.weights import ErrorsByKind, errors_by_kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.training.design import BasisFunction, Design
    from mlip_autopipec.training.weights import FitWeights

#: Functions per element of the rungs.
RUNGS = (10, 20, 30, 45, 70, 100, 150, 220, 320, 450, 600, 750, 900)
#: Basis functions of all elements together that a ladder goes up to.
MOST_FUNCTIONS = 900
#: Functions of each element that it goes up to however many elements there are.
MOST_OF_EACH = 220
#: A larger basis has to lower the error by this factor, so that the size does not change with every few labels.
MARGIN = 0.02
#: Atoms of an element for each function of it: an active set needs more atoms than functions.
ATOMS_PER_FUNCTION = 2.0


class Rung(NamedTuple):
    """
    One basis of a ladder, fitted.

    Parameters
    ----------
    n_functions
        Functions per element asked for.
    strength
        Strength of the ridge.
    score
        Geometric mean of the mean absolute errors of structures left out, each divided by what it is worth.
        Squares of the errors would let the few structures that are like no other choose the basis.
    errors
        Root mean square errors of structures left out.
    """

    n_functions: int
    strength: float
    score: float
    errors: ErrorsByKind


@dataclass(frozen=True)
class FittedRung:
    """A rung with its decomposition and the residuals of structures left out."""

    rung: Rung
    factorisation: Factorisation
    left_out: LeftOut
    functions: tuple[BasisFunction, ...]

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Coefficients, (n_functions,), in the order of ``functions``."""
        return self.factorisation.coefficients(self.rung.strength)

    def columns(self, functions: Sequence[BasisFunction]) -> NDArray[np.intp]:
        """Return where the given functions are in the order of the fit."""
        place = {function: i for i, function in enumerate(self.functions)}
        return np.array([place[function] for function in functions], dtype=np.intp)


def rungs_within(atoms_of: Mapping[str, int], least: int = 0) -> list[int]:
    """
    Return the sizes that the data allow, in functions per element.

    Parameters
    ----------
    atoms_of
        Atoms of each element in all labels.
    least
        Sizes below this are left out, but for the smallest allowed one.
    """
    limit = min(min(atoms_of.values()) / ATOMS_PER_FUNCTION, max(MOST_FUNCTIONS / len(atoms_of), MOST_OF_EACH))
    allowed = [n for n in RUNGS if n <= limit] or [RUNGS[0]]
    return [n for n in allowed if n >= least] or [max(allowed[-1], least)]


def fit_rung(
    design: Design,
    functions: Sequence[BasisFunction],
    n_functions: int,
    weights: FitWeights,
    unit: NDArray[np.float64],
    judged: NDArray[np.bool_],
    leave_out: bool = True,
) -> FittedRung:
    """
    Fit some of the columns of a design matrix; the ridge is that of largest evidence.

    Parameters
    ----------
    design
        Of a basis that holds ``functions``.
    functions, n_functions
        The columns, and how many of them an element has.
    weights
        What an error is worth.
    unit
        The same by row, with the weights of the labels, (n_rows,).
    judged
        Rows whose errors count, (n_rows,).
    leave_out
        Compute the errors of structures left out; else those of the fit take their place.
    """
    matrix = np.take(design.matrix, design.columns(functions), axis=1) / unit[:, None]
    return _fit(matrix, None, design, functions, n_functions, weights, unit, judged, leave_out)


def _fit(
    matrix: NDArray[np.float64],
    triangle: NDArray[np.float64] | None,
    design: Design,
    functions: Sequence[BasisFunction],
    n_functions: int,
    weights: FitWeights,
    unit: NDArray[np.float64],
    judged: NDArray[np.bool_],
    leave_out: bool,
) -> FittedRung:
    """Fit the weighted columns of some functions; see :func:`fit_rung`."""
    factorisation = Factorisation.of(matrix, design.target / unit, design.blocks, prior_scale(functions), triangle)
    strength = factorisation.evidence_strength()
    left_out = factorisation.leave_out(strength) if leave_out else factorisation.fitted(strength)
    residuals, kind = (left_out.residuals * unit)[judged], design.kind[judged]
    score = _score(errors_by_kind(residuals, kind, power=1), weights)
    return FittedRung(
        Rung(n_functions, strength, score, errors_by_kind(residuals, kind)), factorisation, left_out, tuple(functions)
    )


def _score(errors: ErrorsByKind, weights: FitWeights) -> float:
    """Relative progress in each kind counts the same, however far it is from what an error is worth."""
    worth = (weights.energy_meV_atom, weights.forces_meV_A, weights.stress_GPa)
    parts = [max(e / w, 1e-9) for e, w in zip(errors, worth, strict=True) if e is not None]
    score = float(np.exp(np.mean(np.log(parts))))
    return score if np.isfinite(score) else np.inf


def climb(
    design: Design,
    bases: Mapping[int, Sequence[BasisFunction]],
    weights: FitWeights,
    unit: NDArray[np.float64],
    judged: NDArray[np.bool_],
) -> tuple[FittedRung, list[Rung]]:
    """
    Fit bases from small to large and return the one to take, and all that were tried.

    Parameters
    ----------
    design
        Of the largest basis.
    bases
        Functions of each basis by its functions per element.
    weights, unit, judged
        As for :func:`fit_rung`.

    Returns
    -------
    tuple
        The smallest basis whose error is within :data:`MARGIN` of the best, and the rungs climbed.
    """
    climbed: list[Rung] = []
    fitted: list[FittedRung] = []
    # each basis begins with the functions of the one before: one decomposition serves all
    order = {n: list(dict.fromkeys(f for m in sorted(bases) if m <= n for f in bases[m])) for n in bases}
    matrix = np.take(design.matrix, design.columns(order[max(bases)]), axis=1) / unit[:, None]
    triangle = triangle_of(matrix)
    for n in sorted(bases):
        found = _fit(matrix[:, : len(order[n])], triangle, design, order[n], n, weights, unit, judged, leave_out=True)
        climbed.append(found.rung)
        best = min(rung.score for rung in climbed)
        # matrices as large as the design: keep what can still be taken
        fitted = [f for f in [*fitted, found] if f.rung.score <= (1 + MARGIN) * best]
    return fitted[0], climbed


def md_cost(potential: ACEPotential, frames: Sequence[Atoms], repeats: int = 3) -> float:
    """
    Measure the cost of energy and forces by pyace on this machine, in microseconds per atom and step.

    Parameters
    ----------
    frames
        The largest of them is evaluated.
    """
    from pyace import ACEBEvaluator, ACECalculator
    from pyace.atomicenvironment import aseatoms_to_atomicenvironment

    atoms = max(frames, key=len).copy()
    basis = potential.basis
    evaluator = ACEBEvaluator(basis)
    calculator = ACECalculator(evaluator)
    environment = aseatoms_to_atomicenvironment(
        atoms, cutoff=potential.cutoff, elements_mapper_dict=basis.elements_to_index_map
    )
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        calculator.compute(environment, compute_projections=False, compute_b_grad=False)
        seconds.append(time.perf_counter() - started)
    return 1e6 * min(seconds) / len(atoms)
