"""
Campaigns in a MongoDB server, through the JobStore as a jobflow user configures it.

``.ci/run`` starts a server; MLIP_AUTOPIPEC_TEST_MONGO_URI names one that runs already.
"""

from __future__ import annotations

import time
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import bson
import numpy as np
import pytest
from ase.build import bulk
from campaign_workers import Configured, campaign, labelled, needs_server, start_worker
from jobflow import Flow, run_locally
from pymongo.errors import DocumentTooLarge

from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.base import load_document, loop_job
from mlip_autopipec.managers.fireworks.launchpad import submit
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.testing import read_events

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MONGODB_LIMIT_BYTES = 16 * 1024**2
LARGEST_DOCUMENT_BYTES = 100_000
N_WORKERS = 3

pytestmark = needs_server


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
    """4000 atoms, 150 frames: more than MongoDB takes in one document, and exact."""
    atoms = bulk("Cu", cubic=True) * (10, 10, 10)
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(150):
        frame = atoms.copy()
        frame.positions += rng.normal(0, 0.1, (len(frame), 3))
        frames.append(frame)
    document = CampaignDocument.of(frames, [], "large")
    packed = document.payload["structures"]
    assert len(packed) > MONGODB_LIMIT_BYTES
    wrote = OTFMaker().record(document)
    read = read_back(wrote.uuid)
    jobs = Flow([wrote, read], order="linear")
    responses = run_locally(jobs, store=configured.store, root_dir=tmp_path, log=False, ensure_success=True)
    expected = {"length": len(packed), "sha256": sha256(packed.encode()).hexdigest()}
    assert responses[read.uuid][1].output == expected
    assert max(len(bson.encode(doc)) for doc in configured.documents()) < LARGEST_DOCUMENT_BYTES
    with pytest.raises(DocumentTooLarge):
        configured.client[configured.name]["documents"].insert_one({"in one piece": packed})


@pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed (extra 'fireworks')")
def test_three_workers_share_one_campaign(configured: Configured, tmp_path: Path) -> None:
    """FireWorks' own command, three times at once; what comes out is what one process computes."""
    pad = configured.launchpad()
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
        fw_id = submit(flow, pad).fw_ids[0]
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
