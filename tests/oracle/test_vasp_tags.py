"""INCAR tags that change what VASP's numbers mean: refused before the run and after it, or part of the key."""

from __future__ import annotations

import json
import re
import shutil
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pymatgen.io.vasp
import pytest
from ase import Atoms
from ase.build import bulk
from ase.formula import Formula
from atomate2.vasp.jobs.core import NonSCFMaker
from atomate2.vasp.jobs.matpes import MatPesGGAStaticMaker
from emmet.core.tasks import TaskDoc
from paths import SHARED_DATA
from vasp_worker import run_part

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.oracle.incar import NOT_PHYSICS, physics
from mlip_autopipec.oracle.vasp import isolated_atom_maker, label_from_vasp, vasp_static_maker
from mlip_autopipec.oracle.vasp_doubts import DOUBTS, cutoff_too_low, doubtful_tags
from mlip_autopipec.oracle.vasp_tags import PER_SPECIES, RULES, refused_tags, stress_mode
from mlip_autopipec.testing import stand_in_loop

if TYPE_CHECKING:
    from atomate2.vasp.jobs.base import BaseVaspMaker
    from jobflow import Maker

pytestmark = pytest.mark.filterwarnings("ignore")
VASP_RUNS = SHARED_DATA / "vasp_runs"
DOCS = Path(__file__).parents[2] / "docs" / "vasp.md"

#: Of each rule: a value that is refused, and one that is not (with what has to stand beside it).
VALUES: dict[str, tuple[Any, dict[str, Any]]] = {
    "PSTRESS": (100, {"PSTRESS": 0.0}),
    "SCALEE": (0.5, {"SCALEE": 1}),
    "NSW": (5, {"NSW": 1, "IBRION": -1}),
    "IBRION": (6, {"IBRION": 2}),
    "IMAGES": (4, {"IMAGES": 0}),
    "VCAIMAGES": (0.5, {"VCAIMAGES": -1}),
    "LATTICE_CONSTRAINTS": (".TRUE. .FALSE. .TRUE.", {"LATTICE_CONSTRAINTS": "T T T"}),
    "ML_LMLFF": (True, {"ML_LMLFF": "F"}),
    "ML_FF_LMLFF": (True, {"ML_FF_LMLFF": "F"}),
    "ICHARG": (11, {"ICHARG": 1}),
    "ALGO": ("None", {"ALGO": "Normal"}),
    "IALGO": (2, {"IALGO": 48}),
    "ISMEAR": (-2, {"ISMEAR": -1}),
    "NELECT": (47.0, {}),
    "I_CONSTRAINED_M": (1, {"I_CONSTRAINED_M": 0}),
    "EDIFF": (0.1, {"EDIFF": 1e-3}),
    "NELM": (1, {"NELM": 60}),
    "ENCUT": (80, {"ENCUT": 300}),
    "ENMAX": (400, {}),
    "PREC": ("Low", {"PREC": "Normal"}),
    "NGX": (24, {}),
    "NGY": (24, {}),
    "NGZ": (24, {}),
    "NGXF": (48, {}),
    "NGYF": (48, {}),
    "NGZF": (48, {}),
    "ODDONLY": (True, {"ODDONLY": False}),
    "EVENONLY": (True, {"EVENONLY": False}),
    "EFERMI": (5.5, {"EFERMI": "MIDGAP"}),
    "ZVAL": ("11.0", {}),
    "LSPIRAL": (True, {"LSPIRAL": False}),
    "ICHAIN": (2, {"ICHAIN": 0}),
    "LPARD": (True, {"LPARD": False}),
    "ELPH_RUN": (True, {"ELPH_RUN": False}),
    "EFIELD": (0.05, {"EFIELD": 0}),
    "BEXT": ("0 0 0.1", {"BEXT": 0}),
    "EFIELD_PEAD": ([0.0, 0.01, 0.0], {"EFIELD_PEAD": [0, 0, 0]}),
    "LCALCEPS": (True, {"LCALCEPS": False}),
    "OFIELD_A": (0.1, {"OFIELD_A": 0}),
    "EFOR": ("0 0 0.1", {"EFOR": "0 0 0"}),
    "IDIPOL": (3, {"IDIPOL": 3, "LDIPOL": True}),
    "LMONO": (True, {"LMONO": False}),
    "METAGGA": ("MBJ", {"METAGGA": "R2SCAN"}),
    "EXXOEP": (1, {"EXXOEP": 0}),
    "VCA": ("0.3 0.7", {"VCA": [1, 1.0]}),
    "ICORELEVEL": (2, {"ICORELEVEL": 1}),
    "PLUGINS/FORCE_AND_STRESS": (True, {"PLUGINS/FORCE_AND_STRESS": False}),
    "PLUGINS/LOCAL_POTENTIAL": (True, {"PLUGINS/LOCAL_POTENTIAL": False}),
    "PLUGINS/STRUCTURE": (True, {"PLUGINS/STRUCTURE": False}),
    "PLUGINS/OCCUPANCIES": (True, {"PLUGINS/OCCUPANCIES": False}),
}

#: Of each doubt: the elements, tags of which it is said, and tags of which nothing is.
SAID: dict[str, list[tuple[str, dict[str, Any], dict[str, Any]]]] = {
    "EDIFF": [("Cu", {"EDIFF": 1e-4}, {"EDIFF": 1e-5}), ("Cu", {"EDIFF": 1e-10}, {"EDIFF": 1e-8})],
    "PREC": [("Cu", {"PREC": word}, {"PREC": "Accurate"}) for word in ("Normal", "Medium", "Single")],
    "LREAL": [("Cu", {"LREAL": word}, {"LREAL": ".FALSE."}) for word in ("Auto", "A", "O", True)],
    "ROPT": [("Cu", {"ROPT": [-0.001]}, {"ROPT": 0})],
    "ADDGRID": [("Cu", {"ADDGRID": True}, {"ADDGRID": False})],
    "KSPACING": [("Cu", {"KSPACING": 0.8}, {"KSPACING": 0.3})],
    "ISMEAR": [
        ("Cu", {"ISMEAR": -5}, {"ISMEAR": 1, "SIGMA": 0.1}),
        ("Cu", {"ISMEAR": -4}, {"ISMEAR": -1}),
        ("SiO", {"ISMEAR": 1}, {"ISMEAR": 0}),
        ("Ge", {"ISMEAR": 2}, {"ISMEAR": 0}),
    ],
    "SIGMA": [("Cu", {"SIGMA": 0.5}, {"SIGMA": 0.2})],
    "SYMPREC": [("Cu", {"SYMPREC": 1e-2}, {"SYMPREC": 1e-5})],
    "ISYM": [("Cu", {"ISYM": 2, "IBRION": 0}, {"ISYM": 2})],
    "LSORBIT": [("Pb", {"LSORBIT": True}, {"LSORBIT": False})],
    "LNONCOLLINEAR": [("Fe", {"LNONCOLLINEAR": True}, {"LNONCOLLINEAR": ".F."})],
    "NUPDOWN": [("Fe", {"NUPDOWN": 2}, {"NUPDOWN": -1})],
    "NBANDS": [("Cu", {"NBANDS": 40}, {})],
    "LASPH": [
        ("Cu", {"LASPH": False, "METAGGA": "R2SCAN"}, {"LASPH": False}),
        ("Cu", {"LASPH": False, "LHFCALC": True, "ISIF": 2}, {"LASPH": True, "LHFCALC": True, "ISIF": 2}),
    ],
    "LDAU": [("Cu", {"LDAU": True}, {"LDAU": True, "LDAUU": {"Cu": 4}, "LDAUL": {"Cu": 2}, "LDAUJ": {"Cu": 0}})],
    "ALGO": [("Cu", {"ALGO": "Fast", "LHFCALC": True, "ISIF": 2}, {"ALGO": "Fast"})],
    "PRECFOCK": [("Cu", {"PRECFOCK": "Fast"}, {"PRECFOCK": "Normal"})],
    "NKRED": [("Cu", {"NKRED": 2}, {"NKRED": 1})],
    "NKREDX": [("Cu", {"NKREDX": 2}, {"NKREDX": 1})],
    "NKREDY": [("Cu", {"NKREDY": 2}, {"NKREDY": 1})],
    "NKREDZ": [("Cu", {"NKREDZ": 2}, {"NKREDZ": 1})],
    "LUSE_VDW": [
        ("Cu", {"LUSE_VDW": True, "GGA": "BO"}, {"LUSE_VDW": True, "GGA": "BO", "AGGAC": 0.0}),
        ("Cu", {"LUSE_VDW": True, "GGA": "MK"}, {"LUSE_VDW": True, "METAGGA": "R2SCAN"}),
    ],
    "IVDW": [("Cu", {"IVDW": 12, "LUSE_VDW": True, "AGGAC": 0.0}, {"IVDW": 12})],
    "LCORR": [("Cu", {"LCORR": False}, {"LCORR": True})],
    "LMAXPAW": [("Cu", {"LMAXPAW": -1}, {"LMAXPAW": -100})],
    "ISPIN": [("Ni", {"ISPIN": 1}, {"ISPIN": 2}), ("FeO", {"ISPIN": 1}, {"ISPIN": 2})],
}
#: All other tags: another value is another key, so labels of both are never taken for one; many have no effect at all
#: without those that are refused.
KEYS = frozenset(
    # the functional
    "AEXX AGGAC AGGAX ALDAC GGA GGA_COMPAT HFLMAX HFRCUT HFSCREEN HFSCREENC LFOCKAEDFT LHFCALC LHFONE LMETAGGA "
    "LMODELHF LRHFCALC LTHOMAS LDAUTYPE LMAXFOCK LMAXFOCKAE NMAXFOCKAE QMAXFOCKAE PARAM1 PARAM2 VOSKOWN ZAB_VDW "
    "LVDWEXPANSION LVDW_EWALD VDW_A1 VDW_A2 VDW_CNRADIUS VDW_D VDW_RADIUS VDW_S6 VDW_S8 VDW_SR CMBJ CMBJA CMBJB "
    # basis and k-points
    "ENAUG ENCUTFOCK ENINI LCOMPAT LMAXTAU LLRAUG LSYMGRAD NLSPLINE NTAUPAR KGAMMA SHIFTRED VCUTOFF "
    # electrons, spin and surroundings
    "ISPIN ISPIND SAXIS QSPIRAL LZEROZ LAMBDA M_CONSTR DIPOL EPSILON LDIPOL LSOL FERDO FERWE SMEARINGS "
    # excited electrons, response, spectra, what is computed after the energy
    "ANTIRES CH_LSPEC CH_NEDOS CH_SIGMA CLL CLN CLNT CLZ CSHIFT DQ EINT ENCUTGW ENCUTGWSOFT ENCUTLF EVENONLYGW "
    "HITOLER IBAND ICHIBARE IEPSILON IGPAR IPEAD KPUSE LADDER LBERRY LBONE LCALCPOL LCHIMAG LDOWNSAMPLE LEFG "
    "LEPSILON LFERMIGW LFXC LFXCEPS LFXHEG LGAUGE LHARTREE LHYPERFINE LKPROJ LMAGBLOCH LMUSIC LNABLA LNICSALL "
    "LNMR_SYM_RED LORBITALREAL LORBMOM LPEAD LRPA LRPAFORCE LSCSGRAD LSELFENERGY LSEPB LSEPK LSINGLES LSPECTRAL "
    "LSPECTRALGW LTCTE LTETE LTRIPLET LUSEW LVEL LWANNIER90 LWANNIER90_RUN LWRITE_MMN_AMN LWRITE_UNK LWRITE_WANPROJ "
    "MAGDIPOLOUT MAGPOS NBANDSGW NBANDSO NBANDSV NBMOD NBSEEIG NCRPA_BANDS NDAV NGYROMAG NOMEGA NOMEGAPAR NOMEGAR "
    "NTARGET_STATES NUCIND ODDONLYGW OMEGAMAX OMEGAMIN OMEGATL ORBITALMAG PFLAT PLEVEL PROUTINE PTHRESHOLD QUAD_EFG "
    "SELFENERGY STM IWAVPR MIXFIRST "
    # atoms that move, which they do not
    "ANDERSEN_PROB APACO DARWINR DARWINV DIMER_DIST FINDIFF HILLS_BIN HILLS_H HILLS_W INCREM LANGEVIN_GAMMA "
    "LANGEVIN_GAMMA_L LBLUEOUT MDALGO MINROT NPACO NPPSTR NSUBSYS OFIELD_KAPPA OFIELD_Q6_FAR OFIELD_Q6_NEAR "
    "PHON_LBOSE PHON_LMC PHON_NTLIST PHON_TLIST PMASS POMASS PSUBSYS RANDOM_SEED SCSRAD SHAKEMAXITER SHAKETOL SPRING "
    "STEP_MAX STEP_SIZE TEBEG TEEND TSUBSYS VALUE_MAX VALUE_MIN ML_MODE".split()
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_part("tags", tmp_path_factory.mktemp("tags"))


def copper() -> Atoms:
    return bulk("Cu", cubic=True)


def key(maker: Maker, atoms: Atoms | None = None) -> str:
    return OracleMaker(static_maker=maker).key_of(atoms or copper())


# ---- each tag


def test_each_rule_is_tried() -> None:
    assert [rule.name for rule in RULES] == list(VALUES)


def test_every_tag_is_decided() -> None:
    """pymatgen lists the tags of VASP; the settings of its learned potential (ML_FF_...) are nothing without that."""
    listed = json.loads((Path(pymatgen.io.vasp.__file__).parent / "incar_parameters.json").read_text())
    decided = {rule.name for rule in RULES} | set(SAID) | set(NOT_PHYSICS) | set(PER_SPECIES) | KEYS
    assert {tag for tag in listed if not tag.startswith("ML_FF_")} - decided == set()
    assert not KEYS & NOT_PHYSICS


@pytest.mark.parametrize("tag", sorted(KEYS))
def test_a_tag_that_may_matter_is_in_the_key(tag: str) -> None:
    assert physics({tag: "0.123"})[tag] == 0.123


@pytest.mark.parametrize("tag", SAID)
def test_what_makes_labels_noisy_is_said_and_nothing_else(tag: str) -> None:
    for elements, bad, good in SAID[tag]:
        symbols = sorted(set(Formula(elements)))
        said = OracleMaker(static_maker=vasp_static_maker(bad)).doubts(symbols)
        assert [one for one in said if one.startswith(f"oracle: {tag} = ")], (bad, said)
        said = OracleMaker(static_maker=vasp_static_maker(good)).doubts(symbols)
        assert not [one for one in said if one.startswith(f"oracle: {tag} = ")], (good, said)


def test_each_doubt_is_tried_and_the_settings_of_this_package_leave_none() -> None:
    assert {rule.name for rule in DOUBTS} | {"ISPIN"} == set(SAID) | {"LDAUU"}
    assert doubtful_tags({"LDAUU": [4.0]})[0].startswith("LDAUU = 4.0: LDAU is not set")  # pymatgen would not write it
    assert doubtful_tags({"LDAUU": [0]}) == []
    for elements in (["Cu"], ["Fe", "O"], ["Si"]):
        assert OracleMaker(static_maker=vasp_static_maker(), atom_maker=isolated_atom_maker()).doubts(elements) == []


def test_a_campaign_of_python_says_what_a_run_file_says(caplog: pytest.LogCaptureFixture) -> None:
    loop = stand_in_loop(oracle_maker=OracleMaker(static_maker=vasp_static_maker({"PREC": "Normal"})))
    loop.make(copper() * (2, 2, 2), 300)
    assert [one for one in caplog.messages if one.startswith("oracle: PREC = NORMAL: ")]


@pytest.mark.parametrize(
    ("encut", "refused", "said"),
    [
        (None, "ENCUT is not set", ""),
        (100, "below the ENMIN of O, 212 eV", ""),
        (250, "", "below the ENMAX of O, 283 eV"),
        (300, "", "below 1.3 times the ENMAX of O, 283 eV: the stress"),
        (368, "", ""),
    ],
)
def test_the_cutoff_is_compared_with_the_potentials(encut: float | None, refused: str, said: str) -> None:
    found = cutoff_too_low(encut, [("Cu", 150.0, 200.0), ("O", 212.0, 283.0)], ["Cu", "O"])
    for lines, part in zip(found, (refused, said), strict=True):
        assert (part in lines[0]) if part else lines == []


def test_without_potentials_only_the_impossible_is_refused() -> None:
    assert cutoff_too_low(150, [], ["Mg", "O"])[0]
    assert cutoff_too_low(150, [], ["Pb"]) == ([], [])
    assert cutoff_too_low(None, [], ["Pb"]) == ([], [])
    assert cutoff_too_low(None, [("Pb", 73.0, 98.0)], ["Pb"]) == ([], [])
    with pytest.raises(InvalidInputError, match="ENCUT = 150: below the ENMIN of every POTCAR of O"):
        OracleMaker(static_maker=vasp_static_maker({"ENCUT": 150})).check(["Mg", "O"])


def hubbard(values: dict[str, Any]) -> dict[str, Any]:
    nested = {"O": {"Fe": 2}} if "O" in values else {"Fe": 2}
    return {"LDAU": True, "LDAUU": values, "LDAUL": nested, "LDAUJ": {"Fe": 0}}


def test_one_element_has_one_u() -> None:
    """pymatgen's sets give U to oxides alone; the isolated atom and the metal would have none."""
    with pytest.raises(
        InvalidInputError, match=r"LDAUU of Fe is 5.3 eV in FeO and 0 eV in a cell of Fe alone.*'Fe': 5.3"
    ):
        OracleMaker(static_maker=vasp_static_maker(hubbard({"O": {"Fe": 5.3}}))).check(["Fe", "O"])
    OracleMaker(static_maker=vasp_static_maker(hubbard({"Fe": 5.3}))).check(["Fe", "O"])


@pytest.mark.parametrize(
    ("of_labels", "of_atoms", "told"),
    [
        ({"GGA": "PS"}, {}, "GGA is PS for labels and PE for isolated atoms"),
        ({"ENCUT": 520}, {}, "ENCUT is 520 for labels and 680"),
        ({"IVDW": 12}, {}, "IVDW is 12 for labels and not set for isolated atoms"),
        (hubbard({"Fe": 5.3}), {}, "U and J of Fe differ"),
        ({"ISMEAR": 1, "SIGMA": 0.2}, {}, ""),
        ({"IVDW": 12}, {"IVDW": 12}, ""),
    ],
)
def test_isolated_atoms_are_of_the_level_of_the_labels(of_labels: Any, of_atoms: Any, told: str) -> None:
    oracle = OracleMaker(static_maker=vasp_static_maker(of_labels), atom_maker=isolated_atom_maker(of_atoms))
    if not told:
        oracle.check(["Fe", "O"])
        return
    with pytest.raises(InvalidInputError, match=told):
        oracle.check(["Fe", "O"])


def test_isolated_atoms_have_the_potentials_of_the_labels() -> None:
    oracle = OracleMaker(static_maker=vasp_static_maker(potcar={"Cu": "Cu"}), atom_maker=isolated_atom_maker())
    with pytest.raises(InvalidInputError, match="the POTCAR is Cu for labels and Cu_pv for isolated atoms"):
        oracle.check(["Cu"])


@pytest.mark.parametrize("tag", VALUES)
def test_a_tag_is_refused_before_the_run_with_what_to_do(tag: str) -> None:
    bad, good = VALUES[tag]
    said = re.escape(f"{tag} = ")
    maker = vasp_static_maker({tag: bad})
    with pytest.raises(InvalidInputError, match=said) as caught:
        OracleMaker(static_maker=maker).check(["Cu"])
    rule = next(rule for rule in RULES if rule.name == tag)
    assert rule.why in str(caught.value)
    assert rule.cure in str(caught.value)
    with pytest.raises(InvalidInputError, match=said):
        key(maker)
    OracleMaker(static_maker=vasp_static_maker(good)).check(["Cu"])
    assert key(vasp_static_maker(good))


def test_an_isolated_atom_is_looked_at_too() -> None:
    """The energy of an atom is in that of every label."""
    with pytest.raises(InvalidInputError, match="PSTRESS"):
        OracleMaker(static_maker=vasp_static_maker(), atom_maker=isolated_atom_maker({"PSTRESS": 50})).check(["Cu"])


@pytest.mark.parametrize("algo", ["N", "Normal", "V", "VeryFast", "F", "Fast", "C", "All", "D", "damped", "A"])
def test_ways_to_self_consistency_are_allowed(algo: str) -> None:
    assert refused_tags({"ALGO": algo}) == []


@pytest.mark.parametrize("algo", ["None", "Nothing", "Exact", "Eigenval", "Subrot", "CHI", "ACFDT", "GW0", "TDHF", "T"])
def test_other_algorithms_are_refused(algo: str) -> None:
    assert "ALGO" in refused_tags({"ALGO": algo})[0]


@pytest.mark.parametrize(
    "tags",
    [
        {"IVDW": 11},
        {"LUSE_VDW": True},
        {"NUPDOWN": 2},
        {"LHFCALC": True},
        {"METAGGA": "R2SCAN"},
        {"LSOL": True},
        {"LSORBIT": True},
        {"IDIPOL": 3, "LDIPOL": True},
        {"ISMEAR": -5},
        {"EDIFF": 1e-4},
        {"SOME_NEW_TAG": 1},
    ],
)
def test_a_tag_that_is_physics_is_in_the_key(tags: dict[str, Any]) -> None:
    OracleMaker(static_maker=vasp_static_maker(tags)).check(["Cu"])
    assert key(vasp_static_maker(tags)) != key(vasp_static_maker())


def test_lists_of_another_number_of_species_are_refused() -> None:
    assert refused_tags({"VDW_C6": [1.0, 2.0]}, n_species=2) == []
    assert "2 values for 1 species" in refused_tags({"VDW_C6": [1.0, 2.0]}, n_species=1)[0]


def test_the_makers_of_atomate2_are_looked_at_as_well() -> None:
    with pytest.raises(InvalidInputError, match="ICHARG = 11"):
        OracleMaker(static_maker=NonSCFMaker()).check(["Cu"])
    OracleMaker(static_maker=MatPesGGAStaticMaker()).check(["Cu", "Au"])


def test_k_points_along_lines_are_refused() -> None:
    maker = vasp_static_maker({"KSPACING": None})
    maker.input_set_generator.user_kpoints_settings = {"line_density": 20}  # type: ignore[attr-defined]
    with pytest.raises(InvalidInputError, match="lines of a band structure"):
        OracleMaker(static_maker=maker).check(["Cu"])


def test_a_campaign_is_refused_before_anything_runs() -> None:
    loop = stand_in_loop(oracle_maker=OracleMaker(static_maker=vasp_static_maker({"PSTRESS": 20})))
    with pytest.raises(InvalidInputError, match="PSTRESS = 20"):
        loop.make(copper() * (2, 2, 2), 300)


def test_all_reasons_are_told_at_once() -> None:
    with pytest.raises(InvalidInputError, match=r"PSTRESS = 10.*\. NSW = 3"):
        OracleMaker(static_maker=vasp_static_maker({"PSTRESS": 10, "NSW": 3, "IBRION": 2})).check()


def test_the_table_of_the_docs_is_complete() -> None:
    said = DOCS.read_text()
    assert [rule.name for rule in (*RULES, *DOUBTS) if f"`{rule.name}`" not in said] == []


# ---- the stress


@pytest.mark.parametrize(
    ("incar", "parameters", "mode"),
    [
        ({}, None, 2),
        ({"ISIF": 3}, None, 2),
        ({"ISIF": "0"}, {"ISIF": 2}, 0),
        ({"ISIF": 1}, None, 1),
        ({"LHFCALC": True}, None, 0),  # VASP's default with a hybrid functional
        ({"LHFCALC": True, "ISIF": 2}, None, 2),
        ({"IBRION": 0}, None, 0),
        ({}, {"ISIF": 0}, 0),  # what VASP says goes
    ],
)
def test_which_stress_vasp_computes(incar: dict[str, Any], parameters: dict[str, Any] | None, mode: int) -> None:
    assert stress_mode(incar, parameters) == mode


def test_a_calculation_without_stress_has_another_key() -> None:
    whole, none, trace = (key(vasp_static_maker({"ISIF": isif})) for isif in (2, 0, 1))
    assert len({whole, none, trace}) == 3
    assert key(vasp_static_maker({"ISIF": 3})) == whole == key(vasp_static_maker())


# ---- runs


def test_pv_is_not_taken_for_energy(runs: dict[str, Any]) -> None:
    """The stand-in adds P V as VASP does; the look before the run is left out here."""
    assert runs["read plain"]["energy"] < 0
    error = runs["read PSTRESS"]["error"]
    assert error.startswith("LabelError")
    assert "PSTRESS = 100" in error
    assert "P V" in error


def test_what_is_no_stress_is_not_kept(runs: dict[str, Any]) -> None:
    assert len(runs["read plain"]["stress"]) == 6
    for name in ("read ISIF 0", "read ISIF 1"):
        assert runs[name]["stress"] is None
        assert runs[name]["energy"] == runs["read plain"]["energy"]


def test_nothing_is_run_with_a_tag_that_is_refused(runs: dict[str, Any]) -> None:
    for label in runs["pressed"]["labels"]:
        assert label["state"] == "failed"
        assert "PSTRESS = 100" in label["reason"]
    assert runs["pressed files"] == []


def test_what_custodian_was_told_to_set_was_asked_for(runs: dict[str, Any]) -> None:
    (label,) = runs["override"]["labels"]
    assert label["state"] == "successful"
    assert label["computed_with"]["settings"]["ENCUT"] == 400


@pytest.mark.skipif(not VASP_RUNS.is_dir(), reason=f"there are no VASP reference runs in {VASP_RUNS}")
def test_real_runs_are_read_with_the_tags_they_had(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(VASP_RUNS / "Si12_hot" / "outputs", folder)
    document = TaskDoc.from_directory(folder)
    assert "stress" in label_from_vasp(document).atoms.calc.results
    for tag, value in {"PSTRESS": 30.0, "SCALEE": 0.9, "NSW": 4, "ICHARG": 11, "EFIELD": 0.1, "LMONO": True}.items():
        told = deepcopy(document)
        told.calcs_reversed[0].input.parameters[tag] = value  # as VASP says it used it, whatever the INCAR was
        with pytest.raises(LabelError, match=f"{tag} = {value}"):
            label_from_vasp(told)
    for isif, kept in ((0, False), (1, False), (2, True)):
        told = deepcopy(document)
        told.calcs_reversed[0].input.parameters["ISIF"] = isif
        label = label_from_vasp(told)
        assert ("stress" in label.atoms.calc.results) is kept
        assert label.atoms.get_potential_energy() == label_from_vasp(document).atoms.get_potential_energy()


# ---- what changes a run beside its input set


def overriding(*actions: dict[str, Any]) -> BaseVaspMaker:
    return vasp_static_maker(run_vasp={"vasp_job_kwargs": {"settings_override": list(actions)}})


def test_overrides_of_custodians_job_are_in_the_key() -> None:
    mine = key(vasp_static_maker())
    assert key(overriding({"dict": "INCAR", "action": {"_set": {"ENCUT": 400}}})) == key(
        vasp_static_maker({"ENCUT": 400})
    )
    assert key(overriding({"dict": "INCAR", "action": {"_unset": {"LASPH": 1}}})) != mine
    assert key(overriding({"dict": "INCAR", "action": {"_set": {"NCORE": 4}}})) == mine
    mesh = {"dict": "KPOINTS", "action": {"_set": {"kpoints": [[3, 3, 3]]}}}
    assert key(overriding(mesh)) != mine
    assert key(vasp_static_maker(run_vasp={"vasp_job_kwargs": {"auto_npar": False}, "job_type": "normal"})) == mine
    with pytest.raises(InvalidInputError, match="PSTRESS"):
        key(overriding({"dict": "INCAR", "action": {"_set": {"PSTRESS": 5}}}))


def test_a_job_of_several_runs_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="double relaxation"):
        OracleMaker(static_maker=vasp_static_maker(run_vasp={"job_type": "double relaxation"})).check(["Cu"])


def test_files_that_are_written_on_top_are_in_the_key() -> None:
    mine = key(vasp_static_maker())
    written = {
        text: key(replace(vasp_static_maker(), write_additional_data={"ICONST": text})) for text in ("one", "two")
    }
    assert len({mine, *written.values()}) == 3
    noted = replace(vasp_static_maker(), write_additional_data={"transformations:json": {"what": "was done"}})
    assert key(noted) == mine


@dataclass
class OtherMake(MatPesGGAStaticMaker):
    """Does something of its own before VASP runs."""

    def make(self, structure: Any, prev_dir: Any = None) -> Any:
        return super().make(structure, prev_dir)


@dataclass
class SameMake(MatPesGGAStaticMaker):
    """Another name for the same."""


def test_a_make_of_its_own_is_in_the_key() -> None:
    assert key(SameMake()) == key(MatPesGGAStaticMaker())
    assert key(OtherMake()) != key(MatPesGGAStaticMaker())


def test_keys_of_plain_makers_are_as_they_were() -> None:
    """Of version 0.1.0, which labels are found by."""
    rattled = np.array([[0.01, 0, 0], [0, 0, 0], [0, 0.02, 0], [0, 0, 0]])
    atoms = copper()
    atoms.positions += rattled
    assert key(vasp_static_maker(), atoms) == "d18fec0d75155bb7d3d5d683ee769bac709d91bd644d919a64f30280aae14a10"
    assert (
        key(isolated_atom_maker(), Atoms("Cu", cell=[12, 13, 14], pbc=True))
        == "11cb9ceb132d8db2a18dc9f8fcc80a3bde157c2543679ea898df4fdc17186de7"
    )
