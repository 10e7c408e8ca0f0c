"""Settings of Quantum ESPRESSO, ABINIT and CP2K that change what their numbers mean are refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase.build import bulk
from atomate2.cp2k.jobs.core import StaticMaker as Cp2kStaticMaker
from atomate2.cp2k.schemas.task import OutputSummary
from atomate2.cp2k.schemas.task import TaskDocument as Cp2kTaskDocument
from atomate2.cp2k.sets.core import StaticSetGenerator
from paths import ROOT
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker
from mlip_autopipec.oracle.code_settings import ABINIT, CP2K, ESPRESSO, cp2k_settings, refused_settings
from mlip_autopipec.oracle.extract import extract_label

if TYPE_CHECKING:
    from pathlib import Path

    from jobflow import Maker

QE = "ase.calculators.espresso.Espresso"
#: Of each rule: a value that is refused, and settings that are not.
OF_ESPRESSO: dict[str, tuple[Any, dict[str, Any]]] = {
    "calculation": ("vc-relax", {"calculation": "scf"}),
    "conv_thr": ("1.0d-2", {"conv_thr": 1e-6}),
    "electron_maxstep": (1, {"electron_maxstep": 80}),
    "ecutwfc": (5, {"ecutwfc": 30}),
    "scf_must_converge": (False, {"scf_must_converge": True}),
    "tot_charge": (1.0, {"tot_charge": 0.0}),
    "tefield": (True, {"tefield": True, "dipfield": True, "eamp": 0.0, "edir": 3}),
    "lelfield": (True, {"lelfield": False}),
    "b_field": (0.1, {"b_field": 0.0}),
    "gate": (True, {"gate": False}),
    "lfcp": (True, {"lfcp": False}),
    "lfcpopt": (True, {"lfcpopt": False}),
    "lfcpdyn": (True, {"lfcpdyn": ".false."}),
    "constrained_magnetization": ("total", {"constrained_magnetization": "none"}),
    "occupations": ("from_input", {"occupations": "smearing"}),
    "twochem": (True, {"twochem": False}),
    "nextffield": (1, {"nextffield": 0}),
    "lberry": (True, {"lberry": False}),
}
OF_ABINIT: dict[str, tuple[Any, dict[str, Any]]] = {
    "ionmov": (2, {"ionmov": 0}),
    "optcell": (2, {"optcell": 0}),
    "optdriver": (1, {"optdriver": 0}),
    "toldfe": ("1.0d-3", {"toldfe": 1e-6}),
    "toldff": (0.1, {"toldff": 1e-5}),
    "tolvrs": (1.0, {"tolvrs": "1.0d-8"}),
    "nstep": (1, {"nstep": 50}),
    "iscf": (-2, {"iscf": 17}),
    "ndtset": (2, {"ndtset": 0}),
    "nimage": (4, {"nimage": 1}),
    "charge": (1.0, {"charge": 0}),
    "cellcharge": ("1.0", {"cellcharge": "0.0d0"}),
    "berryopt": (4, {"berryopt": -1}),
    "zeemanfield": ([0, 0, 0.1], {"zeemanfield": [0, 0, 0]}),
    "magconon": (1, {"magconon": 0}),
    "constraint_kind": ("10 0", {"constraint_kind": "0 0"}),
    "occopt": (2, {"occopt": 3}),
    "ixc": (-208012, {"ixc": -101130}),
    "natfix": (1, {"natfix": 0}),
    "natcon": (1, {"natcon": 0}),
}
INPUT = """
&GLOBAL
  RUN_TYPE {run}   ! what is done
&END GLOBAL
&FORCE_EVAL
  STRESS_TENSOR {stress}
  {force_eval}
  &DFT
    {dft}
    &QS
      EPS_DEFAULT 1e-12
      {qs}
    &END
  &END DFT
&END
{root}
"""
PLAIN = {"run": "ENERGY_FORCE", "stress": "ANALYTICAL", "force_eval": "", "dft": "", "qs": "", "root": ""}


def cp2k_input(**changes: str) -> str:
    return INPUT.format(**{**PLAIN, **changes})


def of_cp2k(name: str) -> str:
    """Return an input with a keyword or section."""
    *parents, last = name.split("/")
    place = {"GLOBAL": "run", "FORCE_EVAL": "force_eval", "DFT": "dft", "QS": "qs", "MOTION": "root"}.get(
        parents[-1], "dft"
    )
    if name == "GLOBAL/RUN_TYPE":
        return cp2k_input(run="GEO_OPT")
    if last in ("EPS_SCF", "CUTOFF"):
        value = "1.0D-2" if last == "EPS_SCF" else "20"
        return cp2k_input(dft=f"&{parents[-1]}\n  {last} {value}\n&END")
    if last == "CHARGE":
        return cp2k_input(dft="CHARGE 1")
    section = f"&{last}\n  SOME 1\n&END"
    return cp2k_input(**{place: f"&MOTION\n{section}\n&END" if place == "root" else section})


def refusal(maker: Maker) -> str:
    with pytest.raises(InvalidInputError) as caught:
        OracleMaker(static_maker=maker).check(["Si"])
    return str(caught.value)


def test_each_rule_is_tried() -> None:
    assert [rule.name for rule in ESPRESSO] == [*OF_ESPRESSO, "ATOMIC_FORCES", "OCCUPATIONS"]
    assert [rule.name for rule in ABINIT] == list(OF_ABINIT)


@pytest.mark.parametrize("keyword", OF_ESPRESSO)
def test_keywords_of_pw_x(keyword: str) -> None:
    bad, good = OF_ESPRESSO[keyword]
    said = re.escape(f"{keyword} = {bad}")
    rule = next(rule for rule in ESPRESSO if rule.name == keyword)
    given = {"pseudopotentials": {"Si": "Si.upf"}}
    told = refusal(EspressoStaticMaker(**given, input_data={"system": {"ecutwfc": 30, keyword: bad}}))
    assert re.search(said, told)
    assert rule.why in told
    assert rule.cure in told
    flat = CalculatorStaticMaker(calculator_class=QE, calculator_kwargs={"input_data": {keyword.upper(): bad}})
    assert re.search(said, refusal(flat))
    fine = EspressoStaticMaker(**given, input_data={"SYSTEM": {"ecutwfc": 30, **good}})
    OracleMaker(static_maker=fine).check(["Si"])


def test_a_label_of_pw_x_is_refused_without_a_campaign_too(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR", str(tmp_cwd))
    monkeypatch.setenv("MLIP_AUTOPIPEC_ESPRESSO_CMD", "no-such-program")
    (tmp_cwd / "Si.upf").write_text("")
    maker = EspressoStaticMaker(
        pseudopotentials={"Si": "Si.upf"}, input_data={"system": {"ecutwfc": 30, "tot_charge": 1}}
    )
    with pytest.raises(InvalidInputError, match="tot_charge = 1"):
        OracleMaker(static_maker=maker).compute(bulk("Si"))
    other = CalculatorStaticMaker(calculator_class="ase.calculators.abinit.Abinit", calculator_kwargs={"ionmov": 2})
    with pytest.raises(InvalidInputError, match="ionmov = 2"):
        OracleMaker(static_maker=other).compute(bulk("Si"))


@pytest.mark.parametrize("card", ["ATOMIC_FORCES", "OCCUPATIONS"])
def test_cards_of_pw_x(card: str) -> None:
    for cards in (f"{card}\nSi 0 0 0.1", [f"{card}", "Si 0 0 0.1"]):
        assert card in refused_settings(QE, {"additional_cards": cards})[0]
    assert refused_settings(QE, {"additional_cards": "HUBBARD (ortho-atomic)\nU Fe-3d 4.0"}) == []


def test_a_field_is_known_by_its_index() -> None:
    assert "b_field" in refused_settings(QE, {"input_data": {"system": {"B_field(3)": 0.2}}})[0]


@pytest.mark.parametrize("variable", OF_ABINIT)
def test_variables_of_abinit(variable: str) -> None:
    bad, good = OF_ABINIT[variable]
    maker = CalculatorStaticMaker(calculator_class="ase.calculators.abinit.Abinit", calculator_kwargs={variable: bad})
    rule = next(rule for rule in ABINIT if rule.name == variable)
    told = refusal(maker)
    assert f"{variable} = " in told
    assert rule.why in told
    maker.calculator_kwargs = {"raw": [f"{variable} {' '.join(np.ravel(bad).astype(str))}  # in words"]}
    assert f"{variable} = " in refusal(maker)
    maker.calculator_kwargs = good
    OracleMaker(static_maker=maker).check(["Si"])


@pytest.mark.parametrize("name", [rule.name for rule in CP2K])
def test_inputs_of_cp2k(name: str) -> None:
    rule = next(rule for rule in CP2K if rule.name == name)
    maker = CalculatorStaticMaker(
        calculator_class="ase.calculators.cp2k.CP2K", calculator_kwargs={"inp": of_cp2k(name)}
    )
    told = refusal(maker)
    assert f"{name} = " in told
    assert rule.why in told
    maker.calculator_kwargs = {"inp": cp2k_input()}
    OracleMaker(static_maker=maker).check(["Si"])


def test_usual_accuracies_of_cp2k_are_taken() -> None:
    usual = cp2k_input(dft="&SCF\n  EPS_SCF 1.0E-6\n&END\n&MGRID\n  CUTOFF [eV] 8000\n  REL_CUTOFF 60\n&END")
    assert refused_settings("ase.calculators.cp2k.CP2K", {"inp": usual}) == []


def test_a_section_that_is_off_is_off() -> None:
    settings = cp2k_settings(cp2k_input(dft="&PERIODIC_EFIELD OFF\n&END\nCHARGE 0"))
    assert settings["FORCE_EVAL/DFT/PERIODIC_EFIELD"] == "OFF"
    assert settings["FORCE_EVAL/DFT/QS/EPS_DEFAULT"] == "1e-12"
    assert settings["GLOBAL/RUN_TYPE"] == "ENERGY_FORCE"
    assert refused_settings("ase.calculators.cp2k.CP2K", {"inp": cp2k_input(dft="&EFIELD F\n&END\nCHARGE 0")}) == []


def test_charge_and_stress_of_ases_cp2k() -> None:
    name = "ase.calculators.cp2k.CP2K"
    assert "FORCE_EVAL/DFT/CHARGE = -1" in refused_settings(name, {"charge": -1})[0]
    assert "no shear" in refused_settings(name, {"inp": cp2k_input(stress="DIAGONAL_ANALYTICAL")})[0]


def test_ases_vasp_follows_the_same_rules() -> None:
    name = "ase.calculators.vasp.Vasp"
    assert refused_settings(name, {"encut": 400, "isif": 2, "xc": "PBE"}) == []
    for settings in ({"pstress": 10}, {"nsw": 3, "ibrion": 2}, {"isif": 0}, {"charge": 1}, {"nelect": 10}):
        assert len(refused_settings(name, settings)) == 1, settings


# ---- atomate2's CP2K


def generator(**settings: Any) -> StaticSetGenerator:
    return StaticSetGenerator(
        user_input_settings={
            "basis_and_potential": {
                "basis_filenames": ["GTH_BASIS_SETS"],
                "potential_filename": "GTH_POTENTIALS",
                "Si": {"basis": "SZV-GTH", "potential": "GTH-PADE-q4", "aux_basis": None},
            },
            "xc_functionals": ["PADE"],
            "cutoff": 250,
            "validate": False,
            "ot": False,
            **settings,
        },
        user_kpoints_settings=None,
    )


def test_the_input_of_atomate2_is_looked_at_before_the_run() -> None:
    OracleMaker(static_maker=Cp2kStaticMaker(input_set_generator=generator())).check(["Si"])
    field = {"FORCE_EVAL": {"DFT": {"CHARGE": 1, "PERIODIC_EFIELD": {"INTENSITY": 0.01}}}}
    told = refusal(Cp2kStaticMaker(input_set_generator=generator(override_default_params=field)))
    assert "FORCE_EVAL/DFT/CHARGE = 1" in told
    assert "FORCE_EVAL/DFT/PERIODIC_EFIELD = T" in told


def run_of_cp2k(folder: Path, text: str | None) -> Cp2kTaskDocument:
    (folder / "cp2k.out").write_text(" ATOMIC FORCES in [a.u.]\n STRESS| Analytical stress tensor [GPa]\n")
    if text is not None:
        (folder / "cp2k.inp").write_text(text)
    structure = AseAtomsAdaptor.get_structure(bulk("Si"))
    output = OutputSummary.model_construct(
        structure=structure, energy=-60.0, forces=np.ones((2, 3)).tolist(), stress=np.eye(3).tolist()
    )
    return Cp2kTaskDocument.model_construct(state="successful", dir_name=f"host:{folder}", output=output)


def test_the_input_that_was_run_decides(tmp_path: Path) -> None:
    """Whatever custodian or a file written on top made of it."""
    with pytest.raises(LabelError, match=r"FORCE_EVAL/RESCALE_FORCES = T: large forces are made smaller"):
        extract_label(run_of_cp2k(tmp_path, of_cp2k("FORCE_EVAL/RESCALE_FORCES")))
    whole = extract_label(run_of_cp2k(tmp_path, cp2k_input())).atoms.calc.results
    half = extract_label(run_of_cp2k(tmp_path, cp2k_input(stress="DIAGONAL_NUMERICAL"))).atoms.calc.results
    assert "stress" in whole
    assert "stress" not in half
    assert half["energy"] == whole["energy"]


def test_the_table_of_the_docs_is_complete() -> None:
    said = (ROOT / "docs" / "oracles.md").read_text()
    names = [rule.name.rpartition("/")[2] for rule in (*ESPRESSO, *ABINIT, *CP2K)]
    assert [name for name in names if f"`{name}`" not in said] == []
