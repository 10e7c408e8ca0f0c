"""Labels are judged before they are trained on: new ones by the potential, the user's own by all others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.active_learning.calibration import grade_errors
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.check import CHECK
from mlip_autopipec.schemas.potential import FlaggedLabel, GradedLabel
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.training.accuracy import evaluate

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlip_autopipec.active_learning.outliers import OutlierRule
    from mlip_autopipec.active_learning.spread import FittedErrors
    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.schemas.label import LabelDocument
    from mlip_autopipec.training.linear_record import LinearFitRecord

logger = logging.getLogger(__name__)

#: A fit to labels leaves 2 to 40 % of their forces, and more than 80 % of forces that belong to other structures; so
#: many labels with forces above this (eV/A), and functions, are needed to say so.
_UNEXPLAINED, _EXPLAINED, _FEWEST, _LARGE_EV_A, _ENOUGH_FUNCTIONS = 0.8, 0.4, 6, 0.3, 20


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


def judge_unexplained(
    potential: ACEPotential, labels: Sequence[LabelDocument], accepted: Collection[str]
) -> list[FlaggedLabel]:
    """
    Return the user's own labels whose forces a potential that is fitted to them, too, does not explain.

    Of forces that belong to another structure, or to other atoms of theirs, a fit leaves as much as there is. Where
    many labels are like that, none stands out from the others, but the sound ones are explained.

    Parameters
    ----------
    potential
        Fitted to all labels.
    labels
        Those.
    accepted
        uuids of those the user let in, or that are flagged already.

    Raises
    ------
    InvalidInputError
        It explains hardly any.
    """
    own = [label for label in labels if label.origin == "given" and label.uuid not in accepted]
    if len(own) < _FEWEST or min(potential.n_functions.values()) < _ENOUGH_FUNCTIONS:
        return []
    frames = [label.shared_atoms() for label in own]
    left: list[tuple[float, LabelDocument]] = []
    for label, frame, predicted in zip(own, frames, evaluate(potential, frames), strict=True):
        forces = raw_forces(frame)
        if (size := float(np.sqrt(np.mean(forces**2)))) > _LARGE_EV_A:
            left.append((float(np.sqrt(np.mean((predicted.forces - forces) ** 2))) / size, label))
    if len(left) < _FEWEST:
        return []
    usual = float(np.median([share for share, _ in left]))
    if usual > _UNEXPLAINED:
        raise InvalidInputError(
            f"the forces of the dataset are not those of its structures: of the median label a fit leaves {usual:.0%}. "
            "See whether structures, the order of atoms, or forces of several runs were mixed up"
        )
    aside = []
    for share, label in left:
        if share <= _UNEXPLAINED or usual > _EXPLAINED:
            continue
        reason = f"a fit to all labels, it among them, leaves {share:.0%} of its forces, and {usual:.0%} of the usual"
        logger.warning(
            "label %d of the dataset (%s) is flagged as an outlier and not trained on: %s",
            label.index,
            label.formula,
            reason,
        )
        aside.append(FlaggedLabel(label_id=label.uuid, reasons=[reason]))
    return aside


def judge_new(
    rule: OutlierRule | None,
    potential: ACEPotential | None,
    old: Sequence[LabelDocument],
    new: Sequence[LabelDocument],
    accepted: Collection[str],
    earlier_graded: Sequence[GradedLabel],
    fitted: FittedErrors | None,
    left_out: FittedErrors | None = None,
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
        for found in rule.judge(potential, frames, others, earlier, errors, fitted, left_out)
        if new[found.index].uuid not in accepted
    }
    checked = {i for i, label in enumerate(new) if label.split == CHECK}
    if 2 * len(checked & set(reasons)) >= len(checked):  # not some labels are wrong, the potential is
        reasons = {i: why for i, why in reasons.items() if i not in checked}
    for i, why in reasons.items():
        logger.warning("label %s is flagged as an outlier and not trained on: %s", new[i].uuid, "; ".join(why))
    aside = [FlaggedLabel(label_id=new[i].uuid, reasons=why) for i, why in reasons.items()]
    return [label for i, label in enumerate(new) if i not in reasons], graded, aside
