"""Atom types that stand where elements belong: refused with how to name them, whichever way they come in."""

import re

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from mlip_autopipec.cli.base import app
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.oracle.files import read_labels_file
from mlip_autopipec.oracle.given import take_in_labels
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.runfile.structures import load_structure
from mlip_autopipec.structures.intake import take_in

TYPES = {"Cu": 1, "Au": 2}


def alloys(n_frames=3) -> list[Atoms]:
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(n_frames):
        atoms = bulk("Cu", a=3.8, cubic=True) * (2, 1, 1)
        atoms.symbols[[1, 2, 5]] = "Au"
        atoms.rattle(0.08, rng=rng)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    return frames


def as_types(atoms: Atoms) -> Atoms:
    """Return the structure as a reader gives it that takes types for atomic numbers."""
    types = atoms.copy()
    types.numbers = [TYPES[symbol] for symbol in atoms.symbols]
    types.calc = SinglePointCalculator(types, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    return types


def write(path, columns, first, comment=True) -> None:
    """Write extended or plain xyz with something else than elements; ``first(index, symbol)`` begins the lines."""
    text = ""
    for atoms in alloys():
        cell = " ".join(map(str, atoms.cell.array.ravel()))
        energy = atoms.get_potential_energy()
        text += f"{len(atoms)}\n"
        text += (
            f'Lattice="{cell}" Properties={columns}:pos:R:3:forces:R:3 energy={energy}\n' if comment else "Step: 0\n"
        )
        for index, (symbol, position, force) in enumerate(
            zip(atoms.symbols, atoms.positions, atoms.get_forces(), strict=True)
        ):
            numbers = [*position, *force] if comment else position
            text += f"{first(index, symbol)} {' '.join(map(str, numbers))}\n"
    path.write_text(text)


#: How programs write atom types: the columns, and the words in them.
WRITTEN = {
    "types as species": ("species:S:1", lambda _, symbol: TYPES[symbol]),
    "types as species, numbers": ("species:I:1", lambda _, symbol: TYPES[symbol]),
    "a column type": ("id:I:1:type:I:1", lambda index, symbol: f"{index + 1} {TYPES[symbol]}"),
    "types as atomic numbers": ("numbers:I:1", lambda _, symbol: TYPES[symbol]),
    "types that became elements": ("species:S:1", lambda _, symbol: {"Cu": "H", "Au": "He"}[symbol]),
}


@pytest.mark.parametrize("kind", [*WRITTEN, "plain xyz"])
def test_an_xyz_file_of_types_is_refused_until_they_are_named(tmp_path, kind):
    path = tmp_path / "typed.xyz"
    write(path, *WRITTEN.get(kind, WRITTEN["types as species"]), comment=kind != "plain xyz")
    with pytest.raises(InvalidInputError, match=r"typed\.xyz.*(elements: \[Cu, Au\]|species)"):
        load_structure(tmp_path, path.name, None, None)
    with pytest.raises(InvalidInputError, match=r"typed\.xyz.*(elements: \[Cu, Au\]|species|name it)"):
        read_labels_file(path)
    taken = load_structure(tmp_path, path.name, None, None, ["Cu", "Au"]).atoms
    assert taken.get_chemical_formula() == "Au3Cu5"
    assert np.allclose(taken.positions, alloys()[-1].positions)
    with pytest.raises(InvalidInputError, match=r"has an atom of the type (2|He); name it, too"):
        load_structure(tmp_path, path.name, None, None, ["Cu"])


def test_init_takes_the_elements_of_types(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "typed.xyz", *WRITTEN["types as atomic numbers"])
    ase.io.write("typed.data", alloys()[0], format="lammps-data", specorder=["Cu", "Au"])
    for name in ("typed.xyz", "typed.data"):
        refused = CliRunner().invoke(app, ["init", name, "-o", "refused.yaml"])
        assert refused.exit_code == 1
        assert "--types" in refused.output
        made = CliRunner().invoke(app, ["init", name, "--types", "Cu,Au", "-o", f"{name}.yaml"])
        assert made.exit_code == 0, made.output
        (atoms,) = RunFile.load(tmp_path / f"{name}.yaml").load_structures()
        assert set(atoms.symbols) == {"Cu", "Au"}
    assert "give the file, too" in CliRunner().invoke(app, ["init", "-e", "Cu", "--types", "Cu"]).output


def test_types_in_python_are_refused_as_structures_and_as_labels():
    types = [as_types(atoms) for atoms in alloys()]
    maker = OTFMaker(oracle_maker=OracleMaker(static_maker=EMTStaticMaker()))
    for arguments in ({"structures": types[0]}, {"structures": alloys()[0], "labels": types}):
        with pytest.raises(InvalidInputError, match=r"elements are H, He, as atom types 1 to 2 become.*Name the elem"):
            maker.make(conditions=300, **arguments)
    with pytest.raises(InvalidInputError, match=r"^labels\[0\] \(H5He3\) and 2 more: its elements are H, He"):
        take_in_labels(types)
    types[0].calc = None
    meant = types[0].copy()
    meant.info["elements"] = ["H", "He"]
    taken = take_in(meant, "s").atoms
    assert taken.get_chemical_formula() == "H5He3"
    assert take_in(taken, "again").atoms == taken


def hydrogen_in(symbol: str) -> Atoms:
    atoms = bulk("Fe", a=2.9, cubic=True) * 2
    atoms.symbols[:] = symbol
    return atoms


@pytest.mark.parametrize(
    ("atoms", "refused"),
    [
        (hydrogen_in("H"), True),
        (Atoms("H", cell=np.eye(3) * 2.9, pbc=True), True),
        (molecule("H2"), False),
        (molecule("LiH"), False),
        (Atoms("H2", [[0, 0, 0], [0, 0, 2.0]]), False),  # a bond that is pulled apart
        (Atoms("HHe", [[0, 0, 0], [0, 0, 2.0]]), False),
        (bulk("He", "fcc", a=4.2, cubic=True), False),
        (Atoms("H2He2", [[0, 0, 0], [0, 0, 0.75], [0, 2.5, 0], [2.5, 0, 0]], cell=[5, 5, 5], pbc=True), False),
    ],
)
def test_true_hydrogen_and_helium_pass(atoms, refused):
    if refused:
        with pytest.raises(InvalidInputError, match="as atom types 1 to 1 become"):
            take_in(atoms, "s")
    else:
        take_in(atoms, "s")


def test_deuterium_in_a_file_of_labels_is_refused_with_a_way_out(tmp_path):
    water = molecule("H2O")
    water.calc = SinglePointCalculator(water, energy=-1.0, forces=np.zeros((3, 3)))
    ase.io.write(tmp_path / "w.xyz", water, format="extxyz")
    text = (tmp_path / "w.xyz").read_text()
    (tmp_path / "w.xyz").write_text(re.sub(r"(?m)^H ", "D ", text))
    with pytest.raises(InvalidInputError, match=r"w\.xyz' cannot be read: D is no element to ASE.*call it H"):
        read_labels_file(tmp_path / "w.xyz")
