"""Small collections beside the documents of the store on disk: claims on labels, names of campaigns."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from pymongo.errors import DuplicateKeyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BUSY_S = 60.0


class SQLiteCollection:
    """
    What claims and names need of a collection of MongoDB, in a table of the store on disk.

    Each call is one transaction on a connection of its own, so that threads and processes may call at once.

    Parameters
    ----------
    path
        Of the SQLite file.
    name
        Of the table; it is made if it is not there.
    """

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name = path, name

    def insert_one(self, document: Mapping[str, Any]) -> None:
        """
        Insert a document.

        Raises
        ------
        DuplicateKeyError
            There is one with its ``_id``.
        """
        with self._transaction() as table:
            if self._of(table, document["_id"]) is not None:
                raise DuplicateKeyError(f"{document['_id']} is in {self.name} already")
            self._write(table, document)

    def find_one(self, criteria: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the document of an ``_id``, if its other fields are those of the criteria."""
        with self._transaction() as table:
            return self._matching(table, criteria)

    def find(self) -> list[dict[str, Any]]:
        """Return all documents."""
        with self._transaction() as table:
            return [json.loads(text) for (text,) in table.execute(f'SELECT json FROM "{self.name}" ORDER BY id')]  # noqa: S608

    def update_one(self, criteria: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Change the document of an ``_id`` by ``$set`` and ``$inc``, if its other fields are those of the criteria."""
        with self._transaction() as table:
            found = self._matching(table, criteria)
            if found is not None:
                found |= changes.get("$set", {})
                for field, more in changes.get("$inc", {}).items():
                    found[field] += more
                self._write(table, found)

    def delete_one(self, criteria: Mapping[str, Any]) -> None:
        """Delete the document of an ``_id``, if its other fields are those of the criteria."""
        self.delete_many({"$or": [criteria]})

    def delete_many(self, criteria: Mapping[str, list[Mapping[str, Any]]]) -> None:
        """Delete the documents that agree with one of the criteria in ``$or``."""
        with self._transaction() as table:
            for one in criteria["$or"]:
                if self._matching(table, one) is not None:
                    table.execute(f'DELETE FROM "{self.name}" WHERE id = ?', (one["_id"],))  # noqa: S608

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)) as connection:
            # claims and names need not outlive a power failure; the documents of the file, which do, are written FULL
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                connection.execute(
                    f'CREATE TABLE IF NOT EXISTS "{self.name}" (id TEXT PRIMARY KEY, json TEXT NOT NULL)'
                )
                yield connection

    def _of(self, table: sqlite3.Connection, key: str) -> dict[str, Any] | None:
        row = table.execute(f'SELECT json FROM "{self.name}" WHERE id = ?', (key,)).fetchone()  # noqa: S608
        return None if row is None else dict(json.loads(row[0]))

    def _matching(self, table: sqlite3.Connection, criteria: Mapping[str, Any]) -> dict[str, Any] | None:
        found = self._of(table, criteria["_id"])
        return found if found is not None and criteria.items() <= found.items() else None

    def _write(self, table: sqlite3.Connection, document: Mapping[str, Any]) -> None:
        values = (document["_id"], json.dumps(document))
        table.execute(f'INSERT OR REPLACE INTO "{self.name}" VALUES (?, ?)', values)  # noqa: S608 - values are bound
