"""What a run file asks for that the campaign was not begun with: applied and named, or refused."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from mlip_autopipec.cli.base import console
from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase import Atoms
    from jobflow import Flow, JobStore

    from mlip_autopipec.flows.otf import OTFMaker
    from mlip_autopipec.runfile.model import RunFile

_NO_KEYS = ("@module", "@class", "@version", "name")


def check_unchanged(
    campaign: RunFile, campaign_id: str, store: JobStore, *, more: bool, extend: str = "`mlip-autopipec extend`"
) -> None:
    """
    Refuse a run file whose structures, conditions or seed are not those the campaign was begun with.

    Parameters
    ----------
    campaign
        The run file.
    campaign_id, store
        The campaign that goes on.
    more
        Whether there may be further structures and conditions, for `extend`.
    extend
        What takes these, as one would type it.

    Raises
    ------
    InvalidInputError
        Names what changed and what to do.
    """
    from mlip_autopipec.flows.given import as_frames
    from mlip_autopipec.flows.resume import recorded_maker
    from mlip_autopipec.jobs.dataset import recorded_task
    from mlip_autopipec.oracle.identity import canonical_form
    from mlip_autopipec.structures.frozen import frozen_atoms

    task = recorded_task(campaign_id, store)
    begun_as = recorded_maker(campaign_id, store).name
    another = f"this run file is named '{campaign.name}', and the campaign was begun by one named '{begun_as}'"
    another = "" if campaign.name == begun_as else f"{another}: is it the right one?"
    remedy = "put them back as they were" if more else f"put them back, or use {extend} for further ones"
    old, new = task.structures(), as_frames(campaign.load_structures())  # in the cells of MD, vacuum added
    wrong = [
        f"structures[{k}], {atoms.get_chemical_formula()}, is gone" for k, atoms in enumerate(old) if k >= len(new)
    ]
    for k, (was, mine) in enumerate(zip(old, new, strict=False)):
        formula, rested, rest = mine.get_chemical_formula(), frozen_atoms(was), frozen_atoms(mine)
        if canonical_form(mine) != canonical_form(was):
            wrong.append(f"structures[{k}] is another {formula} than the {was.get_chemical_formula()} it was")
        elif rest.tolist() != rested.tolist():
            told = f"structures[{k}], {formula}, freezes other atoms than it did"
            wrong.append(f"{told} ({len(rest)}, before {len(rested)})")
    if len(new) > len(old) and not more:
        wrong.append(f"{len(new) - len(old)} structures are new")
    asked = campaign.load_conditions()
    gone = [c for c in task.conditions if c not in asked]
    wrong += [f"the condition {c.temperature_K:g} K is missing or changed" for c in gone]
    if not more:
        wrong += [f"the condition {c.temperature_K:g} K is new" for c in asked if c not in task.conditions]
    if wrong:
        first = f"{another} Otherwise: " if another else ""
        raise InvalidInputError(
            f"{first}{'; '.join(wrong)}. The campaign '{campaign_id}' goes on with its own: {remedy}"
        )
    _check_labels(campaign, campaign_id, store)
    if campaign.seed != task.seed:
        raise InvalidInputError(
            f"seed is {campaign.seed}, and the campaign '{campaign_id}' was begun with {task.seed}; put it back: "
            "another seed is another campaign"
        )
    if another:
        console.print(f"[yellow]note:[/] {escape(another)}")


def _check_labels(campaign: RunFile, campaign_id: str, store: JobStore) -> None:
    """Refuse labels of the run file that the campaign was not begun with: nothing takes them in later."""
    from mlip_autopipec.jobs.dataset import read_given
    from mlip_autopipec.oracle.copies import without_copies

    given = read_given(campaign_id, store)
    if not given and store.query_one({"output.kind": "potential", "output.campaign_id": campaign_id}) is None:
        return  # it was interrupted before they were stored, and takes them in now
    labels = campaign.load_labels()
    now = _counted(labels)
    stored = Counter(_told_of(label.formula, label.energy_eV or 0.0) for label in given)
    if stored != now and len(given) > len(labels):  # earlier versions took in copies
        once, _, _ = without_copies([label.to_atoms() for label in given], [label.uuid for label in given])
        stored = _counted(once)
    new, gone = now - stored, stored - now
    if not new and not gone:
        return
    counts = [f"{sum(of.values())} {what}" for of, what in ((new, "are new"), (gone, "are gone or changed")) if of]
    which = next(iter(new or gone))
    raise InvalidInputError.of(
        "start_from.labels",
        f"are not those the campaign '{campaign_id}' was begun with: {' and '.join(counts)} (a label of {which[0]}, "
        f"{which[1]:.6g} eV, for instance). Labels come in when a campaign begins: put them back as they were, or "
        "begin a campaign of another name with all of them (`mlip-autopipec export` writes those of this one)",
    )


def _counted(labels: Sequence[Atoms]) -> Counter[tuple[str, float]]:
    return Counter(_told_of(atoms.get_chemical_formula(), float(atoms.calc.results["energy"])) for atoms in labels)


def _told_of(formula: str, energy_eV: float) -> tuple[str, float]:
    return formula, round(energy_eV, 6)


def flow_left(
    campaign: RunFile,
    campaign_id: str,
    store: JobStore,
    *,
    more: bool,
    new_oracle: bool,
    finished: bool = False,
) -> Flow | None:
    """
    Make the flow of what is left of a campaign, or of what its run file asks for beyond it.

    Parameters
    ----------
    campaign, campaign_id, store, more
        As for :func:`check_unchanged`.
    new_oracle
        As for :func:`maker_if_changed`.
    finished
        Whether its results are there, too: where its loop has ended nothing is left then.

    Returns
    -------
    Flow or None
        None where the loop has ended, and its validation or results may be missing.

    Raises
    ------
    InvalidInputError
        The run file asks for something that the campaign cannot go on with.
    NothingLeftError
        Nothing is left to do.
    ExecutableError
        MD is left to do, by an engine that is not there.
    """
    from mlip_autopipec.cli.local import check_engine
    from mlip_autopipec.flows.otf import OTFMaker
    from mlip_autopipec.flows.resume import has_ended
    from mlip_autopipec.jobs.dataset import recorded_task

    check_unchanged(campaign, campaign_id, store, more=more)
    known = len(recorded_task(campaign_id, store).formulas)
    maker = maker_if_changed(campaign, campaign_id, store, new_oracle=new_oracle)
    if more:
        new = campaign.load_structures()[known:]
        flow = OTFMaker.extend(campaign_id, store, new, campaign.load_conditions(), maker)
    elif has_ended(campaign_id, store) and not finished:
        return None
    else:
        flow = OTFMaker.resume(campaign_id, store, maker)
    check_engine(campaign)
    return flow


def maker_if_changed(
    campaign: RunFile, campaign_id: str, store: JobStore, *, new_oracle: bool = False
) -> OTFMaker | None:
    """
    Return the maker of the run file, if it is not the one the campaign was last run with, and print what changed.

    Parameters
    ----------
    campaign, campaign_id, store
        As for :func:`check_unchanged`.
    new_oracle
        Whether another oracle may go on with the campaign.

    Raises
    ------
    InvalidInputError
        It asks for another basis, which the fit would silently not give it; or for another oracle.
    """
    from mlip_autopipec.flows.resume import recorded_maker
    from mlip_autopipec.jobs.dataset import recorded_task
    from mlip_autopipec.kinds import TRAINERS

    maker, recorded = campaign.maker(), recorded_maker(campaign_id, store)
    # as this version would record it: modules may have moved, and fields come to be, since
    before, now = json.loads(recorded.to_json()), json.loads(maker.to_json())
    if now == before:
        return None
    (structure, *_) = recorded_task(campaign_id, store).structures()
    conflicts = recorded.oracle_maker.asked(structure).conflicts(maker.oracle_maker.asked(structure))
    if conflicts and not new_oracle:
        raise InvalidInputError(
            f"oracle: {'; '.join(conflicts)}. Labels of two levels of theory do not go together: put it back, begin a "
            "campaign of another name, or say --new-oracle if that is what you want"
        )
    old, new = before["train_maker"]["trainer"], now["train_maker"]["trainer"]
    is_fitted = store.query_one({"output.kind": "potential", "output.campaign_id": campaign_id}, ["uuid"]) is not None
    if TRAINERS[campaign.trainer.kind].keeps_basis and is_fitted and old.get("basis") != new["basis"]:
        changed = [f"{key} {a} -> {b}" for key, a, b in _differences(old.get("basis"), new["basis"], "")]
        raise InvalidInputError(
            f"trainer.basis: {', '.join(changed)}; the campaign's potential keeps its basis when it is fine-tuned. "
            "Change it back, or begin a campaign of another name with these labels: `mlip-autopipec export` writes "
            "them, start_from: {labels: .../dataset/train.extxyz} reads them"
        )
    if (teacher := before.get("teach_maker")) != now["teach_maker"]:
        goes_on = TRAINERS[campaign.trainer.kind].leaves_out
        console.print(f"[yellow]note:[/] {told_teacher(teacher, now['teach_maker'], is_fitted, goes_on)}")
        now["teach_maker"] = teacher
    for key, was, is_now in _differences(before, now, ""):
        console.print(f"[yellow]note:[/] {escape(f'{key} is {is_now} from now on, before it was {was}')}")
    return maker


def told_teacher(before: Any, now: Any, is_fitted: bool, closed_form: bool) -> str:
    """Say what becomes of a teacher that is another one, new or removed."""
    if now is None:
        told = "teacher is removed: fits are without it from now on"
    elif before is None:
        told = "teacher is new: it is taught before the next fit, which may learn from it"
    else:
        told = "teacher is another one: it is taught before the next fit, and the earlier one is in no fit from then on"
    if not is_fitted or before is None:
        return told
    if closed_form:
        return f"{told}. The potential that there is keeps what the earlier one taught until then"
    return f"{told}. A gradient fit goes on from the potential that there is, in which the earlier one stays"


def _differences(before: Any, now: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Find the settings that differ, each with its dotted name."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now} - set(_NO_KEYS)):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield name, before, now
