"""A campaign whose walkers have to prove the final potential, for processes that are killed on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ase.build import bulk
from faults.processes import open_any
from jobflow import run_locally

from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.flows.resume import has_ended
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, stand_in_loop

if TYPE_CHECKING:
    from pathlib import Path

    from jobflow import JobStore

NAME = "proof"


def proof_or_resume(address: str, jobs: Path) -> None:
    """Run the campaign, or what is left of it: walker 0 halts once, so that both prove in cycle 2."""
    store = open_any(address)
    kind = CampaignDocument.model_fields["kind"].default
    if store.query_one({"output.kind": kind}) is None:
        maker = stand_in_loop(None, dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100, walker=0)]))
        maker.stop_rule = StopRule(n_check_labels=0)
        flow = maker.make(bulk("Cu", cubic=True) * (2, 2, 2), [300, 600], campaign_id=NAME)
    elif has_ended(NAME, store):
        store.close()
        return
    else:
        flow = OTFMaker.resume(NAME, store)
    jobs.mkdir(exist_ok=True)
    run_locally(flow, store=store, create_folders=True, root_dir=jobs, log=False)
    store.close()


def proof_of(store: JobStore) -> list[Any]:
    """Return walker, seed, steps, potential cycle and last positions of each walk of the proof."""
    kind = WalkDocument.model_fields["kind"].default
    found = store.query({"output.kind": kind, "output.cycle": 2}, ["output"], load=True)
    walks = [WalkDocument.model_validate(doc["output"]) for doc in found]
    return sorted([w.walker, w.seed, w.start_step, w.step, w.status, w.final_atoms().positions.tolist()] for w in walks)
