"""INCAR tags that change what VASP's numbers mean: refused before the run and after it, or part of the key."""

from __future__ import annotations

import re
import shutil
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from atomate2.vasp.jobs.core import NonSCFMaker
from atomate2.vasp.jobs.matpes import MatPesGGAStaticMaker
from emmet.core.tasks import TaskDoc
from paths import SHARED_DATA
from vasp_worker import run_part

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.oracle.vasp import isolated_atom_maker, label_from_vasp, vasp_static_maker
from mlip_autopipec.oracle.vasp_tags import RULES, refused_tags, stress_mode
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
    "ICHARG": (11, {"ICHARG": 1}),
    "ALGO": ("None", {"ALGO": "Normal"}),
    "IALGO": (2, {"IALGO": 48}),
    "ISMEAR": (-2, {"ISMEAR": -1}),
    "NELECT": (47.0, {}),
    "I_CONSTRAINED_M": (1, {"I_CONSTRAINED_M": 0}),
    "EFIELD": (0.05, {"EFIELD": 0}),
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
    assert [rule.name for rule in RULES if f"`{rule.name}`" not in said] == []


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
