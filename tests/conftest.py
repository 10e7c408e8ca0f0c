"""Fixtures of this package's own tests; most are those that packages built on this one use."""

from __future__ import annotations

import gc
import logging
import os
import signal
import uuid
from typing import TYPE_CHECKING

import pytest
from quick_neighbours import use_in_emt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobflow import JobStore

# Python looks through all that tests import, again and again, while they are collected: two fifths of that time
gc.disable()

use_in_emt()

# A suite begun in the background (nohup, &) ignores SIGINT, and so would every program that a test sends it to
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Commands run their jobs in the process of the test unless it asks for workers: it may have changed what they do
os.environ.setdefault("MLIP_AUTOPIPEC_WORKERS", "0")
# Nothing is kept in the cache folder of whoever runs the tests
os.environ.setdefault("MLIP_AUTOPIPEC_ROWS_MB", "0")

pytest_plugins = ["mlip_autopipec.testing.fixtures", "campaign_workers", "forked_md"]

SERVER = "MLIP_AUTOPIPEC_TEST_MONGO_URI"

# maggma's Builder.run sets the root logger to DEBUG, whereupon pymongo writes every command and reply as JSON
logging.getLogger("pymongo").setLevel(logging.INFO)


#: Files that take half a minute and more. They are begun first, lest one process is left with them at the end; those
#: that mostly wait, for workers and servers, stand between those that compute.
LONG = (
    "test_pacemaker",
    "test_launchpad",
    "test_teacher",
    "test_jobflow_remote",
    "test_kinds",
    "test_linear_fit",
    "test_grace",
    "test_several",
    "test_loop_vasp",
    "test_fireworks",
    "test_vasp_oracle",
    "test_worth",
    "test_states_and_commands",
    "test_loop_outliers",
    "test_server_away",
    "test_export",
    "test_shares",
    "test_mongo",
    "test_cutout",
    "test_runfile_cli",
    "test_cli_workers",
    "test_report",
    "test_check",
    "test_workers",
    "test_linear_start",
    "test_imports",
    "test_run_locally",
    "test_outliers",
    "test_teach",
    "test_outputs",
    "test_examine",
    "test_library_engine",
    "test_judge",
    "test_cli_several",
    "test_real_parts",
    "test_pacemaker_silicon",
    "test_loop_large_cell",
    "test_resume",
    "test_lammpslib",
    "test_loop_real",
    "test_explore",
    "test_cli_run",
    "test_local",
    "test_bad_places",
    "test_docs_testing",
    "test_properties",
    "test_label_keys",
    "test_barriers",
    "test_database_size",
    "test_threads",
    "test_label_efficiency",
    "test_loop",
    "test_lammps_fireworks",
    "test_docs_command_line",
    "test_vasp_powerups",
    "test_vasp_stand_in_failures",
    "test_loop_explosions",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


def pytest_collection_finish() -> None:
    """Look for garbage again, but not in what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def no_log_to_what_is_closed() -> None:
    """Take away the handlers that jobflow and pyace made for the captured output of a test that is over."""
    for logger in (logging.getLogger(), logging.getLogger("jobflow")):
        for handler in list(logger.handlers):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)


@pytest.fixture(scope="module", params=["memory", "server"])
def database(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    """A JobStore in memory, and one in a database of its own on the MongoDB server that the tests were given."""
    from jobflow import JobStore
    from maggma.stores import GridFSStore, MemoryStore, MongoStore
    from pymongo import MongoClient

    if request.param == "memory":
        store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
        store.connect()
        yield store
        return
    uri = os.environ.get(SERVER)
    if not uri:
        pytest.skip(f"no MongoDB server: set {SERVER} to its address, or use .ci/run")
    name = f"mlip_autopipec_test_{uuid.uuid4().hex[:8]}"
    store = JobStore(
        MongoStore(name, "documents", uri=uri), additional_stores={"data": GridFSStore(name, "data", uri=uri)}
    )
    store.connect()
    yield store
    store.close()
    with MongoClient(uri) as client:
        client.drop_database(name)
