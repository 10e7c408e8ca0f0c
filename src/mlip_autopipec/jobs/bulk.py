"""How jobs of the loop use their store: bulk first, and with patience when the database is away."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo.errors import ConnectionFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobflow import JobStore

logger = logging.getLogger(__name__)

#: How long a job waits for a database that is away before it fails, and between two attempts, in s.
PATIENCE_S, PAUSE_S = 600.0, 1.0

T = TypeVar("T")


def patiently(operation: Callable[[], T]) -> T:
    """
    Do something in the database, again and again if the connection is lost.

    Parameters
    ----------
    operation
        What does no harm when it is done twice: a failure does not tell whether it was done.

    Raises
    ------
    ConnectionFailure
        The database was away for longer than :data:`PATIENCE_S`.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return operation()
        except ConnectionFailure as error:
            if time.monotonic() > until:
                raise
            logger.warning("no connection to the database, trying again: %s", error)
            time.sleep(PAUSE_S)


class _Held:
    """Stands for the store of the documents while a JobStore writes its bulk, and keeps what is to be written last."""

    def __init__(self) -> None:
        self.documents: list[tuple[Any, Any]] = []

    def update(self, docs: Any, key: Any) -> None:
        """Keep documents."""
        self.documents.append((docs, key))


def store_bulk_first(store: JobStore | None) -> None:
    """
    Let the JobStore a job runs in, of whatever class, write to its additional stores before it writes the documents.

    jobflow does it the other way round: a process that is killed in between leaves a document whose bulk is missing,
    on which every later query for it, and so the campaign, would fail. This way it leaves bulk nobody refers to.

    The store also waits for a server that is stopped and started: what took a day to compute is not lost in a second.
    Both hold for this object alone, which jobflow has made for the process; calling it again changes nothing.
    """
    if store is None or "update" in vars(store):
        return
    cls = type(store)

    def update(docs: Any, key: Any = None, save: Any = None) -> None:
        held, writes_bulk = _Held(), cls.__new__(cls)
        vars(writes_bulk).update({**vars(store), "docs_store": held})
        patiently(lambda: cls.update(writes_bulk, docs, key, save))
        some, fields = held.documents[-1]
        patiently(lambda: store.docs_store.update(some, key=fields))

    def query(*args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        yield from patiently(lambda: list(cls.query(store, *args, **kwargs)))

    vars(store).update(update=update, query=query)
