"""Worker processes themselves: what they share, what they leave, how they end."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from ase.build import bulk
from jobflow import CURRENT_JOB, Flow, JobStore, Response, job
from maggma.stores import MemoryStore, MongoURIStore

from mlip_autopipec.database.disk import open_store
from mlip_autopipec.errors import InvalidInputError, MLIPError, lacks_space
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.managers.fork_server import ForkServer
from mlip_autopipec.managers.local import Run as OneRun
from mlip_autopipec.managers.local import RunningJob, Watch, run_flow, run_flows
from mlip_autopipec.managers.worker import pack, unpack
from mlip_autopipec.schemas.walk import Choice
from mlip_autopipec.settings import available_cores, default_workers, thread_variables
from mlip_autopipec.structures.provenance import Provenance, Split

THREADS = {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}


@pytest.fixture(scope="module")
def server():
    with ForkServer(THREADS) as one:
        yield one


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "store")
    yield store
    store.close()


@job
def where(seconds=0.0, *after):
    time.sleep(seconds)
    threads = {name: os.environ.get(name) for name in THREADS}
    return {"pid": os.getpid(), "folder": str(Path.cwd()), "threads": threads, "ended": time.time(), "n": len(after)}


@job
def prints(text):
    print(text, flush=True)
    subprocess.run(["echo", f"{text} of a program"], check=True)
    logging.getLogger("mlip_autopipec.somewhere").warning("%s in the log", text)


@job
def raises(kind):
    if kind == "full":
        Path("/dev/full").write_text("the kernel says that there is no space")
    raise ValueError("of no use")


@job
def dies(marker, times, program=False):
    """Kills its worker so many times."""
    path = Path(marker)
    n = len(path.read_text()) if path.exists() else 0
    if n < times:
        path.write_text("x" * (n + 1))
        if program:
            child = subprocess.Popen(["sleep", "1000"])
            path.with_suffix(".pid").write_text(str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)
    return n


@job
def waits(folder, program=True):
    """Runs a program until it is interrupted, as MD does."""
    child = subprocess.Popen(["sleep", "1000"])
    Path(folder, f"{child.pid}.begun").touch()
    try:
        child.wait()
    except KeyboardInterrupt:
        child.terminate()
        Path(folder, f"{child.pid}.ended").touch()
        raise


@job
def doubled(n):
    if n == 0:
        return Response(output=0)
    return Response(output=n, replace=Flow([doubled(n - 1), doubled(0)]))


def outputs(store):
    return [doc["output"] for doc in store.query({}, ["output"])]


def test_jobs_run_side_by_side_each_in_its_folder_with_its_share_of_threads(server, store, tmp_path) -> None:
    some = [where(2.0), where(2.0)]
    last = where(0.0, *(one.output for one in some))
    seen: set[tuple[RunningJob, ...]] = set()
    assert run_flow(Flow([*some, last]), store, tmp_path / "jobs", workers=2, watch=seen.add, server=server) == {}
    found = sorted(outputs(store), key=lambda one: one["ended"])
    assert len({one["folder"] for one in found}) == 3
    assert {Path(one["folder"]).parent for one in found} == {tmp_path / "jobs"}
    assert len({one["pid"] for one in found}) == 2
    assert os.getpid() not in {one["pid"] for one in found}
    assert found[1]["ended"] - found[0]["ended"] < 2.0  # they overlapped
    assert found[2]["n"] == 2
    assert all(one["threads"] == THREADS for one in found)
    both = max(seen, key=len)
    assert {(job.worker, job.name) for job in both} == {(1, "where"), (2, "where")}
    assert {job.pid for job in both} == {one["pid"] for one in found}
    assert () in seen
    assert not any(psutil.pid_exists(job.pid) for job in both)


def test_what_a_job_prints_is_in_its_folder_and_what_it_logs_in_the_log(server, store, tmp_path, caplog, capfd) -> None:
    with caplog.at_level(logging.INFO):
        run_flow(Flow([prints("this"), where()]), store, tmp_path / "jobs", workers=1, server=server)
    (output,) = (tmp_path / "jobs").glob("*/output.txt")
    assert output.read_text() == "this\nthis of a program\n"
    assert ("mlip_autopipec.somewhere", logging.WARNING, "this in the log") in caplog.record_tuples
    # a handler of logging that another test left behind may show the line of the log here
    shown = "".join(capfd.readouterr()).splitlines()
    assert not {"this", "this of a program"} & set(shown)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_job_that_fails_is_told_and_skips_those_that_need_it(server, store, tmp_path, caplog, workers) -> None:
    bad = raises("value")
    failed = run_flow(
        Flow([bad, where(0.0, bad.output), prints("ok")]), store, tmp_path / "jobs", workers=workers, server=server
    )
    assert list(failed) == [bad.uuid]
    assert failed[bad.uuid].strip().endswith("ValueError: of no use")
    assert "raises failed with exception" in caplog.text
    assert len(outputs(store)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_ends_the_run_and_is_no_failed_job(server, store, tmp_path, workers) -> None:
    bad = raises("full")
    flow = Flow([where(), bad, where(0.0, bad.output)], order="linear")
    with pytest.raises(MLIPError, match=r"a disk is full: raises in .* No space left on device.*resume"):
        run_flow(flow, store, tmp_path / "jobs", workers=workers, server=server)
    assert len(outputs(store)) == 1


def test_a_full_disk_is_no_failed_label(monkeypatch) -> None:
    def compute(*_):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("the calculator failed") from error

    def candidates():
        return [Provenance(split=Split.TRAIN).mark(bulk("Cu"))]

    monkeypatch.setattr("mlip_autopipec.jobs.label.load_document", lambda *_: SimpleNamespace(candidates=candidates))
    monkeypatch.setattr(OracleMaker, "compute", compute)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    monkeypatch.setattr(CURRENT_JOB, "store", store)
    maker = OracleMaker(static_maker=EMTStaticMaker())
    with pytest.raises(RuntimeError, match="the calculator failed") as caught:
        OracleMaker.label.original(maker, Choice(source_id="p", source_index=0), "c", 0, 0)
    assert lacks_space(caught.value)


def test_a_worker_that_dies_costs_its_own_job_one_attempt_and_leaves_no_program(
    server, store, tmp_path, caplog
) -> None:
    marker = tmp_path / "marker"
    others = [where(0.5), where(0.5)]
    flow = Flow([dies(str(marker), 2, program=True), *others])
    assert run_flow(flow, store, tmp_path / "jobs", workers=2, server=server) == {}
    assert sorted(map(type, outputs(store)), key=str) == [dict, dict, int]
    assert caplog.text.count("begins again") == 2
    assert "dies begins again, attempt 3 of 3: its process was killed by SIGKILL" in caplog.text
    child = int(marker.with_suffix(".pid").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_job_that_kills_all_its_workers_has_failed(server, store, tmp_path) -> None:
    bad = dies(str(tmp_path / "marker"), 100)
    failed = run_flow(Flow([bad, where()]), store, tmp_path / "jobs", workers=2, server=server)
    assert list(failed) == [bad.uuid]
    assert "in all of 3 attempts its process was killed by SIGKILL" in failed[bad.uuid]
    assert "take fewer workers" in failed[bad.uuid]
    assert len(outputs(store)) == 1


def test_workers_that_are_interrupted_end_what_they_started(server, store, tmp_path) -> None:
    """As by Ctrl-C: here when both have begun."""
    watch = Watch()
    script = (
        "import os, sys, time, signal; from pathlib import Path; folder = Path(sys.argv[1]); t = time.time()\n"
        "while len(list(folder.glob('*.begun'))) < 2 and time.time() - t < 30: time.sleep(0.02)\n"
        "os.kill(int(sys.argv[2]), signal.SIGINT)"
    )
    killer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(os.getpid())])
    with pytest.raises(KeyboardInterrupt):
        run_flow(
            Flow([waits(str(tmp_path)), waits(str(tmp_path))]),
            store,
            tmp_path / "jobs",
            workers=2,
            watch=watch,
            server=server,
        )
    killer.wait()
    assert len(list(tmp_path.glob("*.ended"))) == 2
    assert not any(psutil.pid_exists(job.pid) for job in watch.jobs)
    assert outputs(store) == []


def test_several_flows_share_the_workers(server, store, tmp_path) -> None:
    runs = [OneRun(Flow([doubled(3), where(0.2)]), tmp_path / name) for name in ("a", "b")]
    assert run_flows(runs, store, workers=2, server=server) == {}
    assert len(list((tmp_path / "a").iterdir())) == len(list((tmp_path / "b").iterdir())) == 8
    assert len(outputs(store)) == 16


@pytest.mark.parametrize("workers", [0, 1])
def test_more_flows_than_workers_take_turns(server, store, tmp_path, workers) -> None:
    begun = []
    runs = [OneRun(Flow([where() for _ in range(3)]), tmp_path / name) for name in ("a", "b", "c")]

    def watch(jobs) -> None:
        begun.extend(one.folder.parent.name for one in jobs)

    assert run_flows(runs, store, workers=workers, watch=watch, server=server) == {}
    assert begun == ["a", "b", "c"] * 3


def test_a_job_that_no_worker_can_import_is_told() -> None:
    packed = pack(where()).replace(b"test_local", b"__main__")
    with pytest.raises(MLIPError, match=r"where, or what it is given, cannot be imported by a worker"):
        unpack(packed)


@pytest.mark.parametrize(
    ("documents", "why"),
    [(MemoryStore(), "it is in memory"), (MongoURIStore("mongodb://127.0.0.1:1/x", "a", database="x"), "TypeError")],
)
def test_a_store_that_processes_cannot_share_is_refused(tmp_path, documents, why) -> None:
    with pytest.raises(InvalidInputError, match=rf"2 worker processes cannot share the store .*{why}.*0 workers"):
        run_flow(Flow([where()]), JobStore(documents), tmp_path, workers=2)


def test_workers_end_with_the_process_that_started_them_however_that_ends(tmp_path) -> None:
    """SIGKILL of that process alone; its workers and their programs are gone at once."""
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]; folder = Path(sys.argv[1])\n"
        "from jobflow import Flow; from test_local import waits; from mlip_autopipec.database.disk import open_store\n"
        "from mlip_autopipec.managers.local import run_flow\n"
        "flow = Flow([waits(str(folder)), waits(str(folder))])\n"
        "run_flow(flow, open_store(folder / 'store'), folder / 'jobs', workers=2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path), str(Path(__file__).parent)]
    )
    deadline = time.monotonic() + 120
    while len(begun := list(tmp_path.glob("*.begun"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 5  # the fork server, two workers, two programs
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert not any(psutil.pid_exists(int(path.stem)) for path in begun)


def test_cores_are_those_that_are_allowed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    first, second, period = (tmp_path / name for name in ("cpu.max", "quota", "period"))
    monkeypatch.setattr("mlip_autopipec.settings._QUOTAS", ((first, None), (second, period)))
    monkeypatch.delenv("MLIP_AUTOPIPEC_WORKERS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert available_cores() == default_workers() == 16
    first.write_text("max 100000")
    assert available_cores() == 16
    first.write_text("850000 100000\n")
    assert available_cores() == 8
    second.write_text("50000")
    period.write_text("100000")
    assert available_cores() == 1
    second.write_text("-1")
    assert available_cores() == 8
    assert thread_variables(2)["OPENBLAS_NUM_THREADS"] == "4"
    assert thread_variables(20)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert default_workers() == 2
    assert thread_variables(8)["MKL_NUM_THREADS"] == "4"
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    assert thread_variables(8)["MKL_NUM_THREADS"] == "1"
    monkeypatch.setenv("MLIP_AUTOPIPEC_WORKERS", "3")
    assert default_workers() == 3
