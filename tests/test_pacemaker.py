"""The gradient trainer against the real pacemaker, on copper with EMT labels.

TensorFlow takes most of the time, so three fits serve all tests.
"""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.ace.basis import BasisSettings
from mlip_autopipec.ace.pacemaker import PacemakerTrainer, check_log, read_progress
from mlip_autopipec.ace.potential import ACEPotential
from mlip_autopipec.errors import ExecutableError, InvalidInputError, TrainingError

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.ace.training import TrainingResult

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
    return PacemakerTrainer(basis=BASIS, maxiter=60, fine_tune_maxiter=40)


@pytest.fixture(scope="module")
def first_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("first")


@pytest.fixture(scope="module")
def first(trainer: PacemakerTrainer, first_folder: Path) -> TrainingResult:
    return trainer.train(OLD, test_labels=TEST, directory=first_folder)


def test_first_fit_trains(first: TrainingResult, first_folder: Path) -> None:
    progress = read_progress(first.log)
    assert progress.n_iterations > 10
    assert progress.last_loss < 0.1 * progress.first_loss
    assert first.train.forces_rmse_meV_A < 60
    assert first.train.energy_rmse_meV_atom < 15
    assert first.potential.n_functions == {"Cu": 12}
    assert losses(first_folder)[-1] == pytest.approx(progress.last_loss, rel=1e-4)


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


def test_fine_tune_learns_new_labels(trainer: PacemakerTrainer, first: TrainingResult, tmp_path: Path) -> None:
    result = trainer.train(OLD, first.potential, fine_tune=True, new_labels=NEW, directory=tmp_path)
    assert result.coefficients_moved is not None
    assert result.coefficients_moved > 1e-4
    assert result.new_before is not None
    assert result.new_after is not None
    assert result.new_after.forces_rmse_meV_A < 0.7 * result.new_before.forces_rmse_meV_A
    assert result.new_after.energy_rmse_meV_atom < 0.7 * result.new_before.energy_rmse_meV_atom
    assert result.potential.reference_energies == first.potential.reference_energies
    # the start is kept beside the result, not overwritten by it
    (folder,) = folders(tmp_path)
    kept = ACEPotential.from_files(folder / "start_potential.yaml")
    np.testing.assert_allclose(kept.coefficients, first.potential.coefficients, rtol=1e-12)


def test_continuation_starts_where_the_first_fit_ended(
    first: TrainingResult, first_folder: Path, tmp_path: Path
) -> None:
    # a ladder_step in a fine-tune would make pacemaker start from an empty potential
    trainer = PacemakerTrainer(basis=BASIS, fine_tune_maxiter=3, input_sections={"fit": {"ladder_step": 4}})
    result = trainer.train(OLD, first.potential, fine_tune=True, directory=tmp_path)
    assert losses(tmp_path)[0] == pytest.approx(losses(first_folder)[-1], rel=1e-6)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    assert result.coefficients_moved is not None
    assert result.coefficients_moved > 0


def test_input_of_each_kind_of_fit() -> None:
    trainer = PacemakerTrainer(basis=BASIS, input_sections={"fit": {"ladder_step": 5, "loss": {"kappa": 0.6}}})
    nothing = trainer.input(["Cu"], False, fine_tune=False, test=True, seed=3)
    assert nothing["seed"] == 3
    assert nothing["potential"] == BASIS.section(["Cu"])
    assert nothing["data"] == {"filename": "train.pckl.gzip", "test_filename": "test.pckl.gzip"}
    assert nothing["fit"]["loss"] == {"kappa": 0.6, "L1_coeffs": 1e-8, "L2_coeffs": 1e-8}
    assert nothing["fit"]["ladder_step"] == 5
    assert nothing["fit"]["maxiter"] == trainer.maxiter

    fine_tune = trainer.input(["Cu"], True, fine_tune=True)
    assert fine_tune["potential"] == "start_potential.yaml"
    assert "ladder_step" not in fine_tune["fit"]
    assert fine_tune["fit"]["maxiter"] == trainer.fine_tune_maxiter
    assert trainer.input_sections["fit"]["ladder_step"] == 5

    refit = PacemakerTrainer().input(["Cu"], True, fine_tune=False)
    assert refit["potential"] == {"filename": "start_potential.yaml", "reset": True}


def test_default_basis_has_two_densities_and_survives_serialisation() -> None:
    trainer = PacemakerTrainer.from_dict(PacemakerTrainer(maxiter=7).as_dict())
    assert trainer.basis.ndensity == 2
    assert trainer.maxiter == 7


@pytest.mark.parametrize("sections", [{"potential": {"cutoff": 3}}, {"data": {"reference_energy": "auto"}}])
def test_sections_that_the_trainer_owns_are_refused(sections: dict) -> None:
    with pytest.raises(InvalidInputError, match=r"potential|data\.reference_energy"):
        PacemakerTrainer(input_sections=sections).input(["Cu"], False, fine_tune=False)


INIT = f"{'-' * 44}INIT STATS{'-' * 44}\nIteration:  #0   Loss:    Total:  {{}} (100%) \n"
END = f"{'-' * 44}Cycle last iteration:{'-' * 44}\nIteration:  #2   Loss:    Total:  {{}} (100%) \n"
STEP = "Iteration   #1    (4 evals):       Loss: 1.0000e-03 | RMSE Energy(low): 1.00\n"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "no iteration"),
        ("Initial potential provided\nNo new function added after basis extension. Stopping", "use -p instead"),
        ("Number of finished fit cycles (1) >= number of expected fit cycles (1).", "use output_potential.yaml"),
        (INIT.format("1.0e-3") + END.format("1.0e-3"), "no iteration"),
        (INIT.format("nan") + STEP + END.format("nan"), "absurd labels"),
        (INIT.format("1.0e-3") + STEP + END.format("nan"), "absurd labels"),
        (INIT.format("1.0e-3") + STEP + END.format("2.0e-3"), "raised the loss from 0.001 to 0.002"),
        (
            "Initial potential is NOT provided, starting from empty potential\n"
            + INIT.format("61.")
            + STEP
            + END.format("1.0e-3"),
            "remove ladder_step",
        ),
    ],
)
def test_a_log_without_a_fine_tune_is_caught(log: str, words: str) -> None:
    with pytest.raises(TrainingError, match=words) as caught:
        check_log(log, Path("run/pacemaker.out"), fine_tune=True)
    assert "run/pacemaker.out" in str(caught.value)


def test_a_good_log_is_believed() -> None:
    log = INIT.format("2.0000e-03") + STEP + END.format("1.0000e-03")
    # the statistics of the test set look the same and must not be mistaken for them
    log += (INIT.format("9.0") + END.format("9.0")).replace("INIT", "INIT TEST").replace("Cycle", "TEST Cycle")
    assert check_log(log, Path("log"), fine_tune=True) == (1, 2e-3, 1e-3)


def test_missing_command_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ExecutableError, match=r"no-such-pacemaker.*install"):
        PacemakerTrainer(command="no-such-pacemaker").train(OLD, directory=tmp_path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('what went wrong'); raise SystemExit(3)", "exit code 3(.|\n)*what went wrong"),
        ("print('fine')", "no iteration"),
        ("import time; time.sleep(60)", "within 2 s"),
    ],
)
def test_a_program_that_does_not_train(code: str, words: str, tmp_path: Path) -> None:
    trainer = PacemakerTrainer(command=f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}", timeout=2)
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
