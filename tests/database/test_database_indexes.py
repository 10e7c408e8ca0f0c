"""Every query that a campaign, and the questions asked about it, send to a MongoDB server can use an index."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from ase.build import bulk
from jobflow import JobStore, run_locally
from maggma.stores import GridFSStore, MemoryStore, MongoStore, MontyStore
from pymongo.errors import OperationFailure
from pymongo.monitoring import CommandListener

from mlip_autopipec.database.builder import CampaignBuilder
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.jobs.indexes import INDEXES, create_indexes
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, stand_in_loop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.monitoring import CommandStartedEvent

COMMAND_NOT_FOUND = 59
URI = os.environ.get("MLIP_AUTOPIPEC_TEST_MONGO_URI")
needs_server = pytest.mark.skipif(
    not URI, reason="no MongoDB server: set MLIP_AUTOPIPEC_TEST_MONGO_URI to its address, or use .ci/run"
)


class Filters(CommandListener):
    """Notes the filter of every command that looks for documents."""

    def __init__(self) -> None:
        self.seen: dict[str, list[dict[str, Any]]] = {}

    def started(self, event: CommandStartedEvent) -> None:
        command, collection = event.command, str(event.command.get(event.command_name))
        match event.command_name:
            case "find":
                found = [command.get("filter", {})]
            case "distinct":
                found = [command.get("query", {})]
            case "aggregate":  # a count is one too
                found = [command["pipeline"][0].get("$match", {})]
            case "update":
                found = [update["q"] for update in command["updates"]]
            case _:
                return
        self.seen.setdefault(collection, []).extend(dict(one) for one in found)

    def succeeded(self, event: object) -> None:
        """Nothing to note."""

    def failed(self, event: object) -> None:
        """Nothing to note."""


@pytest.fixture
def watched() -> Iterator[tuple[JobStore, Filters]]:
    """A JobStore on the server, and what it is asked."""
    filters = Filters()
    name = f"mlip_autopipec_test_{uuid.uuid4().hex[:8]}"
    kwargs: dict[str, Any] = {"uri": URI, "mongoclient_kwargs": {"event_listeners": [filters]}}
    store = JobStore(
        MongoStore(name, "documents", **kwargs), additional_stores={"data": GridFSStore(name, "data", **kwargs)}
    )
    store.connect()
    yield store, filters
    store._collection.database.client.drop_database(name)
    store.close()


def explains(store: JobStore) -> bool:
    """Tell whether the server knows the command; mongo-java-server does not."""
    try:
        store._collection.find({}).explain()
    except OperationFailure as error:
        if error.code != COMMAND_NOT_FOUND:
            raise
        return False
    return True


@needs_server
def test_every_query_can_use_an_index(watched, tmp_path):
    store, filters = watched
    assert create_indexes(store)
    assert create_indexes(store)  # a second time does no harm
    maker = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100), Halt(step=300)]))
    flow = maker.make(bulk("Cu", cubic=True), 300, campaign_id="copper")
    run_locally(flow, store=store, create_folders=True, root_dir=tmp_path, log=False, ensure_success=True)
    campaigns = Campaigns(store)
    label = campaigns.labels("copper", cycle=1)[0]
    campaigns.list(["Cu"]), campaigns.status("copper"), campaigns.cycles("copper"), campaigns.task("copper")
    campaigns.halts("copper"), campaigns.potentials("copper"), campaigns.potential("copper", 1)
    campaigns.best_potential(["Cu"]), campaigns.dataset("copper"), campaigns.origin(label.uuid)
    campaigns.trained_on(campaigns.status("copper").potential_id)
    builder = CampaignBuilder(store, MemoryStore())
    builder.target.connect()
    builder.update_targets([builder.process_item(item) for item in builder.get_items()])

    database = store._collection.database
    for collection in ("documents", "data.files"):
        indexes = [[field for field, _ in index["key"]] for index in database[collection].index_information().values()]
        assert len(filters.seen[collection]) > 10
        for criteria in filters.seen[collection]:
            usable = [fields for fields in indexes if fields[0] in criteria]
            assert usable or not criteria, f"no index of {collection} serves {criteria}"
            if criteria and explains(store):
                plan = database[collection].find(criteria).explain()["queryPlanner"]["winningPlan"]
                assert "COLLSCAN" not in str(plan), (criteria, plan)
    assert {fields[0] for fields in INDEXES} >= {next(iter(c)) for c in filters.seen["documents"] if len(c) == 1}


@needs_server
def test_whoever_may_only_read_is_told(watched, monkeypatch, caplog):
    store, _ = watched

    def refuse(*_: object, **__: object) -> None:
        raise OperationFailure("not authorized on db to execute command createIndexes", 13)

    monkeypatch.setattr(store.docs_store._collection.__class__, "create_index", refuse)
    assert not create_indexes(store)
    assert "not authorized" in caplog.text


def test_stores_without_a_server(tmp_path):
    memory = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    memory.connect()
    assert create_indexes(memory)
    documents, data = (MontyStore(name, database_path=str(tmp_path)) for name in ("documents", "data"))
    disk = JobStore(documents, additional_stores={"data": data})
    disk.connect()
    assert not create_indexes(disk)
