"""The loop itself, with stand-ins for LAMMPS, the oracle and the fit."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.frames import unpack_frames
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import Condition, MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import LoopStatus, OTFDocument
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.testing import (
    Halt,
    PeriodicHaltsDynamicsMaker,
    ScriptedDynamicsMaker,
    StandInOracleMaker,
    StandInSelectMaker,
    StandInTrainer,
    read_events,
    stand_in_loop,
    tiny_potential,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobflow import Flow, JobStore

    from mlip_autopipec.flows.otf import OTFMaker

    Run = Callable[[Flow], OTFDocument]
    Labelled = Callable[[Sequence[Atoms]], list[Atoms]]

N_FIRST = 3  # labels of the stand-in loop's first dataset, one of them held out


@pytest.fixture
def copper() -> Atoms:
    return bulk("Cu", cubic=True)


def halting(*steps: int, **settings: Any) -> ScriptedDynamicsMaker:
    return ScriptedDynamicsMaker(halts=[Halt(step=s) for s in steps], settings=MDSettings(**settings))


def documents(store: JobStore, kind: str) -> list[dict[str, Any]]:
    found = store.query({"output.kind": kind}, load=True, sort={"completed_at": 1})
    return [doc["output"] for doc in found]


# ---- the order of things


def test_order_of_one_halt(run_loop: Run, memory_jobstore: JobStore, copper: Atoms, events: str) -> None:
    maker = stand_in_loop(events, dynamics_maker=halting(100), select_maker=StandInSelectMaker(n_max=2))
    document = run_loop(maker.make(copper, 300))
    assert read_events(events) == [
        *["label"] * N_FIRST,
        "train 2",
        "start w0 0",
        "halt w0 100",
        "propose w0",
        "select 4",
        *["label"] * 2,
        "train 4",
        "restart w0 100",
        "finish w0 10000",
    ]
    assert document.status is LoopStatus.CONVERGED
    assert (document.n_cycles, document.n_halts, document.n_labels) == (1, 1, N_FIRST + 2)
    assert document.walkers[0].step == 10_000


def test_a_resumed_walk_continues_the_halted_one(
    run_loop: Run, memory_jobstore: JobStore, copper: Atoms, events: str
) -> None:
    document = run_loop(stand_in_loop(events, dynamics_maker=halting(100)).make(copper, 300))
    first, second = (WalkDocument.model_validate(d) for d in documents(memory_jobstore, "walk"))
    before, after = documents(memory_jobstore, "potential")
    assert (first.status, first.step, first.potential_id) == ("HALTED", 100, before["uuid"])
    assert (second.start_step, second.restart_of, second.potential_id) == (100, first.uuid, after["uuid"])
    assert after["parent_id"] == before["uuid"]
    assert after["fine_tuned"] is True
    assert before["fine_tuned"] is False
    assert document.potential_id == after["uuid"]
    assert document.potential is not None
    assert document.potential.to_potential().sha256 == after["sha256"]


def test_only_the_walker_that_halted_runs_again(
    run_loop: Run, memory_jobstore: JobStore, copper: Atoms, events: str
) -> None:
    dynamics = ScriptedDynamicsMaker(halts=[Halt(step=100, walker=1)])
    document = run_loop(stand_in_loop(events, dynamics_maker=dynamics).make(copper, [300, 600]))
    happened = read_events(events)
    assert [e for e in happened if "w0" in e] == ["start w0 0", "finish w0 10000"]
    assert [e for e in happened if "w1" in e] == [
        "start w1 0",
        "halt w1 100",
        "propose w1",
        "restart w1 100",
        "finish w1 10000",
    ]
    assert [w.status for w in document.walkers] == ["CONVERGED", "CONVERGED"]
    assert [w.n_halts for w in document.walkers] == [0, 1]


def test_walkers_train_jointly_once_per_cycle(run_loop: Run, copper: Atoms, events: str) -> None:
    nickel = bulk("Ni", cubic=True)
    maker = stand_in_loop(events, dynamics_maker=halting(100, 200))
    document = run_loop(maker.make([copper, nickel], [300, 600]))
    happened = read_events(events)
    assert [e.split()[0] for e in happened].count("train") == 1 + document.n_cycles == 3
    assert happened.count("select 16") == 2  # 4 candidates of each of 4 walkers, in one choice
    assert len(document.walkers) == 4
    assert document.potential is not None
    assert document.potential.elements == ["Cu", "Ni"]


# ---- how it ends


def test_max_cycles(run_loop: Run, copper: Atoms, events: str) -> None:
    maker = stand_in_loop(
        events, dynamics_maker=PeriodicHaltsDynamicsMaker(n_halts=10), stop_rule=StopRule(max_cycles=2)
    )
    document = run_loop(maker.make(copper, 300))
    assert document.status is LoopStatus.MAX_ITER_REACHED
    assert document.n_cycles == 2
    assert document.potential is not None
    assert len([e for e in read_events(events) if e.startswith("train")]) == 3


def test_budget_is_spent_to_the_last_label(
    run_loop: Run, memory_jobstore: JobStore, copper: Atoms, events: str
) -> None:
    maker = stand_in_loop(
        events,
        dynamics_maker=PeriodicHaltsDynamicsMaker(n_halts=10),
        select_maker=StandInSelectMaker(n_max=2),
        stop_rule=StopRule(max_labels=N_FIRST + 5),
    )
    document = run_loop(maker.make(copper, 300))
    assert document.status is LoopStatus.BUDGET_SPENT
    assert read_events(events).count("label") == N_FIRST + 5 == document.n_labels
    assert [len(d["choices"]) for d in documents(memory_jobstore, "selection")] == [2, 2, 1]


def test_a_halt_that_was_learnt_is_not_tried_again(run_loop: Run, copper: Atoms) -> None:
    """MD halts on a frame that is in the training set: gamma of it is at most 1, so something is wrong."""
    document = run_loop(stand_in_loop(dynamics_maker=halting(*[100] * 10)).make(copper, 300))
    assert document.status is LoopStatus.STALLED
    assert document.n_halts == 2
    assert document.walkers[0].verdict == "repeat"
    assert "labelled and trained on after it had halted there before" in document.why


def test_a_walker_that_keeps_exploding_takes_another_way(
    run_loop: Run, memory_jobstore: JobStore, copper: Atoms
) -> None:
    """Once from its last valid frame, then from its start with other velocities; if nothing helps, the loop ends."""
    explosions = [Halt(step=100, reason="explosion")] * 9
    maker = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=explosions[:2]))
    document = run_loop(maker.make(copper, 300, campaign_id="lucky"))
    assert document.status is LoopStatus.CONVERGED
    walks = [d for d in documents(memory_jobstore, "walk") if d["campaign_id"] == "lucky"]
    assert [walk["start_step"] for walk in walks] == [0, 100, 0]
    assert len({walk["seed"] for walk in walks[:2]}) == 1
    assert walks[2]["seed"] != walks[0]["seed"]
    assert document.walkers[0].replica == 1

    maker = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=explosions))
    document = run_loop(maker.make(copper, 300, campaign_id="hopeless"))
    assert document.status is LoopStatus.STALLED
    assert document.walkers[0].n_repeats == 4


def test_a_few_steps_between_explosions_lead_nowhere(run_loop: Run, memory_jobstore: JobStore, copper: Atoms) -> None:
    """What is learnt on the other way before that place is progress, though; past it, the count starts again."""
    halts = [Halt(step=step, reason="explosion") for step in (100, 110)]
    halts += [Halt(step=40), Halt(step=60), Halt(step=130, reason="explosion")]
    maker = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=halts))
    document = run_loop(maker.make(copper, 300))
    assert document.status is LoopStatus.CONVERGED
    walks = sorted(documents(memory_jobstore, "walk"), key=lambda d: d["cycle"])
    assert [walk["start_step"] for walk in walks] == [0, 100, 0, 40, 60, 130]
    assert document.walkers[0].replica == 1
    assert document.walkers[0].n_repeats == 0


def test_an_explosion_may_be_tried_again(run_loop: Run, copper: Atoms) -> None:
    """The label is of the last valid frame, from which another path may lead on."""
    dynamics = ScriptedDynamicsMaker(halts=[Halt(step=100, reason="explosion")] * 3)
    document = run_loop(stand_in_loop(dynamics_maker=dynamics).make(copper, 300))
    assert (document.status, document.n_halts) == (LoopStatus.CONVERGED, 3)


def test_stalled(run_loop: Run, copper: Atoms) -> None:
    """The label of the halted frame fails each time, so MD halts there again."""
    oracle = StandInOracleMaker(failing=[f"label c00{cycle} 000" for cycle in range(1, 9)])
    maker = stand_in_loop(dynamics_maker=halting(*[100] * 10), stop_rule=StopRule(max_repeats=3), oracle_maker=oracle)
    document = run_loop(maker.make(copper, 300))
    assert document.status is LoopStatus.STALLED
    assert document.n_halts == 4  # the first one, and three without progress
    assert "halted at step 100" in document.why


def test_oracle_failing_from_the_start(run_loop: Run, copper: Atoms, events: str) -> None:
    maker = stand_in_loop(events, oracle_maker=StandInOracleMaker(failing=["label"]))
    document = run_loop(maker.make(copper, 300))
    assert document.status is LoopStatus.ORACLE_FAILING
    assert "told to fail" in document.why
    assert document.n_failed_labels == N_FIRST
    assert document.potential is None
    assert read_events(events) == ["bad label"] * N_FIRST  # nothing was trained or run on no labels


def test_oracle_failing_later_keeps_the_potential(
    run_loop: Run, memory_jobstore: JobStore, copper: Atoms, events: str
) -> None:
    maker = stand_in_loop(events, dynamics_maker=halting(100), oracle_maker=StandInOracleMaker(failing=["label c001"]))
    document = run_loop(maker.make(copper, 300))
    assert document.status is LoopStatus.ORACLE_FAILING
    (only,) = documents(memory_jobstore, "potential")
    assert document.potential is not None
    assert document.potential.uuid == only["uuid"]
    assert document.walkers[0].step == 100


def test_one_bad_label_is_dropped_and_counted(
    run_loop: Run, memory_jobstore: JobStore, copper: Atoms, events: str
) -> None:
    maker = stand_in_loop(events, dynamics_maker=halting(100), oracle_maker=StandInOracleMaker(failing=["c001 002"]))
    document = run_loop(maker.make(copper, 300))
    assert document.status is LoopStatus.CONVERGED
    assert (document.n_labels, document.n_failed_labels) == (N_FIRST + 3, 1)
    assert "train 5" in read_events(events)
    (bad,) = [d for d in documents(memory_jobstore, "label") if d["state"] == "failed"]
    assert (bad["cycle"], bad["index"], bad["energy_eV"], bad["forces_eV_A"]) == (1, 2, None, None)
    assert "told to fail" in bad["reason"]
    assert len(read_labels(document.campaign_id, store=memory_jobstore)) == document.n_labels


def test_training_that_dies_keeps_the_last_good_potential(
    run_loop: Run, memory_jobstore: JobStore, copper: Atoms, events: str
) -> None:
    maker = stand_in_loop(
        events,
        dynamics_maker=halting(100, 200, 300),
        train_maker=TrainMaker(trainer=StandInTrainer(failing=["train c002"])),
    )
    document = run_loop(maker.make(copper, 300))
    assert document.status is LoopStatus.FAILED
    assert "'train' of cycle 2" in document.why
    assert document.why.endswith("failed: the stand-in trainer was told to die here")
    (failure,) = documents(memory_jobstore, "failure")
    assert (failure["step"], failure["cycle"]) == ("train", 2)
    good = documents(memory_jobstore, "potential")[-1]
    assert (good["cycle"], document.potential_id) == (1, good["uuid"])
    assert document.potential is not None
    assert document.potential.to_potential().sha256 == good["sha256"]
    assert document.n_labels == N_FIRST + 8  # those of the cycle that died are kept
    assert document.walkers[0].step == 200
    assert document.walkers[0].status == "NOT_RUN"


def test_first_training_that_dies(run_loop: Run, copper: Atoms) -> None:
    maker = stand_in_loop(train_maker=TrainMaker(trainer=StandInTrainer(failing=["train"])))
    document = run_loop(maker.make(copper, 300))
    assert (document.status, document.potential) == (LoopStatus.FAILED, None)
    assert "'train' of cycle 0" in document.why


def test_crashed_md_is_run_again(run_loop: Run, copper: Atoms, events: str) -> None:
    dynamics = ScriptedDynamicsMaker(halts=[Halt(step=100, walker=1, crashes=2)])
    document = run_loop(stand_in_loop(events, dynamics_maker=dynamics).make(copper, [300, 600]))
    assert document.status is LoopStatus.CONVERGED
    happened = read_events(events)
    assert [e for e in happened if "w1" in e] == [
        "start w1 0",
        "crash w1",
        "start w1 0",
        "crash w1",
        "start w1 0",
        "halt w1 100",
        "propose w1",
        "restart w1 100",
        "finish w1 10000",
    ]
    assert len([e for e in happened if e.startswith("train")]) == 2  # a crash teaches nothing


def test_md_that_always_crashes_stalls(run_loop: Run, copper: Atoms) -> None:
    dynamics = ScriptedDynamicsMaker(halts=[Halt(step=100, crashes=99)])
    document = run_loop(stand_in_loop(dynamics_maker=dynamics).make(copper, 300))
    assert document.status is LoopStatus.STALLED
    assert "crashed" in document.why
    assert document.potential is not None


def test_pauses_before_python_overflows(run_loop: Run, copper: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = sys.getrecursionlimit()
    # room for some cycles only, counted from here
    sys.setrecursionlimit(len(inspect.stack(0)) + 275)
    try:
        document = run_loop(stand_in_loop(dynamics_maker=PeriodicHaltsDynamicsMaker(n_halts=60)).make(copper, 300))
    finally:
        sys.setrecursionlimit(limit)
    assert document.status is LoopStatus.PAUSED
    assert 1 <= document.n_cycles < 60
    assert document.potential is not None
    assert document.walkers[0].status == "HALTED"


# ---- starting from what there is


def test_given_labels_and_potential_start_at_once(
    run_loop: Run, memory_jobstore: JobStore, copper: Atoms, events: str, emt_labelled: Labelled
) -> None:
    given = emt_labelled([copper, copper * (2, 1, 1)])
    maker = stand_in_loop(events, dynamics_maker=halting(100), select_maker=StandInSelectMaker(n_max=1))
    start = tiny_potential("Cu")
    document = run_loop(maker.make(copper, 300, labels=given, initial_potential=start))
    assert read_events(events) == [
        "start w0 0",
        "halt w0 100",
        "propose w0",
        "select 4",
        "label",
        "train 3",  # the given ones and the new one
        "restart w0 100",
        "finish w0 10000",
    ]
    assert document.n_labels == 3
    first, second = documents(memory_jobstore, "potential")
    assert first["sha256"] == start.sha256
    assert second["parent_id"] == first["uuid"]
    labels = read_labels(document.campaign_id, store=memory_jobstore)
    assert [label.origin for label in labels] == ["given", "given", "halted"]
    assert labels[1].forces_eV_A == given[1].get_forces().tolist()
    assert labels[1].stress_eV_A3 == given[1].get_stress().tolist()
    assert len({label.uuid for label in labels} - {""}) == 3
    origin = Campaigns(memory_jobstore).origin(labels[1].uuid)
    assert origin.label == labels[1]
    assert origin.proposal is None


def test_given_labels_are_not_counted_as_computed(
    run_loop: Run, copper: Atoms, events: str, emt_labelled: Labelled
) -> None:
    """A user with a dataset of their own, larger than the budget: it is the next labels that cost something."""
    maker = stand_in_loop(
        events,
        dynamics_maker=halting(100, 200),
        select_maker=StandInSelectMaker(n_max=1),
        stop_rule=StopRule(max_labels=1, n_check_labels=0),
    )
    document = run_loop(maker.make(copper, 300, labels=emt_labelled(strained(copper, 3))))
    assert document.status is LoopStatus.BUDGET_SPENT
    assert document.n_labels == 4
    assert document.why.startswith("1 labels computed")


def strained(atoms: Atoms, n: int) -> list[Atoms]:
    """Return cells of several volumes: of copies one is taken in."""
    found = [atoms.copy() for _ in range(n)]
    for k, one in enumerate(found):
        one.set_cell(one.cell.array * (1 + 0.01 * k), scale_atoms=True)
    return found


def test_given_labels_alone_are_trained_on(run_loop: Run, copper: Atoms, events: str, emt_labelled: Labelled) -> None:
    document = run_loop(stand_in_loop(events).make(copper, 300, labels=emt_labelled(strained(copper, 2))))
    assert read_events(events) == ["train 2", "start w0 0", "finish w0 10000"]
    assert document.status is LoopStatus.CONVERGED


def test_given_potential_alone_is_fine_tuned(
    run_loop: Run, memory_jobstore: JobStore, copper: Atoms, events: str
) -> None:
    run_loop(stand_in_loop(events).make(copper, 300, initial_potential=tiny_potential("Cu")))
    assert read_events(events) == [*["label"] * N_FIRST, "train 2", "start w0 0", "finish w0 10000"]
    given, trained = documents(memory_jobstore, "potential")
    assert trained["parent_id"] == given["uuid"]
    assert trained["fine_tuned"] is True


def test_a_campaign_goes_on_from_another_ones_end(
    run_loop: Run, memory_jobstore: JobStore, copper: Atoms, events: str
) -> None:
    maker = stand_in_loop(events, dynamics_maker=halting(100), stop_rule=StopRule(max_cycles=0))
    paused = run_loop(maker.make(copper, 300))
    assert paused.status is LoopStatus.MAX_ITER_REACHED
    assert paused.potential is not None
    labels = [label.to_atoms() for label in read_labels(paused.campaign_id, store=memory_jobstore)]
    for atoms in labels:  # forces of exactly zero, as the stand-in gives them, are refused
        atoms.calc.results["forces"] = atoms.get_forces() + 0.01
    going_on = stand_in_loop(events, dynamics_maker=halting(100))
    document = run_loop(going_on.make(copper, 300, labels=labels, initial_potential=paused.potential.to_potential()))
    assert document.status is LoopStatus.CONVERGED
    imported = read_labels(document.campaign_id, store=memory_jobstore)
    assert [label.split for label in imported[:N_FIRST]] == ["train", "train", "test"]


# ---- what is stored


def test_what_a_cycle_stores_does_not_grow(run_loop: Run, memory_jobstore: JobStore, copper: Atoms) -> None:
    dynamics = PeriodicHaltsDynamicsMaker(n_halts=12, displacement_A=0.0)
    document = run_loop(stand_in_loop(dynamics_maker=dynamics).make(copper, 300))
    assert document.n_cycles == 12
    size: dict[int, int] = defaultdict(int)
    for doc in memory_jobstore.query(load=True):
        assert len(doc["hosts"]) <= 3
        cycle = re.search(r" c(\d+)", doc["name"])
        if cycle is not None:  # all but the two imports; digits of steps and times vary
            size[int(cycle[1])] += len(json.dumps(doc, default=str))
    cycles = np.array([size[c] for c in range(2, 12)])
    assert np.ptp(cycles) < 0.02 * cycles.mean(), size


def test_a_label_is_stored_once(run_loop: Run, memory_jobstore: JobStore, copper: Atoms) -> None:
    maker = stand_in_loop(dynamics_maker=halting(100, 200), oracle_maker=StandInOracleMaker(physics="emt"))
    document = run_loop(maker.make(copper, 300))

    def search(node: Any, path: str) -> list[str]:
        """Find forces under any name, and structures packed with a calculator."""
        if isinstance(node, dict):
            here = [path for key in node if "forces" in key and isinstance(node[key], list)]
            return here + [hit for key, value in node.items() for hit in search(value, f"{path}.{key}")]
        if isinstance(node, list):
            return [hit for value in node for hit in search(value, path)]
        if isinstance(node, str) and path.endswith((".final", ".frames", ".candidates")):
            return [path for atoms in unpack_frames(node) if atoms.calc is not None or "forces" in atoms.arrays]
        return []

    everything = list(memory_jobstore.query(load=True))
    holders = {doc["uuid"] for doc in everything if search(doc["output"], doc["name"])}
    labels = read_labels(document.campaign_id, store=memory_jobstore)
    assert holders == {label.uuid for label in labels}
    assert len(holders) == document.n_labels == N_FIRST + 8


def test_a_label_run_twice_counts_once(run_loop: Run, memory_jobstore: JobStore, copper: Atoms) -> None:
    document = run_loop(stand_in_loop().make(copper, 300))
    rerun = memory_jobstore.query_one({"output.kind": "label"})
    rerun.pop("_id", None)
    memory_jobstore.update({**rerun, "uuid": "again", "output": {**rerun["output"], "uuid": "again"}})
    assert len(read_labels(document.campaign_id, store=memory_jobstore)) == N_FIRST


# ---- seeds


def test_same_seed_same_structures(run_loop: Run, memory_jobstore: JobStore, copper: Atoms) -> None:
    def labelled(seed: int) -> np.ndarray:
        maker = stand_in_loop(dynamics_maker=halting(100, 200), seed=seed)
        document = run_loop(maker.make(copper, [300, 500]))
        labels = read_labels(document.campaign_id, store=memory_jobstore)
        return np.concatenate([label.to_atoms().positions.ravel() for label in labels])

    one, again, other = labelled(7), labelled(7), labelled(8)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_walkers_have_seeds_of_their_own(copper: Atoms) -> None:
    flow = stand_in_loop().make(copper, [300, 300])
    seeds = [job.function_args[0].seed for job in flow.jobs if job.name.startswith("explore")]
    assert len(set(seeds)) == 2


# ---- bad input is refused before anything runs


def labelled_copper(**results: Any) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def lone_gold() -> Atoms:
    atom = Atoms("Au", cell=[15] * 3, pbc=True)
    atom.calc = SinglePointCalculator(atom, energy=-0.3, forces=np.zeros((1, 3)))
    return atom


FORCES = np.zeros((4, 3))
BAD_INPUT: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "no structures": ({}, {"structures": []}, ["structures", "empty"]),
    "no conditions": ({}, {"conditions": []}, ["conditions", "empty"]),
    "empty Atoms": ({}, {"structures": Atoms(pbc=True, cell=[5, 5, 5])}, ["empty", "0 atoms"]),
    "one empty Atoms of two": ({}, {"structures": [bulk("Cu"), Atoms()]}, ["empty", "0 atoms"]),
    "periodic along a vector it has not": (
        {},
        {"structures": Atoms("Cu", cell=[4, 4, 0], pbc=True)},
        ["pbc", "missing"],
    ),
    "atoms on top of each other": (
        {},
        {"structures": Atoms("Cu2", [[0, 0, 0], [0.1, 0, 0]], cell=[6, 6, 6], pbc=True)},
        ["0.10 A", "Cu2"],
    ),
    "element unknown to the potential": (
        {},
        {"structures": bulk("Ni"), "initial_potential": tiny_potential("Cu")},
        ["Ni", "structure"],
    ),
    "label of an element unknown to the potential": (
        {},
        {"labels": [labelled_copper(energy=0.0, forces=FORCES)], "structures": bulk("Ni", cubic=True)}
        | {"initial_potential": tiny_potential("Ni")},
        ["labels[0]", "Cu"],
    ),
    "labels without an element of the structures": (
        {},
        {"labels": [labelled_copper(energy=0.0, forces=FORCES)], "structures": [bulk("Cu"), bulk("Ni", cubic=True)]},
        ["no structure with Ni to train on", "first dataset"],
    ),
    "labels with an element of a lone atom": (
        {},
        {"labels": [labelled_copper(energy=0.0, forces=FORCES), lone_gold()]},
        ["those with Au are isolated atoms", "leave them out"],
    ),
    "isolated atoms alone": ({}, {"labels": [lone_gold()]}, ["isolated atoms alone (Au)", "give labels of structures"]),
    "negative temperature": ({}, {"conditions": -300}, ["temperature_K", "-300"]),
    "temperature not a number": ({}, {"conditions": float("nan")}, ["temperature_K", "nan"]),
    "negative end of ramp": ({}, {"conditions": Condition(300, temperature_end_K=-1)}, ["temperature_end_K", "-1"]),
    "a ramp without a thermostat": (
        {"dynamics_maker": halting(ensemble="nve")},
        {"conditions": Condition(300, temperature_end_K=500)},
        ["temperature_end_K", "500", "nve"],
    ),
    "pressure without npt": ({}, {"conditions": Condition(300, 5.0)}, ["pressure_GPa", "5.0", "npt"]),
    "gamma_hi below gamma_lo": (
        {"dynamics_maker": halting(gamma_lo=5, gamma_hi=2)},
        {},
        ["gamma_hi", "2", "gamma_lo", "5"],
    ),
    "a halt that is not worth a label": (
        {"select_maker": StandInSelectMaker(gamma_min=20.0)},
        {},
        ["gamma_min", "20.0", "gamma_hi", "10.0"],
    ),
    "no steps": ({"dynamics_maker": halting(n_steps=0)}, {}, ["n_steps", "0"]),
    "unknown ensemble": ({"dynamics_maker": halting(ensemble="nph")}, {}, ["ensemble", "nph"]),
    "oracle that is a calculator": ({"oracle_maker": OracleMaker(static_maker=EMT())}, {}, ["static_maker", "EMT"]),
    "oracle that is a class": (
        {"oracle_maker": OracleMaker(static_maker=OracleMaker)},
        {},
        ["static_maker", "OracleMaker"],
    ),
    "failed fraction of two": (
        {"oracle_maker": StandInOracleMaker(max_failed_fraction=2.0)},
        {},
        ["max_failed_fraction", "2.0"],
    ),
    "labels without a calculator": ({}, {"labels": [bulk("Cu")]}, ["labels[0]", "energy"]),
    "labels without energy": ({}, {"labels": [labelled_copper(forces=FORCES)]}, ["labels[0]", "energy"]),
    "labels without forces": ({}, {"labels": [labelled_copper(energy=0.0)]}, ["labels[0]", "forces"]),
    "labels that are not finite": (
        {},
        {"labels": [labelled_copper(energy=float("nan"), forces=FORCES)]},
        ["labels[0]", "nan"],
    ),
    "labels with infinite forces": (
        {},
        {"labels": [labelled_copper(energy=0.0, forces=np.full((4, 3), np.inf))]},
        ["labels[0]", "inf"],
    ),
    "negative number of cycles": ({"stop_rule": StopRule(max_cycles=-1)}, {}, ["max_cycles", "-1"]),
    "first dataset beyond the budget": ({"stop_rule": StopRule(max_labels=2)}, {}, ["max_labels", "2", "3"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused(case: str) -> None:
    makers, arguments, words = BAD_INPUT[case]
    maker: OTFMaker = stand_in_loop(**makers)
    with pytest.raises(InvalidInputError) as error:
        maker.make(**{"structures": bulk("Cu", cubic=True), "conditions": 300, **arguments})
    for word in words:
        assert word in str(error.value)


def test_potential_without_active_set_is_refused(copper: Atoms, emt_labelled: Labelled) -> None:
    bare = PotentialDocument.from_potential(tiny_potential("Cu")).to_potential()
    object.__setattr__(bare, "active_set_inverse", {})
    with pytest.raises(InvalidInputError, match="active set"):
        stand_in_loop().make(copper, 300, labels=emt_labelled([copper]), initial_potential=bare)


def test_a_ladder_is_climbed_rung_by_rung(run_loop, events, stored_documents) -> None:
    """A structure whose first rung halts keeps its others waiting; the other structure climbs on meanwhile."""
    structures = [bulk("Cu", cubic=True) * (2, 2, 2), bulk("Cu", cubic=True) * (3, 2, 2)]
    dynamics = ScriptedDynamicsMaker(halts=[Halt(step=100, walker=0), Halt(step=100, walker=4)])
    maker = stand_in_loop(events, dynamics_maker=dynamics, ladder=True)
    final = run_loop(maker.make(structures, [300, 600, 900]))
    assert final.status == "CONVERGED"
    assert [w.after for w in final.walkers] == [None, 0, 1, None, 3, 4]
    runs = [
        (walk.cycle, walk.walker) for walk in sorted(stored_documents(WalkDocument), key=lambda w: (w.cycle, w.walker))
    ]
    assert runs == [(0, 0), (0, 3), (1, 0), (1, 4), (2, 1), (2, 4), (3, 2), (3, 5)]
    assert final.n_cycles == 3
    waiting = [w.status for w in stored_documents(OTFDocument)[0].walkers]
    assert waiting == ["HALTED", "WAITING", "WAITING", "CONVERGED", "PENDING", "WAITING"]


def test_many_labels_are_asked_for_in_parts(
    run_loop: Run, copper: Atoms, events: str, memory_jobstore: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager keeps what one job appends in one document; what comes out is the same."""
    generator = StructureGenerator(n_structures=7, n_test=2, max_atoms=16, isolated_atoms=True)

    def run(campaign_id: str, failing: list[str]) -> OTFDocument:
        maker = stand_in_loop(
            events,
            generate_maker=GenerateMaker(generator=generator),
            dynamics_maker=halting(100),
            oracle_maker=StandInOracleMaker(failing=failing, reuse_labels=False),
        )
        return run_loop(maker.make(copper, 300, campaign_id=campaign_id))

    whole = run("whole", ["c000 006"])
    monkeypatch.setattr("mlip_autopipec.jobs.label.LABELS_PER_JOB", 3)
    parts = run("parts", ["c000 006"])
    fields = ("status", "n_cycles", "n_labels", "n_failed_labels")
    assert [getattr(parts, name) for name in fields] == [getattr(whole, name) for name in fields]
    one, other = (read_labels(name, store=memory_jobstore) for name in ("whole", "parts"))
    assert [(label.cycle, label.index, label.key) for label in one] == [(b.cycle, b.index, b.key) for b in other]
    names = {doc["name"] for doc in memory_jobstore.query({"output.campaign_id": "parts"}, ["name"])}
    assert {"add up labels c000", "count labels c000", "add up labels c001"} <= names
    batches = [d for d in documents(memory_jobstore, "labels") if d["campaign_id"] == "parts" and d["cycle"] == 0]
    assert [b["n_asked"] for b in batches] == [3, 3, 3, 1, 10]
    assert [f["index"] for f in batches[-1]["failed"]] == [6]
    isolated = next(label.index for label in other if label.split == "reference")
    without_atom = run("no atom", [f"c000 {isolated:03d}"])
    assert without_atom.status is LoopStatus.ORACLE_FAILING
    assert "isolated atom" in without_atom.why
