"""Documents that every cycle reads again: fetched and taken apart once in a process, as long as they stay the same."""

from __future__ import annotations

import json
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from maggma.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jobflow import JobStore
    from pydantic import BaseModel

ModelT = TypeVar("ModelT", bound="BaseModel")
_Version = tuple[Any, str | None]

#: What a process keeps of all campaigns: a label takes as much as it has atoms, some 400 bytes each.
MAX_KEPT = 300_000
#: More documents than these are fetched by the query for all.
_ONE_BY_ONE = 200


class _Kept:
    """Models made of the documents of a query, by ``_id`` and version; the query not asked for longest goes first."""

    def __init__(self) -> None:
        self._of: OrderedDict[tuple[str, ...], tuple[int, Mapping[_Version, Sequence[Any]]]] = OrderedDict()
        self._lock = Lock()

    def get(self, query: tuple[str, ...]) -> tuple[int, Mapping[_Version, Sequence[Any]]]:
        with self._lock:
            if query in self._of:
                self._of.move_to_end(query)
            return self._of.get(query, (1, {}))

    def put(self, query: tuple[str, ...], size: int, models: Mapping[_Version, Sequence[Any]]) -> None:
        with self._lock:
            self._of[query] = size, models
            while sum(size for size, _ in self._of.values()) > MAX_KEPT:
                self._of.popitem(last=False)


_kept = _Kept()


def read_known(
    store: JobStore,
    criteria: Mapping[str, Any],
    properties: Sequence[str],
    make: Callable[[dict[str, Any]], Sequence[ModelT]],
    *,
    load: bool = False,
    of: str | None = None,
) -> list[ModelT]:
    """
    Read documents and make models of them, but only of those that are new or have changed since this process read them.

    Parameters
    ----------
    store
        A connected JobStore.
    criteria
        Of the documents.
    properties
        Fields of a document that ``make`` needs.
    make
        Makes models of the output of a document. A function of a module, since what it made is known by its name.
    load
        With their bulk data, which never changes by itself.
    of
        What the documents belong to, where the criteria name each of them: those of the last such query are known to
        the next one, which may name further ones.

    Returns
    -------
    list
        The models of all documents, in the order of the store. They are shared by all who ask: nobody changes them.
    """
    source = store.docs_store
    in_memory = isinstance(source, MemoryStore) and not hasattr(source, "versions")
    if in_memory:  # two stores in memory have one name, and reading is no work
        return [model for doc in store.query(dict(criteria), [*properties], load=load) for model in make(doc["output"])]
    where = source.name, str(getattr(source, "database", "")), str(getattr(source, "collection_name", ""))
    query = *where, make.__module__, make.__qualname__, of or json.dumps(criteria, sort_keys=True)
    versions, (size, known) = _versions(store, criteria), _kept.get(query)
    found = {one: known.get(one) for one in versions}
    missing = {one[0]: one for one, models in found.items() if models is None}
    if missing:
        wanted = dict(criteria)
        if len(missing) <= _ONE_BY_ONE:
            wanted["_id"] = {"$in": list(missing)}
        for doc in store.query(wanted, ["_id", *properties], load=load):
            if doc["_id"] in missing:
                found[missing[doc["_id"]]] = models = make(doc["output"])
                size += sum(1 + getattr(model, "n_atoms", 0) for model in models)
        _kept.put(
            query, size, {one: models for one, models in found.items() if models is not None and one[1] is not None}
        )
    return [model for models in found.values() for model in models or ()]


def _versions(store: JobStore, criteria: Mapping[str, Any]) -> list[_Version]:
    """Return the ``_id`` of each document, and what changes with it; None where that is not known."""
    if (versions := getattr(store.docs_store, "versions", None)) is not None:
        of_all: list[_Version] = versions(dict(criteria))
        return of_all
    return [(doc["_id"], doc.get("completed_at")) for doc in store.query(dict(criteria), ["completed_at"])]
