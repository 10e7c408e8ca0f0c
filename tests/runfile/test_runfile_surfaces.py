"""Run files of surfaces and clusters: frozen atoms, what init writes, and the k-points along vacuum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.cluster import Icosahedron
from ase.constraints import FixAtoms

from mlip_autopipec.cli.plan import plan
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.static import AseStaticMaker
from mlip_autopipec.runfile.init import Choices, write_run_file
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.runfile.sources import named_source
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.structures.frozen import frozen_atoms
from mlip_autopipec.structures.periodicity import Shape, boxed, shape_of

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
    ("frozen", "number", "how"),
    [("from_structure", 8, "from_structure"), ("[0, 2]", 2, "a list"), ("{below_A: 9.0}", 8, "{below_A: 9}")],
)
def test_how_many_atoms_are_frozen_is_said(tmp_path: Path, frozen: str, number: int, how: str) -> None:
    campaign = run_file(tmp_path, frozen)
    (told,) = [remark for remark in campaign.remarks() if "do not move" in remark]
    assert told.startswith(f"structures.file: 'POSCAR': {number} of 24 atoms do not move in MD (frozen: {how}")
    assert plan(campaign, measure=False).structures == [f"Cu24 (24 atoms, {number} of them frozen)"]


def test_a_column_frozen_is_overruled_by_the_run_file(tmp_path: Path) -> None:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    atoms.set_array("frozen", atoms.get_tags() == 3)
    atoms.write(tmp_path / "marked.xyz", format="extxyz")
    for frozen, number in (("from_structure", 8), ("[0]", 1)):
        (told,) = [one for one in run_file(tmp_path, frozen, "marked.xyz").remarks() if "do not move" in one]
        how = "a list of indices" if number == 1 else frozen
        assert told == f"structures.file: 'marked.xyz': {number} of 24 atoms do not move in MD (frozen: {how})"


def test_init_writes_how_to_freeze_what_is_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_file(tmp_path, "[0]")
    monkeypatch.chdir(tmp_path)
    for name, written in (("POSCAR", True), ("free.xyz", False)):
        write_run_file(Path(f"{name}.yaml"), [named_source("file", name, Path())], Choices())
        text = Path(f"{name}.yaml").read_text()
        assert ("# frozen: from_structure " in text) is written
        if written:
            opened = text.replace("# frozen: from_structure ", "frozen: from_structure ")
            Path("opened.yaml").write_text(opened)
            (atoms,) = RunFile.load("opened.yaml").load_structures()
            assert len(frozen_atoms(atoms)) == len(atoms) // 3
            assert f"# {len(atoms) // 3} of {len(atoms)} atoms, which it fixes, then rest in MD" in text


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
