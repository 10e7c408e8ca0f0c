"""The indexes that the queries of this package, of jobflow and of its stores use."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from maggma.stores import MemoryStore, MongoStore
from pymongo.errors import DuplicateKeyError, OperationFailure

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from jobflow import JobStore
    from maggma.core import Store
    from pymongo.collection import Collection

logger = logging.getLogger(__name__)

#: Fields of each index on the documents. jobflow and maggma make none of their own, not even of ``uuid``.
INDEXES: tuple[tuple[str, ...], ...] = (
    ("uuid", "index"),  # jobflow: every document written, every one a job depends on
    ("output.campaign_id", "output.kind", "output.cycle"),  # the dataset of a training; all of Campaigns
    ("output.campaign_id", "completed_at"),  # whether a campaign has news for the summaries
    ("output.kind", "output.campaign_id"),  # names of campaigns
    ("output.key",),  # whether a label was computed before, by any campaign
    ("output.reused_from",),  # labels that reuse another
    ("output.source_id",),  # which labels a proposal led to
    ("output.elements",),  # campaigns and potentials of some elements
)
#: Collection of the names of campaigns.
NAMES = "mlip_autopipec_names"
#: The field by which jobflow asks its additional stores for bulk data.
BLOB_KEY = "blob_uuid"


def reserve_name(store: JobStore, campaign_id: str, generation: int, owner: str) -> None:
    """
    Reserve the name of a campaign, which is looked for before, but stored only when the job has ended.

    Parameters
    ----------
    store
        A connected JobStore; one that several processes can write to reserves, in one step, for one of them.
    campaign_id, generation
        What is reserved.
    owner
        uuid of the job; the same one may reserve again, as it does when a manager reruns it.

    Raises
    ------
    InvalidInputError
        Another job has it.
    """
    name = f"{campaign_id}/{generation}"
    documents = store.docs_store
    if isinstance(documents, MongoStore) and not isinstance(documents, MemoryStore):
        names: Collection[dict[str, Any]] = documents._collection.database[NAMES]
        with suppress(DuplicateKeyError):
            names.insert_one({"_id": name, "owner": owner})
        found = names.find_one({"_id": name})
        holder = owner if found is None else found["owner"]
    elif hasattr(documents, "reserve"):  # the store of a laptop
        holder = documents.reserve(name, owner)
    else:  # of one process
        return
    if holder != owner:
        raise InvalidInputError(
            f"campaign_id '{campaign_id}' was taken at this moment by another campaign in {store}; choose another"
        )


def create_indexes(store: JobStore) -> bool:
    """
    Create the indexes of a JobStore, those of its additional stores included.

    The first job of each campaign calls it; nothing happens to those that exist already. A user who may not
    create indexes gets a warning in the log.

    Parameters
    ----------
    store
        A connected JobStore.

    Returns
    -------
    bool
        False if there are none afterwards: in a store without a server, or for want of permission.
    """
    try:
        collection = store.docs_store._collection
        for fields in INDEXES:
            collection.create_index([(field, 1) for field in fields])
        extra: dict[str, Store] = store.additional_stores  # type: ignore[has-type]
        return all(one.ensure_index(BLOB_KEY) for one in extra.values())
    except NotImplementedError:  # a store without a server
        return False
    except OperationFailure as error:
        logger.warning("the database has not the indexes its queries need: %s", error)
        return False
