"""Run files of surfaces and clusters: frozen atoms, what init writes, and the k-points along vacuum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.cluster import Icosahedron
from ase.constraints import FixAtoms

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.static import AseStaticMaker
from mlip_autopipec.runfile.init import Choices, write_run_file
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.runfile.sources import named_source
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.structures.frozen import frozen_atoms
from mlip_autopipec.structures.periodicity import Shape, boxed, shape_of

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """
name: surface
structures:
  - {{file: {file}, repeat: [2, 1, 1], frozen: {frozen}}}
conditions: [{{temperature_K: 300}}]
oracle: {{kind: emt}}
"""


def run_file(folder: Path, frozen: str, file: str = "POSCAR") -> RunFile:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 3))
    atoms.write(folder / "POSCAR", format="vasp")
    atoms.set_constraint()
    atoms.write(folder / "free.xyz", format="extxyz")
    (folder / "run.yaml").write_text(TEXT.format(file=file, frozen=frozen))
    return RunFile.load(folder / "run.yaml")


@pytest.mark.parametrize("frozen", ["from_structure", "[0, 1, 2, 3, 12, 13, 14, 15]", "{below_A: 9.0}"])
def test_frozen_atoms_reach_the_campaign(tmp_path: Path, frozen: str) -> None:
    flow = run_file(tmp_path, frozen).flow()
    document = next(
        value
        for job in flow.jobs
        for value in (*job.function_args, *job.function_kwargs.values())
        if isinstance(value, CampaignDocument)
    )
    (atoms,) = document.structures()
    assert frozen_atoms(atoms).tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert not atoms.constraints


def test_that_fixed_atoms_move_is_said_unless_they_rest(tmp_path: Path) -> None:
    assert not any("freezes nothing" in remark for remark in run_file(tmp_path, "from_structure").remarks())
    assert any("8 of 24 atoms" in remark or "4 of 12" in remark for remark in run_file(tmp_path, "[0]").remarks())


@pytest.mark.parametrize(
    ("frozen", "words"),
    [("from_structure", "fixes no atom"), ("{below_A: 1.0}", r"lowest atom of Cu24 is at z = 8\.000"), ("[77]", "77")],
)
def test_frozen_that_names_no_atom_is_refused(tmp_path: Path, frozen: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        run_file(tmp_path, frozen, "free.xyz").load_structures()


@pytest.mark.parametrize(("oracle", "setting"), [("vasp", "LDIPOL: true"), ("espresso", "dipfield: true")])
def test_init_writes_the_dipole_correction_of_slabs(tmp_path: Path, oracle: str, setting: str) -> None:
    for name, atoms in (("slab", fcc111("Cu", (2, 2, 3), vacuum=8.0)), ("bulk", bulk("Cu", cubic=True))):
        atoms.write(tmp_path / f"{name}.xyz", format="extxyz")
        path = tmp_path / f"{name}.yaml"
        write_run_file(path, [named_source("file", f"{name}.xyz", tmp_path)], Choices(name=name, oracle=oracle))
        assert (setting in path.read_text()) is (name == "slab")


def test_what_is_said_of_a_structure_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.set_velocities(np.ones((4, 3)))
    atoms.write(tmp_path / "hot.extxyz")
    path = tmp_path / "hot.yaml"
    write_run_file(path, [named_source("file", "hot.extxyz", tmp_path)], Choices(name="hot"))
    run = RunFile.load(path)
    caplog.clear()
    run.flow()
    assert len([remark for remark in run.remarks() if "velocities" in remark]) == 1
    assert "velocities" not in caplog.text
    run.maker().make(atoms, 300)
    assert "velocities" in caplog.text, "in Python the log says it"


def test_init_writes_what_suits_molecules(tmp_path: Path) -> None:
    for name, atoms in (
        ("water", molecule("H2O")),
        ("benzene", molecule("C6H6")),
        ("nickel", Icosahedron("Ni", 2)),
    ):
        atoms.write(tmp_path / f"{name}.xyz", format="extxyz")
        path = tmp_path / f"{name}.yaml"
        write_run_file(path, [named_source("file", f"{name}.xyz", tmp_path)], Choices(name=name, oracle="vasp"))
        run = RunFile.load(path)
        is_molecule = name != "nickel"
        assert (run.trainer.basis.cutoff, run.trainer.basis.radial_basis) == (None, None), "the labels choose"
        assert max(run.first_dataset.rattle_amplitudes) == (0.06 if is_molecule else 0.15)


def test_init_recognises_slabs_and_molecules(tmp_path: Path) -> None:
    for name, atoms, words in (
        ("slab", fcc111("Cu", (2, 2, 3), vacuum=8.0), "a slab"),
        ("water", molecule("H2O"), "a cluster or molecule"),
    ):
        atoms.write(tmp_path / f"{name}.xyz", format="extxyz")
        source = named_source("file", f"{name}.xyz", tmp_path)
        path = tmp_path / f"{name}.yaml"
        oracle = "emt" if name == "slab" else "vasp"
        write_run_file(path, [source], Choices(name=name, oracle=oracle))
        assert words in path.read_text()
        assert "barostat:" not in path.read_text() or name == "slab"
        (loaded,) = RunFile.load(path).load_structures()
        assert shape_of(loaded) is (Shape.SLAB if name == "slab" else Shape.CLUSTER)
        if name == "slab":
            assert loaded.cell.lengths()[2] == pytest.approx(atoms.cell.lengths()[2]), "not repeated across"
            assert len(loaded) > len(atoms)


def test_espresso_takes_one_k_point_along_vacuum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def look(self: Any, atoms: Any, calculator: Any, name: str) -> Path:
        seen.append(dict(calculator.parameters))
        return tmp_path

    monkeypatch.setattr(AseStaticMaker, "_calculate", look)
    (tmp_path / "Cu.upf").write_text("")
    maker = EspressoStaticMaker(
        pseudopotentials={"Cu": "Cu.upf"}, input_data={"system": {"ecutwfc": 30.0}}, pseudo_dir=str(tmp_path)
    )
    slab = boxed(fcc111("Cu", (2, 2, 3), vacuum=8.0))
    for atoms in (slab, bulk("Cu")):
        maker._calculate(atoms, maker._get_calculator(), "espresso")
    assert seen[0]["kpts"] == (7, 7, 1)
    assert "kspacing" not in seen[0]
    assert seen[1]["kspacing"] == maker.kspacing, "bulk as ever"
