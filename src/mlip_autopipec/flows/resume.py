"""Continue a campaign from what its store holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from jobflow import Flow, JobStore

from mlip_autopipec.errors import InvalidInputError, MLIPError, NothingLeftError
from mlip_autopipec.flows.checks import check_campaign, check_one_beginning, elements_of
from mlip_autopipec.flows.cycle import cycle_jobs
from mlip_autopipec.flows.given import as_conditions, as_frames
from mlip_autopipec.jobs.dataset import recorded_task
from mlip_autopipec.jobs.decoding import decoded
from mlip_autopipec.jobs.outliers import read_accepted
from mlip_autopipec.lammps.bias import begins_biased
from mlip_autopipec.loop.campaign_walkers import as_ladders, completed_begun_anew, extended, new_walkers
from mlip_autopipec.loop.next_cycle import next_cycle
from mlip_autopipec.schemas.base import Document, time_of
from mlip_autopipec.schemas.campaign import CampaignDocument, now_utc
from mlip_autopipec.schemas.label import DatasetDocument, LabelBatch
from mlip_autopipec.schemas.loop import (
    CycleResults,
    LoopState,
    LoopStatus,
    OTFDocument,
    WalkerState,
    learns_failed_check,
)
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import WalkDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from jobflow import Job
    from pymatgen.core import Structure

    from mlip_autopipec.flows.parts import LoopParts
    from mlip_autopipec.lammps.types import Condition, MDSettings

DocumentT = TypeVar("DocumentT", bound=Document)

#: Assessments of a cycle in which a step failed: the loop goes on from the one before.
_BROKEN = (LoopStatus.FAILED, LoopStatus.ORACLE_FAILING)


def recorded_maker(campaign_id: str, store: JobStore) -> LoopParts:
    """Return the maker a campaign was last run with."""
    from mlip_autopipec.flows.parts import LoopParts

    recorded = json.loads(recorded_task(campaign_id, store).payload["maker"])
    maker = decoded(recorded, f"the recorded maker of campaign '{campaign_id}'")
    if not isinstance(maker, LoopParts):
        raise MLIPError(f"campaign '{campaign_id}' was run with a {type(maker).__name__}, not with an OTFMaker")
    return maker


def resume(campaign_id: str, store: JobStore, maker: LoopParts | None = None) -> Flow:
    """
    Make the flow that takes a campaign up again after its last complete cycle.

    Of an interrupted cycle, labels are found by their keys, and a potential and walks that were stored are
    used as they are.

    Parameters
    ----------
    campaign_id
        The campaign. None of its jobs may be running still.
    store
        Its JobStore.
    maker
        To use instead of the stored one, for instance with corrected settings of the oracle.

    Raises
    ------
    InvalidInputError
        The campaign has ended by its stop rule.
    """
    store.connect()
    task, state, status = recorded_task(campaign_id, store), *_last_state(campaign_id, store)
    if has_ended(campaign_id, store):
        raise InvalidInputError(
            f"campaign '{campaign_id}' has ended: {status}; to go on, extend it by conditions, structures or a "
            "stop rule that allows more"
        )
    using = maker or recorded_maker(campaign_id, store)
    if state is None:
        return _begin_again(using, task, store, reuse_results=maker is None)
    state = state.model_copy(update={"hours_before": state.hours, "clock_started": now_utc()})
    record: Job | None = None
    done: CycleResults | None = None
    if maker is None:
        walkers = next_cycle(using.stop_rule, state).walkers
        done = _stored_results(campaign_id, state.cycle + 1, store, walkers, state.potential_id)
    else:
        check_campaign(maker, task.structures(), task.conditions, [], None)
        check_one_beginning(maker, task.given_potential)
        record = maker.recording(_next_generation(task))
    return _flow(using, state, store, done, record)


def last_document(campaign_id: str, store: JobStore) -> OTFDocument:
    """Return the document a campaign ended with, with its potential."""
    documents = _read(OTFDocument, store, {"output.campaign_id": campaign_id}, payload=True)
    return max(documents, key=lambda document: document.cycle)


def has_ended(campaign_id: str, store: JobStore) -> bool:
    """Tell whether the loop of a campaign has ended by its stop rule, so that there is nothing to resume of it."""
    return ended_as(campaign_id, store) is not None


def ended_as(campaign_id: str, store: JobStore) -> LoopStatus | None:
    """Return how the loop of a campaign has ended; None while it has not."""
    store.connect()
    _, status = _last_state(campaign_id, store)
    return None if status in (LoopStatus.LEARNING, LoopStatus.PAUSED) else status


def extend(
    campaign_id: str,
    store: JobStore,
    structures: Structure | Atoms | Sequence[Structure | Atoms] = (),
    conditions: float | Condition | Sequence[float | Condition] = (),
    maker: LoopParts | None = None,
) -> Flow:
    """
    Make the flow that continues a campaign beyond what it was asked for.

    Accepted outliers (:meth:`~mlip_autopipec.database.campaigns.Campaigns.accept`) are trained on first, and completed
    walkers restart with a new seed.

    Parameters
    ----------
    campaign_id
        The campaign. None of its jobs may be running still.
    store
        Its JobStore.
    structures, conditions
        Further ones. All structures, old and new, are explored at all conditions, old and new. New structures are of
        the campaign's elements.
    maker
        To go on with instead of the recorded one: ``recorded_maker`` with another stop rule, or with longer MD, for
        which completed walkers go on.

    Raises
    ------
    InvalidInputError
        Nothing would change, or the stop rule allows no further cycle.
    """
    store.connect()
    task, state, _ = recorded_task(campaign_id, store), *_last_state(campaign_id, store)
    if state is None:
        raise InvalidInputError(f"campaign '{campaign_id}' has no complete cycle yet; resume it before it is extended")
    if learns_failed_check(state):
        state = state.model_copy(update={"walkers": completed_begun_anew(state.walkers, state.seed)})
    using = maker or recorded_maker(campaign_id, store)
    frames = [*task.structures(), *as_frames(structures)]
    all_conditions = list(task.conditions)
    for condition in as_conditions(conditions):
        if condition not in all_conditions:
            all_conditions.append(condition)
    if unknown := sorted(set(elements_of(frames)) - set(task.elements)):
        raise InvalidInputError(
            f"the new structures contain {unknown}, but campaign '{campaign_id}' ({'-'.join(task.elements)}) has "
            "no basis functions for them; start a new campaign, which reuses the labels of common structures"
        )
    check_campaign(using, frames, all_conditions, [], None)
    check_one_beginning(using, task.given_potential)
    fields = {"n_given_labels": task.n_given_labels, "given_potential": task.given_potential, "elements": task.elements}
    task_now = CampaignDocument.of(frames, all_conditions, campaign_id, **fields, generation=task.generation + 1)
    record = using.recording(task_now)
    walkers = _extended_walkers(state, task_now, record, using.dynamics_maker.settings)
    if using.ladder:
        walkers = as_ladders(walkers)
    untrained = _batch_accepted(campaign_id, store, state)
    if untrained is not None:  # completed walkers ran with a potential without these labels
        walkers = completed_begun_anew(walkers, state.seed)
    unchanged = [w.status for w in walkers] == [w.status for w in state.walkers]
    passed = state.check is not None and state.check.passed
    # what new walks find is not covered by the check of the old ones
    update = {
        "walkers": walkers,
        "check": state.check if unchanged and passed else None,
        "hours_before": 0.0,
        "n_not_learnt": 0,
    }
    state = state.model_copy(
        update={**update, "untrained_batch_id": untrained or state.untrained_batch_id, "clock_started": None}
    )
    status, why = using.stop_rule.judge(state)
    if status is LoopStatus.CONVERGED:
        raise NothingLeftError(f"nothing is left to do in campaign '{campaign_id}': {why}; give something new to do")
    if status is not LoopStatus.LEARNING:
        raise InvalidInputError(f"the stop rule {using.stop_rule} ends the campaign at once: {why}; raise its limits")
    return _flow(using, state, store, None, record)


def _flow(maker: LoopParts, state: LoopState, store: JobStore, done: CycleResults | None, record: Job | None) -> Flow:
    jobs = cycle_jobs(maker, state, store, done, record)
    first = [] if record is None else [record]
    return Flow([*first, *jobs], output=jobs[-1].output, name=maker.name)


def _batch_accepted(campaign_id: str, store: JobStore, state: LoopState) -> str | None:
    """Return the uuid of the batch of an accepted outlier that is not trained on yet."""
    found = _read(PotentialDocument, store, {"output.campaign_id": campaign_id, "uuid": state.potential_id})
    waiting = read_accepted(campaign_id, store) - set(found[-1].let_in if found else [])
    if not waiting:
        return None
    cycles = store.distinct("output.cycle", {"uuid": {"$in": sorted(waiting)}})
    if not cycles:  # labels of the user's own have no documents of their own
        datasets = _read(DatasetDocument, store, {"output.campaign_id": campaign_id})
        return next(dataset.uuid for dataset in datasets if waiting & set(dataset.label_ids()))
    batches = _read(LabelBatch, store, {"output.campaign_id": campaign_id, "output.cycle": max(cycles)})
    return batches[-1].uuid


def _extended_walkers(state: LoopState, task: CampaignDocument, record: Job, settings: MDSettings) -> list[WalkerState]:
    """Return the walkers there are, given a new chance, and those that are new."""
    walkers = extended(state.walkers, settings.n_steps)
    return [*walkers, *new_walkers(task, record.uuid, state.seed, walkers, biased=begins_biased(settings))]


def _begin_again(maker: LoopParts, task: CampaignDocument, store: JobStore, *, reuse_results: bool) -> Flow:
    """Make the flow of a campaign that never came to its first assessment, from what it was given."""
    criteria = {"output.campaign_id": task.campaign_id}
    parts = {d.part: d for d in _read(DatasetDocument, store, criteria, payload=True)}
    labels = [label for part in sorted(parts) for label in parts[part].labels()]
    given = [d for d in _read(PotentialDocument, store, criteria, payload=True) if not d.trainer]
    if len(labels) != task.n_given_labels or bool(given) is not task.given_potential:
        raise MLIPError(
            f"campaign '{task.campaign_id}' was interrupted while its input was being stored ({len(labels)} of "
            f"{task.n_given_labels} labels are stored); nothing is computed yet, start again with another campaign_id"
        )
    done: CycleResults | None = None
    if reuse_results:
        done = _stored_results(task.campaign_id, 0, store, [], given[-1].uuid if given else None)
    potential = given[-1].to_potential() if given else None
    return maker.begin(_next_generation(task), [label.to_atoms() for label in labels], potential, done)


def _next_generation(task: CampaignDocument) -> CampaignDocument:
    payload = {"structures": task.payload["structures"]}
    return task.model_copy(update={"uuid": "", "generation": task.generation + 1, "payload": payload})


def _last_state(campaign_id: str, store: JobStore) -> tuple[LoopState | None, LoopStatus | None]:
    """Return the state after the last complete cycle and the status it ended with; None if there is none."""
    found = [
        document
        for document in _read(OTFDocument, store, {"output.campaign_id": campaign_id})
        if document.status not in _BROKEN
    ]
    if not found:
        return None, None
    last = max(found, key=lambda document: document.cycle)
    last = [document for document in found if document.cycle == last.cycle][-1]
    state = LoopState.model_validate(last.model_dump(include=set(LoopState.model_fields)))
    walkers = [_with_its_potential(walker, store) for walker in state.walkers]
    return state.model_copy(update={"walkers": walkers}), last.status


def _with_its_potential(walker: WalkerState, store: JobStore) -> WalkerState:
    """Fill in what version 0.1.0 did not write down: the potential of a walk that is whole."""
    if walker.only_potential_id is not None or walker.status != "CONVERGED" or walker.walk_id is None:
        return walker
    walks = _read(WalkDocument, store, {"uuid": walker.walk_id})
    if not walks or walks[-1].restart_of is not None or walks[-1].start_step:
        return walker
    return walker.model_copy(update={"only_potential_id": walks[-1].potential_id})


def _stored_results(
    campaign_id: str, cycle: int, store: JobStore, walkers: Sequence[WalkerState], previous: str | None
) -> CycleResults:
    """Return the documents of an interrupted cycle that can be used; ``previous`` is the potential before it."""
    criteria = {"output.campaign_id": campaign_id, "output.cycle": cycle}
    batches = [batch for batch in _read(LabelBatch, store, criteria) if not batch.oracle_failing]
    trained = [p for p in _read(PotentialDocument, store, criteria) if p.trainer and p.parent_id == previous]
    done = CycleResults()
    if batches and trained:
        done = CycleResults(potential_id=trained[-1].uuid, batch_id=batches[-1].uuid)
    potential = done.potential_id
    if potential is None and not any(walker.asks_for_labels for walker in walkers):
        potential = previous
    last_walks = {walker.index: walker.walk_id for walker in walkers}
    for walk in _read(WalkDocument, store, criteria):
        if potential is None or walk.potential_id != potential or walk.restart_of != last_walks.get(walk.walker):
            continue
        if walk.status in ("CONVERGED", "HALTED"):
            done.walk_ids[walk.walker] = walk.uuid
        elif walk.status == "TIMED_OUT":
            done.unfinished_walk_ids[walk.walker] = walk.uuid
    return done


def _read(
    model: type[DocumentT], store: JobStore, criteria: dict[str, Any], *, payload: bool = False
) -> list[DocumentT]:
    """Read documents of one kind in the order in which they were made."""
    kind = model.model_fields["kind"].default
    found = store.query({"output.kind": kind, **criteria}, ["output", "completed_at"], load=payload)
    return [model.model_validate(doc["output"]) for doc in sorted(found, key=time_of)]
