"""Three workers of FireWorks at once on one LaunchPad, of which one after the other is killed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from campaign_workers import needs_server
from faults.parts import CAMPAIGN, IN_ORDER, KINDS, Expected, check_campaign, make_campaign
from faults.processes import FULL, MOMENTS, Death, lost_labels, named
from faults.workers import N_WORKERS, Workers

from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.managers.fireworks.launchpad import submit

if TYPE_CHECKING:
    from collections.abc import Sequence


pytestmark = [
    needs_server,
    pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed (extra 'fireworks')"),
]

SINGLY = [[Death(moment, job)] for job in KINDS.values() for moment in MOMENTS]
BY_MOMENT = [[Death(moment, KINDS[kind]) for kind in IN_ORDER] for moment in MOMENTS]
GIVEN_UP = SINGLY if FULL else [[Death("between", "label c001 001")], [Death("stored", "assess c001")]]


@pytest.mark.parametrize("deaths", SINGLY if FULL else BY_MOMENT, ids=named(SINGLY if FULL else BY_MOMENT))
def test_lost_jobs_come_back(workers: Workers, deaths: Sequence[Death], expected: Expected) -> None:
    """By ``lpad detect_lostruns --rerun``, while the other workers go on."""
    workers.deaths = deaths
    workers.start(N_WORKERS, deaths)
    fw_id = submit(make_campaign(workers.events), workers.pad).fw_ids[0]
    workers.wait([fw_id])
    assert not [str(death) for death in deaths if not (workers.folder / str(death)).exists()], workers.report()
    workers.ledger.check(workers.configured.store, lost_labels(deaths))
    check_campaign(workers.configured.store, expected)
    workers.check_one_branch(fw_id)


@pytest.mark.parametrize("give_up", [["archive_wflows"], ["defuse_wflows", "archive_wflows"]], ids=" and ".join)
@pytest.mark.parametrize("deaths", GIVEN_UP, ids=named(GIVEN_UP))
def test_given_up_and_resumed(workers: Workers, deaths: list[Death], give_up: list[str], expected: Expected) -> None:
    """The workflow is put away, and a new one goes on from the store; defused, it still has jobs that may run."""
    workers.start(N_WORKERS, deaths)
    first = submit(make_campaign(workers.events), workers.pad).fw_ids[0]
    workers.wait([first], until=lambda: workers.n_killed > 0, rescue=False)
    workers.stop()
    workers.ledger.note(workers.configured.store)
    workers.lpad("admin", "unlock", "-i", str(first))  # one of them may have been killed while it held the lock
    for command in give_up:
        workers.lpad(command, "-i", str(first))
    again = submit(OTFMaker.resume(CAMPAIGN, workers.configured.store), workers.pad).fw_ids[0]
    workers.start(N_WORKERS)
    workers.wait([again])
    workers.ledger.check(workers.configured.store, N_WORKERS)
    check_campaign(workers.configured.store, expected)
    workers.check_one_branch(again)
