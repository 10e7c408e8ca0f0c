"""What VASP is told for one structure: charge, spin, moments; k-points and dipole along vacuum. VASP: its stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from pymatgen.io.vasp import Incar, Kpoints
from vasp_worker import run_part

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.run_oracle import told_for
from mlip_autopipec.oracle.vasp import isolated_atom_maker, vasp_static_maker
from mlip_autopipec.schemas.label import LabelDocument

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_part("structures", tmp_path_factory.mktemp("structures"))


def found(label: dict[str, Any], name: str) -> Path | None:
    folder = Path(label["directory"])
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def incar_of(label: dict[str, Any]) -> Incar:
    return Incar.from_file(found(label, "INCAR"))


def test_charge_spin_and_moments_reach_vasp(runs: dict[str, Any]) -> None:
    neutral, charged, ordered = runs["plain"]["labels"]
    assert [label["reason"] for label in runs["plain"]["labels"]] == [None] * 3
    assert not {"NELECT", "NUPDOWN"} & set(incar_of(neutral))
    assert incar_of(charged)["NELECT"] == 2 * 17 - 1  # Cu_pv of MatPES has 17 electrons
    assert incar_of(charged)["NUPDOWN"] == 1
    assert incar_of(ordered)["MAGMOM"] == [2.0, -2.0]


def test_labels_know_their_charge_and_share_one_level_of_theory(runs: dict[str, Any]) -> None:
    neutral, charged, ordered = (LabelDocument.model_validate(label) for label in runs["plain"]["labels"])
    assert charged.to_atoms().info["charge"] == 1
    assert charged.to_atoms().info["multiplicity"] == 2
    assert charged.stress_eV_A3 is None
    assert neutral.stress_eV_A3 is not None
    assert len({neutral.key, charged.key, ordered.key}) == 3
    assert len({label.computed_with.sha256 for label in (neutral, charged, ordered)}) == 1
    crystal, layer = (LabelDocument.model_validate(label) for label in runs["dipole"]["labels"])
    assert crystal.computed_with.conflicts(layer.computed_with) == []
    assert layer.computed_with.settings["LDIPOL"] is True
    assert layer.computed_with.kspacing_1_A == 0.3
    assert crystal.computed_with.sha256 != neutral.computed_with.sha256


def test_one_k_point_along_vacuum_and_a_dipole_correction(runs: dict[str, Any]) -> None:
    crystal, layer = runs["dipole"]["labels"]
    assert [label["reason"] for label in (crystal, layer)] == [None] * 2
    assert found(crystal, "KPOINTS") is None
    assert "LDIPOL" not in incar_of(crystal)
    mesh = Kpoints.from_file(found(layer, "KPOINTS"))
    assert mesh.style.name == "Gamma"
    assert mesh.kpts[0] == (10, 10, 1)  # 2 pi / (2.55 A sin 60) / 0.3 along the layer; 2 by KSPACING across it
    incar = incar_of(layer)
    assert (incar["LDIPOL"], incar["IDIPOL"]) == (True, 3)
    assert incar["DIPOL"][2] == pytest.approx(0.5, abs=1e-3)


def wide_slab(shift: float = 0.0) -> Atoms:
    atoms = fcc111("Cu", (1, 1, 3), vacuum=8)
    atoms.pbc = True
    atoms.positions[:, 2] += shift
    atoms.wrap()
    return atoms


def test_kspacing_of_the_default_gives_one_point_too() -> None:
    told = told_for(vasp_static_maker(), wide_slab())
    assert told.maker.input_set_generator.user_kpoints_settings.kpts[0][2] == 1
    assert told.settings == {"KSPACING": 0.22}
    cluster = Atoms("Cu2", [[6, 6, 6], [6, 6, 8.3]], cell=[12, 12.5, 13], pbc=True)
    told = told_for(vasp_static_maker({"LDIPOL": True}), cluster)
    assert told.maker.input_set_generator.user_kpoints_settings.kpts[0] == (1, 1, 1)
    assert told.maker.input_set_generator.user_incar_settings["IDIPOL"] == 4
    assert told_for(vasp_static_maker(), bulk("Cu")).maker.input_set_generator.user_kpoints_settings == {}


def test_a_density_of_k_points_gives_one_point_along_vacuum() -> None:
    maker = vasp_static_maker()
    maker.input_set_generator.user_kpoints_settings = {"reciprocal_density": 1000}
    assert told_for(maker, wide_slab()).maker.input_set_generator.user_kpoints_settings.kpts[0][2] == 1
    own: Any = Kpoints.gamma_automatic((3, 3, 2))
    maker.input_set_generator.user_kpoints_settings = own  # what was given as a mesh stays
    assert told_for(maker, wide_slab()).maker.input_set_generator.user_kpoints_settings is own


def test_the_key_of_a_slab_does_not_change_with_its_k_points_along_vacuum() -> None:
    oracle = OracleMaker(static_maker=vasp_static_maker())
    asked = oracle.asked(wide_slab())
    assert asked.kpoints is None
    assert asked.settings["KSPACING"] == 0.22


def test_the_centre_of_a_slab_across_a_face() -> None:
    maker = vasp_static_maker({"LDIPOL": True})
    height = wide_slab().cell.lengths()[2]
    told = told_for(maker, wide_slab(shift=height / 2))
    assert abs((told.maker.input_set_generator.user_incar_settings["DIPOL"][2] + 0.5) % 1 - 0.5) < 1e-3


def test_atoms_alone_and_a_direction_of_ones_own_stay_as_they_are() -> None:
    alone = bulk("Cu")
    alone.set_cell([12, 12.5, 13])
    told = told_for(isolated_atom_maker({"LDIPOL": True}), alone)
    assert told.maker.input_set_generator.user_incar_settings["LDIPOL"] is None
    own = {"LDIPOL": True, "IDIPOL": 3, "DIPOL": [0.5, 0.5, 0.4]}
    settings = told_for(vasp_static_maker(own), wide_slab()).maker.input_set_generator.user_incar_settings
    assert {key: settings[key] for key in own} == own


def test_spins_need_a_calculation_with_spin() -> None:
    atoms = bulk("Fe", cubic=True)
    atoms.info["multiplicity"] = 3
    with pytest.raises(InvalidInputError, match="Fe2 has a spin multiplicity of 3, and VASP computes without spin"):
        told_for(vasp_static_maker({"ISPIN": 1}), atoms)
    del atoms.info["multiplicity"]
    atoms.set_initial_magnetic_moments([2, -2])
    with pytest.raises(InvalidInputError, match="Fe2 has magnetic moments, and VASP computes without spin"):
        told_for(vasp_static_maker({"ISPIN": 1}), atoms)
    told = told_for(vasp_static_maker({"MAGMOM": {"Fe": 5}}), atoms)
    written = told.maker.input_set_generator.get_input_set(told.structure, potcar_spec=True)["INCAR"]
    assert written["MAGMOM"] == [2, -2]
