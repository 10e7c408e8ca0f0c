"""Labels are never bought twice: keys of calculations, and references to the labels there are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, is_dataclass, replace
from dataclasses import fields as dataclass_fields
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from atomate2.ase.jobs import LennardJonesStaticMaker
from atomate2.cp2k.jobs.core import StaticMaker as Cp2kStaticMaker
from jobflow import CURRENT_JOB, Flow, JobStore, run_locally
from maggma.stores import GridFSStore, MemoryStore, MongoURIStore
from pymatgen.core import SETTINGS
from pymongo import MongoClient
from vasp_stand_in.potcars import make_believe_potcar

from mlip_autopipec.database.disk import open_store
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.jobs import reuse
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.oracle.identity import canonical_form, label_key
from mlip_autopipec.oracle.record import NOT_PHYSICS, OracleRecord, maker_record
from mlip_autopipec.oracle.vasp import isolated_atom_maker, vasp_static_maker
from mlip_autopipec.schemas.label import LabelBatch, LabelDocument
from mlip_autopipec.testing import (
    Halt,
    ScriptedDynamicsMaker,
    StandInOracleMaker,
    read_events,
    stand_in_loop,
)

MONGO_URI = os.environ.get("MLIP_AUTOPIPEC_TEST_MONGO_URI")
EMT = OracleRecord.of("EMT", {})


@pytest.fixture
def alloy() -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.symbols[[0, 5, 11]] = "Au"
    shear = np.array([[0, 0.3, 0.1], [0.2, 0, 0], [0.1, 0.2, 0.4]])
    atoms.set_cell(atoms.cell.array + shear, scale_atoms=True)
    atoms.rattle(0.1, seed=4)
    return atoms


@dataclass
class FunctionalStaticMaker(EMTStaticMaker):
    """As makers of other packages may be: its level of theory has a name that sounds like a technicality."""

    run_type: str = "PBE"
    copy_charges: bool = False
    write_basis: str = "DZVP"


def key_with(maker, atoms):
    return OracleMaker(static_maker=maker).key_of(atoms)


@pytest.mark.parametrize("other", [{"run_type": "SCAN"}, {"copy_charges": True}, {"write_basis": "TZVP"}])
def test_another_level_of_theory_has_another_key(alloy, other):
    assert key_with(FunctionalStaticMaker(), alloy) != key_with(FunctionalStaticMaker(**other), alloy)
    assert key_with(FunctionalStaticMaker(), alloy) == key_with(FunctionalStaticMaker(name="x", tags=["y"]), alloy)


@dataclass
class ShiftedStaticMaker(CalculatorStaticMaker):
    """Does something of its own with the calculator of its parent."""

    def _get_calculator(self):
        calculator = super()._get_calculator()
        calculator.parameters["epsilon"] = 2.0
        return calculator


def test_a_maker_that_derives_from_another_has_a_key_of_its_own(alloy):
    settings = {"calculator_class": "ase.calculators.lj.LennardJones", "calculator_kwargs": {"rc": 9.0}}
    plain, derived = CalculatorStaticMaker(**settings), ShiftedStaticMaker(**settings)
    assert key_with(plain, alloy) != key_with(derived, alloy)
    assert maker_record(derived).code == maker_record(plain).code
    assert "ShiftedStaticMaker" in str(maker_record(plain).conflicts(maker_record(derived)))
    copper = bulk("Cu", cubic=True)  # as in version 0.1.0
    copper.positions += np.array([[0.01, 0, 0], [0, 0, 0], [0, 0.02, 0], [0, 0, 0]])
    assert key_with(plain, copper) == "9da3040dce340a9cb4d6da208ef2a5104345e8bc3ba80397c83e5e6d5cc1e79b"


def test_settings_by_element_conflict_where_both_have_the_element():
    """Of a campaign with U, cells of other elements were said to be computed with other settings."""
    oxide, iron = (OracleRecord.of("VASP", {"LDAUU": u}) for u in ({"Fe": 5.3, "O": 0.0}, {"Fe": 5.3}))
    assert oxide.conflicts(iron) == []
    other = OracleRecord.of("VASP", {"LDAUU": {"Fe": 4.0}})
    assert oxide.conflicts(other) == ["LDAUU: {'Fe': 5.3, 'O': 0.0} and {'Fe': 4.0}"]
    # settings that are no elements have to be the same
    first, second = (OracleRecord.of("ASE", {"input_data": data}) for data in ({"ecutwfc": 60}, {}))
    assert len(first.conflicts(second)) == 1


def test_what_is_written_beside_the_input_is_in_the_key(alloy):
    plain = Cp2kStaticMaker()
    override = {"cp2k_job_kwargs": {"settings_override": [{"dict": "cp2k", "action": {"_set": {"FORCE_EVAL": {}}}}]}}
    others = [
        replace(plain, run_cp2k_kwargs=override),
        replace(plain, write_additional_data={"extra:inc": "&SCF"}),
    ]
    assert len({key_with(maker, alloy) for maker in [plain, *others]}) == 3
    same = replace(plain, run_cp2k_kwargs={"cp2k_cmd": "srun cp2k.psmp", "cp2k_job_kwargs": {"suffix": ".x"}})
    assert key_with(same, alloy) == key_with(plain, alloy)


def test_what_is_not_physics_names_fields_that_there_are():
    for path, names in NOT_PHYSICS.items():
        module, _, cls = path.rpartition(".")
        if any(f".{code}." in path for code in ("abinit", "aims")):  # need packages that are not installed here
            continue
        maker = getattr(import_module(module), cls)
        fields = {field.name for field in dataclass_fields(maker)} if is_dataclass(maker) else set()
        assert names & fields, path


def test_the_contents_of_pseudopotentials_are_in_the_key(tmp_path, monkeypatch):
    silicon = bulk("Si")
    maker = EspressoStaticMaker(pseudopotentials={"Si": "Si.upf", "O": "O.upf"}, input_data={"system": {"ecutwfc": 30}})
    oracle = OracleMaker(static_maker=maker)
    (by_name,) = oracle.keys_of(silicon)  # no file on this machine
    monkeypatch.setenv("MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR", str(tmp_path))
    keys = []
    for content in ("norm-conserving", "ultrasoft"):
        (tmp_path / "Si.upf").write_text(content)
        keys.append(oracle.keys_of(silicon))
    assert keys[0][0] != keys[1][0]
    assert [key[1:] for key in keys] == [[by_name], [by_name]]  # what 0.1.0 called it
    assert "Si.upf" in oracle.asked(silicon).potentials.get("Si", "Si.upf")


def test_the_contents_of_a_model_file_are_in_the_key(alloy, tmp_path):
    model = tmp_path / "model.pth"
    keys = []
    for content in ("one", "another"):
        model.write_text(content)
        maker = CalculatorStaticMaker(calculator_class="a.Calculator", calculator_kwargs={"model": str(model)})
        keys.append(key_with(maker, alloy))
    assert keys[0] != keys[1]


def permuted(atoms):
    return atoms[np.random.default_rng(1).permutation(len(atoms))]


def shifted_by_cells(atoms):
    moved = atoms.copy()
    moved.positions += np.random.default_rng(2).integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    return moved


def rotated(atoms):
    moved = atoms.copy()
    moved.rotate(37, (1, 2, 3), rotate_cell=True)
    return moved


@pytest.mark.parametrize("change", [permuted, shifted_by_cells, rotated])
def test_the_same_structure_has_one_key(alloy, change):
    assert label_key(change(alloy), EMT) == label_key(alloy, EMT)


def displaced(atoms):
    moved = atoms.copy()
    moved.positions[3, 1] += 1e-4
    return moved


def strained(atoms):
    moved = atoms.copy()
    moved.set_cell(moved.cell.array * (1 + 1e-5), scale_atoms=True)
    return moved


def swapped(atoms):
    moved = atoms.copy()
    moved.symbols[[0, 1]] = moved.symbols[[1, 0]]
    return moved


def in_vacuum(atoms):
    moved = atoms.copy()
    moved.pbc = [True, True, False]
    return moved


def translated(atoms):
    moved = atoms.copy()
    moved.positions += [0.1, 0, 0]
    return moved


@pytest.mark.parametrize("change", [displaced, strained, swapped, in_vacuum, translated])
def test_another_calculation_has_another_key(alloy, change):
    assert label_key(change(alloy), EMT) != label_key(alloy, EMT)


def test_round_positions_and_cells_survive_rounding():
    """Special positions lie where rounding must not change by the last bit: 1/3, 1/2, 1/128, and 0 as 1 - 1e-17."""
    for n in (2, 3, 64, 128):
        atoms = Atoms("Cu2", scaled_positions=[[0, 0, 0], [1 / n, 0.5, -1 / n]], cell=[3.61, 4.0, 5.12], pbc=True)
        noisy = atoms.copy()
        noisy.positions += np.random.default_rng(n).normal(0, 1e-14, (2, 3))
        noisy.cell[:] += np.random.default_rng(n).normal(0, 1e-14, (3, 3))
        assert canonical_form(noisy) == canonical_form(atoms)


def test_molecules_without_a_cell():
    water = molecule("H2O")
    assert label_key(permuted(water), EMT) == label_key(water, EMT)
    assert label_key(molecule("CH4"), EMT) != label_key(water, EMT)


def key(maker, atoms):
    return OracleMaker(static_maker=maker).key_of(atoms)


def test_settings_of_vasp(alloy):
    """What decides the result is in the key; parallelisation, custodian and the command are not."""
    mine = key(vasp_static_maker(), alloy)
    same = [{"incar": {"NCORE": 8, "KPAR": 2}}, {"incar": {"encut": "680"}}, {"run_vasp": {"vasp_cmd": "srun vasp"}}]
    other = [
        {"incar": {"ENCUT": 520}},
        {"incar": {"KSPACING": 0.3}},
        {"incar": {"MAGMOM": {"Cu": -1.0}}},
        {"potcar": {"Cu": "Cu"}},
        {"potcar_functional": "PBE_54"},
    ]
    assert {key(vasp_static_maker(**settings), alloy) for settings in same} == {mine}
    keys = {key(vasp_static_maker(**settings), alloy) for settings in other}
    assert len(keys) == len(other)
    assert mine not in keys
    assert key(vasp_static_maker(), permuted(alloy)) == mine
    maker = vasp_static_maker()
    before = maker.as_dict()["input_set_generator"]["structure"]
    key(maker, alloy)
    assert maker.as_dict()["input_set_generator"]["structure"] == before, "the maker holds the structure from now on"


def test_what_a_potcar_holds_is_in_the_key(alloy, tmp_path, monkeypatch):
    """Two releases have POTCARs of one name; labels of the name alone are found as before."""
    oracle = OracleMaker(static_maker=vasp_static_maker())
    by_name = oracle.keys_of(alloy)
    assert len(by_name) == 1
    keys = set()
    for part in ("one", "two"):
        folder = tmp_path / part / "POT_PAW_PBE_64"
        folder.mkdir(parents=True)
        for symbol in ("Cu_pv", "Au"):
            title = "Cu" if symbol == "Cu_pv" else "Au"
            (folder / f"POTCAR.{symbol}").write_text(make_believe_potcar(title, symbol) + f"\n{part}\n")
        monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / part))
        found = oracle.keys_of(alloy)
        assert found[1:] == by_name
        keys.add(found[0])
    assert len(keys) == 2
    assert by_name[0] not in keys


@pytest.mark.parametrize(
    ("stress", "settings", "usable"),
    [
        (None, {}, False),
        ([0.0] * 6, {}, False),
        ([0.1, 0.1, 0.1, 0, 0, 0], {}, False),
        ([0.1, 0.1, 0.12, 0, 0, 0], {}, True),
        (None, {"ISIF": 0}, True),
    ],
)
def test_labels_of_isif_0_and_1_of_version_0_1_0_are_not_taken_for_isif_2(memory_jobstore, stress, settings, usable):
    record = OracleRecord.of("VASP", {"ENCUT": 680, **settings})
    atoms = bulk("Cu", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.full((4, 3), 0.1))
    label = LabelDocument.from_labelled(atoms, uuid="u", index=0, origin="halted", key="k", computed_with=record)
    label.stress_eV_A3 = stress
    memory_jobstore.connect()
    memory_jobstore.update({"uuid": "u", "index": 1, "output": label.model_dump(mode="json")}, key=["uuid", "index"])
    monkey = pytest.MonkeyPatch()
    monkey.setattr(reuse, "current_store", lambda: memory_jobstore)
    found = reuse.find_labels(["k"])
    monkey.undo()
    assert bool(found) is usable


def test_atoms_have_their_own_settings():
    atom = Atoms("Cu", cell=[12, 13, 14], pbc=True, info={"origin": "isolated_atom"})
    oracle = OracleMaker(static_maker=vasp_static_maker(), atom_maker=isolated_atom_maker())
    as_crystal = Atoms("Cu", cell=[12, 13, 14], pbc=True)
    assert oracle.key_of(atom) != oracle.key_of(as_crystal)


def test_settings_of_other_makers(alloy):
    assert key(EMTStaticMaker(), alloy) == key(EMTStaticMaker(name="another name"), alloy)
    assert key(EMTStaticMaker(), alloy) != key(LennardJonesStaticMaker(), alloy)
    wider = LennardJonesStaticMaker(calculator_kwargs={"rc": 9.0})
    assert maker_record(wider).sha256 != maker_record(LennardJonesStaticMaker()).sha256


@pytest.fixture
def run(memory_jobstore, tmp_path):
    def run(flow):
        run_locally(flow, store=memory_jobstore, create_folders=True, root_dir=tmp_path, log=False)
        return memory_jobstore.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1})["output"]

    return run


def two_halts(events, **makers):
    dynamics = ScriptedDynamicsMaker(halts=[Halt(step=100), Halt(step=200)])
    maker = stand_in_loop(events, dynamics_maker=dynamics, **makers)
    maker.oracle_maker.physics = "emt"
    return maker


def test_a_second_campaign_buys_nothing(run, memory_jobstore, events, caplog):
    """Its documents refer to the labels of the first; datasets and potentials are the same."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    first = run(two_halts(events).make(atoms, 300, campaign_id="first"))
    bought = read_events(events).count("label")
    assert bought == first["n_labels"] == 11
    with caplog.at_level("INFO", logger="mlip_autopipec.jobs.label"):
        second = run(two_halts(events).make(atoms, 300, campaign_id="second"))
    lines = [record.getMessage() for record in caplog.records if "already" in record.getMessage()]
    assert lines[0] == f"{bought - 2 * 4} of {bought - 2 * 4} labels of cycle 0 are in the database already"
    assert len(lines) == 3, "one line for each cycle, not for each label"
    assert read_events(events).count("label") == bought
    assert (second["status"], second["n_labels"], second["n_reused_labels"]) == ("CONVERGED", bought, bought)
    mine, theirs = (read_labels(name, store=memory_jobstore) for name in ("second", "first"))
    for a, b in zip(mine, theirs, strict=True):
        assert (a.reused_from, a.key) == (b.uuid, b.key)
        assert (a.campaign_id, a.cycle, a.index, a.walker, a.origin) == ("second", b.cycle, b.index, b.walker, b.origin)
        assert a.to_atoms() == b.to_atoms()
        assert np.array_equal(a.to_atoms().get_forces(), b.to_atoms().get_forces())
        assert a.computed_with == b.computed_with
    names = memory_jobstore.query({"output.campaign_id": "second", "output.kind": "label"}, ["name", "output"])
    for doc in names:
        assert doc["name"].startswith("reuse c0")
        assert doc["output"]["forces_eV_A"] is None
        assert doc["output"]["atoms"] is None
        assert doc["output"]["energy_eV"] is not None
    third = run(two_halts(events).make(atoms, 300, campaign_id="third"))
    assert third["n_reused_labels"] == bought
    origins = {label.reused_from for label in read_labels("third", store=memory_jobstore)}
    assert origins == {label.uuid for label in theirs}, "a reference refers to a reference"


def test_off_by_option(run, events):
    for name in ("first", "second"):
        flow = two_halts(events, oracle_maker=StandInOracleMaker(reuse_labels=False)).make(
            bulk("Cu", cubic=True), 300, campaign_id=name
        )
        assert run(flow)["n_reused_labels"] == 0
    assert read_events(events).count("label") == 22


def test_failed_labels_are_tried_again(run, events):
    atoms = bulk("Cu", cubic=True)
    failing = StandInOracleMaker(failing=["label c001 000"])
    assert run(two_halts(events, oracle_maker=failing).make(atoms, 300, campaign_id="first"))["n_failed_labels"] == 1
    second = run(two_halts(events).make(atoms, 300, campaign_id="second"))
    assert second["n_failed_labels"] == 0
    assert second["n_reused_labels"] < second["n_labels"]


def test_a_label_that_vanished_is_told(run, memory_jobstore, events):
    atoms = bulk("Cu", cubic=True)
    run(two_halts(events).make(atoms, 300, campaign_id="first"))
    run(two_halts(events).make(atoms, 300, campaign_id="second"))
    lost = read_labels("first", store=memory_jobstore)[4].uuid
    memory_jobstore.remove_docs({"uuid": lost})
    with pytest.raises(MLIPError, match=lost):
        read_labels("second", store=memory_jobstore)


def test_a_batch_counts_what_it_reused(run, memory_jobstore, events):
    for name in ("first", "second"):
        run(two_halts(events).make(bulk("Cu", cubic=True), 300, campaign_id=name))
    criteria = {"output.kind": "labels", "output.campaign_id": "second"}
    batches = [LabelBatch.model_validate(d["output"]) for d in memory_jobstore.query(criteria, ["output"])]
    assert all(batch.n_reused == batch.n_labelled == batch.n_asked for batch in batches)


@pytest.fixture(params=["disk", "server"])
def shared_store(request, monkeypatch, tmp_path):
    """A JobStore of a real server, or on disk, as the one the present job runs in, and a job."""
    if request.param == "disk":
        store = open_store(tmp_path / "store")
        monkeypatch.setattr(CURRENT_JOB, "store", store)
        yield store
        store.close()
        return
    if not MONGO_URI:
        pytest.skip("no MongoDB server: set MLIP_AUTOPIPEC_TEST_MONGO_URI to its address, or use .ci/run")
    name = f"mlip_autopipec_test_{uuid.uuid4().hex[:8]}"
    documents, data = MongoURIStore(MONGO_URI, "documents", database=name), GridFSStore(name, "data", host=MONGO_URI)
    store = JobStore(documents, additional_stores={"data": data})
    documents.connect()
    monkeypatch.setattr(CURRENT_JOB, "store", store)
    yield store
    MongoClient(MONGO_URI).drop_database(name)


def put(store, label_key, job="the job"):
    label = LabelDocument(uuid=job, key=label_key, index=0, state="successful", origin="seed", energy_eV=-1.0)
    store.docs_store.update([{"uuid": job, "index": 1, "output": label.model_dump(mode="json")}], key=["uuid", "index"])


def claims_here():
    """Return the claims on labels in the store of the running job."""
    return reuse.collection_beside(reuse.current_store(), reuse.CLAIMS)


def test_who_comes_second_waits_for_the_label(shared_store, monkeypatch):
    monkeypatch.setattr(reuse, "LOOK_S", 0.05)
    order = []

    def ask(name, started):
        with reuse.claimed("k") as existing:
            started.set()
            if existing is None:
                time.sleep(0.3)
                order.append(f"{name} computes")
        if existing is None:
            put(shared_store, "k", name)
        else:
            order.append(f"{name} takes that of {existing.uuid}")

    threads, begun = [], [threading.Event(), threading.Event()]
    for name, started in zip(("first", "second"), begun, strict=True):
        threads.append(threading.Thread(target=ask, args=(name, started)))
        threads[-1].start()
        if name == "first":
            assert started.wait(10)
    for thread in threads:
        thread.join(20)
    assert order == ["first computes", "second takes that of first"]
    assert len(list(claims_here().find())) == 1
    reuse.release([LabelDocument(uuid=reuse.current_uuid(), key="k", index=0, state="successful", origin="seed")])
    assert len(list(claims_here().find())) == 0


def test_a_failure_leaves_the_label_to_others(shared_store):
    with pytest.raises(ValueError, match="no"), reuse.claimed("k") as existing:  # noqa: PT012
        assert existing is None
        raise ValueError("no")
    with reuse.claimed("k") as existing:
        assert existing is None


def test_a_claim_of_a_killed_process_is_taken_over(shared_store):
    """The same machine: at once. Elsewhere: after a time without a sign of life."""
    documents = shared_store.docs_store
    opened = (
        f"open_store({str(Path(documents.path).parent)!r})"
        if hasattr(documents, "path")
        else f"JobStore(MongoURIStore({MONGO_URI!r}, 'documents', database={documents.database!r}))"
    )
    script = (
        "import sys, time; from jobflow import CURRENT_JOB, JobStore; from maggma.stores import MongoURIStore;"
        "from mlip_autopipec.database.disk import open_store; from mlip_autopipec.jobs import reuse;"
        f"store = {opened};"
        "store.connect(); CURRENT_JOB.store = store; context = reuse.claimed('k');"
        "assert context.__enter__() is None; print('mine', flush=True); time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with reuse.claimed("k") as existing:
        assert existing is None


def test_a_claim_without_a_sign_of_life_is_taken_over(shared_store, monkeypatch):
    monkeypatch.setattr(reuse, "LOOK_S", 0.05)
    monkeypatch.setattr(reuse, "DEAD_S", 0.5)
    elsewhere = {"_id": "k", "owner": "x", "host": "another machine", "pid": 1, "job": "j", "beat": 3}
    claims_here().insert_one(elsewhere)
    started = time.monotonic()
    with reuse.claimed("k") as existing:
        assert existing is None
    assert time.monotonic() - started >= 0.5


def test_a_sign_of_life_keeps_a_claim(shared_store, monkeypatch):
    monkeypatch.setattr(reuse, "BEAT_S", 0.05)
    with reuse.claimed("k"):
        beat = claims_here().find_one({"_id": "k"})["beat"]
        deadline = time.monotonic() + 10
        while claims_here().find_one({"_id": "k"})["beat"] <= beat:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_one_label_of_two_campaigns_in_a_server(shared_store, tmp_path, events):
    claims = claims_here()
    flows = [two_halts(events).make(bulk("Cu", cubic=True), 300, campaign_id=name) for name in ("first", "second")]
    run_locally(Flow(flows), store=shared_store, create_folders=True, root_dir=tmp_path, log=False)
    assert read_events(events).count("label") == 11
    assert len(read_labels("second", store=shared_store)) == 11
    assert len(list(claims.find())) == 0


@pytest.mark.parametrize("own", [{"state": "failed", "reason": "no"}, {"state": "successful", "energy_eV": -1.0}])
def test_a_claim_of_another_campaign_stays(shared_store, own):
    """Another campaign's job failed at the same key, or computed it with reuse off, while this one computes it."""
    with reuse.claimed("k") as existing:
        assert existing is None
        reuse.release([LabelDocument(uuid="job of another campaign", key="k", index=0, origin="seed", **own)])
        assert len(list(claims_here().find())) == 1


def test_a_campaign_without_reuse_leaves_the_claims_of_others(shared_store, tmp_path, events):
    """DFT is paid once by those who share: the claims of one campaign outlive another that shares nothing."""
    claims = claims_here()
    loop = two_halts(events)
    alone = replace(loop, oracle_maker=replace(loop.oracle_maker, reuse_labels=False))
    run_locally(
        alone.make(bulk("Cu", cubic=True), 300, campaign_id="first"), store=shared_store, root_dir=tmp_path, log=False
    )
    keys = [label.key for label in read_labels("first", store=shared_store)]
    shared_store.docs_store.remove_docs({"output.kind": "label"})
    for key in keys:
        claims.insert_one({"_id": key, "owner": "x", "host": "far", "pid": 1, "job": "other", "beat": 0})
    run_locally(
        alone.make(bulk("Cu", cubic=True), 300, campaign_id="second"), store=shared_store, root_dir=tmp_path, log=False
    )
    assert [label.key for label in read_labels("second", store=shared_store)] == keys
    assert [claim["job"] for claim in claims.find()] == ["other"] * len(keys)
    assert keys


def test_memory_is_of_one_process(monkeypatch):
    store = JobStore(MemoryStore())
    store.connect()
    monkeypatch.setattr(CURRENT_JOB, "store", store)
    assert claims_here() is None
