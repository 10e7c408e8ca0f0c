"""Campaigns on a FireWorks LaunchPad."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlip_autopipec.errors import ExecutableError, InvalidInputError
from mlip_autopipec.flows.workers import STEPS, assign_workers
from mlip_autopipec.schemas.loop import LoopState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fireworks import LaunchPad
    from jobflow import Flow

logger = logging.getLogger(__name__)

#: The category of each step's Fireworks unless ``submit`` is told otherwise: its name.
CATEGORIES: dict[str, dict[str, Any]] = {step: {"_category": step} for step in STEPS}

_UNFINISHED = ("WAITING", "READY", "RESERVED", "RUNNING", "PAUSED")


@dataclass(frozen=True)
class Submission:
    """
    What became of a submitted campaign.

    Parameters
    ----------
    campaign_id
        Of the campaign, in the JobStore and in the metadata of the workflow.
    workflow_name
        For ``lpad get_wflows -n``.
    fw_ids
        Of the Fireworks there are by now, in the order of their numbers; each names the workflow.
    """

    campaign_id: str
    workflow_name: str
    fw_ids: list[int]


def submit(
    flow: Flow,
    launchpad: LaunchPad | None = None,
    workers: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    priority: int | None = None,
) -> Submission:
    """
    Put a campaign on a LaunchPad.

    Workers write into the JobStore they are configured for (``JOBFLOW_CONFIG_FILE``); no store, and
    so no password, enters a Firework. Lost and fizzled jobs may be rerun by FireWorks' own
    commands (:class:`~mlip_autopipec.firetask.CampaignFiretask`).

    Parameters
    ----------
    flow
        Of :class:`~mlip_autopipec.flows.otf.OTFMaker`. It is not changed.
    launchpad
        By default the one FireWorks is configured for (``my_launchpad.yaml``, ``LAUNCHPAD_LOC``).
    workers
        Which step goes where: for any of the steps ``label``, ``train``, ``explore`` and ``light``
        (everything else) entries of a Firework's spec, such as ``_category``, ``_fworker`` or
        ``_queueadapter``, instead of :data:`CATEGORIES`. A worker without category takes all.
    priority
        ``_priority`` of all jobs of the campaign, against other campaigns on this LaunchPad: higher runs first.

    Returns
    -------
    Submission
        How to find the campaign again.

    Raises
    ------
    InvalidInputError
        The flow is no campaign, ``workers`` names an unknown step, or the campaign has a workflow on
        this LaunchPad that is not finished: two would compute everything twice.
    ExecutableError
        FireWorks is not installed.
    """
    try:
        from fireworks import LaunchPad
        from jobflow.managers.fireworks import flow_to_workflow

        from mlip_autopipec.firetask import as_campaign_tasks
    except ImportError as error:
        raise ExecutableError(f"FireWorks is missing ({error}): pip install 'mlip-autopipec[fireworks]'") from error

    campaign_id = campaign_of(flow)
    entries = {step: dict(entry) for step, entry in {**CATEGORIES, **(workers or {})}.items()}
    if priority is not None:
        entries = {step: {"_priority": priority, **entry} for step, entry in entries.items()}
    flow = deepcopy(flow)
    assign_workers(flow, entries)
    flow.update_metadata({"campaign_id": campaign_id})
    pad = launchpad or LaunchPad.auto_load()
    _retire_earlier_workflows(pad, campaign_id)

    name = f"{flow.name} {campaign_id}"
    workflow = flow_to_workflow(flow, name=name, metadata={"campaign_id": campaign_id})
    as_campaign_tasks(workflow)
    fw_ids = sorted(pad.add_wf(workflow).values())
    logger.info("campaign %s is on LaunchPad %s as workflow of Firework %d", campaign_id, pad.name, fw_ids[0])
    return Submission(campaign_id, name, fw_ids)


def campaign_of(flow: Flow) -> str:
    """
    Return the id of the campaign a flow runs.

    Raises
    ------
    InvalidInputError
        The flow runs none, or several: FireWorks locks a workflow as a whole, so that each
        campaign has to be one of its own.
    """
    found = {
        argument.campaign_id
        for job, _ in flow.iterflow()
        for argument in (*job.function_args, *job.function_kwargs.values())
        if isinstance(argument, LoopState)
    }
    if len(found) != 1:
        raise InvalidInputError(
            f"flow '{flow.name}' holds {len(found)} campaigns; submit each Flow of OTFMaker by itself"
        )
    return found.pop()


def _retire_earlier_workflows(pad: LaunchPad, campaign_id: str) -> None:
    """Refuse a campaign that still runs; archive its failed workflows, lest a rerun brings them back to life."""
    for workflow in pad.workflows.find({"metadata.campaign_id": campaign_id}):
        fw_id = min(workflow["nodes"])
        open_jobs = sorted(int(i) for i, state in workflow["fw_states"].items() if state in _UNFINISHED)
        if open_jobs:
            raise InvalidInputError(
                f"campaign {campaign_id} is on LaunchPad {pad.name} already, as the workflow of Firework {fw_id} "
                f"({workflow['state']}), and its Fireworks {open_jobs[:5]} are not finished. Let it run; or bring "
                "lost and fizzled jobs back (lpad detect_lostruns --rerun --refresh; lpad rerun_fws -i <fw_id>); or "
                f"give it up (lpad archive_wflows -i {fw_id}) and submit again"
            )
        if workflow["state"] not in ("COMPLETED", "ARCHIVED"):
            logger.warning("workflow of Firework %d (%s) is archived: its campaign goes on", fw_id, workflow["state"])
            pad.archive_wf(fw_id)
