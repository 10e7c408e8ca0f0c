"""How jobs of the loop use their store: bulk first, and with patience when the database is away."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from jobflow import JobStore
from pymongo.errors import ConnectionFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
            logger.warning("the database is away, trying again: %s", error)
            time.sleep(PAUSE_S)


class BulkFirstJobStore(JobStore):
    """
    A JobStore that writes to its additional stores before it writes the documents.

    jobflow does it the other way round: a process that is killed in between leaves a document whose bulk is missing,
    on which every later query for it, and so the campaign, would fail. This way it leaves bulk nobody refers to.

    It waits for a server that is stopped and started: what took a day to compute is not lost in a second.
    """

    def query(self, *args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        """Query documents; see ``JobStore.query``."""
        yield from patiently(lambda: list(JobStore.query(self, *args, **kwargs)))

    def update(self, docs: Any, key: Any = None, save: Any = None) -> None:
        """Update or insert documents; see ``JobStore.update``."""
        held: list[tuple[Any, Any]] = []
        holding: Any = SimpleNamespace(**vars(self))
        holding.docs_store = SimpleNamespace(update=lambda docs, key: held.append((docs, key)))
        patiently(lambda: JobStore.update(holding, docs, key, save))
        some, fields = held[-1]
        patiently(lambda: self.docs_store.update(some, key=fields))


def store_bulk_first(store: JobStore | None) -> None:
    """Make the store a job runs in, which jobflow has made as it is configured, one that stores bulk first."""
    if type(store) is JobStore:
        store.__class__ = BulkFirstJobStore
