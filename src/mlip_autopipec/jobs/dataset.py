"""All labels of a campaign, read from the store: the dataset is a query, not a copy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ase import Atoms
from ase.data import chemical_symbols

from mlip_autopipec.active_learning.coverage import Coverage
from mlip_autopipec.errors import InvalidInputError, MLIPError
from mlip_autopipec.frames import pack, unpack
from mlip_autopipec.jobs.base import current_store, current_uuid, loop_job
from mlip_autopipec.jobs.known import read_known
from mlip_autopipec.jobs.outliers import read_accepted, read_outliers
from mlip_autopipec.jobs.reuse import with_originals
from mlip_autopipec.jobs.stores import title_of
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.label import ComparisonDocument, DatasetDocument, LabelBatch, LabelDocument
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.structures.provenance import Origin, Provenance, Split

if TYPE_CHECKING:
    from jobflow import JobStore

#: Packed, an atom with its forces takes about 100 bytes.
_ATOMS_PER_PART = 40_000


def read_labels(
    campaign_id: str,
    last_cycle: int | None = None,
    store: JobStore | None = None,
    *,
    with_outliers: bool = False,
    flagged: Collection[str] | None = None,
) -> list[LabelDocument]:
    """
    Read the successful labels of a campaign, in the order in which they were asked for.

    Outliers that were flagged by trainings before ``last_cycle`` and not accepted since are left out.

    Parameters
    ----------
    campaign_id
        The campaign.
    last_cycle
        Leave out what later cycles labelled.
    store
        A connected JobStore; by default the one the present job runs in.
    with_outliers
        Leave none out.
    flagged
        uuids of all outliers ever flagged before ``last_cycle``, where they are known; else they are read.

    Returns
    -------
    list of LabelDocument
        The user's own labels first. A label that was computed twice, because its job was
        rerun or its cycle done again, is returned once; one that refers to another is filled from it.
    """
    store = current_store() if store is None else store
    criteria = {"output.kind": {"$in": ["label", "dataset", "comparison"]}, "output.campaign_id": campaign_id}
    imported: dict[tuple[int, str], list[LabelDocument]] = {}
    labels: dict[tuple[int, int, str], LabelDocument] = {}
    compared: list[ComparisonDocument] = []
    for found in read_known(store, criteria, ["output"], _made_of):
        if last_cycle is not None and found.cycle > last_cycle:
            continue
        if isinstance(found, ComparisonDocument):
            compared.append(found)
        elif isinstance(found, DatasetDocument):
            of_part = {"uuid": found.uuid, "output.kind": "dataset"}
            imported[found.part, found.sha256] = read_known(store, of_part, ["output"], _labels_of_part, load=True)
        else:
            labels.setdefault((found.cycle, found.index, found.key or ""), found)
    last = _newest(compared)
    shift = {} if last is None else last.energy_shift_eV or {}
    given = [_shifted(label, shift) for part in sorted(imported) for label in imported[part]]
    aside: set[str] = set()
    if not with_outliers:
        ever = read_outliers(campaign_id, store, last_cycle) if flagged is None else flagged
        aside = set(ever) - read_accepted(campaign_id, store) if ever else set()
    wanted = [labels[key] for key in sorted(labels) if labels[key].uuid not in aside]
    return [*(label for label in given if label.uuid not in aside), *with_originals(wanted, store, of=campaign_id)]


def read_given(campaign_id: str, store: JobStore | None = None) -> list[LabelDocument]:
    """Return the labels that a campaign was given, with the energies (eV) they came with; in their order."""
    store = current_store() if store is None else store
    criteria = {"output.kind": "dataset", "output.campaign_id": campaign_id}
    found = [
        DatasetDocument.model_validate(document["output"]) for document in store.query(criteria, ["output"], load=True)
    ]
    parts = {(document.part, document.sha256): document for document in found}  # one imported again is not used twice
    return [label for part in sorted(parts) for label in parts[part].labels()]


def read_comparison(campaign_id: str, store: JobStore | None = None) -> ComparisonDocument | None:
    """Return how a campaign's given labels compare with its oracle, with an energy shift; None where none were."""
    store = current_store() if store is None else store
    found = store.query({"output.kind": "comparison", "output.campaign_id": campaign_id}, ["output"])
    return _newest([ComparisonDocument.model_validate(document["output"]) for document in found])


def _newest(compared: Sequence[ComparisonDocument]) -> ComparisonDocument | None:
    return max(compared, key=lambda document: document.made_at or "", default=None)


def _made_of(output: dict[str, Any]) -> list[LabelDocument | DatasetDocument | ComparisonDocument]:
    """Make the model of a document with labels; none of a label that failed."""
    if output["kind"] == "comparison":
        return [ComparisonDocument.model_validate(output)]
    if output["kind"] == "dataset":
        return [DatasetDocument.model_validate(output)]
    return [LabelDocument.model_validate(output)] if output["state"] == "successful" else []


def _labels_of_part(output: dict[str, Any]) -> list[LabelDocument]:
    return DatasetDocument.model_validate(output).labels()


def _shifted(label: LabelDocument, shift_eV: Mapping[str, float]) -> LabelDocument:
    """Add to a given energy what the comparison with the oracle found for each atom of its elements (eV)."""
    if not shift_eV or label.atoms is None or label.energy_eV is None:
        return label
    shift = sum(shift_eV.get(chemical_symbols[number], 0.0) for number in label.atoms.numbers)
    told = f"energy shifted by {shift:+.6f} eV to the scale of the oracle"
    corrections = [*label.corrections, told]
    return label.model_copy(
        update={"energy_eV": label.energy_eV + shift, "shifted_eV": shift, "corrections": corrections}
    )


def recorded_task(campaign_id: str, store: JobStore) -> CampaignDocument:
    """Return what a campaign was last asked to do."""
    found = list(store.query({"output.kind": "campaign", "output.campaign_id": campaign_id}, ["output"], load=True))
    if not found:
        names = sorted(map(str, store.distinct("output.campaign_id", {"output.kind": "campaign"})))
        raise InvalidInputError(f"no campaign '{campaign_id}' is in {title_of(store)}; there are {names}")
    tasks = [CampaignDocument.model_validate(document["output"]) for document in found]
    return max(tasks, key=lambda task: task.generation)


def hours_worked(campaign_id: str, before: float = 0.0, since: str | None = None) -> float:
    """
    Return the wall time in hours that a campaign has worked.

    Parameters
    ----------
    campaign_id
        The campaign.
    before
        Hours worked before it was last resumed. The time it lay still does not count.
    since
        When it was last resumed (UTC, ISO format); None: since it was last recorded, which is when it was made, begun
        again or extended.
    """
    if since is not None:
        return before + _hours_since(since)
    criteria = {"output.kind": "campaign", "output.campaign_id": campaign_id}
    found = [doc["output"]["created_at"] for doc in current_store().query(criteria, ["output.created_at"])]
    if not found:
        raise MLIPError(
            f"no campaign '{campaign_id}' is in {title_of(current_store())}; was the store changed while it ran?"
        )
    return before + _hours_since(max(found))


def _hours_since(when: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds() / 3600


def walkers_learnt(batch: LabelBatch, flagged: Collection[str] = ()) -> dict[int, int]:
    """
    Return the walkers whose halted frame is among the labels of a batch and not flagged as an outlier.

    Parameters
    ----------
    batch
        The labels of a cycle.
    flagged
        uuids of labels that were not trained on.

    Returns
    -------
    dict
        From each walker to the number of atoms of that label: fewer than it has if the frame was cut.
    """
    criteria = {**in_batch(batch), "output.origin": "halted", "output.state": "successful"}
    found = current_store().query(criteria, ["output.uuid", "output.walker", "output.n_atoms"])
    labels = [doc["output"] for doc in found if doc["output"]["uuid"] not in flagged]
    return {label["walker"]: label["n_atoms"] for label in labels}


def in_batch(batch: LabelBatch) -> dict[str, Any]:
    """
    Return the query for the labels of one batch, failed ones among them.

    A cycle that was interrupted and repeated has further labels, perhaps of other settings, which are not of the batch.
    """
    of_cycle = {"output.campaign_id": batch.campaign_id, "output.cycle": batch.cycle}
    return {"output.kind": "label", **({"uuid": {"$in": batch.label_ids}} if batch.label_ids else of_cycle)}


def label_parts(labels: Sequence[Atoms], campaign_id: str) -> list[str]:
    """
    Pack a user's labels into parts that each fit well into a database document (16 MB in MongoDB).

    Parameters
    ----------
    labels
        Structures whose attached calculator holds energy (eV), forces (eV/A) and, if known, stress (eV/A^3).
    campaign_id
        The campaign they will be used in.
    """
    parts: list[list[dict[str, Any]]] = []
    n_atoms = _ATOMS_PER_PART
    for index, atoms in enumerate(labels):
        document = _given(atoms, campaign_id, index)
        if n_atoms + len(atoms) > _ATOMS_PER_PART:
            parts.append([])
            n_atoms = 0
        n_atoms += len(atoms)
        parts[-1].append(document.model_dump(mode="json"))
    return [pack(part) for part in parts]


def pack_labels(labels: Sequence[Atoms], campaign_id: str, chosen: Sequence[int]) -> str:
    """Pack some of a user's labels, by their numbers in the dataset."""
    return pack([_given(labels[i], campaign_id, i).model_dump(mode="json") for i in chosen])


def _given(atoms: Atoms, campaign_id: str, index: int) -> LabelDocument:
    known = Provenance.of(atoms)
    origin = Origin.ISOLATED_ATOM if known.split is Split.REFERENCE else Origin.GIVEN
    fields = {"origin": origin, "split": known.split, "stands_for": known.stands_for}
    return LabelDocument.from_labelled(atoms, campaign_id=campaign_id, index=index, **fields)


@loop_job()
def import_labels(labels: str, campaign_id: str, part: int = 0, after: object = None) -> DatasetDocument:
    """
    Store the labels a user brought along.

    Parameters
    ----------
    labels
        One of the :func:`label_parts`.
    campaign_id
        The campaign they will be used in.
    part
        Which one.
    after
        Output of a job that has to be done before.
    """
    del after
    return DatasetDocument(
        uuid=current_uuid(),
        campaign_id=campaign_id,
        part=part,
        n_labels=len(unpack(labels)),
        sha256=sha256(labels.encode()).hexdigest(),
        payload={"labels": labels},
    )


@loop_job()
def import_potential(document: dict[str, Any], campaign_id: str, after: object = None) -> PotentialDocument | None:
    """
    Store a potential given by the user; its coverage is known from the labels given with it.

    Parameters
    ----------
    document
        Potential document as a dictionary.
    campaign_id
        The campaign it will be used in.
    after
        Output of a job that has to be done before MD starts, such as the import of labels, or their comparison with
        the oracle.

    Returns
    -------
    PotentialDocument or None
        None where that comparison refuses the labels.
    """
    if isinstance(after, ComparisonDocument) and after.refused is not None:
        return None
    potential = PotentialDocument.model_validate({**document, "uuid": current_uuid(), "campaign_id": campaign_id})
    given = [label.to_atoms() for label in read_labels(campaign_id)]
    if not given:
        return potential
    return potential.model_copy(update={"coverage": Coverage.of(given, potential.cutoff_A).as_dict()})
