"""The templates in deploy/fireworks, loaded and used by FireWorks and jobflow themselves."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from string import Template

import jobflow
import pytest
from ase.build import bulk
from campaign_workers import MONGO_URI, Configured, needs_server
from jobflow.settings import JobflowSettings
from maggma.stores import GridFSStore, MongoStore
from paths import ROOT

from mlip_autopipec.flows.workers import STEPS
from mlip_autopipec.managers.fireworks.launchpad import submit
from mlip_autopipec.testing import ScriptedDynamicsMaker, stand_in_loop

pytestmark = pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed (extra 'fireworks')")

TEMPLATES = ROOT / "deploy" / "fireworks"
QADAPTERS = sorted(TEMPLATES.glob("my_qadapter_*.yaml"))
ADDRESS = "mongodb://someone:correct-horse@server.example.org/?authSource=admin"
BIN = Path(sys.executable).parent

#: What a process finds without being told where to look.
WHAT_IS_CONFIGURED = """
import json
from fireworks import LaunchPad, fw_config
from jobflow import SETTINGS
pad, store = LaunchPad.auto_load(), SETTINGS.JOB_STORE
names = ("WFLOCK_EXPIRATION_SECS", "WFLOCK_EXPIRATION_KILL", "PING_TIME_SECS", "RUN_EXPIRATION_SECS", "SORT_FWS")
from fireworks.core.launchpad import WFLock
print(json.dumps({
    "settings": {name: getattr(fw_config, name) for name in names},
    "lock": WFLock(pad, 1).kill,
    "pad": [pad.host, pad.name, pad.uri_mode],
    "store": [store.docs_store.uri, store.docs_store.database, store.additional_stores["data"].uri],
}))
"""


def install(home: Path, address: str, database: str | None = None) -> dict[str, str]:
    """Put the templates where their comments say; return the environment of a user whose home that is."""
    (home / ".fireworks").mkdir(parents=True)
    for template in sorted(TEMPLATES.glob("*.yaml")):
        text = template.read_text()
        if template.name in ("jobflow.yaml", "my_launchpad.yaml"):
            text = Template(text).safe_substitute(MONGODB_URI=address)
            if database is not None:
                for setting in ("database: campaigns", "name: fireworks"):
                    text = text.replace(setting, f"{setting.split()[0]} {database}")
        place = home / ".jobflow.yaml" if template.name == "jobflow.yaml" else home / ".fireworks" / template.name
        place.write_text(text)
    kept = {k: v for k, v in os.environ.items() if k not in ("FW_CONFIG_FILE", "JOBFLOW_CONFIG_FILE")}
    return {**kept, "HOME": str(home), "PATH": f"{home}/bin:{BIN}:{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"}


def test_there_is_a_worker_for_every_step() -> None:
    from fireworks import FWorker

    workers = {path.name: FWorker.from_file(str(path)) for path in TEMPLATES.glob("my_fworker*.yaml")}
    assert {name: worker.category for name, worker in workers.items()} == {
        "my_fworker.yaml": "",
        **{f"my_fworker_{step}.yaml": step for step in STEPS},
    }
    assert workers["my_fworker_label.yaml"].query["spec._category"] == "label"


@pytest.mark.parametrize("path", QADAPTERS, ids=lambda path: path.stem)
def test_queue_scripts(path: Path, tmp_path: Path) -> None:
    from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter

    adapter = CommonAdapter.from_file(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an entry that the Slurm template does not know
        script = adapter.get_script_str(str(tmp_path))
    asked = {k: v for k, v in adapter.items() if v is not None and not k.startswith("_")}
    assert f"#SBATCH --partition={asked['queue']}\n" in script
    assert f"#SBATCH --time={asked['walltime']}\n" in script
    assert "#SBATCH --account" not in script, "an empty entry left a line"
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0

    step = path.stem.split("_")[2]
    assert f"-w ~/.fireworks/my_fworker_{step}.yaml" in asked["rocket_launch"]
    assert (TEMPLATES / f"my_fworker_{step}.yaml").exists()
    if path.stem.endswith("_pilot"):
        hours = int(asked["walltime"].split(":")[0])
        assert 0 < int(asked["rocket_launch"].split("--timeout ")[1]) < 3600 * hours
    else:
        assert asked["rocket_launch"].endswith("singleshot")  # qlaunch -r appends --fw_id


def test_what_a_process_finds_by_itself(tmp_path: Path) -> None:
    environment = install(tmp_path, ADDRESS)
    process = subprocess.run(
        [sys.executable, "-c", WHAT_IS_CONFIGURED],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    assert found["settings"]["WFLOCK_EXPIRATION_KILL"] is True
    assert found["lock"] is True, "FireWorks does not read its configuration where the comments say"
    assert found["settings"]["RUN_EXPIRATION_SECS"] > 2 * found["settings"]["PING_TIME_SECS"]
    assert found["pad"] == [ADDRESS, "fireworks", True]
    assert found["store"] == [ADDRESS, "campaigns", ADDRESS]


def test_job_store_has_its_bulk_apart(tmp_path: Path) -> None:
    install(tmp_path, ADDRESS)
    store = JobflowSettings(CONFIG_FILE=str(tmp_path / ".jobflow.yaml")).JOB_STORE
    assert isinstance(store.docs_store, MongoStore)
    assert isinstance(store.additional_stores["data"], GridFSStore)
    assert store.additional_stores.keys() == {"data"}


def test_templates_hold_no_secret() -> None:
    """Addresses come from a variable; what looks like one in a comment is an example."""
    for path in TEMPLATES.glob("*.yaml"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert not [line for line in lines if "password" in line or "mongodb://" in line], path.name


@needs_server
def test_qlaunch_in_both_modes(configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    FireWorks' ``qlaunch`` with the templates; of Slurm there is a ``sbatch`` that only takes the script.

    The script of the reservation is then run as the compute node would.
    """
    from fireworks import FWorker
    from fireworks.core.rocket_launcher import rapidfire
    from fireworks.scripts.qlaunch_run import qlaunch

    home = tmp_path / "home"
    environment = install(home, str(MONGO_URI), configured.name)
    (home / "bin").mkdir()
    sbatch = home / "bin" / "sbatch"
    sbatch.write_text(f'#!/bin/bash\ncp "$1" {home}/submitted; echo Submitted batch job 4711\n')
    sbatch.chmod(stat.S_IRWXU)
    store = JobflowSettings(CONFIG_FILE=str(home / ".jobflow.yaml")).JOB_STORE
    monkeypatch.setattr(jobflow.SETTINGS, "JOB_STORE", store)
    monkeypatch.setenv("PATH", environment["PATH"])
    monkeypatch.chdir(home)
    pad = configured.launchpad()
    flow = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker()).make(bulk("Cu", cubic=True) * (2, 2, 2), 300)
    submit(flow, pad, {"label": {"_category": "label", "_queueadapter": {"nodes": 4}}})
    rapidfire(pad, FWorker(category="light"), nlaunches=0, sleep_time=0.1, strm_lvl="CRITICAL")
    names = {pad.get_fw_dict_by_id(fw_id)["name"][:10] for fw_id in pad.get_fw_ids({"state": "READY"})}
    assert names == {"label c000"}, "labels are all that light workers leave to do at first"

    def submitted(adapter: str, *mode: str) -> str:
        folder = home / ".fireworks"
        worker, launchpad = folder / "my_fworker_label.yaml", folder / "my_launchpad.yaml"
        qlaunch([*mode, "-l", str(launchpad), "-w", str(worker), "-q", str(folder / adapter), "singleshot"])
        script = (home / "submitted").read_text()
        (home / "submitted").unlink()
        return script

    script = submitted("my_qadapter_label_pilot.yaml")
    assert "#SBATCH --nodes=1\n" in script
    assert "rapidfire --nlaunches 0" in script
    assert pad.get_fw_ids({"state": "RESERVED"}) == []

    script = submitted("my_qadapter_label.yaml", "-r")
    (reserved,) = pad.get_fw_ids({"state": "RESERVED"})
    assert pad.get_reservation_id_from_fw_id(reserved) == "4711"
    assert "#SBATCH --nodes=4\n" in script, "the Firework's own _queueadapter does not count"
    assert f"singleshot --fw_id {reserved}\n" in script
    node = subprocess.run(
        ["bash"], input=script, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    firework = pad.get_fw_by_id(reserved)
    assert firework.state == "COMPLETED", node.stdout + node.stderr
    assert firework.launches[-1].fworker.name == "label"
    assert store.query_one({"name": firework.name}, ["output.state"])["output"]["state"] == "successful"
