"""Gradient fit of a (non-linear) ACE by pacemaker, run as a program of its own."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from mlip_autopipec.errors import INSTALL_ACE, InvalidInputError
from mlip_autopipec.kinds import TrainerKind
from mlip_autopipec.potentials.basis import GRADIENT_CUTOFF, BasisSettings
from mlip_autopipec.potentials.core import CORE_MARGIN, put_core
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.settings import get_settings
from mlip_autopipec.training.pacemaker.files import (
    coefficients_differ,
    label_frame,
    left_out,
    mean_size,
    read_fitted,
    write_start,
)
from mlip_autopipec.training.pacemaker.input import (
    WithoutStress,
    check_optimizer,
    check_sections,
    merge,
    read_input_file,
    with_section,
)
from mlip_autopipec.training.pacemaker.linear_start import has_linear_part, linear_start, linear_trainer
from mlip_autopipec.training.pacemaker.log import check_log, fail, read_progress
from mlip_autopipec.training.pacemaker.refit import better_of
from mlip_autopipec.training.pacemaker.run import LOG, OUTPUT, look_for_pacemaker, run_pacemaker
from mlip_autopipec.training.program import find_program
from mlip_autopipec.training.results import Fit, TrainingResult
from mlip_autopipec.training.teacher import holds_functions
from mlip_autopipec.training.training import (
    BASIS_TEMPLATE,
    ACETrainer,
    FitTask,
    TrainingInput,
    prove_learning,
)
from mlip_autopipec.training.weights import (
    FitWeights,
    at_least_one,
    check_earlier_weights,
    positive,
    share_of_forces,
    worth_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


#: Of pacemaker's template, and what an error is worth with it; and that in the linear fit that a fit begins at.
_KAPPA, _AS_TEMPLATE = 0.3, FitWeights(10.0, 100.0)
_AS_LINEAR = FitWeights()
#: Strength of the regularisation in pacemaker's template.
_DAMPING = 1e-8
_START = "start_potential.yaml"
#: Most iterations of a fit that begins at a linear one, and of one from scratch. Few labels are overfitted by more: 20
#: of silicon have 109 meV/A on others after 30, 114 after 100.
FROM_LINEAR, FROM_SCRATCH = 40, 200
_LADDER_TYPES = ("body_order", "power_order")


@dataclass
class PacemakerTrainer(WithoutStress, ACETrainer):
    """
    Fit by pacemaker's gradient optimiser (TensorFlow), in a process of its own.

    A first fit starts from the linear fit to the same labels, or from scratch; a fine-tune
    continues from the coefficients of the initial potential on *all* labels, old and new, with
    fewer iterations. An initial potential without ``fine_tune`` gives nothing to a fit that
    starts from a linear one; to one from scratch it gives its basis, with all coefficients
    reset. A GPU is used where TensorFlow sees one.

    Parameters
    ----------
    basis
        As in :class:`ACETrainer`; by default with two densities, and of the size
        :class:`~mlip_autopipec.potentials.basis.BasisSettings` takes from pacemaker's template.
    maxiter, fine_tune_maxiter
        Most iterations of a first fit (None: :data:`FROM_LINEAR` from a linear one, :data:`FROM_SCRATCH` without), and
        of a fine-tune.
    energy_meV_atom, forces_meV_A
        What an error is worth, as in the linear trainer: of an energy per atom, of a force component. They are
        translated into ``kappa`` by the mean number of atoms of the labels; if one is given, the other is 100
        meV/A, or 1 meV/atom, as in the linear fit that fits begin at, 10 from scratch. None of them: as ``kappa`` says,
        or, in fits that begin at a linear one, what they are worth there. pacemaker
        has no stress in its loss.
    linear_start
        Whether a fit that is no fine-tune begins at the linear fit to the same labels, in closed form (see
        :mod:`~mlip_autopipec.training.pacemaker.linear_start`): its coefficients are the first density, the others are
        zero. If the basis gives no number of functions, cutoff, radial functions and number are chosen by the labels.
        From scratch are fits with a ladder, and with embeddings whose first density is not the energy itself.
    kappa
        Share of the forces in the loss (0 to 1); energies have the rest. Deprecated: it means something else in labels
        of another size. None: 0.3, that of pacemaker's template, in fits from scratch without what errors are worth.
    L1_coeffs, L2_coeffs
        Regularisation of the coefficients. None: 1e-8 where ``kappa`` is 0.3, as in pacemaker's template, and the same
        relative to the errors of the forces where it follows from what errors are worth.
    optimizer
        "BFGS", "CG", or "L-BFGS-B" from about 3000 parameters on.
    batch_size
        Structures evaluated at once; bounds the memory, does not change the result.
    repulsion
        "auto" puts a ZBL core below the shortest distance of each pair in the training set,
        again in each fit; None leaves the core of the initial potential. It is put there by
        this package, not by pacemaker, whose core begins right at that distance.
    core_margin
        How far below that distance (Angstrom); see :func:`~mlip_autopipec.potentials.core.set_core`.
    new_label_weight
        Weight of the newest labels, relative to 1 of all others, in a fine-tune and in a
        refit beside it. The default is 1, by measurement: with 3 and 10 the errors of the new labels are
        slightly lower, but those of the held-out ones are higher (silicon, DFT: 22.6, 26.7, 36.7
        meV/A on the test set; copper: 16.7, 18.0, 22.6). The large errors of new labels dominate a
        squared loss without a weight.
    refit_every
        In every so many cycles a further first fit, with ``maxiter`` iterations, is
        made beside the fine-tune, on the same labels; the potential with the lower loss on
        the test set (without one, on the training set) is kept. A fine-tune stays in the
        basin of the first, small dataset. None never refits.
    ladder_step, ladder_type
        Let a fit from scratch add this many functions at a time: a number, a fraction of the
        present basis, or both as a list; by "body_order" or "power_order". None fits all
        functions at once. Never used in a fine-tune.
    min_relative_loss_change
        Stop early when no iteration out of the last quarter of ``maxiter`` lowered the loss
        by this fraction.
    command
        Command that starts pacemaker; by default the script beside the running Python, else
        the one on PATH.
    timeout
        Seconds after which the fit is ended with an error; None: no limit.
    input_sections
        Sections of a pacemaker ``input.yaml`` that are merged over the ones written here, key
        by key, e.g. ``{"fit": {"loss": {"kappa": 0.5}}}``. A ``potential`` section becomes
        ``basis.potential_section``, a ``weighting`` may stand at the top or under ``fit``;
        ``fit.maxiter`` holds for first fits only, a ladder for those from scratch. Keys that belong to the
        loop (data files, seed, reference energies) are refused.
    input_file
        The user's own ``input.yaml``, read once, when the trainer is made: its sections come
        below ``input_sections``, its ``seed`` and the names of its data files are left out.
    """

    dimer_weight: float = 1e-5  # copper with 8 dimers: with 1e-3 forces are 251 meV/A off, with 1e-5 10
    basis: BasisSettings = field(default_factory=lambda: BasisSettings(ndensity=2))
    maxiter: int | None = None
    fine_tune_maxiter: int = 60
    linear_start: bool = True
    kappa: float | None = None
    L1_coeffs: float | None = None
    L2_coeffs: float | None = None
    optimizer: str = "BFGS"
    batch_size: int = 100
    repulsion: str | None = "auto"
    core_margin: float = CORE_MARGIN
    new_label_weight: float = 1.0
    refit_every: int | None = 5
    ladder_step: float | list[float] | None = None
    ladder_type: str = "body_order"
    min_relative_loss_change: float = 5e-5
    command: str | None = None
    timeout: float | None = None
    input_sections: dict[str, Any] = field(default_factory=dict)
    input_file: str | None = None
    energy_meV_atom: float | None = None
    forces_meV_A: float | None = None

    def __post_init__(self) -> None:
        """Read the input file, keep the potential section in one place, and refuse invalid settings."""
        sections = dict(self.input_sections)
        if self.input_file is not None:
            sections = merge(read_input_file(self.input_file), sections)
            self.input_file = None  # read: a worker need not find it
        sections = check_sections(sections)
        if (potential := sections.pop("potential", None)) is not None:
            self.basis = with_section(self.basis, potential)
        if "repulsion" in sections.get("fit", {}):
            sections["fit"] = {**sections["fit"]}
            self.repulsion = sections["fit"].pop("repulsion")
        if self.repulsion not in ("auto", None):
            raise InvalidInputError.of("PacemakerTrainer.repulsion", f"is '{self.repulsion}'; it is 'auto' or None")
        self.input_sections = sections
        check_optimizer(self.optimizer, "PacemakerTrainer.optimizer")
        super().__post_init__()
        at_least_one(self, "maxiter", "fine_tune_maxiter", "refit_every")
        positive(self, "new_label_weight", "energy_meV_atom", "forces_meV_A")
        if self.kappa is not None and not 0 < self.kappa <= 1:
            raise InvalidInputError.of("PacemakerTrainer.kappa", f"is {self.kappa}; give a number above 0, at most 1")
        check_earlier_weights(self, kappa=_KAPPA)
        if worth_of(self) is not None and "kappa" in self.input_sections.get("fit", {}).get("loss", {}):
            raise InvalidInputError(
                "input_sections holds fit.loss.kappa beside energy_meV_atom or forces_meV_A; leave one"
            )
        if self.ladder_type not in _LADDER_TYPES:
            raise InvalidInputError.of(
                "PacemakerTrainer.ladder_type", f"is '{self.ladder_type}'; known are {', '.join(_LADDER_TYPES)}"
            )

    def share_of_forces(self, atoms_per_label: float) -> float:
        """Return the kappa that is written for labels of so many atoms on average."""
        if (worth := self._worth()) is not None:
            return share_of_forces(worth, atoms_per_label)
        if self.kappa is None and self.begins_linear:
            return share_of_forces(_AS_LINEAR, atoms_per_label)
        return _KAPPA if self.kappa is None else self.kappa

    def _worth(self) -> FitWeights | None:
        return worth_of(self, _AS_LINEAR if self.begins_linear else _AS_TEMPLATE)

    def train_on(self, given: TrainingInput) -> TrainingResult:
        """Train; see :meth:`ACETrainer.train`. In every ``refit_every``-th cycle the better of two fits is kept."""
        tuned = super().train_on(given)
        own = self.share_of_forces(mean_size([*given.labels, *given.new_labels]))
        if not (given.fine_tune and self.refit_is_due(given.cycle)):
            return tuned
        kappa = self.input_sections.get("fit", {}).get("loss", {}).get("kappa", own)
        kappa = own if isinstance(kappa, str) else kappa  # "auto" is pacemaker's own business
        try:
            refitted = super().train_on(replace(given, fine_tune=False))
            prove_learning(refitted)
        except Exception as error:  # whatever it was: the fine-tuned potential is good
            return better_of(tuned, None, kappa, f"{type(error).__name__}: {error}")
        return better_of(tuned, refitted, kappa)

    def refit_is_due(self, cycle: int) -> bool:
        """Return whether a refit from scratch is due in this cycle of the loop."""
        return self.refit_every is not None and cycle > 0 and cycle % self.refit_every == 0

    def fit(self, task: FitTask) -> Fit:
        """Fit in a fresh subfolder of the task's directory; see :meth:`ACETrainer.fit`."""
        command = self.find_command()
        weights = [w * (self.new_label_weight if new else 1.0) for w, new in zip(task.weights, task.new, strict=True)]
        train = label_frame(task.labels, task.reference_energies, weights, "label")
        # pacemaker joins both frames, so the test set needs the weight column as well
        test = label_frame(task.test_labels, task.reference_energies, [1.0] * len(task.test_labels), "test label")
        fine_tune, start, told, factor = task.fine_tune, task.start, "", None
        from_linear = self.begins_linear and not fine_tune
        if from_linear:
            first = linear_start(self.basis, task, self._linear_settings())
            start, told = first.potential, first.log
            factor = None if first.linear is None else first.linear.teacher_factor
        settings = self.input(
            task.elements,
            start is not None,
            fine_tune=fine_tune,
            from_linear=from_linear,
            test=bool(task.test_labels),
            seed=task.seed,
            atoms_per_label=mean_size(task.labels),
        )

        task.directory.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="pacemaker-", dir=task.directory)).resolve()
        train.to_pickle(folder / "train.pckl.gzip", compression="gzip", protocol=4)
        if task.test_labels:
            test.to_pickle(folder / "test.pckl.gzip", compression="gzip", protocol=4)
        if start is not None:
            write_start(start, folder / _START, task.reference_energies if fine_tune or from_linear else None)
        (folder / "input.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

        log = run_pacemaker(command, folder, self.timeout)
        check_log(log, folder / LOG, continued=fine_tune or from_linear)
        if not (folder / OUTPUT).is_file():
            fail(f"pacemaker wrote no {OUTPUT}", folder / LOG, log)
        # pacemaker keeps there what it was about to fit
        if not coefficients_differ(folder / OUTPUT, folder / "target_potential.yaml"):
            fail("pacemaker changed no coefficient", folder / LOG, log, "check trainable_parameters and kappa")
        info = pd.read_pickle(folder / "fitting_data_info.pckl.gzip", compression="gzip")  # noqa: S301 made by this run
        fitted = read_fitted(folder / OUTPUT)
        if dropped := left_out(dict(zip(train["name"], task.labels, strict=True)), set(info["name"]), fitted):
            # they would be missing from what the potential knows, and halt the MD again and again
            problem = f"pacemaker left out {len(dropped)} of {len(train)} labels ({', '.join(dropped[:5])})"
            fail(problem, folder / LOG, log, "remove 'weighting' from the fit section, or raise its DEup and DFup")
        if self.repulsion is not None:
            # after the fit: pacemaker's TensorFlow backend does not know the core
            task = (
                task if factor is not None or (fine_tune and _may_hold_teacher(task)) else replace(task, teacher=None)
            )
            put_core(fitted, task.core_radii(self.core_margin))
        progress = replace(read_progress(log, folder / "metrics.txt", folder / LOG), teacher_factor=factor)
        return Fit(ACEPotential.from_basis(fitted), told + log, progress)

    @property
    def begins_linear(self) -> bool:
        """Whether first fits begin at a linear fit; a ladder begins from an empty potential."""
        has_ladder = self.ladder_step is not None or "ladder_step" in self.input_sections.get("fit", {})
        return self.linear_start and not has_ladder and has_linear_part(self.basis)

    @property
    def learns_from_teacher(self) -> bool:
        """Whether the linear fit that first fits begin at can begin at a teacher."""
        return self.begins_linear

    def learner_of_teacher(self, elements: Sequence[str]) -> ACETrainer:
        """Return the trainer of the linear fits that first fits begin at."""
        return linear_trainer(self.basis, elements, self._linear_settings())

    def _linear_settings(self) -> dict[str, Any]:
        """Return the settings of the linear fit to begin at."""
        settings: dict[str, Any] = {"core_repulsion": self.repulsion is not None, "core_margin": self.core_margin}
        if (worth := self._worth()) is not None:
            settings |= {"energy_meV_atom": worth.energy_meV_atom, "forces_meV_A": worth.forces_meV_A}
        return settings

    def input(
        self,
        elements: Sequence[str],
        has_start: bool,
        *,
        fine_tune: bool,
        from_linear: bool = False,
        test: bool = False,
        seed: int = 0,
        atoms_per_label: float = 32.0,
    ) -> dict[str, Any]:
        """Return the ``input.yaml`` of a fit as a dictionary."""
        given = self.input_sections
        most = given.get("fit", {}).get("maxiter") or self.maxiter or (FROM_LINEAR if from_linear else FROM_SCRATCH)
        maxiter = self.fine_tune_maxiter if fine_tune else most
        share = self.share_of_forces(atoms_per_label)
        # else a loss that is small because forces count little in it would be all regularisation
        stated = self.kappa is not None or "kappa" in given.get("fit", {}).get("loss", {})
        damping = _DAMPING if stated else _DAMPING * share / _KAPPA
        fit: dict[str, Any] = {
            "loss": {
                "kappa": share,
                "L1_coeffs": damping if self.L1_coeffs is None else self.L1_coeffs,
                "L2_coeffs": damping if self.L2_coeffs is None else self.L2_coeffs,
            },
            "optimizer": self.optimizer,
            "min_relative_train_loss_per_iter": self.min_relative_loss_change,
            # pacemaker's 200 would never act
            "early_stopping_patience": max(maxiter // 4, 10),
        }
        if self.ladder_step is not None:
            fit |= {"ladder_step": self.ladder_step, "ladder_type": self.ladder_type}
        if "options" in given.get("fit", {}):
            # any options replace pacemaker's own, and scipy's gtol of 1e-5 ends a fit of a small loss at once
            fit["options"] = {"gtol": 1e-8, "disp": True}
        ours: dict[str, Any] = {
            "seed": int(seed),
            # energies come without the reference; the key 'reference_energy' would take it off once more
            "data": {"filename": "train.pckl.gzip"} | ({"test_filename": "test.pckl.gzip"} if test else {}),
            "fit": fit,
            "backend": {"evaluator": "tensorpot", "batch_size": self.batch_size, "display_step": 20},
        }
        merged = merge(ours, given)
        merged["fit"]["maxiter"] = maxiter
        if fine_tune:
            # a ladder starts from an empty potential, whatever potential it is given
            for key in ("ladder_step", "ladder_type"):
                merged["fit"].pop(key, None)
        if not has_start:
            merged["potential"] = self.basis.section(elements)
        elif fine_tune or from_linear or "ladder_step" in merged["fit"]:
            merged["potential"] = _START  # the same as pacemaker -p
        else:
            merged["potential"] = {"filename": _START, "reset": True}
        return merged

    def find_command(self) -> list[str]:
        """Return the command that starts pacemaker, or say how to get it."""
        return find_program(
            "pacemaker",
            self.command or get_settings().PACEMAKER_CMD,
            f"install pacemaker with {INSTALL_ACE}, give PacemakerTrainer(command=...), or use LinearACETrainer, which "
            "does not need it",
        )


def _may_hold_teacher(task: FitTask) -> bool:
    """Tell whether what is continued has the functions of a teacher, whose core begins nearer."""
    return task.start is not None and task.teacher is not None and holds_functions(task.start, task.teacher)


KIND = TrainerKind(
    trainer=PacemakerTrainer,
    basis=BasisSettings,
    basis_model="NonLinearBasisSettings",
    basis_fields={"ndensity": (int, 2)},
    short="gradient fit",
    about="a non-linear ACE by pacemaker's gradient fit, begun at a linear one; minutes per cycle.",
    template=BASIS_TEMPLATE + "  fine_tune_maxiter: 60           # most iterations of each fine-tune\n",
    default_cutoff_A=GRADIENT_CUTOFF,
    look=look_for_pacemaker,
    self_test=lambda: PacemakerTrainer(fine_tune_maxiter=8, refit_every=None),
    remedy="see that tensorpotential and TensorFlow belong together (constraints.txt), or use the trainer linear",
)
