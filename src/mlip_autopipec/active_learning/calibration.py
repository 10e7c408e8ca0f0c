"""
Calibration of gamma: extrapolation grades of new labels against their true force errors.

Every new label is a test of the potential that asked for it, before it is trained on: each of its
atoms gives a pair of gamma and force error. Pairs of all cycles together tell whether the two go
together, and which threshold of gamma keeps the errors within a wished limit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.moved import dropped_fields
from mlip_autopipec.processes import in_one_thread
from mlip_autopipec.structures.distances import minimum_distances
from mlip_autopipec.structures.intake import raw_forces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

#: Fewer labels say nothing: atoms of one structure are not independent.
MIN_LABELS = 5
#: Gamma and errors (eV/A) below these are as good as these, or logarithms would be ruled by what is exact by symmetry.
_LEAST_GAMMA, _LEAST_ERROR = 1e-3, 1e-4
_BOOTSTRAPS = 200


@dataclass(frozen=True, eq=False)
class GradedErrors:
    """
    Grades and errors of one label, by the potential before it was trained on.

    Parameters
    ----------
    gamma
        Extrapolation grade of every atom.
    force_error
        Length of the error of the force on every atom in eV/A.
    energy_error
        Potential minus label in eV/atom.
    in_core
        A pair is inside the core repulsion, where gamma is not defined; MD halts there for another reason.
    expected
        Standard deviations of the energy (eV/atom) and of the forces (eV/A, root mean square over all components), and
        the factors for fresh labels that they contain; None of a potential without error bars.
    forces_error
        Root mean square error over all force components in eV/A.
    """

    gamma: NDArray[np.float64]
    force_error: NDArray[np.float64]
    energy_error: float
    in_core: bool = False
    expected: tuple[float, float, float, float] | None = None
    forces_error: float | None = None

    @property
    def worst(self) -> tuple[float, float]:
        """Largest grade and largest force error (eV/A) of the structure: what is stored of it."""
        return float(self.gamma.max()), float(self.force_error.max())


@in_one_thread
def grade_errors(potential: ACEPotential, label: Atoms) -> GradedErrors:
    """
    Compare a potential with a label that it was not trained on.

    Parameters
    ----------
    potential
        The potential before training on the label, with its active set.
    label
        A structure that carries its label (eV, eV/A) in an attached calculator.
    """
    if not potential.active_set_inverse:
        raise InvalidInputError("the potential has no active set, so gamma is unknown; give its .asi file")
    calculator = potential.calculator()
    calculator.calculate(label)
    results = calculator.results
    error = results["forces"] - raw_forces(label)
    expected = None
    if potential.posterior is not None:
        bars, fresh = potential.error_bars.of(label), potential.posterior.fresh
        expected = bars.energy / len(label), float(np.sqrt(np.mean(bars.forces**2))), fresh.energy, fresh.forces
    return GradedErrors(
        gamma=np.array(results["gamma"], dtype=float),
        force_error=np.linalg.norm(error, axis=1),
        energy_error=float(results["energy"] - label.get_potential_energy()) / len(label),
        in_core=is_in_core(potential, label),
        expected=expected,
        forces_error=float(np.sqrt(np.mean(error**2))),
    )


def is_in_core(potential: ACEPotential, atoms: Atoms) -> bool:
    """Tell whether a pair of a structure is inside the core repulsion of a potential."""
    core = potential.core_radii
    shortest = minimum_distances(atoms, max(core.values()) + 0.1) if core else {}
    return any(distance < core[pair] for pair, distance in shortest.items())


@dataclass(frozen=True)
class Calibration(MSONable):
    """
    Calibration of gamma by the labels so far.

    Parameters
    ----------
    n_labels, n_atoms
        Labels and atoms it rests on.
    wished_error
        Wished force error in eV/A.
    spearman, log_pearson
        Rank correlation, and correlation of the logarithms, of gamma and force error over all
        atoms; None with too few labels, or if one of the two is the same for all.
    threshold
        The largest gamma up to which the error that is exceeded by ``1 - quantile`` of the atoms stayed
        within the wished one; None with too few labels, or if there is none.
    threshold_low, threshold_high
        From where to where nine of ten resamplings of the labels put it.
    quantile
        Share of the atoms whose error has to be within the wished one.
    beyond
        True if no error was large enough: the threshold is then the largest gamma of the labels,
        and the true one is higher.
    why
        Why there is no threshold.
    """

    n_labels: int
    n_atoms: int
    wished_error: float
    spearman: float | None = None
    log_pearson: float | None = None
    threshold: float | None = None
    threshold_low: float | None = None
    threshold_high: float | None = None
    quantile: float = 0.9
    beyond: bool = False
    why: str | None = None

    def as_plain(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def calibrate(
    pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]] | GradedErrors],
    wished_error: float,
    *,
    quantile: float = 0.9,
    seed: int = 0,
) -> Calibration:
    """
    Relate gamma to the force error over all labels.

    Parameters
    ----------
    pairs
        For each label the grades and the force errors (eV/A) of its atoms, or one pair of it:
        its largest grade and largest error. Labels with a pair inside the core are left out.
    wished_error
        Largest force error in eV/A that one is ready to bear.
    quantile
        So much of the atoms of a grade has to be within that error.
    seed
        Of the resampling.

    Notes
    -----
    Isotonic regression of the logarithm of the error on that of gamma, raised by the quantile
    of its residuals, crosses the wished error at the threshold. Labels, not atoms, are
    resampled: atoms of one structure are not independent.
    """
    if not wished_error > 0 or not 0 < quantile < 1:
        raise InvalidInputError(f"wished_error is {wished_error} eV/A, quantile {quantile}; give > 0 and within (0, 1)")
    logs = [_logarithms(p) for p in pairs if not (isinstance(p, GradedErrors) and p.in_core)]
    n_atoms = sum(len(g) for g, _ in logs)
    if len(logs) < MIN_LABELS:
        why = f"{len(logs)} labels, at least {MIN_LABELS} are needed"
        return Calibration(len(logs), n_atoms, wished_error, quantile=quantile, why=why)
    gamma, error = (np.concatenate(x) for x in zip(*logs, strict=True))
    # here, since it takes a second to import
    from scipy.stats import pearsonr, spearmanr

    alike = np.ptp(gamma) < 1e-12 or np.ptp(error) < 1e-12
    found, beyond = _crossing(gamma, error, np.log(wished_error), quantile)
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(_BOOTSTRAPS):
        drawn = [logs[k] for k in rng.integers(len(logs), size=len(logs))]
        some_gamma, some_error = (np.concatenate(x) for x in zip(*drawn, strict=True))
        crossing, _ = _crossing(some_gamma, some_error, np.log(wished_error), quantile)
        # no threshold means one below all labels
        samples.append(-np.inf if crossing is None else crossing)
    low, high = np.exp(np.quantile(samples, (0.05, 0.95), method="nearest"))
    return Calibration(
        n_labels=len(logs),
        n_atoms=n_atoms,
        wished_error=wished_error,
        spearman=None if alike else float(spearmanr(gamma, error).statistic),
        log_pearson=None if alike else float(pearsonr(gamma, error).statistic),
        threshold=None if found is None else float(np.exp(found)),
        threshold_low=None if found is None else float(low),
        threshold_high=None if found is None else float(high),
        quantile=quantile,
        beyond=beyond,
        why=f"errors exceed {wished_error:g} eV/A at every gamma of the labels" if found is None else None,
    )


@dropped_fields("quantile")
@dataclass
class ThresholdAdapter(MSONable):
    """
    Adapts the threshold at which MD halts to the calibration of gamma.

    Parameters
    ----------
    wished_error
        Wished limit of the force error of atoms in MD, in eV/A.
    bounds
        Smallest and largest upper threshold.
    max_change
        Largest factor by which a threshold changes from one cycle to the next.
    """

    wished_error: float = 0.2
    bounds: tuple[float, float] = (2.0, 25.0)
    max_change: float = 1.5

    #: See :func:`calibrate`.
    quantile: ClassVar[float] = 0.9

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        low, high = self.bounds
        if not 1 < low <= high:
            raise InvalidInputError.of(
                "ThresholdAdapter.bounds", f"is {self.bounds}; give two numbers above 1, smallest first"
            )
        if not self.wished_error > 0 or not self.max_change > 1:
            raise InvalidInputError(
                f"ThresholdAdapter: wished_error {self.wished_error}, max_change {self.max_change}; give > 0 and > 1"
            )
        self.bounds = (float(low), float(high))

    def adapt_to(
        self, pairs: Sequence[GradedErrors], gamma_lo: float, gamma_hi: float, explosion: float = np.inf
    ) -> tuple[float, float]:
        """Return new thresholds after labels graded ``pairs``, below the grade of an ``explosion``."""
        calibration = calibrate(pairs, self.wished_error, quantile=self.quantile)
        low, high = self.adapt(gamma_lo, gamma_hi, calibration)
        return min(low, explosion), min(high, explosion)

    def adapt(self, gamma_lo: float, gamma_hi: float, calibration: Calibration) -> tuple[float, float]:
        """
        Return new thresholds of gamma; their ratio is kept.

        The lower end of what resampling gave is aimed at: few labels make careful. With too few
        nothing changes; where no error was too large the thresholds do not fall.
        """
        if calibration.n_labels < MIN_LABELS:
            return gamma_lo, gamma_hi
        target = self.bounds[0] if calibration.threshold_low is None else calibration.threshold_low
        if calibration.beyond:
            target = max(target, gamma_hi)
        target = float(np.clip(target, gamma_hi / self.max_change, gamma_hi * self.max_change))
        new_hi = float(np.clip(target, *self.bounds))
        # frames between the thresholds are what candidates are taken from: always some room, never below 1
        return min(max(gamma_lo * new_hi / gamma_hi, 1.01), 0.9 * new_hi), new_hi


def _logarithms(
    pair: tuple[NDArray[np.float64], NDArray[np.float64]] | GradedErrors,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gamma, error = (pair.gamma, pair.force_error) if isinstance(pair, GradedErrors) else pair
    gamma, error = np.atleast_1d(np.asarray(gamma, float)), np.atleast_1d(np.asarray(error, float))
    if gamma.shape != error.shape or not (np.isfinite(gamma).all() and np.isfinite(error).all()):
        raise InvalidInputError(
            f"grades of shape {gamma.shape} and errors of shape {error.shape} are not finite pairs of equal shape"
        )
    return np.log(np.maximum(gamma, _LEAST_GAMMA)), np.log(np.maximum(error, _LEAST_ERROR))


def _crossing(
    gamma: NDArray[np.float64], error: NDArray[np.float64], wished: float, quantile: float
) -> tuple[float | None, bool]:
    """Return log gamma where the quantile of log error reaches ``wished``, and whether it never did."""
    from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression().fit(gamma, error)
    margin = np.quantile(error - regression.predict(gamma), quantile)
    # where the regression has its corners; between them it is straight
    centres, levels = regression.X_thresholds_, regression.y_thresholds_ + margin
    if levels[-1] <= wished:
        return float(gamma.max()), True
    if levels[0] > wished:
        return None, False
    above = int(np.flatnonzero(levels > wished)[0])
    share = (wished - levels[above - 1]) / (levels[above] - levels[above - 1])
    return float(centres[above - 1] + share * (centres[above] - centres[above - 1])), False
