"""`init` of a dataset starts from its labels, and says so."""

from __future__ import annotations

import gzip
import json
import re

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from paths import SHARED_DATA
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, FAILED, app
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.runfile.model import RunFile


def frames(n, labelled=True):
    made = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=k)
        if labelled:
            atoms.calc = EMT()
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        made.append(atoms)
    return made


def test_labels_are_not_dropped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("data.xyz", frames(6))
    result = CliRunner().invoke(app, ["init", "data.xyz"])
    assert result.exit_code == CONVERGED, result.output
    assert "data.xyz holds 6 labels: the campaign starts from them (start_from)" in result.output
    assert yaml.safe_load((tmp_path / "Cu.yaml").read_text())["start_from"] == {"labels": "data.xyz"}
    assert len(RunFile.load("Cu.yaml").load_labels()) == 6


def test_a_single_structure_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("one.xyz", frames(1))
    assert CliRunner().invoke(app, ["init", "one.xyz"]).exit_code == CONVERGED
    assert "start_from" not in (tmp_path / "Cu.yaml").read_text()


def test_structures_without_labels_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("many.xyz", frames(3, labelled=False))
    result = CliRunner().invoke(app, ["init", "many.xyz"])
    assert result.exit_code == CONVERGED, result.output
    assert "many.xyz holds 3 structures, and the last is taken" in result.output
    assert "start_from" not in (tmp_path / "Cu.yaml").read_text()


@pytest.mark.parametrize("name", ["data.xyz.gz", "data.extxyz.xz", "data.traj"])
def test_a_dataset_is_found_in_whatever_labels_are_read_from(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write(name, frames(6))
    result = CliRunner().invoke(app, ["init", name])
    assert result.exit_code == CONVERGED, result.output
    assert yaml.safe_load((tmp_path / "Cu.yaml").read_text())["start_from"] == {"labels": name}


def test_a_dataset_of_molecules_has_no_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    for k in range(6):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        made.append(atoms)
    ase.io.write("water.xyz", made)
    assert "Lattice" not in (tmp_path / "water.xyz").read_text()
    result = CliRunner().invoke(app, ["init", "water.xyz", "--oracle", "gfn-xtb"])
    assert "water.xyz holds 6 labels" in result.output


def lone(**info):
    atom = Atoms("Cu", cell=[15.0] * 3, pbc=True, info=info)
    atom.calc = SinglePointCalculator(atom, energy=3.5, forces=np.zeros((1, 3)))
    return atom


def test_md_begins_in_no_isolated_atom_and_in_nothing_held_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = frames(6)
    made[5].info["split"] = "test"
    ase.io.write("data.xyz", [*made, lone(config_type="IsolatedAtom"), lone()])
    result = CliRunner().invoke(app, ["init", "data.xyz"])
    assert result.exit_code == CONVERGED, result.output
    assert "frame 4 (from 0), behind which are isolated atoms" in " ".join(result.output.split())
    (structure,) = RunFile.load("Cu.yaml").load_structures()
    assert np.allclose(structure.positions[:4], made[4].positions)
    ase.io.write("atoms.xyz", [lone(), lone()])
    refused = CliRunner().invoke(app, ["init", "atoms.xyz", "-o", "other.yaml"])
    assert "holds 2 isolated atoms and no other structure" in " ".join(refused.output.split())


def test_what_is_said_of_structures_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (one,) = frames(1, labelled=False)
    one.set_velocities(np.full((4, 3), 0.01))
    ase.io.write("one.traj", one)
    result = CliRunner().invoke(app, ["init", "one.traj"])
    assert "velocities (" in result.output


def test_a_run_of_a_code_is_a_dataset_of_its_steps(tmp_path, monkeypatch):
    file = SHARED_DATA / "vasp_runs" / "Si8_displaced" / "outputs" / "vasprun.xml.gz"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    monkeypatch.chdir(tmp_path)
    text = gzip.decompress(file.read_bytes()).decode()
    end = text.index("</calculation>") + len("</calculation>\n")
    step = text[text.index("<calculation>") : end]
    head, positions = step.split('<varray name="positions" >', 1)
    x, rest = positions.split("<v>", 1)[1].split(maxsplit=1)
    moved = f'{head}<varray name="positions" ><v> {float(x) + 0.01:.8f} {rest}'
    (tmp_path / "vasprun.xml").write_text(text[:end] + moved + text[end:])
    result = CliRunner().invoke(app, ["init", "vasprun.xml"])
    assert result.exit_code == CONVERGED, result.output
    assert "vasprun.xml holds 2 labels: the campaign starts from them (start_from)" in result.output
    assert len(RunFile.load("Si.yaml").load_labels()) == 2
    # a run of one step is the structure that it is of
    (tmp_path / "vasprun.static.xml").write_text(text)
    assert CliRunner().invoke(app, ["init", "vasprun.static.xml", "-o", "one.yaml"]).exit_code == CONVERGED
    assert "start_from" not in (tmp_path / "one.yaml").read_text()
    # a run whose numbers are not those of its structure is none either, which is said
    (tmp_path / "vasprun.bands.xml").write_text(re.sub(r'(name="ICHARG">)\s*\d+', r"\g<1> 11", text))
    result = CliRunner().invoke(app, ["init", "vasprun.bands.xml", "-o", "bands.yaml"])
    assert result.exit_code == CONVERGED, result.output
    assert "the last structure of vasprun.bands.xml is taken; the run is no dataset to start from" in result.output


def uncommented(path):
    """Remove the # of the lines of start_from, as the file says."""
    text = path.read_text()
    (n_lines,) = re.findall(r'remove the "# " of the next (\d) lines', text)
    lines = text.split("\n")
    start = lines.index("# start_from:")
    for at in range(start, start + int(n_lines)):
        lines[at] = lines[at].removeprefix("# ")
    assert not lines[start + int(n_lines)].startswith("#   ")
    path.write_text("\n".join(lines))
    return RunFile.load(path)


def renamed(made, energies, forces):
    """Return frames whose energies and forces have other names; each factor of an energy is another energy."""
    found = []
    for atoms in made:
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        bare.info.update({name: factor * atoms.get_potential_energy() for name, factor in energies.items()})
        bare.set_array(forces, atoms.get_forces())
        found.append(bare)
    return found


@pytest.mark.parametrize(
    ("energies", "forces", "section"),
    [
        ({"E": 1.0}, "F", {"energy_key": "E", "forces_key": "F"}),
        ({"pbe_energy": 1.0, "r2scan_energy": 1.1}, "pbe_forces", {"energy_key": "pbe_energy"}),
    ],
)
def test_names_that_are_not_known_are_proposed(tmp_path, monkeypatch, energies, forces, section):
    monkeypatch.chdir(tmp_path)
    ase.io.write("data.xyz", renamed(frames(6), energies, forces), format="extxyz")
    result = CliRunner().invoke(app, ["init", "data.xyz"])
    assert result.exit_code == CONVERGED, result.output
    assert "nothing of the labels of data.xyz is used until that is mended" in " ".join(result.output.split())
    text = (tmp_path / "Cu.yaml").read_text()
    assert "start_from" not in yaml.safe_load(text)
    assert ("# or r2scan_energy" in text) == ("r2scan_energy" in energies)
    campaign = uncommented(tmp_path / "Cu.yaml")
    assert len(campaign.load_labels()) == 6
    assert yaml.safe_load((tmp_path / "Cu.yaml").read_text())["start_from"] == {"labels": "data.xyz", **section}


def test_a_dataset_with_one_bad_frame_is_told_and_waits_for_its_repair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = frames(6)
    made[3].calc.results["energy"] = np.nan
    ase.io.write("data.xyz", made)
    result = CliRunner().invoke(app, ["init", "data.xyz"])
    assert result.exit_code == CONVERGED, result.output
    text = " ".join((tmp_path / "Cu.yaml").read_text().split())
    assert "# Nothing of these labels is used" in text
    put = json.loads(CliRunner().invoke(app, ["init", "data.xyz", "-o", "b.yaml", "--json"]).stdout)
    assert put["labels"] == []
    assert "energy nan eV" in put["labels_not_used"]["data.xyz"]
    assert "frame 3 (Cu4) has energy nan eV" in text
    ase.io.write("data.xyz", made[:3])
    assert len(uncommented(tmp_path / "Cu.yaml").load_labels()) == 3


@pytest.mark.parametrize("frame", [0, 3, 5])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_file_with_a_frame_that_cannot_be_read_is_refused(frame, labelled, tmp_path, monkeypatch):
    """A run file was written without its labels, and the command ended with 0."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("data.extxyz", frames(6, labelled))
    lines = (tmp_path / "data.extxyz").read_text().split("\n")
    at = 6 * frame + 3
    lines[at] = lines[at].replace(lines[at].split()[2], "1.2*4", 1)
    (tmp_path / "data.extxyz").write_text("\n".join(lines))
    result = CliRunner().invoke(app, ["init", "data.extxyz"])
    assert result.exit_code == FAILED, result.output
    told = " ".join(result.output.split())
    first = 6 * frame + 1
    assert f"'data.extxyz' cannot be read in frame {frame}, lines {first} to {first + 5}" in told
    assert told.count("1.2*4") == 1
    assert "mend the file, or take that frame out" in told
    assert not (tmp_path / "Cu.yaml").exists()


def test_a_damaged_trajectory_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("data.traj", frames(6))
    content = bytearray((tmp_path / "data.traj").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = b"x" * 300
    (tmp_path / "data.traj").write_bytes(content)
    result = CliRunner().invoke(app, ["init", "data.traj"])
    assert result.exit_code == FAILED, result.output
    assert "the labels 'data.traj' (trajectory of ASE) cannot be read" in " ".join(result.output.split())
    assert not (tmp_path / "Cu.yaml").exists()


def test_several_datasets_are_all_started_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = frames(6)
    ase.io.write("a.xyz", made[:4])
    ase.io.write("b.traj", made[4:])
    result = CliRunner().invoke(app, ["init", "a.xyz", "b.traj"])
    assert result.exit_code == CONVERGED, result.output
    assert "a.xyz holds 4 labels: the campaign starts from them" in result.output
    assert "b.traj holds 2 labels: the campaign starts from them" in result.output
    assert yaml.safe_load((tmp_path / "Cu.yaml").read_text())["start_from"] == {"labels": ["a.xyz", "b.traj"]}
    assert len(RunFile.load("Cu.yaml").load_labels()) == 6


def test_datasets_that_do_not_belong_together_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = frames(6)
    ase.io.write("a.xyz", made)
    for atoms in made:
        atoms.calc.results["energy"] += 4.0
    ase.io.write("b.xyz", made)
    result = CliRunner().invoke(app, ["init", "a.xyz", "b.xyz"])
    assert result.exit_code == CONVERGED, result.output
    assert "the datasets do not belong together" in result.output
    assert "start_from" not in yaml.safe_load((tmp_path / "Cu.yaml").read_text())
    assert "are one structure with" in (tmp_path / "Cu.yaml").read_text()


def test_a_dataset_whose_names_others_lack_waits_beside_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = frames(6)
    ase.io.write("a.xyz", made[:4])
    ase.io.write("b.xyz", renamed(made[4:], {"E": 1.0}, "F"), format="extxyz")
    result = CliRunner().invoke(app, ["init", "a.xyz", "b.xyz"])
    assert result.exit_code == CONVERGED, result.output
    text = (tmp_path / "Cu.yaml").read_text()
    assert yaml.safe_load(text)["start_from"] == {"labels": "a.xyz"}
    assert "#   labels: [a.xyz, b.xyz]" in text
    assert "With E, F the other files cannot be read" in " ".join(text.replace("#", "").split())
    assert "energy_key:" not in text


def test_json_of_ase_is_no_dataset_and_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("data.json", frames(6))
    result = CliRunner().invoke(app, ["init", "data.json"])
    assert result.exit_code == CONVERGED, result.output
    told = " ".join(result.output.split())
    assert "data.json holds 6 structures, and the last is taken; they are no dataset to start from" in told
    assert "`ase convert data.json data.extxyz` writes extended XYZ" in told
    ase.io.write("data.extxyz", frames(6))
    assert len(uncommented(tmp_path / "Cu.yaml").load_labels()) == 6


def test_a_run_file_names_labels_by_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = frames(6)
    for k, some in enumerate((made[:2], made[2:])):
        (tmp_path / f"data/{k}").mkdir(parents=True)
        ase.io.write(f"data/{k}/labels.xyz", some)
    text = (
        "name: c\nstructures: [{bulk: {name: Cu, cubic: true}}]\nconditions: [{temperature_K: 300}]\n"
        "oracle: {kind: emt}\nstart_from: {labels: 'data/*/labels.xyz'}\n"
    )
    (tmp_path / "run.yaml").write_text(text)
    energies = [atoms.get_potential_energy() for atoms in RunFile.load("run.yaml").load_labels()]
    assert energies == pytest.approx([atoms.get_potential_energy() for atoms in made])
    (tmp_path / "run.yaml").write_text(text.replace("labels.xyz", "none.xyz"))
    with pytest.raises(InvalidInputError, match=r"line 5, start_from.labels: no file of labels matches 'data/\*/none"):
        RunFile.load("run.yaml").load_labels()
