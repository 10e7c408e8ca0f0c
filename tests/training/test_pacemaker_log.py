"""Logs of pacemaker that show no fit. The excerpts are from real runs, numbers shortened."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlip_autopipec.errors import TrainingError
from mlip_autopipec.training.pacemaker.log import HISTORY_POINTS, check_log, read_device, read_progress

INIT = f"{'-' * 44}INIT STATS{'-' * 44}\nIteration:  #0   Loss:    Total:  {{}} (100%) \n"
END = f"{'-' * 44}Cycle last iteration:{'-' * 44}\nIteration:  #2   Loss:    Total:  {{}} (100%) \n"
STEP = "Iteration   #1    (4 evals):       Loss: 1.0000e-03 | RMSE Energy(low): 1.00\n"
RESULT = "Optimization result(success={}, status={}, message={}, nfev=3, njev=3)\n"
FROM_NOTHING = "Initial potential is NOT provided, starting from empty potential\n"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "no iteration"),
        ("Initial potential provided\nNo new function added after basis extension. Stopping", "use -p instead"),
        ("Number of finished fit cycles (1) >= number of expected fit cycles (1).", "use output_potential.yaml"),
        ("====== DRY RUN ======\nDry run is finished", "take --dry-run out"),
        (INIT.format("1.0e-3") + END.format("1.0e-3"), "no iteration"),
        (
            INIT.format("1.0e-3")
            + RESULT.format("False", 2, "Desired error not necessarily achieved due to precision loss.")
            + END.format("1.0e-3"),
            "no iteration; the optimiser said: Desired error(.|\n)*no way down",
        ),
        (
            INIT.format("0.0") + RESULT.format("True", 0, "Optimization terminated successfully.") + END.format("0.0"),
            "no iteration; the optimiser said: Optimization terminated(.|\n)*trainable_parameters",
        ),
        (INIT.format("nan") + STEP + END.format("nan"), "wrong labels"),
        (INIT.format("1.0e-3") + STEP + END.format("nan"), "wrong labels"),
        (INIT.format("1.0e-3") + STEP + END.format("inf"), "wrong labels"),
        (INIT.format("1.0e-3") + STEP, "wrong labels"),
        (INIT.format("1.0e-3") + STEP + END.format("2.0e-3"), "raised the loss from 0.001 to 0.002"),
        (FROM_NOTHING + INIT.format("61.") + STEP + END.format("1.0e-3"), "leave the ladder to ladder_step"),
        (
            "# `reference_energy` will be computed automatically. #\n"
            + INIT.format("2.0e-3")
            + STEP
            + END.format("1.0e-3"),
            "replaced the reference energies",
        ),
    ],
)
def test_a_log_without_a_fine_tune_is_caught(log: str, words: str) -> None:
    with pytest.raises(TrainingError, match=words) as caught:
        check_log(log, Path("run/pacemaker.out"), continued=True)
    assert "run/pacemaker.out" in str(caught.value)


def test_a_fit_from_nothing_has_to_lower_the_loss() -> None:
    log = INIT.format("2.0000e-03") + STEP + END.format("2.0000e-03")
    with pytest.raises(TrainingError, match=r"left the loss at 0\.002"):
        check_log(log, Path("log"), continued=False)


def test_a_good_log_is_believed() -> None:
    log = INIT.format("2.0000e-03") + STEP + END.format("1.0000e-03")
    # the statistics of the test set look the same and must not be mistaken for them
    log += (INIT.format("9.0") + END.format("9.0")).replace("INIT", "INIT TEST").replace("Cycle", "TEST Cycle")
    assert check_log(log, Path("log"), continued=True) == (1, 2e-3, 1e-3)
    ladder = FROM_NOTHING + log + "No new function added after basis extension. Stopping\n"
    assert check_log(ladder, Path("log"), continued=False).n_iterations == 1


def test_the_device_is_what_tensorflow_says() -> None:
    # no GPU where this was written: the line is in the form of TensorFlow's gpu_device.cc
    line = (
        "I tensorflow/core/common_runtime/gpu/gpu_device.cc:1928] Created device "
        "/job:localhost/replica:0/task:0/device:GPU:0 with 38358 MB memory:  -> device: 0, "
        "name: NVIDIA A100-SXM4-40GB, pci bus id: 0000:07:00.0, compute capability: 8.0\n"
    )
    assert read_device(line) == "gpu:0 NVIDIA A100-SXM4-40GB"
    assert read_device("Could not find cuda drivers on your machine, GPU will not be used.") == "cpu"


def test_the_loss_curve_is_thinned_and_keeps_its_ends(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.txt"
    rows = [f"0 0 {i} {1 / (i + 1)} {0.4 / (i + 1)} {0.6 / (i + 1)}" for i in range(1001)]
    metrics.write_text("\n".join(["ladder_step cycle_step iter_num loss e_loss_contrib f_loss_contrib", *rows]))
    log = STEP + RESULT.format("False", 1, "Maximum number of iterations has been exceeded.")
    progress = read_progress(log, metrics, tmp_path / "log")
    assert len(progress.history) <= HISTORY_POINTS + 1
    assert progress.history[0] == (0, 1.0, 0.4, 0.6)
    assert progress.history[-1].iteration == 1000
    assert progress.history[-1].total == pytest.approx(1 / 1001)
    assert (progress.converged, progress.message) == (False, "Maximum number of iterations has been exceeded.")


@pytest.mark.parametrize(
    "content", ["", "loss e_loss_contrib\n1.0 2.0\n", "loss e_loss_contrib f_loss_contrib\nnan 1 1\n"]
)
def test_metrics_that_cannot_be_read_are_an_error(content: str, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.txt"
    metrics.write_text(content)
    with pytest.raises(TrainingError, match=r"metrics\.txt"):
        read_progress(STEP, metrics, tmp_path / "log")
    with pytest.raises(TrainingError, match=r"absent\.txt"):
        read_progress(STEP, tmp_path / "absent.txt", tmp_path / "log")
