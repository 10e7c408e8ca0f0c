"""JobStores in which a campaign would be lost are told from those that keep it."""

from __future__ import annotations

import pytest
from ase.build import bulk
from jobflow import JobStore
from maggma.stores import GridFSStore, MemoryStore, MongoStore

from mlip_autopipec.database.disk import open_store
from mlip_autopipec.database.documents import StoredDocuments
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.jobs.stores import lacks, title_of
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, stand_in_loop

ON_SERVER = MongoStore("x", "documents", password="s3cret", username="me")
BULK = GridFSStore("x", "bulk")


@pytest.mark.parametrize(
    ("documents", "additional", "told"),
    [
        (ON_SERVER, {"data": BULK}, ""),
        (MemoryStore(), {"data": BULK}, "it is in memory"),
        (ON_SERVER, {}, "additional stores [], and bulk data goes to one named 'data'"),
        (ON_SERVER, {"bulk": BULK}, "additional stores ['bulk']"),
        (ON_SERVER, {"data": MemoryStore()}, "'data' is in memory"),
    ],
)
def test_what_would_lose_a_campaign(documents, additional, told):
    found = lacks(JobStore(documents, additional_stores=additional))
    assert told in found
    assert bool(found) is bool(told)


def test_the_store_of_a_folder_keeps(tmp_path):
    store = open_store(tmp_path / "store")
    assert lacks(store) == ""
    store.close()


def test_the_title_says_no_password():
    assert title_of(JobStore(ON_SERVER)) == "collection x.documents"


def test_bulk_data_that_is_elsewhere_is_told(run_loop, memory_jobstore):
    run_loop(stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)])).make(bulk("Cu"), 300))
    other = JobStore(memory_jobstore.docs_store, additional_stores={"data": MemoryStore()})
    other.connect()
    documents = StoredDocuments(other)
    assert documents.read(PotentialDocument, "potential", {}, payload=False)
    with pytest.raises(MLIPError, match=r"of a potential is not in the additional store.*'data' that of this campaign"):
        documents.read(PotentialDocument, "potential", {})
