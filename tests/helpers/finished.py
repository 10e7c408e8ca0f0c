"""A campaign that ran to its end in a store in memory, and what it stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import ProposalDocument, WalkDocument

if TYPE_CHECKING:
    from pathlib import Path

    from jobflow import Flow

    from mlip_autopipec.schemas.base import Document
    from mlip_autopipec.schemas.label import LabelDocument

D = TypeVar("D", bound="Document")


@dataclass
class FinishedCampaign:
    """What a campaign stored, in the order in which it was made."""

    store: JobStore

    def read(self, model: type[D]) -> list[D]:
        kind = model.model_fields["kind"].default
        found = self.store.query({"output.kind": kind}, load=True, sort={"completed_at": 1})
        return [model.model_validate(doc["output"]) for doc in found]

    @cached_property
    def document(self) -> OTFDocument:
        return self.read(OTFDocument)[-1]

    @cached_property
    def walks(self) -> list[WalkDocument]:
        return self.read(WalkDocument)

    @cached_property
    def potentials(self) -> list[PotentialDocument]:
        return self.read(PotentialDocument)

    @cached_property
    def proposals(self) -> list[ProposalDocument]:
        return self.read(ProposalDocument)

    @cached_property
    def labels(self) -> list[LabelDocument]:
        return read_labels(self.document.campaign_id, store=self.store)


def run_to_the_end(flow: Flow, folder: Path) -> FinishedCampaign:
    """Run a campaign below a folder, in memory."""
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    run_locally(flow, store=store, create_folders=True, root_dir=folder, log=False)
    return FinishedCampaign(store)
