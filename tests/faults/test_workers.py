"""A campaign with several worker processes: workers that are killed one by one, and all with the campaign."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faults.parts import Expected, Ledger
from faults.processes import MOMENTS, Death, lost_labels
from faults.runs import BY_MOMENT, Campaign, finish, survive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import ForkServerContext
    from pathlib import Path


@pytest.fixture
def begin(context: ForkServerContext, tmp_path: Path) -> Callable[..., Campaign]:
    def begin(workers: int, *, shares: bool = False) -> Campaign:
        folder = tmp_path / "run"
        folder.mkdir()
        return Campaign(context, folder, str(folder / "store"), workers, shares=shares)

    return begin


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_as_many_workers_as_one_likes_make_the_same_dataset(
    begin: Callable[..., Campaign], expected: Expected, workers: int
) -> None:
    """``expected`` was run by run_locally."""
    campaign = begin(workers)
    assert campaign.ends() == 0, campaign.log.read_text()
    finish(campaign, Ledger(campaign.events), expected, [])


@pytest.mark.parametrize("deaths", BY_MOMENT, ids=MOMENTS)
def test_a_worker_is_killed_in_each_kind_of_job(
    begin: Callable[..., Campaign], expected: Expected, deaths: Sequence[Death]
) -> None:
    """The campaign goes on by itself; at one of the moments its jobs have shares of four cores."""
    campaign = begin(4, shares=deaths[0].moment == "stored")
    assert campaign.ends(*deaths, worker_only=True) == 0, campaign.log.read_text()
    finish(campaign, Ledger(campaign.events), expected, lost_labels(deaths))
    assert {path.name for path in campaign.log.parent.iterdir()} >= {str(death) for death in deaths}


@pytest.mark.parametrize("deaths", BY_MOMENT, ids=MOMENTS)
def test_the_campaign_is_killed_with_its_workers_in_each_kind_of_job(
    begin: Callable[..., Campaign], expected: Expected, deaths: Sequence[Death]
) -> None:
    survive(begin(4, shares=deaths[0].moment == "between"), deaths, expected, at_most=True)
