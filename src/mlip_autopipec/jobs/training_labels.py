"""Which labels of a campaign a training is on, and which of them are new to the potential."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from mlip_autopipec.jobs.base import current_store
from mlip_autopipec.jobs.check import CHECK
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.outliers import graded_of, outliers_of, read_judgements

if TYPE_CHECKING:
    from mlip_autopipec.schemas.label import LabelDocument
    from mlip_autopipec.schemas.potential import GradedLabel, PotentialDocument

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingLabels:
    """
    The labels of a campaign in one training.

    Parameters
    ----------
    every
        All of them, isolated atoms among them, without outliers.
    old, new
        Those to train on: known to the potential that training continues from, and not; in a fit from scratch all are
        old. Labels of a check are trained on in the next training.
    test
        Held out.
    accepted, just_accepted
        uuids of outliers that the user accepted; those that the potential has not been trained on.
    graded
        Grades and errors of labels before they were trained on, of earlier cycles.
    """

    every: Sequence[LabelDocument]
    old: Sequence[LabelDocument]
    new: Sequence[LabelDocument]
    test: Sequence[LabelDocument]
    accepted: Collection[str]
    just_accepted: Collection[str]
    graded: Sequence[GradedLabel]

    @classmethod
    def read(
        cls, campaign_id: str, cycle: int, new_cycle: int | None, parent: PotentialDocument | None, earlier: bool
    ) -> TrainingLabels:
        """
        Read them from the store of the present job.

        Parameters
        ----------
        campaign_id, cycle
            Labels of later cycles are left out.
        new_cycle
            The cycle whose labels are new; None where no label is.
        parent
            The potential that training continues from.
        earlier
            Whether that cycle has been trained on before. Then new are the outliers accepted since, or, without any,
            the labels of its check.
        """
        judgements = read_judgements(campaign_id, current_store(), cycle)
        flagged = outliers_of(judgements)
        every = read_labels(campaign_id, last_cycle=cycle, flagged=flagged)
        train = [label for label in every if label.split in ("train", CHECK)]
        test = [label for label in every if label.split == "test"]
        warn_of_mixed_settings([*train, *test])
        accepted = {label.uuid for label in train if label.uuid in flagged}
        just_accepted = accepted - set([] if parent is None else parent.let_in)

        def is_new(label: LabelDocument) -> bool:
            if new_cycle is None:
                return False
            if label.uuid in accepted:
                return label.uuid in just_accepted
            if label.origin == "given":  # no potential of this campaign was without the user's own
                return False
            # the others of an earlier batch were trained on, unless they are of a check
            return label.cycle == new_cycle and not (earlier and just_accepted)

        old, new = [label for label in train if not is_new(label)], [label for label in train if is_new(label)]
        return cls(every, old, new, test, accepted, just_accepted, list(graded_of(judgements).values()))


def digest(labels: Sequence[LabelDocument]) -> str:
    """Return the same for the same set of labels, in whatever order; energies may be shifted to another oracle's."""
    told = sorted(f"{label.uuid} {label.cycle} {label.index} {label.energy_eV!r}" for label in labels)
    return sha256("\n".join(told).encode()).hexdigest()


def warn_of_mixed_settings(labels: Sequence[LabelDocument]) -> None:
    """Say in the log which labels were computed otherwise than the first one: workers may differ in their settings."""
    known = [label for label in labels if label.computed_with is not None]
    for label in known[1:]:
        first, other = known[0].computed_with, label.computed_with
        if first is not None and other is not None and (differences := first.conflicts(other)):
            logger.warning(
                "label %s was computed with other settings than %s: %s",
                label.uuid,
                known[0].uuid,
                "; ".join(differences),
            )
