"""The parts of a loop: what the flows are made with."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jobflow import Maker

from mlip_autopipec.active_learning.calibration import ThresholdAdapter
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
from mlip_autopipec.jobs.teach import TeachMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.loop.stop_rule import StopRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from jobflow import Flow, Job

    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.schemas.campaign import CampaignDocument
    from mlip_autopipec.schemas.loop import CycleResults
    from mlip_autopipec.training.training import ACETrainer


def atoms_for(trainer: ACETrainer, elements: Sequence[str]) -> int:
    """
    Return how many atoms of each element the basis of a trainer asks a first dataset for.

    An active set needs as many as a basis has functions of the element, better four times as many; 0 where the labels
    choose the functions.
    """
    return 4 * trainer.functions_given(elements)


@dataclass
class LoopParts(Maker):
    """
    The exchangeable parts of a loop, with the jobs that begin it and judge its cycles.

    :class:`~mlip_autopipec.flows.otf.OTFMaker`, which describes the parts, is the one there is; the modules that make
    the jobs of a cycle, or go on with a campaign, know it by this.
    """

    name: str = "on-the-fly learning"
    generate_maker: GenerateMaker = field(default_factory=GenerateMaker)
    dynamics_maker: LammpsDynamicsMaker = field(default_factory=LammpsDynamicsMaker)
    propose_maker: ProposeMaker = field(default_factory=ProposeMaker)
    select_maker: SelectMaker = field(default_factory=SelectMaker)
    oracle_maker: OracleMaker = field(default_factory=OracleMaker)
    train_maker: TrainMaker = field(default_factory=TrainMaker)
    stop_rule: StopRule = field(default_factory=StopRule)
    threshold_adapter: ThresholdAdapter | None = None
    ladder: bool = False
    seed: int = 0
    teach_maker: TeachMaker | None = None

    def first_dataset_maker(self, elements: Sequence[str]) -> GenerateMaker:
        """Return the maker of the first dataset, which has enough atoms for a basis whose size is given."""
        generator = getattr(self.generate_maker, "generator", None)
        if generator is None:  # a user's own
            return self.generate_maker
        wanted = atoms_for(self.train_maker.trainer, elements)
        return replace(self.generate_maker, generator=replace(generator, n_atoms_of_basis=wanted))

    @abstractmethod
    def begin(
        self,
        document: CampaignDocument,
        labels: Sequence[Atoms] = (),
        initial_potential: ACEPotential | None = None,
        done: CycleResults | None = None,
    ) -> Flow:
        """Make the flow of what a campaign's document asks for."""

    @abstractmethod
    def recording(self, document: CampaignDocument) -> Job:
        """Make the job that writes down what is asked for."""

    @abstractmethod
    def assess(self, *args: Any, **kwargs: Any) -> Any:
        """Make the job that judges a cycle."""
