"""Train: a potential and its active set from all labels of the campaign."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from jobflow import Maker

from mlip_autopipec.ace.linear import LinearACETrainer
from mlip_autopipec.ace.training import ACETrainer
from mlip_autopipec.errors import TrainingError
from mlip_autopipec.jobs.base import current_uuid, derive_seed, load_document, loop_job
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.schemas.label import DatasetDocument, LabelBatch
from mlip_autopipec.schemas.potential import PotentialDocument


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
        batch: LabelBatch | DatasetDocument | None,
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
            What became of this cycle's labels, or the user's own; None when their job died.
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
        if isinstance(batch, LabelBatch) and batch.oracle_failing:
            return None
        labels = read_labels(campaign_id, last_cycle=cycle)
        is_new = [label.cycle == cycle and label.origin != "given" for label in labels]
        train = [label.split == "train" for label in labels]
        if isinstance(initial_potential, str):
            initial_potential = load_document(PotentialDocument, initial_potential)
        start = None if initial_potential is None else initial_potential.to_potential()
        result = self.trainer.train(
            [a.to_atoms() for a, t, n in zip(labels, train, is_new, strict=True) if t and not (n and fine_tune)],
            start,
            fine_tune,
            new_labels=[a.to_atoms() for a, t, n in zip(labels, train, is_new, strict=True) if t and n and fine_tune],
            test_labels=[a.to_atoms() for a, t in zip(labels, train, strict=True) if not t],
            elements=elements,
            seed=derive_seed(seed, cycle),
        )
        return PotentialDocument.from_training(
            result,
            uuid=current_uuid(),
            campaign_id=campaign_id,
            cycle=cycle,
            parent_id=None if initial_potential is None else initial_potential.uuid,
            trainer={"class": type(self.trainer).__name__, **asdict(self.trainer)},
            fine_tuned=fine_tune,
            n_train=sum(train),
            n_test=len(train) - sum(train),
        )
