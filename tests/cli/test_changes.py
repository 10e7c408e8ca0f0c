"""A campaign goes on with the structures it was begun with, whatever their periodicity."""

from __future__ import annotations

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
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


def test_atoms_that_are_frozen_later_are_not_passed_over(store, tmp_path):
    """`resume` went on with the structures it had, and said nothing."""
    text = (
        "name: c\nstructures: [{bulk: {name: Cu, cubic: true}, repeat: [2, 1, 1], frozen: FROZEN}]\n"
        "conditions: [{temperature_K: 300}]\noracle: {kind: emt}\n"
    )
    for frozen in ("[0, 1]", "[0, 2]", "null"):
        (tmp_path / "run.yaml").write_text(text.replace("FROZEN", frozen))
        campaign = RunFile.load(tmp_path / "run.yaml")
        if frozen == "[0, 1]":
            (recording, *_) = (job for job, _ in campaign.flow().iterflow() if "record campaign" in job.name)
            recording.run(store)
            (campaign_id,) = store.distinct("output.campaign_id", {"output.kind": "campaign"})
            check_unchanged(campaign, campaign_id, store, more=False)
        else:
            with pytest.raises(InvalidInputError, match=r"structures\[0\], Cu8, freezes other atoms than it did"):
                check_unchanged(campaign, campaign_id, store, more=False)


def labelled(n: int, seed: int) -> list[Atoms]:
    frames = []
    for i in range(n):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.rattle(0.05, seed=seed + i)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    return frames


def test_labels_that_were_added_later_are_not_passed_over(store, tmp_path):
    """`extend` named the file of new labels as it was read, and used none of them."""
    ase.io.write(tmp_path / "old.extxyz", labelled(12, 0))
    ase.io.write(tmp_path / "new.extxyz", labelled(3, 50))
    text = (
        "name: c\nstructures: [{bulk: {name: Cu, cubic: true}}]\nconditions: [{temperature_K: 300}]\n"
        "oracle: {kind: emt}\nstart_from: {labels: FILES}\n"
    )

    def campaign(files: str) -> RunFile:
        (tmp_path / "run.yaml").write_text(text.replace("FILES", files))
        return RunFile.load(tmp_path / "run.yaml")

    begun = campaign("old.extxyz")
    jobs = [job for job, _ in begun.flow().iterflow()]
    for job in jobs:
        if "record campaign" in job.name:
            job.run(store)
    (campaign_id,) = store.distinct("output.campaign_id", {"output.kind": "campaign"})
    check_unchanged(campaign("[old.extxyz, new.extxyz]"), campaign_id, store, more=True)  # none is stored yet
    for job in jobs:
        if "import labels" in job.name:
            job.run(store)
    check_unchanged(campaign("old.extxyz"), campaign_id, store, more=True)
    with pytest.raises(InvalidInputError, match=r"start_from.labels are not those .* 3 are new \(a label of Cu8"):
        check_unchanged(campaign("[old.extxyz, new.extxyz]"), campaign_id, store, more=True)
    with pytest.raises(InvalidInputError, match=r"3 are new and 12 are gone or changed"):
        check_unchanged(campaign("new.extxyz"), campaign_id, store, more=False)


def test_a_run_file_of_another_campaign_is_told(store, tmp_path, capsys):
    text = "structures: [{bulk: {name: Cu}}]\nconditions: [{temperature_K: 300}]\noracle: {kind: emt}\n"
    for name in ("mine", "other"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\n{text}")
    (recording, *_) = (
        job for job, _ in RunFile.load(tmp_path / "mine.yaml").flow().iterflow() if "record campaign" in job.name
    )
    recording.run(store)
    (campaign_id,) = store.distinct("output.campaign_id", {"output.kind": "campaign"})
    check_unchanged(RunFile.load(tmp_path / "mine.yaml"), campaign_id, store, more=False)
    assert "named" not in "".join(capsys.readouterr())
    check_unchanged(RunFile.load(tmp_path / "other.yaml"), campaign_id, store, more=False)
    assert "this run file is named 'other'" in " ".join("".join(capsys.readouterr()).split())


def test_a_campaign_that_was_begun_with_copies_goes_on(store, tmp_path, monkeypatch):
    """Earlier versions took them all in; of the same file one of each is left now."""
    ase.io.write(tmp_path / "twice.extxyz", [*labelled(12, 0), *labelled(12, 0)])
    (tmp_path / "run.yaml").write_text(
        "name: c\nstructures: [{bulk: {name: Cu, cubic: true}}]\nconditions: [{temperature_K: 300}]\n"
        "oracle: {kind: emt}\nstart_from: {labels: twice.extxyz}\n"
    )
    with monkeypatch.context() as earlier:
        earlier.setattr("mlip_autopipec.oracle.given.same_structures", lambda _: [])
        jobs = [job for job, _ in RunFile.load(tmp_path / "run.yaml").flow().iterflow()]
    for job in jobs:
        if "record campaign" in job.name or "import labels" in job.name:
            job.run(store)
    (campaign_id,) = store.distinct("output.campaign_id", {"output.kind": "campaign"})
    campaign = RunFile.load(tmp_path / "run.yaml")
    assert len(campaign.load_labels()) == 12
    check_unchanged(campaign, campaign_id, store, more=False)
