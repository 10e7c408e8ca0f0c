"""Train: a potential and its active set from all labels of the campaign."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jobflow import Maker

from mlip_autopipec.active_learning.coverage import Coverage
from mlip_autopipec.active_learning.outliers import OutlierRule
from mlip_autopipec.active_learning.spread import FittedErrors, Spread
from mlip_autopipec.errors import TrainingError
from mlip_autopipec.jobs.base import current_store, current_uuid, load_document, load_either, loop_job
from mlip_autopipec.jobs.failures import keeps_reason, require_teachers
from mlip_autopipec.jobs.judging import has_unjudged, judge_left_out, judge_new, judge_unexplained
from mlip_autopipec.jobs.teach import find_teacher
from mlip_autopipec.jobs.training_labels import TrainingLabels, digest
from mlip_autopipec.moved import renamed_fields
from mlip_autopipec.schemas.label import ComparisonDocument, DatasetDocument, LabelBatch, LabelDocument
from mlip_autopipec.schemas.linear import LeftOutErrors, LeftOutLikeMD, factor_doubt
from mlip_autopipec.schemas.potential import FlaggedLabel, GradedLabel, PotentialDocument
from mlip_autopipec.schemas.teacher import TeacherDocument
from mlip_autopipec.seeds import SeedPurpose, derive_seed
from mlip_autopipec.structures.provenance import Origin
from mlip_autopipec.training.error_scale import scale_to_fresh
from mlip_autopipec.training.judge import judged_by_linear_fit
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.training import ACETrainer
from mlip_autopipec.training.usual import dimers_among
from mlip_autopipec.validation.md_energies import like_md

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.training.linear_record import LinearFitRecord
    from mlip_autopipec.training.results import TrainingResult

logger = logging.getLogger(__name__)

#: A dataset is fitted at most so many times without the labels that the others contradict.
_ROUNDS = 8
#: In place of a digest: whichever teacher taught last.
ANYBODY = "anybody"


@renamed_fields(quarantine="outliers")
@dataclass
class TrainMaker(Maker):
    """
    Train on everything labelled so far.

    Parameters
    ----------
    name
        Name of the job.
    trainer
        How to fit: :class:`~mlip_autopipec.training.linear.LinearACETrainer` or
        :class:`~mlip_autopipec.training.pacemaker.trainer.PacemakerTrainer`.
    outliers
        Flags outliers among new labels before they are trained on; None flags none.
    """

    name: str = "train"
    trainer: ACETrainer = field(default_factory=LinearACETrainer)
    outliers: OutlierRule | None = field(default_factory=OutlierRule)

    @loop_job(tolerate_failed_inputs=True)
    @keeps_reason("train")
    def make(
        self,
        batch: LabelBatch | DatasetDocument | ComparisonDocument | str | None,
        campaign_id: str,
        cycle: int,
        seed: int,
        elements: list[str],
        initial_potential: PotentialDocument | str | None = None,
        fine_tune: bool = False,
        teachers: Sequence[TeacherDocument | None] = (),
        taught_by: str | None = ANYBODY,
    ) -> PotentialDocument | None:
        """
        Train; the labels are read from the store.

        Parameters
        ----------
        batch
            What became of this cycle's labels, or the user's own, or their comparison with the oracle; None when
            their job died. The uuid of an earlier batch: its labels of a check, and those accepted since, are new to
            the potential.
            Nothing is trained when the oracle is failing.
        campaign_id, cycle, seed
            Of the loop.
        elements
            Elements the potential has to know.
        initial_potential
            The potential to continue from, or its uuid.
        fine_tune
            Continue with few iterations, and require a lower error of the new labels.
        teachers
            The teacher that was made for this training; None where its job failed. Later trainings find it.
        taught_by
            Digest of the teacher of the settings, None without one: what others taught is in no fit any more. By
            default, for jobs of earlier versions, the last one that taught.

        Returns
        -------
        PotentialDocument or None
            None when the oracle is failing, or the user's labels are refused.
        """
        require_teachers(teachers, campaign_id, cycle)  # without it nothing was labelled
        if batch is None:
            raise TrainingError(f"there are no labels of cycle {cycle}: the label job failed")
        earlier = isinstance(batch, str)
        if isinstance(batch, str):
            batch = load_either(LabelBatch, DatasetDocument, batch)
        if isinstance(batch, LabelBatch) and batch.oracle_failing:
            return None
        if isinstance(batch, ComparisonDocument) and batch.refused is not None:
            return None
        if isinstance(initial_potential, str):
            initial_potential = load_document(PotentialDocument, initial_potential)
        teacher = _teacher(campaign_id, taught_by)
        labels = TrainingLabels.read(campaign_id, cycle, batch.cycle if fine_tune else None, initial_potential, earlier)
        trainer = with_reference_energies(self.trainer, labels.every, elements)
        start = None if initial_potential is None else initial_potential.to_potential()
        # a fit in closed form has the whole basis of a teacher it goes on from; gradient fits cannot drop what is in it
        anew = trainer.judges_labels and _learnt_from_another(initial_potential, teacher)
        trusted, graded, aside = judge_new(
            self.outliers,
            start,
            labels.old,
            labels.new,
            labels.just_accepted,
            labels.graded,
            _fitted(initial_potential, labels.old),
            _spread_left_out(initial_potential, labels.old),
        )
        if initial_potential is not None and labels.new and not trusted:
            logger.warning("nothing is trained in cycle %d: all its labels are flagged as outliers", cycle)
            return _unchanged(initial_potential, cycle, graded, aside)

        def fit(frames: Sequence[Atoms]) -> TrainingResult:
            return trainer.train(
                frames,
                None if anew else start,
                fine_tune and not anew,
                new_labels=new_frames,
                test_labels=_structures(trainer, labels.test),
                elements=elements,
                seed=derive_seed(seed, SeedPurpose.TRAINING, cycle),
                cycle=cycle,
                teacher=None if teacher is None else teacher.to_potential(),
            )

        frames, new_frames = _structures(trainer, labels.old), _structures(trainer, trusted)
        old, result = labels.old, None
        first = initial_potential is None or initial_potential.trained_on is None
        for _ in range(_ROUNDS if first and has_unjudged(self.outliers, old) else 0):  # a large error hides others
            if trainer.judges_labels:
                result = fit(frames)
            record = judged_by_linear_fit(trainer, frames, elements) if result is None else result.linear
            wrong = judge_left_out(self.outliers, record, old, labels.accepted)
            if result is not None:  # fits of other trainers may have stopped before they explain much
                known = [*labels.accepted, *(label.label_id for label in wrong)]
                wrong += judge_unexplained(result.potential, old, known)
            if not wrong:
                break
            aside += wrong
            names = {label.label_id for label in wrong}
            kept = [i for i, label in enumerate(old) if label.uuid not in names]
            old, frames, result = [old[i] for i in kept], [frames[i] for i in kept], None
        result = _with_fresh_errors(result or fit(frames), [*labels.graded, *graded])
        document = PotentialDocument.from_training(
            result,
            uuid=current_uuid(),
            campaign_id=campaign_id,
            cycle=cycle,
            parent_id=None if initial_potential is None else initial_potential.uuid,
            teacher_id=None if teacher is None else teacher.uuid,
            trainer={"class": type(trainer).__name__, **asdict(trainer)},
            fits_stress=trainer.fits_stress,
            fine_tuned=fine_tune and not anew and (result.refit is None or result.refit.kept == "fine-tune"),
            n_train=len(frames) + len(new_frames),
            n_test=len(labels.test),
            graded=graded,
            quarantined=aside,
            let_in=sorted(labels.accepted),
            coverage=_coverage(initial_potential, old, frames, new_frames, result.potential.cutoff).as_dict(),
            trained_on=digest([*old, *trusted]),
            new_left_out=_left_out(result.linear, new_frames),
        )
        if document.fine_tuned and result.linear is None and initial_potential is not None:
            document.teacher_factor = initial_potential.teacher_factor  # what a gradient fit goes on from is in it
            if document.teacher_factor is not None:
                document.teacher_id = initial_potential.teacher_id
        doubt = factor_doubt(document.teacher_factor)
        if doubt is not None and (initial_potential is None or factor_doubt(initial_potential.teacher_factor) is None):
            logger.warning("%s", doubt)  # once, not in every cycle
        if result.linear is not None:  # in the order of the labels
            ids = [label.uuid for label in (*old, *trusted)]
            document.payload["left_out"] = dict(zip(ids, map(list, result.linear.labels), strict=True))
        if result.linear is not None and document.linear is not None:
            document.linear.left_out_like_md = _left_out_like_md(
                result.linear, [*frames, *new_frames], [*old, *trusted]
            )
        return document


def _teacher(campaign_id: str, taught_by: str | None) -> TeacherDocument | None:
    """Return the teacher of a training; see :meth:`TrainMaker.make`."""
    if taught_by is None:
        return None
    return find_teacher(current_store(), campaign_id, None if taught_by == ANYBODY else taught_by)


def _learnt_from_another(parent: PotentialDocument | None, teacher: TeacherDocument | None) -> bool:
    """Tell whether a potential holds what a teacher said who is in the settings no more."""
    if parent is None or parent.teacher_factor is None:
        return False
    return parent.teacher_id != (None if teacher is None else teacher.uuid)


def _structures(trainer: ACETrainer, labels: Sequence[LabelDocument]) -> list[Atoms]:
    """Return structures with their labels; copies for a trainer that may change them."""
    return [label.shared_atoms() if trainer.leaves_labels else label.to_atoms() for label in labels]


def _unchanged(
    parent: PotentialDocument, cycle: int, graded: list[GradedLabel], aside: list[FlaggedLabel]
) -> PotentialDocument:
    """Return the potential as it was, with what was found out about the new labels."""
    unchanged = {"uuid": current_uuid(), "cycle": cycle, "parent_id": parent.uuid, "seconds": 0.0}
    measured = {"graded": graded, "quarantined": aside}
    measured |= dict.fromkeys(("new_before", "new_after", "new_left_out"))
    return parent.model_copy(update={**unchanged, **measured, "fit": None, "refit": None})


def _fitted(parent: PotentialDocument | None, old: Sequence[LabelDocument]) -> FittedErrors | None:
    """Return the errors of a potential on the labels that it was trained on, where it was trained on these alone."""
    if parent is None or parent.fitted is None or parent.trained_on != digest(old):
        return None
    return parent.fitted.to_errors()


def _spread_left_out(parent: PotentialDocument | None, old: Sequence[LabelDocument]) -> FittedErrors | None:
    """Return the errors of labels left out of the parent's fit, of those there are; None of another trainer."""
    errors = {} if parent is None else parent.payload.get("left_out", {})
    dimers = dimers_among([label.shared_atoms() for label in old]) if errors else ()
    known = [
        errors[label.uuid] for label, dimer in zip(old, dimers, strict=False) if label.uuid in errors and not dimer
    ]
    energies = [1e-3 * energy for energy, _, _ in known]
    forces = [1e-3 * np.sqrt(3) * force for _, force, _ in known]
    return FittedErrors(Spread.of(energies), Spread.of(forces)) if known else None


def _with_fresh_errors(result: TrainingResult, graded: Sequence[GradedLabel]) -> TrainingResult:
    """Scale the error bars by how wrong the potentials were about labels before these were trained on."""
    posterior = result.potential.posterior
    if posterior is None or result.linear is None:
        return result
    pairs = {pair.label_id: found for pair in graded if not pair.in_core and (found := pair.to_expected()) is not None}
    posterior = replace(posterior, fresh=scale_to_fresh(list(pairs.values())))
    return replace(
        result,
        potential=replace(result.potential, posterior=posterior),
        linear=replace(result.linear, posterior=posterior),
    )


def _left_out(record: LinearFitRecord | None, new_frames: Sequence[Atoms]) -> LeftOutErrors | None:
    """Return the errors of the new labels, which are the last ones of a fit, each left out of it."""
    if record is None or not new_frames:
        return None
    last = range(len(record.labels) - len(new_frames), len(record.labels))
    return LeftOutErrors(**_rmse(record, last, [len(frame) for frame in new_frames]))


def _rmse(record: LinearFitRecord, which: Sequence[int], n_atoms: Sequence[int]) -> dict[str, Any]:
    """Return the errors of some labels, each left out of the fit, by their names in documents."""
    energy, forces, stress = record.left_out_of(which, n_atoms)
    errors = {"energy_rmse_meV_atom": energy, "forces_rmse_meV_A": forces, "stress_rmse_GPa": stress}
    return {"n_structures": len(which), **errors}


def _left_out_like_md(
    record: LinearFitRecord, frames: Sequence[Atoms], labels: Sequence[LabelDocument]
) -> LeftOutLikeMD | None:
    """Return the errors of labels with energies of MD, each left out of the fit; None where these are not known."""
    checked = [label.cycle if label.origin == Origin.CHECK else -1 for label in labels]
    latest = max(checked)  # MD of earlier potentials may have gone astray
    of_md = np.array([latest >= 0 and cycle == latest for cycle in checked])
    found = like_md(frames, np.array(record.counted, dtype=bool), of_md)
    if found is None:
        return None
    which = np.flatnonzero(found).tolist()
    n_atoms = [len(frames[i]) for i in which]
    n_stresses = sum(record.labels[i].stress_rmse_GPa is not None for i in which)
    return LeftOutLikeMD(n_atoms=sum(n_atoms), n_stresses=n_stresses, **_rmse(record, which, n_atoms))


def _coverage(
    parent: PotentialDocument | None,
    old: Sequence[LabelDocument],
    frames: Sequence[Atoms],
    new_frames: Sequence[Atoms],
    cutoff_A: float,
) -> Coverage:
    """
    Count the surroundings in the labels that were trained on.

    Those of the old ones are known where the potential before was trained on them and nothing else, with this cutoff.
    """
    known = None if parent is None or parent.trained_on != digest(old) else parent.known_surroundings()
    if known is None or known.cutoff != cutoff_A:
        return Coverage.of([*frames, *new_frames], cutoff_A)
    return known.merge(Coverage.of(new_frames, cutoff_A))


def with_reference_energies(
    trainer: ACETrainer, labels: Sequence[LabelDocument], elements: Sequence[str]
) -> ACETrainer:
    """
    Return the trainer with the energies of the isolated atoms among the labels.

    The trainer's own reference energies come first. Where an element has no isolated atom, none
    is used: energies of atoms and fitted energies do not mix.

    Parameters
    ----------
    trainer
        How to fit.
    labels
        All labels; those with split "reference" are isolated atoms.
    elements
        Elements of the potential.
    """
    atoms = {
        label.atoms.to_atoms().get_chemical_formula(): label.energy_eV
        for label in labels
        if label.split == "reference" and label.n_atoms == 1 and label.atoms is not None
    }
    energies = {element: energy for element, energy in atoms.items() if energy is not None}
    if trainer.reference_energies or set(elements) - set(energies):
        return trainer
    return replace(trainer, reference_energies={element: energies[element] for element in sorted(set(elements))})
