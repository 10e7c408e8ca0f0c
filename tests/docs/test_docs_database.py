"""Every block of docs/database.md is run, and what its queries find is compared with the typed documents."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from ase.build import bulk
from jobflow import SETTINGS, JobStore, run_locally
from jobflow.settings import JobflowSettings
from maggma.stores import GridFSStore, MongoStore, S3Store
from paths import ROOT

from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop

PAGE = ROOT / "docs" / "database.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def campaigns(database, tmp_path_factory) -> Campaigns:
    """Copper with failing labels, copper again with the same labels, and copper-gold."""
    copper = bulk("Cu", cubic=True)
    alloy = copper.copy()
    alloy.symbols[0] = "Au"
    halts = [Halt(step=100), Halt(step=300, walker=1, reason="core_repulsion"), Halt(step=400, walker=1)]
    oracle = StandInOracleMaker(physics="emt", failing=["label c001 000"], max_failed_fraction=0.9)
    first = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=halts), oracle_maker=oracle)
    other = stand_in_loop(
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)]), oracle_maker=StandInOracleMaker(physics="emt")
    )
    for maker, atoms, name in ((first, copper, "copper"), (other, copper, "again"), (other, alloy, "alloy")):
        flow = maker.make(atoms, [300, 600], campaign_id=name)
        folder = tmp_path_factory.mktemp(name)
        run_locally(flow, store=database, create_folders=True, root_dir=folder, log=False, ensure_success=True)
    return Campaigns(database)


def test_every_query_finds_what_it_says(campaigns, tmp_cwd, monkeypatch):
    monkeypatch.setattr(SETTINGS, "JOB_STORE", campaigns.store)
    # maggma closes the stores of a builder; those in memory would be empty
    monkeypatch.setattr(JobStore, "close", lambda _: None)
    in_gridfs = isinstance(campaigns.store.additional_stores["data"], GridFSStore)
    page: dict = {}
    for block in blocks("python"):
        if block.startswith("# summaries.py") or (block.startswith("# with GridFS") and not in_gridfs):
            continue
        exec(compile(block, f"{PAGE.name}: {block.splitlines()[0]}", "exec"), page)

    assert page["names"] == ["again", "alloy", "copper"] == sorted(page["overview"]["campaign_id"])
    assert [one.campaign_id for one in page["with_gold"]] == ["alloy"]
    assert page["by_cycle"]["n_halts"].iloc[-1] == campaigns.status("copper").n_halts == len(page["halts"])
    everything = {label.uuid: label for name in page["names"] for label in campaigns.labels(name)}
    good = [label for label in everything.values() if label.state == "successful"]
    bought = [label for label in good if label.reused_from is None]
    assert len(page["labels"]) == sum(label.campaign_id == "copper" for label in good) == page["n_structures"]
    assert {label.uuid for label in page["trained_on"]} == {label["uuid"] for label in page["its_labels"]}
    assert any(origin.walk for origin in page["origins"])
    assert {path.suffix for path in Path("potential").iterdir()} >= {".yace", ".asi"}

    gentle = [label.energy_eV / label.n_atoms for label in bought if label.max_force_eV_A < 5]
    assert sorted(page["energies_per_atom"]) == pytest.approx(sorted(gentle))
    ((reason, (n_failed, folders)),) = page["reasons"].items()
    assert "told to fail" in reason
    assert n_failed == len(folders) == len(page["failed"]) == len(page["lost"]) == 1
    walks = [walk for name in page["names"] for walk in campaigns.halts(name)]
    assert page["halts_at"] == Counter((walk.temperature_K, walk.reason) for walk in walks)
    for name, seconds in page["oracle_seconds"].items():
        mine = [label for label in everything.values() if label.campaign_id == name and label.reused_from is None]
        assert seconds == pytest.approx(sum(label.seconds for label in mine))
    assert page["walk"]["uuid"] == campaigns.origin(page["label"]["uuid"]).walk.uuid
    keys = Counter(label.key for label in good)
    assert {one["_id"]: one["labels"] for one in page["shared"]} == {key: n for key, n in keys.items() if n > 1}
    assert any(set(one["campaigns"]) == {"copper", "again"} for one in page["shared"])
    assert {one["computed"] for one in page["shared"]} == {1}
    kinds = {"campaign", "proposal", "selection", "label", "labels", "potential", "walk", "loop"}
    assert set(page["bytes_of_kind"]) == kinds
    assert page["largest"] < min(100_000, sum(page["bytes_of_kind"].values()))
    if in_gridfs:
        assert set(page["bulk_of_kind"]) == {"campaign", "proposal", "potential", "walk", "loop"}
    summaries = json.loads(Path("summaries.json").read_text())
    assert {one["campaign_id"] for one in summaries} == set(page["names"])


def test_mrun_with_the_file_of_the_page(campaigns, tmp_path):
    docs = campaigns.store.docs_store
    if type(docs) is not MongoStore:
        pytest.skip("mrun is another process, which sees no store in memory")
    spec = yaml.safe_load(blocks("yaml")[0])
    for store in (spec["JOB_STORE"]["docs_store"], spec["JOB_STORE"]["additional_stores"]["data"]):
        store.update(uri=docs.uri, database=docs.database)
    spec["JOB_STORE"]["docs_store"]["collection_name"] = docs.collection_name
    (tmp_path / "jobflow.yaml").write_text(yaml.safe_dump(spec))
    (block,) = (block for block in blocks("python") if block.startswith("# summaries.py"))
    (tmp_path / "summaries.py").write_text(block)
    (command,) = (block.split() for block in blocks("bash") if block.startswith("mrun"))
    mrun = Path(sys.executable).with_name(command[0])
    environment = {**os.environ, "JOBFLOW_CONFIG_FILE": str(tmp_path / "jobflow.yaml")}
    done = subprocess.run(
        [mrun, *command[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    target = MongoStore(docs.database, "campaigns", uri=docs.uri)
    target.connect()
    assert sorted(target.distinct("campaign_id")) == ["again", "alloy", "copper"]
    target.close()


def test_the_configurations_are_jobflows(tmp_path):
    stores = []
    for number, block in enumerate(blocks("yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        stores.append(JobflowSettings(CONFIG_FILE=str(file)).JOB_STORE)
    assert [type(store.additional_stores["data"]) for store in stores] == [GridFSStore, S3Store]
    s3 = stores[1].additional_stores["data"]
    assert s3.key == s3.index.key == "blob_uuid"
