"""Objects out of stored documents: of known classes alone, and nothing is imported to find out."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from ase.build import bulk
from jobflow import Job, Maker
from monty.json import MontyEncoder, jsanitize

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.flows.resume import recorded_maker
from mlip_autopipec.jobs.decoding import _is_known, decoded
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.propose import SelectMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.oracle.vasp import vasp_static_maker
from mlip_autopipec.testing import stand_in_loop


@dataclass
class OwnSelectMaker(SelectMaker):
    """A user's own part."""


@dataclass
class Plain:
    """Of no maker."""

    x: int = 0


@pytest.mark.parametrize(
    "evil",
    [
        {"@module": "fireworks.core.launchpad", "@class": "LaunchPad", "host": "127.0.0.1", "port": 9},
        {"@module": "antigravity", "@class": "Anything"},
        {"@module": "subprocess", "@class": "Popen", "args": ["true"]},
        {"@module": "os", "@callable": "system"},
        {"@module": "mlip_autopipec.lammps.executable", "@callable": "subprocess.run"},
        {"@module": "pymatgen.ext.matproj", "@class": "MPRester"},
        {"@module": "maggma.stores.mongolike", "@class": "MongoStore", "database": "x", "collection_name": "y"},
        {"@module": __name__, "@class": "Plain", "x": 1},
        {"@module": "jobflow.core.store", "@class": "JobStore", "docs_store": {"@module": "os", "@class": "x"}},
    ],
)
def test_no_foreign_class_is_made(evil):
    sys.modules.pop("antigravity", None)
    for content in (evil, {"a": [1, {"b": evil}]}):
        with pytest.raises(MLIPError, match=r"^the document 7 names '.*MLIP_AUTOPIPEC_CODE_FROM="):
            decoded(content, "the document 7")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("oracle", [EMTStaticMaker(), vasp_static_maker()])
def test_makers_come_back_as_they_were(oracle):
    maker = OTFMaker(oracle_maker=OracleMaker(static_maker=oracle), select_maker=OwnSelectMaker(n_max=3))
    back = decoded(json.loads(maker.to_json()), "the maker")
    assert back.to_json() == maker.to_json()
    assert isinstance(back.select_maker, OwnSelectMaker)
    assert isinstance(back, Maker)


def test_jobs_and_arrays_come_back():
    job = decoded(json.loads(json.dumps(EMTStaticMaker().make(None), cls=MontyEncoder)), "the job")
    assert isinstance(job, Job)
    array = decoded(json.loads(json.dumps({"x": np.arange(3)}, cls=MontyEncoder)), "the array")
    assert array["x"].tolist() == [0, 1, 2]
    assert decoded(jsanitize({"x": [1, None, "a"]}), "plain") == {"x": [1, None, "a"]}


def test_the_owner_of_the_machine_may_allow_more(monkeypatch):
    content = {"@module": __name__, "@class": "Plain", "x": 1}
    monkeypatch.setenv("MLIP_AUTOPIPEC_CODE_FROM", f"another, {__name__.partition('.')[0]}")
    _is_known.cache_clear()
    try:
        assert decoded(content, "mine") == Plain(1)
    finally:
        _is_known.cache_clear()


def test_a_recorded_maker_that_names_another_class_is_refused(run_loop, memory_jobstore):
    document = run_loop(stand_in_loop().make(bulk("Cu", cubic=True), 300))
    stored = memory_jobstore.query_one({"output.kind": "campaign"}, load=True)
    maker = json.loads(stored["output"]["payload"]["maker"])
    assert isinstance(recorded_maker(document.campaign_id, memory_jobstore), OTFMaker)
    maker["select_maker"] = {"@module": "antigravity", "@class": "Anything"}
    stored["output"]["payload"]["maker"] = json.dumps(maker)
    memory_jobstore.update(stored, key=["uuid", "index"], save={"data": "payload"})
    with pytest.raises(MLIPError, match=r"recorded maker of campaign .* names 'antigravity\.Anything'"):
        recorded_maker(document.campaign_id, memory_jobstore)
