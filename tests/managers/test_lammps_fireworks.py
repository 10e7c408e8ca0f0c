"""
A walk in several jobs under FireWorks: the job that waits for it gets the last one's document.

A process of its own runs it, as in test_fireworks.py; this file is also its script.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import yaml
from ase.build import bulk
from jobflow import Flow

from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.base import loop_job
from mlip_autopipec.jobs.dataset import import_potential
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.lammps.types import Condition, MDSettings, WalkStatus
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.loop import WalkerState
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import WalkDocument

if TYPE_CHECKING:
    from mlip_autopipec.potentials.potential import ACEPotential

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        find_spec("fireworks") is None or find_spec("mongomock_persistence") is None,
        reason="fireworks or mongomock_persistence is not installed (pip install 'fireworks[mongomock]')",
    ),
]


@dataclass
class InThirds(LammpsDynamicsMaker):
    """The real maker; the wall time is over after every 10 steps."""

    dies_at: int = -1

    def explore(self, walker: Any, potential: Any, atoms: Any, restart_file: Any) -> Any:
        """Run 10 steps."""
        if walker.step == self.dies_at:
            raise RuntimeError("as if the queue had killed it")
        whole, self.settings = self.settings, replace(self.settings, n_steps=walker.step + 10)
        result = super().explore(walker, potential, atoms, restart_file)
        self.settings = whole
        if result.step < whole.n_steps:
            result.status = WalkStatus.TIMED_OUT
        return result


@loop_job(tolerate_failed_inputs=True)
def look(walks: list[WalkDocument | None]) -> WalkDocument | None:
    """Stand where the loop's assessment stands."""
    return walks[0]


def main() -> None:
    """Run a walk in three jobs, and one whose second job dies."""
    from fireworks import FWorker, LaunchPad
    from fireworks.core.rocket_launcher import rapidfire
    from jobflow import SETTINGS
    from jobflow.managers.fireworks import flow_to_workflow

    pad = LaunchPad(name="mlip_autopipec_test")
    pad.reset("", require_password=False)
    results = {}
    settings = MDSettings(n_steps=30, gamma_every=5, gamma_lo=1e9, gamma_hi=1e9)
    for title, dies_at in {"done": -1, "died": 10}.items():
        starts = OTFMaker().record(CampaignDocument.of([bulk("Cu", cubic=True) * (2, 2, 2)], [], uuid4().hex))
        given = import_potential(json.loads(Path("potential.json").read_text()), "c", None)
        walker = WalkerState(index=0, formula="Cu32", condition=Condition(300.0), seed=4, start_id=starts.uuid)
        maker = InThirds(settings=settings, engine="library", dies_at=dies_at)
        walk = maker.make(walker, given.output, "c", 0, start=starts.output)
        waiting = look([walk.output])
        ids = pad.add_wf(flow_to_workflow(Flow([starts, given, walk, waiting])))
        rapidfire(pad, FWorker(), nlaunches=0, sleep_time=0, strm_lvl="CRITICAL")
        workflow = pad.get_wf_by_fw_id(next(iter(ids.values())))
        store = SETTINGS.JOB_STORE
        store.connect()
        seen = store.query_one({"uuid": waiting.uuid}, ["output"], load=True)
        restart = WalkDocument.model_validate(seen["output"]).payload["restart"]
        results[title] = {
            "seen": seen["output"],
            "states": sorted(f.state for f in workflow.fws if f.name == "explore"),
            "parts": store.count({"uuid": walk.uuid}),
            "restart_in_spec": any(
                restart[-200:] in json.dumps(f.to_db_dict()["spec"], default=str) for f in workflow.fws
            ),
        }
    Path("results.json").write_text(json.dumps(results, default=str))


@pytest.fixture(scope="module")
def results(copper_potential: ACEPotential, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("fireworks")
    document = PotentialDocument.from_potential(copper_potential).model_dump(mode="json")
    (folder / "potential.json").write_text(json.dumps(document))
    (folder / "mongomock.json").write_text("{}")
    (folder / "store").mkdir()
    documents, data = (
        {"type": "MontyStore", "collection_name": name, "database_path": str(folder / "store")}
        for name in ("documents", "data")
    )
    configuration = {"JOB_STORE": {"docs_store": documents, "additional_stores": {"data": data}}}
    (folder / "jobflow.yaml").write_text(yaml.safe_dump(configuration))
    process = subprocess.run(
        [sys.executable, "-W", "ignore", __file__],
        cwd=folder,
        env=os.environ
        | {"JOBFLOW_CONFIG_FILE": str(folder / "jobflow.yaml")}
        | {"MONGOMOCK_SERVERSTORE_FILE": str(folder / "mongomock.json")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


def test_the_last_part_is_what_is_waited_for(results: dict[str, Any]) -> None:
    walk = WalkDocument.model_validate(results["done"]["seen"])
    assert (walk.status, walk.step, walk.n_parts) == ("CONVERGED", 30, 3)
    assert walk.payload["trace"]["step"] == [0, 5, 10, 15, 20, 25, 30]
    assert results["done"]["parts"] == 3
    assert results["done"]["states"] == ["COMPLETED"] * 3


def test_a_part_that_dies_leaves_the_one_before(results: dict[str, Any]) -> None:
    walk = WalkDocument.model_validate(results["died"]["seen"])
    assert (walk.status, walk.step, walk.n_parts) == ("TIMED_OUT", 10, 1)
    assert walk.restart() is not None
    assert results["died"]["states"] == ["COMPLETED", "FIZZLED"]


def test_restart_files_do_not_travel_in_specs(results: dict[str, Any]) -> None:
    assert [r["restart_in_spec"] for r in results.values()] == [False, False]


if __name__ == "__main__":
    main()
