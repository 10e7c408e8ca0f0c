"""One summary document per campaign, kept up to date by a maggma builder."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from maggma.core import Builder
from maggma.utils import grouper
from pydantic import BaseModel, Field

from mlip_autopipec.schemas.loop import LoopStatus, WalkerState
from mlip_autopipec.schemas.potential import Errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobflow import JobStore
    from maggma.core import Store

#: What a summary is made of: a few numbers of each document, never structures, forces or files.
_FIELDS = (
    "completed_at",
    *(
        f"output.{name}"
        for name in (
            *("kind", "elements", "formulas", "seed", "generation"),  # campaign
            *("state", "origin", "reason", "reused_from", "oracle", "seconds", "n_labels", "part"),  # label, dataset
            *("status", "temperature_K", "start_step", "step", "timestep_fs"),  # walk
            *("trainer.class", "sha256", "n_train", "train", "test"),  # potential
        )
    ),
)


class LabelCount(BaseModel):
    """What became of the labels of one origin."""

    bought: int = Field(0, description="Computed by the oracle.")
    reused: int = Field(0, description="Found in the database.")
    failed: int = Field(0, description="Computed in vain, or not at all.")


class CampaignSummary(BaseModel):
    """A campaign in one small document."""

    campaign_id: str = Field(description="The campaign.")
    elements: list[str] = Field(description="Elements, alphabetical.")
    formulas: list[str] = Field(description="Chemical formulas of the structures MD starts in.")
    status: LoopStatus | None = Field(None, description="LEARNING, or how the loop ended; None before its first cycle.")
    why: str = Field("", description="The reason of the status, in words.")
    generation: int = Field(1, description="More than 1 after an extension or a new beginning.")
    seed: int = Field(0, description="Everything random was derived from it.")
    n_cycles: int = Field(0, description="Cycles of halt, label and train.")
    walkers: list[WalkerState] = Field(default_factory=list, description="All walkers as of the last cycle.")
    n_halts: int = Field(0, description="MD runs that halted.")
    halts: dict[str, int] = Field(default_factory=dict, description="Halts by reason.")
    simulated_ps: float = Field(0.0, description="MD of all walks together, ps.")
    n_given_labels: int = Field(0, description="Labels the user brought along.")
    labels: dict[str, LabelCount] = Field(default_factory=dict, description="All other labels by origin.")
    failures: dict[str, int] = Field(default_factory=dict, description="Failed labels by class of the error.")
    oracle: list[str] = Field(default_factory=list, description="Classes of the makers that labelled.")
    trainer: str | None = Field(None, description="Class of the trainer of the last potential.")
    potential_id: str | None = Field(None, description="uuid of the last potential; None if there is none.")
    potential_sha256: str | None = Field(None, description="Fingerprint of its basis and active set.")
    n_train: int = Field(0, description="Labels it was trained on.")
    train: Errors | None = Field(None, description="Its errors on the training set.")
    test: Errors | None = Field(None, description="Its errors on the held-out set.")
    hours: dict[str, float] = Field(
        default_factory=dict, description="Wall time of all jobs together by step (label, train, explore), h."
    )
    first_time: str = Field(description="When the first job ended, by the clock of its worker, ISO 8601.")
    last_time: str = Field(description="When the last job ended, by the clock of its worker, ISO 8601.")
    n_documents: int = Field(description="Documents of the campaign.")


class CampaignBuilder(Builder):
    """
    Write one :class:`CampaignSummary` for each campaign of a JobStore into a store of its own.

    Campaigns of which no document came or changed since their summary was written are skipped. Runs with
    ``CampaignBuilder(...).run()``, or with maggma's ``mrun`` from a file; never started twice at once for one target.

    Parameters
    ----------
    source
        The JobStore of the campaigns; only read.
    target
        Where the summaries go; its key becomes ``campaign_id``, its ``last_updated_field`` gets ``last_time``.
    query
        Which campaigns, by the fields of their task: ``{"output.elements": "Cu"}``.
    rebuild
        Write all summaries again.
    """

    def __init__(
        self,
        source: JobStore,
        target: Store,
        query: dict[str, Any] | None = None,
        rebuild: bool = False,
        chunk_size: int = 100,
    ) -> None:
        self.source = source
        self.target = target
        self.query = query
        self.rebuild = rebuild
        target.key = "campaign_id"
        super().__init__(sources=[source], targets=[target], chunk_size=chunk_size)

    def run(self, log_level: int = logging.WARNING) -> None:
        """Write the summaries; at maggma's own level each command to a server would be printed."""
        super().run(log_level)

    def prechunk(self, number_splits: int) -> Iterator[dict[str, Any]]:
        """Divide the campaigns that have news among the workers of ``mrun``."""
        names = self._with_news()
        for some in grouper(names, max(1, -(-len(names) // number_splits))):
            yield {"query": {"output.campaign_id": {"$in": list(some)}}}

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Read what the summaries of the campaigns with news are made of."""
        names = self._with_news()
        self.total = len(names)
        for name in names:
            of_campaign = {"output.campaign_id": name}
            yield {
                "campaign_id": name,
                "documents": [
                    {**doc["output"], "uuid": doc["uuid"], "completed_at": doc["completed_at"]}
                    for doc in self.source.query(of_campaign, list(_FIELDS))
                ],
                "loop": self.source.query_one(
                    {**of_campaign, "output.kind": "loop"},
                    [f"output.{field}" for field in ("status", "why", "n_cycles", "walkers", "potential_id")],
                    sort={"output.cycle": -1, "completed_at": -1},
                ),
            }

    def process_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """Make one summary, as it is stored."""
        summary = summarise(item["campaign_id"], item["documents"], (item["loop"] or {}).get("output"))
        updated = datetime.fromisoformat(summary.last_time)
        return {**summary.model_dump(mode="json"), self.target.last_updated_field: updated}

    def update_targets(self, items: Iterable[dict[str, Any]]) -> None:
        """Store summaries; each replaces the one before."""
        items = list(items)
        if items:
            self.target.update(items, key="campaign_id")

    def _with_news(self) -> list[str]:
        names = sorted(self.source.distinct("output.campaign_id", {"output.kind": "campaign", **(self.query or {})}))
        if self.rebuild:
            return names
        known = {
            doc["campaign_id"]: (doc["n_documents"], doc["last_time"])
            for doc in self.target.query({}, ["campaign_id", "n_documents", "last_time"])
        }
        return [name for name in names if name not in known or known[name] != self._extent(name)]

    def _extent(self, name: str) -> tuple[int, str]:
        """How many documents a campaign has and when the last one came: clocks of workers may differ."""
        newest = self.source.query_one({"output.campaign_id": name}, ["completed_at"], sort={"completed_at": -1})
        assert newest is not None
        return self.source.count({"output.campaign_id": name}), newest["completed_at"]


def summarise(campaign_id: str, documents: list[dict[str, Any]], loop: dict[str, Any] | None) -> CampaignSummary:
    """
    Make the summary of a campaign.

    Parameters
    ----------
    campaign_id
        The campaign.
    documents
        All its documents, each with ``completed_at`` and the fields a summary is made of.
    loop
        Its last assessment; None before the first.
    """
    by_kind: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    in_order = sorted(documents, key=itemgetter("completed_at"))
    for document in in_order:
        by_kind[document["kind"]][document["uuid"]] = document  # of a job that ran in parts the last one counts
    of = {kind: list(found.values()) for kind, found in by_kind.items()}
    task = max(of["campaign"], key=itemgetter("generation"))
    labels, walks, potentials = of.get("label", []), of.get("walk", []), of.get("potential", [])
    counts: dict[str, LabelCount] = defaultdict(LabelCount)
    for label in labels:
        what = "failed" if label["state"] == "failed" else "reused" if label.get("reused_from") else "bought"
        count = counts[label["origin"]]
        setattr(count, what, getattr(count, what) + 1)
    halted = [walk for walk in walks if walk["status"] == "HALTED"]
    seconds = {
        "label": sum(label["seconds"] for label in labels if not label.get("reused_from")),
        "train": sum(potential["seconds"] for potential in potentials),
        "explore": sum(walk["seconds"] for walk in walks),
    }
    summary = CampaignSummary(
        campaign_id=campaign_id,
        elements=task["elements"],
        formulas=task["formulas"],
        generation=task["generation"],
        seed=task["seed"],
        n_halts=len(halted),
        halts=Counter(walk["reason"] for walk in halted),
        simulated_ps=1e-3 * sum((walk["step"] - walk["start_step"]) * walk["timestep_fs"] for walk in walks),
        n_given_labels=sum({(d["part"], d["sha256"]): d["n_labels"] for d in of.get("dataset", [])}.values()),
        labels=dict(sorted(counts.items())),
        failures=Counter(label["reason"].split(":")[0] for label in labels if label["state"] == "failed"),
        oracle=sorted({label["oracle"] for label in labels}),
        hours={step: value / 3600 for step, value in seconds.items()},
        first_time=in_order[0]["completed_at"],
        last_time=in_order[-1]["completed_at"],
        n_documents=len(documents),
    )
    update: dict[str, Any] = {}
    if loop is not None:
        walkers = [WalkerState.model_validate(walker) for walker in loop["walkers"]]
        update |= {"status": LoopStatus(loop["status"]), "walkers": walkers}
        update |= {field: loop[field] for field in ("why", "n_cycles", "potential_id")}
    last = by_kind["potential"].get(update.get("potential_id") or "")
    if last is not None:
        update |= {"potential_sha256": last["sha256"], "trainer": last["trainer"].get("class")}
        update |= {"n_train": last["n_train"]}
        update |= {name: last[name] and Errors.model_validate(last[name]) for name in ("train", "test")}
    return summary.model_copy(update=update)
