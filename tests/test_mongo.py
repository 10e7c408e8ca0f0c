"""
Campaigns in a MongoDB server, through the JobStore as a jobflow user configures it.

``.ci/run`` starts a server; MLIP_AUTOPIPEC_TEST_MONGO_URI names one that runs already.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
import numpy as np
import pytest
import yaml
from ase.build import bulk
from jobflow import Flow, JobStore, run_locally
from jobflow.settings import JobflowSettings
from maggma.stores import MemoryStore
from pymongo import MongoClient
from pymongo.errors import DocumentTooLarge

from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.base import load_document, loop_job
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, read_events, stand_in_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlip_autopipec.schemas.label import LabelDocument

MONGO_URI = os.environ.get("MLIP_AUTOPIPEC_TEST_MONGO_URI")
MONGODB_LIMIT_BYTES = 16 * 1024**2
LARGEST_DOCUMENT_BYTES = 100_000
N_WORKERS = 3

pytestmark = pytest.mark.skipif(
    not MONGO_URI, reason="no MongoDB server: set MLIP_AUTOPIPEC_TEST_MONGO_URI to its address, or use .ci/run"
)


@dataclass
class Configured:
    """A jobflow.yaml, the store it configures, and the client that looks behind it."""

    file: Path
    name: str
    store: JobStore
    client: MongoClient[dict[str, Any]]

    def documents(self) -> list[dict[str, Any]]:
        """Return what stands in the documents' collection."""
        return list(self.client[self.name]["documents"].find())

    def final(self, flow: Flow) -> OTFDocument:
        """Return the last document of a campaign."""
        found = self.store.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1}, load=True)
        assert found is not None, "no assessment was stored"
        return OTFDocument.model_validate(found["output"])


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Configured]:
    """A database of the test's own, dropped at the end."""
    name = f"mlip_autopipec_test_{uuid.uuid4().hex[:8]}"
    on_server = {"database": name, "uri": MONGO_URI}
    stores = {
        "docs_store": {"type": "MongoStore", "collection_name": "documents", **on_server},
        "additional_stores": {"data": {"type": "GridFSStore", "collection_name": "data", **on_server}},
    }
    file = tmp_path / "jobflow.yaml"
    file.write_text(yaml.safe_dump({"JOB_STORE": stores}))
    store = JobflowSettings(CONFIG_FILE=str(file)).JOB_STORE
    store.connect()
    client: MongoClient[dict[str, Any]] = MongoClient(MONGO_URI)
    try:
        yield Configured(file, name, store, client)
    finally:
        client.drop_database(name)
        client.close()
        store.close()


def campaign(events: Path) -> Flow:
    """Three walkers, of which two halt."""
    halts = [Halt(step=100, walker=0), Halt(step=100, walker=1), Halt(step=200, walker=1)]
    maker = stand_in_loop(str(events), dynamics_maker=ScriptedDynamicsMaker(halts=halts))
    return maker.make(bulk("Cu", cubic=True) * (3, 3, 3), [300, 600, 900])


def labelled(store: JobStore, flow_output: OTFDocument) -> dict[tuple[int, int], LabelDocument]:
    """Return the labels of a campaign by cycle and number."""
    return {(label.cycle, label.index): label for label in read_labels(flow_output.campaign_id, store=store)}


def test_campaign_in_the_configured_store(configured: Configured, tmp_path: Path) -> None:
    flow = campaign(tmp_path / "events.log")
    run_locally(flow, store=configured.store, create_folders=True, root_dir=tmp_path, log=False)
    final = configured.final(flow)
    assert (final.status, final.n_halts) == ("CONVERGED", 3)
    assert final.potential is not None
    assert final.potential.payload["yaml"]
    assert (
        len(labelled(configured.store, final)) == final.n_labels == read_events(tmp_path / "events.log").count("label")
    )

    sizes = {doc["name"]: len(bson.encode(doc)) for doc in configured.documents()}
    assert max(sizes.values()) < LARGEST_DOCUMENT_BYTES, sizes
    references = [doc["output"]["payload"] for doc in configured.documents() if (doc["output"] or {}).get("payload")]
    blobs = {file["metadata"]["blob_uuid"] for file in configured.client[configured.name]["data.files"].find()}
    assert {reference["blob_uuid"] for reference in references} <= blobs
    assert {reference["store"] for reference in references} == {"data"}


@loop_job()
def read_back(document_id: str) -> dict[str, Any]:
    """Read a document of another job and say what was in it."""
    packed = load_document(CampaignDocument, document_id).payload["structures"]
    return {"length": len(packed), "sha256": sha256(packed.encode()).hexdigest()}


def test_a_payload_over_the_limit_goes_through_gridfs(configured: Configured, tmp_path: Path) -> None:
    """4000 atoms, 220 frames: more than MongoDB takes in one document, and exact."""
    atoms = bulk("Cu", cubic=True) * (10, 10, 10)
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(220):
        frame = atoms.copy()
        frame.positions += rng.normal(0, 0.1, (len(frame), 3))
        frames.append(frame)
    packed = pack_frames(frames)
    assert len(packed) > MONGODB_LIMIT_BYTES
    wrote = OTFMaker().record(CampaignDocument.of(frames, [], "large"))
    read = read_back(wrote.uuid)
    jobs = Flow([wrote, read], order="linear")
    responses = run_locally(jobs, store=configured.store, root_dir=tmp_path, log=False, ensure_success=True)
    expected = {"length": len(packed), "sha256": sha256(packed.encode()).hexdigest()}
    assert responses[read.uuid][1].output == expected
    assert max(len(bson.encode(doc)) for doc in configured.documents()) < LARGEST_DOCUMENT_BYTES
    with pytest.raises(DocumentTooLarge):
        configured.client[configured.name]["documents"].insert_one({"in one piece": packed})


def start_worker(folder: Path, jobflow_yaml: Path) -> subprocess.Popen[bytes]:
    """
    Start ``rlaunch rapidfire`` (:func:`main`) beside the ``my_launchpad.yaml``, until it is killed.

    Without ``--nlaunches infinite`` a worker leaves as soon as all ready jobs run elsewhere, as
    FireWorks cannot know that a job will append others.
    """
    folder.mkdir()
    (folder / "my_fworker.yaml").write_text(yaml.safe_dump({"name": folder.name, "category": "", "query": "{}"}))
    command = [sys.executable, __file__, "-l", str(folder.parent / "my_launchpad.yaml")]
    rapidfire = ["-w", str(folder / "my_fworker.yaml"), "rapidfire", "--nlaunches", "infinite"]
    (folder / "FW_config.yaml").write_text(yaml.safe_dump({"RAPIDFIRE_SLEEP_SECS": 0.1}))
    environment = {
        **os.environ,
        "JOBFLOW_CONFIG_FILE": str(jobflow_yaml),
        "FW_CONFIG_FILE": str(folder / "FW_config.yaml"),
        "PYTHONWARNINGS": "ignore",
    }
    with (folder / "worker.log").open("w") as log:
        return subprocess.Popen([*command, *rapidfire], cwd=folder, env=environment, stdout=log, stderr=log)


@pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed (extra 'fireworks')")
def test_three_workers_share_one_campaign(configured: Configured, tmp_path: Path) -> None:
    """FireWorks' own command, three times at once; what comes out is what one process computes."""
    from fireworks import LaunchPad
    from jobflow.managers.fireworks import flow_to_workflow

    pad = LaunchPad(host=MONGO_URI, name=configured.name, uri_mode=True, strm_lvl="CRITICAL")
    pad.reset("", require_password=False)
    pad.to_file(str(tmp_path / "my_launchpad.yaml"))
    flow = campaign(tmp_path / "events.log")
    workers = [start_worker(tmp_path / f"worker{number}", configured.file) for number in range(N_WORKERS)]

    def logs() -> list[str]:
        return [log.read_text() for log in sorted(tmp_path.glob("worker*/worker.log"))]

    def wait_for(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, logs()
            assert all(worker.poll() is None for worker in workers), logs()
            time.sleep(0.2)

    try:
        wait_for(lambda: all("Sleeping for" in log for log in logs()))
        fw_id = next(iter(pad.add_wf(flow_to_workflow(flow)).values()))
        wait_for(lambda: pad.workflows.find_one({"nodes": fw_id})["state"] in ("COMPLETED", "FIZZLED"))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()

    workflow = pad.get_wf_by_fw_id(fw_id)
    assert {firework.state for firework in workflow.fws} == {"COMPLETED"}, logs()
    launches = list(pad.launches.find())
    assert {launch["fworker"]["name"] for launch in launches} == {f"worker{n}" for n in range(N_WORKERS)}
    assert len(launches) == len(workflow.fws), "a job was launched more than once"
    final = configured.final(flow)
    assert (final.status, final.n_halts) == ("CONVERGED", 3)
    labels = labelled(configured.store, final)
    assert len(labels) == final.n_labels == read_events(tmp_path / "events.log").count("label")

    alone = campaign(tmp_path / "alone.log")
    run_locally(alone, store=configured.store, create_folders=True, root_dir=tmp_path, log=False)
    expected = labelled(configured.store, configured.final(alone))
    assert labels.keys() == expected.keys()
    for key, label in labels.items():
        assert label.to_atoms() == expected[key].to_atoms(), key


def main() -> None:
    """
    ``rlaunch``, in a process that has run a campaign before.

    The first jobs of a process cost seconds of imports, in which another would run all of the others.
    """
    from fireworks.scripts.rlaunch_run import rlaunch

    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(campaign(Path("warm-up.log").resolve()), store=store, log=False)
    rlaunch()


if __name__ == "__main__":
    main()
