"""First dataset: structures to label before there is any potential."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from jobflow import Maker

from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.base import current_uuid, loop_job
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.walk import ProposalDocument
from mlip_autopipec.structures.provenance import Provenance


@dataclass
class GenerateMaker(Maker):
    """Make the structures of the first dataset."""

    name: str = "generate"
    generator: StructureGenerator = field(default_factory=StructureGenerator)

    @loop_job()
    def make(self, campaign: CampaignDocument, seed: int, largest: int | None = None) -> ProposalDocument:
        """
        Generate from the user's structures.

        Parameters
        ----------
        campaign
            What it is about.
        seed
            Of everything random.
        largest
            Most atoms of a label: of larger structures pieces are taken. None: no limit.
        """
        frames = self.generator.generate(campaign.structures(), seed=seed, largest=largest)
        return ProposalDocument(
            uuid=current_uuid(),
            campaign_id=campaign.campaign_id,
            n_candidates=len(frames),
            origins=dict(Counter(Provenance.of(f).origin for f in frames)),
            seed=seed,
            payload={"candidates": pack_frames(frames)},
        )
