"""The store of a laptop: documents in one SQLite file, found by indexes, without a server."""

from __future__ import annotations

import hashlib
import sqlite3
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import bson
from bson.raw_bson import RawBSONDocument
from jobflow import JobStore
from maggma.core import Store
from maggma.stores import MemoryStore
from monty.json import jsanitize

from mlip_autopipec.database.beside import SQLiteCollection
from mlip_autopipec.database.picking import ordered, projected, tree
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.jobs.indexes import BLOB_KEY

try:
    from mongomock_ng.filtering import filter_applies  # that of maggma's MemoryStore
except ModuleNotFoundError:  # maggma before 0.77
    from mongomock.filtering import filter_applies  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from maggma.core import Sort

#: Fields of words by which campaigns ask most.
_INDEXED = ("uuid", "output.campaign_id", "output.kind", "output.key")
#: What answers, without a look at a document, which one a new one replaces, and whether those of a campaign are known.
_INDEXED_TOGETHER = (("uuid", "index"), ("output.campaign_id", "output.kind", "checksum"))
#: Stands in an index for what is neither a word nor absent; such documents are looked at one by one.
_OTHER = "\x00"
_BUSY_S = 60.0
#: More ``_id`` in one query are looked for in all documents: SQLite has a limit of values.
_MOST_NUMBERS = 1000


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
        self.path = str(Path(path).resolve())  # jobs run in folders of their own
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
                # the document last: what stands behind a long one is slow to read
                f'CREATE TABLE IF NOT EXISTS documents (id INTEGER PRIMARY KEY, {columns}, checksum TEXT, "index" '
                "INTEGER, bson BLOB NOT NULL)"
            )
            # files of earlier versions lack them; what such a file holds already stays unchecked, and is looked through
            there = {row[1] for row in connection.execute("PRAGMA table_info(documents)")}
            for name, kind in (("checksum", "TEXT"), ("index", "INTEGER")):
                if name not in there:
                    connection.execute(f'ALTER TABLE documents ADD COLUMN "{name}" {kind}')
            for field in self.indexed:
                connection.execute(f'CREATE INDEX IF NOT EXISTS "by {field}" ON documents ("{field}")')
            for fields in _INDEXED_TOGETHER:
                if set(fields) <= {*self.indexed, "index", "checksum"}:
                    of = ", ".join(f'"{field}"' for field in fields)
                    connection.execute(f'CREATE INDEX IF NOT EXISTS "by {" and ".join(fields)}" ON documents ({of})')

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
        criteria = criteria or {}
        narrowing = self._narrowing(criteria)
        rest = {field: wanted for field, wanted in criteria.items() if field not in narrowing}
        found = self._found(narrowing, criteria, rest)
        plain = not kwargs and not isinstance(properties, dict)
        if plain and sort:
            documents = list(found)
            in_order = ordered(documents, sort)
            found, plain = iter(documents if in_order is None else in_order), in_order is not None
        if plain:
            fields = None if properties is None else tree(["_id", *properties])
            found = islice(found, skip, skip + limit if limit else None)
            yield from found if fields is None else (projected(document, fields) for document in found)
            return
        memory = MemoryStore()
        memory.connect()
        if documents := list(found):
            memory._collection.insert_many(documents)
        yield from memory.query({}, properties, sort=sort, skip=skip, limit=limit, **kwargs)

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
        columns = ", ".join(["id", *(f'"{field}"' for field in self.indexed), "bson", "checksum", '"index"'])
        marks = ", ".join("?" for _ in range(len(self.indexed) + 4))
        insert = f"INSERT OR REPLACE INTO documents ({columns}) VALUES ({marks})"  # noqa: S608 - values are bound
        for doc in docs if isinstance(docs, list) else [docs]:
            new = jsanitize(doc, allow_bson=True, recursive_msonable=True)
            new.pop("_id", None)
            values = [_word(new, field) for field in self.indexed]
            content = bson.encode(new)
            with self._open() as connection:
                connection.execute("BEGIN IMMEDIATE")
                old = next(self.query({field: new[field] for field in fields}, ["_id"], limit=1), {"_id": None})
                connection.execute(insert, [old["_id"], *values, content, _checksum(content), _index_of(new)])

    def remove_docs(self, criteria: dict[str, Any]) -> None:
        """Delete documents."""
        found = [(doc["_id"],) for doc in self.query(criteria, ["_id"])]
        with self._open() as connection:
            connection.executemany("DELETE FROM documents WHERE id = ?", found)

    def beside(self, name: str) -> SQLiteCollection:
        """Return a small collection in the same file, with those methods of pymongo's that claims and names use."""
        return SQLiteCollection(self.path, name)

    def versions(self, criteria: dict[str, Any]) -> list[tuple[int, str | None]]:
        """
        Return ``_id`` and checksum of documents, in the order of :meth:`query`, without reading them.

        The checksum is None where only the document tells whether it meets the criteria, or has none.
        """
        narrowing = self._narrowing(criteria)
        rows = self._rows(narrowing, criteria, "id, checksum").fetchall()
        if len(narrowing) < len(criteria) or any(is_unsure for *_, is_unsure in rows):
            return [(doc["_id"], None) for doc in self.query(criteria, ["_id"])]
        return [(number, checksum) for number, checksum, _ in rows]

    def ensure_index(self, key: str, unique: bool | None = False) -> bool:
        """Tell whether there is an index; those there are were made with the file."""
        return key in self.indexed and not unique

    def verify(self) -> None:
        """
        Look at each document, also at the index by which it is found.

        Raises
        ------
        MLIPError
            One is not what was written.
        """
        columns = ", ".join(f'"{field}"' for field in self.indexed)
        select = f"SELECT id, bson, checksum, {columns} FROM documents"  # noqa: S608 - names of this class
        for number, content, checksum, *words in self._open().execute(select):
            document = self._decoded(number, content, checksum)
            if words != [_word(document, field) for field in self.indexed]:
                raise MLIPError(self._damaged(number, document.get("uuid"), "its index has changed"))

    def _decoded(self, number: int, content: bytes, checksum: str | None) -> dict[str, Any]:
        """Return a document if it is what was written."""
        why, document = "", dict[str, Any]()
        try:
            document = bson.decode(content)
        except Exception as error:  # of bson, whatever the bytes are
            why = f"{type(error).__name__}: {str(error)[:100]}"
        if checksum is not None and checksum != _checksum(content):
            why = "its checksum is another"
        if why:
            raise MLIPError(self._damaged(number, document.get("uuid") or document.get("job_uuid"), why))
        return document

    def _damaged(self, number: int, name: Any, why: str) -> str:
        return (
            f"'{self.path}' is damaged: document {number} ({str(name)[:60]}) is not what was written ({why}). Nothing "
            "is changed. Copy the folder to a safe place, then put this file back from a backup; without one, all "
            "other documents can still be read, and the labels in dataset.extxyz begin another campaign (start_from)"
        )

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.connect()
        assert self._connection is not None
        return self._connection

    def _found(
        self, narrowing: dict[str, list[str]], criteria: dict[str, Any], rest: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Documents that meet the criteria; ``rest`` are those that no index answers."""
        # all rows at once: a read that is left half done would make this process's next write fail as soon as another
        # process has written
        plain = {field: one for field, one in rest.items() if "." not in field and isinstance(one, (int, str))}
        for number, blob, checksum, is_unsure in self._rows(narrowing, criteria, "id, bson, checksum").fetchall():
            if plain and _differs(blob, plain):
                continue
            document = {**self._decoded(number, blob, checksum), "_id": number}
            unknown = criteria if is_unsure else rest
            if not unknown or filter_applies(unknown, document):
                yield document

    def _narrowing(self, criteria: dict[str, Any]) -> dict[str, list[str]]:
        """Return the criteria that an index answers: fields and the words they may have."""
        found = {}
        for field in self.indexed:
            wanted = criteria.get(field)
            words = wanted["$in"] if isinstance(wanted, dict) and list(wanted) == ["$in"] else [wanted]
            if words and all(isinstance(word, str) for word in words):
                found[field] = list(words)
        return found

    def _rows(self, narrowing: dict[str, list[str]], criteria: dict[str, Any], columns: str) -> sqlite3.Cursor:
        """Columns of rows that match, and of some of which only the document tells; last whether it is such."""
        conditions: list[str] = ["1"]
        values: list[Any] = []
        if (index := _index_of(criteria)) is not None:
            conditions.append('("index" IS NULL OR "index" = ?)')
            values.append(index)
        numbers = criteria.get("_id")
        if isinstance(numbers, dict) and list(numbers) == ["$in"] and len(numbers["$in"]) <= _MOST_NUMBERS:
            conditions.append(f"id IN ({', '.join('?' for _ in numbers['$in'])})")
            values += numbers["$in"]
        for field, words in narrowing.items():
            marks = ", ".join("?" for _ in words)
            conditions.append(f'"{field}" IN (?, {marks})')
            values += [_OTHER, *words]
        unsure = " OR ".join(["0", *(f'"{field}" = ?' for field in narrowing)])
        select = f"SELECT {columns}, {unsure} FROM documents WHERE {' AND '.join(conditions)} ORDER BY id"  # noqa: S608 - bound
        return self._open().execute(select, [*(_OTHER for _ in narrowing), *values])


def _differs(blob: bytes, wanted: Mapping[str, int | str]) -> bool:
    """
    Tell whether a document surely has another number or word in one of these fields, without taking it apart.

    The assessments of a campaign share a uuid and differ by their index: each new one asks which of all it replaces.
    """
    try:
        document = RawBSONDocument(blob)
        found = {field: document.get(field) for field in wanted}
    except Exception:  # damaged; whoever decodes it says so
        return False
    return any(
        value is None or (isinstance(value, (int, float, str)) and value != wanted[field])
        for field, value in found.items()
    )


class DiskJobStore(JobStore):
    """A JobStore that says which bulk data is missing where jobflow raises a KeyError."""

    def query(self, *args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        """
        Return documents; as jobflow's.

        Raises
        ------
        MLIPError
            A document refers to bulk data that is not there.
        """
        try:
            yield from super().query(*args, **kwargs)
        except KeyError as error:
            raise MLIPError(
                f"{self.docs_store.name} refers to bulk data {error} that is not in data.sqlite beside it: that file "
                "was emptied, or is of another time. Nothing is changed; put it back from a backup"
            ) from error


def open_store(folder: Path | str) -> JobStore:
    """Open (or make) the on-disk JobStore of a run: documents in one SQLite file, bulk data in another."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "data.sqlite").exists() and not (folder / "documents.sqlite").exists():
        raise MLIPError(_half(folder, "documents.sqlite"))
    documents = SQLiteStore(str(folder / "documents.sqlite"))
    data_file = folder / "data.sqlite"
    # one that another process makes at this moment holds nothing yet, or did not when its files were looked for
    if not data_file.exists() and documents.query_one({}, ["uuid"]) is not None and not data_file.exists():
        documents.close()
        raise MLIPError(_half(folder, "data.sqlite"))
    data = SQLiteStore(str(data_file), indexed=[BLOB_KEY])
    store = DiskJobStore(documents, additional_stores={"data": data})
    store.connect()
    return store


def _half(folder: Path, missing: str) -> str:
    return (
        f"the store '{folder}' has no {missing}, and is of no use without it: it was not copied as a whole, or was "
        "deleted. Put that file back; nothing is changed"
    )


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _word(document: dict[str, Any], field: str) -> str | None:
    """Return the index entry of a document."""
    value: Any = document
    for name in field.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif value is not None:
            return _OTHER
    return value if value is None or isinstance(value, str) else _OTHER


def _index_of(of: Mapping[str, Any]) -> int | None:
    """Return jobflow's index of a document, or the one asked for by criteria; None where that is no number."""
    index = of.get("index")
    return index if isinstance(index, int) and not isinstance(index, bool) else None
