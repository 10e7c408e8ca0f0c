"""Shares of the cores: what runs beside what, and with how many threads."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from jobflow import Flow, job
from run_files import QUIET
from threadpoolctl import threadpool_info

from mlip_autopipec.cli import open_store
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.resources import Resources, Share
from mlip_autopipec.managers.local import Run, run_flow, run_flows
from mlip_autopipec.processes import run_process
from mlip_autopipec.runfile.model import RunFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobflow import JobStore

#: Stands where mpirun does: says when it runs, for how many ranks, and with how many threads.
MPIRUN = """
import json, os, sys, time
begin = time.time()
time.sleep(0.3)
print(json.dumps([begin, time.time(), int(sys.argv[2]), os.environ["OMP_NUM_THREADS"]]))
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = open_store(tmp_path / "store")
    yield store
    store.close()


@job
def runs_mpi(program: str, ranks: int) -> list:
    """Run a program under mpirun, as VASP is."""
    command = [sys.executable, "-c", program, "-n", str(ranks)]
    assert run_process(command, Path("out.txt"), dict(os.environ)) == 0
    return json.loads(Path("out.txt").read_text())


@job
def sleeps() -> list:
    begin = time.time()
    time.sleep(0.3)
    blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return [begin, time.time(), 1, max(blas, default=1)]


def named(name: str, made):
    made.name = name
    return made


def most_at_once(spans: list[list]) -> int:
    """Most ranks at once."""
    moments = sorted({begin for begin, *_ in spans})
    return max(sum(ranks for begin, end, ranks, _ in spans if begin <= moment < end) for moment in moments)


def test_cores_are_never_oversubscribed_by_programs_under_mpirun(store: JobStore, tmp_path: Path) -> None:
    labels = [named(f"label c000 {k:03d}", runs_mpi(MPIRUN, 2)) for k in range(4)]
    walks = [named(f"explore c000 w{k:02d}", sleeps()) for k in range(4)]
    resources = Resources(4, {"label": Share(2, threads=1), "explore": Share(1, at_once=1)})
    flow = Flow([*labels, *walks])
    assert run_flow(flow, store, tmp_path / "jobs", workers=6, resources=resources) == {}
    spans = [store.get_output(one.uuid) for one in labels]
    walked = [store.get_output(one.uuid) for one in walks]
    assert {threads for *_, threads in spans} == {"1"}
    assert most_at_once([*spans, *walked]) <= 4
    assert most_at_once(spans) == 4, "there was room for two labels"
    assert most_at_once(walked) == 1


def test_campaigns_share_the_cores(store: JobStore, tmp_path: Path) -> None:
    flows = [Flow([named(f"label c000 {k:03d}", runs_mpi(MPIRUN, 2)) for k in range(2)]) for _ in range(2)]
    resources = Resources(3, {"label": Share(2)})
    runs = [Run(flow, tmp_path / str(k), resources) for k, flow in enumerate(flows)]
    assert run_flows(runs, store, workers=4) == {}
    spans = [store.get_output(one.uuid) for flow in flows for one in flow.jobs]
    assert most_at_once(spans) == 2
    assert {threads for *_, threads in spans} == {"2"}


def test_threads_of_a_job_in_this_process_are_its_share_and_are_put_back(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    alone = named("train c000", runs_mpi(MPIRUN, 1))
    walk = named("explore c000 w00", sleeps())
    resources = Resources(3, {"train": Share(3), "explore": Share(1)})
    assert run_flow(Flow([alone, walk]), store, tmp_path / "jobs", workers=0, resources=resources) == {}
    assert store.get_output(alone.uuid)[3] == "3"
    assert store.get_output(walk.uuid)[3] == 1
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "TF_NUM_INTRAOP_THREADS" not in os.environ


def test_the_run_file_says_who_gets_what(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"

    def loaded(**resources) -> RunFile:
        path.write_text(yaml.safe_dump({**QUIET, "resources": resources}))
        return RunFile.load(path)

    found = loaded(cores=8, label={"cores": 4, "threads": 1, "at_once": 1}).load_resources()
    assert found is not None
    assert found.share_of("label c003 001") == ("label", Share(4, 1, 1))
    assert found.share_of("select c003")[1].cores == 1
    with pytest.raises(InvalidInputError, match=r"line \d+, (.|\n)*label\.cores is 9, and all jobs together have 8"):
        loaded(cores=8, label={"cores": 9}).load_resources()
    with pytest.raises(InvalidInputError, match=r"threads is 3, more than the 2 cores"):
        loaded(cores=8, train={"cores": 2, "threads": 3}).load_resources()
    with pytest.raises(InvalidInputError, match=r"resources\.label\.cores"):
        loaded(label={"cores": 0})
    with pytest.raises(InvalidInputError, match="oracle"):
        loaded(oracle={"cores": 1})
