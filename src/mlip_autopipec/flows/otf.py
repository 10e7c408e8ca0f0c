"""The on-the-fly loop: explore, assess, and at each halt propose, select, label, train, explore, assess."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ase import Atoms
from jobflow import CURRENT_JOB, Flow, Job, Response
from monty.json import jsanitize
from pymatgen.core import Structure

from mlip_autopipec.flows.checks import check_campaign, elements_of
from mlip_autopipec.flows.cycle import Source, cycle_jobs, explorations, first_potential, named
from mlip_autopipec.flows.given import TakenStructures, as_conditions, as_frames, as_labels
from mlip_autopipec.flows.parts import LoopParts
from mlip_autopipec.jobs.assess import after_last_training, assessment, failed_step, judge_cycle, update_state
from mlip_autopipec.jobs.base import (
    continue_as_current,
    current_store,
    current_uuid,
    load_document,
    loop_job,
)
from mlip_autopipec.jobs.dataset import hours_worked, walkers_learnt
from mlip_autopipec.jobs.explore import read_crashes
from mlip_autopipec.jobs.failures import reason_of
from mlip_autopipec.jobs.indexes import create_indexes
from mlip_autopipec.jobs.names import reserve_name
from mlip_autopipec.jobs.outliers import read_graded
from mlip_autopipec.jobs.reach import out_of_reach
from mlip_autopipec.lammps.bias import begins_biased
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.loop.campaign_walkers import as_ladders, new_walkers
from mlip_autopipec.schemas.campaign import CampaignDocument, installed_versions, now_utc
from mlip_autopipec.schemas.check import CheckDocument
from mlip_autopipec.schemas.label import ComparisonDocument, LabelBatch
from mlip_autopipec.schemas.loop import CycleResults, LoopState, LoopStatus, OTFDocument
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import WalkDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobflow import JobStore

    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.schemas.loop import ThrownAway

logger = logging.getLogger(__name__)


@dataclass
class OTFMaker(LoopParts):
    """
    Learn an ACE potential on the fly.

    MD explores with the present potential and halts where the extrapolation grade gamma of an atom is too high. The
    most informative structures around the halt are labelled, the potential is fine-tuned, and MD resumes where it
    halted. The loop ends when every walker completes without a halt and the check has passed.

    Parameters
    ----------
    name
        Name of the flow.
    generate_maker
        First dataset from the user's structures.
    dynamics_maker
        MD of one walker.
    propose_maker, select_maker
        Candidates around a halt, and the selection among the candidates of all halts.
    oracle_maker
        Labels.
    train_maker
        Potential and active set.
    stop_rule
        When the loop ends.
    threshold_adapter
        Adapts the thresholds of gamma to its calibration by the labels so far; None keeps those of the MD settings.
    ladder
        Whether conditions are explored one after the other: a structure starts at the next one when it has completed
        the one before without a halt. Otherwise it is explored at all conditions from the beginning.
    seed
        Seed of all random numbers.
    teach_maker
        A cheap model that is learnt first, and that fits begin at as long as the labels are for it; None for no such
        teacher.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from mlip_autopipec.jobs.static import EMTStaticMaker
    >>> maker = OTFMaker(oracle_maker=OracleMaker(static_maker=EMTStaticMaker()))  # fast, to try the loop
    >>> flow = maker.make(bulk("Cu", cubic=True) * (2, 2, 2), [300, 1000])
    >>> flow.name
    'on-the-fly learning'
    """

    def __eq__(self, other: object) -> bool:
        """Compare settings as they are stored: read again, tuples in makers of other packages are lists."""
        if type(other) is not type(self):
            return NotImplemented
        return bool(jsanitize(self.as_dict()) == jsanitize(other.as_dict()))

    __hash__ = None  # type: ignore[assignment]  # settings may change

    def make(
        self,
        structures: Structure | Atoms | Sequence[Structure | Atoms],
        conditions: float | Condition | Sequence[float | Condition],
        *,
        labels: Sequence[Atoms] = (),
        initial_potential: ACEPotential | None = None,
        campaign_id: str | None = None,
        freeze: bool = False,
    ) -> Flow:
        """
        Make the flow of one campaign.

        Parameters
        ----------
        structures
            The cells MD runs in: bulk, slabs, wires, clusters, molecules. Vacuum is added where they are not periodic.
        conditions
            Temperatures in K, or conditions with pressures and ramps. Each structure is run
            at each condition: one walker each; all walkers use one potential.
        labels
            A dataset to start from instead of generating one: structures whose attached
            calculator holds energy (eV), forces (eV/A) and, if known, stress (eV/A^3).
        initial_potential
            A potential to start from. With ``labels`` MD starts at once; without, a first
            dataset is labelled and the potential fine-tuned on it.
        campaign_id
            Identifier of the campaign in the database; made up if not given.
        freeze
            Whether atoms that the structures' constraints (``FixAtoms``) hold are frozen in MD. Otherwise all atoms
            move but those that an array ``frozen`` of the structure marks. Labels hold the forces of all atoms.
            Refused where no structure has such atoms.

        Returns
        -------
        Flow
            Its output is an :class:`~mlip_autopipec.schemas.loop.OTFDocument`.
        """
        frames = as_frames(structures, freeze)
        walker_conditions = as_conditions(conditions)
        labels = as_labels(labels)
        check_campaign(self, frames, walker_conditions, labels, initial_potential)
        if not isinstance(structures, TakenStructures):  # a run file's were said with its other notes
            for doubt in self.oracle_maker.doubts(elements_of([*frames, *labels])):
                logger.warning("%s", doubt)
        document = CampaignDocument.of(
            frames,
            walker_conditions,
            campaign_id or str(uuid.uuid4()),
            elements=elements_of([*frames, *labels]),
            n_given_labels=len(labels),
            given_potential=initial_potential is not None,
        )
        return self.begin(document, labels, initial_potential)

    @staticmethod
    def resume(campaign_id: str, store: JobStore, maker: OTFMaker | None = None) -> Flow:
        """Make the flow that resumes an interrupted campaign: :func:`mlip_autopipec.flows.resume.resume`."""
        from mlip_autopipec.flows import resume

        return resume.resume(campaign_id, store, maker)

    @staticmethod
    def extend(
        campaign_id: str,
        store: JobStore,
        structures: Structure | Atoms | Sequence[Structure | Atoms] = (),
        conditions: float | Condition | Sequence[float | Condition] = (),
        maker: OTFMaker | None = None,
    ) -> Flow:
        """Make the flow that continues a campaign beyond its end: :func:`mlip_autopipec.flows.resume.extend`."""
        from mlip_autopipec.flows import resume

        return resume.extend(campaign_id, store, structures, conditions, maker)

    def begin(
        self,
        document: CampaignDocument,
        labels: Sequence[Atoms] = (),
        initial_potential: ACEPotential | None = None,
        done: CycleResults | None = None,
    ) -> Flow:
        """
        Make the flow of what a campaign's document asks for, which has been checked.

        Parameters
        ----------
        document
            What is asked for.
        labels, initial_potential
            As for :meth:`make`.
        done
            Stored documents of an interrupted first cycle.
        """
        done = done or CycleResults()
        record = self.recording(document)
        walkers = new_walkers(document, record.uuid, self.seed, biased=begins_biased(self.dynamics_maker.settings))
        if self.ladder:
            walkers = as_ladders(walkers)
        state = LoopState(
            campaign_id=document.campaign_id,
            seed=self.seed,
            elements=document.elements,
            walkers=walkers,
            n_labels=len(labels),
            n_given_labels=len(labels),
        )
        jobs: list[Job] = []
        compared: Job | None = None
        if done.potential_id is not None:
            potential = Source(done.potential_id)
            batch = None if done.batch_id is None else Source(done.batch_id)
        else:
            jobs, train, label, compared = first_potential(self, state, record, labels, initial_potential)
            potential, batch = Source(train), None if label is None else Source(label)
        jobs = [
            record,
            *jobs,
            *explorations(self, state, [w for w in walkers if w.is_due], potential, batch, done, record, compared),
        ]
        return Flow([*jobs], output=jobs[-1].output, name=self.name)

    def recording(self, document: CampaignDocument) -> Job:
        """Make the job that writes down what is asked for."""
        # jobflow gives the maker of a job the job's name
        return named(self.record(document.model_copy(update={"name": self.name})), "record campaign")

    @loop_job()
    def record(self, document: CampaignDocument) -> CampaignDocument:
        """
        Write down what the campaign is to do, before anything is computed.

        The database's indexes are created too, where it has none yet.

        Parameters
        ----------
        document
            What is asked for; the maker adds itself.

        Raises
        ------
        InvalidInputError
            The store holds another campaign of this name.
        """
        create_indexes(current_store())
        reserve_name(current_store(), document.campaign_id, document.generation, current_uuid())
        return document.model_copy(
            update={
                "uuid": current_uuid(),
                "seed": self.seed,
                "oracle": "" if (oracle := self.oracle_maker.static_maker) is None else type(oracle).__name__,
                "trainer": type(self.train_maker.trainer).__name__,
                "versions": installed_versions(),
                "created_at": now_utc(),
                "payload": {**document.payload, "maker": replace(self, name=document.name).to_json()},
            }
        )

    @property
    def _learns_check(self) -> bool:
        """Whether the labels of a check that passes are learnt: what comes out has to be judged without more labels."""
        rule = self.stop_rule
        return rule.learn_check and rule.criterion is None and self.train_maker.trainer.judges_labels

    def adapted_thresholds(self, state: LoopState) -> tuple[float, float] | None:
        """Return lower and upper threshold of gamma for the next MD; None where they are not adapted."""
        if self.threshold_adapter is None:
            return None
        settings = self.dynamics_maker.settings
        pairs = [pair.to_graded() for pair in read_graded(state.campaign_id, current_store()).values()]
        return self.threshold_adapter.adapt_to(
            pairs, *(state.gamma_thresholds or (settings.gamma_lo, settings.gamma_hi)), settings.explosive_gamma
        )

    @loop_job(tolerate_failed_inputs=True)
    def assess(
        self,
        state: LoopState,
        walkers: list[int],
        walks: list[WalkDocument | str | None],
        potential: PotentialDocument | str | None,
        batch: LabelBatch | str | None,
        labelled: bool,
        check: CheckDocument | None = None,
        compared: ComparisonDocument | None = None,
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
            Results of MD, or uuids of walks that were done before; None where the job failed.
        potential
            Of this cycle, or its uuid; None where none came out.
        batch
            This cycle's labels, or their uuid.
        labelled
            Whether there should be a batch.
        check
            Of the potential, if that was what the labels were for.
        compared
            Of the user's own labels with the oracle, in the first cycle.
        """
        if isinstance(potential, str):
            potential = load_document(PotentialDocument, potential)
        if isinstance(batch, str):
            batch = load_document(LabelBatch, batch)
        done = [load_document(WalkDocument, walk) if isinstance(walk, str) else walk for walk in walks]
        aside = [] if potential is None else [label.label_id for label in potential.quarantined]
        learnt = walkers_learnt(batch, aside) if batch is not None else {}
        thrown_away = out_of_reach(state, walkers, done, potential, batch) if self.stop_rule.prove else []
        if state.learns_check:
            state = after_last_training(self.stop_rule, state, potential)
            if (potential is None or potential.uuid != state.potential_id) and state.potential_id is not None:
                potential = load_document(PotentialDocument, state.potential_id)
        else:
            state = update_state(
                state,
                done,
                walkers,
                potential,
                batch,
                learnt,
                check,
                thrown_away,
                learns_check=self._learns_check,
                crashes=read_crashes(walkers, done, state.campaign_id, state.cycle),
            )
        state = state.model_copy(
            update={
                "hours": hours_worked(state.campaign_id, state.hours_before, state.clock_started),
                "gamma_thresholds": self.adapted_thresholds(state),
            }
        )
        gone = batch is not None and _all_thrown_away(thrown_away, done, batch)
        if potential is None and gone and state.potential_id is not None:
            # nothing goes on from what could not be learnt; the next training has these labels too
            logger.warning("nothing is learnt in cycle %d, whose walks are thrown away", state.cycle)
            potential = load_document(PotentialDocument, state.potential_id)
        died = failed_step(potential, batch, labelled=labelled)
        died, reason = reason_of(died, state.campaign_id, state.cycle)
        status, why = judge_cycle(
            self.stop_rule,
            state,
            potential,
            batch,
            labelled=labelled,
            compared=compared,
            thrown_away=thrown_away,
            reason=reason,
            step=died,
        )
        document = assessment(state, status, why, potential, batch, done, thrown_away)
        logger.info("%s", document.line())
        if status is LoopStatus.LEARNING and self.stop_rule.unproven(state):
            logger.info("%s", why)
        if status is not LoopStatus.LEARNING:
            logger.info("%s: %s", status, why)
            if potential is None and state.potential_id is not None:
                potential = load_document(PotentialDocument, state.potential_id)
            return document.model_copy(update={"potential": potential})
        # jobflow hands the list of enclosing flows down to all that is appended; only the outermost
        # one is of use, and keeping it alone keeps what a cycle stores from growing with the cycles
        CURRENT_JOB.job.hosts = CURRENT_JOB.job.hosts[-1:]
        jobs = cycle_jobs(self, state, current_store())
        continue_as_current(jobs[-1])
        return Response(output=document, replace=Flow([*jobs], name=f"{state.campaign_id} c{state.cycle + 1:03d}"))


def _all_thrown_away(
    thrown_away: Sequence[ThrownAway], walks: Sequence[WalkDocument | None], batch: LabelBatch
) -> bool:
    """Whether none of the walks of a cycle is gone on with; where no labels came, none of those that asked for them."""
    if batch.oracle_failing:
        return bool(thrown_away)
    return bool(thrown_away) and {one.walker for one in thrown_away} >= {w.walker for w in walks if w is not None}
