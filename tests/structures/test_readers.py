"""Files of structures give numbers; nothing they hold is imported, made or run."""

from __future__ import annotations

import gzip
import json
import pickle
import sqlite3

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from pymatgen.core import Lattice, Molecule, Structure

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures import readers
from mlip_autopipec.structures.intake import take_in
from mlip_autopipec.structures.readers import FORMATS, read_structure

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
SALT = Structure(Lattice.cubic(5.6), ["Na"] * 4 + ["Cl"] * 4, FCC + [[x, y, (z + 0.5) % 1] for x, y, z in FCC])


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize(
    "evil",
    [
        {"@module": "fireworks.core.launchpad", "@class": "LaunchPad", "host": "127.0.0.1"},
        {"@module": "antigravity", "@class": "Popen"},
        {"@module": "os", "@callable": "getcwd"},
        {"@module": "pymatgen.core.structure", "@callable": "json.loads"},
    ],
)
@pytest.mark.parametrize("where", ["property", "site", "species"])
@pytest.mark.parametrize("name", ["x.json", "x.mson"])
def test_a_structure_names_no_class(tmp_path, evil, where, name):
    import sys

    content = SALT.as_dict()
    if where == "property":
        content["properties"] = {"x": evil}
    elif where == "site":
        content["sites"][3]["properties"] = {"x": [evil]}
    else:
        content["sites"][0]["species"][0]["properties"] = {"x": evil}
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(InvalidInputError, match=rf"{name}' names the class .*only numbers and words are read"):
        read_structure(tmp_path / name)
    assert "antigravity" not in sys.modules


def test_pymatgen_s_plain_structures_and_molecules_are_read(tmp_path):
    marked = SALT.copy(site_properties={"magmom": [0.5] * 8})
    marked.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    water = Molecule(["O", "H", "H"], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    for structure, name in ((SALT, "a.json"), (marked, "b.mson"), (water, "c.json")):
        (tmp_path / name).write_text(structure.to_json())
        assert read_structure(tmp_path / name).structure == structure
    with gzip.open(tmp_path / "d.json.gz", "wt") as stream:
        stream.write(SALT.to_json())
    assert read_structure(tmp_path / "d.json.gz").structure == SALT


@pytest.mark.parametrize(
    "name", "a.xyz a.extxyz a.cif POSCAR CONTCAR.gz a.traj a.json a.xsf a.gen a.res a.in a@b.xyz geometry.in".split()
)
def test_what_ase_writes_is_read(tmp_path, name):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    atoms.get_potential_energy()
    if name == "a.in":
        ase.io.write(tmp_path / name, atoms, format="espresso-in", pseudopotentials={"Cu": "Cu.UPF"})
    elif "@" in name:
        ase.io.write(str(tmp_path / "other.xyz"), atoms)
        (tmp_path / "other.xyz").rename(tmp_path / name)
    else:
        ase.io.write(tmp_path / name, atoms)
    found, said = read_structure(tmp_path / name)
    assert said == ()
    assert found.get_chemical_formula() == "Cu4"
    assert np.allclose(found.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=1e-4)


def test_no_pickle_is_opened(tmp_path):
    for name in ("x.traj", "x.xyz", "x.json", "x.db", "POSCAR", "x.gpw", "x.pckl", "x.bundle"):
        (tmp_path / name).write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
        with pytest.raises(InvalidInputError, match=name):
            read_structure(tmp_path / name)
        (tmp_path / name).write_bytes(b"PickleTrajectory" + pickle.dumps(Touch(tmp_path / "touched")))
        with pytest.raises(InvalidInputError, match=name):
            read_structure(tmp_path / name)
    assert not (tmp_path / "touched").exists()


def test_formats_that_do_more_than_read_are_refused(tmp_path):
    sqlite3.connect(tmp_path / "x.db").execute("CREATE TABLE systems (id INTEGER)")
    for name, text in (("x.db", None), ("x.cell", "%BLOCK LATTICE_CART\n"), ("x.gjf", "# x\n"), ("x.nwi", "geometry")):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(InvalidInputError, match=r"not read here; write it as extxyz|is not known"):
            read_structure(tmp_path / name)
    assert not FORMATS & {"db", "mysql", "postgresql", "bundletrajectory", "castep-cell", "gpw", "eon"}


def test_a_packed_file_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LARGEST_BYTES", 3_000_000)
    with gzip.open(tmp_path / "x.xyz.gz", "wb") as stream:
        for _ in range(5):
            stream.write(bytes(1 << 20))
    with pytest.raises(InvalidInputError, match=r"x\.xyz\.gz' holds more than 3 MB"):
        read_structure(tmp_path / "x.xyz.gz")


def test_what_is_no_file_is_told(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, told in (("none", "does not exist"), (".", "is no file"), ("loop", "does not exist")):
        with pytest.raises(InvalidInputError, match=told):
            read_structure(tmp_path / path)
    with pytest.raises(InvalidInputError, match="is no file"):
        read_structure(type(tmp_path)("/dev/zero"))


def test_deuterium_that_ase_does_not_know_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "water.xyz").write_text("3\nheavy water\nO 0 0 0.12\nD 0 0.76 -0.47\nD 0 -0.76 -0.47\n")
    with pytest.raises(InvalidInputError, match=r"D is no element to ASE.*call it H, and give the masses"):
        read_structure(tmp_path / "water.xyz")


CIF = """data_{name}
_chemical_formula_sum '{formula}'
_cell_length_a 4.05
_cell_length_b 4.05
_cell_length_c 4.05
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{atoms}
"""
PLATINUM = "Pt1 Pt 0 0 0\nPt2 Pt 0 .5 .5\nPt3 Pt .5 0 .5\nAl4 Al .5 .5 0"


@pytest.mark.parametrize(
    ("formula", "told"),
    [
        ("Al Pt3", None),
        ("Al4 Pt12", None),
        ("Pt3 Al", None),
        ("Al H2 Pt3", "its formula is Al H2 Pt3, and the atoms are AlPt3: H have no place; add what is missing"),
        ("Al2 Pt2", "its formula is Al2 Pt2, and the atoms are AlPt3; add what is missing"),
    ],
)
def test_a_cif_that_lacks_atoms_of_its_formula_says_so(tmp_path, formula, told):
    (tmp_path / "a.cif").write_text(CIF.format(name="x", formula=formula, atoms=PLATINUM))
    assert read_structure(tmp_path / "a.cif").remarks == (() if told is None else (told,))


LABELS_ALONE = CIF.replace("_atom_site_type_symbol\n", "").replace("_chemical_formula_sum '{formula}'\n", "{formula}")


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        (CIF.format(name="x", formula="NA CL", atoms="NA1 NA 0 0 0\nCL1 CL .5 .5 .5"), "ClNa"),
        (CIF.format(name="x", formula="Si O2", atoms="SI1 SI+4 0 0 0\nO1 O-2 .5 .5 .5\nO2 O-2 .5 .5 0"), "O2Si"),
        (CIF.format(name="x", formula="Co O", atoms="M1 CO 0 0 0\nO1 O .5 .5 .5"), "CoO"),
        (
            LABELS_ALONE.format(name="x", formula="_chemical_formula_sum 'Na Cl'\n", atoms="NA1 0 0 0\nCL1 .5 0 0"),
            "ClNa",
        ),
        (LABELS_ALONE.format(name="x", formula="_chemical_formula_sum 'C O'\n", atoms="CA1 0 0 0\nO1 .3 0 0"), "CO"),
    ],
)
def test_elements_of_a_cif_in_capitals(tmp_path, text, formula):
    (tmp_path / "a.cif").write_text(text)
    assert read_structure(tmp_path / "a.cif").structure.get_chemical_formula() == formula


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            CIF.format(name="x", formula="Na Cl", atoms="A N 0 0 0\nB C .5 .5 .5"),
            "formula is Na Cl, and its sites are re",
        ),
        (LABELS_ALONE.format(name="x", formula="", atoms="NA1 0 0 0\nCL1 .5 .5 .5"), "its site NA1 may be N or Na"),
    ],
)
def test_other_elements_than_those_of_the_formula_are_refused(tmp_path, text, told):
    (tmp_path / "a.cif").write_text(text)
    with pytest.raises(InvalidInputError, match=f"a.cif': .*{told}"):
        read_structure(tmp_path / "a.cif")


def test_of_several_structures_the_last_is_said(tmp_path):
    first, last = bulk("Cu", cubic=True), bulk("Cu", cubic=True) * (1, 1, 2)
    for name in ("a.xyz", "a.traj", "XDATCAR"):
        ase.io.write(tmp_path / name, [first, last] if name != "XDATCAR" else [last, last])
        found, said = read_structure(tmp_path / name)
        assert len(found) == 8
        assert said == ("it holds several structures; the last is used (Cu8)",)
    both = "".join(CIF.format(name=name, formula="Al Pt3", atoms=PLATINUM) for name in "ab")
    (tmp_path / "a.cif").write_text(both)
    assert read_structure(tmp_path / "a.cif").remarks[0].startswith("it holds several structures")


def test_elements_of_a_poscar_without_them_are_said(tmp_path):
    poscar = "{title}\n1.0\n4.05 0 0\n0 4.05 0\n0 0 4.05\n{elements}3 1\nDirect\n0 0 0\n0 .5 .5\n.5 0 .5\n.5 .5 0\n"
    path = tmp_path / "POSCAR"
    path.write_text(poscar.format(title="Pt on Al", elements=""))
    (said,) = read_structure(path).remarks
    assert "no line of elements (VASP 4): Pt, Al are taken from its first line, 'Pt on Al'" in said
    path.write_text(poscar.format(title="Cu Au", elements="Pt Al\n"))
    assert read_structure(path).remarks == ()
    path.write_text(poscar.format(title="my crystal", elements=""))
    with pytest.raises(InvalidInputError, match="has no line of elements"):
        read_structure(path)


@pytest.mark.parametrize("name", ["Al1", "13", "Gh(Al)", "Xyz"])
def test_atoms_that_are_no_elements_are_named(tmp_path, name):
    (tmp_path / "a.xyz").write_text(f"2\nc\nAl 0 0 0\n{name} 0 0 2.8\n")
    with pytest.raises(InvalidInputError, match=r"' is no element\); name the elements of its atoms"):
        read_structure(tmp_path / "a.xyz")


def test_a_carbon_of_a_protein_that_reads_as_calcium_is_said(tmp_path):
    atom = "ATOM      {n}  {name:<4}ALA A   1       {x:.3f}   0.000   0.000  1.00  0.00          {element:>2}\n"
    path = tmp_path / "a.pdb"
    for elements, said in ((("C", "N"), False), (("", ""), True)):
        path.write_text(
            atom.format(n=1, name="CA", x=0, element=elements[0])
            + atom.format(n=2, name="N", x=1.4, element=elements[1])
        )
        found = read_structure(path)
        assert any("guessed from their names" in one for one in found.remarks) == said
        assert found.structure.get_chemical_formula() == ("CaN" if said else "CN")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["extxyz", "vasp", "cif"])
def test_a_byte_order_mark_is_no_part_of_a_structure(tmp_path, kind, encoding):
    atoms = bulk("Pd", cubic=True)
    ase.io.write(tmp_path / "plain", atoms, format=kind)
    path = tmp_path / {"extxyz": "s.extxyz", "vasp": "POSCAR", "cif": "s.cif"}[kind]
    path.write_bytes((tmp_path / "plain").read_text().encode(encoding))
    found = read_structure(path).structure
    assert found.get_chemical_formula() == "Pd4"
    assert np.allclose(found.positions, atoms.positions)


_MOLFILE = """OH
  made

  2  1  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 O   0{column:3d}  0  0  0  0
    0.0000    0.0000    0.9700 H   0  0  0  0  0  0
  1  2  1  0
{properties}M  END
$$$$
"""


@pytest.mark.parametrize("name", ["s.sdf", "s.mol"])
@pytest.mark.parametrize(("column", "properties"), [(0, "M  CHG  1   1  -1\n"), (5, ""), (0, "")])
def test_the_charge_of_a_molfile_is_taken_over(tmp_path, name, column, properties):
    path = tmp_path / name
    path.write_text(_MOLFILE.format(column=column, properties=properties))
    charged = bool(column or properties)
    assert read_structure(path).structure.info.get("charge", 0) == (-1 if charged else 0)


def test_isotopes_of_a_molfile_are_refused(tmp_path):
    path = tmp_path / "s.sdf"
    path.write_text(_MOLFILE.format(column=0, properties="M  ISO  1   2   2\n"))
    with pytest.raises(InvalidInputError, match=r"s.sdf.*isotopes.*masses:R:1"):
        read_structure(path)


def test_formal_charges_of_a_pdb_file_are_taken_over(tmp_path):
    path = tmp_path / "s.pdb"
    line = "HETATM    {}  {}   LIG     1       0.000   0.000   {:.3f}  1.00  0.00          {:>2}{}\n"
    path.write_text(line.format(1, "O", 0.0, "O", "1-") + line.format(2, "H", 0.97, "H", "") + "END\n")
    assert read_structure(path).structure.info["charge"] == -1


@pytest.mark.parametrize(("comment", "refused"), [("-1 1", True), ("0 2", True), ("0 1", False), ("step 1", False)])
def test_a_comment_that_is_charge_and_multiplicity_is_asked_about(tmp_path, comment, refused):
    path = tmp_path / "s.xyz"
    path.write_text(f"2\n{comment}\nO 0 0 0\nH 0 0 0.97\n")
    if not refused:
        assert len(read_structure(path).structure) == 2
        return
    with pytest.raises(InvalidInputError, match=r"s.xyz.*looks like a charge and a multiplicity.*multiplicity="):
        read_structure(path)


@pytest.mark.parametrize(("occupancy", "refused"), [("0.5", True), ("10.25", True), ("1.0", False), ("11.0", False)])
def test_a_partly_occupied_site_of_a_res_file_is_refused(tmp_path, occupancy, refused):
    path = tmp_path / "s.res"
    sites = "".join(f"Cu 1 {site} 1.0\n" for site in (".5 .5 0", ".5 0 .5", "0 .5 .5"))
    path.write_text(f"TITL x\nCELL 1.0 3.6 3.6 3.6 90 90 90\nLATT -1\nSFAC Cu\nCu 1 0 0 0 {occupancy}\n{sites}END\n")
    if not refused:
        assert len(read_structure(path).structure) == 4
        return
    with pytest.raises(InvalidInputError, match=r"s.res.*the site Cu has an occupancy of 0\.(5|25)"):
        read_structure(path)


def test_masses_that_contradict_their_comments_are_refused(tmp_path):
    path = tmp_path / "alloy.data"
    text = (
        "made\n\n2 atoms\n2 atom types\n\n0 3 xlo xhi\n0 3 ylo yhi\n0 3 zlo zhi\n\n"
        "Masses\n\n1 58.69 # {}\n2 26.98 # {}\n\n"
        "Atoms # atomic\n\n1 1 0 0 0\n2 2 1.5 1.5 1.5\n"
    )
    path.write_text(text.format("Al", "Ni"))
    with pytest.raises(InvalidInputError, match=r"its mass 26\.98 has the comment Ni.*elements: \[Ni, Al\]"):
        read_structure(path)
    for comments in (("Ni", "Al"), ("nickel", "type 2")):
        path.write_text(text.format(*comments))
        assert read_structure(path).structure.get_chemical_formula() == "AlNi"


def test_files_of_another_role_are_named(tmp_path):
    (tmp_path / "POSCAR").write_text("")
    with pytest.raises(InvalidInputError, match="POSCAR' is empty"):
        read_structure(tmp_path / "POSCAR")
    (tmp_path / "run.yaml").write_text("name: x\nstructures: [{bulk: {name: Cu}}]\n")
    with pytest.raises(InvalidInputError, match=r"run.yaml' is a run file"):
        read_structure(tmp_path / "run.yaml")
    (tmp_path / "aims.out").write_text("          Invoking FHI-aims ...\n  Begin self-consistency loop\n")
    with pytest.raises(InvalidInputError, match=r"aims.out' is an output of FHI-aims of a run that did not end"):
        read_structure(tmp_path / "aims.out")


def test_a_column_occ_is_an_occupancy():
    atoms = bulk("Cu", cubic=True)
    atoms.set_array("occ", np.array([0.5, 1, 1, 1]))
    with pytest.raises(InvalidInputError, match=r"atom 0 \(Cu 0.5\) is partly occupied"):
        take_in(atoms, "s")


def test_a_file_that_is_cut_off_is_told_by_frame_and_lines(tmp_path):
    ase.io.write(tmp_path / "s.extxyz", [bulk("Cu", cubic=True)] * 3)
    text = (tmp_path / "s.extxyz").read_text()
    (tmp_path / "s.extxyz").write_text(text[:-40])
    with pytest.raises(InvalidInputError, match=r"cannot be read in frame 2, lines 13 to 18 .*take that frame out"):
        read_structure(tmp_path / "s.extxyz")


def test_formats_that_are_not_read_say_what_to_write_instead(tmp_path):
    ase.io.write(tmp_path / "s.db", bulk("Cu", cubic=True))
    with pytest.raises(InvalidInputError, match=r"write it as extxyz, as `ase convert s.db s.extxyz` does"):
        read_structure(tmp_path / "s.db")
    SALT.to(filename=str(tmp_path / "salt.yaml"))
    with pytest.raises(InvalidInputError, match=r"is YAML, which is not read here; of pymatgen write JSON .*salt.json"):
        read_structure(tmp_path / "salt.yaml")
