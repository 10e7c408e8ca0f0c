"""Gradient fit of a (non-linear) ACE by pacemaker, run as a program of its own."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
import yaml

from mlip_autopipec.ace.basis import BasisSettings
from mlip_autopipec.ace.potential import ACEPotential, reference_energy
from mlip_autopipec.ace.training import ACETrainer, FitTask
from mlip_autopipec.errors import ExecutableError, InvalidInputError, TrainingError
from mlip_autopipec.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

#: Energies per atom (eV) beyond which pacemaker replaces the reference energies by its own.
ENERGY_RANGE = (-20.0, 250.0)
#: Relative slack for "the loss did not rise": the log has five digits.
LOSS_DIGITS = 1e-4
_RESERVED = {"filename", "test_filename", "test_size", "reference_energy", "datapath"}
_START, _OUTPUT, _LOG = "start_potential.yaml", "output_potential.yaml", "pacemaker.out"
_STATISTICS = re.compile(
    r"---(INIT STATS|FIT STATS|Cycle last iteration:)-+\s+Iteration:\s*#\d+\s*Loss:\s*Total:\s*(\S+)"
)
_ITERATION = re.compile(r"Iteration\s+#\d+\s*\(\d+ evals\)")
# what pacemaker writes when it cannot, or will not, train -> what to do about it
_ADVICE = {
    "Initial potential is NOT provided": "remove ladder_step from the fit section; with it pacemaker starts anew",
    "Number of finished fit cycles": "use output_potential.yaml instead of an interim potential",
    "No new function added": "pacemaker was asked to extend a basis that is already complete (-ip); use -p instead",
    "No module named": "install what is missing into the Python that runs pacemaker: pip install 'mlip-autopipec[ace]'",
}


class FitProgress(NamedTuple):
    """What the log of a fit tells: number of iterations, loss at the start and at the end."""

    n_iterations: int
    first_loss: float
    last_loss: float


@dataclass
class PacemakerTrainer(ACETrainer):
    """
    Fit by pacemaker's gradient optimiser (TensorFlow), in a process of its own.

    A first fit starts from nothing; a fine-tune continues from the coefficients of the
    initial potential on *all* labels, old and new, with fewer iterations. An initial
    potential without ``fine_tune`` gives its basis only: all coefficients are reset.

    Parameters
    ----------
    basis
        As in :class:`ACETrainer`; by default with two densities.
    maxiter, fine_tune_maxiter
        Most iterations of a fit from nothing, and of a fine-tune.
    kappa
        Share of the forces in the loss (0 to 1); energies have the rest.
    L1_coeffs, L2_coeffs
        Regularisation of the coefficients.
    optimizer
        A method of ``scipy.optimize.minimize``; L-BFGS-B from about 3000 parameters on.
    batch_size
        Structures evaluated at once; bounds the memory, does not change the result.
    repulsion
        "auto" puts a ZBL core below the shortest distance of each pair in the training set,
        anew in each fit; None leaves the core of the initial potential.
    new_label_weight
        Weight of the labels bought last, relative to 1 of all others. The default is 1: the
        large errors of new labels dominate a squared loss by themselves, more weight lets
        the old labels be forgotten, and the loss of one fit would not continue the last.
    min_relative_loss_change
        Stop early when no iteration out of the last quarter of ``maxiter`` lowered the loss
        by this fraction.
    command
        Command that starts pacemaker; by default the script beside the running Python, else
        the one on PATH.
    timeout
        Seconds after which the fit is ended with an error; None waits for ever.
    input_sections
        Sections of a pacemaker ``input.yaml`` that are merged over the ones written here, key
        by key, e.g. ``{"fit": {"loss": {"kappa": 0.5}}}``. The potential and the data files
        cannot be set. A ``ladder_step`` holds for fits from nothing only.
    """

    basis: BasisSettings = field(default_factory=lambda: BasisSettings(ndensity=2))
    maxiter: int = 200
    fine_tune_maxiter: int = 60
    kappa: float = 0.3
    L1_coeffs: float = 1e-8
    L2_coeffs: float = 1e-8
    optimizer: str = "BFGS"
    batch_size: int = 100
    repulsion: str | None = "auto"
    new_label_weight: float = 1.0
    min_relative_loss_change: float = 5e-5
    command: str | None = None
    timeout: float | None = None
    input_sections: dict[str, Any] = field(default_factory=dict)

    def fit(self, task: FitTask) -> tuple[ACEPotential, str]:
        """Fit in a fresh subfolder of the task's directory; see :meth:`ACETrainer.fit`."""
        command = self.find_command()
        weights = [self.new_label_weight if is_new else 1.0 for is_new in task.new]
        train = _data_frame(task.labels, task.reference_energies, weights, "label")
        # pacemaker joins both frames, so the test set needs the weight column as well
        test = _data_frame(task.test_labels, task.reference_energies, [1.0] * len(task.test_labels), "test label")
        fine_tune, start = task.fine_tune, task.start
        settings = self.input(
            task.elements, start is not None, fine_tune=fine_tune, test=bool(task.test_labels), seed=task.seed
        )

        task.directory.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="pacemaker-", dir=task.directory)).resolve()
        train.to_pickle(folder / "train.pckl.gzip", compression="gzip", protocol=4)
        if task.test_labels:
            test.to_pickle(folder / "test.pckl.gzip", compression="gzip", protocol=4)
        if start is not None:
            _write_start(start, folder / _START, task.reference_energies if fine_tune else None)
        (folder / "input.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

        log = self._run(command, folder)
        check_log(log, folder / _LOG, fine_tune=fine_tune)
        if not (folder / _OUTPUT).is_file():
            _fail(f"pacemaker wrote no {_OUTPUT}", folder / _LOG, log)
        info = pd.read_pickle(folder / "fitting_data_info.pckl.gzip", compression="gzip")  # noqa: S301 made by this run
        if dropped := sorted(set(train["name"]) - set(info["name"])):
            # they would be missing from what the potential knows, and halt the MD again and again
            problem = f"pacemaker left out {len(dropped)} of {len(train)} labels ({', '.join(dropped[:5])})"
            _fail(problem, folder / _LOG, log, "remove 'weighting' from the fit section, or raise its DEup and DFup")
        return ACEPotential.from_files(folder / _OUTPUT), log

    def input(
        self, elements: Sequence[str], has_start: bool, *, fine_tune: bool, test: bool = False, seed: int = 0
    ) -> dict[str, Any]:
        """Return the ``input.yaml`` of a fit as a dictionary."""
        given = self.input_sections
        if "potential" in given or (clash := _RESERVED & set(given.get("data", {}))):
            culprit = "potential" if "potential" in given else f"data.{min(clash)}"
            raise InvalidInputError(
                f"input_sections holds '{culprit}', which the trainer writes itself; describe the potential by "
                "basis.potential_section, and pass labels, test_labels and reference_energies"
            )
        maxiter = self.fine_tune_maxiter if fine_tune else self.maxiter
        ours: dict[str, Any] = {
            "seed": int(seed),
            # energies come without the reference; the key 'reference_energy' would take it off once more
            "data": {"filename": "train.pckl.gzip"} | ({"test_filename": "test.pckl.gzip"} if test else {}),
            "fit": {
                "loss": {"kappa": self.kappa, "L1_coeffs": self.L1_coeffs, "L2_coeffs": self.L2_coeffs},
                "optimizer": self.optimizer,
                "maxiter": maxiter,
                "min_relative_train_loss_per_iter": self.min_relative_loss_change,
                # pacemaker's 200 would never act
                "early_stopping_patience": max(maxiter // 4, 10),
            },
            "backend": {"evaluator": "tensorpot", "batch_size": self.batch_size, "display_step": 20},
        }
        if self.repulsion is not None:
            ours["fit"]["repulsion"] = self.repulsion
        merged = _merge(ours, given)
        if fine_tune:
            # a ladder starts from an empty potential, whatever potential it is given
            for key in ("ladder_step", "ladder_type"):
                merged["fit"].pop(key, None)
        if not has_start:
            merged["potential"] = self.basis.section(elements)
        elif fine_tune or "ladder_step" in merged["fit"]:
            merged["potential"] = _START  # the same as pacemaker -p
        else:
            merged["potential"] = {"filename": _START, "reset": True}
        return merged

    def find_command(self) -> list[str]:
        """Return the command that starts pacemaker, or say how to get it."""
        command = self.command or get_settings().PACEMAKER_CMD
        words = shlex.split(command) if command else ["pacemaker"]
        beside = Path(sys.executable).with_name("pacemaker")
        if not command and os.access(beside, os.X_OK):
            return [str(beside)]
        found = shutil.which(words[0])
        if found is None:
            where = "on PATH" if command else f"beside {sys.executable} or on PATH"
            raise ExecutableError(
                f"'{words[0]}' was not found {where}; install pacemaker with pip install 'mlip-autopipec[ace]', "
                "give PacemakerTrainer(command=...), or use LinearACETrainer, which does not need it"
            )
        return [str(Path(found).absolute()), *words[1:]]

    def _run(self, command: Sequence[str], folder: Path) -> str:
        """Run pacemaker in ``folder`` and return its log."""
        path = folder / _LOG
        # --no-predict: errors are measured by the caller, with the potential as MD evaluates it
        arguments = [*command, "input.yaml", "-o", _OUTPUT, "--no-predict"]
        options: dict[str, Any] = {"cwd": folder, "env": _environment(), "timeout": self.timeout}
        try:
            with path.open("wb") as out:
                done = subprocess.run(
                    arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, check=False, **options
                )
        except subprocess.TimeoutExpired:
            problem = f"pacemaker did not end within {self.timeout:g} s"
            _fail(problem, path, path.read_text(errors="replace"), "raise timeout or lower maxiter")
        log = path.read_text(errors="replace")
        if done.returncode:
            killed = "it was killed; if the memory ran out lower batch_size" if done.returncode < 0 else ""
            _fail(f"pacemaker ended with exit code {done.returncode}", path, log, killed)
        return log


def read_progress(log: str) -> FitProgress:
    """Read iterations and losses from the log of pacemaker; a loss that is not there is NaN."""
    statistics = _STATISTICS.findall(log)
    first = [float(loss) for title, loss in statistics if title == "INIT STATS"]
    # pacemaker keeps the best of several cycles
    last = [float(loss) for title, loss in statistics if title == "Cycle last iteration:"]
    n_iterations = len(_ITERATION.findall(log)) + sum(title == "FIT STATS" for title, _ in statistics)
    return FitProgress(n_iterations, first[0] if first else math.nan, min(last, default=math.nan))


def check_log(log: str, path: Path, *, fine_tune: bool) -> FitProgress:
    """
    Believe pacemaker only if its log shows a fit: it ends with exit code 0 in many ways without one.

    A fine-tune must also have continued from a potential and not have raised the loss. Raises
    :class:`TrainingError` with the ``path`` of the log, its last lines and what to do.
    """
    progress = read_progress(log)
    if "INIT STATS" in log and not (math.isfinite(progress.first_loss) and math.isfinite(progress.last_loss)):
        advice = "look for absurd labels (huge forces, overlapping atoms) and for weights that are not numbers"
        _fail(f"the loss went from {progress.first_loss} to {progress.last_loss}", path, log, advice)
    if progress.n_iterations == 0:
        _fail("pacemaker did not train: its log has no iteration", path, log)
    if not fine_tune:
        return progress
    if "Initial potential is NOT provided" in log:
        _fail("pacemaker started from nothing instead of continuing", path, log)
    if progress.last_loss > progress.first_loss * (1 + LOSS_DIGITS):
        problem = f"the fine-tune raised the loss from {progress.first_loss:g} to {progress.last_loss:g}"
        _fail(problem, path, log, "raise fine_tune_maxiter or fit from nothing (fine_tune=False)")
    return progress


def _fail(problem: str, path: Path, log: str, advice: str = "") -> NoReturn:
    advice = advice or next((hint for phrase, hint in _ADVICE.items() if phrase in log), "see the lines below")
    tail = "\n".join(log.splitlines()[-15:]) or "(the log is empty)"
    raise TrainingError(f"{problem}. What to do: {advice}. Log: {path}; its last lines:\n{tail}")


def _data_frame(
    labels: Sequence[Atoms], references: Mapping[str, float], weights: Sequence[float], name: str
) -> pd.DataFrame:
    """Write labels as pacemaker reads them; names are ours, to find each label again after the fit."""
    energies = [a.get_potential_energy() - reference_energy(a, references) for a in labels]
    low, high = ENERGY_RANGE
    for i, (atoms, energy) in enumerate(zip(labels, energies, strict=True)):
        what = f"{name} {i} ({atoms.get_chemical_formula()})"
        if not low < energy / len(atoms) < high:
            raise InvalidInputError(
                f"{what} has {energy / len(atoms):.6g} eV/atom relative to reference_energies {dict(references)}; "
                f"pacemaker takes {low:g} to {high:g}. Give the energies of isolated atoms, or remove the label"
            )
        if atoms.pbc.any() and not atoms.pbc.all():
            raise InvalidInputError(
                f"{what} is periodic in some directions only (pbc {atoms.pbc.tolist()}); pacemaker takes all or none. "
                "Set pbc to True and leave more vacuum than the cutoff"
            )
    bare = [a.copy() for a in labels]  # Atoms.copy leaves the calculator behind
    columns = {"ase_atoms": bare, "energy_corrected": energies, "forces": [np.asarray(a.get_forces()) for a in labels]}
    return pd.DataFrame(columns | {"name": [f"{name} {i}" for i in range(len(labels))], "w_factor": list(weights)})


def _write_start(start: ACEPotential, path: Path, references: Mapping[str, float] | None) -> None:
    """Write the potential without the metadata that would stop the fit or shift the energies twice."""
    configuration = start.configuration()
    metadata = configuration.metadata
    if references is not None and "reference_energy" in metadata:
        # the potential was made elsewhere: what it is continued with has to be the energy it was fitted to
        fitted = json.loads(metadata["reference_energy"])
        known = {e: fitted.get(e, 0.0) - fitted.get("shift", 0.0) for e in start.elements}
        if any(abs(known[e] - references.get(e, 0.0)) > 1e-6 for e in known):
            raise InvalidInputError(
                f"the initial potential was fitted with reference energies {known} eV (its metadata), but "
                f"{dict(references)} are in use; give ACEPotential.from_files(..., reference_energies={known})"
            )
    for key in ("_fit_cycles", "reference_energy"):
        if key in metadata:
            del metadata[key]
    configuration.save(str(path))


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries; ``over`` wins."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _environment() -> dict[str, str]:
    """Return the environment of the fit: as many threads as there are cores for this process, unless it is set."""
    env = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = env.get("OMP_NUM_THREADS", str(cores))
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        env.setdefault(name, threads)
    env["TF_CPP_MIN_LOG_LEVEL"] = "2"
    env["MPLBACKEND"] = "Agg"
    return env
