"""Check: is the potential as good as its silence about unknown territory claims? Labels it was not trained on tell."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.active_learning.calibration import grade_errors
from mlip_autopipec.cutouts.cutout import CutoutError, CutoutGenerator, choose_centres
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.asked import exceeded_left_out, stress_not_measured, what_would_help
from mlip_autopipec.jobs.base import current_store, current_uuid, load_document, loop_job
from mlip_autopipec.jobs.dataset import in_batch, read_labels, recorded_task
from mlip_autopipec.jobs.outliers import read_outliers
from mlip_autopipec.jobs.reuse import with_originals
from mlip_autopipec.schemas.check import CheckDocument, WalkerErrors
from mlip_autopipec.schemas.label import LabelBatch, LabelDocument
from mlip_autopipec.schemas.potential import Errors, GradedLabel, PotentialDocument
from mlip_autopipec.schemas.walk import ProposalDocument, WalkDocument
from mlip_autopipec.seeds import SeedPurpose, derive_seed
from mlip_autopipec.structures.distort import bare_copy
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.structures.provenance import Origin, Provenance, Split, mark
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.validation.confidence import Bounds
from mlip_autopipec.validation.criteria import ORIGIN as PROPERTY
from mlip_autopipec.validation.criteria import Criterion
from mlip_autopipec.validation.targets import STILL_MEV_A, AccuracyTargets, Limits
from mlip_autopipec.validation.variation import energy_spread_meV_atom, stress_rms_GPa

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.validation.comparison import PropertyComparison

logger = logging.getLogger(__name__)

#: What labels of a check are called; they are held out until the check has failed.
CHECK = "check"
#: Where a cut-out cannot be made, the next atom is tried: so many for each label.
_TRIED = 4
#: Why a cell of a property was not labelled.
_TOO_DEAR = "not asked for: StopRule.max_labels leaves fewer labels than this property takes; raise it"
#: Frames of MD closer than this in time say the same: a period of vibration takes 100 to 300 fs.
_CORRELATED_FS = 200.0
#: Two atoms at most this far apart are the same one.
_SAME_PLACE_A = 0.01


@loop_job()
def propose_check(
    walk_ids: Sequence[str],
    campaign_id: str,
    cycle: int,
    n_labels: int,
    seed: int,
    potential_id: str | None = None,
    cutouts: CutoutGenerator | None = None,
    criterion: Criterion | None = None,
    budget: int | None = None,
) -> ProposalDocument:
    """
    Take frames from MD that completed without a halt; of frames too large for a label, cut-outs of highest gamma.

    Parameters
    ----------
    walk_ids
        uuids of the walks that completed without a halt; those that a bias drove are left out.
    campaign_id, cycle
        Of the loop.
    n_labels
        Number of frames, at least one of each walk: last frames of all walks first, then frames dumped on their way,
        whose gamma is above the lower threshold, as long as they are not close in time to one another.
    seed
        Of the choice.
    potential_id
        uuid of the potential that is checked.
    cutouts
        Cuts the atom of highest gamma out of frames that are too large, then the next one, far from it. The potential
        is compared with the label of the cut-out itself, so that its faces are no error.
    criterion
        Properties that are to be compared: its cells follow.
    budget
        Labels that may still be computed, if that is limited. A property whose cells are too many is left out.
    """
    rng = np.random.default_rng(derive_seed(seed, SeedPurpose.CHECK, cycle))
    walks = [load_document(WalkDocument, walk_ids[i]) for i in rng.permutation(len(walk_ids))]
    walks = [walk for walk in walks if not walk.is_biased]  # theirs is another ensemble
    last = [(walk.final_atoms(), _named(walk)) for walk in walks]
    dumped = [(frame, _named(walk)) for walk in walks for frame in _apart(walk)]
    n_labels = max(n_labels, len(last)) if n_labels else 0  # none of the walkers goes unchecked
    chosen = [*last, *(dumped[i] for i in rng.permutation(len(dumped)))][:n_labels]
    frames = [frame for frame, _ in chosen]
    small = [(bare_copy(frame), name) for frame, name in chosen if cutouts is None or not cutouts.wanted(frame)]
    candidates, sources = [one for one, _ in small], [name for _, name in small]
    if cutouts is not None and potential_id is not None and len(candidates) < len(frames):
        potential = load_document(PotentialDocument, potential_id).to_potential()
        large = [(frame, name) for frame, name in chosen if cutouts.wanted(frame)]
        cut_seed = derive_seed(seed, SeedPurpose.CHECK_CUTOUTS, cycle)
        cut = _least_known([frame for frame, _ in large], potential, cutouts, n_labels - len(candidates), cut_seed)
        candidates += [one for one, _ in cut]
        sources += [large[k][1] for _, k in cut]
    for candidate in candidates:
        mark(candidate, origin=Origin.CHECK)
    candidates, sources = candidates[:budget], sources[:budget]
    unchecked = [name for _, name in last if n_labels and name not in sources]
    if criterion is not None:
        left = None if budget is None else budget - len(candidates)
        structures = recorded_task(campaign_id, current_store()).structures()
        candidates += criterion.affordable(structures, left)
        if potential_id is not None:
            on_paths = criterion.structures_by(
                structures, load_document(PotentialDocument, potential_id).to_potential()
            )
            left = None if budget is None else budget - len(candidates)
            candidates += on_paths if left is None or len(on_paths) <= left else []
    for candidate in candidates:
        mark(candidate, split=Split.CHECK)
    return ProposalDocument(
        uuid=current_uuid(),
        campaign_id=campaign_id,
        cycle=cycle,
        n_candidates=len(candidates),
        origins=dict(Counter(Provenance.of(candidate).origin for candidate in candidates)),
        seed=seed,
        sources=sources + [""] * (len(candidates) - len(sources)),
        unchecked=unchecked,
        payload={"candidates": pack_frames(candidates)},
    )


def _named(walk: WalkDocument) -> str:
    return f"w{walk.walker} {walk.temperature_K:g} K"


def _apart(walk: WalkDocument) -> list[Atoms]:
    """Return frames on the way that are far in time from the last frame, and from one another."""
    chosen: list[Atoms] = []
    before = walk.step
    dumped = {frame.info.get("step"): frame for frame in (*walk.spread_frames(), *walk.dumped_frames())}
    for step, frame in sorted(dumped.items(), key=lambda one: -1 if one[0] is None else one[0], reverse=True):
        if step is None or (before - step) * walk.timestep_fs < _CORRELATED_FS:
            continue
        chosen.append(frame)
        before = step
    return chosen[::-1]


def _least_known(
    frames: Sequence[Atoms], potential: ACEPotential, cutouts: CutoutGenerator, n_labels: int, seed: int
) -> list[tuple[Atoms, int]]:
    """Cut the surroundings of highest gamma out of large frames, with their numbers: the worst of each, then others."""
    grades = [compute_gamma(potential, frame) for frame in frames]  # those of the walk may be an older potential's
    apart = 2 * potential.cutoff
    centres = [choose_centres(*graded, apart, _TRIED * n_labels, 0.0) for graded in zip(frames, grades, strict=True)]
    ranked = sorted((rank, k, centre) for k, found in enumerate(centres) for rank, centre in enumerate(found))
    made: list[tuple[Atoms, int]] = []
    reason = ""
    for _, k, centre in ranked:
        try:
            cutout = cutouts.cut(frames[k], potential, centre, seed, grades[k])
        except CutoutError as error:
            logger.warning("no cut-out around atom %d: %s", centre, error)
            reason = str(error)
            continue
        logger.info("%s", cutout)
        candidate = bare_copy(cutout.atoms)
        mark(candidate, cutout_of=centre, n_core=int(cutout.core.sum()))  # the core comes first
        made.append((candidate, k))
        if len(made) == n_labels:
            break
    if not made:
        raise MLIPError(f"no cut-out for the check could be made from MD without halts: {reason}")
    return made


def _core(label: LabelDocument, atoms: Atoms, proposals: Mapping[str, ProposalDocument]) -> NDArray[np.intp] | None:
    """
    Find the atoms of a labelled cut-out that are where they were in the large cell; None for all of a whole frame.

    The others were relaxed in the potential that is checked, so their forces are small and well known. A label may
    have its atoms in another order than what was asked for.
    """
    asked = proposals[label.source_id or ""].candidates()[label.source_index or 0]
    if (n_core := Provenance.of(asked).n_core) is None:
        return None
    away = asked.get_scaled_positions()[:n_core, None] - atoms.get_scaled_positions()[None]
    distances = np.linalg.norm((away - np.round(away)) @ asked.cell.array, axis=-1)
    distances[asked.numbers[:n_core, None] != atoms.numbers[None]] = np.inf
    return None if distances.min(axis=1).max() > _SAME_PLACE_A else distances.argmin(axis=1)


@loop_job()
def measure(
    batch: LabelBatch,
    potential_id: str,
    campaign_id: str,
    cycle: int,
    relative_limit: float,
    floor_meV_A: float,
    criterion: Criterion | None = None,
    targets: AccuracyTargets | None = None,
    confidence: float = 0.9,
    n_failed_before: int = 0,
) -> CheckDocument | None:
    """
    Compare the potential with the labels of a check.

    Parameters
    ----------
    batch
        What became of the labels.
    potential_id
        uuid of the potential.
    campaign_id, cycle
        Of the loop.
    relative_limit, floor_meV_A
        The root mean square force error may be this share of the labels' root mean square force, or this.
    criterion
        Properties that are compared, too.
    targets
        What the errors may be, where the user says so.
    confidence
        Probability with which the true errors have to be within the targets.
    n_failed_before
        Checks in a row before this one that failed.

    Returns
    -------
    CheckDocument or None
        None when the oracle is failing.
    """
    if batch.oracle_failing:
        return None
    store = current_store()
    documents = store.query(in_batch(batch), ["output"], sort={"output.index": 1})
    found = [LabelDocument.model_validate(document["output"]) for document in documents]
    labels = with_originals([label for label in found if label.state == "successful"], store)
    checked = [label for label in labels if label.origin == CHECK]
    frames = [label.to_atoms() for label in checked]
    trained = load_document(PotentialDocument, potential_id)
    potential = trained.to_potential()
    targets = targets or AccuracyTargets()
    proposals = {one: load_document(ProposalDocument, one) for one in sorted({k.source_id or "" for k in found})}
    cores = [_core(label, atoms, proposals) for label, atoms in zip(checked, frames, strict=True)]
    by_walker = _by_walker(checked, frames, cores, potential, proposals)
    wanted = [one for p in proposals.values() for one in (*p.sources, *p.unchecked) if one]
    unchecked = [name for name in dict.fromkeys(wanted) if name not in {one.walker for one in by_walker}]
    cut_off = {name for p in proposals.values() for name in p.unchecked}
    bounds = Bounds(confidence)
    # the stress of a cut-out is that of its faces
    stresses = [
        rms for a, k in zip(frames, cores, strict=True) if k is None and (rms := stress_rms_GPa([a])) is not None
    ]
    errors, forces = compute_errors(potential, frames, cores), None
    limits = most = Limits(None, None, None)
    if errors is not None:
        measured = [raw_forces(a) if k is None else raw_forces(a)[k] for a, k in zip(frames, cores, strict=True)]
        forces = 1e3 * float(np.sqrt(np.mean(np.concatenate(measured) ** 2)))
        flagged = read_outliers(campaign_id, store)  # by the last training, too
        everything = [label.to_atoms() for label in read_labels(campaign_id, cycle, flagged=flagged)]
        bounds = targets.bounds(errors.n_structures, errors.n_atoms, confidence, len(stresses))
        limits_of = partial(
            Limits.of,
            targets,
            energy_spread_meV_atom=energy_spread_meV_atom(potential, everything),
            forces_rms_meV_A=forces,
            stress_rms_GPa=stress_rms_GPa([a for a, k in zip(frames, cores, strict=True) if k is None]),
            relative=relative_limit,
            forces_floor_meV_A=floor_meV_A,
        )
        limits, most = limits_of(training=trained.train), limits_of()
        if forces < STILL_MEV_A:
            logger.warning(
                "the check of cycle %d proves nothing: its %d frame(s) of MD have forces of %.2g meV/A (root mean "
                "square). See whether MD moves the atoms; a cell of one atom has no forces, repeat it",
                cycle,
                len(frames),
                forces,
            )
    elif criterion is None:
        raise MLIPError(f"there are no labels to check the potential of cycle {cycle} with")
    comparisons, too_dear = _compared(criterion, campaign_id, found, labels, potential)
    plain = [comparison.as_dict() for comparison in comparisons]
    found_errors = None if errors is None else Errors(**errors.as_dict())
    cut = any(core is not None for core in cores)
    unmeasured, remarks = stress_not_measured(targets, by_walker, trained, any_stress=bool(stresses), cut=cut)
    is_still = any(one.forces_rms_meV_A < STILL_MEV_A for one in by_walker)
    document = CheckDocument(
        uuid=current_uuid(),
        campaign_id=campaign_id,
        cycle=cycle,
        potential_id=potential_id,
        batch_id=batch.uuid,
        errors=found_errors,
        forces_rms_meV_A=forces,
        limit_meV_A=limits.forces_meV_A,
        energy_limit_meV_atom=limits.energy_meV_atom,
        stress_limit_GPa=limits.stress_GPa,
        most_allowed=(most.energy_meV_atom, most.forces_meV_A, most.stress_GPa),
        is_still=is_still,
        left_out_exceeded=exceeded_left_out(trained, targets, confidence),
        unmeasured=unmeasured,
        remarks=remarks,
        passed=False,
        beyond_budget=bool(too_dear or cut_off & set(unchecked)),
        confidence=confidence if targets.asks else None,
        bound_factors=(bounds.energy, bounds.forces, bounds.stress),
        n_failed_before=n_failed_before,
        by_walker=by_walker,
        unchecked=unchecked,
        graded=[GradedLabel.of(k.uuid, grade_errors(potential, a)) for k, a in zip(checked, frames, strict=True)],
        properties=[{name: value for name, value in one.items() if name != "data"} for one in plain],
        payload={"properties": [one["data"] for one in plain]},
    )
    document.passed = not document.failures
    document.hints = what_would_help(document, trained)
    return document


def _compared(
    criterion: Criterion | None,
    campaign_id: str,
    found: Sequence[LabelDocument],
    labels: Sequence[LabelDocument],
    potential: ACEPotential,
) -> tuple[list[PropertyComparison], dict[str, str]]:
    """Compare properties, where asked for; return the comparisons, and why labels of some were not asked for."""
    if criterion is None:
        return [], {}
    failures = {label.purpose: label.reason or "" for label in found if label.state == "failed" and label.purpose}
    cells = []
    for label in labels:
        if label.origin == PROPERTY:
            cells.append(label.to_atoms())
            mark(cells[-1], purpose=label.purpose)
    structures = recorded_task(campaign_id, current_store()).structures()
    asked = {label.purpose for label in found}
    too_dear = {
        tag: _TOO_DEAR
        for cell in criterion.structures(structures)
        if (tag := Provenance.of(cell).purpose) is not None and tag not in asked
    }
    return list(criterion.compare(structures, cells, potential, failures | too_dear)), too_dear


def _by_walker(
    checked: Sequence[LabelDocument],
    frames: Sequence[Atoms],
    cores: Sequence[NDArray[np.intp] | None],
    potential: ACEPotential,
    proposals: Mapping[str, ProposalDocument],
) -> list[WalkerErrors]:
    """Return the errors on the frames of each walker."""
    of: dict[str, list[int]] = {}
    for i, label in enumerate(checked):
        sources = proposals[label.source_id or ""].sources
        if (place := label.source_index or 0) < len(sources):  # proposals of earlier versions name no walkers
            of.setdefault(sources[place], []).append(i)
    found = []
    for name, places in sorted(of.items()):
        errors = compute_errors(potential, [frames[i] for i in places], [cores[i] for i in places])
        assert errors is not None
        forces = [raw_forces(frames[i])[slice(None) if cores[i] is None else cores[i]] for i in places]
        rms = 1e3 * float(np.sqrt(np.mean(np.concatenate(forces) ** 2)))
        found.append(WalkerErrors(walker=name, errors=Errors(**errors.as_dict()), forces_rms_meV_A=rms))
    return found
