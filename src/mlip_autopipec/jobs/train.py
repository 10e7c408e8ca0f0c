"""Train: a potential and its active set from all labels of the campaign."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from jobflow import Maker

from mlip_autopipec.ace.linear import LinearACETrainer
from mlip_autopipec.ace.training import ACETrainer
from mlip_autopipec.errors import TrainingError
from mlip_autopipec.jobs.base import current_uuid, derive_seed, load_document, loop_job
from mlip_autopipec.jobs.check import CHECK
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.schemas.label import DatasetDocument, LabelBatch, LabelDocument
from mlip_autopipec.schemas.potential import PotentialDocument

logger = logging.getLogger(__name__)


@dataclass
class TrainMaker(Maker):
    """
    Train on everything labelled so far.

    Parameters
    ----------
    name
        Name of the job.
    trainer
        How to fit: :class:`~mlip_autopipec.ace.linear.LinearACETrainer` or
        :class:`~mlip_autopipec.ace.pacemaker.PacemakerTrainer`.
    """

    name: str = "train"
    trainer: ACETrainer = field(default_factory=LinearACETrainer)

    @loop_job(tolerate_failed_inputs=True)
    def make(
        self,
        batch: LabelBatch | DatasetDocument | str | None,
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
            What became of this cycle's labels, or the user's own; None when their job died. The uuid of an
            earlier batch: its labels are new to the potential.
            Nothing is trained when the oracle is failing.
        campaign_id, cycle, seed
            Of the loop.
        elements
            Elements the potential has to know.
        initial_potential
            The potential to continue from, or its uuid.
        fine_tune
            Continue with few iterations, and prove that the new labels were learnt.

        Returns
        -------
        PotentialDocument or None
            None when the oracle is failing.
        """
        if batch is None:
            raise TrainingError(f"there are no labels of cycle {cycle}: the job that was to make them died")
        if isinstance(batch, str):
            batch = load_document(LabelBatch, batch)
        if isinstance(batch, LabelBatch) and batch.oracle_failing:
            return None
        labels = read_labels(campaign_id, last_cycle=cycle)
        # what a check was made with is learnt as soon as there is anything to learn
        train = [label for label in labels if label.split in ("train", CHECK)]
        # the user's own labels are never new: no potential of this campaign was without them
        new = [label for label in train if fine_tune and label.cycle == batch.cycle and label.origin != "given"]
        test = [label for label in labels if label.split == "test"]
        warn_of_mixed_settings([*train, *test])
        trainer = with_reference_energies(self.trainer, labels, elements)
        if isinstance(initial_potential, str):
            initial_potential = load_document(PotentialDocument, initial_potential)
        start = None if initial_potential is None else initial_potential.to_potential()
        new_ids = {id(label) for label in new}
        result = trainer.train(
            [label.to_atoms() for label in train if id(label) not in new_ids],
            start,
            fine_tune,
            new_labels=[label.to_atoms() for label in new],
            test_labels=[label.to_atoms() for label in test],
            elements=elements,
            seed=derive_seed(seed, cycle),
            cycle=cycle,
        )
        return PotentialDocument.from_training(
            result,
            uuid=current_uuid(),
            campaign_id=campaign_id,
            cycle=cycle,
            parent_id=None if initial_potential is None else initial_potential.uuid,
            trainer={"class": type(trainer).__name__, **asdict(trainer)},
            fine_tuned=fine_tune and (result.refit is None or result.refit.kept == "fine-tune"),
            n_train=len(train),
            n_test=len(test),
        )


def warn_of_mixed_settings(labels: Sequence[LabelDocument]) -> None:
    """Say in the log which labels were computed otherwise than the first one: workers may differ in their settings."""
    known = [label for label in labels if label.computed_with is not None]
    for label in known[1:]:
        first, other = known[0].computed_with, label.computed_with
        if first is not None and other is not None and (differences := first.conflicts(other)):
            logger.warning(
                "label %s was computed otherwise than %s: %s", label.uuid, known[0].uuid, "; ".join(differences)
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
