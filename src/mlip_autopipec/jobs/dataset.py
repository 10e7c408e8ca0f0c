"""All labels of a campaign, read from the store: the dataset is a query, not a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlip_autopipec.frames import unpack_frames
from mlip_autopipec.jobs.base import current_store, current_uuid, loop_job
from mlip_autopipec.schemas.label import DatasetDocument, LabelDocument
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import StructuresDocument

if TYPE_CHECKING:
    from jobflow import JobStore


def read_labels(campaign_id: str, last_cycle: int | None = None, store: JobStore | None = None) -> list[LabelDocument]:
    """
    Read the successful labels of a campaign, in the order in which they were asked for.

    Parameters
    ----------
    campaign_id
        The campaign.
    last_cycle
        Leave out what later cycles labelled.
    store
        A connected JobStore; by default the one the present job runs in.

    Returns
    -------
    list of LabelDocument
        The user's own labels first. A label that was computed twice, because its job was
        rerun, is returned once.
    """
    store = current_store() if store is None else store
    in_cycle: dict[str, Any] = {} if last_cycle is None else {"output.cycle": {"$lte": last_cycle}}
    criteria = {"output.kind": {"$in": ["label", "dataset"]}, "output.campaign_id": campaign_id, **in_cycle}
    imported: list[LabelDocument] = []
    by_key: dict[tuple[int, int], LabelDocument] = {}
    for output in (doc["output"] for doc in store.query(criteria, ["output"])):
        if output["kind"] == "dataset":
            (dataset,) = store.query({"uuid": output["uuid"]}, ["output"], load=True)
            imported += [LabelDocument.model_validate(label) for label in dataset["output"]["payload"]["labels"]]
        elif output["state"] == "successful":
            label = LabelDocument.model_validate(output)
            by_key.setdefault((label.cycle, label.index), label)
    return [*imported, *(by_key[key] for key in sorted(by_key))]


@loop_job()
def import_labels(labels: list[dict[str, Any]], campaign_id: str) -> DatasetDocument:
    """
    Store the labels a user brought along.

    Parameters
    ----------
    labels
        Label documents as dictionaries.
    campaign_id
        The campaign they will be used in.
    """
    return DatasetDocument(
        uuid=current_uuid(), campaign_id=campaign_id, n_labels=len(labels), payload={"labels": labels}
    )


@loop_job()
def import_structures(structures: str, campaign_id: str) -> StructuresDocument:
    """
    Store the structures MD starts from; a walker whose first run crashes starts from there again.

    Parameters
    ----------
    structures
        Packed structures (:func:`mlip_autopipec.frames.pack_frames`).
    campaign_id
        The campaign they are used in.
    """
    return StructuresDocument(
        uuid=current_uuid(),
        campaign_id=campaign_id,
        n_structures=len(unpack_frames(structures)),
        payload={"structures": structures},
    )


@loop_job()
def import_potential(document: dict[str, Any], campaign_id: str, after: object = None) -> PotentialDocument:
    """
    Store the potential a user brought along.

    Parameters
    ----------
    document
        Potential document as a dictionary.
    campaign_id
        The campaign it will be used in.
    after
        Output of a job that has to be done before MD starts, such as the import of labels.
    """
    del after
    return PotentialDocument.model_validate({**document, "uuid": current_uuid(), "campaign_id": campaign_id})
