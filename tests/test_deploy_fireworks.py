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

from mlip_autopipec.flows.workers import STEPS
from mlip_autopipec.launchpad import submit
from mlip_autopipec.testing import ScriptedDynamicsMaker, stand_in_loop

pytestmark = pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed (extra 'fireworks')")

TEMPLATES = Path(__file__).parents[1] / "deploy" / "fireworks"
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
@pytest.mark.parametrize("reserve", [True, False], ids=["reservation", "normal"])
def test_qlaunch(reserve: bool, configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    FireWorks' ``qlaunch`` with the templates; of Slurm there is a ``sbatch`` that only takes the script.

    The script of the reservation is then run as the compute node would.
    """
    from fireworks import FWorker
    from fireworks.core.rocket_launcher import rapidfire

    home = tmp_path / "home"
    environment = install(home, str(MONGO_URI), configured.name)
    (home / "bin").mkdir()
    for name, does in {"sbatch": 'cp "$1" ~/submitted; echo Submitted batch job 4711', "squeue": "cat ~/queue"}.items():
        (home / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (home / "bin" / name).chmod(stat.S_IRWXU)
    (home / "queue").write_text("")
    monkeypatch.chdir(tmp_path)
    store = JobflowSettings(CONFIG_FILE=str(home / ".jobflow.yaml")).JOB_STORE
    monkeypatch.setattr(jobflow.SETTINGS, "JOB_STORE", store)
    pad = configured.launchpad()
    flow = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker()).make(bulk("Cu", cubic=True) * (2, 2, 2), 300)
    larger = {"label": {"_category": "label", "_queueadapter": {"nodes": 4}}}
    submit(flow, pad, larger)
    rapidfire(pad, FWorker(category="light"), nlaunches=0, sleep_time=0.1, strm_lvl="CRITICAL")
    ready = pad.get_fw_ids({"state": "READY"})
    assert ready
    assert {pad.get_fw_dict_by_id(i)["name"][:7] for i in ready} == {"label c"}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    adapter = "my_qadapter_label.yaml" if reserve else "my_qadapter_label_pilot.yaml"
    mode = ["qlaunch", "-r"] if reserve else ["qlaunch"]
    files = ["-w", f"{home}/.fireworks/my_fworker_label.yaml", "-q", f"{home}/.fireworks/{adapter}"]
    said = run(*mode, *files, "singleshot")
    assert (home / "submitted").exists(), said
    script = (home / "submitted").read_text()
    if not reserve:
        assert "#SBATCH --nodes=1\n" in script
        assert "rapidfire --nlaunches 0" in script
        assert pad.get_fw_ids({"state": "RESERVED"}) == []
        return
    (reserved,) = pad.get_fw_ids({"state": "RESERVED"})
    assert pad.get_reservation_id_from_fw_id(reserved) == "4711"
    assert "#SBATCH --nodes=4\n" in script, "the Firework's own _queueadapter does not count"
    assert f"singleshot --fw_id {reserved}\n" in script
    run("bash", str(home / "submitted"))
    firework = pad.get_fw_by_id(reserved)
    assert firework.state == "COMPLETED"
    assert firework.launches[-1].fworker.name == "label"
    assert store.query_one({"name": firework.name}, ["output.state"])["output"]["state"] == "successful"
