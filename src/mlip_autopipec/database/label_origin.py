"""The way back from a label: to the candidate it was asked for, and to the halt that asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlip_autopipec.database.documents import title_of
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.jobs.reuse import with_originals
from mlip_autopipec.schemas.label import DatasetDocument, LabelDocument
from mlip_autopipec.schemas.walk import ProposalDocument, WalkDocument

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.database.documents import StoredDocuments


@dataclass(frozen=True)
class LabelOrigin:
    """
    The way back from a label.

    Parameters
    ----------
    label
        The label; ``directory`` is where the oracle ran.
    proposal
        What was proposed for labelling; None for a label the user brought along.
    walk
        The MD run whose halt asked for it: walker, ``halt_step``, ``temperature_K``,
        ``gamma_max``, ``atom_index``; None in the first dataset.
    original
        The label whose calculation was used again; None if ``label`` was computed.
    """

    label: LabelDocument
    proposal: ProposalDocument | None
    walk: WalkDocument | None
    original: LabelDocument | None = None

    @classmethod
    def of(cls, label_id: str, documents: StoredDocuments) -> LabelOrigin:
        """Read it, without the frames of the walk."""
        found = documents.read(LabelDocument, "label", {"uuid": label_id})
        if not found:
            return cls(_given_label(label_id, documents), proposal=None, walk=None)
        (label,) = with_originals(found[-1:], documents.store)
        proposal = documents.one(ProposalDocument, "proposal", label.source_id)
        walk = None if proposal is None else documents.one(WalkDocument, "walk", proposal.walk_id)
        return cls(label, proposal, walk, documents.one(LabelDocument, "label", label.reused_from))


def candidate_of(label_id: str, documents: StoredDocuments) -> Atoms:
    """Return the structure a label was asked for."""
    label = LabelOrigin.of(label_id, documents).label
    proposals = documents.read(ProposalDocument, "proposal", {"uuid": label.source_id})
    if label.source_index is None or not proposals:
        raise MLIPError(
            f"what label {label_id} was chosen from, {label.source_id}, is not in {title_of(documents.store)}"
        )
    return proposals[-1].candidates()[label.source_index]


def _given_label(label_id: str, documents: StoredDocuments) -> LabelDocument:
    """Return a label that a user brought along."""
    for dataset in documents.read(DatasetDocument, "dataset", {}, payload=False):
        if label_id in dataset.label_ids():
            whole = documents.read(DatasetDocument, "dataset", {"uuid": dataset.uuid})[-1]
            return whole.labels()[dataset.label_ids().index(label_id)]
    raise MLIPError(f"no label {label_id} is in {title_of(documents.store)}")
