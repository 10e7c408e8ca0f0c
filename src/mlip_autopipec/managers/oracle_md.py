"""The oracle's own MD, on which potentials are validated: a job for each run, so that workers share them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jobflow import Flow, Maker

from mlip_autopipec.database.validation import AskedWalk
from mlip_autopipec.flows.cycle import named
from mlip_autopipec.flows.workers import ORACLE_MD
from mlip_autopipec.frames import pack_frames, unpack_frames
from mlip_autopipec.jobs.base import current_store, loop_job
from mlip_autopipec.validation.oracle_md import ValidationSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobflow import Job

    from mlip_autopipec.lammps.types import Condition


def oracle_md_flow(campaign_id: str, asked: Sequence[AskedWalk], static_maker: Maker) -> Flow:
    """
    Make a flow that computes and stores the frames of MD runs of the oracle; none depends on another.

    Parameters
    ----------
    campaign_id
        The campaign.
    asked
        The runs.
    static_maker
        Its ``calculator`` is the oracle.
    """
    jobs: list[Job] = []
    for one in asked:
        settings = {
            "asked": one.asked,
            "settings": asdict(one.settings),
            "seed": one.seed,
            "barostat": one.barostat,
        }
        job = run_oracle_md(static_maker, campaign_id, pack_frames([one.atoms]), one.condition, settings)
        jobs.append(named(job, f"{ORACLE_MD} w{one.walker:02d} {one.begins}"))
    return Flow([*jobs])


@loop_job()
def run_oracle_md(
    static_maker: Maker, campaign_id: str, packed: str, condition: Condition, run: dict[str, Any]
) -> None:
    """
    Run MD of the oracle; its frames are stored as they come, and are what is left of it.

    Parameters
    ----------
    static_maker
        Its ``calculator`` is the oracle.
    campaign_id
        The campaign.
    packed
        The first structure.
    condition
        At which it runs.
    run
        Further fields of :class:`~mlip_autopipec.database.validation.AskedWalk`.
    """
    (atoms,) = unpack_frames(packed)
    AskedWalk(
        0, "start", run["asked"], atoms, condition, ValidationSettings(**run["settings"]), run["seed"], run["barostat"]
    ).done(current_store(), campaign_id, static_maker)
