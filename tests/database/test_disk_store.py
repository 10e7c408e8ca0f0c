"""The on-disk store answers as MongoDB's query language says, and by its indexes."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest
from maggma.stores import MemoryStore
from monty.json import MontyDecoder

from mlip_autopipec.database.disk import SQLiteStore, open_store

DOCUMENTS = [
    {"uuid": "a", "index": 1, "output": {"kind": "label", "campaign_id": "x", "energy": -1.5, "key": "k1"}},
    {"uuid": "a", "index": 2, "output": {"kind": "label", "campaign_id": "x", "energy": -2.5, "key": None}},
    {"uuid": "b", "index": 1, "output": {"kind": "walk", "campaign_id": "y", "steps": [1, 2]}},
    {"uuid": "c", "index": 1, "output": [{"kind": "label", "campaign_id": "x"}, {"kind": "other"}]},
    {"uuid": "d", "index": 1, "output": {"kind": ["label", "list"], "campaign_id": 3}},
    {"uuid": "e", "index": 1, "output": None},
    {"uuid": "g", "index": 1, "output": {"kind": "label", "parts": [{"a": 1, "b": {"c": 2, "d": 3}}, {"x": 5}]}},
    {"uuid": "f", "index": 1, "time": datetime(2026, 1, 2, tzinfo=UTC).replace(tzinfo=None)},
]

PROJECTIONS = [
    ["uuid", "index"],
    ["output"],
    ["output.kind", "output.energy", "time"],
    ["output.steps", "no.where"],
    ["output.parts.a", "output.parts.b.c", "uuid"],
    {"output.kind": 1},
    {"output": 0},
]


@pytest.fixture
def store(tmp_path) -> SQLiteStore:
    store = SQLiteStore(str(tmp_path / "documents.sqlite"), key="uuid")
    store.connect()
    store.update(DOCUMENTS, key=["uuid", "index"])
    return store


@pytest.mark.parametrize(
    "criteria",
    [
        {},
        {"uuid": "a"},
        {"uuid": {"$in": ["a", "e", "no"]}, "index": 1},
        {"uuid": {"$in": []}},
        {"uuid": {"$ne": "a"}},
        {"output.kind": "label"},
        {"output.kind": "label", "output.campaign_id": "x"},
        {"output.kind": {"$in": ["label", "walk"]}, "output.energy": {"$lt": -2}},
        {"output.campaign_id": 3},
        {"output.key": None},
        {"output.key": {"$in": ["k1", None]}},
        {"output.key": {"$exists": True}},
        {"output.steps": 2},
        {"$or": [{"uuid": "b"}, {"output.key": "k1"}]},
        {"time": {"$gt": datetime(2026, 1, 1)}},  # noqa: DTZ001
    ],
)
def test_answers_are_those_of_a_store_in_memory(store, criteria):
    memory = MemoryStore(key="uuid")
    memory.connect()
    memory.update(DOCUMENTS, key=["uuid", "index"])
    for options in ({}, {"sort": {"uuid": -1, "index": 1}, "skip": 1, "limit": 2}, {"limit": 1}):
        for properties in (None, *PROJECTIONS):
            found, expected = (
                [{**d, "_id": 0} for d in s.query(criteria, properties, **options)] for s in (store, memory)
            )
            assert found == expected
    assert store.count(criteria) == memory.count(criteria)
    assert sorted(store.distinct("uuid", criteria)) == sorted(memory.distinct("uuid", criteria))


def test_what_is_written_again_replaces(store, tmp_path):
    store.update({"uuid": "a", "index": 2, "output": {"kind": "label", "campaign_id": "z"}}, key=["uuid", "index"])
    assert store.count() == len(DOCUMENTS)
    assert [doc["index"] for doc in store.query({"output.campaign_id": "z"}, ["index"])] == [2]
    store.remove_docs({"uuid": "a", "index": 1})
    assert store.count({"uuid": "a"}) == 1
    store.close()
    again = MontyDecoder().process_decoded(store.as_dict())
    again.connect()
    assert again.count() == len(DOCUMENTS) - 1
    assert again.ensure_index("uuid")
    assert not again.ensure_index("output.energy")


def test_a_relative_path_is_of_the_folder_in_which_it_was_given(tmp_path, monkeypatch):
    """Jobs run in folders of their own, and open the file again there for claims and names."""
    monkeypatch.chdir(tmp_path)
    store = open_store("store")
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    store.docs_store.beside("claims").insert_one({"_id": "k", "owner": "x"})
    again = MontyDecoder().process_decoded(store.docs_store.as_dict())
    assert again.beside("claims").find_one({"_id": "k"}) == {"_id": "k", "owner": "x"}
    assert list((tmp_path / "job").iterdir()) == []


def test_an_index_is_used(store):
    (plan,) = (
        row[-1]
        for row in store._connection.execute(
            'EXPLAIN QUERY PLAN SELECT bson FROM documents WHERE 1 AND "uuid" IN (?, ?)', ("\x00", "a")
        )
        if "documents" in row[-1]
    )
    assert "USING INDEX by uuid" in plan
    criteria = {"uuid": "a", "index": 1}
    looked_at = store._rows(store._narrowing(criteria), criteria, "id").fetchall()
    assert len(looked_at) == 1
    store._connection.execute('UPDATE documents SET "index" = NULL')  # as in files of earlier versions
    assert len(store._rows(store._narrowing(criteria), criteria, "id").fetchall()) == 2
    assert store.query_one(criteria)["output"]["energy"] == -1.5


def test_versions_change_with_the_documents_and_are_those_of_what_is_found(store):
    both = {"output.kind": "label", "output.campaign_id": "x"}
    before = store.versions(both)
    assert [number for number, _ in before] == [doc["_id"] for doc in store.query(both)]
    assert {version for _, version in before} == {None}, "only the document of c tells whether it is one"
    store.remove_docs({"uuid": {"$in": ["c", "d"]}})
    before = store.versions(both)
    assert None not in {version for _, version in before}
    store.update({"uuid": "a", "index": 2, "output": {"kind": "label", "campaign_id": "x", "energy": 0.0}}, "uuid")
    assert len(set(before) ^ set(store.versions(both))) in (2, 3)
    assert store.versions({"output.energy": 0.0}) == [(store.query_one({"output.energy": 0.0})["_id"], None)]


@pytest.mark.parametrize("values", [[2, 1, 3], ["b", "a", "c"], [2, "a", None], [1.5, 1, True], [[1], [0], [2]]])
@pytest.mark.parametrize("direction", [1, -1])
def test_any_values_are_sorted_as_in_memory(tmp_path, values, direction):
    stores = SQLiteStore(str(tmp_path / "documents.sqlite"), key="uuid"), MemoryStore(key="uuid")
    docs = [{"uuid": str(i), "of": {"value": value}} for i, value in enumerate([*values, values[0]])]
    orders = []
    for one in stores:
        one.connect()
        one.update(docs)
        orders.append([doc["uuid"] for doc in one.query({}, sort={"of.value": direction}, limit=3)])
    assert orders[0] == orders[1]


WRITER = """
import sys
from pathlib import Path
from mlip_autopipec.database.disk import open_store

store = open_store(Path(sys.argv[1]))
for i in range(30):
    store.update({"uuid": f"{sys.argv[2]}{i}", "index": 1, "output": {"payload": {"x": i}}}, save={"data": ["payload"]})
"""


def test_a_store_that_another_process_makes_and_fills_meanwhile_is_whole(tmp_path, monkeypatch):
    """Seen once, on a busy machine: it was refused as one without its second file."""
    look, others = SQLiteStore.query_one, []

    def query_one(self, *args, **kwargs):
        if not others:
            others.append(1)
            other = open_store(tmp_path)
            other.update({"uuid": "a", "index": 1, "output": {"payload": {"x": 1}}}, save={"data": ["payload"]})
            other.close()
        return look(self, *args, **kwargs)

    monkeypatch.setattr(SQLiteStore, "query_one", query_one)
    store = open_store(tmp_path)
    assert others
    assert store.query_one({}, load=True)["output"]["payload"]["x"] == 1


def test_several_processes_write_at_once(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "pq"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    store = open_store(tmp_path)
    found = {doc["uuid"]: doc["output"]["payload"]["x"] for doc in store.query({}, ["output"], load=True)}
    assert found == {f"{name}{i}": i for name in "pq" for i in range(30)}


def test_what_a_new_document_replaces_is_found_without_taking_all_others_apart(store, monkeypatch):
    """The assessments of a campaign share a uuid: each would take apart all before."""
    store.update([{"uuid": "loop", "index": n, "output": {"cycle": n}} for n in range(1, 30)], key=["uuid", "index"])
    taken_apart = []
    decoded = SQLiteStore._decoded

    def counting(self, number, *rest):
        taken_apart.append(number)
        return decoded(self, number, *rest)

    monkeypatch.setattr(SQLiteStore, "_decoded", counting)
    store.update({"uuid": "loop", "index": 30, "output": {"cycle": 30}}, key=["uuid", "index"])
    assert taken_apart == []
    store.update({"uuid": "loop", "index": 7, "output": {"cycle": -7}}, key=["uuid", "index"])
    assert len(taken_apart) == 1
    found = sorted((doc["index"], doc["output"]["cycle"]) for doc in store.query({"uuid": "loop"}))
    assert found == [(n, -7 if n == 7 else n) for n in range(1, 31)]
