"""A database written by version 0.1.0: its makers, campaigns and labels are of use."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ase.build import bulk
from atomate2.ase.jobs import GFNxTBStaticMaker
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from paths import ROOT

from mlip_autopipec import Campaigns, OracleMaker, OTFMaker
from mlip_autopipec.flows.resume import recorded_maker
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.oracle.vasp import vasp_static_maker
from mlip_autopipec.schemas.loop import LoopStatus, OTFDocument

STORED = json.loads((ROOT / "tests" / "data" / "database_0_1_0.json").read_text())
LENNARD_JONES = CalculatorStaticMaker(
    calculator_class="ase.calculators.lj.LennardJones", calculator_kwargs={"rc": 5.0}, energy_kind="potential_energy"
)
ESPRESSO = EspressoStaticMaker(pseudopotentials={"Si": "Si.upf"}, input_data={"system": {"ecutwfc": 30}})


@pytest.fixture
def store() -> JobStore:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    store.docs_store.update(STORED["documents"], key=["uuid", "index"])
    store.additional_stores["data"].update(STORED["data"], key="blob_uuid")
    return store


@pytest.mark.parametrize(
    ("name", "maker", "element"),
    [
        ("emt", EMTStaticMaker(), "Cu"),
        ("calculator", LENNARD_JONES, "Cu"),
        ("xtb", GFNxTBStaticMaker(calculator_kwargs={"method": "GFN1-xTB"}), "Si"),
        ("espresso", ESPRESSO, "Si"),
        ("vasp", vasp_static_maker(), "Si"),
    ],
)
def test_labels_keep_their_keys(name: str, maker: Any, element: str):
    assert STORED["keys"][name] in OracleMaker(static_maker=maker).keys_of(bulk(element, cubic=True))


@pytest.mark.parametrize("name", ["ended", "broken"])
def test_recorded_makers_are_read(name: str, store: JobStore):
    maker = recorded_maker(name, store)
    assert isinstance(maker, OTFMaker)
    assert maker.stop_rule.criterion is not None
    assert maker.train_maker.trainer.basis.number_of_functions_per_element == 8


def test_the_results_are_read(store: JobStore):
    campaigns = Campaigns(store)
    assert sorted(campaigns.names()) == ["broken", "ended"]
    atoms = bulk("Cu", cubic=True)
    atoms.calc = campaigns.calculator("ended")
    assert atoms.get_potential_energy() == pytest.approx(-0.03, abs=0.1)
    assert [len(read_labels(name, store=store)) for name in ("ended", "broken")] == [12, 12]


def test_a_campaign_that_broke_off_is_resumed_with_its_labels(store: JobStore, tmp_path):
    before = {document["uuid"] for document in store.query({"output.kind": "label"}, ["uuid"])}
    flow = OTFMaker.resume("broken", store)
    responses = run_locally(flow, store=store, root_dir=tmp_path, log=False)
    document = responses[flow.jobs[-1].uuid][max(responses[flow.jobs[-1].uuid])].output
    assert isinstance(document, OTFDocument)
    assert document.status is LoopStatus.CONVERGED
    new = store.query({"output.kind": "label", "uuid": {"$nin": sorted(before)}}, ["output"])
    broken_off = [doc["output"] for doc in new if doc["output"]["cycle"] == 1]
    assert [label["reused_from"] is not None for label in broken_off] == [True] * 6
    # later cycles, for want of a good stress, compute what is new alone
    assert all(doc["output"]["origin"] == "check" for doc in new if doc["output"]["reused_from"] is None)


def test_no_stored_label_is_bought_again(store: JobStore):
    """Whoever asks for one of these structures finds its label."""
    labels = [label for name in ("ended", "broken") for label in read_labels(name, store=store)]
    oracle = recorded_maker("ended", store).oracle_maker
    assert len(labels) == 24
    for label in labels:
        assert label.key in oracle.keys_of(label.to_atoms())
