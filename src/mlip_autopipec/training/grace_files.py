"""The files of gracemaker: whether they show a fit, and the potential in them with all a fine-tune needs."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path

import numpy as np
import yaml

from mlip_autopipec.errors import INSTALL_ACE, InvalidInputError
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.training.pacemaker.log import HISTORY_POINTS, fail, read_device
from mlip_autopipec.training.results import FitProgress, LossPoint

LOG, MODEL, METRICS = "gracemaker.out", "FS_model.yaml", "train_metrics.yaml"
#: Key of a potential file under which what gracemaker continues from is kept.
STATE = "fit_state"
#: Relative slack for "the loss did not rise".
LOSS_DIGITS = 1e-6
CHECKPOINT = ("checkpoint.index", "checkpoint.data-00000-of-00001")
_RESULT = re.compile(r"optimization results: success=(\w+), message=(.*)")
_ADVICE = {"No module named": f"install what is missing into the Python that runs gracemaker: {INSTALL_ACE}"}


def check_fit(log: str, path: Path, results: Path, *, fine_tune: bool, batch_size: int) -> FitProgress:
    """
    Believe gracemaker only if log, metrics and files show a fit.

    Parameters
    ----------
    log, path
        What it printed, and where that stands.
    results
        Its folder of results, ``seed/<seed>``.
    fine_tune
        Whether it was to continue: then it has to say that it read the parameters, and the loss may not rise.
    batch_size
        By which gracemaker divides the parts of the loss, though not the whole, nor those before the first iteration.

    Raises
    ------
    TrainingError
        With the path of the log, its last lines and what to do.
    """
    advice = next((hint for phrase, hint in _ADVICE.items() if phrase in log), "see the lines below")
    try:
        rows = yaml.safe_load((results / METRICS).read_text())
        points = [
            LossPoint(
                int(row["epoch"]),
                float(row["total_loss/train"]),
                *(
                    float(row[f"loss_component/{part}/train"]) * (batch_size if int(row["epoch"]) else 1)
                    for part in ("energy", "forces")
                ),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        fail(f"{results / METRICS} of gracemaker cannot be read ({error})", path, log, advice)
    if not all(math.isfinite(p.total) for p in points):
        absurd = "check for wrong labels (huge forces, overlapping atoms)"
        fail("the loss of gracemaker is not a number", path, log, absurd)
    if len(points) < 2 or points[0].iteration != 0:
        fail("gracemaker did not train: its metrics show no iteration", path, log, advice)
    first, last = points[0].total, points[-1].total
    if fine_tune and "Loaded checkpoint from start/checkpoint" not in log:
        fail("gracemaker started from scratch instead of continuing", path, log, advice)
    if last > first * (1 + LOSS_DIGITS) if fine_tune else last >= first:
        more = "raise fine_tune_maxiter" if fine_tune else "raise maxiter"
        fail(f"the loss of gracemaker went from {first:g} to {last:g}", path, log, more)
    if not (results / MODEL).is_file():
        fail(f"gracemaker wrote no {results / MODEL}", path, log, advice)
    stride = max(1, math.ceil(len(points) / HISTORY_POINTS))
    result = _RESULT.findall(log)
    return FitProgress(
        n_iterations=points[-1].iteration,
        history=tuple(points[:-1][::stride] + points[-1:]),
        converged=result[-1][0] == "True" if result else None,
        message=result[-1][1] if result else "",
        device=read_device(log),
    )


def read_gracemaker(folder: str | Path) -> ACEPotential:
    """
    Read a potential from gracemaker's folder of results, ``seed/<seed>``, with all a fine-tune needs.

    The model and its parameters are put under the key ``fit_state`` into the potential's file,
    where no evaluator looks. A bare ``FS_model.yaml`` can run MD, but not be continued.

    Raises
    ------
    InvalidInputError
        If a file is not there; ``gracemaker input.yaml -sf`` writes them.
    """
    results = Path(folder)
    files = [results / MODEL, results / "model.yaml", *(results / "checkpoints" / name for name in CHECKPOINT)]
    for path in files:
        if not path.is_file():
            raise InvalidInputError(f"'{path}' does not exist; gracemaker input.yaml -sf writes it")
    state = {"model": files[1].read_text()} | {p.name: base64.b64encode(p.read_bytes()).decode() for p in files[2:]}
    potential = ACEPotential(files[0].read_text().rstrip() + "\n" + yaml.safe_dump({STATE: state}))
    if not np.isfinite(potential.coefficients).all():
        raise InvalidInputError(f"'{files[0]}' holds coefficients that are not numbers")
    return potential


def read_state(potential: ACEPotential) -> dict[str, str]:
    """
    Return the model and its parameters that a fit continues from.

    Raises
    ------
    InvalidInputError
        If the potential is not GRACE-FS, or its file came without them.
    """
    if not potential.is_grace:
        raise InvalidInputError(
            "GRACEFSTrainer cannot continue a potential of pacemaker; use PacemakerTrainer, or train from scratch"
        )
    _, found, text = potential.yaml.partition(f"\n{STATE}:")
    state = yaml.safe_load(f"{STATE}:{text}")[STATE] if found else {}
    if missing := {"model", *CHECKPOINT} - set(state):
        raise InvalidInputError(
            f"the GRACE-FS potential lacks {sorted(missing)} under '{STATE}', so it can run MD but not be continued; "
            "read it by read_gracemaker(folder) from the folder seed/<seed> in which gracemaker wrote it"
        )
    return dict(state)
