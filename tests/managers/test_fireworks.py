"""
The loop under FireWorks, unchanged, without a MongoDB server.

A process of its own runs the campaigns, because FireWorks and jobflow read their configuration
once, when they are imported: this file is also that process' script.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from own_process import run_script, stores_on_server, write_jobflow_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobflow import Flow

MONGO_URI = os.environ.get("MLIP_AUTOPIPEC_TEST_MONGO_URI")
LARGEST_SPEC_BYTES = 200_000

pytestmark = pytest.mark.skipif(find_spec("fireworks") is None, reason="fireworks is not installed (extra 'fireworks')")


def campaigns() -> dict[str, Flow]:
    """What is run; by name."""
    from ase.build import bulk

    from mlip_autopipec.jobs.train import TrainMaker
    from mlip_autopipec.testing import (
        Halt,
        ScriptedDynamicsMaker,
        StandInOracleMaker,
        StandInTrainer,
        stand_in_loop,
    )

    halts = [Halt(step=100), Halt(step=200, walker=1)]
    copper = bulk("Cu", cubic=True) * (3, 3, 3)
    events = str(Path("converges.log").resolve())
    return {
        "converges": stand_in_loop(events, dynamics_maker=ScriptedDynamicsMaker(halts=halts)).make(copper, [300, 600]),
        "a label fails and MD crashes": stand_in_loop(
            dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100, crashes=1)]),
            oracle_maker=StandInOracleMaker(failing=["c002 001"]),
        ).make(copper, 300),
        "the second training dies": stand_in_loop(
            dynamics_maker=ScriptedDynamicsMaker(halts=halts),
            train_maker=TrainMaker(trainer=StandInTrainer(failing=["train c001"])),
        ).make(copper, [300, 600]),
        "no label succeeds": stand_in_loop(oracle_maker=StandInOracleMaker(failing=["label"], reuse_labels=False)).make(
            copper, 300
        ),
    }


def campaigns_of_programs() -> dict[str, Flow]:
    """What is run after these, as it imports atomate2 and what fits."""
    from ase.build import bulk

    from mlip_autopipec.jobs.static import CalculatorStaticMaker
    from mlip_autopipec.jobs.teach import TeachMaker
    from mlip_autopipec.jobs.train import TrainMaker
    from mlip_autopipec.testing import stand_in_loop

    no_file = {"potential": "no-such-file.alloy"}
    teacher = CalculatorStaticMaker(calculator_class="ase.calculators.eam.EAM", calculator_kwargs=no_file)
    loop = stand_in_loop(train_maker=TrainMaker(), teach_maker=TeachMaker(static_maker=teacher))
    return {"the teacher fails": loop.make(bulk("Cu", cubic=True) * (3, 3, 3), 300)}


def flows() -> Iterator[tuple[str, Flow]]:
    """Yield all campaigns by name, and write down between the two kinds what was imported."""
    yield from campaigns().items()
    Path("imported.json").write_text(json.dumps(list(sys.modules)))
    yield from campaigns_of_programs().items()


def main() -> None:
    """Run all campaigns in the current folder and write down what became of them."""
    from fireworks import FWorker, LaunchPad
    from fireworks.core.rocket_launcher import rapidfire
    from jobflow import SETTINGS
    from jobflow.managers.fireworks import flow_to_workflow

    name = os.environ["TEST_DATABASE"]
    pad = LaunchPad(host=MONGO_URI, name=name, uri_mode=True) if MONGO_URI else LaunchPad(name=name)
    pad.reset("", require_password=False)
    store = SETTINGS.JOB_STORE
    results: dict[str, Any] = {}
    try:
        for title, flow in flows():
            ids = pad.add_wf(flow_to_workflow(flow))
            rapidfire(pad, FWorker(), nlaunches=0, sleep_time=0, strm_lvl="CRITICAL")
            workflow = pad.get_wf_by_fw_id(next(iter(ids.values())))
            store.connect()
            final = store.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1}, load=True)
            results[title] = {
                "state": workflow.state,
                "jobs": {f.name: f.state for f in workflow.fws},
                "largest_spec": max(len(json.dumps(f.to_db_dict()["spec"], default=str)) for f in workflow.fws),
                "document": None if final is None else final["output"],
            }
    finally:
        if MONGO_URI:
            pad.connection.drop_database(name)
    Path("results.json").write_text(json.dumps(results, default=str))


def run_campaigns(folder: Path, *, mongo: bool) -> dict[str, Any]:
    database = f"mlip_autopipec_test_{uuid.uuid4().hex[:8]}"
    if mongo:
        stores = stores_on_server(str(MONGO_URI), database)
    else:
        (folder / "mongomock.json").write_text("{}")
        (folder / "store").mkdir()
        documents, data = (
            {"type": "MontyStore", "collection_name": name, "database_path": str(folder / "store")}
            for name in ("documents", "data")
        )
        stores = {"docs_store": documents, "additional_stores": {"data": data}}
    file = write_jobflow_yaml(folder, stores)
    environment = {**os.environ, "JOBFLOW_CONFIG_FILE": str(file), "TEST_DATABASE": database}
    environment.pop("MLIP_AUTOPIPEC_TEST_MONGO_URI", None)
    environment |= (
        {"MLIP_AUTOPIPEC_TEST_MONGO_URI": str(MONGO_URI)}
        if mongo
        else {"MONGOMOCK_SERVERSTORE_FILE": str(folder / "mongomock.json")}
    )
    return run_script(__file__, folder, environment, timeout=600)


# Where there is a server, its campaigns are the short relative
FILE = pytest.param("file", marks=pytest.mark.long if MONGO_URI else ())


@pytest.fixture(scope="module", params=[FILE, "server"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    mongo = request.param == "server"
    if mongo and not MONGO_URI:
        pytest.skip("no MongoDB server: set MLIP_AUTOPIPEC_TEST_MONGO_URI to its address, or use .ci/run")
    if not mongo and find_spec("mongomock_persistence") is None:
        pytest.skip("mongomock_persistence is not installed (pip install 'fireworks[mongomock]')")
    return run_campaigns(tmp_path_factory.mktemp("fireworks"), mongo=mongo)


def test_converges(results: dict[str, Any]) -> None:
    result = results["converges"]
    assert result["document"]["status"] == "CONVERGED"
    assert result["document"]["n_cycles"] == 2
    assert result["document"]["n_halts"] == 3
    assert result["state"] == "COMPLETED"
    assert set(result["jobs"].values()) == {"COMPLETED"}
    assert result["document"]["potential"]["payload"]["yaml"]


def test_order_of_events(results: dict[str, Any]) -> None:
    """Independent jobs may swap places; steps of the loop may not."""
    events = (Path(results["folder"]) / "converges.log").read_text().splitlines()
    steps = [event.split()[0] for event in events]
    assert steps[:4] == ["label", "label", "label", "train"]
    assert sorted(events[4:8]) == ["halt w0 100", "halt w1 100", "start w0 0", "start w1 0"]
    assert sorted(events[8:10]) == ["propose w0", "propose w1"]
    assert steps[10:16] == ["select", "label", "label", "label", "label", "train"]
    assert sorted(events[16:20]) == ["finish w0 10000", "halt w1 200", "restart w0 100", "restart w1 100"]
    assert steps[20:] == ["propose", "select", "label", "label", "label", "label", "train", "restart", "finish"]


def test_failures_do_not_stop_it(results: dict[str, Any]) -> None:
    result = results["a label fails and MD crashes"]
    assert result["document"]["status"] == "CONVERGED"
    assert result["document"]["n_failed_labels"] == 1
    assert result["jobs"]["explore c000 w00"] == "FIZZLED"
    assert result["jobs"]["assess c000"] == "COMPLETED"


def test_a_training_that_dies_ends_it(results: dict[str, Any]) -> None:
    """No job is left waiting for one that died, and the last good potential is in the document."""
    result = results["the second training dies"]
    assert result["document"]["status"] == "FAILED"
    assert "'train' of cycle 1" in result["document"]["why"]
    assert result["document"]["potential"]["cycle"] == 0
    assert result["jobs"]["train c001"] == "FIZZLED"
    assert set(result["jobs"].values()) == {"COMPLETED", "FIZZLED"}


def test_an_oracle_that_fails_ends_it(results: dict[str, Any]) -> None:
    result = results["no label succeeds"]
    assert result["document"]["status"] == "ORACLE_FAILING"
    assert set(result["jobs"].values()) == {"COMPLETED"}


def test_a_teacher_that_fails_ends_it_before_the_labels(results: dict[str, Any]) -> None:
    result = results["the teacher fails"]
    assert result["document"]["status"] == "FAILED"
    assert "the teacher has not come" in result["document"]["why"]
    assert "no-such-file.alloy" in result["document"]["why"]
    assert result["document"]["n_labels"] == 0
    assert result["jobs"]["teach label c000"] == "FIZZLED"
    assert set(result["jobs"].values()) == {"COMPLETED", "FIZZLED"}
    assert not any(name.startswith("label c") for name in result["jobs"])


def test_specs_are_small(results: dict[str, Any]) -> None:
    """MongoDB refuses 16 MB; 108 atoms are nowhere near, as structures travel by id."""
    sizes = {title: result["largest_spec"] for title, result in results.items() if title != "folder"}
    assert max(sizes.values()) < LARGEST_SPEC_BYTES, sizes


def test_a_worker_imports_no_program_it_does_not_run(results: dict[str, Any]) -> None:
    """atomate2's documents and what draws plots take longer to import than all the rest."""
    imported = set(json.loads((Path(results["folder"]) / "imported.json").read_text()))
    assert "mlip_autopipec.flows.otf" in imported
    assert not {"emmet.core.tasks", "atomate2.vasp.jobs.base", "matplotlib.pyplot", "tensorflow"} & imported


if __name__ == "__main__":
    main()
