"""The indexes that the queries of this package, of jobflow and of its stores use."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pymongo.errors import OperationFailure

if TYPE_CHECKING:
    from jobflow import JobStore
    from maggma.core import Store

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
#: The field by which jobflow asks its additional stores for bulk data.
BLOB_KEY = "blob_uuid"


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
