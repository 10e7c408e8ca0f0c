"""What CP2K (atomate2) is told of a structure: one k-point and the dipole correction along vacuum; its electrons."""

from __future__ import annotations

import pytest
from ase.build import bulk, fcc111, molecule
from atomate2.cp2k.jobs.core import StaticMaker
from atomate2.cp2k.sets.core import StaticSetGenerator
from pymatgen.io.vasp import Kpoints

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.cp2k import for_cp2k
from mlip_autopipec.structures.periodicity import boxed


def mesh_of(atoms, **settings):
    told = for_cp2k(StaticMaker(input_set_generator=StaticSetGenerator(**settings)), atoms)
    generator = told.maker.input_set_generator
    return tuple(generator._get_kpoints(told.structure, generator.get_kpoints_updates(told.structure)).kpts[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_k_point_along_vacuum(axis):
    slab = fcc111("Cu", (2, 2, 3), vacuum=4)
    order = [(axis + 1) % 3, (axis + 2) % 3, axis]
    slab.set_cell(slab.cell.array[[order.index(i) for i in range(3)]])
    slab.pbc = True
    mesh = mesh_of(slab, user_kpoints_settings={"reciprocal_density": 1000})
    assert mesh[axis] == 1
    assert all(n > 1 for i, n in enumerate(mesh) if i != axis)
    assert mesh_of(boxed(molecule("H2O")), user_kpoints_settings={"reciprocal_density": 9000}) == (1, 1, 1)


def test_bulk_and_a_mesh_that_was_given_stay():
    copper = bulk("Cu", cubic=True)
    assert len(set(mesh_of(copper))) == 1
    assert mesh_of(copper)[0] > 1
    slab = boxed(fcc111("Cu", (2, 2, 3), vacuum=4))
    assert mesh_of(slab, user_kpoints_settings=Kpoints(kpts=((2, 2, 2),))) == (2, 2, 2)


def dft_of(atoms, case=str.upper, **more):
    """Return the overrides of DFT that one structure is computed with, by an oracle that corrects dipoles."""
    section = {case("SURFACE_DIPOLE_CORRECTION"): True, **more}
    settings = {"override_default_params": {case("FORCE_EVAL"): {case("DFT"): section}}}
    maker = StaticMaker(input_set_generator=StaticSetGenerator(user_input_settings=settings))
    told = for_cp2k(maker, atoms)
    (dft,) = told.maker.input_set_generator.user_input_settings["override_default_params"].values()
    assert maker.input_set_generator.user_input_settings == settings  # its key is the same for all structures
    return dft[case("DFT")], told


@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_the_dipole_correction_is_along_the_vacuum_of_each_slab(case):
    slab = boxed(fcc111("Cu", (2, 2, 3), vacuum=4))
    found, told = dft_of(slab, case)
    assert found == {"SURFACE_DIPOLE_CORRECTION": True, "SURF_DIP_DIR": "Z"}
    assert told.settings["FORCE_EVAL/DFT/SURF_DIP_DIR"] is None
    lying = slab.copy()
    lying.rotate(90, "y", rotate_cell=True)
    assert dft_of(lying, case)[0]["SURF_DIP_DIR"] == "X"
    for other in (bulk("Cu", cubic=True), boxed(molecule("H2O"))):
        assert dft_of(other, case)[0] == {}


def test_a_direction_of_ones_own_stays_and_an_oblique_slab_is_refused():
    slab = boxed(fcc111("Cu", (2, 2, 3), vacuum=4))
    assert dft_of(slab, SURF_DIP_DIR="Y")[0] == {"SURFACE_DIPOLE_CORRECTION": True, "SURF_DIP_DIR": "Y"}
    slab.rotate(30, "x", rotate_cell=True)
    with pytest.raises(LabelError, match="CP2K corrects dipoles along x, y or z"):
        dft_of(slab)


def input_of(atoms, **more) -> list[str]:
    """Return the lines of the input that is written for one structure, without spaces."""
    settings = {
        "basis_and_potential": {
            "basis_filenames": ["GTH_BASIS_SETS"],
            "potential_filename": "GTH_POTENTIALS",
            "H": {"basis": "SZV-GTH", "potential": "GTH-PADE-q1", "aux_basis": None},
        },
        "xc_functionals": ["PADE"],
        "ot": False,
        "cutoff": 250,
        "validate": False,
        **more,
    }
    generator = StaticSetGenerator(user_input_settings=settings, user_kpoints_settings=None)
    told = for_cp2k(StaticMaker(input_set_generator=generator), atoms)
    written = str(told.maker.input_set_generator.get_input_set(told.structure).cp2k_input)
    return ["".join(line.split()) for line in written.upper().splitlines()]


def test_charge_and_multiplicity_are_in_the_input_that_is_written():
    neutral = boxed(molecule("H2"))
    assert not [line for line in input_of(neutral) if line.startswith("CHARGE") and line != "CHARGE0"]
    charged = boxed(molecule("H2"))
    charged.info.update(charge=1, multiplicity=2)
    lines = input_of(charged)
    assert "CHARGE1" in lines
    assert "MULTIPLICITY2" in lines
    assert any(line.startswith("UKS") and not line.endswith(("F", "FALSE", ".FALSE.")) for line in lines)
    charged.info.update(charge=-1, multiplicity=2)
    lines = input_of(charged)
    assert "CHARGE-1" in lines
    assert "MULTIPLICITY2" in lines


@pytest.mark.parametrize("overrides", [{}, {"FORCE_EVAL": {"DFT": {"SCF": {"smear": {"FIXED_MAGNETIC_MOMENT": 5}}}}}])
def test_smeared_occupations_keep_the_multiplicity(overrides):
    """CP2K only begins with a multiplicity where it smears: H4 as a triplet had the energy of its singlet."""
    torn = boxed(molecule("H2"))
    torn.info["multiplicity"] = 3
    lines = input_of(torn, smearing=True, override_default_params=overrides)
    assert [line for line in lines if line.startswith("FIXED_MAG")] == ["FIXED_MAGNETIC_MOMENT2.0"]
    assert not [line for line in input_of(torn, smearing=False) if "SMEAR" in line]
    torn.info["multiplicity"] = 1
    assert "FIXED_MAGNETIC_MOMENT0.0" in input_of(torn, smearing=True)
