"""The name of a campaign belongs to one of those who begin at once; that of a job that died is free."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from jobflow import JobStore
from maggma.stores import MongoURIStore
from pymongo import MongoClient

from mlip_autopipec.database.disk import open_store
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.names import reserve_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

URI = os.environ.get("MLIP_AUTOPIPEC_TEST_MONGO_URI")

#: A process that reserves the name and dies before its record is stored.
DIES = """
import os, sys
from jobflow import JobStore
from maggma.stores import MongoURIStore
from mlip_autopipec.database.disk import open_store
from mlip_autopipec.jobs.names import reserve_name
kind, address, name = sys.argv[1:]
store = JobStore(MongoURIStore(address, "documents", database=name)) if kind == "server" else open_store(address)
store.connect()
reserve_name(store, "c", 0, "first")
os._exit(9)
"""


@pytest.fixture(params=["disk", "server"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Callable[[], JobStore], list[str]]]:
    """What opens a store, and the command of a process that dies with a reservation in it."""
    name = f"mlip_autopipec_test_{uuid4().hex[:8]}"
    if request.param == "server" and URI is None:
        pytest.skip("no MongoDB server: set MLIP_AUTOPIPEC_TEST_MONGO_URI to its address, or use .ci/run")

    def open_it() -> JobStore:
        if request.param == "disk":
            store = open_store(tmp_path)
        else:
            store = JobStore(MongoURIStore(URI, "documents", database=name))
        store.connect()
        return store

    address = str(tmp_path) if request.param == "disk" else str(URI)
    yield open_it, [sys.executable, "-W", "ignore", "-c", DIES, request.param, address, name]
    if request.param == "server":
        MongoClient(URI).drop_database(name)


def record(job: str) -> dict[str, Any]:
    output = {"kind": "campaign", "campaign_id": "c", "generation": 0}
    return {"uuid": job, "index": 1, "output": output, "completed_at": "2026-01-01T00:00:00"}


def test_one_of_those_who_begin_at_once_has_the_name(opened: tuple[Callable[[], JobStore], list[str]]) -> None:
    open_it, _ = opened
    open_it()  # makes the file, where it is one
    won, refused = [], []

    def begin(job: str) -> None:
        store = open_it()
        try:
            reserve_name(store, "c", 0, job)
        except InvalidInputError:
            refused.append(job)
        else:
            won.append(job)
            store.update(record(job))

    threads = [threading.Thread(target=begin, args=(f"job{k}",)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 5)
    reserve_name(open_it(), "c", 0, won[0])  # that job runs again
    reserve_name(open_it(), "c", 1, "extension")


def test_the_name_of_a_job_that_died_is_free(opened: tuple[Callable[[], JobStore], list[str]]) -> None:
    open_it, command = opened
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode == 9, process.stderr
    reserve_name(open_it(), "c", 0, "second")


def test_the_name_of_a_recorded_campaign_is_not(opened: tuple[Callable[[], JobStore], list[str]]) -> None:
    open_it, _ = opened
    store = open_it()
    reserve_name(store, "c", 0, "first")
    store.update(record("first"))
    with pytest.raises(InvalidInputError, match="campaign_id 'c' is taken"):
        reserve_name(store, "c", 0, "second")
