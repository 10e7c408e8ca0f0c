"""The form of the basis of a linear fit (radial functions, cutoff, shares), chosen by some labels."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from mlip_autopipec.potentials.basis import EQUAL_SHARES, LADDER_CUTOFF, RADIAL_BASIS, Shares, shares_for
from mlip_autopipec.structures.distances import nearest_distances
from mlip_autopipec.training.design import basis_functions, build_design, same_radial, units_of
from mlip_autopipec.training.ladder import MARGIN, MOST_FUNCTIONS, atoms_of, log_score, rungs_within
from mlip_autopipec.training.usual import dimers_among
from mlip_autopipec.training.weights import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from pyace import BBasisConfiguration

    from mlip_autopipec.potentials.basis import BasisSettings
    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.training.budget import Budget
    from mlip_autopipec.training.training import FitTask
    from mlip_autopipec.training.weights import FitWeights

logger = logging.getLogger(__name__)

#: Cutoffs tried (Angstrom); where nearest neighbours are farther apart than NEAREST, all are scaled by the ratio.
CUTOFFS = (3.5, 4.0, 4.5, 5.0, 6.0, 7.0)
NEAREST = 3.0
#: Where the search begins; it goes on to the side that is better.
_FIRST = CUTOFFS.index(LADDER_CUTOFF)
#: Radial functions tried, the usual ones first.
RADIAL_BASES = (RADIAL_BASIS, "ChebExpCos")
#: So many atoms of labels decide, with a basis as large as they allow: with fewer functions or atoms shorter cutoffs
#: win. Copper-gold, 92 labels of 32 atoms: 1000 atoms choose 4.5 A, 1500 and more 5 A, with which the forces of random
#: frames and of a loop's labels are off by 4.3 and 3.9 instead of 6.3 and 6.4 meV/A. 2000 choose the same there, and
#: take a third longer: all labels of silicon 79 s in all instead of 59.
_ATOMS = 1500
#: In a loop the cutoff is chosen again whenever the labels have become so many times as many: the few cold structures
#: of a first dataset prefer another one than the melt (copper-gold: 4.5 A, then 5 A; with the former 24.8 instead of
#: 12.6 meV/A).
_GROWTH = 1.2


class BasisForm(NamedTuple):
    """
    What the labels choose of a basis, besides its size.

    Parameters
    ----------
    radial_basis
        What pacemaker calls the radial functions.
    cutoff
        Where they end, A.
    shares
        How the functions of an element are shared by its blocks.
    """

    radial_basis: str
    cutoff: float
    shares: Shares = EQUAL_SHARES

    def __str__(self) -> str:
        """Say it in words, for the log."""
        shared = "as many of each block" if self.shares is None else f"shared by degree {(0, *self.shares)}"
        return f"{self.radial_basis}, cutoff {self.cutoff:g} A, functions {shared}"


class LinearSettings(Protocol):
    """What the fit needs of its trainer, :class:`~mlip_autopipec.training.linear.LinearACETrainer`."""

    @property
    def basis(self) -> BasisSettings:
        """Size and shape of the basis."""

    @property
    def processes(self) -> int | None:
        """Worker processes that build the design matrix."""

    @property
    def max_us_per_atom_step(self) -> float | None:
        """Limit of the cost of MD."""

    @property
    def max_functions_per_element(self) -> int | None:
        """Most functions of an element that the labels may choose."""

    @property
    def soft_energy_eV_atom(self) -> float | None:
        """How far above the most stable labels an error is worth twice as much."""

    def with_basis(self, basis: BasisSettings) -> LinearSettings:
        """Return the same with another basis."""

    def configuration(
        self, task: FitTask, number: int | None = None, shares: Shares = EQUAL_SHARES
    ) -> BBasisConfiguration:
        """Return the basis to fit, with its core."""


def cutoffs_for(labels: Sequence[Atoms]) -> list[float]:
    """Return the cutoffs (Angstrom) to choose from."""
    nearest = float(np.median(np.concatenate([nearest_distances(atoms) for atoms in labels])))
    return [round(max(1.0, nearest / NEAREST) * cutoff, 1) for cutoff in CUTOFFS]


def is_due(task: FitTask) -> bool:
    """Return whether the labels of a fine-tune are so many more than before that the cutoff is chosen again."""
    before, now = task.new.count(False), len(task.new)
    return before == 0 or int(math.log(before, _GROWTH)) < int(math.log(now, _GROWTH))


def form_for(
    ladder: LinearSettings,
    tasks: Sequence[FitTask],
    weights: FitWeights,
    present: BasisForm | None,
    budget: Budget | None = None,
) -> BasisForm:
    """
    Return the form of the basis: that of the potential to continue from, unless new labels prefer another.

    Parameters
    ----------
    ladder, tasks, weights, budget
        As for :func:`choose_form`.
    present
        That of the potential to continue from; None without one, and where its radial functions are a user's own.
    """
    task, given = tasks[0], ladder.basis
    if task.start is None:
        return choose_form(ladder, tasks, weights, None, budget)
    if present is None:
        return BasisForm(radial_basis_of(task.start), task.start.cutoff)
    asked = (given.radial_basis or present.radial_basis, given.cutoff or present.cutoff)
    ours = present.radial_basis in RADIAL_BASES or given.radial_basis is not None
    if asked != present[:2] or not ours or not is_due(task):
        return present
    return choose_form(ladder, tasks, weights, present, budget)


def radial_basis_of(potential: ACEPotential) -> str:
    """Return what the radial functions of the first element of a potential are called."""
    return str(potential.configuration().funcspecs_blocks[0].radbase)


def form_of(potential: ACEPotential, ladder: LinearSettings, task: FitTask) -> BasisForm | None:
    """Return the form that a potential has as one of the ladder's bases; None if its radial functions are others."""
    from pyace import ACEBBasisSet

    basis = ACEBBasisSet(potential.configuration())
    functions = set(basis_functions(basis))
    size = max(Counter(function.centre for function in functions).values())
    form = BasisForm(radial_basis_of(potential), potential.cutoff)
    alike, trainer = False, with_form(ladder, form)
    for shares in shares_for(task.elements):
        own = ACEBBasisSet(trainer.configuration(task, size, shares))
        if same_radial(basis, own):
            if set(basis_functions(own)) == functions:
                return form._replace(shares=shares)
            alike = True
    return form if alike else None


def choose_form(
    trainer: LinearSettings,
    tasks: Sequence[FitTask],
    weights: FitWeights,
    present: BasisForm | None = None,
    budget: Budget | None = None,
) -> BasisForm:
    """
    Return the form of the basis that suits the labels best, by :func:`~mlip_autopipec.training.ladder.log_score`.

    The evidence alone takes 4.5 A for 35 labels of five metals, with 88 meV/A on other MD; this takes ChebExpCos of
    6 A, with 54. What all others say of each label, alone, takes ChebExpCos of 5 A for 30 frames of three arrangements
    of six metals, with 467 meV/A on other arrangements instead of 194.

    A longer cutoff sees more, but its radial functions are coarser: with 900 functions and all labels of a DFT set the
    force error of molybdenum is 89 meV/A with 4.5 A and 115 with 7 A, that of lithium 14 and 5. SBessel has its nodes
    evenly between 0 and the cutoff, ChebExpCos most of them at short distances, where oxides and molecules have their
    bonds: water with 20 DFT labels has 47 and 36 meV/A. Shares: :data:`~mlip_autopipec.potentials.basis.SHARES`.

    Parameters
    ----------
    trainer
        Its basis has a shape; radial functions or a cutoff that it names stay.
    tasks
        The labels, with each of the weights they may have.
    weights
        What an error is worth.
    present
        That of the potential to continue from. It stays unless another is clearly better.
    budget
        The limit of the cost of MD, if there is one: each form is then judged by the largest basis within it, since
        more functions of a shorter cutoff often say more than the few of a longer one for the same money. One that the
        limit leaves fewer functions than the potential to continue from has is not taken.

    Raises
    ------
    InvalidInputError
        If no basis of any form is within the limit, and there is no potential to continue from.
    """
    task, given = tasks[0], trainer.basis
    chosen = _some(task, _ATOMS)
    labels = [task.labels[i] for i in chosen]
    cutoffs = cutoffs_for(labels) if given.cutoff is None else [given.cutoff]
    kinds = RADIAL_BASES if given.radial_basis is None else (given.radial_basis,)
    if present is not None and present.cutoff not in cutoffs:  # nearest neighbours may have moved
        cutoffs[int(np.argmin(np.abs(np.array(cutoffs) - present.cutoff)))] = present.cutoff
    judge = _Judge(trainer, task, weights, labels, [[one.weights[i] for i in chosen] for one in tasks], budget)
    score = judge.score
    if budget is not None and present is not None and task.start is not None:
        judge.least = min(judge.size(present), max(task.start.n_functions.values()))
    margin = 0.0 if present is None else MARGIN

    def climbed(best: BasisForm) -> BasisForm:
        """Go on to the side of shorter or longer cutoffs that is better."""
        first = best
        for step in (-1, 1):
            index = cutoffs.index(first.cutoff) + step
            while 0 <= index < len(cutoffs):
                there = best._replace(cutoff=cutoffs[index])
                if score(there) > score(best) + margin:
                    best = there
                elif not judge.is_cut(there):
                    break
                # a form that the limit has cut says nothing of those beyond it
                index += step
            if best != first:
                break
        return best

    shares = shares_for(task.elements)
    best = climbed(present or BasisForm(kinds[0], cutoffs[min(_FIRST, len(cutoffs) - 1)], shares[0]))
    for kind in kinds:
        # the best cutoff of other functions may be another one
        other = best._replace(radial_basis=kind)
        if kind != best.radial_basis and score(other := climbed(other)) > score(best) + margin:
            best = other
    for other in [best._replace(shares=one) for one in shares if one != best.shares]:
        if score(other) > score(best) + margin:
            best = other
    if budget is not None and not judge.size(best):
        if present is not None:
            return present
        best = max((BasisForm(*one) for one in product(kinds, cutoffs, shares)), key=score)
        if not judge.size(best):
            raise budget.refuse()
    if best != present:
        before = "" if present is None else f"; before: {present}"
        cut = f", {judge.size(best)} functions within the limit of the cost" if judge.is_cut(best) else ""
        logger.info("%s%s; cutoffs tried %s, by %d labels%s", best, cut, cutoffs, len(labels), before)
    return best


@dataclass
class _Judge:
    """Judges forms by some labels, with a basis as large as these and the limit of the cost allow."""

    trainer: LinearSettings
    task: FitTask
    weights: FitWeights
    labels: Sequence[Atoms]
    weightings: list[list[float]]
    budget: Budget | None
    #: Forms that the limit leaves fewer functions are not taken: a potential is not to become smaller for its cost.
    least: int = 1
    _known: dict[BasisForm, float] = field(default_factory=dict)
    _sizes: dict[BasisForm, int] = field(default_factory=dict)

    @cached_property
    def rungs(self) -> list[int]:
        """Functions of each element that the labels allow; with many elements the largest basis would take minutes."""
        found = rungs_within(atoms_of(self.labels), self.trainer.max_functions_per_element)
        # and smaller ones prefer the same
        return [n for n in found if n * len(self.task.elements) <= MOST_FUNCTIONS] or found[:1]

    def size(self, form: BasisForm) -> int:
        """Return the functions of each element with which a form is judged; 0 where the smallest basis costs more."""
        if self.budget is None:
            return self.rungs[-1]
        if form not in self._sizes:
            within = self.budget.those_within(self.rungs, lambda n: self._configuration(form, n), form)
            self._sizes[form] = within[-1] if within else 0
        return self._sizes[form]

    def is_cut(self, form: BasisForm) -> bool:
        """Tell whether the limit of the cost leaves a form fewer functions than the labels would."""
        return self.size(form) < self.rungs[-1]

    def score(self, form: BasisForm) -> float:
        """Return how well a form suits the labels; minus infinity where the limit leaves it too few functions."""
        from pyace import ACEBBasisSet

        if self.size(form) < max(1, self.least):
            return -math.inf
        if form not in self._known:
            basis = ACEBBasisSet(self._configuration(form, self.size(form)))
            design = build_design(basis, self.labels, self.task.reference_energies, self.trainer.processes)
            # without stresses: they may be in another convention
            design = design.rows(design.kind != Kind.STRESS)
            found = [
                log_score(design, basis_functions(basis), units_of(design, self.weights, of_label))
                for of_label in self.weightings
            ]
            self._known[form] = max(found)
            # which weights are the likelier ones does not depend on the form
            self.weightings = [self.weightings[int(np.argmax(found))]]
        return self._known[form]

    def _configuration(self, form: BasisForm, n: int) -> BBasisConfiguration:
        return with_form(self.trainer, form).configuration(self.task, n, form.shares)


def with_form(trainer: LinearSettings, form: BasisForm) -> LinearSettings:
    """Return the trainer with these radial functions and this cutoff; shares go with a number of functions."""
    return trainer.with_basis(replace(trainer.basis, radial_basis=form.radial_basis, cutoff=form.cutoff))


def _some(task: FitTask, most_atoms: int) -> list[int]:
    """Return evenly spread labels of so many atoms without dimers, or all labels where there are only dimers."""
    every = np.flatnonzero(~dimers_among(task.labels)).tolist() or list(range(len(task.labels)))
    total = sum(len(task.labels[i]) for i in every)
    n = max(1, min(len(every), round(len(every) * most_atoms / total)))
    return [every[i] for i in np.unique(np.linspace(0, len(every) - 1, n).round().astype(int))]
