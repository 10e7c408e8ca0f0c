"""
The server of the tests: what it acknowledged outlives its death, and it does what FireWorks and jobflow-remote ask.

On a machine with ``mongod`` these say the same of ``mongod``.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import gridfs
import pytest
from pymongo import MongoClient, ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError
from server.mongo import MongoServer, NoServerError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    try:
        server = MongoServer(tmp_path_factory.mktemp("server"))
    except NoServerError as why:
        pytest.skip(f"no MongoDB server of one's own: {why}")
    with server:
        yield server


def test_nothing_acknowledged_is_lost_by_sigkill(server: MongoServer) -> None:
    """Three clients write while it is killed and started, and go on afterwards."""
    acknowledged: list[dict[str, int]] = [{}, {}, {}]
    stop = threading.Event()

    def write(number: int) -> None:
        with MongoClient(server.uri) as client:
            collection = client["killed"]["documents"]
            for i in range(1_000_000):
                name = f"{number}-{i}"
                try:
                    collection.insert_one({"_id": name, "text": "x" * (i * 37 % 5000), "n": 0})
                    acknowledged[number][name] = 0
                    earlier = f"{number}-{i // 2}"
                    if collection.update_one({"_id": earlier}, {"$set": {"n": i}}).matched_count:
                        acknowledged[number][earlier] = i  # else the kill met its insert, which was not acknowledged
                except PyMongoError:  # not acknowledged: may be there or not
                    time.sleep(0.05)
                if stop.is_set():
                    return

    with MongoClient(server.uri) as client:
        gridfs.GridFS(client["killed"]).put(b"y" * 1_000_000, _id="large")
        writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        for writer in writers:
            writer.start()
        time.sleep(1)
        server.kill()
        before = sum(map(len, acknowledged))
        server.start()
        time.sleep(1)
        stop.set()
        for writer in writers:
            writer.join()
        assert 0 < before < sum(map(len, acknowledged)), "nothing was written before the kill, or nothing after it"
        found = {document["_id"]: document["n"] for document in client["killed"]["documents"].find()}
        lost = [(name, n) for one in acknowledged for name, n in one.items() if name not in found or found[name] < n]
        assert not lost
        for name in list(found)[:20]:  # the index knows what the collection holds
            assert client["killed"]["documents"].find_one({"_id": name}, ["n"]) == {"_id": name, "n": found[name]}
            with pytest.raises(DuplicateKeyError):
                client["killed"]["documents"].insert_one({"_id": name})
        assert gridfs.GridFS(client["killed"]).get("large").read() == b"y" * 1_000_000


def test_updates_by_a_pipeline(server: MongoServer) -> None:
    """As jobflow-remote takes its locks."""
    with MongoClient(server.uri) as client:
        jobs = client["pipelines"]["jobs"]
        jobs.insert_many({"_id": n, "lock": None, "remote": {"n": n, "error": "none"}} for n in (3, 1, 2))

        def lock(owner: str) -> dict[str, Any]:
            held = {"$gt": ["$lock", None]}
            changes = {"lock": {"$cond": {"if": held, "then": "$lock", "else": owner}}, "remote.error": "$remote.n"}
            return jobs.find_one_and_update(
                {"_id": {"$gt": 1}}, [{"$set": changes}], sort=[("_id", 1)], return_document=ReturnDocument.AFTER
            )

        assert lock("a") == lock("b") == {"_id": 2, "lock": "a", "remote": {"n": 2, "error": 2}}
        before = jobs.find_one_and_update({"_id": 2}, [{"$set": {"lock": None}}, {"$unset": "remote"}])
        assert before["lock"] == "a"
        assert jobs.find_one({"_id": 2}) == {"_id": 2, "lock": None}
        assert jobs.find_one_and_update({"_id": 7}, [{"$set": {"lock": "c"}}]) is None
        result = jobs.update_many({"_id": {"$ne": 2}}, [{"$set": {"lock": {"$add": ["$remote.n", 1]}}}])
        assert (result.matched_count, result.modified_count) == (2, 2)
        assert {job["_id"]: job["lock"] for job in jobs.find()} == {1: 2, 2: None, 3: 4}
        assert jobs.update_one({"_id": 3}, [{"$set": {"lock": 4}}]).modified_count == 0


def test_lookup_and_projection(server: MongoServer) -> None:
    """As ``jf flow info`` asks."""
    with MongoClient(server.uri) as client:
        database = client["aggregations"]
        database["jobs"].insert_many({"_id": n, "job": {"name": f"job {n}", "large": "x"}} for n in range(3))
        database["flows"].insert_one({"_id": "flow", "jobs": [2, 0]})
        join = {"from": "jobs", "localField": "jobs", "foreignField": "_id", "as": "list"}
        found = database["flows"].aggregate(
            [
                {"$lookup": {**join, "pipeline": [{"$sort": {"_id": 1}}, {"$project": {"job.name": 1}}]}},
                {"$project": {"list.job.name": 1}},
                {"$set": {"n": {"$size": "$list"}}},
            ]
        )
        assert list(found) == [{"_id": "flow", "list": [{"job": {"name": f"job {n}"}} for n in (0, 2)], "n": 2}]
