"""One summary document per campaign: maggma builder, from Python and with mrun."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from ase.build import bulk
from jobflow import run_locally
from maggma.stores import JSONStore, MemoryStore, MongoStore
from monty.json import MontyDecoder, MontyEncoder

from mlip_autopipec.database.builder import CampaignBuilder, CampaignSummary
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop

COPPER = bulk("Cu", cubic=True)


@pytest.fixture(scope="module")
def campaigns(database, tmp_path_factory, emt_labelled) -> Campaigns:
    """Copper with a failing label, and silver from the user's own labels."""
    copper = stand_in_loop(
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100), Halt(step=300, reason="core_repulsion")]),
        oracle_maker=StandInOracleMaker(failing=["label c001 000"], max_failed_fraction=0.9),
    ).make(COPPER, [300, 600], campaign_id="copper")
    silver = stand_in_loop().make(
        bulk("Ag", cubic=True),
        300,
        labels=emt_labelled([bulk("Ag", cubic=True, a=a) for a in (4.0, 4.1)]),
        campaign_id="silver",
    )
    for flow in (copper, silver):
        folder = tmp_path_factory.mktemp("jobs")
        run_locally(flow, store=database, create_folders=True, root_dir=folder, log=False, ensure_success=True)
    return Campaigns(database)


@pytest.fixture
def build(campaigns):
    """Build into a target and return the names of the campaigns that were processed."""

    def run(target, **options) -> list[str]:
        processed = []
        builder = CampaignBuilder(campaigns.store, target, **options)
        process = builder.process_item
        builder.process_item = lambda item: processed.append(item["campaign_id"]) or process(item)
        builder.finalize = lambda: None  # closes all stores, and a store in memory is then empty
        builder.run(log_level=logging.WARNING)
        return processed

    return run


def read(target, name: str) -> CampaignSummary:
    return CampaignSummary.model_validate(target.query_one({"campaign_id": name}))


def test_a_summary_says_what_the_documents_say(campaigns, build):
    target = MemoryStore()
    assert build(target) == ["copper", "silver"]
    assert target.count() == 2
    copper, final = read(target, "copper"), campaigns.status("copper")
    for field in ("elements", "status", "why", "n_cycles", "walkers", "n_halts", "potential_id", "train", "test"):
        assert getattr(copper, field) == getattr(final, field), field
    labels = campaigns.labels("copper")
    bought = Counter(label.origin for label in labels if label.state == "successful")
    assert {origin: count.bought for origin, count in copper.labels.items()} == dict(bought)
    assert sum(count.failed for count in copper.labels.values()) == final.n_failed_labels == 1
    assert copper.failures == {"LabelError": 1}
    assert copper.halts == {"gamma": 2, "core_repulsion": 2}
    assert copper.simulated_ps == pytest.approx(1e-3 * sum(w.step - w.start_step for w in campaigns.walks("copper")))
    assert copper.hours["label"] == pytest.approx(sum(label.seconds for label in labels) / 3600)
    assert copper.hours["explore"] == pytest.approx(sum(walk.seconds for walk in campaigns.walks("copper")) / 3600)
    assert (copper.oracle, copper.trainer) == (["NoStaticMaker"], "StandInTrainer")
    assert copper.potential_sha256 == campaigns.potential("copper").sha256
    assert copper.first_time <= copper.last_time
    assert copper.n_documents == campaigns.store.count({"output.campaign_id": "copper"})
    silver = read(target, "silver")
    assert (silver.formulas, silver.n_given_labels, silver.labels, silver.n_halts) == (["Ag4"], 2, {}, 0)


def test_only_campaigns_with_news_are_built_again(campaigns, build):
    target = MemoryStore()
    assert build(target, query={"output.elements": "Cu"}) == ["copper"]
    assert build(target) == ["silver"]
    assert build(target) == []
    assert build(target, rebuild=True) == ["copper", "silver"]


def test_a_campaign_that_was_only_recorded(campaigns, build):
    target = MemoryStore()
    record = stand_in_loop().record(CampaignDocument.of([COPPER], [Condition(300.0)], "begun"))
    try:
        record.run(campaigns.store)
        assert build(target, query={"output.campaign_id": "begun"}) == ["begun"]
        begun = read(target, "begun")
        assert (begun.status, begun.formulas, begun.n_documents) == (None, ["Cu4"], 1)
        record.run(campaigns.store)  # as many documents as before, but a newer one
        assert build(target, query={"output.campaign_id": "begun"}) == ["begun"]
        assert campaigns.names() == ["begun", "copper", "silver"]
        assert campaigns.list()[-1] == campaigns.status("begun")
        assert campaigns.status("begun").why.startswith("recorded ")
        assert campaigns.cycles("begun") == []
        assert campaigns.task("begun").structures() == [COPPER]
    finally:
        campaigns.store.remove_docs({"output.campaign_id": "begun"})


def test_a_target_on_disk(build, tmp_path):
    target = JSONStore(str(tmp_path / "summaries.json"), read_only=False)
    assert build(target) == ["copper", "silver"]
    again = JSONStore(str(tmp_path / "summaries.json"), read_only=False)
    assert build(again) == []
    assert read(again, "copper").status == "CONVERGED"


def test_work_is_divided_among_processes(campaigns):
    builder = CampaignBuilder(campaigns.store, MemoryStore())
    builder.target.connect()
    chunks = [chunk["query"]["output.campaign_id"]["$in"] for chunk in builder.prechunk(2)]
    assert chunks == [["copper"], ["silver"]]


def test_mrun(campaigns, tmp_path):
    docs = campaigns.store.docs_store
    if not isinstance(docs, MongoStore) or isinstance(docs, MemoryStore):
        pytest.skip("mrun is another process, which sees no store in memory")
    target = MongoStore(docs.database, "summaries", uri=docs.uri)
    builder = CampaignBuilder(campaigns.store, target)
    (tmp_path / "campaigns.json").write_text(json.dumps(builder, cls=MontyEncoder))
    assert isinstance(json.loads((tmp_path / "campaigns.json").read_text(), cls=MontyDecoder), CampaignBuilder)
    mrun = Path(sys.executable).with_name("mrun")
    for workers in ("1", "2"):
        command = [mrun, "-n", workers, "--no_bars", "campaigns.json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        target.connect()
        assert sorted(target.distinct("campaign_id")) == ["copper", "silver"]
        assert read(target, "copper").walkers == campaigns.status("copper").walkers
        if workers == "1":
            target.remove_docs({"campaign_id": "silver"})
