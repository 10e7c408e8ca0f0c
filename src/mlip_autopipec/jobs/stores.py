"""JobStores: what they are called in messages, and whether they keep what a campaign stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maggma.stores import MemoryStore, MongoStore

if TYPE_CHECKING:
    from jobflow import JobStore
    from maggma.core import Store

#: The additional store that holds bulk data.
DATA = "data"


def title_of(store: JobStore) -> str:
    """Tell where a store is; the name maggma gives a MongoStore may hold the password."""
    docs = store.docs_store
    if isinstance(docs, MongoStore) and not isinstance(docs, MemoryStore):
        return f"collection {docs.database}.{docs.collection_name}"
    return str(docs.name)


def is_kept(store: Store) -> bool:
    """Tell whether a store keeps its documents when the process ends."""
    # SQLiteStore of this package is a MemoryStore by class, and keeps its documents
    return not isinstance(store, MemoryStore) or hasattr(store, "path")


def lacks(store: JobStore) -> str:
    """Say why a JobStore would not keep a campaign; empty where it would."""
    additional: dict[str, Any] = store.additional_stores  # type: ignore[has-type]
    if not is_kept(store.docs_store):
        return "it is in memory, in which nothing would be kept"
    if DATA not in additional:
        return f"it has the additional stores {sorted(additional)}, and bulk data goes to one named '{DATA}'"
    if not is_kept(additional[DATA]):
        return f"its additional store '{DATA}' is in memory, in which no potential would be kept"
    return ""
