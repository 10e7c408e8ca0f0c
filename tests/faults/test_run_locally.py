"""run_locally in a process that is killed, and OTFMaker.resume in the next one."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import pytest
from campaign_workers import MONGO_URI
from faults.parts import Expected, Ledger
from faults.processes import FULL, Death, named, open_any
from faults.runs import BY_KIND, BY_MOMENT, IN_ANY_JOB, SINGLY, Campaign, finish, survive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import ForkServerContext
    from pathlib import Path


@pytest.fixture
def begin(context: ForkServerContext, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Campaign]:
    def begin(kind: str) -> Campaign:
        folder = tmp_path / "run"
        folder.mkdir()
        if kind == "disk":
            return Campaign(context, folder, str(folder / "store"))
        if not MONGO_URI:
            pytest.skip("no MongoDB server: set MLIP_AUTOPIPEC_TEST_MONGO_URI to its address, or use .ci/run")
        return Campaign(context, folder, str(request.getfixturevalue("configured").file))

    return begin


@pytest.mark.parametrize("deaths", SINGLY if FULL else BY_KIND, ids=named(SINGLY if FULL else BY_KIND))
def test_on_disk(begin: Callable[[str], Campaign], deaths: Sequence[Death], expected: Expected) -> None:
    survive(begin("disk"), deaths, expected)


@pytest.mark.parametrize("deaths", SINGLY if FULL else BY_MOMENT, ids=named(SINGLY if FULL else BY_MOMENT))
def test_on_a_server(begin: Callable[[str], Campaign], deaths: Sequence[Death], expected: Expected) -> None:
    survive(begin("server"), deaths, expected)


def test_clocks_that_go_back(begin: Callable[[str], Campaign], expected: Expected) -> None:
    """Nothing relies on later documents having later times: each process lives an hour before the last one."""
    campaign = begin("disk")
    survive(campaign, IN_ANY_JOB, expected, hours=1)
    store = open_any(campaign.address)
    times = {doc["name"]: doc["completed_at"] for doc in store.query({}, ["name", "completed_at"])}
    store.close()
    assert times["assess c002"] < times["assess c001"] < times["assess c000"]


@pytest.mark.parametrize("job", ["record campaign", "label c000 000", "explore c000 w00", "assess c001"])
def test_in_the_midst_of_writing_to_disk(begin: Callable[[str], Campaign], expected: Expected, job: str) -> None:
    """A row is in SQLite's journal, and not committed; the dumped frames do not fit into its cache."""
    has_bulk = job in ("record campaign", "explore c000 w00")
    deaths = [*([Death("bulk", job)] if has_bulk else []), Death("document", job)]
    campaign = begin("disk")
    survive(campaign, deaths, expected, dumped_bytes=3_000_000 if "explore" in job else 0)


@pytest.mark.parametrize("kind", ["disk", "server"])
def test_bulk_is_stored_before_what_refers_to_it(begin: Callable[[str], Campaign], kind: str) -> None:
    campaign = begin(kind)
    assert campaign.ends(Death("between", "train c000")) == -signal.SIGKILL, campaign.log.read_text()
    store = open_any(campaign.address)
    assert store.query_one({"name": "train c000"}) is None
    there = set(store.additional_stores["data"].distinct("blob_uuid"))
    referred = {str(blob) for blob in store.distinct("output.payload.blob_uuid") if blob}
    assert referred < there
    assert len(there - referred) == 1
    store.close()


def test_in_the_midst_of_writing_to_gridfs(begin: Callable[[str], Campaign], expected: Expected) -> None:
    """More than one document of MongoDB holds, half of it written: nothing refers to it, and it is written anew."""
    campaign = begin("server")
    death = Death("bulk", "explore c000 w00")
    assert campaign.ends(death, dumped_bytes=13_500_000) == -signal.SIGKILL, campaign.log.read_text()
    store = open_any(campaign.address)
    files = store.additional_stores["data"]._files_collection
    chunks = store.additional_stores["data"]._chunks_collection
    halves = set(chunks.distinct("files_id")) - set(files.distinct("_id"))
    assert [chunks.count_documents({"files_id": half}) > 60 for half in halves] == [True]
    ledger = Ledger(campaign.events)
    campaign.note(ledger)
    assert campaign.ends(dumped_bytes=13_500_000) == 0, campaign.log.read_text()
    finish(campaign, ledger, expected, [])
    assert max(file["length"] for file in files.find()) > 16 * 1024**2
    assert set(chunks.distinct("files_id")) == halves | set(files.distinct("_id"))


@pytest.mark.parametrize("seed", range(12 if FULL else 2))
@pytest.mark.parametrize("kind", ["disk", "server"])
def test_at_any_moment(begin: Callable[[str], Campaign], expected: Expected, kind: str, seed: int) -> None:
    """Killed by the clock, wherever that is."""
    campaign, rng, killed = begin(kind), random.Random(seed), 0
    ledger = Ledger(campaign.events)
    for _ in range(8):
        process = campaign.start()
        process.join(rng.uniform(0.05, 0.5) if killed else 0.05)  # the first time it cannot have ended yet
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        campaign.note(ledger)
    assert killed
    assert campaign.ends() == 0, campaign.log.read_text()
    finish(campaign, ledger, expected, killed)
