"""The Firetask of a campaign's jobs: jobflow's, made safe to rerun. Needs FireWorks."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireworks import FWAction, Workflow, explicit_serialize
from jobflow import SETTINGS
from jobflow.managers.fireworks import JobFiretask
from pymongo import MongoClient

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.jobs.stores import lacks
from mlip_autopipec.managers.fireworks.private import rerun_running
from mlip_autopipec.schemas.loop import LoopStatus

if TYPE_CHECKING:
    from jobflow import Job, JobStore

logger = logging.getLogger(__name__)

#: Entry of the spec of an appended Firework: the Firework whose job appended it.
APPENDED_BY = "appended_by"

#: Stored in the launch of the job that ended a campaign: how.
ENDED = "campaign_ended"

#: How long a job waits to see whether a lost job it depends on is rerun, and how often it checks, in s.
SETTLE_S, LOOK_S = 10.0, 0.2

#: A job that was lost, or cut off as the database was away, is run again by the next one, so often at most.
MOST_RERUNS = 5

#: Where a launch has the traceback of its failure.
TRACE = "action.stored_data._exception._stacktrace"

_CUT_OFF = r"pymongo\.errors.*(AutoReconnect|Timeout)|InputsNotFinalError"
_PARENT = ["fw_id", "state", "launches", "archived_launches", "spec._tasks.job.uuid", "spec._tasks.job.index"]
_NEEDS_ATTENTION = (LoopStatus.FAILED, LoopStatus.ORACLE_FAILING)


class InputsNotFinalError(MLIPError):
    """A job was started although one it depends on is about to be run again."""


@explicit_serialize
class CampaignFiretask(JobFiretask):
    """
    Run a job of a campaign, under FireWorks' own commands for lost and fizzled jobs.

    ``lpad rerun_fws`` and ``detect_lostruns --rerun`` reset a Firework *and all that come after
    it*, but leave in place what it appended. jobflow's Firetask would append it once more, and the
    campaign would go on twice. Here a document stands once the loop has gone on from it, because it or a job after it
    appended others or ended the campaign: such a job returns at once, without running. Jobs that left no
    document run, and so do those of the cycle that is under way.

    The last job of a campaign that ended because a step failed fizzles (its document is in the
    store): the workflow of a failed campaign would otherwise count as COMPLETED.
    """

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        """Run the job, unless the loop has already built upon its document."""
        job: Job = self["job"]
        store: JobStore = self.get("store") or SETTINGS.JOB_STORE
        self._check_is_kept(store)
        store.connect()
        this_job = {"uuid": job.uuid, "index": job.index}
        if self._is_built_upon() and store.query_one(this_job, ["uuid"]) is not None:
            logger.warning("%s is not run again: its document is in the store and the loop has used it", job.name)
            return FWAction()
        if not self._inputs_are_final():
            # no one learns of this, unless FireWorks has not noticed yet that this job is to be run again too
            raise InputsNotFinalError(f"{job.name} is run once what it depends on, which was lost, has been run again")
        action = super().run_task(fw_spec)
        for workflow in action.detours:
            self._adopt(workflow)
        found = None if action.detours else store.query_one(this_job, ["output"])
        end = found["output"] if found is not None and isinstance(found["output"], dict) else {}
        if end.get("kind") != "loop":
            return action
        if end["status"] in _NEEDS_ATTENTION:
            failed = "the job that failed"
            if end["status"] == LoopStatus.ORACLE_FAILING:  # whose jobs completed, with what failed in their documents
                failed = f"its job 'request labels c{end['cycle']:03d}', not this one"
            raise MLIPError(
                f"campaign {end['campaign_id']} ended {end['status']}: {end['why']}. What it has is in the store; "
                f"correct the cause, then rerun {failed} (lpad rerun_fws), or resume the campaign"
            )
        action.stored_data[ENDED] = end["status"]
        return action

    def _check_is_kept(self, store: JobStore) -> None:
        """Refuse to run a campaign of a LaunchPad on a server into a store that ends with this process."""
        pad = getattr(self, "launchpad", None)
        on_server = isinstance(getattr(pad, "connection", None), MongoClient)
        if self.get("store") is None and on_server and (lack := lacks(store)):
            raise MLIPError(
                f"the JobStore of this worker cannot hold a campaign: {lack}. Let JOBFLOW_CONFIG_FILE of the worker "
                "name the file with the JobStore of the campaign (docs/fireworks.md), then lpad rerun_fws"
            )

    def _inputs_are_final(self) -> bool:
        """
        Tell whether no job this one depends on is about to be run again; if one is, let this one wait for it.

        ``lpad detect_lostruns --rerun`` marks a lost job as fizzled before it reruns it. In between, jobs that
        tolerate failed inputs are ready, and another worker may have taken this one to count the lost job as failed.
        """
        pad = getattr(self, "launchpad", None)
        if pad is None:
            return True
        links = pad.workflows.find_one({"nodes": self.fw_id}, ["links"])["links"]
        parents = [int(parent) for parent, children in links.items() if self.fw_id in children]
        until = time.monotonic() + SETTLE_S
        while True:
            found = list(pad.fireworks.find({"fw_id": {"$in": parents}}, _PARENT))
            if any(parent["state"] in ("WAITING", "READY", "RESERVED", "RUNNING") for parent in found):
                break
            fizzled = [parent for parent in found if parent["state"] == "FIZZLED" and parent["launches"]]
            # what failed says why; what was lost says nothing, or that the database was away
            last = {"$in": [parent["launches"][-1] for parent in fizzled]}
            silent = [launch["fw_id"] for launch in pad.launches.find({"launch_id": last, "action": None}, ["fw_id"])]
            waited = time.monotonic() > until
            suspects = [parent for parent in fizzled if waited or parent["fw_id"] not in silent]
            if again := [parent for parent in suspects if self._was_cut_off(parent)]:
                for parent in again:
                    logger.warning("Firework %d is run again: it was cut off", parent["fw_id"])
                    pad.rerun_fw(parent["fw_id"])
                break
            if not silent or waited:
                return True
            time.sleep(LOOK_S)
        mine = pad.fireworks.find_one({"fw_id": self.fw_id}, ["launches"])["launches"]
        here = {"launch_id": {"$in": mine}, "launch_dir": str(Path.cwd())}
        if pad.launches.find_one(here, ["launch_id"]) is not None:
            # FireWorks took it for not launched yet; rerun_fw would do so too
            rerun_running(pad, self.fw_id)
        return False

    def _was_cut_off(self, firework: dict[str, Any]) -> bool:
        """Tell whether a job left no document as it was lost, the database was away, or its inputs were not final."""
        if len(firework.get("archived_launches") or ()) >= MOST_RERUNS:
            return False
        why = {"$or": [{TRACE: {"$regex": _CUT_OFF}}, {"action": None}]}
        if self.launchpad.launches.find_one({"launch_id": firework["launches"][-1], **why}, ["launch_id"]) is None:
            return False
        job = firework["spec"]["_tasks"][0]["job"]
        store: JobStore = self.get("store") or SETTINGS.JOB_STORE
        return store.query_one({"uuid": job["uuid"], "index": job["index"]}, ["uuid"]) is None

    def _adopt(self, workflow: Workflow) -> None:
        """Make the Fireworks of an appended workflow Fireworks of the campaign."""
        as_campaign_tasks(workflow)
        for firework in workflow.fws:
            firework.spec[APPENDED_BY] = getattr(self, "fw_id", None)

    def _is_built_upon(self) -> bool:
        """
        Tell whether this job, or one after it, has appended something or ended the campaign well.

        Only a job that was launched before can have.
        """
        pad = getattr(self, "launchpad", None)
        if pad is None:  # offline: FireWorks gives no access to the workflow
            return False
        mine = pad.fireworks.find_one({"fw_id": self.fw_id}, ["archived_launches"])
        if not mine or not mine.get("archived_launches"):
            return False
        links = pad.workflows.find_one({"nodes": self.fw_id}, ["links"])["links"]
        after, todo = {self.fw_id}, [self.fw_id]
        while todo:
            new = set(links.get(str(todo.pop()), ())) - after
            after |= new
            todo += new
        members = sorted(after)
        appended = {"fw_id": {"$in": members}, f"spec.{APPENDED_BY}": {"$in": members}}
        ended = {"fw_id": {"$in": members}, f"action.stored_data.{ENDED}": {"$exists": True}}
        return any(found is not None for found in (pad.fireworks.find_one(appended), pad.launches.find_one(ended)))


def as_campaign_tasks(workflow: Workflow) -> None:
    """Replace jobflow's Firetasks in a workflow by :class:`CampaignFiretask`."""
    for firework in workflow.fws:
        firework.tasks = [CampaignFiretask(job=task["job"], store=task["store"]) for task in firework.tasks]
