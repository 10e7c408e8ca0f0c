"""Asking a JobStore for the results of campaigns."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore, MongoStore

from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.database.documents import title_of
from mlip_autopipec.database.tables import to_table
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory) -> Campaigns:
    """Two campaigns in one store: copper with two halts and a failing label, and copper-gold."""
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    copper = bulk("Cu", cubic=True)
    alloy = copper.copy()
    alloy.symbols[0] = "Au"
    first = stand_in_loop(
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100), Halt(step=300)]),
        oracle_maker=StandInOracleMaker(failing=["c001 000"], max_failed_fraction=0.9),
    )
    second = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)]))
    for maker, atoms, name in ((first, copper, "copper"), (second, alloy, "alloy")):
        folder = tmp_path_factory.mktemp(name)
        flow = maker.make(atoms, 300, campaign_id=name)
        run_locally(flow, store=store, create_folders=True, root_dir=folder, log=False)
    return Campaigns(store)


def test_list_and_status(campaigns):
    assert [d.campaign_id for d in campaigns.list()] == ["copper", "alloy"]
    assert [d.campaign_id for d in campaigns.list(["Au"])] == ["alloy"]
    status = campaigns.status("copper")
    assert (status.status, status.n_cycles, status.n_halts) == ("CONVERGED", 2, 2)
    assert [d.cycle for d in campaigns.cycles("copper")] == [0, 1, 2]
    with pytest.raises(MLIPError, match=r"'silver' is in mem://memory_db; there are \['alloy', 'copper'\]"):
        campaigns.status("silver")


def test_labels_halts_and_their_origin(campaigns):
    (failed,) = campaigns.labels("copper", state="failed")
    assert failed.cycle == 1
    assert failed.reason
    with pytest.raises(MLIPError, match=r"\['stat'\] are no fields of LabelDocument"):
        campaigns.labels("copper", stat="failed")
    halts = campaigns.halts("copper")
    assert [h.halt_step for h in halts] == [100, 300]
    label = campaigns.labels("copper", cycle=2, state="successful")[0]
    origin = campaigns.origin(label.uuid)
    assert origin.walk is not None
    assert origin.walk.uuid == halts[1].uuid
    assert (origin.walk.halt_step, origin.walk.temperature_K) == (300, 300)
    first = campaigns.origin(campaigns.labels("copper", cycle=0)[0].uuid)
    assert first.proposal is not None
    assert first.walk is None


def test_the_structure_of_a_failed_label_is_there(campaigns):
    (failed,) = campaigns.labels("copper", state="failed")
    structure = campaigns.candidate(failed.uuid)
    assert (structure.get_chemical_formula(), len(structure)) == (failed.formula, failed.n_atoms)
    oracle = StandInOracleMaker()
    assert oracle.key_of(structure) == failed.key
    assert np.isfinite(oracle.compute(structure).atoms.get_potential_energy())
    for label in campaigns.labels("copper", state="successful"):
        structure, labelled = campaigns.candidate(label.uuid), label.to_atoms()
        assert np.array_equal(structure.positions, labelled.positions)
        assert structure.calc is None

    with pytest.raises(MLIPError, match="no label nowhere"):
        campaigns.candidate("nowhere")


def test_a_potential_its_files_and_what_it_was_trained_on(campaigns):
    assert [p.cycle for p in campaigns.potentials("copper")] == [0, 1, 2]
    assert all(not p.payload for p in campaigns.potentials("copper"))
    last = campaigns.potential("copper")
    assert last.uuid == campaigns.status("copper").potential_id
    assert last.to_potential().elements == ["Cu"]
    assert campaigns.potential("copper", cycle=0).cycle == 0
    atoms = bulk("Cu")
    atoms.calc = campaigns.calculator("copper", cycle=0)
    assert np.isfinite(atoms.get_potential_energy())
    trained = campaigns.trained_on(last.uuid)
    assert len(trained) == last.n_train
    assert {label.split for label in trained} == {"train"}
    assert {label.state for label in trained} == {"successful"}
    with pytest.raises(MLIPError, match="'silver' has no potential"):
        campaigns.potential("silver")


def test_the_best_potential_is_of_just_these_elements(campaigns):
    assert campaigns.best_potential(["Cu"]).campaign_id == "copper"
    assert campaigns.best_potential(["Cu", "Au"]).campaign_id == "alloy"
    with pytest.raises(MLIPError, match=r"no converged campaign.*for Ag"):
        campaigns.best_potential(["Ag"])


def test_the_dataset_carries_its_provenance(campaigns, tmp_path):
    n = campaigns.write_dataset(tmp_path / "dataset.extxyz", "copper")
    frames = ase.io.read(tmp_path / "dataset.extxyz", index=":")
    assert len(frames) == n == len(campaigns.labels("copper", state="successful"))
    known = {label.uuid: label for label in campaigns.labels("copper")}
    for atoms in frames:
        label = known[atoms.info["label_id"]]
        assert atoms.get_potential_energy() == pytest.approx(label.energy_eV)
        assert np.allclose(atoms.get_forces(), label.forces_eV_A, atol=1e-7)
        assert (atoms.info["cycle"], atoms.info["origin"]) == (label.cycle, label.origin)


def test_a_label_used_again_leads_to_the_one_that_was_computed(campaigns, tmp_path_factory):
    dynamics = ScriptedDynamicsMaker(halts=[Halt(step=100)])
    flow = stand_in_loop(dynamics_maker=dynamics).make(bulk("Cu", cubic=True), 300, campaign_id="again")
    folder = tmp_path_factory.mktemp("again")
    run_locally(flow, store=campaigns.store, create_folders=True, root_dir=folder, log=False)
    try:
        reused = [label for label in campaigns.labels("again") if label.reused_from is not None]
        assert 0 < len(reused) < len(campaigns.labels("again"))
        assert campaigns.oracle_records("again") == campaigns.oracle_records("copper")
        originals = {label.uuid: label for label in campaigns.labels("copper")}
        for label in reused:
            original = originals[label.reused_from]
            assert label.to_atoms() == original.to_atoms()
            origin = campaigns.origin(label.uuid)
            assert origin.original == original
            assert origin.label.directory == original.directory
            assert origin.proposal.campaign_id == "again"
        dataset = {atoms.info["label_id"]: atoms for atoms in campaigns.dataset("again")}
        assert {one.info.get("reused_from") for one in dataset.values()} >= {label.reused_from for label in reused}
    finally:
        campaigns.store.remove_docs({"output.campaign_id": "again"})


def test_tables(campaigns):
    table = to_table(campaigns.list())
    assert list(table["campaign_id"]) == ["copper", "alloy"]
    assert list(table["elements"]) == ["Cu", "Au Cu"]
    assert np.isfinite(table["test.forces_rmse_meV_A"]).all()
    labels = to_table(campaigns.labels("copper"))
    assert labels["energy_eV"].isna().sum() == 1
    assert "forces_eV_A" not in labels


def test_indexes(campaigns):
    assert campaigns.create_indexes()


def test_no_message_tells_the_password():
    where = {"database": "campaigns", "uri": "mongodb://me:secret@server.example.org/"}
    store = JobStore(MongoStore(collection_name="outputs", **where))
    assert title_of(store) == "collection campaigns.outputs"
