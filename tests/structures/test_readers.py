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
from mlip_autopipec.structures.readers import FORMATS, read_structure

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3])


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
        assert read_structure(tmp_path / name) == structure
    with gzip.open(tmp_path / "d.json.gz", "wt") as stream:
        stream.write(SALT.to_json())
    assert read_structure(tmp_path / "d.json.gz") == SALT


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
    found = read_structure(tmp_path / name)
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
