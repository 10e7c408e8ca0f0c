"""A refit from reset coefficients beside a fine-tune, and which of the two is kept."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from mlip_autopipec.training.results import Refit

if TYPE_CHECKING:
    from mlip_autopipec.training.accuracy import ErrorMetrics
    from mlip_autopipec.training.results import TrainingResult


def better_of(
    tuned: TrainingResult, refitted: TrainingResult | None, kappa: float, failure: str | None = None
) -> TrainingResult:
    """
    Return the result with the lower loss on the test set, or without one on the training set.

    Parameters
    ----------
    tuned, refitted
        Of the fine-tune and of the refit; None if that failed.
    kappa
        Share of the forces in the loss.
    failure
        Why the refit failed.
    """

    def loss(errors: ErrorMetrics | None) -> float:
        return math.nan if errors is None else errors.loss(kappa)

    errors = tuned.test or tuned.train
    others = None if refitted is None else (refitted.test or refitted.train)
    better = refitted is not None and loss(others) < loss(errors)
    kept = refitted if refitted is not None and better else tuned
    refit = Refit(
        kept="refit" if better else "fine-tune",
        judged_on="train" if tuned.test is None else "test",
        fine_tune_loss=loss(errors),
        refit_loss=loss(others),
        fine_tune=errors,
        refit=others,
        failure=failure,
    )
    seconds = tuned.seconds + (0.0 if refitted is None else refitted.seconds)
    return replace(kept, refit=refit, seconds=seconds)
