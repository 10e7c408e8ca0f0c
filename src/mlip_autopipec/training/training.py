"""What every trainer does: check the labels, fit, build the active set, prove that it trained."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from monty.json import MSONable

from mlip_autopipec.active_learning.activeset import build_active_set
from mlip_autopipec.active_learning.spread import fitted_errors
from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.core import core_radii, smaller_radii
from mlip_autopipec.structures.dimers import is_dimer
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.structures.provenance import Provenance
from mlip_autopipec.training.accuracy import compute_errors, evaluate
from mlip_autopipec.training.references import FreeAtoms, references_of
from mlip_autopipec.training.results import (  # noqa: F401 - trainers of other packages import them from here
    Fit,
    FitProgress,
    LossPoint,
    Refit,
    TrainingResult,
)
from mlip_autopipec.training.usual import dimers_among
from mlip_autopipec.training.weights import positive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

    from mlip_autopipec.potentials.potential import ACEPotential

logger = logging.getLogger(__name__)

#: New labels whose error is already within this factor of the error on the training set need
#: not improve: noise of that size is not forgetting.
ALREADY_LEARNT = 1.5

#: Weight of labels that are left out of the fit.
_NO_WEIGHT = 1e-12

#: What ``init`` writes of a basis that is left to the labels.
BASIS_TEMPLATE = """\
  # basis:   # without it the labels choose radial functions, cutoff and size
  #   cutoff: {{ cutoff }}   # {{ about_cutoff }}
  #   number_of_functions_per_element: {{ functions }}
"""


@dataclass(frozen=True)
class TrainingInput:
    """What :meth:`ACETrainer.train` was given; the parameters are described there."""

    labels: Sequence[Atoms]
    initial_potential: ACEPotential | None
    fine_tune: bool
    new_labels: Sequence[Atoms]
    test_labels: Sequence[Atoms]
    elements: Sequence[str] | None
    directory: Path
    seed: int
    cycle: int
    teacher: ACEPotential | None = None


@dataclass(frozen=True)
class FitTask:
    """
    What one fit is given, checked already.

    Parameters
    ----------
    labels
        Structures to train on, labels (eV, eV/A) in attached calculators.
    start
        Potential to continue from.
    elements
        Elements of the potential, alphabetical.
    reference_energies
        Energy in eV per atom of each element that the ACE is not to learn.
    fine_tune
        Continue from ``start`` with few iterations.
    new
        For each label whether it was bought in this cycle.
    weights
        Weight of each label in the loss, relative to 1 of an ordinary one.
    test_labels
        Held-out labels; for a program's own log only.
    directory
        Where an external program may keep its files.
    seed
        For whatever is random.
    teacher
        A potential that learnt free labels of a cheap model, from which the fit may begin.
    """

    labels: Sequence[Atoms]
    start: ACEPotential | None
    elements: Sequence[str]
    reference_energies: Mapping[str, float]
    fine_tune: bool
    new: Sequence[bool]
    weights: Sequence[float]
    test_labels: Sequence[Atoms]
    directory: Path
    seed: int
    teacher: ACEPotential | None = None

    def with_dimers_at_most(self, weight: float) -> FitTask:
        """Return the task with dimers that weigh at most so much: their energies are electronvolts off."""
        pairs = zip(dimers_among(self.labels), self.weights, strict=True)
        return replace(self, weights=[min(own, weight) if dimer else own for dimer, own in pairs])

    def core_radii(self, margin: float) -> Mapping[tuple[int, int], float]:
        """Return where the core of each pair begins (Angstrom); all bases of one fit ask for it."""
        known: dict[float, Mapping[tuple[int, int], float]] = self.__dict__.setdefault("_core_radii", {})
        if margin not in known:
            known[margin] = core_radii(self.labels, sorted(self.elements), margin)
            if self.teacher is not None:  # whose labels came nearer
                known[margin] = smaller_radii(known[margin], self.teacher)
        return known[margin]


@dataclass
class ACETrainer(MSONable, ABC):
    """
    Base of all trainers: one interface, :meth:`train`.

    Parameters
    ----------
    basis
        Size and shape of a potential that is trained from scratch.
    reference_energies
        Energies of isolated atoms in eV, of the same energy kind as the labels. Without
        them those of free atoms among the labels, if there is one of each element; else a least-squares fit of the
        first labels to the composition. They are kept in all fine-tunes. Free atoms are in no fit.
    dimer_weight
        Weight of dimers (see :func:`~mlip_autopipec.training.usual.dimers_among`) in the loss, relative to 1 of all
        others. Their energies differ by electronvolts
        from the material's, and a small basis fits them at its expense: with weight 1 the
        energy error of copper rises from 2 to 25 meV/atom, with 0.001 to 3.
    """

    leaves_labels: ClassVar[bool] = False
    """Whether the structures it is given stay as they are; then they are not copied for each training."""
    fits_stress: ClassVar[bool] = True
    """Whether stresses of labels are fitted, not only compared with the potential."""
    continues_coefficients: ClassVar[bool] = True
    """Whether a fine-tune begins at the coefficients of the initial potential, and so at its energies."""

    basis: BasisSettings = field(default_factory=BasisSettings)
    reference_energies: dict[str, float] | None = None
    dimer_weight: float = 0.001

    def __post_init__(self) -> None:
        """Refuse weights and energies that are no numbers."""
        positive(self, "dimer_weight")
        for symbol, energy in (self.reference_energies or {}).items():
            if not np.isfinite(energy):
                raise InvalidInputError.of(
                    f"{type(self).__name__}.reference_energies", f"of {symbol} is {energy}; give a number in eV"
                )

    @property
    def gives_error_bars(self) -> bool:
        """Whether its potentials have a posterior, from which error bars follow."""
        return False

    @property
    def judges_labels(self) -> bool:
        """Whether its fits say what all other labels expect of each; else a linear fit judges given labels first."""
        return False

    @property
    def learns_from_teacher(self) -> bool:
        """Whether its fits can begin at what a potential says that learnt free labels of a cheap model."""
        return False

    @property
    def begins_linear(self) -> bool:
        """Whether a first fit is, or begins at, a linear one: there the labels choose what the basis does not give."""
        return True

    def functions_given(self, elements: Sequence[str]) -> int:
        """Return how many functions of each element a first fit has, whatever the labels are; 0 where they choose."""
        if self.begins_linear and getattr(self.basis, "number_of_functions_per_element", None) is None:
            return 0
        return int(self.basis.section(elements).get("functions", {}).get("number_of_functions_per_element", 0))

    def learner_of_teacher(self, elements: Sequence[str]) -> ACETrainer:  # noqa: ARG002 of trainers with another one
        """Return the trainer that learns the labels of a teacher of these elements; its potential is linear."""
        return self

    def check_takes_teacher(self) -> None:
        """Refuse a teacher where fits cannot begin at one."""
        if not self.learns_from_teacher:
            raise InvalidInputError(
                f"{type(self).__name__} takes no teacher; use LinearACETrainer (kind: linear) without the weights of "
                "version 0.1, or PacemakerTrainer (kind: pacemaker) whose first fits begin at a linear one"
            )

    def _check_teacher(self, teacher: ACEPotential, symbols: Sequence[str]) -> None:
        self.check_takes_teacher()
        if list(teacher.elements) != list(symbols):
            raise InvalidInputError(f"the teacher knows {teacher.elements}, the labels {symbols}; they have to agree")

    @abstractmethod
    def fit(self, task: FitTask) -> tuple[ACEPotential, str] | Fit:
        """Fit; return the potential (no active set needed), the log and, where there is any, how it went."""

    def train(
        self,
        labels: Sequence[Atoms],
        initial_potential: ACEPotential | None = None,
        fine_tune: bool = False,
        *,
        new_labels: Sequence[Atoms] = (),
        test_labels: Sequence[Atoms] = (),
        elements: Sequence[str] | None = None,
        directory: str | Path = ".",
        seed: int = 0,
        cycle: int = 0,
        teacher: ACEPotential | None = None,
    ) -> TrainingResult:
        """
        Train a potential on all labels.

        Parameters
        ----------
        labels
            Everything known so far, without ``new_labels``; structures that carry their label
            (energy eV, forces eV/A) in an attached calculator.
        initial_potential
            The potential to continue from.
        fine_tune
            Continue from ``initial_potential`` with few iterations, else fit from scratch.
        new_labels
            Labels of this cycle; trained on as well.
        test_labels
            Held-out labels, never trained on.
        elements
            Elements of the potential; by default those of the labels.
        directory
            Where an external program may keep its files.
        seed
            For whatever is random in the fit.
        cycle
            Of the loop, for trainers that do something every so many cycles.
        teacher
            A potential that learnt free labels of a cheap model; what it says is the prior mean of the fit, where the
            labels are more probable with it. Its energies of reference do not matter.

        Raises
        ------
        TrainingError
            If the fit fails, does not move the coefficients, or does not lower the error on
            the new labels.
        """
        asked = labels, initial_potential, fine_tune, new_labels, test_labels, elements
        return self.train_on(TrainingInput(*asked, Path(directory), seed, cycle, teacher))

    def train_on(self, given: TrainingInput) -> TrainingResult:
        """Train; what a trainer overrides that does more than one fit. See :meth:`train`."""
        labels, new_labels, test_labels = given.labels, given.new_labels, given.test_labels
        initial_potential, fine_tune = given.initial_potential, given.fine_tune
        positive(self, "dimer_weight")  # checked again: it is a field that can be set
        everything = [*labels, *new_labels]
        _check_labels([*everything, *test_labels])
        free = FreeAtoms.among(everything, getattr(self.basis, "cutoff", None))
        if free.alone.all():
            raise InvalidInputError(
                f"no atom of the {len(everything)} labels has a neighbour within {free.cutoff:g} A; give labels of more"
            )
        dimers = dimers_among(everything)
        usual = [int(i) for i in np.flatnonzero(~free.alone & ~dimers)] or [int(i) for i in np.flatnonzero(~free.alone)]
        ordinary = [everything[i] for i in usual]
        own_dimers = int(sum(dimer and not is_dimer(a) for a, dimer in zip(everything, dimers, strict=True)))
        if own_dimers:
            logger.info("%d pairs of atoms far above the rest weigh %g: dimers", own_dimers, self.dimer_weight)
        if fine_tune and initial_potential is None:
            raise InvalidInputError("fine_tune is True but initial_potential is None; give the potential to continue")
        symbols = sorted({s for a in everything for s in a.get_chemical_symbols()} | set(given.elements or ()))
        if given.teacher is not None:
            self._check_teacher(given.teacher, symbols)
        if initial_potential is not None:
            initial_potential.check_elements(symbols, "the training set")
            symbols = initial_potential.elements
        own, goes_on = self.reference_energies, fine_tune and self.continues_coefficients
        free.refuse_others(own, type(self).__name__)
        references = references_of(own, free, symbols, ordinary, initial_potential, continues=goes_on)
        free.warn_of_others(everything, references)
        started = time.perf_counter()
        task = FitTask(
            labels=everything,
            start=initial_potential,
            elements=symbols,
            reference_energies=references,
            fine_tune=fine_tune,
            new=[False] * len(labels) + [True] * len(new_labels),
            weights=[
                _NO_WEIGHT if alone else self.dimer_weight if dimer else Provenance.of(label).stands_for or 1.0
                for label, alone, dimer in zip(everything, free.alone, dimers, strict=True)
            ],
            test_labels=test_labels,
            directory=given.directory,
            seed=given.seed,
            teacher=given.teacher,
        )
        fit = Fit(*self.fit(task))
        seconds = time.perf_counter() - started
        potential = fit.potential if fit.linear is not None else replace(fit.potential, reference_energies=references)
        if not potential.active_set_inverse:
            potential = build_active_set(potential, everything, initial_potential)
        # what the potential says of the labels is worked out once
        predicted = evaluate(potential, everything) if fit.predicted is None else fit.predicted
        train_errors = compute_errors(potential, ordinary, known=[predicted[i] for i in usual])
        if train_errors is None or not np.isfinite(train_errors.forces_rmse_meV_A):
            raise TrainingError(f"the fitted potential gives {train_errors} on its own training set; see the log")
        result = TrainingResult(
            potential=potential,
            train=train_errors,
            test=compute_errors(potential, test_labels),
            new_before=compute_errors(initial_potential, new_labels) if initial_potential else None,
            new_after=compute_errors(potential, new_labels, known=predicted[len(labels) :])
            if initial_potential
            else None,
            coefficients_moved=_relative_change(initial_potential, potential),
            seconds=seconds,
            log=fit.log,
            progress=fit.progress,
            linear=fit.linear,
            fitted=fitted_errors(potential, ordinary, [(predicted[i].energy, predicted[i].forces) for i in usual]),
        )
        if fine_tune:
            prove_learning(result)
        return result


def _check_labels(labels: Sequence[Atoms]) -> None:
    if not labels:
        raise InvalidInputError("no labels to train on")
    for i, atoms in enumerate(labels):
        energy, forces = atoms.get_potential_energy(), raw_forces(atoms)
        if not np.isfinite(energy) or not np.isfinite(forces).all():
            raise InvalidInputError(
                f"label {i} ({atoms.get_chemical_formula()}) has energy {energy} eV and max force "
                f"{np.abs(forces).max()} eV/A; a label must be finite"
            )


def _relative_change(old: ACEPotential | None, new: ACEPotential) -> float | None:
    if old is None or len(old.coefficients) != len(new.coefficients) or old.cutoff != new.cutoff:
        return None
    norm = float(np.linalg.norm(old.coefficients))
    return float(np.linalg.norm(new.coefficients - old.coefficients)) / max(norm, 1e-300)


def prove_learning(result: TrainingResult) -> None:
    """
    Believe a fit that had a potential to start from when coefficients moved and the error on the new labels fell.

    A fit in closed form is at its optimum whatever the forces of the new labels say; if they got worse, a warning
    says so.

    Raises
    ------
    TrainingError
        If they did not.
    """
    if result.coefficients_moved is not None and not result.coefficients_moved > 1e-12:
        raise TrainingError(
            f"the fit changed no coefficient (relative change {result.coefficients_moved:g}): nothing was "
            f"trained. Last lines of the log:\n{result.log[-1500:]}"
        )
    before, after = result.new_before, result.new_after
    if before is None or after is None:
        return
    allowed = max(before.forces_rmse_meV_A, ALREADY_LEARNT * result.train.forces_rmse_meV_A)
    if after.forces_rmse_meV_A > allowed:
        told = (
            f"after the fit the force error on the {after.n_structures} new labels is "
            f"{after.forces_rmse_meV_A:.3g} meV/A, before it {before.forces_rmse_meV_A:.3g}"
        )
        if result.linear is not None:
            # the best there is for energies, forces and stresses of all labels together, in this basis
            logger.warning("%s: the basis is too small for all labels; give it more functions", told)
            return
        raise TrainingError(
            f"{told}: not a better potential. Raise maxiter, lower the regularisation, or use more functions"
        )
