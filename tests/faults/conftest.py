"""What all tests of faults share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from faults.parts import Expected, dataset, final_of, make_campaign, without_ids
from faults.processes import warm_context
from faults.workers import Workers
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import ForkServerContext
    from pathlib import Path

    from campaign_workers import Configured


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> ForkServerContext:
    """Where processes are forked from."""
    file = tmp_path_factory.mktemp("fireworks") / "FW_config.yaml"
    file.write_text(
        yaml.safe_dump({"RAPIDFIRE_SLEEP_SECS": 0.1, "WFLOCK_EXPIRATION_SECS": 10, "WFLOCK_EXPIRATION_KILL": True})
    )
    return warm_context(file)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """The campaign that nothing happens to."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(make_campaign(folder / "events.log"), store=store, create_folders=True, root_dir=folder, log=False)
    final = final_of(store)
    assert (final.status, final.n_cycles, final.n_halts, final.n_labels) == ("CONVERGED", 2, 3, 8)
    return Expected(without_ids(final), dataset(store))


@pytest.fixture
def workers(context: ForkServerContext, configured: Configured, tmp_path: Path) -> Iterator[Workers]:
    some = Workers(context, configured, tmp_path)
    yield some
    some.stop()
