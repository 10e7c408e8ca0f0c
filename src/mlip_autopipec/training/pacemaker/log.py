"""What pacemaker's log and metrics tell: that it trained, how far, on what device."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import pandas as pd

from mlip_autopipec.errors import INSTALL_ACE, TrainingError
from mlip_autopipec.training.results import FitProgress, LossPoint

if TYPE_CHECKING:
    from pathlib import Path

#: Relative slack for "the loss did not rise": the log has five digits.
LOSS_DIGITS = 1e-4
#: Points of a loss curve that are kept.
HISTORY_POINTS = 100
_STATISTICS = re.compile(
    r"---(INIT STATS|FIT STATS|Cycle last iteration:)-+\s+Iteration:\s*#\d+\s*Loss:\s*Total:\s*(\S+)"
)
_ITERATION = re.compile(r"Iteration\s+#\d+\s*\(\d+ evals\)")
_RESULT = re.compile(r"Optimization result\(success=(\w+), status=\S+, message=(.*), nfev=")
# TensorFlow's own words, when it takes hold of a GPU
_GPU = re.compile(r"Created device \S*device:(GPU:\d+) with .*?name: ([^,\n]+)")
_FROM_NOTHING = "Initial potential is NOT provided"
_OTHER_REFERENCE = "`reference_energy` will be computed automatically"
# what pacemaker writes when it cannot, or will not, train -> what to do about it
_ADVICE = {
    _FROM_NOTHING: "leave the ladder to ladder_step; with one in the input of a fine-tune pacemaker starts again",
    "Number of finished fit cycles": "use output_potential.yaml instead of an interim potential",
    "No new function added": "pacemaker was asked to extend a basis that is already complete (-ip); use -p instead",
    "No module named": f"install what is missing into the Python that runs pacemaker: {INSTALL_ACE}",
    "DRY RUN": "take --dry-run out of the command",
    "precision loss": "the optimiser found no way down from where it started; lower L1_coeffs, or leave optimizer "
    "and options alone",
    "TestLossChangeTooSmallException": "pacemaker trips over its own early stop when the last test loss asks for it; "
    "remove min_relative_test_loss_per_iter",
    "Couldn't operate with empty dataset": "the weighting policy left no label; raise its DEup and DFup",
}


class LoggedFit(NamedTuple):
    """Results that are read from the log; a missing loss is NaN."""

    n_iterations: int
    first_loss: float
    last_loss: float


def read_log(log: str) -> LoggedFit:
    """Read the number of iterations, and the loss at the start and at the end, from the log of pacemaker."""
    statistics = _STATISTICS.findall(log)
    first = [float(loss) for title, loss in statistics if title == "INIT STATS"]
    # pacemaker keeps the best of several cycles
    last = [float(loss) for title, loss in statistics if title == "Cycle last iteration:"]
    n_iterations = len(_ITERATION.findall(log)) + sum(title == "FIT STATS" for title, _ in statistics)
    return LoggedFit(n_iterations, first[0] if first else math.nan, min(last, default=math.nan))


def read_device(log: str) -> str:
    """Return ``"cpu"``, or the GPU that TensorFlow said it uses, such as ``"gpu:0 NVIDIA A100"``."""
    found = _GPU.search(log)
    return f"{found[1].lower()} {found[2].strip()}" if found else "cpu"


def check_log(log: str, path: Path, *, continued: bool) -> LoggedFit:
    """
    Believe pacemaker only if its log shows a fit: it ends with exit code 0 in many ways without one.

    Caught are: no iteration (``maxiter: 0``, ``--dry-run``, nothing trainable, a first line search
    that fails, a potential that counts as finished, a basis that cannot grow), a loss that is not
    a number, a loss that did not fall, other reference energies than ours, and for a fit that
    continues from a potential a start from scratch or a loss that rose.

    Raises
    ------
    TrainingError
        With the ``path`` of the log, its last lines and what to do.
    """
    fit = read_log(log)
    if _OTHER_REFERENCE in log:
        fail("pacemaker replaced the reference energies by its own", path, log, "give reference_energies")
    if "INIT STATS" in log and not (math.isfinite(fit.first_loss) and math.isfinite(fit.last_loss)):
        advice = "check for wrong labels (huge forces, overlapping atoms) and for weights that are not numbers"
        fail(f"the loss went from {fit.first_loss} to {fit.last_loss}", path, log, advice)
    if fit.n_iterations == 0:
        result = _RESULT.findall(log)
        said = f"; the optimiser said: {result[-1][1]}" if result else ""
        advice = ""
        if result and not any(phrase in log for phrase in _ADVICE):
            advice = "check trainable_parameters and kappa: no trainable coefficient lowers the loss"
        fail(f"pacemaker did not train: its log has no iteration{said}", path, log, advice)
    if continued and _FROM_NOTHING in log:
        fail("pacemaker started from scratch instead of continuing", path, log)
    if continued and fit.last_loss > fit.first_loss * (1 + LOSS_DIGITS):
        problem = f"the fit raised the loss from {fit.first_loss:g} to {fit.last_loss:g}"
        fail(problem, path, log, "raise fine_tune_maxiter or fit from scratch (fine_tune=False)")
    if not continued and fit.last_loss >= fit.first_loss:
        problem = f"a fit from scratch left the loss at {fit.last_loss:g}, where it began"
        fail(problem, path, log, "raise maxiter; check trainable_parameters and kappa")
    return fit


def read_progress(log: str, metrics: Path, log_path: Path) -> FitProgress:
    """
    Read how a fit went from its log and its ``metrics.txt``.

    Raises
    ------
    TrainingError
        If the metrics are not there or hold something else than numbers.
    """
    columns = ["loss", "e_loss_contrib", "f_loss_contrib"]
    try:
        table = pd.read_csv(metrics, sep=r"\s+")[columns].astype(float)
    except (OSError, ValueError, KeyError) as error:
        fail(f"{metrics.name} of pacemaker cannot be read ({error})", log_path, log)
    points = [LossPoint(i, *row) for i, row in enumerate(table.itertuples(index=False, name=None))]
    if not points or not all(math.isfinite(p.total) for p in points):
        fail(f"{metrics.name} of pacemaker holds no loss or one that is not a number", log_path, log)
    stride = max(1, math.ceil(len(points) / HISTORY_POINTS))
    history = points[:-1][::stride] + points[-1:]
    result = _RESULT.findall(log)
    return FitProgress(
        n_iterations=read_log(log).n_iterations,
        history=tuple(history),
        converged=result[-1][0] == "True" if result else None,
        message=result[-1][1] if result else "",
        device=read_device(log),
    )


def fail(problem: str, path: Path, log: str, advice: str = "") -> NoReturn:
    """Raise a :class:`TrainingError` with what to do, the path of the log and its last lines."""
    advice = advice or next((hint for phrase, hint in _ADVICE.items() if phrase in log), "see the lines below")
    tail = "\n".join(log.splitlines()[-15:]) or "(the log is empty)"
    raise TrainingError(f"{problem}. What to do: {advice}. Log: {path}; its last lines:\n{tail}")
