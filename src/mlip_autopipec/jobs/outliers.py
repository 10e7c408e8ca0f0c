"""Flagged outliers: labels that are stored, but not trained on until the user accepts them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import BaseModel

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.known import read_known
from mlip_autopipec.schemas.label import AdmissionDocument
from mlip_autopipec.schemas.potential import FlaggedLabel, GradedLabel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobflow import JobStore


class Judgement(BaseModel):
    """What a potential or a check says of labels that were new to it."""

    kind: str
    cycle: int
    graded: list[GradedLabel] | None = None
    quarantined: list[FlaggedLabel] | None = None


def read_judgements(campaign_id: str, store: JobStore, before_cycle: int | None = None) -> list[Judgement]:
    """
    Return what potentials and checks of a campaign say of labels, in the order of the cycles.

    Parameters
    ----------
    campaign_id
        The campaign.
    store
        A connected JobStore.
    before_cycle
        Leave out this cycle and later ones.
    """
    criteria = {"output.kind": {"$in": ["potential", "check"]}, "output.campaign_id": campaign_id}
    found = read_known(store, criteria, [f"output.{name}" for name in Judgement.model_fields], _judgement)
    return sorted((one for one in found if before_cycle is None or one.cycle < before_cycle), key=lambda one: one.cycle)


def _judgement(output: dict[str, Any]) -> list[Judgement]:
    return [Judgement.model_validate(output)]


def outliers_of(judgements: Sequence[Judgement]) -> dict[str, list[str]]:
    """Return all labels that trainings flagged as outliers, with the reasons; accepted ones are included."""
    trainings = [one for one in judgements if one.kind == "potential"]
    return {label.label_id: label.reasons for one in trainings for label in one.quarantined or ()}


def graded_of(judgements: Sequence[Judgement]) -> dict[str, GradedLabel]:
    """Return grade and force error of labels before they were trained on, by the uuid of the label."""
    # a label of a check is measured there, and again by the same potential when it is trained on
    return {label.label_id: label for one in judgements for label in one.graded or ()}


def read_outliers(campaign_id: str, store: JobStore, before_cycle: int | None = None) -> dict[str, list[str]]:
    """Return :func:`outliers_of` what :func:`read_judgements` finds."""
    return outliers_of(read_judgements(campaign_id, store, before_cycle))


def read_graded(campaign_id: str, store: JobStore) -> dict[str, GradedLabel]:
    """Return :func:`graded_of` what :func:`read_judgements` finds."""
    return graded_of(read_judgements(campaign_id, store))


def read_accepted(campaign_id: str, store: JobStore) -> set[str]:
    """Return the flagged labels of a campaign that the user has accepted."""
    criteria = {"output.kind": "admission", "output.campaign_id": campaign_id}
    return {doc["output"]["label_id"] for doc in store.query(criteria, ["output.label_id"])}


def accept(campaign_id: str, label_id: str, store: JobStore, why: str = "") -> None:
    """
    Accept a flagged label: the next training uses it.

    Parameters
    ----------
    campaign_id
        The campaign.
    label_id
        uuid of the label.
    store
        A connected JobStore.
    why
        Kept beside it.

    Raises
    ------
    InvalidInputError
        It is not a flagged outlier.
    """
    flagged = read_outliers(campaign_id, store)
    if label_id not in flagged:
        raise InvalidInputError(
            f"label '{label_id}' of campaign '{campaign_id}' is no flagged outlier; flagged are {sorted(flagged)}"
        )
    document = AdmissionDocument(uuid=str(uuid4()), campaign_id=campaign_id, label_id=label_id, why=why)
    stored = {
        "uuid": document.uuid,
        "index": 1,
        "output": document.model_dump(mode="json"),
        "metadata": {},
        "hosts": [],
    }
    # as jobflow writes it, with which it is compared: local time without a zone
    store.update({**stored, "completed_at": datetime.now().isoformat()}, ["uuid", "index"])  # noqa: DTZ005
