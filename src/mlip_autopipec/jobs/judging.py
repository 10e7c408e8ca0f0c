"""Labels are judged before they are trained on: new ones by the potential, the user's own by all others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.active_learning.calibration import grade_errors
from mlip_autopipec.jobs.check import CHECK
from mlip_autopipec.schemas.potential import FlaggedLabel, GradedLabel

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlip_autopipec.active_learning.outliers import FittedErrors, OutlierRule
    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.schemas.label import LabelDocument
    from mlip_autopipec.training.linear_record import LinearFitRecord

logger = logging.getLogger(__name__)


def has_unjudged(rule: OutlierRule | None, labels: Sequence[LabelDocument]) -> bool:
    """Return whether there are labels of the user's own, and enough others to judge them by."""
    if rule is None or len(labels) <= rule.min_labels:
        return False
    return any(label.origin == "given" for label in labels)


def judge_left_out(
    rule: OutlierRule | None, record: LinearFitRecord | None, labels: Sequence[LabelDocument], accepted: Collection[str]
) -> list[FlaggedLabel]:
    """Return the user's own labels that the others contradict; no potential was without them to judge them."""
    if rule is None or record is None:
        return []
    errors = record.labels[: len(labels)]
    found = rule.judge_left_out(
        np.array([-1e-3 * error.energy_meV_atom for error in errors]),
        np.array([1e-3 * error.forces_rmse_meV_A for error in errors]),
        np.array([one.largest_eV_A for one in record.surprises[: len(labels)]]),
        np.array([one[:3] for one in record.surprises[: len(labels)]]),
        np.array([one[4:] for one in record.surprises[: len(labels)]]),
    )
    aside = []
    for outlier in found:
        label, reasons = labels[outlier.index], list(outlier.reasons)
        if label.origin != "given" or label.uuid in accepted:
            continue
        logger.warning(
            "label %d of the dataset (%s) is flagged as an outlier and not trained on: %s",
            label.index,
            label.formula,
            "; ".join(reasons),
        )
        aside.append(FlaggedLabel(label_id=label.uuid, reasons=reasons))
    return aside


def judge_new(
    rule: OutlierRule | None,
    potential: ACEPotential | None,
    old: Sequence[LabelDocument],
    new: Sequence[LabelDocument],
    accepted: Collection[str],
    earlier_graded: Sequence[GradedLabel],
    fitted: FittedErrors | None,
) -> tuple[list[LabelDocument], list[GradedLabel], list[FlaggedLabel]]:
    """Measure the potential on new labels; return the accepted ones, all measurements, and the outliers."""
    if potential is None or not new or not potential.active_set_inverse:
        return list(new), [], []
    frames = [label.to_atoms() for label in new]
    errors = [grade_errors(potential, frame) for frame in frames]
    graded = [GradedLabel.of(label.uuid, found) for label, found in zip(new, errors, strict=True)]
    if rule is None:
        return list(new), graded, []
    earlier, others = [pair.to_graded() for pair in earlier_graded], [label.shared_atoms() for label in old]
    reasons = {
        found.index: list(found.reasons)
        for found in rule.judge(potential, frames, others, earlier, errors, fitted)
        if new[found.index].uuid not in accepted
    }
    checked = {i for i, label in enumerate(new) if label.split == CHECK}
    if 2 * len(checked & set(reasons)) >= len(checked):  # not some labels are wrong, the potential is
        reasons = {i: why for i, why in reasons.items() if i not in checked}
    for i, why in reasons.items():
        logger.warning("label %s is flagged as an outlier and not trained on: %s", new[i].uuid, "; ".join(why))
    aside = [FlaggedLabel(label_id=new[i].uuid, reasons=why) for i, why in reasons.items()]
    return [label for i, label in enumerate(new) if i not in reasons], graded, aside
