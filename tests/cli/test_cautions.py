"""Values of a run file that are valid and probably not meant are said before the campaign."""

from __future__ import annotations

import re

import ase.io
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, fcc111, surface
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from mlip_autopipec.cli import app
from mlip_autopipec.cli.cautions import cautions
from mlip_autopipec.cli.plan import plan
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps.exploration import check_structure
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.seeds import SeedPurpose, derive_seed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_dataset_of_an_oracle_at_gamma_is_in_the_cells_of_md(folder):
    """An MgO slab by `init` had labels of 64 atoms beside MD of 32: 93 meV/atom apart, and STALLED."""
    slab = surface(bulk("MgO", "rocksalt", a=4.24, cubic=True), (0, 0, 1), 1, vacuum=8.0) * (2, 2, 1)
    slab.pbc = (True, True, False)
    ase.io.write("mgo.extxyz", slab)
    assert CliRunner().invoke(app, ["init", "mgo.extxyz", "--oracle", "gfn-xtb"]).exit_code == 0
    assert yaml.safe_load((folder / "MgO.yaml").read_text())["first_dataset"]["max_atoms"] == 32
    assert not any("Gamma" in told for told in cautions(RunFile.load(folder / "MgO.yaml")))
    wider = (folder / "MgO.yaml").read_text().replace("max_atoms: 32", "max_atoms: 64")
    (folder / "MgO.yaml").write_text(wider)
    (told,) = [told for told in cautions(RunFile.load(folder / "MgO.yaml")) if "Gamma" in told]
    assert "its cells have 64 atoms, those of MD 32" in told
    assert "Set max_atoms to 32" in told


@pytest.mark.parametrize("n_compared", [0, 2])
def test_a_dataset_that_nothing_compares_with_the_oracle_is_said(n_compared, folder):
    frames = []
    for seed in range(3):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        frames.append(atoms)
    ase.io.write("data.extxyz", frames)
    (folder / "run.yaml").write_text(
        "name: cu\nstructures: [{bulk: {name: Cu, cubic: true}, repeat: [2, 2, 2]}]\nconditions: [{temperature_K: 300}]"
        f"\noracle: {{kind: emt, n_compared: {n_compared}}}\nstart_from: {{labels: data.extxyz}}\n"
    )
    said = any("oracle.n_compared is 0" in told for told in cautions(RunFile.load(folder / "run.yaml")))
    assert said == (n_compared == 0)


def test_a_slab_with_a_dipole_that_the_oracle_cannot_correct_is_said(folder):
    slab = fcc111("Cu", (1, 1, 4), vacuum=8.0)
    slab.symbols[0] = "Au"
    ase.io.write("slab.extxyz", slab)
    (folder / "run.yaml").write_text(
        "name: s\nstructures: [{file: slab.extxyz, repeat: [2, 2, 1]}]\nconditions: [{temperature_K: 300}]\n"
        "oracle: {kind: ase, maker: {calculator_class: ase.calculators.abinit.Abinit}}\n"
    )
    told = cautions(RunFile.load(folder / "run.yaml"))
    assert any("slab with two different sides" in one and "ABINIT has no dipole correction" in one for one in told)


@pytest.mark.parametrize("n", [1, 2])
def test_a_cell_of_one_atom_is_said(n, folder):
    (folder / "run.yaml").write_text(
        f"name: pd\nstructures: [{{bulk: {{name: Pd}}, repeat: [{n}, 1, 1]}}]\nconditions: [{{temperature_K: 300}}]\n"
        "oracle: {kind: emt}\n"
    )
    told = cautions(RunFile.load(folder / "run.yaml"))
    assert any("Pd is a cell of one atom, whose force is zero by symmetry" in one for one in told) == (n == 1)


@pytest.mark.parametrize("atoms", ["false", "true"])
def test_a_first_dataset_of_one_composition_is_said(atoms, folder):
    crystal = bulk("CuAu", "cesiumchloride", a=3.1, cubic=True) * (2, 2, 2)
    ase.io.write("cuau.extxyz", crystal)
    (folder / "run.yaml").write_text(
        "name: s\nstructures: [{file: cuau.extxyz}]\nconditions: [{temperature_K: 300}]\noracle: {kind: emt}\n"
        f"first_dataset: {{n_structures: 4, isolated_atoms: {atoms}}}\n"
    )
    said = [told for told in cautions(RunFile.load(folder / "run.yaml")) if "energies of Au, Cu apart" in told]
    assert len(said) == (atoms == "false")


@pytest.mark.parametrize(("isif", "said"), [(0, True), (1, True), (2, False), (3, False)])
def test_labels_of_vasp_without_stress_are_said(isif, said, folder):
    (folder / "run.yaml").write_text(
        "name: s\nstructures: [{bulk: {name: Si}}]\nconditions: [{temperature_K: 300}]\n"
        f"oracle: {{kind: vasp, maker: {{incar: {{ISIF: {isif}}}}}}}\n"
    )
    told = cautions(RunFile.load(folder / "run.yaml"))
    assert any("computes no stress" in one for one in told) == said


def test_the_first_dataset_is_made_once_for_a_dry_run_as_the_campaign_will_make_it(folder, monkeypatch):
    (folder / "run.yaml").write_text(
        "name: cu-au\nstructures: [{bulk: {name: CuAu, crystalstructure: rocksalt, a: 5.3, cubic: true}}]\n"
        "conditions: [{temperature_K: 300}]\noracle: {kind: emt}\nseed: 7\n"
    )
    seeds = []
    generate = StructureGenerator.generate

    def noting(self, structures, seed, largest=None):
        seeds.append(seed)
        return generate(self, structures, seed=seed, largest=largest)

    monkeypatch.setattr(StructureGenerator, "generate", noting)
    campaign = RunFile.load(folder / "run.yaml")
    found = plan(campaign, measure=False)
    assert any("first_dataset: its" in note for note in found.notes)
    assert seeds == [derive_seed(7, SeedPurpose.FIRST_DATASET)]
    assert found.first_labels == len(campaign.make_first())
    other = campaign.model_copy(update={"seed": 8})
    other.make_first()
    assert seeds[1:] == [derive_seed(8, SeedPurpose.FIRST_DATASET)]


@pytest.mark.parametrize(("n_atoms", "n_labels"), [(10, 5), (30, 15), (80, 40), (100, 50)])
def test_the_atoms_that_are_asked_for_are_made(n_atoms, n_labels, folder):
    """Fewer than 40 had no effect, and more than 40 structures were not made."""
    ase.io.write("pair.xyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]]))
    text = (
        "name: cu\nstructures: [{file: pair.xyz}]\nconditions: [{temperature_K: 300}]\noracle: {kind: emt}\n"
        f"first_dataset: {{n_atoms: {n_atoms}}}\n"
    )
    (folder / "run.yaml").write_text(text)
    found = plan(RunFile.load(folder / "run.yaml"), measure=False)
    assert found.first_labels == n_labels
    assert not any("n_atoms" in note for note in found.notes)


def test_a_basis_that_asks_for_more_atoms_is_told(folder):
    ase.io.write("pair.xyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]]))
    text = (
        "name: cu\nstructures: [{file: pair.xyz}]\nconditions: [{temperature_K: 300}]\noracle: {kind: emt}\n"
        "trainer: {kind: linear, basis: {number_of_functions_per_element: 15}}\nfirst_dataset: {n_atoms: 10}\n"
    )
    (folder / "run.yaml").write_text(text)
    found = plan(RunFile.load(folder / "run.yaml"), measure=False)
    assert found.first_labels == 30
    (told,) = [note for note in found.notes if note.startswith("first_dataset.n_atoms")]
    assert "is 10, which 5 labels of each structure hold; the basis asks for 60 atoms of each element" in told
    for more, said in (("n_atoms: 60", False), ("n_atoms: 10, n_structures: 4", True)):
        (folder / "run.yaml").write_text(text.replace("n_atoms: 10", more))
        found = plan(RunFile.load(folder / "run.yaml"), measure=False)
        assert any("n_atoms has no effect beside n_structures" in note for note in found.notes) == said
        assert found.first_labels == (4 if said else 30)


def test_a_structure_that_is_listed_twice_is_one_note(folder):
    """Two walkers of one structure differ by their seeds, and cost double."""
    entry = "{bulk: {name: Cu, cubic: true}}"
    frozen = "{bulk: {name: Cu, cubic: true}, frozen: [0]}"
    text = "name: cu\nstructures: [%s]\nconditions: [{temperature_K: 300}]\noracle: {kind: emt}\n"
    for entries, said in (
        ([entry, entry], "the entries 0 and 1 (from 0) are one structure, Cu4: its first dataset and its walkers are"),
        ([entry, frozen, entry, entry], "the entries 0, 2 and 3 (from 0) are one structure"),
        ([entry, frozen], None),
    ):
        (folder / "run.yaml").write_text(text % ", ".join(entries))
        told = cautions(RunFile.load(folder / "run.yaml"))
        assert [one for one in told if "are one structure" in one] == [one for one in told if said and said in one]
        assert any("are one structure" in one for one in told) is (said is not None)
        assert len(set(told)) == len(told)
        assert sum("A wide" in one for one in told) == 1


def test_atoms_in_one_place_are_named_with_their_file(folder):
    ase.io.write("twice.xyz", Atoms("CuAuAu", [[0, 0, 0], [0, 0, 2.6], [0, 0.1, 2.6]]))
    told = r"Au \(atom 1\) and Au \(atom 2\) are 0\.10 A apart in Au2Cu; 0\.82 A are the least"
    result = CliRunner().invoke(app, ["init", "twice.xyz", "--oracle", "emt"])
    assert result.exit_code == 1
    assert re.search(rf"file 'twice\.xyz': {told}", " ".join(result.output.split()))
    text = "name: x\nstructures:\n  - {file: twice.xyz}\nconditions: [{temperature_K: 300}]\noracle: {kind: emt}\n"
    (folder / "run.yaml").write_text(text)
    with pytest.raises(InvalidInputError, match=rf"line 3, structures\.0: structures\.file: 'twice\.xyz': {told}"):
        plan(RunFile.load(folder / "run.yaml"), measure=False)
    lone = Atoms("Cu", cell=[0.5, 3, 3], pbc=True)
    with pytest.raises(InvalidInputError, match=r"Cu \(atom 0\) and its own image are 0\.50 A apart"):
        check_structure(lone)


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        ("bulk: {name: Cu, cubic: true}", "a pressure needs 'npt'"),
        ("file: pair.xyz", "Cu2 has vacuum on its sides, and no ensemble holds a pressure of it: leave pressure_GPa"),
    ],
)
def test_a_pressure_that_nothing_holds_is_refused_with_its_line(entry, remedy, folder):
    ase.io.write("pair.xyz", Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]]))
    (folder / "run.yaml").write_text(
        f"name: x\nstructures: [{{{entry}}}]\nconditions:\n  - {{temperature_K: 300}}\n"
        "  - {temperature_K: 300, pressure_GPa: 5}\noracle: {kind: emt}\n"
    )
    with pytest.raises(InvalidInputError, match=r"line 5, conditions\.1\.pressure_GPa: .* is 5\.0, but ") as e:
        RunFile.load(folder / "run.yaml").flow()
    assert remedy in str(e.value)


def test_a_limit_below_the_first_dataset_names_the_settings_of_the_run_file(folder):
    (folder / "run.yaml").write_text(
        "name: x\nstructures: [{bulk: {name: Cu, cubic: true}}]\nconditions: [{temperature_K: 300}]\n"
        "oracle: {kind: emt}\nfirst_dataset: {n_structures: 9}\nstop: {max_labels: 8}\n"
    )
    with pytest.raises(InvalidInputError, match=r"line 6, stop\.max_labels: .* has 9 .*first_dataset\.n_struct"):
        RunFile.load(folder / "run.yaml").flow()
