"""The jobs of one cycle: propose, select, label, train, explore, assess; or a check."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobflow import Job, OutputReference

from mlip_autopipec.active_learning.activeset import complete_active_set
from mlip_autopipec.jobs.check import measure, propose_check
from mlip_autopipec.jobs.compare import compare_given
from mlip_autopipec.jobs.dataset import import_labels, import_potential, label_parts, pack_labels, recorded_task
from mlip_autopipec.jobs.teach import find_teacher
from mlip_autopipec.loop.next_cycle import next_cycle
from mlip_autopipec.oracle.comparison import worth_comparing
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import CycleResults
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.seeds import SeedPurpose, derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from jobflow import JobStore

    from mlip_autopipec.flows.parts import LoopParts
    from mlip_autopipec.jobs.teach import TeachMaker
    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.schemas.loop import LoopState, WalkerState


def first_potential(
    maker: LoopParts, state: LoopState, record: Job, labels: Sequence[Atoms], initial_potential: ACEPotential | None
) -> tuple[list[Job], Job, Job | None, Job | None]:
    """
    Make the jobs up to the first potential: generated or given labels, trained or given potential.

    Returns
    -------
    tuple
        All jobs; the one whose output is the potential, the one that labels, and the last one that compares given
        labels with the oracle, where there are any.
    """
    campaign = state.campaign_id
    batch: Job | None = None
    given: Job | None = None
    compared: Job | None = None
    last = record
    teachers = [] if maker.teach_maker is None else [_teach(maker, maker.teach_maker, state, record.output)]
    taught = [teach.output for teach in teachers]
    jobs = [*teachers]
    if labels:
        for i, part in enumerate(label_parts(labels, campaign)):  # one after the other: the last speaks for all
            last = named(import_labels(part, campaign, i, last.output), f"import labels {i:03d}")
            jobs.append(last)
        oracle = maker.oracle_maker
        chosen = worth_comparing(labels, oracle.n_compared, oracle.energy_shift == "fit") if oracle.n_compared else []
        for i, index in enumerate(chosen):
            packed = pack_labels(labels, campaign, [index])  # a job each: one that dies costs one calculation
            is_last = i == len(chosen) - 1
            compare = compare_given(oracle, packed, campaign, last.output, taught, last=is_last)
            compared = last = named(compare, f"label compared c000 {i:03d}")
            jobs.append(last)
        source = last
    else:
        largest = maker.propose_maker.cutouts.max_atoms
        seed = derive_seed(maker.seed, SeedPurpose.FIRST_DATASET)
        generate = maker.first_dataset_maker(state.elements).make(record.output, seed, largest)
        source = batch = maker.oracle_maker.make(generate.output, campaign, 0, teachers=taught)
        jobs += [named(generate, "generate c000"), named(batch, "request labels c000")]
    if initial_potential is not None:
        # other active sets may not see elements that are missing in their training set
        complete = complete_active_set(initial_potential)
        potential = PotentialDocument.from_potential(complete).model_dump(mode="json")
        given = named(import_potential(potential, campaign, last.output), "import potential")
        jobs.append(given)
    if given is not None and labels:
        return jobs, given, None, compared
    train = maker.train_maker.make(
        batch=source.output,
        campaign_id=campaign,
        cycle=0,
        seed=maker.seed,
        elements=state.elements,
        initial_potential=None if given is None else given.output,
        fine_tune=given is not None,
        teachers=taught,
        taught_by=_digest(maker),
    )
    return [*jobs, named(train, "train c000")], train, batch, compared


def _teach(maker: LoopParts, teach_maker: TeachMaker, state: LoopState, task: OutputReference | str) -> Job:
    """Make the job of the teacher; it has the name of those that label: it is the same kind of work."""
    generate_maker = maker.first_dataset_maker(state.elements)
    teach = teach_maker.make(
        task,
        maker.train_maker.trainer,
        maker.dynamics_maker.settings,
        getattr(generate_maker, "generator", StructureGenerator()),
        maker.seed,
        maker.propose_maker.cutouts.max_atoms,
        state.cycle,
    )
    return named(teach, f"teach label c{state.cycle:03d}")


def _digest(maker: LoopParts) -> str | None:
    return None if maker.teach_maker is None else maker.teach_maker.digest()


def _untaught(maker: LoopParts, state: LoopState, store: JobStore, record: Job | None) -> list[Job]:
    """Make the job of a teacher that the campaign was given later, or in another's place, and has not learnt from."""
    if maker.teach_maker is None:
        return []
    if find_teacher(store, state.campaign_id, _digest(maker), load=False) is not None:
        return []
    task = recorded_task(state.campaign_id, store).uuid if record is None else record.output
    return [_teach(maker, maker.teach_maker, state, task)]


@dataclass(frozen=True)
class Source:
    """
    Where a document comes from.

    Parameters
    ----------
    of
        The job of the same flow that makes it, or the uuid of one that is in the store.
    """

    of: Job | str

    @property
    def reference(self) -> OutputReference | str:
        """What another job is given of it."""
        return self.of if isinstance(self.of, str) else self.of.output


def explorations(
    maker: LoopParts,
    state: LoopState,
    walkers: Sequence[WalkerState],
    potential: Source,
    batch: Source | None,
    done: CycleResults,
    record: Job | None,
    compared: Job | None = None,
) -> list[Job]:
    """Jobs that run the walkers, but for those that are done, and the job that assesses all of them."""
    dynamics_maker = maker.dynamics_maker
    if state.gamma_thresholds is not None:
        gamma_lo, gamma_hi = state.gamma_thresholds
        adapted = replace(dynamics_maker.settings, gamma_lo=gamma_lo, gamma_hi=gamma_hi)
        dynamics_maker = replace(dynamics_maker, settings=adapted)
    jobs: list[Job] = []
    walks: list[OutputReference | str] = []
    for walker in walkers:
        if walker.index in done.walk_ids:
            walks.append(done.walk_ids[walker.index])
            continue
        start = record.output if record is not None and walker.start_id == record.uuid else None
        unfinished = done.unfinished_walk_ids.get(walker.index)
        explore = dynamics_maker.make(
            walker, potential.reference, state.campaign_id, state.cycle, start=start, part_of=unfinished
        )
        jobs.append(named(explore, f"explore c{state.cycle:03d} w{walker.index:02d}"))
        walks.append(explore.output)
    assess = maker.assess(
        state,
        walkers=[w.index for w in walkers],
        walks=walks,
        potential=potential.reference,
        batch=None if batch is None else batch.reference,
        labelled=batch is not None,
        compared=None if compared is None else compared.output,
    )
    return [*jobs, named(assess, f"assess c{state.cycle:03d}")]


def cycle_jobs(
    maker: LoopParts, state: LoopState, store: JobStore, done: CycleResults | None = None, record: Job | None = None
) -> list[Job]:
    """
    Make the jobs of one more cycle: propose, select, label, train, explore, and the assessment, which is last.

    Parameters
    ----------
    state
        After the cycle before.
    store
        Of the campaign, connected.
    done
        Stored documents of an interrupted cycle.
    record
        The job that stores the structures of new walkers.
    """
    done = done or CycleResults()
    state = next_cycle(maker.stop_rule, state)
    campaign, cycle = state.campaign_id, state.cycle
    previous = state.potential_id
    assert previous is not None
    if maker.stop_rule.needs_check(state):
        return _check_jobs(maker, state)
    running = [w for w in state.walkers if w.is_due]
    jobs: list[Job] = []
    for walker in running:
        if done.potential_id is None and state.untrained_batch_id is None and walker.asks_for_labels:
            assert walker.walk_id is not None
            seed = derive_seed(state.seed, SeedPurpose.CANDIDATES, cycle, walker.index)
            propose = maker.propose_maker.make(walker.walk_id, previous, campaign, cycle, seed)
            jobs.append(named(propose, f"propose c{cycle:03d} w{walker.index:02d}"))
    potential = Source(done.potential_id or previous)
    batch = None if done.batch_id is None else Source(done.batch_id)
    if state.untrained_batch_id is not None and done.potential_id is None:
        teachers = _untaught(maker, state, store, record)
        train = _train(maker, state, state.untrained_batch_id, teachers)
        jobs += [*teachers, train]
        potential = Source(train)
    elif jobs:
        select = maker.select_maker.make(
            [j.output for j in jobs],
            previous,
            campaign,
            cycle,
            budget=maker.stop_rule.labels_left(state),
        )
        teachers = _untaught(maker, state, store, record)
        label = maker.oracle_maker.make(select.output, campaign, cycle, teachers=[teach.output for teach in teachers])
        train = _train(maker, state, label.output, teachers)
        potential, batch = Source(train), Source(label)
        jobs += [
            named(select, f"select c{cycle:03d}"),
            *teachers,
            named(label, f"request labels c{cycle:03d}"),
            train,
        ]
    return [*jobs, *explorations(maker, state, running, potential, batch, done, record)]


def _train(maker: LoopParts, state: LoopState, batch: OutputReference | str, teachers: Sequence[Job]) -> Job:
    """Make the job that fine-tunes the present potential."""
    train = maker.train_maker.make(
        batch=batch,
        campaign_id=state.campaign_id,
        cycle=state.cycle,
        seed=state.seed,
        elements=state.elements,
        initial_potential=state.potential_id,
        fine_tune=True,
        teachers=[teach.output for teach in teachers],
        taught_by=_digest(maker),
    )
    return named(train, f"train c{state.cycle:03d}")


def _check_jobs(maker: LoopParts, state: LoopState) -> list[Job]:
    """Make the jobs that compare the potential with labels from MD without halts."""
    campaign, cycle, potential_id = state.campaign_id, state.cycle, state.potential_id
    assert potential_id is not None
    rule = maker.stop_rule
    walks = [w.walk_id for w in state.walkers if w.walk_id is not None]
    propose = propose_check(
        walks,
        campaign,
        cycle,
        rule.frames_of(len(state.walkers), state.n_checks_failed),
        state.seed,
        potential_id,
        maker.propose_maker.cutouts,
        rule.criterion,
        rule.labels_left(state),
    )
    label = maker.oracle_maker.make(propose.output, campaign, cycle)
    limits = (rule.max_relative_force_error, rule.force_error_floor_meV_A)
    check = measure(
        label.output,
        potential_id,
        campaign,
        cycle,
        *limits,
        rule.criterion,
        rule.accuracy,
        rule.confidence,
        state.n_checks_failed,
    )
    assess = maker.assess(state, [], [], potential=potential_id, batch=label.output, labelled=True, check=check.output)
    return [
        named(propose, f"propose check c{cycle:03d}"),
        named(label, f"request labels c{cycle:03d}"),
        named(check, f"check c{cycle:03d}"),
        named(assess, f"assess c{cycle:03d}"),
    ]


def named(job: Job, name: str) -> Job:
    """Assign the job's name: appended suffixes would pile up from cycle to cycle."""
    job.name = name
    return job
