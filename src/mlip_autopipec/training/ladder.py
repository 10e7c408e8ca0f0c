"""A ladder of nested bases: the one of largest evidence is taken."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlip_autopipec.structures.periodicity import boxed_if_mixed
from mlip_autopipec.training.regression import Factorisation, Reduced, prior_scale, reduce

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.training.design import BasisFunction, Design

#: Functions per element of the rungs.
RUNGS = (10, 20, 30, 45, 70, 100, 150, 220, 320, 450, 600, 750, 900, 1200)
#: Basis functions of all elements together that a ladder goes up to.
MOST_FUNCTIONS = 1200
#: And of three or four elements: functions of one degree are so many more with them. Acetylacetone, 500 DFT labels: 48
#: meV/A with 320 functions of each element, 28 with 750. With two elements twice as many did little (liquid water: 49
#: and 45 meV/A), and with seven (98 and 96).
MOST_OF_SEVERAL, _SEVERAL = 2400, (3, 4)
#: Functions of each element that it goes up to however many elements there are.
MOST_OF_EACH = 320
#: The logarithm of the evidence of a larger basis has to be larger by this much.
MARGIN = 5.0
#: Functions of each element for each atom of the labels, of whatever element: the more elements, the more functions it
#: takes to tell environments apart, and the ridge holds those of a rare element. With one element more than this made
#: energies of molybdenum worse from 20 labels; with two, less than this cost copper-gold half its accuracy.
FUNCTIONS_PER_ATOM = 0.6


class Rung(NamedTuple):
    """
    One basis of a ladder, fitted.

    Parameters
    ----------
    n_functions
        Functions per element asked for.
    strength
        Strength of the ridge.
    log_evidence
        Logarithm of the evidence. Squared errors of structures left out would let the few that are like no other
        choose the basis, and their mean absolute errors prefer bases that are too small for few labels.
    """

    n_functions: int
    strength: float
    log_evidence: float


@dataclass(frozen=True)
class FittedRung:
    """A rung with its decomposition."""

    rung: Rung
    factorisation: Factorisation
    functions: tuple[BasisFunction, ...]

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Coefficients, (n_functions,), in the order of ``functions``."""
        return self.factorisation.coefficients(self.rung.strength)

    def placed(self, values: NDArray[np.float64], functions: Sequence[BasisFunction]) -> NDArray[np.float64]:
        """Return values of the fit's functions, (n, ...), in the order of others; zero of those that it has not."""
        place = {function: i for i, function in enumerate(functions)}
        found = np.zeros((len(functions), *values.shape[1:]))
        found[[place[function] for function in self.functions]] = values
        return found


def atoms_of(labels: Sequence[Atoms]) -> dict[str, int]:
    """Count the atoms of each element in all labels."""
    return dict(Counter(symbol for label in labels for symbol in label.get_chemical_symbols()))


def rungs_within(atoms: Mapping[str, int], most: int | None = None) -> list[int]:
    """
    Return the sizes that the data allow, in functions per element.

    Parameters
    ----------
    atoms
        Atoms of each element in all labels.
    most
        Larger sizes are left out, but for the smallest.
    """
    together = MOST_OF_SEVERAL if len(atoms) in _SEVERAL else MOST_FUNCTIONS
    limit = min(FUNCTIONS_PER_ATOM * sum(atoms.values()), max(together / len(atoms), MOST_OF_EACH))
    return [n for n in RUNGS if n <= limit and (most is None or n <= most)] or [RUNGS[0]]


def fit_rung(
    design: Design, functions: Sequence[BasisFunction], n_functions: int, unit: NDArray[np.float64]
) -> FittedRung:
    """
    Fit some of the columns of a design matrix; the ridge is that of largest evidence.

    Parameters
    ----------
    design
        Of a basis that holds ``functions``.
    functions, n_functions
        The columns, and how many of them an element has.
    unit
        What an error is worth by row, with the weights of the labels, (n_rows,).
    """
    return _fit(_Weighted(design, design.columns(functions), unit), None, functions, n_functions)


def log_probability(design: Design, functions: Sequence[BasisFunction], unit: NDArray[np.float64]) -> float:
    """
    Return the logarithm of the evidence of a fit, comparable between fits with different units.

    Parameters
    ----------
    design, functions, unit
        As for :func:`fit_rung`.
    """
    # the evidence is that of targets in units of what an error is worth
    return fit_rung(design, functions, 0, unit).rung.log_evidence - float(np.sum(np.log(unit)))


def log_score(design: Design, functions: Sequence[BasisFunction], unit: NDArray[np.float64]) -> float:
    """
    Return how well a basis suits the labels: the mean of two logarithms of probabilities.

    The evidence is that of all labels; it asks how probable the first of them are to a fit that has seen none, and for
    many elements takes a basis that is too small or short. What all others say of each label
    (:meth:`~mlip_autopipec.training.regression.Factorisation.log_predictive`) does not; of frames of one MD it is too
    sure, and takes a basis that other arrangements of the elements are not fitted by. Comparable between fits with
    different units.

    Parameters
    ----------
    design, functions, unit
        As for :func:`fit_rung`.
    """
    fitted = fit_rung(design, functions, 0, unit)
    by_others = fitted.factorisation.log_predictive(fitted.rung.strength)
    return 0.5 * (fitted.rung.log_evidence + by_others) - float(np.sum(np.log(unit)))


@dataclass(frozen=True)
class _Weighted:
    """Some columns of a design in units of what an error is worth, made where they are looked at."""

    design: Design
    place: NDArray[np.intp]
    unit: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.unit), len(self.place)

    @property
    def target(self) -> NDArray[np.float64]:
        return self.design.target / self.unit

    def __getitem__(self, rows: slice) -> NDArray[np.float64]:
        part = self.design.part(rows, self.place)
        part /= self.unit[rows, None]
        return part

    def first(self, n: int) -> _Weighted:
        return replace(self, place=self.place[:n])


def _fit(
    matrix: _Weighted, reduced: Reduced | None, functions: Sequence[BasisFunction], n_functions: int
) -> FittedRung:
    """Fit the weighted columns of some functions; see :func:`fit_rung`."""
    blocks = matrix.design.blocks
    factorisation = Factorisation.of(matrix, matrix.target, blocks, prior_scale(functions), reduced)
    return FittedRung(Rung(n_functions, *factorisation.evidence()), factorisation, tuple(functions))


def climb(
    design: Design, bases: Mapping[int, Sequence[BasisFunction]], unit: NDArray[np.float64]
) -> tuple[FittedRung, list[Rung]]:
    """
    Fit bases from small to large and return the one to take, and all that were tried.

    Parameters
    ----------
    design
        Of the largest basis.
    bases
        Functions of each basis by its functions per element.
    unit
        As for :func:`fit_rung`.

    Returns
    -------
    tuple
        The smallest basis whose evidence is within :data:`MARGIN` of the largest, and the rungs climbed.
    """
    climbed: list[Rung] = []
    fitted: list[FittedRung] = []
    # each basis begins with the functions of the one before: one decomposition serves all
    order = {n: list(dict.fromkeys(f for m in sorted(bases) if m <= n for f in bases[m])) for n in bases}
    matrix = _Weighted(design, design.columns(order[max(bases)]), unit)
    reduced = reduce(matrix, matrix.target)
    for n in sorted(bases):
        found = _fit(matrix.first(len(order[n])), reduced, order[n], n)
        climbed.append(found.rung)
        best = max(rung.log_evidence for rung in climbed)
        fitted = [f for f in [*fitted, found] if f.rung.log_evidence >= best - MARGIN]
    return fitted[0], climbed


def md_cost(potential: ACEPotential, frames: Sequence[Atoms], repeats: int = 5) -> float:
    """
    Measure the cost of energy and forces by pyace on this machine, in microseconds per atom and step.

    Parameters
    ----------
    frames
        The largest of them is evaluated.
    """
    from pyace import ACEBEvaluator, ACECalculator
    from pyace.atomicenvironment import aseatoms_to_atomicenvironment

    atoms = boxed_if_mixed(max(frames, key=len)).copy()
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
