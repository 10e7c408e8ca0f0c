"""Propose and select: make candidates around each halt, and choose those to label."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ase import Atoms
from jobflow import Maker

from mlip_autopipec.active_learning.activeset import select_active_set
from mlip_autopipec.cutouts.cutout import Cutout, CutoutError, CutoutGenerator
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.base import current_uuid, load_document, loop_job
from mlip_autopipec.lammps.types import HaltReason, HaltVerdict
from mlip_autopipec.potentials.core import deepest_in_core
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import Choice, ProposalDocument, SelectionDocument, WalkDocument
from mlip_autopipec.seeds import SeedPurpose, derive_seed
from mlip_autopipec.structures.provenance import Origin, Provenance, mark

logger = logging.getLogger(__name__)


@dataclass
class ProposeMaker(Maker):
    """
    Sample the region around a halt: 10 to 20 candidates.

    Parameters
    ----------
    name
        Name of the job.
    generator
        Makes the candidates.
    cutouts
        In a cell too large for the oracle, cuts out what is new, and candidates are made around that.
    """

    name: str = "propose"
    generator: CandidateGenerator = field(default_factory=CandidateGenerator)
    cutouts: CutoutGenerator = field(default_factory=CutoutGenerator)

    @loop_job()
    def make(self, walk_id: str, potential_id: str, campaign_id: str, cycle: int, seed: int) -> ProposalDocument:
        """
        Propose candidates for one halted walk.

        Parameters
        ----------
        walk_id
            uuid of the walk.
        potential_id
            uuid of the potential, whose soft modes are followed.
        campaign_id, cycle, seed
            Of the loop; the seed makes the candidates repeatable.
        """
        walk = load_document(WalkDocument, walk_id)
        candidates = self.sample(walk, load_document(PotentialDocument, potential_id), seed)
        return ProposalDocument(
            uuid=current_uuid(),
            campaign_id=campaign_id,
            cycle=cycle,
            walker=walk.walker,
            walk_id=walk_id,
            reason=walk.reason,
            is_required=is_required(walk),
            n_candidates=len(candidates),
            origins=dict(Counter(Provenance.of(c).origin for c in candidates)),
            seed=seed,
            payload={"candidates": pack_frames(candidates)},
        )

    def sample(self, walk: WalkDocument, potential: PotentialDocument, seed: int) -> list[Atoms]:
        """Make the candidates; what another way of sampling replaces."""
        halted = walk.final_atoms()
        if self.cutouts.wanted(halted):
            return self._around_cutouts(walk, halted, potential.to_potential(), seed)
        return self.generator.generate(
            halted,
            calculator=potential.to_potential().calculator(),
            frames=walk.dumped_frames(),
            seed=seed,
            centre=walk.atom_index,
            temperature_K=walk.temperature_K,
        )

    def _around_cutouts(self, walk: WalkDocument, halted: Atoms, potential: ACEPotential, seed: int) -> list[Atoms]:
        """Cut out the environments of highest grade and sample around each."""
        centre = self._halting_atom(walk, halted, potential)
        cutouts, failed = self.cutouts.generate(
            halted, potential, seed=derive_seed(seed, SeedPurpose.CUTOUTS), centre=centre
        )
        for index, error in failed.items():
            logger.warning("no cut-out around atom %d: %s", index, error)
        made_as = [Origin.HALTED if cutout.source_centre == centre else Origin.CUTOUT for cutout in cutouts]
        if centre is not None and centre in failed:  # atoms that collide are not shown to an oracle, but just before
            earlier = self._earlier_cutout(walk, centre, potential, seed)
            cutouts, made_as = [*earlier, *cutouts], [*([Origin.DUMPED] * len(earlier)), *made_as]
        if not cutouts:
            reasons = "; ".join(map(str, failed.values())) or f"no atom has gamma {self.cutouts.gamma_min} or more"
            raise MLIPError(f"nothing could be cut out of the {len(halted)} atoms of walk {walk.uuid}: {reasons}")
        candidates = []
        for number, (cutout, origin) in enumerate(zip(cutouts, made_as, strict=True)):
            logger.info("%s", cutout)
            around = self.generator.generate(
                cutout.atoms,
                n_samples=-(-self.generator.n_samples // len(cutouts)),
                calculator=potential.calculator(),
                seed=derive_seed(seed, SeedPurpose.CUTOUT_CANDIDATES, number),
                centre=cutout.centre,
                temperature_K=walk.temperature_K,
            )
            for atoms in around:
                mark(atoms, cutout_of=cutout.source_centre)
                if Provenance.of(atoms).origin == Origin.HALTED:
                    mark(atoms, origin=origin)
            candidates += around
        return candidates

    @staticmethod
    def _halting_atom(walk: WalkDocument, halted: Atoms, potential: ACEPotential) -> int | None:
        """Return the atom that halted MD, whatever its grade; after an explosion the frame is an earlier one."""
        if walk.reason == HaltReason.CORE_REPULSION:  # which no grade shows
            return deepest_in_core(halted, potential.core_radii)
        if walk.verdict is not HaltVerdict.EXPLOSION:
            return walk.atom_index
        return int(halted.arrays["gamma"].argmax()) if "gamma" in halted.arrays else None

    def _earlier_cutout(self, walk: WalkDocument, centre: int, potential: ACEPotential, seed: int) -> list[Cutout]:
        """Cut the atom out of the last dumped frame in which that can be done."""
        for frame in reversed(walk.dumped_frames()):
            try:
                return [self.cutouts.cut(frame, potential, centre, seed)]
            except CutoutError as error:
                logger.info("nor out of an earlier frame: %s", error)
        return []


@dataclass
class SelectMaker(Maker):
    """
    Select the structures to label: one D-optimal selection among the candidates of all halts.

    Parameters
    ----------
    name
        Name of the job.
    n_max
        Most labels per cycle. A small number needs fewer labels and a few more cycles; where many
        walkers halt at once, one label for each of them needs fewer cycles.
    gamma_min
        Candidates whose grade is below this, given those already chosen, are not labelled.
    """

    name: str = "select"
    n_max: int = 2
    gamma_min: float = 2.0

    @loop_job(tolerate_failed_inputs=True)
    def make(
        self,
        proposals: list[ProposalDocument | None],
        potential_id: str,
        campaign_id: str,
        cycle: int,
        budget: int | None = None,
    ) -> SelectionDocument:
        """
        Select over all proposals together.

        Parameters
        ----------
        proposals
            The proposals of this cycle; None where a job failed, whose walker is left out.
        potential_id
            uuid of the potential whose active set is enlarged.
        campaign_id, cycle
            Of the loop.
        budget
            Labels that may still be computed, if that is limited.
        """
        n_max = self.n_max if budget is None else min(self.n_max, budget)
        pool = [(p, i, atoms) for p in proposals if p is not None for i, atoms in enumerate(p.candidates())]
        if not pool:
            raise MLIPError(f"no candidates to select from in cycle {cycle}: every propose job failed")
        halted, required = what_halted(pool)
        potential = load_document(PotentialDocument, potential_id)
        chosen = self.choose(potential, [atoms for *_, atoms in pool], halted, required, n_max)
        if not chosen:  # no candidate above gamma_min, after an explosion for instance: label the halted frames
            chosen = [(k, None) for k in halted[:n_max]] or [(0, None)]
        choices = [
            Choice(source_id=pool[k][0].uuid, source_index=pool[k][1], walker=pool[k][0].walker, gamma=gamma)
            for k, gamma in chosen
        ]
        return SelectionDocument(
            uuid=current_uuid(), campaign_id=campaign_id, cycle=cycle, n_candidates=len(pool), choices=choices
        )

    def choose(
        self,
        potential: PotentialDocument,
        candidates: Sequence[Atoms],
        halted: Sequence[int],
        required: Sequence[int],
        n_max: int,
    ) -> list[tuple[int, float | None]]:
        """
        Return place and grade of the chosen candidates; what another rule of selection replaces.

        Parameters
        ----------
        potential
            The present one.
        candidates
            Of all halts together.
        halted, required
            See :func:`what_halted`.
        n_max
            Most that may be chosen.
        """
        del halted  # they have to be more informative than what was sampled around them
        selected = select_active_set(
            potential.to_potential(),
            candidates,
            n_max,
            required=required,
            gamma_min=self.gamma_min,
            coverage=potential.known_surroundings(),
        )
        for choice in selected:
            for unseen in choice.unseen[:1]:
                logger.info("candidate %d is selected for unseen elements: %s", choice.index, unseen)
        return [(c.index, c.gamma) for c in selected]


def is_required(walk: WalkDocument) -> bool:
    """
    Tell whether the halted frame has to be labelled, whatever its grade and that of its surroundings.

    A pair inside the core has no grade of its own; where an expected error halted MD the grade may be low; the last
    valid frame before an explosion has a low one; and where MD halted at its first step, what was chosen before did not
    cover the frame.
    """
    hidden = walk.reason in (HaltReason.CORE_REPULSION, HaltReason.FORCE_ERROR) or walk.verdict is HaltVerdict.EXPLOSION
    return hidden or walk.step == walk.start_step


def what_halted(pool: Sequence[tuple[ProposalDocument, int, Atoms]]) -> tuple[list[int], list[int]]:
    """
    Find the candidates at which walkers halted.

    Parameters
    ----------
    pool
        Each candidate with its proposal and its place there.

    Returns
    -------
    tuple
        Places in ``pool`` of halted frames and cut-outs of them, and of those that are labelled whatever their grade
        (:func:`is_required`).
    """
    origins = [Provenance.of(atoms).origin for *_, atoms in pool]
    halted = [k for k, origin in enumerate(origins) if origin in (Origin.HALTED, Origin.CUTOUT)]
    return halted, [k for k, (proposal, *_) in enumerate(pool) if proposal.is_required and origins[k] == Origin.HALTED]
