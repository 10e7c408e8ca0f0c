"""What a fit and a training return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.active_learning.spread import FittedErrors
    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.training.accuracy import ErrorMetrics, Prediction
    from mlip_autopipec.training.linear_record import LinearFitRecord


class LossPoint(NamedTuple):
    """The loss after an iteration, with its share of energies and of forces (the rest is regularisation)."""

    iteration: int
    total: float
    energy: float
    forces: float


@dataclass(frozen=True)
class FitProgress:
    """
    How an iterative fit went.

    Parameters
    ----------
    n_iterations
        Of the optimiser, over all steps of a ladder.
    history
        The loss at the start, along the way (thinned) and at the end.
    converged
        Whether the optimiser said so; None where it said nothing.
    message
        Why the optimiser stopped, in its own words.
    device
        "cpu", or the GPU.
    teacher_factor
        What the energies and forces of the teacher are multiplied by in the fit that it began at; None without one.
    """

    n_iterations: int
    history: tuple[LossPoint, ...]
    converged: bool | None
    message: str
    device: str
    teacher_factor: float | None = None


@dataclass(frozen=True)
class Refit:
    """
    What a refit from scratch beside a fine-tune gave.

    Parameters
    ----------
    kept
        Which of the two potentials was kept.
    judged_on
        The set whose loss decided.
    fine_tune_loss, refit_loss
        That loss in eV^2; NaN for a refit that failed.
    fine_tune, refit
        Errors on that set; None for a refit that failed.
    failure
        Why the refit failed.
    """

    kept: Literal["fine-tune", "refit"]
    judged_on: Literal["test", "train"]
    fine_tune_loss: float
    refit_loss: float
    fine_tune: ErrorMetrics
    refit: ErrorMetrics | None
    failure: str | None = None


class Fit(NamedTuple):
    """
    What :meth:`ACETrainer.fit` returns: the potential, the log, and how it went.

    A potential that has an active set keeps it; else that of all labels is built. A fit that knows what the potential
    says of each label, in their order, tells it; else the potential is evaluated.
    """

    potential: ACEPotential
    log: str
    progress: FitProgress | None = None
    linear: LinearFitRecord | None = None
    predicted: Sequence[Prediction] | None = None


@dataclass(frozen=True)
class TrainingResult:
    """
    A trained potential and the proof that it was trained.

    Parameters
    ----------
    potential
        With the active set of all training structures.
    train, test
        Errors on the training set, without its dimers, and on the held-out set (None without one).
    new_before, new_after
        Errors on the labels bought last, by the potential before and after training: the
        honest test error of the old potential, and what training on them gained.
    coefficients_moved
        Relative change of the coefficients, ``|c - c_old| / |c_old|``; None for a first fit.
    seconds
        Wall time of the fit.
    log
        What the fit printed.
    progress
        How the fit went; None for a fit in closed form.
    refit
        What a refit from scratch gave, where one was due.
    linear
        What a linear fit chose, its errors of labels left out and its posterior.
    fitted
        How the errors on the training set are spread, which new labels will be judged by.
    """

    potential: ACEPotential
    train: ErrorMetrics
    test: ErrorMetrics | None
    new_before: ErrorMetrics | None
    new_after: ErrorMetrics | None
    coefficients_moved: float | None
    seconds: float
    log: str = ""
    progress: FitProgress | None = None
    refit: Refit | None = None
    linear: LinearFitRecord | None = None
    fitted: FittedErrors | None = None
