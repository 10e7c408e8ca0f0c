"""How far a campaign is, by the documents in its store."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, Any

from mlip_autopipec.progress.forecast import forecast
from mlip_autopipec.progress.types import Budget, CampaignProgress, Labels, WalkerProgress
from mlip_autopipec.schemas.base import time_of
from mlip_autopipec.schemas.loop import LoopStatus, learns_failed_check
from mlip_autopipec.schemas.measured import measured_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.database.campaigns import Campaigns
    from mlip_autopipec.schemas.campaign import CampaignDocument
    from mlip_autopipec.schemas.loop import OTFDocument

_STATES = {"CONVERGED": "through", "HALTED": "halted", "WAITING": "waiting", "NOT_RUN": "not run"}
#: Small fields of the documents of a cycle that tell how far it is: nothing that grows with the atoms.
_FIELDS = {
    "proposal": ["walker", "n_candidates"],
    "selection": ["choices.source_index"],
    "label": ["index", "state"],
    "labels": ["n_asked"],
    "potential": ["uuid"],
    "check": ["passed"],
    "walk": ["walker", "status", "step", "reason", "gamma_max", "n_parts"],
}
#: What cannot have been done before the teacher has come.
_WAIT_FOR_TEACHER = ("making the first structures", "labelling")


def progress_of(
    campaigns: Campaigns, campaign_id: str, *, cycle: int | None = None, task: CampaignDocument | None = None
) -> CampaignProgress:
    """
    Tell how far a campaign is.

    Parameters
    ----------
    campaigns
        Of the store that holds it.
    campaign_id
        The campaign.
    cycle
        The cycle that runs now, if known; None to conclude it from the documents.
    task
        :meth:`.Campaigns.task`, if it was read before.

    Raises
    ------
    MLIPError
        There is no such campaign.
    """
    task = campaigns.task(campaign_id) if task is None else task
    assessed = campaigns.cycles(campaign_id)
    last = assessed[-1] if assessed else campaigns.status(campaign_id)
    under_way = cycle is not None or last.status is LoopStatus.LEARNING or _recorded_since(campaigns, campaign_id)
    if cycle is None:
        cycle = last.cycle + 1 if under_way and assessed else last.cycle
    found = _documents_of(campaigns, campaign_id, cycle) if under_way else {kind: [] for kind in _FIELDS}
    maker = json.loads(task.payload.get("maker", "{}"))
    settings = maker.get("dynamics_maker", {}).get("settings", {})
    walkers = _run_since(
        _walkers(last, task, maker, settings, anew=under_way and learns_failed_check(last)), found["walk"]
    )
    before = task.n_given_labels if not assessed else last.n_labels
    of_next_cycle = under_way and (not assessed or cycle > last.cycle)
    labels = _labels(found, before, task.n_given_labels, of_next_cycle=of_next_cycle)
    rule = maker.get("stop_rule", {})
    low, high = last.gamma_thresholds or (settings.get("gamma_lo"), settings.get("gamma_hi"))
    errors_on, errors = measured_on(last)
    doing = _doing(found, cycle, walkers) if under_way else ""
    if doing in _WAIT_FOR_TEACHER and maker.get("teach_maker") and not (found["label"] or _is_taught(campaigns, task)):
        doing = "learning from the teacher"
    progress = CampaignProgress(
        campaign_id=campaign_id,
        name=task.name,
        status=str(last.status),
        why=last.why,
        cycle=cycle,
        doing=doing,
        walkers=walkers,
        labels=labels,
        budget=Budget(rule.get("max_cycles"), rule.get("max_labels"), rule.get("max_hours")),
        hours=_hours_since(task.created_at) if under_way else last.hours,
        energy_rmse_meV_atom=None if errors is None else errors.energy_rmse_meV_atom,
        forces_rmse_meV_A=None if errors is None else errors.forces_rmse_meV_A,
        errors_on=errors_on,
        gamma_lo=low,
        gamma_hi=high,
    )
    if not under_way:
        return progress
    is_trained = bool(found["potential"]) or (labels.asked is None and bool(found["walk"]))
    paces = _walk_paces(campaigns, campaign_id)
    return replace(progress, forecast=forecast(progress, assessed, paces, is_trained=is_trained))


def _recorded_since(campaigns: Campaigns, campaign_id: str) -> bool:
    """Whether a campaign was extended, or begun again, after its last assessment."""
    newest = []
    for kind in ("loop", "campaign"):
        criteria = {"output.kind": kind, "output.campaign_id": campaign_id}
        found = campaigns.store.query(criteria, ["completed_at", "output.made_at"])
        newest.append(max(map(time_of, found), default=""))
    return newest[1] > newest[0]


def _documents_of(campaigns: Campaigns, campaign_id: str, cycle: int) -> dict[str, list[dict[str, Any]]]:
    """Documents of one cycle by kind, the oldest first, with a few fields each."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _FIELDS}
    for kind, fields in _FIELDS.items():
        criteria = {"output.kind": kind, "output.campaign_id": campaign_id, "output.cycle": cycle}
        properties = ["completed_at", "output.made_at", *(f"output.{name}" for name in fields)]
        documents = list(campaigns.store.query(criteria, properties))
        found[kind] = [doc["output"] for doc in sorted(documents, key=time_of)]
    return found


def _walk_paces(campaigns: Campaigns, campaign_id: str) -> list[tuple[int, float]]:
    """Return steps and seconds of each MD run of the campaign."""
    fields = ["uuid", *(f"output.{name}" for name in ("start_step", "step", "halt_step", "seconds", "n_parts"))]
    criteria = {"output.kind": "walk", "output.campaign_id": campaign_id}
    newest: dict[str, dict[str, Any]] = {}
    for doc in campaigns.store.query(criteria, fields):
        known = newest.get(doc["uuid"])
        if known is None or doc["output"].get("n_parts", 1) >= known.get("n_parts", 1):
            newest[doc["uuid"]] = doc["output"]
    paces = []
    for walk in newest.values():
        steps = (walk.get("halt_step") or walk["step"]) - walk["start_step"]
        if steps > 0 and walk["seconds"] > 0:
            paces.append((steps, walk["seconds"]))
    return paces


def _labels(found: dict[str, list[dict[str, Any]]], before: int, given: int, *, of_next_cycle: bool) -> Labels:
    """Count the labels of the cycle; ``before`` are those of earlier cycles, ``given`` the user's own among them."""
    asked = None
    of_all = [one["n_candidates"] for one in found["proposal"] if one.get("walker") is None]
    if found["labels"]:
        asked = found["labels"][-1]["n_asked"]
    elif found["selection"]:
        asked = len(found["selection"][-1].get("choices", []))
    elif of_all:
        asked = of_all[-1]
    states = {label["index"]: label["state"] for label in found["label"]}  # a job that ran twice counts once
    failed = sum(state == "failed" for state in states.values())
    done = len(states) - failed
    total = before + (done if of_next_cycle else 0)
    return Labels(asked=asked, done=done, failed=failed, total=total, given=given)


def _walkers(
    last: OTFDocument, task: CampaignDocument, maker: dict[str, Any], settings: dict[str, Any], *, anew: bool
) -> list[WalkerProgress]:
    """Where the walkers stood at the last assessment (begun anew since), and behind them those the task has added."""
    length: dict[str, Any] = {"n_steps": settings.get("n_steps"), "timestep_fs": settings.get("timestep_fs")}
    found = []
    for walker in last.walkers:
        state = _STATES.get(walker.status, "due")
        if state == "through" and walker.step < (length["n_steps"] or 0):  # MD is longer now
            state = "due"
        if again := anew and state == "through":
            state = "due"
        found.append(
            WalkerProgress(
                index=walker.index,
                formula=walker.formula,
                temperature_K=walker.condition.temperature_K,
                pressure_GPa=walker.condition.pressure_GPa,
                state=state,
                step=0 if again else walker.step,
                n_halts=walker.n_halts,
                reason=walker.reason,
                gamma_max=walker.gamma_max,
                **length,
            )
        )
    known = [(walker.start_index, walker.condition) for walker in last.walkers]
    for (k, formula), condition in product(enumerate(task.formulas), task.conditions):
        if (k, condition) in known:
            continue
        rung_below = maker.get("ladder", False) and any(k == other for other, _ in known)
        known.append((k, condition))
        found.append(
            WalkerProgress(
                index=len(found),
                formula=formula,
                temperature_K=condition.temperature_K,
                pressure_GPa=condition.pressure_GPa,
                state="waiting" if rung_below else "due",
                **length,
            )
        )
    return found


def _run_since(walkers: Sequence[WalkerProgress], walks: Sequence[dict[str, Any]]) -> tuple[WalkerProgress, ...]:
    """Write the MD runs of the present cycle into the walkers."""
    found = {walker.index: walker for walker in walkers}
    for walk in walks:
        if (known := found.get(walk["walker"])) is None:
            continue
        found[walk["walker"]] = replace(
            known,
            state=_STATES.get(walk["status"], "due"),
            step=walk["step"],
            n_halts=known.n_halts + (walk["status"] == "HALTED"),
            reason=walk["reason"],
            gamma_max=walk["gamma_max"],
        )
    return tuple(found[index] for index in sorted(found))


def _doing(found: dict[str, list[dict[str, Any]]], cycle: int, walkers: Sequence[WalkerProgress]) -> str:
    """Tell the step of a cycle by what it has left so far."""
    if found["check"]:
        return "assessing"
    if found["walk"] or found["potential"]:
        return "exploring by MD" if any(walker.state in ("due", "halted") for walker in walkers) else "assessing"
    if found["labels"]:
        return "training"
    if found["selection"] or found["label"] or any(one.get("walker") is None for one in found["proposal"]):
        return "labelling"
    return "making the first structures" if cycle == 0 else "choosing what to label"


def _is_taught(campaigns: Campaigns, task: CampaignDocument) -> bool:
    """Tell whether a teacher has come, for whom labels wait."""
    criteria = {"output.kind": "teacher", "output.campaign_id": task.campaign_id}
    return campaigns.store.query_one(criteria, ["uuid"]) is not None


def _hours_since(created_at: str) -> float | None:
    try:
        since = datetime.fromisoformat(created_at)
    except ValueError:
        return None
    return max((datetime.now(UTC) - since).total_seconds() / 3600, 0.0)
