"""A campaign goes on with the structures it was begun with, whatever their periodicity."""

from __future__ import annotations

import ase.io
import pytest
from ase.build import bulk, fcc111
from ase.cluster import Octahedron
from jobflow import JobStore
from maggma.stores import MemoryStore

from mlip_autopipec.cli.changes import check_unchanged
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.runfile.model import RunFile


@pytest.fixture
def store():
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    return store


@pytest.mark.parametrize(
    "atoms",
    [Octahedron("Ni", 3, 1), fcc111("Cu", (2, 2, 3), vacuum=8.0), bulk("Cu", cubic=True)],
    ids=["cluster", "slab", "bulk"],
)
def test_structures_that_did_not_change_go_on(atoms, store, tmp_path):
    """`resume` refused every cluster and slab: it compared them with the cells of MD, which have vacuum."""
    ase.io.write(tmp_path / "s.extxyz", atoms)
    (tmp_path / "run.yaml").write_text(
        "name: c\nstructures: [{file: s.extxyz}]\nconditions: [{temperature_K: 300}]\noracle: {kind: emt}\n"
    )
    campaign = RunFile.load(tmp_path / "run.yaml")
    (recording, *_) = (job for job, _ in campaign.flow().iterflow() if "record campaign" in job.name)
    recording.run(store)
    (campaign_id,) = store.distinct("output.campaign_id", {"output.kind": "campaign"})
    check_unchanged(campaign, campaign_id, store, more=False)
    atoms.positions[0] += 0.2
    ase.io.write(tmp_path / "s.extxyz", atoms)
    with pytest.raises(InvalidInputError, match=r"structures\[0\] is another"):
        check_unchanged(RunFile.load(tmp_path / "run.yaml"), campaign_id, store, more=False)
