"""What all stored documents share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from mlip_autopipec.errors import MLIPError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The field that holds a document's bulk (files, frames). jobflow moves every field of this
#: name to the additional store ``data``, so that the documents themselves stay small.
PAYLOAD = "payload"


class Document(BaseModel):
    """Fields of every document of a campaign; ``kind`` tells the documents apart in a query."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=False)

    kind: str = Field(
        description="Kind of document: campaign, dataset, comparison, proposal, selection, label, labels, teacher, "
        "potential, failure, walk, check, admission, validation (a frame), validated (the errors on all) or loop."
    )
    uuid: str = Field("", description="Identifier of the job that made this document; other documents refer to it.")
    campaign_id: str = Field("", description="Campaign this document belongs to.")
    made_at: str | None = Field(
        None, description="When its job made it (UTC); None in documents of version 0.1.0, which jobflow's time orders."
    )
    cycle: int = Field(0, description="Cycle of the loop, 0 for the first dataset and potential.")


def time_of(stored: Mapping[str, Any]) -> str:
    """
    Return when a stored document was made, to sort by: in UTC, where it says so itself.

    Parameters
    ----------
    stored
        A document of the JobStore, with ``output``. jobflow's own ``completed_at`` is the local time of a worker
        without its zone, which workers in two zones, or the end of summer, put out of order.
    """
    return str((stored.get("output") or {}).get("made_at") or stored.get("completed_at") or "")


class WithPayload(Document):
    """A document with bulk data in the ``data`` store."""

    payload: dict[str, Any] = Field(default_factory=dict, description="Bulk data; lives in the store named `data`.")

    def bulk(self, name: str) -> Any:
        """
        Return one part of the payload.

        Raises
        ------
        MLIPError
            The document was read without its payload, as lists of documents are.
        """
        if name not in self.payload:
            raise MLIPError(
                f"the {self.kind} document {self.uuid} has no '{name}' with it: it was read without its bulk data, "
                "which lists of documents leave in the store; read it alone, by Campaigns.walk or Campaigns.potential"
            )
        return self.payload[name]
