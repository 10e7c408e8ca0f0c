"""Campaigns on a FireWorks LaunchPad."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
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
    commands (:class:`~mlip_autopipec.managers.fireworks.firetask.CampaignFiretask`).

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
        FireWorks is not installed, or the LaunchPad was never set up.
    """
    try:
        from fireworks import LaunchPad
        from jobflow.managers.fireworks import flow_to_workflow

        from mlip_autopipec.managers.fireworks.firetask import as_campaign_tasks
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
    if pad.fw_id_assigner.find_one({}) is None:
        raise ExecutableError(f"LaunchPad {pad.name} was never set up; do it once: `lpad reset` (docs/fireworks.md)")
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


@dataclass(frozen=True)
class Mended:
    """
    What :func:`mend` put right.

    Parameters
    ----------
    carried_on
        Fireworks that were done without their workflow knowing.
    removed
        Fireworks that belonged to no workflow.
    """

    carried_on: list[int]
    removed: list[int]


def mend(launchpad: LaunchPad | None = None, *, older_than_s: float = 3600.0) -> Mended:
    """
    Put right what a worker leaves that is killed in the middle of writing to the LaunchPad.

    FireWorks writes the Fireworks of a workflow one after the other and the workflow last. Killed within these
    some hundredths of a second, a worker leaves Fireworks that are done while the workflow says that they run, and new
    ones that no workflow knows; ``lpad detect_lostruns`` sees neither, and the campaign stands still.

    Parameters
    ----------
    launchpad
        As for :func:`submit`.
    older_than_s
        What was written later is left alone, in s: it may be in the middle of being written.

    Returns
    -------
    Mended
        Ids of Fireworks; empty lists where nothing was wrong.
    """
    from fireworks import LaunchPad

    from mlip_autopipec.managers.fireworks.firetask import APPENDED_BY
    from mlip_autopipec.managers.fireworks.private import refresh

    pad = launchpad or LaunchPad.auto_load()
    mended = Mended([], [])
    known: set[int] = set()
    for workflow in pad.workflows.find({"metadata.campaign_id": {"$exists": True}}, ["nodes", "links", "fw_states"]):
        nodes, states = workflow["nodes"], workflow["fw_states"]
        known.update(nodes)
        appends = {"fw_id": {"$in": nodes}, "state": "COMPLETED", "action.detours.0": {"$exists": True}}
        appending = {launch["launch_id"] for launch in pad.launches.find(appends, ["launch_id"])}
        fields = ["fw_id", "state", "launches", "updated_on", f"spec.{APPENDED_BY}", "spec._allow_fizzled_parents"]
        fireworks = {fw["fw_id"]: fw for fw in pad.fireworks.find({"fw_id": {"$in": nodes}}, fields)}
        for fw_id, firework in fireworks.items():
            if _age_s(firework["updated_on"]) < older_than_s:
                continue
            if firework["state"] == "RESERVED" and not firework["launches"]:  # by a worker that never launched it
                pad.fireworks.update_one({"fw_id": fw_id}, {"$set": {"state": "READY"}})
                refresh(pad, fw_id)
                mended.carried_on.append(fw_id)
            parents = {int(i) for i, children in workflow["links"].items() if fw_id in children}
            done = {"COMPLETED", "FIZZLED"} if firework["spec"].get("_allow_fizzled_parents") else {"COMPLETED"}
            if firework["state"] == "WAITING" and {fireworks[i]["state"] for i in parents} <= done:
                refresh(pad, fw_id)  # its last parent ended without its knowing
                mended.carried_on.append(fw_id)
            if firework["state"] not in ("COMPLETED", "FIZZLED"):
                continue
            unknown = states[str(fw_id)] != firework["state"]
            appended = {fireworks[child]["spec"].get(APPENDED_BY) for child in workflow["links"][str(fw_id)]}
            if unknown or (appending & set(firework["launches"]) and fw_id not in appended):
                # as it was before: the refresh then applies what the job returned, which its launch holds
                pad.fireworks.update_one({"fw_id": fw_id}, {"$set": {"state": "RUNNING"}})
                refresh(pad, fw_id)
                mended.carried_on.append(fw_id)
    for firework in pad.fireworks.find({f"spec.{APPENDED_BY}": {"$exists": True}}, ["fw_id", "created_on"]):
        # read again: the workflow may have grown meanwhile
        fw_id = firework["fw_id"]
        old = fw_id not in known and _age_s(firework["created_on"]) >= older_than_s
        if old and pad.workflows.find_one({"nodes": fw_id}, ["nodes"]) is None:
            pad.fireworks.delete_one({"fw_id": fw_id})
            pad.launches.delete_many({"fw_id": fw_id})
            mended.removed.append(fw_id)
    logger.info("LaunchPad %s: %s", pad.name, mended)
    return mended


def _age_s(written: datetime | str) -> float:
    """Seconds since a time FireWorks wrote down, which is UTC with or without saying so."""
    when = datetime.fromisoformat(written) if isinstance(written, str) else written
    return (datetime.now(UTC) - (when if when.tzinfo else when.replace(tzinfo=UTC))).total_seconds()
