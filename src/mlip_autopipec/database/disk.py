"""The store of a laptop: documents in one SQLite file, found by indexes, without a server."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import bson
from jobflow import JobStore
from maggma.core import Store
from maggma.stores import MemoryStore
from monty.json import jsanitize

from mlip_autopipec.database.beside import SQLiteCollection
from mlip_autopipec.jobs.indexes import BLOB_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maggma.core import Sort

#: Fields of words by which campaigns ask most.
_INDEXED = ("uuid", "output.campaign_id", "output.kind", "output.key")
#: Stands in an index for what is neither a word nor absent; such documents are looked at one by one.
_OTHER = "\x00"
_BUSY_S = 60.0
_CHUNK = 50


class SQLiteStore(MemoryStore):
    """
    A maggma store in one SQLite file, which several processes may use at once.

    An index narrows each query down to a few documents; the query itself is that of ``MemoryStore`` on
    those. maggma's ``MontyStore`` reads all documents, bulk data too, at each query.

    Parameters
    ----------
    path
        The file; made if it is not there.
    indexed
        Fields with an index, for queries by a word or ``$in`` words. They belong to the file and cannot be changed.
    """

    def __init__(self, path: str, indexed: list[str] | None = None, **kwargs: Any) -> None:
        self.path = path
        self.indexed = list(_INDEXED) if indexed is None else indexed
        self._connection: sqlite3.Connection | None = None
        super().__init__(collection_name=Path(path).stem, **kwargs)

    @property
    def name(self) -> str:
        """Return where it is."""
        return f"sqlite://{self.path}"

    @property
    def _collection(self) -> NoReturn:
        raise NotImplementedError(f"{self.name} is no MongoDB collection; use the methods of the store")

    def connect(self, force_reset: bool = False) -> None:
        """Open the file."""
        if self._connection is not None and not force_reset:
            return
        columns = ", ".join(f'"{field}" TEXT' for field in self.indexed)
        self._connection = sqlite3.connect(self.path, timeout=_BUSY_S, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        with self._connection as connection:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS documents (id INTEGER PRIMARY KEY, {columns}, bson BLOB NOT NULL)"
            )
            for field in self.indexed:
                connection.execute(f'CREATE INDEX IF NOT EXISTS "by {field}" ON documents ("{field}")')

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def query(  # type: ignore[override]  # as in maggma's stores
        self,
        criteria: dict[str, Any] | None = None,
        properties: dict[str, Any] | list[str] | None = None,
        sort: dict[str, Sort | int] | None = None,
        hint: dict[str, Sort | int] | None = None,
        skip: int = 0,
        limit: int = 0,
        **kwargs: Any,
    ) -> Iterator[dict[str, Any]]:
        """Return documents; see maggma's ``MongoStore.query``. ``_id`` is the number of the row."""
        del hint
        # all rows at once: a read that is left half done would make this process's next write fail as soon as another
        # process has written
        rows = self._narrowed(criteria or {}).fetchall()
        size = len(rows) if sort or skip or limit else _CHUNK
        for some in (rows[i : i + size] for i in range(0, len(rows), size or 1)):
            found = MemoryStore()
            found.connect()
            found._collection.insert_many({**bson.decode(row[1]), "_id": row[0]} for row in some)
            yield from found.query(criteria, properties, sort=sort, skip=skip, limit=limit, **kwargs)

    def count(self, criteria: dict[str, Any] | None = None, hint: dict[str, Sort | int] | None = None) -> int:
        """Count documents."""
        del hint
        return sum(1 for _ in self.query(criteria, ["_id"]))

    def distinct(self, field: str, criteria: dict[str, Any] | None = None, all_exist: bool = False) -> list[Any]:
        """Return the distinct values of a field."""
        return Store.distinct(self, field, criteria, all_exist)

    def update(self, docs: list[dict[str, Any]] | dict[str, Any], key: list[str] | str | None = None) -> None:
        """Insert documents, each in place of the one that agrees with it in ``key``."""
        fields = key or self.key
        fields = [fields] if isinstance(fields, str) else fields
        columns = ", ".join(["id", *(f'"{field}"' for field in self.indexed), "bson"])
        marks = ", ".join("?" for _ in range(len(self.indexed) + 2))
        insert = f"INSERT OR REPLACE INTO documents ({columns}) VALUES ({marks})"  # noqa: S608 - values are bound
        for doc in docs if isinstance(docs, list) else [docs]:
            new = jsanitize(doc, allow_bson=True, recursive_msonable=True)
            new.pop("_id", None)
            values = [_word(new, field) for field in self.indexed]
            with self._open() as connection:
                connection.execute("BEGIN IMMEDIATE")
                old = next(self.query({field: new[field] for field in fields}, ["_id"], limit=1), {"_id": None})
                connection.execute(insert, [old["_id"], *values, bson.encode(new)])

    def remove_docs(self, criteria: dict[str, Any]) -> None:
        """Delete documents."""
        found = [(doc["_id"],) for doc in self.query(criteria, ["_id"])]
        with self._open() as connection:
            connection.executemany("DELETE FROM documents WHERE id = ?", found)

    def beside(self, name: str) -> SQLiteCollection:
        """Return a small collection in the same file, with those methods of pymongo's that claims and names use."""
        return SQLiteCollection(self.path, name)

    def ensure_index(self, key: str, unique: bool | None = False) -> bool:
        """Tell whether there is an index; those there are were made with the file."""
        return key in self.indexed and not unique

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.connect()
        assert self._connection is not None
        return self._connection

    def _narrowed(self, criteria: dict[str, Any]) -> sqlite3.Cursor:
        """Rows that may match the criteria: all that match, and perhaps others."""
        conditions, values = ["1"], []
        for field in self.indexed:
            wanted = criteria.get(field)
            words = wanted["$in"] if isinstance(wanted, dict) and "$in" in wanted else [wanted]
            if words and all(isinstance(word, str) for word in words):
                marks = ", ".join("?" for _ in words)
                conditions.append(f'"{field}" IN (?, {marks})')
                values += [_OTHER, *words]
        select = f"SELECT id, bson FROM documents WHERE {' AND '.join(conditions)} ORDER BY id"  # noqa: S608 - bound too
        return self._open().execute(select, values)


def open_store(folder: Path | str) -> JobStore:
    """Open (or make) the on-disk JobStore of a run: documents in one SQLite file, bulk data in another."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    documents = SQLiteStore(str(folder / "documents.sqlite"))
    data = SQLiteStore(str(folder / "data.sqlite"), indexed=[BLOB_KEY])
    store = JobStore(documents, additional_stores={"data": data})
    store.connect()
    return store


def _word(document: dict[str, Any], field: str) -> str | None:
    """Return the index entry of a document."""
    value: Any = document
    for name in field.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif value is not None:
            return _OTHER
    return value if value is None or isinstance(value, str) else _OTHER
