"""Files that programs and databases of many years have written: what they say has to reach the structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from pymatgen.core import Lattice, Structure

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.intake import take_in
from mlip_autopipec.structures.readers import read_structure

if TYPE_CHECKING:
    from pathlib import Path

CIF = """data_a
{more}
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {c}
_cell_angle_alpha {angle}
_cell_angle_beta {angle}
_cell_angle_gamma {gamma}
{group}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{atoms}
"""


def cif(group: str, atoms: str, a: float = 5.43, more: str = "", **cell: float) -> str:
    """Return a CIF file; ``group`` are lines about its space group."""
    full = {"c": a, "angle": 90.0, "gamma": cell.get("angle", 90.0)} | cell
    return CIF.format(group=group, atoms=atoms, a=a, more=more, **full)


def named(name: str) -> str:
    """Return the line that names a space group."""
    return f"_symmetry_space_group_name_H-M '{name}'"


@pytest.mark.parametrize("name", ["F d -3 m :2", "F d -3 m Z", "F d -3 m:2"])
def test_the_second_origin_of_a_group_is_read(tmp_path: Path, name: str) -> None:
    """Silicon of which only the atom at 1/8 is given; with the first origin it would be 16 atoms."""
    (tmp_path / "a.cif").write_text(cif(named(name), "Si1 Si .125 .125 .125"))
    found = read_structure(tmp_path / "a.cif")
    assert len(found.structure) == 8
    assert found.structure.get_all_distances(mic=True)[0, 1:].min() == pytest.approx(5.43 * 3**0.5 / 4)
    assert found.remarks == ()


def test_hexagonal_axes_of_a_rhombohedral_group_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(cif(named("R -3 m H"), "Bi1 Bi 0 0 .234", a=4.54, c=11.8, gamma=120.0))
    assert len(read_structure(tmp_path / "a.cif").structure) == 6


def test_a_group_without_operations_and_setting_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.cif"
    path.write_text(cif(named("F d -3 m"), "Si1 Si 0 0 0"))
    (told,) = read_structure(path).remarks
    assert "'F d -3 m' without its operations, which has several settings" in told
    path.write_text(cif(named("F m -3 m"), "Cu1 Cu 0 0 0", a=3.6))
    assert read_structure(path).remarks == ()


def test_rhombohedral_axes_are_not_taken_for_hexagonal_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.cif"
    path.write_text(cif(named("R -3 m"), "Bi1 Bi .234 .234 .234", a=4.72, angle=57.3))
    with pytest.raises(InvalidInputError, match=r"a.cif.*rhombohedral axes.*':R' behind"):
        read_structure(path)
    path.write_text(cif(named("R -3 m :R"), "Bi1 Bi .234 .234 .234", a=4.72, angle=57.3))
    assert len(read_structure(path).structure) == 2


@pytest.mark.parametrize(
    ("formula", "units", "allowed"),
    [("Si", 8, True), ("Si8", 8, True), ("Si8", 1, True), ("Si2", 4, True), ("Si", 4, False), ("Si", 16, False)],
)
def test_a_cell_of_another_number_of_units_is_refused(tmp_path: Path, formula: str, units: int, allowed: bool) -> None:
    more = f"_chemical_formula_sum '{formula}'\n_cell_formula_units_Z {units}"
    path = tmp_path / "a.cif"
    path.write_text(cif(named("F d -3 m :1"), "Si1 Si 0 0 0", more=more))
    if allowed:
        assert len(read_structure(path).structure) == 8
        return
    with pytest.raises(InvalidInputError, match=rf"a.cif.*cell holds {units} units of Si.*it holds 8 atoms"):
        read_structure(path)


@pytest.mark.parametrize("name", ["a.mcif", "a.cif"])
@pytest.mark.parametrize(("axis", "others"), [("0 0 2.5", "0 0 -2.5"), ("1.5 0 0", "1.5 0 0")])
def test_moments_of_a_magnetic_cif_are_taken_over(tmp_path: Path, name: str, axis: str, others: str) -> None:
    moments = f"loop_\n_atom_site_moment.label\n{{}}Fe1 {axis}\nFe2 {others}\n".format(
        "".join(f"_atom_site_moment.crystalaxis_{x}\n" for x in "xyz")
    )
    (tmp_path / name).write_text(cif(named("P 1"), "Fe1 Fe 0 0 0\nFe2 Fe .5 .5 .5", a=2.87) + moments)
    taken = take_in(read_structure(tmp_path / name).structure, name)
    size = float(next(word for word in axis.split() if word != "0"))
    sign = -1 if "-" in others else 1
    assert np.allclose(np.abs(taken.atoms.get_initial_magnetic_moments()), size)
    assert np.sign(taken.atoms.get_initial_magnetic_moments()).prod() == sign
    assert any("labels begin with its magnetic moments" in one for one in taken.remarks)


def test_moments_of_a_magnetic_cif_that_are_not_collinear_are_refused(tmp_path: Path) -> None:
    axes = "".join(f"_atom_site_moment.crystalaxis_{x}\n" for x in "xyz")
    moments = f"loop_\n_atom_site_moment.label\n{axes}Fe1 0 0 2\nFe2 0 2 0\n"
    (tmp_path / "a.mcif").write_text(cif(named("P 1"), "Fe1 Fe 0 0 0\nFe2 Fe .5 .5 .5", a=2.87) + moments)
    with pytest.raises(InvalidInputError, match="non-collinear magnetic moments"):
        take_in(read_structure(tmp_path / "a.mcif").structure, "iron")


def pdb(*atoms: tuple[str, str, float], group: str | None = None, cell: float = 8.0) -> str:
    """Return a PDB file of atoms with a name, an alternative place, and an x in A."""
    head = "" if group is None else f"CRYST1{cell:9.3f}{cell:9.3f}{cell:9.3f}  90.00  90.00  90.00 {group:<11}   1\n"
    lines = [
        f"HETATM{i + 1:5d}  {name:<3}{place or ' '}HOH A   1    {x:8.3f}   0.000   0.000  1.00  0.00{name:>12}\n"
        for i, (name, place, x) in enumerate(atoms)
    ]
    return head + "".join(lines) + "END\n"


def test_a_part_of_a_cell_of_a_pdb_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pdb"
    path.write_text(pdb(("O", "", 0.0), ("H", "", 0.97), group="P 21 21 21"))
    with pytest.raises(InvalidInputError, match=r"a.pdb.*space group is P 21 21 21.*with P 1"):
        read_structure(path)
    path.write_text(pdb(("O", "", 0.0), ("H", "", 0.97), group="P 1"))
    assert read_structure(path).structure.pbc.all()


def test_a_cell_of_a_pdb_file_that_stands_for_none_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.pdb"
    path.write_text(pdb(("O", "", 0.0), ("H", "", 0.97), group="P 1", cell=1.0))
    found = read_structure(path)
    assert found.remarks == ("its cell of 1 A stands for none (CRYST1), and is left out",)
    assert not found.structure.pbc.any()
    assert found.structure.cell.rank == 0


def test_alternative_places_of_an_atom_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pdb"
    path.write_text(pdb(("O", "", 0.0), ("H", "A", 0.97), ("H", "B", -0.97)))
    with pytest.raises(InvalidInputError, match=r"a.pdb.*alternative places \(A, B"):
        read_structure(path)


def test_of_the_models_of_a_pdb_file_the_last_is_read(tmp_path: Path) -> None:
    one = pdb(("O", "", 0.0), ("H", "", 0.97)).replace("END\n", "ENDMDL\n")
    (tmp_path / "a.pdb").write_text(f"MODEL 1\n{one}MODEL 2\n{one}END\n")
    assert len(read_structure(tmp_path / "a.pdb").structure) == 2


GRO = "x\n{n}\n{lines}   2.00000   2.00000   2.00000\n"


def gro(*atoms: tuple[str, str]) -> str:
    """Return a file of GROMACS of atoms with a residue and a name."""
    lines = "".join(
        f"    1{residue:<5}{name:>5}{i + 1:5d}{0.3 * i:8.3f}   0.000   0.000\n"
        for i, (residue, name) in enumerate(atoms)
    )
    return GRO.format(n=len(atoms), lines=lines)


def test_ions_of_gromacs_are_no_nitrogen_and_carbon(tmp_path: Path) -> None:
    path = tmp_path / "a.gro"
    path.write_text(gro(("NA", "NA"), ("CL", "CL"), ("SOL", "OW"), ("ALA", "CA")))
    found = read_structure(path)
    assert list(found.structure.symbols) == ["Na", "Cl", "O", "C"]
    assert "guessed from the names of its atoms: NA Na, CL Cl, OW O, CA C" in found.remarks[0]


def test_a_virtual_site_is_no_tungsten(tmp_path: Path) -> None:
    path = tmp_path / "a.gro"
    path.write_text(gro(("SOL", "OW"), ("SOL", "MW")))
    with pytest.raises(InvalidInputError, match=r"a.gro.*its atom 1 is called MW, a site without a nucleus"):
        read_structure(path)


def test_elements_behind_names_of_dlpoly_are_said(tmp_path: Path) -> None:
    (tmp_path / "CONFIG").write_text("x\n0 3 2\n10 0 0\n0 10 0\n0 0 10\nOW 1\n0 0 0\nHW 2\n.76 .59 0\n")
    assert "OW O, HW H" in read_structure(tmp_path / "CONFIG").remarks[0]


@pytest.mark.parametrize(("unit", "refused"), [("lj", True), ("si", True), ("metal", False), (None, False)])
def test_lengths_of_lammps_in_another_unit_are_refused(tmp_path: Path, unit: str | None, refused: bool) -> None:
    atoms = bulk("Cu", cubic=True)
    rows = "".join(f"{i + 1} Cu {x} {y} {z}\n" for i, (x, y, z) in enumerate(atoms.positions))
    head = "" if unit is None else f"ITEM: UNITS\n{unit}\n"
    dump = (
        f"{head}ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n4\nITEM: BOX BOUNDS pp pp pp\n0 3.61\n0 3.61\n0 3.61\n"
        f"ITEM: ATOMS id element x y z\n{rows}"
    )
    made = "made" if unit is None else f"made, units = {unit}"
    data = (
        f"{made}\n\n4 atoms\n1 atom types\n\n0 3.61 xlo xhi\n0 3.61 ylo yhi\n"
        f"0 3.61 zlo zhi\n\nMasses\n\n1 63.546\n\nAtoms # atomic\n\n{rows.replace('Cu', '1')}"
    )
    for name, text in (("a.lammpstrj", dump), ("a.data", data)):
        (tmp_path / name).write_text(text)
        if refused:
            with pytest.raises(InvalidInputError, match=rf"{name}.*its units are '{unit}'"):
                read_structure(tmp_path / name)
        else:
            assert len(read_structure(tmp_path / name).structure) == 4


def test_a_poscar_with_more_elements_than_numbers_is_refused(tmp_path: Path) -> None:
    text = "x\n3.6\n1 0 0\n0 1 0\n0 0 1\n{}\n{}\nDirect\n0 0 0\n.5 .5 0\n.5 0 .5\n0 .5 .5\n"
    (tmp_path / "POSCAR").write_text(text.format("Cu Au", "4"))
    with pytest.raises(InvalidInputError, match=r"POSCAR.*names 2 elements \(Cu Au\) and gives 1 numbers"):
        read_structure(tmp_path / "POSCAR")
    (tmp_path / "POSCAR").write_text(text.format("Cu Au ! alloy", "3 1 ! of four"))
    assert read_structure(tmp_path / "POSCAR").structure.get_chemical_formula() == "AuCu3"


@pytest.mark.parametrize("symmetry", ["LATT 4\n", "LATT -1\nSYMM -X,-Y,Z\n"])
def test_symmetry_of_a_res_file_is_not_passed_over(tmp_path: Path, symmetry: str) -> None:
    (tmp_path / "a.res").write_text(f"TITL x\nCELL 1.0 3.6 3.6 3.6 90 90 90\n{symmetry}SFAC Cu\nCu 1 0 0 0 1.0\nEND\n")
    with pytest.raises(InvalidInputError, match=r"a.res.*symmetry \(LATT, SYMM\) that is not applied"):
        read_structure(tmp_path / "a.res")


ESPRESSO = """&CONTROL
 calculation = 'scf'
/
&SYSTEM
 ibrav = 0, nat = 2, ntyp = 1, ecutwfc = 40{more}
/
&ELECTRONS
/
ATOMIC_SPECIES
Cu 63.5 Cu.upf
CELL_PARAMETERS angstrom
3.6 0 0
0 3.6 0
0 0 3.6
ATOMIC_POSITIONS crystal
Cu 0 0 0
Cu .5 .5 0
K_POINTS gamma
"""


@pytest.mark.parametrize(
    ("more", "charge", "multiplicity"),
    [
        ("", None, None),
        (", tot_charge = 1.0", 1, None),
        (", tot_charge = -1d0", -1, None),
        (", nspin = 2, tot_magnetization = 2", None, 3),
        ("\n! tot_charge = 3", None, None),
    ],
)
def test_electrons_of_an_input_of_espresso_are_taken_over(
    tmp_path: Path, more: str, charge: int | None, multiplicity: int | None
) -> None:
    (tmp_path / "pw.in").write_text(ESPRESSO.format(more=more))
    info = take_in(read_structure(tmp_path / "pw.in").structure, "pw.in").atoms.info
    assert (info.get("charge"), info.get("multiplicity")) == (charge, multiplicity)


def test_fractional_moments_of_an_input_of_espresso_are_left_out(tmp_path: Path) -> None:
    text = ESPRESSO.format(more=", nspin = 2, starting_magnetization(1) = 0.5, starting_magnetization(2) = -0.5")
    text = text.replace("ntyp = 1", "ntyp = 2").replace("Cu 63.5 Cu.upf", "Fe1 55.8 Fe.upf\nFe2 55.8 Fe.upf")
    (tmp_path / "pw.in").write_text(text.replace("Cu 0", "Fe1 0").replace("Cu .5", "Fe2 .5"))
    structure, said = read_structure(tmp_path / "pw.in")
    assert "initial_magmoms" not in take_in(structure, "pw.in").atoms.arrays
    assert any("starting_magnetization is not used" in one for one in said)


@pytest.mark.parametrize(
    ("end", "charge", "multiplicity"),
    [("$eht charge=1 unpaired=0\n", 1, None), ("$chrg -1\n$uhf 2\n", -1, 3), ("", None, None)],
)
def test_electrons_of_turbomole_and_xtb_are_taken_over(
    tmp_path: Path, end: str, charge: int | None, multiplicity: int | None
) -> None:
    (tmp_path / "coord").write_text(f"$coord\n0 0 0 f\n0 0 1.8 h\n{end}$end\n")
    info = read_structure(tmp_path / "coord").structure.info
    assert (info.get("charge"), info.get("multiplicity")) == (charge, multiplicity)


def test_the_charge_of_an_input_of_abinit_is_taken_over(tmp_path: Path) -> None:
    text = "ntypat 1\nznucl 29\nnatom 1\ntypat 1\nxred 0 0 0\nacell 6.8 6.8 6.8\nrprim 0 .5 .5 .5 0 .5 .5 .5 0\n{}"
    (tmp_path / "a.abi").write_text(text.format("charge 1\n"))
    assert read_structure(tmp_path / "a.abi").structure.info["charge"] == 1
    (tmp_path / "a.abi").write_text(text.format(""))
    assert "charge" not in read_structure(tmp_path / "a.abi").structure.info


@pytest.mark.parametrize(
    ("comment", "refused"),
    [
        ("Charge: +1, multiplicity 1", True),
        ("net charge -2", True),
        ("charge = 0", False),
        ("charge=1", False),
        ("charge density of run 3", False),
    ],
)
def test_a_charge_in_the_words_of_a_comment_is_asked_about(tmp_path: Path, comment: str, refused: bool) -> None:
    (tmp_path / "a.xyz").write_text(f"2\n{comment}\nO 0 0 0\nH 0 0 0.97\n")
    if refused:
        with pytest.raises(InvalidInputError, match=r"a.xyz.*names a charge, and is not read as such"):
            read_structure(tmp_path / "a.xyz")
    else:
        charge = take_in(read_structure(tmp_path / "a.xyz").structure, "a").atoms.info.get("charge", 0)
        assert charge == (1 if comment == "charge=1" else 0)


def test_a_cif_that_ase_wrote_comes_back_without_a_word(tmp_path: Path) -> None:
    for atoms in (bulk("NaCl", "rocksalt", a=5.64, cubic=True), bulk("Cu")):
        ase.io.write(tmp_path / "a.cif", atoms)
        found = read_structure(tmp_path / "a.cif")
        assert found.remarks == ()
        assert found.structure.get_chemical_formula() == atoms.get_chemical_formula()
    Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]).to(filename=str(tmp_path / "b.cif"))
    assert read_structure(tmp_path / "b.cif").remarks == ()
