"""The cutoff of a linear fit, chosen by the evidence of some of the labels."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mlip_autopipec.potentials.basis import LADDER_CUTOFF
from mlip_autopipec.structures.dimers import is_dimer
from mlip_autopipec.structures.distances import nearest_distances
from mlip_autopipec.training.design import basis_functions, build_design, units_of
from mlip_autopipec.training.ladder import MARGIN, atoms_of, log_probability, rungs_within
from mlip_autopipec.training.weights import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from pyace import BBasisConfiguration

    from mlip_autopipec.potentials.basis import BasisSettings
    from mlip_autopipec.training.training import FitTask
    from mlip_autopipec.training.weights import FitWeights

logger = logging.getLogger(__name__)

#: Cutoffs tried (Angstrom); where nearest neighbours are farther apart than NEAREST, all are scaled by the ratio.
CUTOFFS = (4.5, 5.0, 6.0, 7.0)
NEAREST = 3.0
#: Where the search begins; it goes on to the side that is better.
_FIRST = CUTOFFS.index(LADDER_CUTOFF)
#: With more elements the cutoff is the usual one: a basis of each cutoff takes minutes to create.
_MOST_ELEMENTS = 3
#: So many atoms of labels decide: enough for the largest basis.
_ATOMS = 2000
#: In a loop the cutoff is chosen again whenever the labels have become so many times as many: the few cold structures
#: of a first dataset prefer another one than the melt (copper-gold: 4.5 A, then 5 A; with the former 24.8 instead of
#: 12.6 meV/A).
_GROWTH = 1.2


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
    def soft_energy_eV_atom(self) -> float | None:
        """How far above the most stable labels an error is worth twice as much."""

    def with_basis(self, basis: BasisSettings) -> LinearSettings:
        """Return the same with another basis."""

    def configuration(self, task: FitTask, number: int | None = None) -> BBasisConfiguration:
        """Return the basis to fit, with its core."""


def cutoffs_for(labels: Sequence[Atoms]) -> list[float]:
    """Return the cutoffs (Angstrom) to choose from."""
    nearest = float(np.median(np.concatenate([nearest_distances(atoms) for atoms in labels])))
    return [round(max(1.0, nearest / NEAREST) * cutoff, 1) for cutoff in CUTOFFS]


def is_due(task: FitTask) -> bool:
    """Return whether the labels of a fine-tune are so many more than before that the cutoff is chosen again."""
    before, now = task.new.count(False), len(task.new)
    return before == 0 or int(math.log(before, _GROWTH)) < int(math.log(now, _GROWTH))


def choose_cutoff(
    trainer: LinearSettings, tasks: Sequence[FitTask], weights: FitWeights, present: float | None = None
) -> float:
    """
    Return the cutoff (Angstrom) with which energies and forces of the labels are most probable.

    A longer cutoff sees more, but its radial functions are coarser: with 900 functions and all labels of a DFT set the
    force error of molybdenum is 89 meV/A with 4.5 A and 115 with 7 A, that of lithium 14 and 5.

    Parameters
    ----------
    trainer
        Its basis has a shape.
    tasks
        The labels, with each of the weights they may have.
    weights
        What an error is worth.
    present
        The cutoff of the potential to continue from. It stays unless another one is clearly better.
    """
    from pyace import ACEBBasisSet

    task = tasks[0]
    chosen = _some(task)
    labels = [task.labels[i] for i in chosen]
    cutoffs = cutoffs_for(labels)
    if present is not None and present not in cutoffs:  # nearest neighbours may have moved
        cutoffs[int(np.argmin(np.abs(np.array(cutoffs) - present)))] = present
    if len(task.elements) > _MOST_ELEMENTS:
        return cutoffs[_FIRST] if present is None else present
    size = max(rungs_within(atoms_of(labels)))
    known: dict[int, float] = {}

    def evidence(index: int) -> float:
        if index not in known:
            with_cutoff = trainer.with_basis(replace(trainer.basis, cutoff=cutoffs[index]))
            basis = ACEBBasisSet(with_cutoff.configuration(task, size))
            design = build_design(basis, labels, task.reference_energies, trainer.processes)
            # without stresses: they may be in another convention
            design = design.rows(design.kind != Kind.STRESS)
            known[index] = max(
                log_probability(
                    design, basis_functions(basis), units_of(design, weights, [one.weights[i] for i in chosen])
                )
                for one in tasks
            )
        return known[index]

    first = _FIRST if present is None else cutoffs.index(present)
    best, margin = first, 0.0 if present is None else MARGIN
    for step in (-1, 1):
        while 0 <= best + step < len(cutoffs) and evidence(best + step) > evidence(best) + margin:
            best += step
        if best != first:
            break
    if best != first or present is None:
        before = "" if present is None else f", {present:g} A before"
        logger.info("cutoff %g A of %s, by %d labels%s", cutoffs[best], cutoffs, len(labels), before)
    return cutoffs[best]


def _some(task: FitTask) -> list[int]:
    """Return evenly spread labels without dimers, or all labels where there are only dimers."""
    every = [i for i, atoms in enumerate(task.labels) if not is_dimer(atoms)] or list(range(len(task.labels)))
    total = sum(len(task.labels[i]) for i in every)
    n = max(1, min(len(every), round(len(every) * _ATOMS / total)))
    return [every[i] for i in np.unique(np.linspace(0, len(every) - 1, n).round().astype(int))]
