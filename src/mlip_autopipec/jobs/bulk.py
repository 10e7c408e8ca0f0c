"""Bulk data is stored before the document that refers to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from jobflow import JobStore


class BulkFirstJobStore(JobStore):
    """
    A JobStore that writes to its additional stores before it writes the documents.

    jobflow does it the other way round: a process that is killed in between leaves a document whose bulk is missing,
    on which every later query for it, and so the campaign, would fail. This way it leaves bulk nobody refers to.
    """

    def update(self, docs: Any, key: Any = None, save: Any = None) -> None:
        """Update or insert documents; see ``JobStore.update``."""
        held: list[tuple[Any, Any]] = []
        holding: Any = SimpleNamespace(**vars(self))
        holding.docs_store = SimpleNamespace(update=lambda docs, key: held.append((docs, key)))
        JobStore.update(holding, docs, key, save)
        for some, fields in held:
            self.docs_store.update(some, key=fields)


def store_bulk_first(store: JobStore | None) -> None:
    """Make the store a job runs in, which jobflow has made as it is configured, one that stores bulk first."""
    if type(store) is JobStore:
        store.__class__ = BulkFirstJobStore
