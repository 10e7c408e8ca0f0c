"""Labels by VASP: what is written for it, what is read off, what of it is believed. VASP is its stand-in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from pymatgen.io.vasp import Incar, Kpoints, Vasprun
from vasp_worker import run_part

from mlip_autopipec.oracle.record import OracleRecord
from mlip_autopipec.oracle.vasp import (
    ATOM_INCAR,
    HARMLESS_ERRORS,
    isolated_atom_maker,
    label_handlers,
    vasp_static_maker,
)
from mlip_autopipec.schemas.label import LabelDocument

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_part("labels", tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_part("failures", tmp_path_factory.mktemp("failures"))


@pytest.fixture(scope="module")
def more_failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_part("more failures", tmp_path_factory.mktemp("more_failures"))


def written(label: dict[str, Any], name: str) -> Path | None:
    """Find a file of the folder a label was computed in; None where it is not there."""
    folder = Path(label["directory"])
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def labels_of(case: dict[str, Any]) -> list[LabelDocument]:
    return [LabelDocument.model_validate(label) for label in case["labels"]]


def incar_of(label: dict[str, Any]) -> Incar:
    path = written(label, "INCAR")
    assert path is not None
    return Incar.from_file(path)


def mesh_of(label: dict[str, Any]) -> np.ndarray:
    """Return the k-point mesh VASP made of KSPACING."""
    run = Vasprun(str(written(label, "vasprun.xml")), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    return np.array(run.kpoints.kpts[0])


# ---- what is written


def test_the_input_is_the_one_labels_need(runs: dict[str, Any]) -> None:
    for label in runs["default"]["labels"][:2]:
        incar = incar_of(label)
        wanted = {
            "GGA": "PE",
            "ENCUT": 680,
            "EDIFF": 1e-6,
            "PREC": "Accurate",
            "LREAL": False,
            "LASPH": True,
            "ISPIN": 2,
            "ISMEAR": 0,
            "SIGMA": 0.05,
            "ISYM": 0,
            "KSPACING": 0.22,
            "NSW": 0,
            "IBRION": -1,
            "ISIF": 2,
            "NELM": 200,
        }
        found = {key: incar[key] for key in wanted}
        assert found == {**wanted, "GGA": found["GGA"]}
        assert found["GGA"].upper() == "PE"
        for key in ("LCHARG", "LWAVE", "LAECHG", "LVTOT", "LELF"):
            assert incar[key] is False, key
        # no other functional, no dispersion, no U, no projections
        assert not {"METAGGA", "IVDW", "LUSE_VDW", "LHFCALC", "LDAU", "LORBIT"} & set(incar)
        assert written(label, "KPOINTS") is None
        assert written(label, "CHGCAR") is None


def test_the_density_of_k_points_is_the_same_in_cells_of_any_size(runs: dict[str, Any]) -> None:
    alloy, cut_out, _ = runs["default"]["labels"]
    meshes = []
    for label in (alloy, cut_out):
        lengths = LabelDocument.model_validate(label).to_atoms().cell.reciprocal().lengths() * 2 * np.pi
        mesh = mesh_of(label)
        assert (lengths / mesh <= 0.22).all()
        assert (lengths / np.maximum(mesh - 1, 1) > 0.22).all()  # and no finer than it has to be
        meshes.append(mesh.tolist())
    assert meshes[0] != meshes[1]


def test_an_isolated_atom_has_settings_of_its_own(runs: dict[str, Any]) -> None:
    """Although asked for smearing, k-points and spin of a metal."""
    atom = runs["default"]["labels"][2]
    incar = incar_of(atom)
    assert "KSPACING" not in incar
    found = {key: incar[key] for key in ("ISPIN", "ISMEAR", "SIGMA", "ISYM", "ENCUT", "ALGO")}
    assert found == {"ISPIN": 2, "ISMEAR": 0, "SIGMA": 0.01, "ISYM": 0, "ENCUT": 680, "ALGO": "All"}
    assert incar["MAGMOM"] == [1.0]  # Hund's moment of copper, not pymatgen's 0.6
    path = written(atom, "KPOINTS")
    assert path is not None
    kpoints = Kpoints.from_file(path)
    assert (kpoints.style.name, list(kpoints.kpts[0])) == ("Gamma", [1, 1, 1])
    assert isolated_atom_maker(atom_incar={"sigma": 0.02}).input_set_generator.user_incar_settings["SIGMA"] == 0.02


def test_keys_may_be_written_in_any_case() -> None:
    settings = vasp_static_maker({"encut": 400, "Ediff": 1e-5}).input_set_generator.user_incar_settings
    assert (settings["ENCUT"], settings["EDIFF"]) == (400, 1e-5)
    assert all(key.isupper() for key in settings)


def test_handlers_are_known_to_custodian() -> None:
    """A name that custodian does not know would be skipped in silence."""
    from custodian.vasp.handlers import VaspErrorHandler

    assert set(HARMLESS_ERRORS) <= set(VaspErrorHandler.error_msgs)
    assert not {"LargeSigmaHandler", "KspacingMetalHandler", "PositiveEnergyErrorHandler"} & {
        type(handler).__name__ for handler in label_handlers()
    }


# ---- what is read off


def energy_from_free_atoms(atoms: Atoms) -> float:
    def energy(one: Atoms) -> float:
        probe = one.copy()
        probe.calc = EMT()
        return float(probe.get_potential_energy())

    return energy(atoms) - sum(energy(Atoms(symbol)) for symbol in atoms.get_chemical_symbols())


def test_labels_are_what_was_computed(runs: dict[str, Any]) -> None:
    """Energy, forces of the right atoms and stress with its sign, against the calculator on the label's own atoms."""
    for label in labels_of(runs["default"])[:2]:
        atoms = label.to_atoms()
        direct = atoms.copy()
        direct.calc = EMT()
        assert label.energy_eV == pytest.approx(energy_from_free_atoms(atoms), abs=1e-6)
        assert np.abs(direct.get_forces()).max() > 0.1
        np.testing.assert_allclose(atoms.get_forces(), direct.get_forces(), atol=1e-6)
        assert np.abs(direct.get_stress()).max() > 1e-3
        np.testing.assert_allclose(atoms.get_stress(), direct.get_stress(), atol=1e-6)


def test_the_energy_is_the_free_energy(runs: dict[str, Any]) -> None:
    """T*S is 0.2 eV here: the energy for sigma -> 0, which emmet calls the energy, is 0.1 eV off."""
    label = runs["default"]["labels"][0]
    run = Vasprun(str(written(label, "vasprun.xml")), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    step = run.ionic_steps[-1]
    assert label["energy_kind"] == "free_energy"
    assert label["energy_eV"] == pytest.approx(step["e_fr_energy"], abs=1e-8)
    assert step["e_0_energy"] - label["energy_eV"] == pytest.approx(0.1, abs=1e-6)


def test_species_are_sorted_and_forces_follow(runs: dict[str, Any]) -> None:
    label = labels_of(runs["default"])[0]
    assert label.atoms is not None
    symbols = label.to_atoms().get_chemical_symbols()
    assert symbols == sorted(symbols, key=symbols.index)  # in blocks, as VASP has them
    assert symbols != ["Au", "Cu", "Cu", "Au", "Cu", "Au", "Au", "Cu"]


# ---- the fingerprint


def test_the_fingerprint_depends_on_the_settings_alone(runs: dict[str, Any]) -> None:
    alloy, cut_out, atom = (label.computed_with for label in labels_of(runs["default"]))
    (coarse,) = (label.computed_with for label in labels_of(runs["coarse"]))
    assert alloy is not None
    assert cut_out is not None
    assert atom is not None
    assert coarse is not None
    assert alloy.sha256 == cut_out.sha256
    assert alloy.conflicts(cut_out) == []
    assert (alloy.code, alloy.functional, alloy.kspacing_1_A, alloy.kpoints) == ("VASP", "PBE", 0.22, None)
    assert set(alloy.potentials) == {"Cu", "Au"}
    assert alloy.potentials["Cu"] == cut_out.potentials["Cu"]
    assert alloy.potentials["Cu"].startswith("PAW_PBE Cu_pv MAKE-BELIEVE")
    assert "stand-in" in str(alloy.version)
    assert alloy.conflicts(coarse) == ["kspacing_1_A: 0.22 and 0.5", "ENCUT: 680 and 400"]
    assert (atom.kspacing_1_A, atom.kpoints) == (None, "Gamma 1 1 1")


def test_parallelisation_and_the_way_to_self_consistency_are_no_physics(runs: dict[str, Any]) -> None:
    """Custodian changed ALGO and ISEARCH."""
    (corrected,) = labels_of(runs["corrected"])
    plain = labels_of(runs["coarse"])[0].computed_with
    assert corrected.corrections == ["edddav"]
    incar = incar_of(runs["corrected"]["labels"][0])
    assert (incar["ALGO"], incar["ISEARCH"]) == ("All", 1)
    assert corrected.computed_with is not None
    assert plain is not None
    assert not {"ALGO", "ISEARCH", "NELM", "ISYM"} & set(corrected.computed_with.settings)
    assert corrected.computed_with.conflicts(plain) == ["ENCUT: 680 and 400"]
    assert corrected.energy_eV == pytest.approx(labels_of(runs["coarse"])[0].energy_eV)


def test_stored_keys_hold_no_dots(runs: dict[str, Any]) -> None:
    def keys(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield key
                yield from keys(item)
        elif isinstance(value, list):
            for item in value:
                yield from keys(item)

    stored = [label["computed_with"] for label in runs["default"]["labels"]]
    assert not [key for key in keys(stored) if "." in key or key.startswith("$")]
    assert json.loads(json.dumps(stored)) == stored
    assert OracleRecord.of("x", {"a.b": {"$c": 1}}).settings == {"a:b": {"c": 1}}


# ---- what is refused


@pytest.mark.parametrize(
    ("case", "change"),
    [("other LREAL", "LREAL was AUTO, became False"), ("other SIGMA", "SIGMA was 0.2, became 0.05")],
)
def test_settings_changed_on_the_way_are_refused(runs: dict[str, Any], case: str, change: str) -> None:
    """All of atomate2's handlers; VASP ended well in the end, atomate2's document is successful."""
    (label,) = labels_of(runs[case])
    assert label.state == "failed"
    assert change in str(label.reason)
    assert "custodian handler" in str(label.reason)
    assert label.directory in str(label.reason)


def test_errors_whose_correction_is_physics_are_not_corrected(runs: dict[str, Any]) -> None:
    (label,) = labels_of(runs["not handled"])
    assert label.state == "failed"
    assert "Tetrahedron method fails" in str(label.reason)
    assert incar_of(runs["not handled"]["labels"][0])["SIGMA"] == 0.2


# what the reason has to say, besides the folder
REASONS = {
    "unconverged": ["did not converge: NELM = 200", "EDIFF = 1e-06", "Raise NELM", "custodian met Unconverged"],
    "killed": ["vasprun.xml is cut off", "bytes", "wall time or memory", "vasp.out ends: DAV"],
    "missing": ["left no vasprun.xml", "VASP_CMD"],
    "nan": ["energy of nan eV", "OSZICAR"],
    "message": ["custodian met edddav", "Error EDDDAV", "Max errors"],
    "no executable": ["could not be started", "no-such-vasp", "VASP_CMD in atomate2.yaml"],
    "no POTCAR": ["functional='PBE_64' and symbol='Al'", "Set PMG_VASP_PSP_DIR"],
}


MORE_REASONS = {
    "exit-code": ["left an empty vasprun.xml", "exit code 42"],
    "crash-at-end": ["return code is 139"],
    "truncated": ["vasprun.xml is cut off", "ValidationError"],
}


@pytest.mark.parametrize("case", REASONS)
def test_a_failure_costs_its_label_alone(failures: dict[str, Any], case: str) -> None:
    check_failure(failures, case, REASONS[case])


@pytest.mark.long
@pytest.mark.parametrize("case", MORE_REASONS)
def test_another_failure_costs_its_label_alone(more_failures: dict[str, Any], case: str) -> None:
    check_failure(more_failures, case, MORE_REASONS[case])


def check_failure(failures: dict[str, Any], case: str, reasons: list[str]) -> None:
    good, bad = labels_of(failures[case])
    assert (good.state, good.reason) == ("successful", None)
    assert good.energy_eV == pytest.approx(energy_from_free_atoms(good.to_atoms()), abs=1e-6)
    assert bad.state == "failed"
    assert bad.energy_eV is None
    assert bad.forces_eV_A is None
    for words in [bad.directory, *reasons]:
        assert words in str(bad.reason)
    assert "localhost:" not in str(bad.reason) or case == "nan"
    batch = failures[case]["batch"]
    assert (batch["n_asked"], batch["n_labelled"], batch["oracle_failing"]) == (2, 1, False)
    assert [(f["index"], f["reason"]) for f in batch["failed"]] == [(1, bad.reason)]


def test_a_run_that_hangs_is_ended(failures: dict[str, Any]) -> None:
    (label,) = labels_of(failures["hang"])
    assert label.state == "failed"
    assert "Frozen job" in str(label.reason)
    assert label.directory in str(label.reason)


def test_all_inputs_of_a_failure_are_still_there(failures: dict[str, Any]) -> None:
    for case in ("unconverged", "killed", "missing", "nan"):
        bad = failures[case]["labels"][1]
        assert all(written(bad, name) is not None for name in ("INCAR", "POSCAR", "POTCAR")), case
        assert Path(bad["directory"]).is_dir()


def test_moments_of_atoms_are_hunds() -> None:
    moments = ATOM_INCAR["MAGMOM"]
    assert (moments["Li"], moments["N"], moments["Fe"], moments["Si"]) == (1, 3, 4, 2)
    structure = bulk("Fe")
    assert structure.symbols[0] in moments
