"""Flagged outliers: labels that are stored, but not trained on until the user accepts them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.schemas.label import AdmissionDocument
from mlip_autopipec.schemas.potential import FlaggedLabel

if TYPE_CHECKING:
    from jobflow import JobStore


def read_outliers(campaign_id: str, store: JobStore, before_cycle: int | None = None) -> dict[str, list[str]]:
    """
    Return all labels of a campaign that were ever flagged as outliers, with the reasons; accepted ones are included.

    Parameters
    ----------
    campaign_id
        The campaign.
    store
        A connected JobStore.
    before_cycle
        Leave out what trainings of this cycle and later ones found.
    """
    criteria: dict[str, Any] = {"output.kind": "potential", "output.campaign_id": campaign_id}
    if before_cycle is not None:
        criteria["output.cycle"] = {"$lt": before_cycle}
    found = store.query(criteria, ["output.quarantined"])
    labels = [FlaggedLabel.model_validate(q) for doc in found for q in doc["output"].get("quarantined") or ()]
    return {label.label_id: label.reasons for label in labels}


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
