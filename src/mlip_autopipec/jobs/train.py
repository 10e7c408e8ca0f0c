"""Train: a potential and its active set from all labels of the campaign."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from jobflow import Maker

from mlip_autopipec.active_learning.calibration import grade_errors
from mlip_autopipec.active_learning.coverage import Coverage
from mlip_autopipec.active_learning.outliers import OutlierRule
from mlip_autopipec.errors import TrainingError
from mlip_autopipec.jobs.base import current_store, current_uuid, load_document, load_either, loop_job
from mlip_autopipec.jobs.check import CHECK
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.outliers import graded_of, outliers_of, read_judgements
from mlip_autopipec.moved import renamed_fields
from mlip_autopipec.schemas.label import ComparisonDocument, DatasetDocument, LabelBatch, LabelDocument
from mlip_autopipec.schemas.potential import FlaggedLabel, GradedLabel, LeftOutErrors, PotentialDocument
from mlip_autopipec.seeds import SeedPurpose, derive_seed
from mlip_autopipec.training.error_scale import scale_to_fresh
from mlip_autopipec.training.judge import judged_by_linear_fit
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.training import ACETrainer

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.training.linear_record import LinearFitRecord
    from mlip_autopipec.training.results import TrainingResult

logger = logging.getLogger(__name__)

#: A dataset is fitted at most so many times without the labels that the others contradict.
_ROUNDS = 5


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
    def make(
        self,
        batch: LabelBatch | DatasetDocument | ComparisonDocument | str | None,
        campaign_id: str,
        cycle: int,
        seed: int,
        elements: list[str],
        initial_potential: PotentialDocument | str | None = None,
        fine_tune: bool = False,
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

        Returns
        -------
        PotentialDocument or None
            None when the oracle is failing, or the user's labels are refused.
        """
        earlier = False
        if batch is None:
            raise TrainingError(f"there are no labels of cycle {cycle}: the label job failed")
        if isinstance(batch, str):
            earlier, batch = True, load_either(LabelBatch, DatasetDocument, batch)
        if isinstance(batch, LabelBatch) and batch.oracle_failing:
            return None
        if isinstance(batch, ComparisonDocument) and batch.refused is not None:
            return None
        judgements = read_judgements(campaign_id, current_store(), cycle)
        flagged, earlier_graded = outliers_of(judgements), list(graded_of(judgements).values())
        labels = read_labels(campaign_id, last_cycle=cycle, flagged=flagged)
        # labels of a check are trained on in the next training
        train = [label for label in labels if label.split in ("train", CHECK)]
        test = [label for label in labels if label.split == "test"]
        warn_of_mixed_settings([*train, *test])
        trainer = with_reference_energies(self.trainer, labels, elements)
        if isinstance(initial_potential, str):
            initial_potential = load_document(PotentialDocument, initial_potential)
        start = None if initial_potential is None else initial_potential.to_potential()
        accepted = {label.uuid for label in train if label.uuid in flagged}
        just_accepted = accepted - set([] if initial_potential is None else initial_potential.let_in)

        def is_new(label: LabelDocument) -> bool:
            if not fine_tune:
                return False
            if label.uuid in accepted:
                return label.uuid in just_accepted
            if label.origin == "given":  # no potential of this campaign was without the user's own
                return False
            # the others of an earlier batch were trained on, unless they are of a check
            return label.cycle == batch.cycle and not (earlier and just_accepted)

        old, new = [label for label in train if not is_new(label)], [label for label in train if is_new(label)]
        trusted, graded, aside = self._judged(start, old, new, just_accepted, earlier_graded)
        if initial_potential is not None and new and not trusted:
            logger.warning("nothing is trained in cycle %d: all its labels are flagged as outliers", cycle)
            unchanged = {"uuid": current_uuid(), "cycle": cycle, "parent_id": initial_potential.uuid, "seconds": 0.0}
            measured = {"graded": graded, "quarantined": aside}
            measured |= dict.fromkeys(("new_before", "new_after", "new_left_out"))
            return initial_potential.model_copy(update={**unchanged, **measured, "fit": None, "refit": None})
        frames, new_frames, test_frames = (
            [label.shared_atoms() if trainer.leaves_labels else label.to_atoms() for label in some]
            for some in (old, trusted, test)
        )

        def fit() -> TrainingResult:
            return trainer.train(
                frames,
                start,
                fine_tune,
                new_labels=new_frames,
                test_labels=test_frames,
                elements=elements,
                seed=derive_seed(seed, SeedPurpose.TRAINING, cycle),
                cycle=cycle,
            )

        first = initial_potential is None or initial_potential.trained_on is None
        result = None
        for _ in range(_ROUNDS if first and self._has_unjudged(old) else 0):  # a large error hides others
            if trainer.judges_labels:
                result = fit()
            record = judged_by_linear_fit(trainer, frames, elements) if result is None else result.linear
            if not (wrong := self._judged_left_out(record, old, accepted)):
                break
            aside += wrong
            names = {label.label_id for label in wrong}
            kept = [i for i, label in enumerate(old) if label.uuid not in names]
            old, frames, result = [old[i] for i in kept], [frames[i] for i in kept], None
        result = result or fit()
        result = _with_fresh_errors(result, [*earlier_graded, *graded])
        document = PotentialDocument.from_training(
            result,
            uuid=current_uuid(),
            campaign_id=campaign_id,
            cycle=cycle,
            parent_id=None if initial_potential is None else initial_potential.uuid,
            trainer={"class": type(trainer).__name__, **asdict(trainer)},
            fine_tuned=fine_tune and (result.refit is None or result.refit.kept == "fine-tune"),
            n_train=len(frames) + len(new_frames),
            n_test=len(test),
            graded=graded,
            quarantined=aside,
            let_in=sorted(accepted),
            coverage=_coverage(initial_potential, old, frames, new_frames, result.potential.cutoff).as_dict(),
            trained_on=_digest([*old, *trusted]),
            new_left_out=_left_out(result.linear, new_frames),
        )
        if result.linear is not None:  # in the order of the labels
            ids = [label.uuid for label in (*old, *trusted)]
            document.payload["left_out"] = dict(zip(ids, map(list, result.linear.labels), strict=True))
        return document

    def _has_unjudged(self, labels: Sequence[LabelDocument]) -> bool:
        """Return whether there are labels of the user's own, and enough others to judge them by."""
        if self.outliers is None or len(labels) <= self.outliers.min_labels:
            return False
        return any(label.origin == "given" for label in labels)

    def _judged_left_out(
        self, record: LinearFitRecord | None, labels: Sequence[LabelDocument], accepted: Collection[str]
    ) -> list[FlaggedLabel]:
        """Return the user's own labels that the others contradict; no potential was without them to judge them."""
        if self.outliers is None or record is None:
            return []
        errors = record.labels[: len(labels)]
        found = self.outliers.judge_left_out(
            np.array([-1e-3 * error.energy_meV_atom for error in errors]),
            np.array([1e-3 * error.forces_rmse_meV_A for error in errors]),
            np.array([one.largest_eV_A for one in record.surprises[: len(labels)]]),
            np.array([one[:3] for one in record.surprises[: len(labels)]]),
            np.array([one[4:] for one in record.surprises[: len(labels)]]),
        )
        aside = []
        for outlier in found:
            label, reasons = labels[outlier.index], list(outlier.reasons)
            if label.origin != "given" or label.uuid in accepted:
                continue
            logger.warning(
                "label %d of the dataset (%s) is flagged as an outlier and not trained on: %s",
                label.index,
                label.formula,
                "; ".join(reasons),
            )
            aside.append(FlaggedLabel(label_id=label.uuid, reasons=reasons))
        return aside

    def _judged(
        self,
        potential: ACEPotential | None,
        old: Sequence[LabelDocument],
        new: Sequence[LabelDocument],
        accepted: Collection[str],
        earlier_graded: Sequence[GradedLabel],
    ) -> tuple[list[LabelDocument], list[GradedLabel], list[FlaggedLabel]]:
        """Measure the potential on new labels; return the accepted ones, all measurements, and the outliers."""
        if potential is None or not new or not potential.active_set_inverse:
            return list(new), [], []
        frames = [label.to_atoms() for label in new]
        errors = [grade_errors(potential, frame) for frame in frames]
        graded = [GradedLabel.of(label.uuid, found) for label, found in zip(new, errors, strict=True)]
        if self.outliers is None:
            return list(new), graded, []
        earlier, others = [pair.to_graded() for pair in earlier_graded], [label.shared_atoms() for label in old]
        reasons = {
            found.index: list(found.reasons)
            for found in self.outliers.judge(potential, frames, others, earlier, errors)
            if new[found.index].uuid not in accepted
        }
        checked = {i for i, label in enumerate(new) if label.split == CHECK}
        if 2 * len(checked & set(reasons)) >= len(checked):  # not some labels are wrong, the potential is
            reasons = {i: why for i, why in reasons.items() if i not in checked}
        for i, why in reasons.items():
            logger.warning("label %s is flagged as an outlier and not trained on: %s", new[i].uuid, "; ".join(why))
        aside = [FlaggedLabel(label_id=new[i].uuid, reasons=why) for i, why in reasons.items()]
        return [label for i, label in enumerate(new) if i not in reasons], graded, aside


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
    energy, forces, stress = record.left_out_of(last, [len(frame) for frame in new_frames])
    return LeftOutErrors(
        n_structures=len(new_frames),
        energy_rmse_meV_atom=energy,
        forces_rmse_meV_A=forces,
        stress_rmse_GPa=stress,
    )


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
    known = None if parent is None or parent.trained_on != _digest(old) else parent.known_surroundings()
    if known is None or known.cutoff != cutoff_A:
        return Coverage.of([*frames, *new_frames], cutoff_A)
    return known.merge(Coverage.of(new_frames, cutoff_A))


def _digest(labels: Sequence[LabelDocument]) -> str:
    """Return the same for the same set of labels, in whatever order."""
    return sha256(
        "\n".join(sorted(f"{label.uuid} {label.cycle} {label.index}" for label in labels)).encode()
    ).hexdigest()


def warn_of_mixed_settings(labels: Sequence[LabelDocument]) -> None:
    """Say in the log which labels were computed otherwise than the first one: workers may differ in their settings."""
    known = [label for label in labels if label.computed_with is not None]
    for label in known[1:]:
        first, other = known[0].computed_with, label.computed_with
        if first is not None and other is not None and (differences := first.conflicts(other)):
            logger.warning(
                "label %s was computed with other settings than %s: %s",
                label.uuid,
                known[0].uuid,
                "; ".join(differences),
            )


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
