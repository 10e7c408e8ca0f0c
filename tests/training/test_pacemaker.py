"""The gradient trainer against the real pacemaker, on copper with EMT labels.

TensorFlow takes most of the time, so one fit with it serves all tests, and `make test-long` has another; where the
backend does not matter, a tiny basis is fitted by pacemaker's own, which starts in a few seconds.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import ExecutableError, InvalidInputError, TrainingError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.training.pacemaker.log import read_log
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.training.results import TrainingResult

# not importorskip: TensorFlow stays out of the process of the tests
pytestmark = pytest.mark.skipif(find_spec("tensorpotential") is None, reason="tensorpotential is not installed")

BASIS = BasisSettings(
    number_of_functions_per_element=12, cutoff=4.5, nradmax_by_orders=[6, 3], lmax_by_orders=[0, 2], ndensity=2
)


def label(strain: float, displacement: float, seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
    atoms.positions += np.random.default_rng(seed).normal(0, displacement, (len(atoms), 3))
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


TINY = BasisSettings(number_of_functions_per_element=4, cutoff=3.6, nradmax_by_orders=[3, 1], lmax_by_orders=[0, 1])
#: pacemaker's own backend, which differentiates numerically: no TensorFlow, so it starts quickly.
PYACE = {"evaluator": "pyace"}
# the last one is compressed and strongly displaced: it holds the shortest distance, where the core begins
OLD = [label(0.01 * (i % 5 - 2), 0.1, i) for i in range(9)] + [label(-0.03, 0.16, 9)]
NEW = [label(0.09, 0.1, 100 + i) for i in range(3)]
TEST = [label(0.01 * (i - 1), 0.09, 200 + i) for i in range(3)]


def folders(directory: Path) -> list[Path]:
    return sorted(directory.glob("pacemaker-*"))


def losses(directory: Path) -> list[float]:
    """All digits of the loss of each iteration (pacemaker's log prints five)."""
    (folder,) = folders(directory)
    lines = (folder / "metrics.txt").read_text().splitlines()
    column = lines[0].split().index("loss")
    return [float(line.split()[column]) for line in lines[1:]]


@pytest.fixture(scope="module")
def trainer() -> PacemakerTrainer:
    return PacemakerTrainer(basis=BASIS, maxiter=60, fine_tune_maxiter=40, linear_start=False)


@pytest.fixture(scope="module")
def first_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("first")


@pytest.fixture(scope="module")
def first(trainer: PacemakerTrainer, first_folder: Path) -> TrainingResult:
    return trainer.train(OLD, test_labels=TEST, directory=first_folder)


def test_first_fit_trains(first: TrainingResult, first_folder: Path) -> None:
    logged = read_log(first.log)
    assert logged.n_iterations > 10
    assert logged.last_loss < 0.1 * logged.first_loss
    assert first.train.forces_rmse_meV_A < 60
    assert first.train.energy_rmse_meV_atom < 15
    assert first.potential.n_functions == {"Cu": 12}
    assert losses(first_folder)[-1] == pytest.approx(logged.last_loss, rel=1e-4)


def test_how_the_fit_went_is_stored(first: TrainingResult, first_folder: Path) -> None:
    document = PotentialDocument.from_training(first, uuid="1", campaign_id="c", cycle=0)
    fit = PotentialDocument.model_validate_json(document.model_dump_json()).fit
    assert fit is not None
    assert fit.n_iterations == read_log(first.log).n_iterations
    assert [fit.start.total, fit.end.total] == pytest.approx([losses(first_folder)[0], losses(first_folder)[-1]])
    assert fit.end.energy + fit.end.forces <= fit.end.total < fit.start.total
    assert [point.iteration for point in fit.history] == list(range(fit.n_iterations + 1))
    # "Maximum number of iterations has been exceeded.", "`callback` raised `StopIteration`.", or better
    assert fit.converged is (fit.message == "Optimization terminated successfully.")
    assert fit.message
    assert fit.device == "cpu"  # the tests' GPU, should there ever be one, would be named
    # the loss by which a refit is judged is pacemaker's own
    assert first.train.loss(0.3) == pytest.approx(fit.end.energy + fit.end.forces, rel=1e-5)


def test_the_core_begins_below_the_shortest_distance(first: TrainingResult) -> None:
    # right at it, as pacemaker puts it, the next shorter pair would meet tens of eV/A
    shortest = min(min(a.get_all_distances(mic=True)[np.triu_indices(len(a), 1)]) for a in OLD)
    assert first.potential.core_radii[("Cu", "Cu")] == pytest.approx(shortest - 0.3)


def test_held_out_labels_are_measured(first: TrainingResult, first_folder: Path) -> None:
    assert first.test is not None
    assert first.test.n_structures == len(TEST)
    assert first.test.forces_rmse_meV_A < 80
    (folder,) = folders(first_folder)
    assert "INIT TEST STATS" in (folder / "pacemaker.out").read_text()


def test_fitted_energies_are_total_energies(first: TrainingResult) -> None:
    calculator = first.potential.calculator()
    for atoms in OLD[:2]:
        assert calculator.get_potential_energy(atoms.copy()) == pytest.approx(atoms.get_potential_energy(), abs=2)


def test_fine_tune_starts_where_the_first_fit_ended_and_learns_new_labels(tmp_path: Path) -> None:
    options = {"input_sections": {"backend": PYACE}, "linear_start": False}
    trainer = PacemakerTrainer(basis=TINY, maxiter=20, fine_tune_maxiter=30, **options)
    first = trainer.train(OLD[:5], directory=tmp_path / "first")
    check_fine_tune(trainer, OLD[:5], first, tmp_path / "fine-tune")


@pytest.mark.long
def test_fine_tune_by_tensorflow(trainer: PacemakerTrainer, first: TrainingResult, tmp_path: Path) -> None:
    check_fine_tune(trainer, OLD, first, tmp_path)


def check_fine_tune(trainer: PacemakerTrainer, old: list[Atoms], first: TrainingResult, folder: Path) -> None:
    # a ladder_step in a fine-tune would make pacemaker start from an empty potential
    trainer = replace(trainer, ladder_step=4)
    result = trainer.train(old, first.potential, fine_tune=True, new_labels=NEW, directory=folder)
    assert result.coefficients_moved is not None
    assert result.coefficients_moved > 1e-4
    assert result.new_before is not None
    assert result.new_after is not None
    assert result.new_after.forces_rmse_meV_A < 0.7 * result.new_before.forces_rmse_meV_A
    assert result.new_after.energy_rmse_meV_atom < 0.7 * result.new_before.energy_rmse_meV_atom
    assert result.potential.reference_energies == first.potential.reference_energies
    # iteration 0 has the errors of the potential it continues, on old and new labels together
    assert result.progress is not None
    begun = result.progress.history[0]
    expected = np.average([first.train.loss(0.3), result.new_before.loss(0.3)], weights=[len(old), len(NEW)])
    assert begun.energy + begun.forces == pytest.approx(expected, rel=1e-5)
    assert losses(folder)[-1] < losses(folder)[0]
    # the start is kept beside the result, not overwritten by it
    (run,) = folders(folder)
    kept = ACEPotential.from_files(run / "start_potential.yaml")
    np.testing.assert_allclose(kept.coefficients, first.potential.coefficients, rtol=1e-12)


@pytest.mark.long
def test_a_first_fit_by_a_ladder(tmp_path: Path) -> None:
    trainer = PacemakerTrainer(
        basis=TINY, maxiter=4, ladder_step=2, ladder_type="power_order", input_sections={"backend": PYACE}
    )
    result = trainer.train(OLD[:4], directory=tmp_path)
    (folder,) = folders(tmp_path)
    steps = len(list(folder.glob("interim_potential_ladder_step_*.yaml")))
    assert steps == 2
    assert result.potential.n_functions == {"Cu": 4}
    assert result.progress is not None
    assert result.progress.n_iterations <= steps * 4
    assert result.progress.history[-1].total < result.progress.history[0].total
    # the same fit once more: the same potential, for who ran it and when is left out
    again = trainer.train(OLD[:4], directory=tmp_path / "again")
    assert again.potential.yaml == result.potential.yaml
    assert again.potential.sha256 == result.potential.sha256
    assert "user" not in dict(again.potential.configuration().metadata)


def test_missing_command_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ExecutableError, match=r"no-such-pacemaker.*install"):
        PacemakerTrainer(command="no-such-pacemaker").train(OLD, directory=tmp_path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('what went wrong'); raise SystemExit(3)", "exit code 3(.|\n)*what went wrong"),
        ("print('fine')", "no iteration"),
        ("import time; time.sleep(60)", "within 3 s"),
    ],
)
def test_a_program_that_does_not_train(code: str, words: str, tmp_path: Path) -> None:
    trainer = PacemakerTrainer(command=f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}", timeout=3)
    with pytest.raises(TrainingError, match=words) as caught:
        trainer.train(OLD, directory=tmp_path)
    (folder,) = folders(tmp_path)
    assert str(folder / "pacemaker.out") in str(caught.value)


def test_energies_out_of_range_are_refused(tmp_path: Path) -> None:
    # pacemaker would silently choose other reference energies
    with pytest.raises(InvalidInputError, match=r"label 0 .*eV/atom"):
        PacemakerTrainer(reference_energies={"Cu": 1000.0}).train(OLD, directory=tmp_path)


def test_partly_periodic_cells_are_refused(tmp_path: Path) -> None:
    slab = OLD[0].copy()
    slab.pbc = (True, True, False)
    slab.calc = SinglePointCalculator(slab, **OLD[0].calc.results)
    with pytest.raises(InvalidInputError, match=r"label 1 .*pbc"):
        PacemakerTrainer().train([OLD[0], slab], directory=tmp_path)


def test_a_foreign_potential_keeps_its_reference_energies(first: TrainingResult, tmp_path: Path) -> None:
    configuration = first.potential.configuration()
    configuration.metadata["reference_energy"] = '{"Cu": -3.0, "shift": 0.5}'
    foreign = ACEPotential.from_basis(configuration)
    with pytest.raises(InvalidInputError, match=r"reference energies \{'Cu': -3.5\}"):
        PacemakerTrainer().train(OLD, foreign, fine_tune=True, directory=tmp_path)


@pytest.mark.parametrize(
    ("sections", "options", "words"),
    [
        (
            {"weighting": {"type": "EnergyBasedWeightingPolicy", "DEup": 0.001, "energy": "cohesive"}},
            "",
            r"left out 2 of 3 labels \(label 0, label 2\).*raise its DEup",
        ),
        (
            {"weighting": {"type": "EnergyBasedWeightingPolicy", "DEup": -1.0, "energy": "cohesive"}},
            "",
            r"weighting policy left no label",
        ),
        ({"fit": {"trainable_parameters": {"Cu": []}}}, "", r"exit code 1"),
        ({}, " --dry-run", r"no iteration.*take --dry-run out"),
    ],
)
def test_a_real_run_that_does_not_train_on_all_labels(sections: dict, options: str, words: str, tmp_path: Path) -> None:
    trainer = PacemakerTrainer(basis=TINY, maxiter=1, input_sections={"backend": PYACE, **sections})
    if options:
        trainer.command = shlex.join(trainer.find_command()) + options
    with pytest.raises(TrainingError, match=words):
        trainer.train(OLD[:3], directory=tmp_path)


def test_a_tight_gradient_ends_a_fit_that_has_not_begun(tmp_path: Path) -> None:
    sections = {"backend": PYACE, "fit": {"options": {"gtol": 1e9}}}
    with pytest.raises(TrainingError, match=r"no iteration; the optimiser said: Optimization terminated successfully"):
        PacemakerTrainer(basis=TINY, maxiter=3, input_sections=sections).train(OLD[:3], directory=tmp_path)


@pytest.mark.long
def test_refit_beside_a_fine_tune(tmp_path: Path) -> None:
    trainer = PacemakerTrainer(
        basis=TINY,
        maxiter=4,
        fine_tune_maxiter=2,
        refit_every=2,
        input_sections={"backend": PYACE},
        linear_start=False,
    )
    start = trainer.train(OLD[:3], directory=tmp_path / "first").potential
    options = {"new_labels": NEW[:1], "test_labels": TEST, "directory": tmp_path / "refit"}
    result = trainer.train(OLD[:3], start, fine_tune=True, cycle=4, **options)
    refit = result.refit
    assert refit is not None
    assert refit.failure is None
    assert refit.refit is not None
    assert refit.judged_on == "test"
    assert (refit.kept == "refit") is (refit.refit_loss < refit.fine_tune_loss)
    kept = refit.refit if refit.kept == "refit" else refit.fine_tune
    assert result.test == kept
    assert len(folders(tmp_path / "refit")) == 2
    inputs = [(f / "input.yaml").read_text() for f in folders(tmp_path / "refit")]
    assert sorted("reset: true" in text for text in inputs) == [False, True]
    document = PotentialDocument.from_training(result, uuid="1", campaign_id="c", cycle=4)
    assert document.refit is not None
    assert document.refit.kept == refit.kept

    # a refit that fails is told, and costs nothing: only a fit from nothing reads the ladder
    trainer.input_sections = {"backend": PYACE, "fit": {"ladder_step": "nonsense"}}
    result = trainer.train(OLD[:3], start, fine_tune=True, cycle=2, **{**options, "directory": tmp_path / "bad"})
    assert result.refit is not None
    assert result.refit.kept == "fine-tune"
    assert "TrainingError: pacemaker ended with exit code 1" in (result.refit.failure or "")
    assert result.test == result.refit.fine_tune
    document = PotentialDocument.from_training(result, uuid="1", campaign_id="c", cycle=2)
    assert PotentialDocument.model_validate_json(document.model_dump_json()).refit == document.refit


@pytest.mark.parametrize(
    ("refit_every", "cycle", "due"), [(None, 5, False), (5, 0, False), (5, 4, False), (5, 10, True)]
)
def test_when_a_refit_is_due(refit_every: int | None, cycle: int, due: bool) -> None:
    assert PacemakerTrainer(refit_every=refit_every).refit_is_due(cycle) is due


def test_a_fit_that_takes_too_long_ends_with_all_it_started(tmp_path: Path) -> None:
    script = tmp_path / "launcher.sh"
    # a launcher that waits for its child, as srun does
    script.write_text("sleep 300 &\necho $! > child\nwait\n")
    with pytest.raises(TrainingError, match="within 1 s"):
        PacemakerTrainer(command=f"sh {script}", timeout=1).train(OLD, directory=tmp_path)
    (folder,) = folders(tmp_path)
    child = int((folder / "child").read_text())
    for _ in range(50):
        if not is_running(child):
            break
        time.sleep(0.1)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # one that nobody waited for is dead all the same
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] in "ZX")
