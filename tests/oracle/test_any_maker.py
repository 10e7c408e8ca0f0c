"""Static makers of atomate2 by name: the real ones, with what runs without torch."""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from atomate2.ase.jobs import AseMaker, GFNxTBStaticMaker, LennardJonesStaticMaker
from atomate2.forcefields.jobs import ForceFieldStaticMaker
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.any_maker import make_static_maker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.run_oracle import check_makes_labels
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.oracle.extract import extract_label
from mlip_autopipec.oracle.identity import label_key
from mlip_autopipec.oracle.record import maker_record
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.runfile.starts import started_by, started_by_environment

if TYPE_CHECKING:
    from pathlib import Path

FORCE_FIELD = "atomate2.forcefields.jobs.ForceFieldStaticMaker"
EMT_BY_NAME = {"@module": "ase.calculators.emt", "@callable": "EMT"}


class Energies(AseMaker):
    """What the docstring of AseMaker shows."""

    def _get_calculator(self) -> EMT:
        return EMT()


def run_file(folder: Path, maker: dict[str, Any], **sections: Any) -> RunFile:
    path = folder / "run.yaml"
    content = {
        "name": "by-name",
        "structures": [{"bulk": {"name": "Cu", "cubic": True}}],
        "conditions": [{"temperature_K": 300}],
        "oracle": {"kind": "atomate2", "maker": maker},
    }
    path.write_text(yaml.safe_dump(content | sections))
    return RunFile.load(path)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # atomate2's makers leave a file


@pytest.fixture
def _default_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the two functions of torch that atomate2's force field makers call whatever the calculator."""
    try:
        import torch  # noqa: F401
    except ImportError:
        stand_in = ModuleType("torch")
        stand_in.get_default_dtype = lambda: None  # type: ignore[attr-defined]
        stand_in.set_default_dtype = lambda _: None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torch", stand_in)


@pytest.mark.usefixtures("_default_dtype")
def test_a_force_field_maker_labels_as_the_calculator_does() -> None:
    maker = make_static_maker(FORCE_FIELD, {"force_field_name": EMT_BY_NAME})
    assert isinstance(maker, ForceFieldStaticMaker)
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    job = maker.make(AseAtomsAdaptor.get_structure(atoms))
    label = extract_label(run_locally(job, ensure_success=True)[job.uuid][1].output)
    atoms.calc = EMT()
    assert label.atoms.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert np.abs(label.atoms.get_forces() - atoms.get_forces()).max() < 1e-9
    assert np.abs(label.atoms.get_stress(voigt=False) - atoms.get_stress(voigt=False)).max() < 1e-9
    assert label.energy_kind == "potential_energy"


@pytest.mark.usefixtures("_default_dtype")
def test_a_campaign_by_a_run_file_labels_and_says_with_what(tmp_path: Path) -> None:
    run = run_file(
        tmp_path,
        {"maker_class": FORCE_FIELD, "maker_kwargs": {"force_field_name": EMT_BY_NAME}},
        trainer={"kind": "linear", "basis": {"number_of_functions_per_element": 8, "cutoff": 4.0}},
        first_dataset={"n_structures": 4, "n_test": 1},
        dynamics={"n_steps": 10, "engine": "library", "gamma_hi": 1e6, "gamma_lo": 1e5},
        stop={"n_check_labels": 0, "prove": False},
    )
    assert any("maker_class" in line for line in started_by(run))
    assert any("@module" in line for line in started_by(run))
    assert any("atomate2" in line for line in started_by_environment(run))
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    flow = run.flow("by-name")
    run_locally(flow, store=store, create_folders=True, root_dir=tmp_path, ensure_success=True)
    labels = Campaigns(store).labels("by-name")
    assert len(labels) >= 5
    (record,) = Campaigns(store).oracle_records("by-name")
    assert record.code == FORCE_FIELD
    assert record.settings["calculator_meta"] == "ase.calculators.emt.EMT"
    atoms = labels[0].to_atoms()
    energy = atoms.get_potential_energy()
    atoms.calc = EMT()
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-8)


def test_the_key_is_that_of_the_maker_in_python_and_depends_on_its_fields() -> None:
    atoms = bulk("Ar", cubic=True)
    kwargs = {"calculator_kwargs": {"sigma": 3.4, "epsilon": 0.0104}}
    by_name = make_static_maker("atomate2.ase.jobs.LennardJonesStaticMaker", kwargs)
    key = label_key(atoms, maker_record(by_name))
    assert key == label_key(atoms, maker_record(LennardJonesStaticMaker(**kwargs)))
    other = make_static_maker(
        "atomate2.ase.jobs.LennardJonesStaticMaker", {"calculator_kwargs": {"sigma": 3.4, "epsilon": 0.011}}
    )
    assert key != label_key(atoms, maker_record(other))
    assert key != label_key(atoms, maker_record(make_static_maker(FORCE_FIELD, {"force_field_name": EMT_BY_NAME})))
    assert isinstance(make_static_maker("atomate2.ase.jobs.GFNxTBStaticMaker"), GFNxTBStaticMaker)


def test_fields_of_input_sets_are_changed_one_by_one() -> None:
    maker = make_static_maker(
        "atomate2.vasp.jobs.core.StaticMaker", {"input_set_generator": {"user_incar_settings": {"ENCUT": 523}}}
    )
    assert maker.input_set_generator.user_incar_settings == {"ENCUT": 523}
    assert type(maker.input_set_generator).__name__ == "StaticSetGenerator"


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        ({}, "maker_class is missing"),
        ({"maker_class": "os.system"}, "nothing was imported"),
        ({"maker_class": "subprocess.run"}, "nothing was imported"),
        ({"maker_class": "atomate2.forcefields.jobs.NoSuchMaker"}, "cannot be imported"),
        ({"maker_class": "atomate2.forcefields.utils.ase_calculator"}, "not a class of makers"),
        ({"maker_class": 5}, "no import path"),
        ({"maker_class": FORCE_FIELD, "maker_kwargs": {"force_feld": "MACE"}}, "force_feld.*does not take"),
        ({"maker_class": FORCE_FIELD, "maker_kwargs": {"steps": 50}}, "relaxes the structure"),
        ({"maker_class": "atomate2.forcefields.jobs.ForceFieldRelaxMaker"}, "relaxes the structure"),
        (
            {
                "maker_class": FORCE_FIELD,
                "maker_kwargs": {"force_field_name": {"@module": "os", "@callable": "system"}},
            },
            "nothing was imported",
        ),
        (
            {
                "maker_class": FORCE_FIELD,
                "maker_kwargs": {"calculator_kwargs": {"x": [{"@module": "subprocess", "@class": "Popen"}]}},
            },
            "nothing was imported",
        ),
        ({"maker_class": FORCE_FIELD, "maker_kwargs": {"calculator_meta": "os.system"}}, "nothing was imported"),
        ({"maker_class": FORCE_FIELD, "maker_kwargs": {"force_field_name": "os.system"}}, "nothing was imported"),
        (
            {
                "maker_class": "atomate2.vasp.jobs.core.StaticMaker",
                "maker_kwargs": {"input_set_generator": {"user_incar": {}}},
            },
            "user_incar",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, maker: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        run_file(tmp_path, maker)


@pytest.mark.parametrize("section", ["oracle", "teacher"])
@pytest.mark.parametrize(
    ("maker", "message"),
    [
        ({}, "maker.maker_class is missing"),
        (
            {"maker_class": "atomate2.ase.jobs.EMTStaticMakr"},
            "maker.maker_class: 'atomate2.ase.jobs.EMTStaticMakr' cannot be imported: atomate2.ase.jobs has no class",
        ),
        (
            {"maker_class": "atomate2.ase.jobs.LennardJonesStaticMakr"},
            "has no class LennardJonesStaticMakr; did you mean LennardJonesStaticMaker?",
        ),
        ({"maker_class": "atomate2.ase.jobs.LennardJonesRelaxMaker"}, "maker.maker_kwargs.steps is "),
    ],
)
def test_a_refusal_names_the_place_in_the_run_file(
    section: str, maker: dict[str, Any], message: str, tmp_path: Path
) -> None:
    oracle = {"kind": "atomate2", "maker": {"maker_class": "atomate2.ase.jobs.LennardJonesStaticMaker"}}
    with pytest.raises(InvalidInputError, match=r"line \d+, (oracle|teacher)") as told:
        run_file(tmp_path, maker, **{"oracle": oracle, section: {"kind": "atomate2", "maker": maker}})
    assert message in str(told.value)
    assert ("oracle" in str(told.value)) is (section == "oracle")
    if message.startswith("maker"):
        assert f": {section}.{message}" in str(told.value)


@pytest.mark.parametrize(
    ("maker_class", "kwargs", "message"),
    [
        ("atomate2.vasp.flows.phonons.PhononMaker", {}, "PhononMaker.make returns a Flow"),
        ("atomate2.vasp.flows.core.DoubleRelaxMaker", {}, "DoubleRelaxMaker.make returns a Flow"),
        ("atomate2.common.flows.eos.CommonEosMaker", {}, "CommonEosMaker.make fails at once"),
        ("atomate2.ase.jobs.AseMaker", {}, "AseMaker names no calculator"),
        ("atomate2.ase.jobs.AseRelaxMaker", {"steps": 1}, "AseRelaxMaker names no calculator"),
        (FORCE_FIELD, {}, "ForceFieldStaticMaker names no calculator"),
        ("atomate2.ase.md.LennardJonesMDMaker", {"n_steps": 1}, "LennardJonesMDMaker runs 1 steps of MD"),
        ("atomate2.forcefields.md.ForceFieldMDMaker", {"force_field_name": "CHGNet"}, "runs 1000 steps of MD"),
    ],
)
def test_a_maker_that_could_never_label_is_refused(maker_class: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        OracleMaker(static_maker=make_static_maker(maker_class, kwargs)).check(["Cu"])


def test_a_maker_that_keeps_no_forces_is_refused_before_it_computes() -> None:
    with pytest.raises(InvalidInputError, match="Energies keeps no forces"):
        OracleMaker(static_maker=Energies()).check(["Cu"])


@pytest.mark.parametrize(
    ("maker_class", "kwargs"),
    [
        ("atomate2.vasp.jobs.core.StaticMaker", {}),
        ("atomate2.cp2k.jobs.core.StaticMaker", {}),
        ("atomate2.ase.jobs.GFNxTBStaticMaker", {}),
        (FORCE_FIELD, {"force_field_name": EMT_BY_NAME}),
    ],
)
def test_makers_of_single_jobs_are_taken(maker_class: str, kwargs: dict[str, Any]) -> None:
    check_makes_labels(make_static_maker(maker_class, kwargs))


def test_a_force_field_whose_package_is_missing_is_told() -> None:
    maker = OracleMaker(static_maker=make_static_maker(FORCE_FIELD, {"force_field_name": "GAP"}))
    maker.check(["Si"])
    told = [line for line in maker.doubts(["Si"]) if "the package quippy-ase of MLFF.GAP is not installed here" in line]
    assert bool(told) is not bool(list(distributions(name="quippy-ase")))


def test_a_force_field_of_any_calculator_needs_torch() -> None:
    """Each label failed with 'No module named torch', whatever the force field was."""
    maker = OracleMaker(static_maker=make_static_maker(FORCE_FIELD, {"force_field_name": EMT_BY_NAME}))
    told = [line for line in maker.doubts(["Cu"]) if "the package torch" in line]
    assert bool(told) is (find_spec("torch") is None)
    assert not [line for line in OracleMaker(static_maker=EMTStaticMaker()).doubts(["Cu"]) if "torch" in line]


@pytest.mark.parametrize("own", [True, False])
def test_a_method_that_tblite_does_not_know_is_refused(own: bool) -> None:
    def check(method: str) -> None:
        how = {"method": method}
        maker = CalculatorStaticMaker(calculator_class="tblite.ase.TBLite", calculator_kwargs=how)
        OracleMaker(static_maker=maker if own else GFNxTBStaticMaker(calculator_kwargs=how)).check(["Cu"])

    for known in ("GFN1-xTB", "GFN2-xTB", "IPEA1-xTB"):
        check(known)
    with pytest.raises(InvalidInputError, match="method: GFN9, which tblite does not know; give one of GFN1-xTB"):
        check("GFN9")
