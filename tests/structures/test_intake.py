"""What happens to everything that a structure can carry."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule, niggli_reduce
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixScaled
from ase.io.lammpsdata import write_lammps_data
from pymatgen.core import Lattice, Molecule, Species, Structure
from pymatgen.io.cif import CifWriter

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.given import as_conditions, as_frames
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.runfile.structures import load_structure
from mlip_autopipec.structures.intake import raw_forces, take_in
from mlip_autopipec.structures.masses import mass_of_elements

CIF = """data_alloy
_cell_length_a 3.8
_cell_length_b 3.8
_cell_length_c 3.8
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cu1 Cu 0 0 0 0.55
"""


def copper() -> Atoms:
    return bulk("Cu", cubic=True)


def with_info(**info: object) -> Atoms:
    atoms = copper()
    atoms.info.update(info)
    return atoms


def with_array(name: str, values: list[float]) -> Atoms:
    atoms = copper()
    atoms.set_array(name, np.array(values))
    return atoms


def with_set(what: str, value: object) -> Atoms:
    atoms = copper()
    getattr(atoms, f"set_{what}")(value)
    return atoms


def computed() -> Atoms:
    atoms = copper()
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((4, 3)))
    return atoms


def with_moments_computed() -> Atoms:
    """As ASE reads a column ``magmom`` of extxyz."""
    atoms = copper()
    atoms.calc = SinglePointCalculator(atoms, magmom=np.array([1.0, -1.0, 0, 0]))
    return atoms


def at(index: int, value: float) -> Atoms:
    atoms = copper()
    atoms.positions[index, 2] = value
    return atoms


def renumbered(index: int, number: int) -> Atoms:
    atoms = copper()
    atoms.numbers[index] = number
    return atoms


def left_handed() -> Atoms:
    atoms = copper()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    return atoms


def in_bohr() -> Atoms:
    atoms = copper()
    atoms.set_cell(atoms.cell.array / units.Bohr, scale_atoms=True)
    return atoms


def gapped(gap: float) -> Atoms:
    atoms = fcc111("Cu", (1, 1, 3), vacuum=gap / 2)
    atoms.pbc = True
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


#: Field, a structure that carries it, what is said of it (None: nothing), what is kept of it.
TAKEN = {
    "positions, cell, pbc": (copper(), None, ""),
    "tags": (with_set("tags", [1, 2, 3, 4]), None, "tags"),
    "info": (with_info(spacegroup="Fm-3m", energy=-3.0), None, ""),
    "other arrays": (with_array("gamma", [1.0] * 4), None, ""),
    "celldisp": (with_set("celldisp", [0.1, 0, 0]), None, ""),
    "calculator": (computed(), r"what was computed for it \(energy, forces\) is not used", ""),
    "velocities of zero": (with_set("velocities", np.zeros((4, 3))), r"velocities \(0 K\) are not used", ""),
    "velocities": (with_set("velocities", np.full((4, 3), 0.01)), r"velocities \(\d+ K\) are not used", ""),
    "masses of the elements": (with_set("masses", [63.546] * 4), None, ""),
    "masses of an isotope": (with_set("masses", [64.928] * 4), r"masses of its own are used: Cu 64\.93 u", "masses"),
    "charges of the atoms": (
        with_set("initial_charges", [1, -1, 1, -1]),
        r"charges of the atoms, neutral in all, are not",
        "",
    ),
    "total charge of zero": (with_info(charge=0, spin=1), None, ""),
    "a total charge": (with_info(charge=1), r"total charge of \+1 e \(charge\)", "charge=1"),
    "a total charge by another name": (with_info(total_charge=np.array([-2])), r"total charge of -2 e", "charge=-2"),
    "charges of the atoms that add up": (
        with_set("initial_charges", [1, 0, 0, 0]),
        r"total charge of \+1 e \(sum of initial_charges\)",
        "charge=1",
    ),
    "a spin multiplicity": (with_info(spin=3), r"spin multiplicity of 3 \(spin\)", "multiplicity=3"),
    "ferromagnetic moments": (
        with_set("initial_magnetic_moments", [2.0] * 4),
        r"labels begin with its magnetic moments \(2 to 2",
        "initial_magmoms",
    ),
    "an antiferromagnet": (
        with_set("initial_magnetic_moments", [2, -2, 2, -2]),
        r"labels begin with its magnetic moments \(-2 to 2",
        "initial_magmoms",
    ),
    "moments of zero": (with_set("initial_magnetic_moments", [0.0, 0.01, 0, 0]), None, ""),
    "fixed atoms": (with_set("constraint", FixAtoms([0, 2])), r"2 of 4 atoms are fixed in it", "fixed"),
    "atoms fixed along all axes": (
        with_set("constraint", [FixScaled([1], [True] * 3), FixCartesian([0], (1, 1, 1))]),
        r"2 of 4 atoms are fixed",
        "fixed",
    ),
    "atoms fixed along one axis": (
        with_set("constraint", FixCartesian([0], (0, 0, 1))),
        r"constraints are not used: FixCartesian \(1\)",
        "",
    ),
    "other constraints": (with_set("constraint", FixBondLength(0, 1)), r"not used: FixBondLengths? \(1\)", ""),
    "full occupancy": (with_info(occupancy={"0": {"Cu": 1.0}}), None, ""),
    "a charge in capitals": (with_info(Charge=1), r"total charge of \+1 e \(Charge\)", "charge=1"),
    "a charge that nobody gave": (with_info(charge=None), None, ""),
    "charges by another name": (
        with_array("charges", [1.0, 0, 0, 0]),
        r"'charges' of its atoms is not used; ASE's",
        "",
    ),
    "moments of a comment": (
        with_info(MAGMOM=[1.0, -1.0, 0, 0]),
        r"'MAGMOM' of its comment \(info\) is not used; ASE's name is initial_magmoms, a column",
        "",
    ),
    "moments of a comment as VASP writes them": (
        with_info(MAGMOM="2*1 2*0"),
        r"'MAGMOM' of its comment \(info\) is not used",
        "",
    ),
    "moments of a comment that are zero": (with_info(magmoms=[0.0] * 4), None, ""),
    "moments that look computed": (with_moments_computed(), r"'magmom' of its atoms is not used; ASE's name is", ""),
    "a charge by a letter": (with_info(q=1.0), r"'q' of its comment \(info\), 1\.0, is not used; the name is ch", ""),
    "a charge by a letter that is none": (with_info(q=0.0), None, ""),
    "a column fix": (
        with_array("fix", [True, False, False, False]),
        r"'fix' of its atoms is not used and freezes nothing; the column 'frozen' \(T for .*\) does",
        "",
    ),
    "a column Frozen": (with_array("Frozen", [True, False, False, False]), r"'Frozen' of its atoms is not used", ""),
    "frozen atoms of a comment": (with_info(frozen=[0, 1]), r"'frozen' of its comment \(info\) is not used", ""),
    "a bare word of a comment": (with_info(fix=True), None, ""),
    "a column fixed": (
        with_array("fixed", [True, False, False, True]),
        r"2 of 4 atoms are fixed in it; that alone freezes nothing in MD, `frozen: from_structure` does",
        "fixed",
    ),
    "moments by another name": (with_array("magmoms", [1.0] * 4), r"'magmoms' .* ASE's name is initial_magmoms", ""),
    "velocities that are no numbers": (
        with_set("velocities", np.full((4, 3), np.nan)),
        r"velocities that are no num",
        "",
    ),
    "lengths in bohr": (in_bohr(), r"nearest atoms are 4\.82 A apart, 1\.8 times .* in bohr, multiply", ""),
    "a gap that is no vacuum": (gapped(4.0), r"a gap of 4\.0 A along cell vector 3 is no vacuum", ""),
    "a layered crystal": (gapped(3.3), None, ""),
    "occupancy 0 of a PDB file": (with_array("occupancy", [0.0] * 4), None, ""),
}


@pytest.mark.parametrize("field", TAKEN)
def test_what_is_taken_in_and_what_is_said(field):
    given, said, kept = TAKEN[field]
    before = given.copy()
    taken = take_in(given, "Cu.cif")
    arrays = [name for name in kept.split() if "=" not in name]
    info = {name: int(value) for name, value in (entry.split("=") for entry in kept.split() if "=" in entry)}
    assert len(taken.remarks) == (said is not None) + ("sum of" in str(said))
    if said is not None:
        assert re.search(rf"^Cu\.cif: .*{said}", taken.remarks[0])
    assert set(taken.atoms.arrays) == {"numbers", "positions", *arrays}
    assert taken.atoms.info == info
    assert not taken.atoms.constraints
    assert taken.atoms.calc is None
    assert (taken.atoms.positions == given.positions).all()
    assert given == before
    assert take_in(taken.atoms, "again").atoms == taken.atoms


def no_charge_and(charge: float) -> Atoms:
    atoms = with_info(charge=0)
    atoms.set_initial_charges([charge, 0, 0, 0])
    return atoms


REFUSED = {
    "a charge that is no whole number": (
        with_info(charge=0.5),
        r"total charge of \+0\.5 e \(charge\), no whole number",
    ),
    "partial charges that do not add up": (with_set("initial_charges", [0.4, 0, 0, 0]), r"\+0\.4 e \(sum of initial_c"),
    "charges of the atoms that are not finite": (
        with_set("initial_charges", [np.inf, 0, 0, 0]),
        r"charges of its atoms \(initial_charges\) are not all finite",
    ),
    "charges of the atoms that are no numbers": (with_set("initial_charges", [np.nan, 0, 0, 0]), r"are not all finite"),
    "a charge that is no number": (with_info(charge=np.nan), r"charge is nan; give one whole number"),
    "a charge of each atom": (with_info(charge=[1, 0, 0, 0]), r"charge is \[1, 0, 0, 0\]; give one"),
    "two charges": (with_info(charge=1, total_charge=2), r"charge is 1 and total_charge is 2; take out"),
    "two spins": (with_info(spin=1, multiplicity=3), r"spin is 1 and multiplicity is 3; take out"),
    "no charge, and charges that add up": (no_charge_and(1.0), r"charge is 0 and the charges of its atoms .* \+1 e"),
    "a multiplicity that cannot be": (with_info(spin=2), r"\(spin\) has 116 electrons, which have no spin multipl"),
    "a singlet of an odd number of electrons": (
        with_info(multiplicity=1, charge=1),
        r"115 electrons, which have no spin",
    ),
    "no multiplicity": (with_info(multiplicity=0), r"spin multiplicity of 0 \(multiplicity\); it is 2S \+ 1"),
    "a negative multiplicity": (with_info(spin=-3), r"spin multiplicity of -3 \(spin\); it is 2S"),
    "a spin of a half": (with_info(spin=0.5), r"spin multiplicity of 0\.5 \(spin\); it is 2S"),
    "more unpaired electrons than there are": (with_info(multiplicity=201), r"116 electrons, which have no spin mul"),
    "moments that are no numbers": (with_set("initial_magnetic_moments", [np.nan] * 4), r"not finite"),
    "moments that are not collinear": (with_set("initial_magnetic_moments", np.eye(4, 3)), r"non-collinear"),
    "partial occupancy": (with_info(occupancy={"0": {"Cu": 0.5, "Au": 0.5}}), r"Cu 0\.5, Au 0\.5.*quasirandom"),
    "vacancies": (with_info(occupancy={"0": {"Cu": 0.9}}), r"Cu 0\.9"),
    "partial occupancy of a PDB file": (with_array("occupancy", [1, 0.4, 1, 1]), r"atom 1 \(Cu 0\.4\) is partly"),
    "two isotopes": (with_set("masses", [62.93, 64.93, 62.93, 62.93]), r"Cu has masses of 62\.930 and 64\.930 u"),
    "masses in other units": (with_set("masses", [1.0] * 4), r"atom 0 \(Cu\) has a mass of 1, and Cu has 63\.546"),
    "positions that are no numbers": (at(2, np.nan), r"position 2 is .*nan"),
    "dummy atoms": (renumbered(1, 0), r"atom 1 is 'X', no element"),
}


@pytest.mark.parametrize("name", ["frozen", "fixed"])
def test_a_column_of_words_says_which_atoms(tmp_path, name):
    line = f'2\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3:{name}:S:1\nFe 0 0 0 %s\nFe 1.5 1.5 1.5 %s\n'
    for no, yes in (("no", "yes"), ("False", "True"), ("F", "t"), ("0", "1")):
        (tmp_path / "a.xyz").write_text(line % (no, yes))
        taken = load_structure(tmp_path, tmp_path / "a.xyz", None, None)
        assert taken.atoms.arrays[name].tolist() == [False, True]
    if name == "frozen":
        assert "1 of 2 atoms do not move in MD (its 'frozen')" in taken.remarks[-1]
        (tmp_path / "a.xyz").write_text(line % ("yes", "yes"))
        with pytest.raises(InvalidInputError, match="'frozen' holds all 2 atoms; leave some to move"):
            load_structure(tmp_path, tmp_path / "a.xyz", None, None)
    (tmp_path / "a.xyz").write_text(line % ("no", "maybe"))
    with pytest.raises(InvalidInputError, match=f"'{name}' of an atom is 'maybe'; give T or F"):
        load_structure(tmp_path, tmp_path / "a.xyz", None, None)


def test_a_charge_that_is_the_sum_of_oxidation_states_says_nothing():
    salt = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    salt.add_oxidation_state_by_element({"Mg": 2, "O": -1})
    for given in (salt, Structure.from_dict(salt.as_dict())):
        assert "charge" not in take_in(given, "MgO.json").atoms.info
    (told,) = [one for one in take_in(given, "MgO.json").remarks if "charge" in one]
    assert "its charge of +1 e is the sum of its oxidation states" in told
    assert take_in(salt.copy().set_charge(2), "MgO.json").atoms.info["charge"] == 2


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_refused(field):
    given, told = REFUSED[field]
    with pytest.raises(InvalidInputError, match=f"^Cu.cif:?.*{told}"):
        take_in(given, "Cu.cif")


def test_a_slab_that_wrapping_cut_in_two_is_joined():
    whole = fcc111("Cu", (2, 2, 3), vacuum=8)
    cut = whole.copy()
    cut.pbc = True
    cut.positions[:, 2] -= 9.5
    cut.wrap()
    cut.pbc = [True, True, False]
    assert np.ptp(cut.positions[:, 2]) > 15
    taken = take_in(cut, "slab.xyz")
    assert np.ptp(taken.atoms.positions[:, 2]) == pytest.approx(np.ptp(whole.positions[:, 2]))
    assert np.allclose(taken.atoms.get_all_distances(mic=True), whole.get_all_distances(mic=True))
    (remark,) = taken.remarks
    assert remark.startswith("slab.xyz: it is cut in two along cell vector 3, which is not periodic (16.0 A between")
    two = whole + whole  # which are two
    two.positions[12:, 2] += 14
    two.cell[2, 2] = 40
    assert take_in(two, "it").remarks == ()
    assert (take_in(two, "it").atoms.positions == two.positions).all()


def test_atoms_without_neighbours_are_refused_or_named(caplog):
    def make(atoms: Atoms) -> None:
        OTFMaker(oracle_maker=OracleMaker(static_maker=EMTStaticMaker())).make(atoms, 300)

    for atoms in (Atoms("Cu"), Atoms("Cu2", [[0, 0, 0], [0, 0, 9]]), bulk("Cu", cubic=True, a=12.0)):
        with pytest.raises(InvalidInputError, match=r"no atom has another one within the cutoff of 7 A, so there is"):
            make(atoms)
    make(Atoms("Cu3", [[0, 0, 0], [0, 0, 2.5], [0, 0, 20]]))
    assert "Cu3: 1 of 3 atoms have no other one within the cutoff of 7 A: 2 (Cu)." in caplog.text


def test_cells_become_right_handed():
    assert np.linalg.det(left_handed().cell.array) < 0
    assert np.linalg.det(take_in(left_handed(), "it").atoms.cell.array) > 0


FCC = ([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],)


def crystal(species: list[object], **fields: object) -> Structure:
    return Structure(Lattice.cubic(4.2), species, *FCC, **fields)


def test_pymatgen_structures():
    assert take_in(crystal(["Cu"] * 4), "it").remarks == ()
    selective = crystal(["Cu"] * 4, site_properties={"selective_dynamics": [[False] * 3, *[[True] * 3] * 3]})
    assert take_in(selective, "it").atoms.arrays["fixed"].tolist() == [True, False, False, False]
    moving = crystal(["Cu"] * 4, site_properties={"velocities": [[0.001, 0, 0]] * 4})
    assert "velocities" in take_in(moving, "it").remarks[0]
    ions = crystal([Species("Na", 1), Species("Cl", -1)] * 2)
    assert take_in(ions, "it").remarks == ()
    heavy = take_in(crystal(["D", "D", "O", "O"]), "it")
    assert heavy.atoms.get_chemical_formula() == "H2O2"
    assert heavy.atoms.get_masses()[:2] == pytest.approx(2.014, abs=1e-3)
    assert "H 2.014 u" in heavy.remarks[0]
    water = take_in(Molecule(["O", "D", "D"], [[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]]), "it")
    assert "H 2.014 u" in water.remarks[0]


def test_the_electrons_of_pymatgen_structures():
    assert take_in(crystal(["Cu"] * 4, charge=1), "it").atoms.info == {"charge": 1}
    nickel = take_in(crystal([Species("Ni", spin=5), Species("Ni", spin=-5), "O", "O"]), "it").atoms
    assert nickel.get_initial_magnetic_moments().tolist() == [5, -5, 0, 0]
    ammonium = Molecule(["N"] + ["H"] * 4, np.eye(5, 3) * 3, charge=1)
    assert take_in(ammonium, "it").atoms.info == {"charge": 1}
    ammonia = Molecule(["N"] + ["H"] * 4, np.eye(5, 3) * 3, charge=0, spin_multiplicity=2)
    assert take_in(ammonia, "it").atoms.info == {"multiplicity": 2}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (crystal([{"Cu": 0.5, "Au": 0.5}] * 4), "partly occupied"),
        (crystal([{"Cu": 0.9}] * 4), "partly occupied"),
        (crystal(["Cu"] * 4, charge=0.5), r"total charge of \+0\.5 e"),
        (crystal(["Ni"] * 4, site_properties={"magmom": [[0, 0, 2]] * 4}), "non-collinear magnetic moments"),
        (crystal(["X", "Cu", "Cu", "Cu"]), "(atom|site) 0 is 'X.*', no element"),
        ("Cu.cif", "is a str; give an ase.Atoms"),
    ],
)
def test_pymatgen_structures_that_are_refused(given, told):
    with pytest.raises(InvalidInputError, match=told):
        take_in(given, "it")


def test_the_python_interface_goes_through_the_door(caplog):
    (atoms,) = as_frames([with_set("velocities", np.zeros((4, 3)))])
    assert not atoms.has("momenta")
    assert "structures[0] (Cu4): velocities (0 K) are not used" in caplog.text
    with pytest.raises(InvalidInputError, match=r"structures\[1\] \(Cu4\) has a total charge of \+0.5"):
        as_frames([copper(), with_info(charge=0.5)])
    assert len(as_frames(crystal(["Cu"] * 4))) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("co2.cif", r"structures\[0\] is 'co2.cif', a str, and no file is read here; give ase.io.read\('co2.cif'\)"),
        ([copper(), Path("co2.cif")], r"structures\[1\] is 'co2.cif', a PosixPath, .*Structure.from_file\('co2.cif'\)"),
    ],
)
def test_names_of_files_in_python_are_told_how_to_read_them(given, told):
    with pytest.raises(InvalidInputError, match=told):
        as_frames(given)


def test_conditions_in_python_are_temperatures_or_conditions():
    found = as_conditions([300, np.int64(500), "700", Condition(300, pressure_GPa=1.0)])
    assert [one.temperature_K for one in found] == [300, 500, 700, 300]
    assert as_conditions(np.int64(300)) == as_conditions("300") == [Condition(300.0)]
    for wrong in ((300, 1), "hot", None, {"temperature_K": 300}):
        with pytest.raises(InvalidInputError, match=r"conditions\[0\] is .*give a temperature in K, or Condition\("):
            as_conditions([wrong])


def test_files_go_through_the_door(tmp_path):
    (tmp_path / "alloy.cif").write_text(CIF)
    with pytest.raises(InvalidInputError, match=r"structures.file: 'alloy.cif': a site \(Cu 0.55\) is partly occupied"):
        load_structure(tmp_path, "alloy.cif", None, None)
    (tmp_path / "structure.json").write_text(json.dumps(crystal([{"Cu": 0.5, "Au": 0.5}] * 4).as_dict()))
    with pytest.raises(InvalidInputError, match="partly occupied"):
        load_structure(tmp_path, "structure.json", None, None)
    atoms = with_set("velocities", np.zeros((4, 3)))
    atoms.set_constraint(FixAtoms([1]))
    ase.io.write(tmp_path / "CONTCAR", atoms, format="vasp")
    taken = load_structure(tmp_path, "CONTCAR", None, None)
    assert taken.atoms.arrays["fixed"].sum() == 1
    assert not taken.atoms.has("momenta")


def test_moments_behind_the_coordinates_of_a_poscar_are_said(tmp_path):
    atoms = copper()
    for constraint in ([], [FixAtoms([1])]):
        atoms.set_constraint(constraint)
        ase.io.write(tmp_path / "POSCAR", atoms, format="vasp")
        lines = (tmp_path / "POSCAR").read_text().splitlines()
        assert not [one for one in load_structure(tmp_path, "POSCAR", None, None).remarks if "behind" in one]
        (tmp_path / "POSCAR").write_text("\n".join([*lines[:-1], f"{lines[-1]} Cu -4.0"]) + "\n")
        (told,) = [one for one in load_structure(tmp_path, "POSCAR", None, None).remarks if "behind" in one]
        assert "behind its coordinates is not used ('Cu -4.0', atom 3); if it is magnetic moments, ASE's name" in told


def test_moments_of_a_cif_by_a_name_of_pymatgens_are_said(tmp_path):
    iron = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for moments, n_told in (([2.2, -2.2], 1), ([0.0, 0.0], 0)):
        iron.add_site_property("magmom", moments)
        CifWriter(iron, write_site_properties=True).write_file(tmp_path / "Fe.cif")
        remarks = load_structure(tmp_path, "Fe.cif", None, None).remarks
        told = "'_atom_site_magmom' of its atoms is not used; ASE's name is initial_magmoms"
        assert sum(told in one for one in remarks) == n_told


def test_types_of_lammps_are_no_atomic_numbers(tmp_path):
    alloy = bulk("Ni", cubic=True)
    alloy.numbers[0] = 13
    for masses in (False, True):
        write_lammps_data(tmp_path / f"{masses}.data", alloy, specorder=["Ni", "Al"], masses=masses)
    with pytest.raises(InvalidInputError, match=r"no section Masses.*elements: \[Ni, Al\]"):
        load_structure(tmp_path, "False.data", None, None)
    assert load_structure(tmp_path, "True.data", None, None).atoms.get_chemical_formula() == "AlNi3"
    taken = load_structure(tmp_path, "False.data", None, None, ["Ni", "Al"])
    assert taken.atoms.get_chemical_formula() == "AlNi3"
    ones = re.sub(r"(?m)^([12]) +[\d.]+ # (Ni|Al)", r"\1 1.0 # \2", (tmp_path / "True.data").read_text())
    (tmp_path / "ones.data").write_text(ones)
    with pytest.raises(InvalidInputError, match=r"its masses are \[1\.0, 1\.0\]"):
        load_structure(tmp_path, "ones.data", None, None)
    with pytest.raises(InvalidInputError, match="has 2 atom types"):
        load_structure(tmp_path, "False.data", None, None, ["Ni"])
    dump = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n0 3\n0 3\n0 3\n"
    (tmp_path / "walk.dump").write_text(dump + "ITEM: ATOMS id type x y z\n1 2 0 0 0\n")
    with pytest.raises(InvalidInputError, match="its columns are id type x y z"):
        load_structure(tmp_path, "walk.dump", None, None)
    assert load_structure(tmp_path, "walk.dump", None, None, ["Ni", "Al"]).atoms.symbols[0] == "Al"
    (tmp_path / "a.cif").write_text(CIF)
    with pytest.raises(InvalidInputError, match="names its elements itself"):
        load_structure(tmp_path, "a.cif", None, None, ["Cu"])


def test_forces_are_raw_whatever_is_fixed():
    slab = fcc111("Cu", (1, 1, 3), vacuum=6, periodic=True)
    slab.rattle(0.1, seed=1)
    slab.calc = EMT()
    free = slab.get_forces()
    slab.set_constraint(FixAtoms([0, 1]))
    assert np.abs(slab.get_forces()[:2]).max() == 0
    assert np.allclose(raw_forces(slab), free)


def test_masses_by_element():
    heavy = Atoms("HOH", masses=[2.014, 15.999, 2.014])
    assert mass_of_elements(["H", "O"], heavy) == [2.014, 15.999]
    assert mass_of_elements(["H", "O"]) == pytest.approx([1.008, 15.999])


def test_bonds_across_a_face_that_is_not_periodic_are_said():
    """A crystal whose pbc got lost on the way would be a cluster in vacuum, a slab a flake."""
    crystal_of = bulk("Al", cubic=True) * (2, 2, 2)
    slab = fcc111("Ag", (3, 3, 3), vacuum=8)
    for atoms, pbc, faces in ((crystal_of, False, 3), (crystal_of, (True, True, False), 1), (slab, False, 2)):
        found = atoms.copy()
        found.pbc = pbc
        said = take_in(found, "it").remarks
        assert len([one for one in said if "set pbc to True there" in one]) == faces
    boxed_molecule = molecule("CH3OH", vacuum=3)
    for atoms in (crystal_of, slab, boxed_molecule, molecule("CH3OH")):
        assert take_in(atoms, "it").remarks == ()


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        (
            [[1, 0, 0], [7, 1, 0], [5, 9, 1]],
            r"so skewed that it is 0\.06\d* A high along vector 0; shorter vecto",
        ),
        ([[1, 0, 0], [1, 0, 0], [0, 0, 1]], r"is 0 A high along vector 0: it is flat"),
    ],
    ids=["skewed", "flat"],
)
def test_a_skewed_cell_is_no_flat_one(turns, told):
    cell = np.array(turns) @ copper().cell.array
    with pytest.raises(InvalidInputError, match=told):
        take_in(Atoms("Cu4", positions=copper().positions, cell=cell, pbc=True), "s")
    if "skewed" in told:
        reduced = Atoms("Cu4", positions=copper().positions, cell=cell, pbc=True)
        niggli_reduce(reduced)
        assert take_in(reduced, "s").atoms.get_volume() == pytest.approx(copper().get_volume())


def test_an_element_that_is_none_is_named():
    beyond = copper()
    beyond.numbers[2] = 119
    maker = OTFMaker(oracle_maker=OracleMaker(static_maker=EMTStaticMaker()))
    with pytest.raises(InvalidInputError, match=r"structures\[0\] \(4 atoms\): atom 2 is of atomic number 119, no ele"):
        maker.make(beyond, 300)
