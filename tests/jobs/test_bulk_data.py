"""Documents that are listed leave their bulk data in the store, and say so when it is asked for."""

from __future__ import annotations

import pytest
from ase.build import bulk
from jobflow import JobStore
from maggma.stores import MemoryStore

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.bulk import store_bulk_first
from mlip_autopipec.schemas.base import time_of
from mlip_autopipec.schemas.walk import WalkDocument


class OneOfAUsersOwn(JobStore):
    """As users have them."""


@pytest.mark.parametrize("cls", [JobStore, OneOfAUsersOwn])
def test_bulk_is_written_before_the_document_that_refers_to_it(cls, monkeypatch):
    """In stores of any class, which stay of that class: a process that dies in between leaves nothing half."""
    store = cls(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    store_bulk_first(store)
    store_bulk_first(store)
    order = []
    for name, one in (("document", store.docs_store), ("bulk", store.additional_stores["data"])):
        original = one.update

        def noted(*args, name=name, original=original, **kwargs):
            order.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(one, "update", noted)
    document = {"uuid": "a", "index": 1, "output": {"payload": {"x": [1.0, 2.0]}, "kind": "walk"}}
    store.update(document, key=["uuid", "index"], save={"data": "payload"})
    assert order == ["bulk", "document"]
    assert type(store) is cls
    assert store.query_one({"uuid": "a"}, load=True)["output"]["payload"] == {"x": [1.0, 2.0]}
    assert "x" not in store.query_one({"uuid": "a"})["output"]["payload"]


def test_documents_are_ordered_by_their_own_time():
    """Workers in two zones: what was made first has the later local time."""
    first = {"completed_at": "2026-10-25T18:00:00", "output": {"made_at": "2026-10-25T10:00:00+00:00"}}
    second = {"completed_at": "2026-10-25T12:30:00", "output": {"made_at": "2026-10-25T11:30:00+00:00"}}
    assert sorted([second, first], key=time_of) == [first, second]
    assert time_of({"completed_at": "2026-10-25T12:30:00", "output": None}) == "2026-10-25T12:30:00"


def test_a_walk_gives_its_trace_and_frames():
    payload = {"final": pack_frames([bulk("Cu")]), "frames": pack_frames([]), "trace": {"step": [0, 10]}}
    walk = WalkDocument(uuid="w", walker=0, status="CONVERGED", payload=payload)
    assert walk.trace() == {"step": [0, 10]}
    assert walk.final_atoms() == bulk("Cu")
    assert walk.dumped_frames() == []


@pytest.mark.parametrize("ask", [WalkDocument.trace, WalkDocument.final_atoms, WalkDocument.dumped_frames])
def test_a_walk_without_them_says_how_to_read_them(ask):
    with pytest.raises(MLIPError, match=r"walk document w has no .* with it.*Campaigns\.walk or"):
        ask(WalkDocument(uuid="w", walker=0, status="CONVERGED"))
