"""Reading the documents of a JobStore: by kind and criteria, newest of each job, with or without bulk data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.jobs.stores import title_of
from mlip_autopipec.schemas.base import PAYLOAD, Document, time_of

if TYPE_CHECKING:
    from jobflow import JobStore

DocumentT = TypeVar("DocumentT", bound=Document)


class StoredDocuments:
    """
    The documents of a JobStore.

    Parameters
    ----------
    store
        The JobStore, connected.
    """

    def __init__(self, store: JobStore) -> None:
        self.store = store

    def of_campaign(
        self, model: type[DocumentT], kind: str, campaign_id: str, criteria: dict[str, Any]
    ) -> list[DocumentT]:
        """Read documents of a campaign by the values of their fields, ordered by cycle, without bulk data."""
        unknown = sorted(set(criteria) - set(model.model_fields))
        if unknown:
            raise MLIPError(f"{unknown} are no fields of {model.__name__}; known are {sorted(model.model_fields)}")
        asked = {"output.campaign_id": campaign_id} | {f"output.{name}": value for name, value in criteria.items()}
        return sorted(self.read(model, kind, asked, payload=False), key=lambda document: document.cycle)

    def one(self, model: type[DocumentT], kind: str, uuid: str | None) -> DocumentT | None:
        """Read the document of this uuid without bulk data; None where there is none."""
        found = [] if uuid is None else self.read(model, kind, {"uuid": uuid}, payload=False)
        return found[-1] if found else None

    def read(
        self, model: type[DocumentT], kind: str, criteria: dict[str, Any], *, payload: bool = True
    ) -> list[DocumentT]:
        """Read documents in the order in which they were made; of a job that ran twice the newest."""
        # bulk data is left where it is: a document that refers to it holds a small reference
        asked = {"output.kind": kind, **criteria}
        try:
            found = list(self.store.query(asked, ["uuid", "output", "completed_at"], load=payload))
        except KeyError as error:  # jobflow's, with the name of the blob
            raise MLIPError(
                f"bulk data {error} of a {kind} is not in the additional store of {title_of(self.store)}; is its "
                "store 'data' that of this campaign (docs/database.md)?"
            ) from error
        by_job: dict[tuple[str, int], DocumentT] = {}
        for doc in sorted(found, key=time_of):  # a server sorts no more than 100 MB
            output = doc["output"]
            if not payload:
                output = without_bulk(output)
            document = model.model_validate(output)
            by_job[doc["uuid"], document.cycle] = document
        return list(by_job.values())


def labels_in_state(campaign_id: str, state: str) -> dict[str, Any]:
    """Return the criteria of a campaign's labels, successful or failed."""
    return {"output.kind": "label", "output.campaign_id": campaign_id, "output.state": state}


def without_bulk(output: dict[str, Any]) -> dict[str, Any]:
    """Return a stored document without its payload, also those of documents within."""
    return {
        name: (without_bulk(value) if isinstance(value, dict) else value)
        for name, value in output.items()
        if name != PAYLOAD
    }
