"""The on-the-fly loop: explore, assess, and at each halt propose, select, label, train, explore, assess."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ase import Atoms
from jobflow import CURRENT_JOB, Flow, Job, Maker, Response
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.flows.checks import check_campaign, elements_of
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.assess import StopRule, can_nest_further, update_state
from mlip_autopipec.jobs.base import (
    SEED_GENERATE,
    SEED_PROPOSE,
    SEED_WALKER,
    current_uuid,
    derive_seed,
    load_document,
    loop_job,
)
from mlip_autopipec.jobs.dataset import import_labels, import_potential, import_structures
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker, continue_as_current
from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.schemas.label import LabelBatch, LabelDocument
from mlip_autopipec.schemas.loop import LoopState, LoopStatus, OTFDocument, WalkerState
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import WalkDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.ace.potential import ACEPotential

logger = logging.getLogger(__name__)


@dataclass
class OTFMaker(Maker):
    """
    Learn an ACE potential on the fly.

    MD explores with the current potential; where the extrapolation grade gamma says that an
    atom is in unknown territory it halts; the region is sampled, the most informative
    structures are labelled, the potential is fine-tuned, and MD resumes where it halted. The
    loop ends when every walker runs through.

    Parameters
    ----------
    name
        Name of the flow.
    generate_maker
        First dataset from the user's structures.
    dynamics_maker
        MD of one walker.
    propose_maker, select_maker
        Candidates around a halt, and the choice among those of all halts.
    oracle_maker
        Labels.
    train_maker
        Potential and active set.
    stop_rule
        When the loop ends.
    seed
        Everything random is derived from it.

    Examples
    --------
    >>> from ase.build import bulk
    >>> flow = OTFMaker().make(bulk("Cu", cubic=True) * (2, 2, 2), [300, 1000])
    >>> flow.name
    'on-the-fly learning'
    """

    name: str = "on-the-fly learning"
    generate_maker: GenerateMaker = field(default_factory=GenerateMaker)
    dynamics_maker: LammpsDynamicsMaker = field(default_factory=LammpsDynamicsMaker)
    propose_maker: ProposeMaker = field(default_factory=ProposeMaker)
    select_maker: SelectMaker = field(default_factory=SelectMaker)
    oracle_maker: OracleMaker = field(default_factory=OracleMaker)
    train_maker: TrainMaker = field(default_factory=TrainMaker)
    stop_rule: StopRule = field(default_factory=StopRule)
    seed: int = 0

    def make(
        self,
        structures: Structure | Atoms | Sequence[Structure | Atoms],
        conditions: float | Condition | Sequence[float | Condition],
        *,
        labels: Sequence[Atoms] = (),
        initial_potential: ACEPotential | None = None,
        campaign_id: str | None = None,
    ) -> Flow:
        """
        Make the flow of one campaign.

        Parameters
        ----------
        structures
            The cells MD runs in.
        conditions
            Temperatures in K, or conditions with pressures and ramps. Each structure is run
            at each condition: one walker each, explored side by side, trained jointly.
        labels
            A dataset to start from instead of generating one: structures whose attached
            calculator holds energy (eV), forces (eV/A) and, if known, stress (eV/A^3).
        initial_potential
            A potential to start from. With ``labels`` MD starts at once; without, a first
            dataset is labelled and the potential fine-tuned on it.
        campaign_id
            Identifier of the campaign in the database; made up if not given.

        Returns
        -------
        Flow
            Its output is an :class:`~mlip_autopipec.schemas.loop.OTFDocument`.
        """
        frames = _as_frames(structures)
        walker_conditions = _as_conditions(conditions)
        check_campaign(self, frames, walker_conditions, labels, initial_potential)
        campaign = campaign_id or str(uuid.uuid4())
        starts = import_structures(pack_frames(frames), campaign)
        walkers = [
            WalkerState(
                index=i,
                formula=frames[k].get_chemical_formula(),
                condition=condition,
                seed=derive_seed(self.seed, SEED_WALKER, i),
                start_id=starts.uuid,
                start_index=k,
            )
            for i, (k, condition) in enumerate((k, c) for k in range(len(frames)) for c in walker_conditions)
        ]
        state = LoopState(
            campaign_id=campaign,
            seed=self.seed,
            elements=elements_of([*frames, *labels]),
            walkers=walkers,
            n_labels=len(labels),
        )
        jobs, potential, batch = self._first_potential(state, frames, labels, initial_potential)
        explorations = [self._explore(state, w, potential, starts) for w in walkers]
        assess = self._assess(state, explorations, potential, batch)
        return Flow([starts, *jobs, *explorations, assess], output=assess.output, name=self.name)

    def _first_potential(
        self,
        state: LoopState,
        frames: Sequence[Atoms],
        labels: Sequence[Atoms],
        initial_potential: ACEPotential | None,
    ) -> tuple[list[Job], Job, Job | None]:
        """Jobs up to the first potential: generated or given labels, trained or given potential."""
        campaign, jobs = state.campaign_id, []
        imported: Job | None = None
        batch: Job | None = None
        given: Job | None = None
        if labels:
            documents = [_as_label_document(a, i, campaign) for i, a in enumerate(labels)]
            source = imported = import_labels(documents, campaign)
            jobs.append(imported)
        else:
            seed = derive_seed(self.seed, SEED_GENERATE)
            generate = self.generate_maker.make(pack_frames(frames), campaign, seed)
            source = batch = self.oracle_maker.make(generate.output, campaign, 0)
            jobs += [_name(generate, "generate c000"), _name(batch, "label c000")]
        if initial_potential is not None:
            document = PotentialDocument.from_potential(initial_potential)
            after = None if imported is None else imported.output
            given = import_potential(document.model_dump(mode="json"), campaign, after)
            jobs.append(given)
        if given is not None and labels:
            return jobs, given, None
        train = self.train_maker.make(
            batch=source.output,
            campaign_id=campaign,
            cycle=0,
            seed=self.seed,
            elements=state.elements,
            initial_potential=None if given is None else given.output,
            fine_tune=given is not None,
        )
        return [*jobs, _name(train, "train c000")], train, batch

    def _explore(self, state: LoopState, walker: WalkerState, potential: Job | str, start: Job | None = None) -> Job:
        explore = self.dynamics_maker.make(
            walker,
            potential if isinstance(potential, str) else potential.output,
            state.campaign_id,
            state.cycle,
            start=None if start is None else start.output,
        )
        return _name(explore, f"explore c{state.cycle:03d} w{walker.index:02d}")

    def _assess(self, state: LoopState, explorations: Sequence[Job], potential: Job | str, batch: Job | None) -> Job:
        assess = self.assess(
            state,
            walkers=[e.function_args[0].index for e in explorations],
            walks=[e.output for e in explorations],
            potential=potential if isinstance(potential, str) else potential.output,
            batch=None if batch is None else batch.output,
            labelled=batch is not None,
        )
        return _name(assess, f"assess c{state.cycle:03d}")

    @loop_job(tolerate_failed_inputs=True)
    def assess(
        self,
        state: LoopState,
        walkers: list[int],
        walks: list[WalkDocument | None],
        potential: PotentialDocument | str | None,
        batch: LabelBatch | None,
        labelled: bool,
    ) -> OTFDocument | Response[OTFDocument]:
        """
        Judge a cycle: end the loop, or append the next cycle.

        Parameters
        ----------
        state
            Before this cycle's results.
        walkers
            Numbers of the walkers that were run.
        walks
            What became of them; None where the job died.
        potential
            Of this cycle; None where none came out.
        batch
            This cycle's labels.
        labelled
            Whether there should be a batch.
        """
        if isinstance(potential, str):
            potential = load_document(PotentialDocument, potential)
        state = update_state(state, walks, walkers, potential, batch)
        status, why = self.stop_rule.judge(state)
        if batch is not None and batch.oracle_failing:
            status = LoopStatus.ORACLE_FAILING
            why = f"{len(batch.failed)} of {batch.n_asked} labels failed; first reason: {batch.failed[0].reason}"
        elif potential is None or (labelled and batch is None):
            died = "label" if labelled and batch is None else "train"
            status, why = LoopStatus.FAILED, f"step '{died}' of cycle {state.cycle} died; its job's log tells why"
        elif status is LoopStatus.LEARNING and not can_nest_further():
            status, why = (
                LoopStatus.PAUSED,
                f"this process cannot nest more than {state.cycle} cycles; continue from here",
            )
        seconds = {
            "label": 0.0 if batch is None else batch.seconds,
            "train": 0.0 if potential is None else potential.seconds,
            "explore": sum(w.seconds for w in walks if w is not None),
        }
        document = OTFDocument(
            uuid=current_uuid(),
            campaign_id=state.campaign_id,
            cycle=state.cycle,
            status=status,
            why=why,
            n_cycles=state.cycle,
            n_labels=state.n_labels,
            n_new_labels=0 if batch is None else batch.n_labelled,
            n_failed_labels=state.n_failed_labels,
            n_halts=state.n_halts,
            elements=state.elements,
            walkers=state.walkers,
            potential_id=state.potential_id,
            seconds=seconds,
            seed=state.seed,
            **({} if potential is None else potential.errors()),
        )
        logger.info("%s", document.line())
        if status is not LoopStatus.LEARNING:
            logger.info("%s: %s", status, why)
            if potential is None and state.potential_id is not None:
                potential = load_document(PotentialDocument, state.potential_id)
            return document.model_copy(update={"potential": potential})
        return Response(output=document, replace=self._next_cycle(state))

    def _next_cycle(self, state: LoopState) -> Flow:
        """Append propose, select, label, train, explore, assess."""
        # jobflow hands the list of enclosing flows down to all that is appended; only the outermost
        # one is of use, and keeping it alone keeps what a cycle stores from growing with the cycles
        CURRENT_JOB.job.hosts = CURRENT_JOB.job.hosts[-1:]
        state = state.model_copy(update={"cycle": state.cycle + 1})
        campaign, cycle = state.campaign_id, state.cycle
        previous = state.potential_id
        assert previous is not None
        running = [w for w in state.walkers if w.status != "CONVERGED"]
        jobs: list[Job] = []
        for walker in running:
            if walker.walk_id is not None and walker.reason not in ("crashed", "timed_out"):
                seed = derive_seed(state.seed, SEED_PROPOSE, cycle, walker.index)
                propose = self.propose_maker.make(walker.walk_id, previous, campaign, cycle, seed)
                jobs.append(_name(propose, f"propose c{cycle:03d} w{walker.index:02d}"))
        potential: Job | str = previous
        label: Job | None = None
        if jobs:
            limit = self.stop_rule.max_labels
            select = self.select_maker.make(
                [j.output for j in jobs],
                previous,
                campaign,
                cycle,
                budget=None if limit is None else limit - state.n_labels,
            )
            label = self.oracle_maker.make(select.output, campaign, cycle)
            potential = self.train_maker.make(
                batch=label.output,
                campaign_id=campaign,
                cycle=cycle,
                seed=state.seed,
                elements=state.elements,
                initial_potential=previous,
                fine_tune=True,
            )
            jobs += [
                _name(select, f"select c{cycle:03d}"),
                _name(label, f"label c{cycle:03d}"),
                _name(potential, f"train c{cycle:03d}"),
            ]
        explorations = [self._explore(state, w, potential) for w in running]
        assess = self._assess(state, explorations, potential, label)
        continue_as_current(assess)
        return Flow([*jobs, *explorations, assess], name=f"{campaign} c{cycle:03d}")


def _name(job: Job, name: str) -> Job:
    """Assign the job's name: appended suffixes would pile up from cycle to cycle."""
    job.name = name
    return job


def _as_frames(structures: Structure | Atoms | Sequence[Structure | Atoms]) -> list[Atoms]:
    items = [structures] if isinstance(structures, (Atoms, Structure)) else list(structures)
    return [s if isinstance(s, Atoms) else AseAtomsAdaptor.get_atoms(s, msonable=False) for s in items]


def _as_conditions(conditions: float | Condition | Sequence[float | Condition]) -> list[Condition]:
    items = [conditions] if isinstance(conditions, (int, float, Condition)) else list(conditions)
    return [c if isinstance(c, Condition) else Condition(float(c)) for c in items]


def _as_label_document(atoms: Atoms, index: int, campaign_id: str) -> dict[str, object]:
    split = atoms.info.get("split", "train")
    origin = "isolated_atom" if split == "reference" else "given"
    document = LabelDocument.from_labelled(atoms, campaign_id=campaign_id, index=index, origin=origin, split=split)
    return document.model_dump(mode="json")
