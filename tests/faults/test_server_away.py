"""The server goes away and comes back in the midst of campaigns with three workers; campaigns that share labels."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING

import campaign_workers
import pytest
from campaign_workers import needs_server
from faults.parts import Expected, check_campaign, computed_keys, dataset, final_of, make_campaign
from faults.workers import N_WORKERS, Workers
from server.mongo import MongoServer, NoServerError

from mlip_autopipec.managers.fireworks.launchpad import submit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import ForkServerContext
    from pathlib import Path

pytestmark = pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed (extra 'fireworks')")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MongoServer]:
    """A server of the test's own, which ``configured`` then uses."""
    try:
        own = MongoServer(tmp_path / "server")
    except NoServerError as why:
        pytest.skip(f"no MongoDB server of one's own: {why}")
    with own:
        monkeypatch.setattr(campaign_workers, "MONGO_URI", own.uri)
        yield own


@pytest.mark.long
def test_the_server_goes_away(
    server: MongoServer, context: ForkServerContext, request: pytest.FixtureRequest, tmp_path: Path, expected: Expected
) -> None:
    """It is stopped and started, then killed and started, each time after a label was computed."""
    workers = Workers(context, request.getfixturevalue("configured"), tmp_path)
    workers.start(N_WORKERS)

    def stop() -> None:
        server.stop()
        server.start()

    def kill() -> None:
        server.kill()
        server.start()

    try:
        fw_id = submit(make_campaign(workers.events), workers.pad).fw_ids[0]
        workers.wait_through([fw_id], stop, kill)
        check_campaign(workers.configured.store, expected, said=workers.report)
        # jobs whose document is stored, but whose end FireWorks could not note
        workers.lpad("rerun_fws", "-s", "FIZZLED")
        workers.wait([fw_id])
    finally:
        workers.stop()
    check_campaign(workers.configured.store, expected)
    workers.check_one_branch(fw_id)
    # what was computed when the server was away could not be stored
    workers.ledger.check(workers.configured.store, 2 * N_WORKERS)


@needs_server
def test_two_campaigns_share_their_labels(workers: Workers, expected: Expected) -> None:
    """At the same time, on one LaunchPad: each label is computed once for both."""
    ids = ["one", "two"]
    fw_ids = [submit(make_campaign(workers.events, name), workers.pad).fw_ids[0] for name in ids]
    workers.start(N_WORKERS)
    workers.wait(fw_ids)
    for name, fw_id in zip(ids, fw_ids, strict=True):
        check_campaign(workers.configured.store, expected, name)
        workers.check_one_branch(fw_id)
    assert dataset(workers.configured.store, "one") == dataset(workers.configured.store, "two")
    assert set(Counter(computed_keys(workers.events)).values()) == {1}
    workers.ledger.check(workers.configured.store, 0)
    n_reused = [final_of(workers.configured.store, name).n_reused_labels for name in ids]
    assert sum(n_reused) == len(computed_keys(workers.events)) == expected.final["n_labels"]
