"""The GRACE-FS trainer against the real gracemaker, on copper-aluminium with EMT labels.

TensorFlow takes most of the time, so two fits serve all tests.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from jobflow import JobStore
from maggma.stores import MemoryStore
from monty.json import jsanitize
from paths import ROOT

from mlip_autopipec.active_learning.activeset import build_active_set, compute_gamma, select_active_set
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import ExecutableError, InvalidInputError, TrainingError
from mlip_autopipec.lammps import input_script, structures
from mlip_autopipec.lammps.exploration import run_exploration
from mlip_autopipec.lammps.types import Condition, HaltReason, MDSettings, WalkStatus
from mlip_autopipec.lammps.worker import LibraryRun
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.potentials.projections import compute_projections
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.training.grace import STATE, GRACEBasis, GRACEFSTrainer, check_fit, read_gracemaker
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.training.results import TrainingResult

# not importorskip: TensorFlow stays out of the process of the tests
pytestmark = pytest.mark.skipif(find_spec("tensorpotential") is None, reason="tensorpotential is not installed")

BASIS = GRACEBasis(cutoff=4.5, nradmax_by_orders=[5, 3], lmax_by_orders=[0, 2], radial_functions=6, embedding_size=3)


def alloy(strain: float, displacement: float, seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True).repeat((2, 2, 1))
    atoms.symbols[rng.permutation(len(atoms))[: len(atoms) // 4]] = "Al"
    atoms.set_cell(atoms.cell * (1.02 + strain), scale_atoms=True)
    atoms.positions += rng.normal(0, displacement, (len(atoms), 3))
    return atoms


def label(*arguments) -> Atoms:
    atoms = alloy(*arguments)
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


OLD = [label(0.01 * (i % 5 - 2), 0.05 + 0.02 * (i % 4), i) for i in range(12)]
NEW = [label(0.08, 0.1, 100 + i) for i in range(3)]


@pytest.fixture(scope="module")
def trainer() -> GRACEFSTrainer:
    return GRACEFSTrainer(basis=BASIS, maxiter=40, fine_tune_maxiter=15)


@pytest.fixture(scope="module")
def first_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("first")


@pytest.fixture(scope="module")
def first(trainer: GRACEFSTrainer, first_folder: Path) -> TrainingResult:
    return trainer.train(OLD, directory=first_folder, seed=7)


def results(directory: Path, seed: int = 7) -> Path:
    (folder,) = directory.glob("gracemaker-*")
    return folder / "seed" / str(seed)


def metrics(folder: Path) -> list[dict[str, float]]:
    return yaml.safe_load((folder / "train_metrics.yaml").read_text())


@pytest.mark.long
def test_first_fit_trains(first: TrainingResult, first_folder: Path) -> None:
    rows = metrics(results(first_folder))
    assert first.progress is not None
    history = first.progress.history
    assert first.progress.n_iterations == len(rows) - 1 > 10
    assert history[-1].total < 0.1 * history[0].total
    assert history[-1].energy + history[-1].forces == pytest.approx(history[-1].total, rel=1e-9)
    assert first.progress.converged is False  # in so few iterations
    assert first.potential.is_grace
    assert first.potential.elements == ["Al", "Cu"]
    assert len(set(first.potential.n_functions.values())) == 1


@pytest.mark.long
def test_pyace_evaluates_what_gracemaker_fitted(first: TrainingResult, first_folder: Path) -> None:
    # the errors of the C++ evaluator are those of the TensorFlow model; its last metrics are of its last evaluation
    last = metrics(results(first_folder))[-1]
    assert first.train.forces_rmse_meV_A == pytest.approx(1e3 * last["rmse/f_comp"], rel=1e-4)
    assert first.train.energy_rmse_meV_atom == pytest.approx(1e3 * last["rmse/depa"], rel=1e-4)


@pytest.mark.long
def test_forces_and_stress_are_derivatives_of_the_energy(first: TrainingResult) -> None:
    atoms = alloy(0.01, 0.1, 50)
    calculator = first.potential.calculator()

    def energy(moved: Atoms) -> float:
        calculator.calculate(moved)
        return calculator.results["energy"]

    energy(atoms)
    forces, stress = calculator.results["forces"].copy(), calculator.results["stress"].copy()
    for atom, axis in [(0, 0), (5, 1), (11, 2)]:
        ends = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[atom, axis] += step
            ends.append(energy(moved))
        assert forces[atom, axis] == pytest.approx(-(ends[0] - ends[1]) / 2e-4, abs=1e-5)
    for (i, j), voigt in {(0, 0): 0, (1, 2): 3}.items():
        ends = []
        for step in (1e-5, -1e-5):
            strain = np.eye(3)
            strain[i, j] += step / 2
            strain[j, i] += step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            ends.append(energy(moved))
        assert stress[voigt] == pytest.approx((ends[0] - ends[1]) / 2e-5 / atoms.get_volume(), abs=1e-6)


@pytest.mark.long
def test_gamma_is_cramers_rule_and_one_inside(first: TrainingResult) -> None:
    potential = first.potential
    assert max(compute_gamma(potential, a).max() for a in OLD) == pytest.approx(1.0, abs=2e-3)
    far = alloy(0.0, 0.3, 60)
    (rows,) = compute_projections(potential, [far])
    gamma = compute_gamma(potential, far)
    assert gamma.max() > 1.5
    for element, b in rows.items():
        expected = np.abs(b @ potential.active_set_inverse[element]).max(axis=1)
        np.testing.assert_allclose(gamma[far.symbols == element], expected, rtol=1e-9)
    chosen = select_active_set(potential, [OLD[0], far], n_max=2)
    assert [c.index for c in chosen] == [1]


@pytest.mark.long
def test_fine_tune_starts_where_the_first_fit_ended_and_learns(
    trainer: GRACEFSTrainer, first: TrainingResult, first_folder: Path, tmp_path: Path
) -> None:
    # through the store, as the loop hands it over
    stored = PotentialDocument.from_potential(first.potential, uuid="1", campaign_id="c", cycle=0)
    assert stored.payload["yace"] == ""
    start = stored.to_potential()
    tuned = trainer.train(OLD, start, fine_tune=True, new_labels=NEW, directory=tmp_path, seed=8)
    assert tuned.coefficients_moved is not None
    assert tuned.coefficients_moved > 1e-6
    assert tuned.new_before is not None
    assert tuned.new_after is not None
    # the first fit leaves 153 meV/A there, and 25 meV/atom, of which the weights make most of the loss
    assert tuned.new_after.energy_rmse_meV_atom < 0.4 * tuned.new_before.energy_rmse_meV_atom
    assert tuned.new_after.forces_rmse_meV_A < 0.95 * tuned.new_before.forces_rmse_meV_A
    assert tuned.potential.reference_energies == first.potential.reference_energies
    # iteration 0 has the errors of the potential it continues, on old and new labels together
    before = metrics(results(tmp_path, 8))[0]
    n_old, n_new = (sum(map(len, labels)) for labels in (OLD, NEW))
    squares = n_old * first.train.forces_rmse_meV_A**2 + n_new * tuned.new_before.forces_rmse_meV_A**2
    assert 1e3 * before["rmse/f_comp"] == pytest.approx(np.sqrt(squares / (n_old + n_new)), rel=1e-6)
    # and its parameters are the new ones, not those it started from
    again = read_gracemaker(results(tmp_path, 8))
    assert again.yaml == tuned.potential.yaml


@pytest.mark.long
@pytest.mark.parametrize("with_gamma", [True, False])
def test_md_has_the_energy_forces_pressure_and_gamma_of_pyace(
    first: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_gamma: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    potential, atoms = first.potential, alloy(0.0, 0.05, 70)
    atoms.set_momenta(np.zeros((len(atoms), 3)))
    expected = potential.calculator()
    expected.calculate(atoms)
    settings = MDSettings(ensemble="nve", gamma_every=1 if with_gamma else 7, gamma_lo=1e9, gamma_hi=1e9)
    structures.write_structure(tmp_path / "structure.data", atoms, potential.elements)
    run = LibraryRun(potential, Condition(300), settings, atoms)
    start_step = 0 if with_gamma else 1  # step 1 is no gamma step
    (tmp_path / input_script.INPUT).write_text(
        input_script.render(
            potential.elements,
            Condition(300),
            settings,
            engine="library",
            start_step=start_step,
            cutoff_A=potential.cutoff,
        )
    )
    run.prepare(input_script.INPUT)
    run.run(0)
    forces = run.lmp.numpy.extract_atom("f", nelem=len(atoms))
    forces = forces[np.argsort(run.lmp.numpy.extract_atom("id", nelem=len(atoms)))]
    np.testing.assert_allclose(forces @ run.frame.rotation.T, expected.results["forces"], atol=1e-8)
    reference = sum(potential.reference_energies[s] for s in atoms.symbols)
    assert run.forces.energy + reference == pytest.approx(expected.results["energy"], abs=1e-8)
    trace = expected.results["stress"][:3].sum()
    assert -run.forces.virial[:3].sum() / atoms.get_volume() == pytest.approx(trace, abs=1e-9)
    if with_gamma:
        assert run.forces.gamma.max() == pytest.approx(expected.results["gamma"].max(), rel=1e-9)


@pytest.mark.long
def test_the_database_gives_its_calculator(first: TrainingResult) -> None:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    document = PotentialDocument.from_training(first, uuid="a", campaign_id="alloy", cycle=0)
    stored = {"uuid": "a", "index": 1, "output": jsanitize(document, strict=True), "completed_at": "2025"}
    store.update(stored, key=["uuid", "index"], save={"data": ["payload"]})
    atoms = alloy(0.0, 0.1, 3)
    atoms.calc = Campaigns(store).calculator("alloy")
    known = atoms.copy()
    known.calc = first.potential.calculator()
    assert atoms.get_potential_energy() == known.get_potential_energy()
    assert (atoms.get_forces() == known.get_forces()).all()


@pytest.mark.long
def test_md_halts_on_gamma(first: TrainingResult, tmp_path: Path) -> None:
    settings = MDSettings(n_steps=400, gamma_every=2, gamma_lo=1.5, gamma_hi=4.0)
    walk = run_exploration(
        alloy(0.0, 0.05, 70), first.potential, Condition(3000), settings, seed=1, engine="auto", directory=tmp_path
    )
    assert walk.engine == "library"
    assert walk.status is WalkStatus.HALTED
    assert walk.halt is not None
    assert walk.halt.reason is HaltReason.GAMMA
    assert compute_gamma(first.potential, walk.halt.atoms).max() > 1.5


@pytest.mark.long
def test_what_cannot_take_grace_says_so(first: TrainingResult, tmp_path: Path) -> None:
    atoms = alloy(0.0, 0.05, 70)
    with pytest.raises(InvalidInputError, match=r"pace/extrapolation.*library engine"):
        run_exploration(
            atoms, first.potential, Condition(300), MDSettings(n_steps=1), engine="executable", directory=tmp_path
        )
    for other in (LinearACETrainer(), PacemakerTrainer()):
        with pytest.raises(InvalidInputError, match="GRACEFSTrainer"):
            other.train(OLD, first.potential, fine_tune=True, directory=tmp_path)
    paths = first.potential.write(tmp_path / "written")
    assert paths.yace is None
    assert sorted(p.name for p in (tmp_path / "written").iterdir()) == ["potential.asi", "potential.yaml"]
    read = ACEPotential.from_files(paths.yaml, paths.asi, first.potential.reference_energies)
    assert read.sha256 == first.potential.sha256


@pytest.mark.long
def test_a_bare_model_is_evaluated_but_not_continued(
    trainer: GRACEFSTrainer, first: TrainingResult, first_folder: Path, tmp_path: Path
) -> None:
    bare = ACEPotential.from_files(results(first_folder) / "FS_model.yaml")
    assert STATE not in bare.yaml
    np.testing.assert_array_equal(bare.coefficients, first.potential.coefficients)
    with pytest.raises(InvalidInputError, match="read_gracemaker"):
        trainer.train(OLD, bare, fine_tune=True, directory=tmp_path)
    with pytest.raises(InvalidInputError, match="does not exist"):
        read_gracemaker(tmp_path)


@pytest.mark.long
def test_weights_of_a_model_of_more_elements_are_a_start(
    trainer: GRACEFSTrainer, first_folder: Path, first: TrainingResult, tmp_path: Path
) -> None:
    """As docs/grace.md says for a foundation model: gracemaker takes out the elements, the package goes on."""
    del first  # it has made the folder
    labels = [label_of_copper(i) for i in range(8)]
    rows = {
        "ase_atoms": [atoms.copy() for atoms in labels],
        "energy": [atoms.get_potential_energy() for atoms in labels],
        "energy_corrected": [atoms.get_potential_energy() for atoms in labels],
        "forces": [atoms.get_forces() for atoms in labels],
    }
    pd.DataFrame(rows).to_pickle(tmp_path / "first.pckl.gzip", compression="gzip", protocol=4)
    large = results(first_folder)
    settings = trainer.input(["Cu"], False, fine_tune=False, seed=1)
    settings["data"]["filename"] = "first.pckl.gzip"
    settings["potential"] = {
        "filename": str(large / "model.yaml"),
        "checkpoint_name": str(large / "checkpoints" / "checkpoint"),
        "reduce_elements": True,
    }
    settings["fit"]["maxiter"] = 3
    (tmp_path / "input.yaml").write_text(yaml.safe_dump(settings))
    command = [str(Path(sys.executable).with_name("gracemaker")), "input.yaml", "-sf"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    start = build_active_set(read_gracemaker(tmp_path / "seed" / "1"), labels)
    assert start.elements == ["Cu"]
    new = [label_of_copper(20, 0.08)]
    tuned = trainer.train(labels, start, fine_tune=True, new_labels=new, directory=tmp_path / "tuned")
    assert tuned.new_before is not None
    assert tuned.new_after is not None
    assert tuned.new_after.forces_rmse_meV_A < tuned.new_before.forces_rmse_meV_A


def test_gracemaker_cannot_continue_pacemakers_potential(
    trainer: GRACEFSTrainer, copper_potential: ACEPotential, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match="use PacemakerTrainer"):
        trainer.train([label_copper()], copper_potential, fine_tune=True, directory=tmp_path)


def label_copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    return atoms


def label_of_copper(seed: int, strain: float = 0.0) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 2, 1)
    atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
    atoms.rattle(0.08, seed=seed)
    atoms.calc = EMT()
    atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    return atoms


def spoil_no_iteration(folder: Path) -> None:
    first_line = (folder / "train_metrics.yaml").read_text().splitlines()[0]
    (folder / "train_metrics.yaml").write_text(first_line)


def spoil_nan(folder: Path) -> None:
    file = folder / "train_metrics.yaml"
    rows = metrics(folder)
    rows[-1]["total_loss/train"] = float("nan")
    file.write_text(yaml.safe_dump(rows))


def spoil_rising(folder: Path) -> None:
    (folder / "train_metrics.yaml").write_text(
        yaml.safe_dump([row | {"epoch": i} for i, row in enumerate(reversed(metrics(folder)))])
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("spoil", "fine_tune", "words"),
    [
        (lambda folder: (folder / "train_metrics.yaml").unlink(), False, "cannot be read"),
        (spoil_no_iteration, False, "did not train"),
        (spoil_nan, False, "not a number(.|\n)*wrong labels"),
        (spoil_rising, False, "went from(.|\n)*raise maxiter"),
        (lambda folder: None, True, "started from scratch"),
        (lambda folder: (folder / "FS_model.yaml").unlink(), False, "wrote no"),
    ],
)
def test_a_run_that_shows_no_fit_is_an_error(
    first: TrainingResult, first_folder: Path, tmp_path: Path, spoil, fine_tune: bool, words: str
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results(first_folder), folder)
    check_fit(first.log, tmp_path / "log", folder, fine_tune=False, batch_size=32)
    spoil(folder)
    with pytest.raises(TrainingError, match=words):
        check_fit(first.log, tmp_path / "log", folder, fine_tune=fine_tune, batch_size=32)


def test_a_program_that_fails_or_takes_too_long(trainer: GRACEFSTrainer, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys; print('boom'); sys.exit(3)")
    command = shlex.join([sys.executable, str(program)])
    with pytest.raises(TrainingError, match=r"exit code 3(.|\n)*boom"):
        replace(trainer, command=command).train(OLD, directory=tmp_path)
    program.write_text("import time; time.sleep(60)")
    with pytest.raises(TrainingError, match="gracemaker did not end within 1 s"):
        replace(trainer, command=command, timeout=1).train(OLD, directory=tmp_path)
    with pytest.raises(ExecutableError, match=r"no-such-program.*LinearACETrainer"):
        replace(trainer, command="no-such-program").train(OLD, directory=tmp_path)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"input_sections": {"potential": {"preset": "FS"}}}, "use basis"),
        ({"input_sections": {"data": {"test_size": 0.1}}}, "the loop writes the data"),
        ({"input_sections": {"fits": {"maxiter": 3}}}, "only a section 'fit'"),
        ({"input_sections": {"fit": {"optimizer": "Adam"}}}, "optimizer is 'Adam'"),
        ({"optimizer": "CG"}, "optimizer is 'CG'"),
        ({"maxiter": 0}, "maxiter is 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(parameters: dict, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        GRACEFSTrainer(**parameters)


def test_basis_is_checked() -> None:
    with pytest.raises(InvalidInputError, match="one number for each"):
        GRACEBasis(nradmax_by_orders=[4, 3], lmax_by_orders=[0]).section(["Cu"])
    section = GRACEBasis(fs_options={"basis_type": "ChebExpCos"}).section(["Cu", "Al"])
    assert section["elements"] == ["Al", "Cu"]
    assert section["kwargs"]["basis_type"] == "ChebExpCos"


def test_trainer_round_trips_as_json(trainer: GRACEFSTrainer) -> None:
    assert GRACEFSTrainer.from_dict(trainer.as_dict()) == trainer


@pytest.mark.long
def test_the_documentation_holds(first_folder: Path, first: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "grace.md").read_text()
    (section,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    campaign = {"structures": [{"bulk": {"name": "Cu"}}], "conditions": [{"temperature_K": 300}]}
    run = RunFile.model_validate(yaml.safe_load(section) | campaign | {"oracle": {"kind": "emt"}})
    trainer = run.maker().train_maker.trainer
    assert isinstance(trainer, GRACEFSTrainer)
    settings = trainer.input(["Cu"], True, fine_tune=True)
    assert settings["fit"]["maxiter"] == 100
    assert settings["fit"]["opt_params"] == {"maxcor": 100, "maxls": 40}
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    folder = results(first_folder)
    monkeypatch.chdir(folder.parents[1])
    exec(code.replace("seed/1", f"seed/{folder.name}"), {"frames": OLD})
    read = ACEPotential.from_files("start/potential.yaml", "start/potential.asi")
    assert read.yaml == first.potential.yaml
    assert compute_gamma(read, OLD[0]).max() < 1.01
