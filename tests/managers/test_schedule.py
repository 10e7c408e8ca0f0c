"""Which job may run next: jobflow's own rules, against run_locally itself."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from jobflow import Flow, JobConfig, JobStore, OnMissing, Response, job, run_locally
from maggma.stores import MemoryStore

from mlip_autopipec.managers.local import run_flow
from mlip_autopipec.managers.schedule import Outcome, Schedule, Task

if TYPE_CHECKING:
    from pathlib import Path

RAN: list[str] = []


@job
def note(name, *parents, fails=False):
    RAN.append(name)
    if fails:
        raise ValueError(name)
    return name, len(parents)


@job
def replaced(name, n, *, by_job=False, fails=False):
    """Replaces itself n times, by a job or by a flow of two."""
    RAN.append(f"{name}{n}")
    if n == 0:
        if fails:
            raise ValueError(name)
        return name
    further = replaced(name, n - 1, by_job=by_job, fails=fails)
    if by_job:
        return Response(output=n, replace=further)
    side = note(f"{name} beside {n}")
    return Response(output=n, replace=Flow([side, further], output=further.output))


@job
def appends(name, *, stop_children=False, stop=False):
    RAN.append(name)
    return Response(
        output=name,
        detour=note(f"{name} detour"),
        addition=note(f"{name} addition"),
        stop_children=stop_children,
        stop_jobflow=stop,
    )


def tolerant(one):
    one.config = JobConfig(on_missing_references=OnMissing.NONE)
    return one


def chain():
    first = replaced("a", 3)
    return Flow([first, note("after", first.output), note("apart")])


def chain_of_jobs():
    first = replaced("a", 3, by_job=True)
    return Flow([first, note("after", first.output), note("apart")])


def failing_chain():
    first = replaced("a", 2, by_job=True, fails=True)
    after = note("after", first.output)
    return Flow([first, after, note("later", after.output), tolerant(note("in spite", first.output))])


def failing_parents():
    bad, good = note("bad", fails=True), note("good")
    skipped = note("skipped", bad.output, good.output)
    return Flow([bad, good, skipped, tolerant(note("in spite", skipped.output, bad.output)), note("ok", good.output)])


def appending():
    first = appends("a")
    return Flow([first, note("after", first.output)])


def stopping_children():
    first = appends("a", stop_children=True)
    after = note("after", first.output)
    return Flow([first, after, tolerant(note("later", after.output)), note("apart")])


def stopping_all():
    first = appends("a", stop=True)
    return Flow([first, note("after", first.output)])


FLOWS = [chain, chain_of_jobs, failing_chain, failing_parents, appending, stopping_children, stopping_all]


@pytest.mark.parametrize("make", FLOWS, ids=[make.__name__ for make in FLOWS])
def test_the_same_jobs_run_in_the_same_order_as_under_run_locally(make, tmp_path: Path) -> None:
    documents, ran = [], []
    for run in (
        lambda flow, store: run_locally(flow, store=store, log=False, root_dir=tmp_path),
        lambda flow, store: run_flow(flow, store, tmp_path, workers=0),
    ):
        RAN.clear()
        store = JobStore(MemoryStore())
        store.connect()
        run(make(), store)
        ran.append(list(RAN))
        found = store.query({}, ["name", "index", "output"], sort={"completed_at": 1})
        documents.append([(doc["name"], doc["index"], type(doc["output"])) for doc in found])
    assert ran[0] == ran[1]
    assert documents[0] == documents[1]
    assert ran[0]


def test_a_flow_that_needs_what_is_not_in_it_is_refused(tmp_path: Path) -> None:
    store = JobStore(MemoryStore())
    store.connect()
    with pytest.raises(ValueError, match="not found in the jobs array"):
        run_flow(Flow([note("a", note("elsewhere").output)]), store, tmp_path, workers=0)


def task(name: str, *parents: str, tolerant: bool = False) -> Task:
    return Task(name, 1, name, parents, tolerant, None)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_in_which_jobs_end_none_begins_before_its_parents_are_done(seed: int) -> None:
    """Random graphs, some of whose jobs append further graphs, run by any number of workers."""
    rng = random.Random(seed)
    number = iter(range(10_000))

    def graph() -> tuple[Task, ...]:
        names = [f"{next(number)}" for _ in range(rng.randint(1, 6))]
        return tuple(task(name, *rng.sample(names[:i], rng.randint(0, min(i, 3)))) for i, name in enumerate(names))

    first = graph()
    schedule = Schedule(first)
    within: dict[str, str | None] = {one.uuid: None for one in first}
    tasks = {one.uuid: one for one in first}
    run: set[str] = set()
    running = []

    def is_done(uuid: str) -> bool:
        return uuid in run and all(is_done(one) for one, host in within.items() if host == uuid)

    while not schedule.is_over:
        while schedule and len(running) < 3:
            entry = schedule.begin()
            assert all(is_done(parent) for parent in entry.task.parents)
            running.append(entry)
        entry = running.pop(rng.randrange(len(running)))
        if rng.random() < 0.2:
            schedule.put_back(entry)
            continue
        added = graph() if rng.random() < 0.2 else ()
        run.add(entry.task.uuid)
        within |= {one.uuid: entry.task.uuid for one in added}
        tasks |= {one.uuid: one for one in added}
        schedule.end(entry, Outcome(added=(added,) if added else ()))
    assert run == set(tasks)
    assert schedule.n_run == len(tasks)


def test_a_long_chain_needs_no_stack() -> None:
    schedule = Schedule([task("0"), task("last", "0")])
    for k in range(20_000):
        entry = schedule.begin()
        assert entry.task.name == str(k)
        schedule.end(entry, Outcome(added=((task(str(k + 1)),),) if k < 19_999 else ()))
    assert schedule.begin().task.name == "last"
