"""The bases that a linear fit chooses from: a ladder in the form that the labels prefer, or what the user fixed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mlip_autopipec.potentials.basis import LADDER_SHAPE, MANY_ELEMENTS
from mlip_autopipec.training.cutoff import form_for, form_of, with_form
from mlip_autopipec.training.design import basis_functions, same_radial
from mlip_autopipec.training.ladder import atoms_of, rungs_within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyace import ACEBBasisSet, BBasisConfiguration

    from mlip_autopipec.training.budget import Budget
    from mlip_autopipec.training.cutoff import LinearSettings
    from mlip_autopipec.training.training import FitTask
    from mlip_autopipec.training.weights import FitWeights


logger = logging.getLogger(__name__)


def bases_to_choose(
    trainer: LinearSettings, tasks: Sequence[FitTask], weights: FitWeights, budget: Budget | None = None
) -> dict[int, BBasisConfiguration]:
    """
    Return the bases to choose from, by functions per element; one if the user fixed it.

    Parameters
    ----------
    trainer, tasks, weights
        As for :func:`~mlip_autopipec.training.cutoff.choose_form`.
    budget
        The limit of the cost of MD, if there is one. A potential to continue from that is beyond it is not continued.

    Raises
    ------
    InvalidInputError
        If no basis is within the limit.
    """
    from pyace import ACEBBasisSet

    task = tasks[0]
    settings = trainer.basis
    if settings.potential_section is not None or settings.number_of_functions_per_element is not None:
        fixed = trainer.configuration(task)
        if budget is not None and not budget.allows(fixed):
            raise budget.refuse()
        return {size_of(ACEBBasisSet(fixed)): fixed}
    if budget is not None and task.start is not None and not budget.allows(trainer.configuration(task)):
        logger.warning("the present basis is beyond max_us_per_atom_step; another one is chosen")
        tasks = [replace(one, start=None) for one in tasks]
        task, budget.present = tasks[0], None
    ladder = with_shape(trainer, task)
    sizes = rungs_within(atoms_of(task.labels), trainer.max_functions_per_element)
    present = None if task.start is None else form_of(task.start, ladder, task)
    form = form_for(ladder, tasks, weights, present, budget)
    ladder = with_form(ladder, form)
    if budget is not None:
        sizes = budget.those_within(sizes, lambda n: ladder.configuration(task, n, form.shares), form)
    found = {n: ladder.configuration(task, n, form.shares) for n in sizes}
    if task.start is None or (present is not None and form != present):
        # limits of nradmax and lmax may end the ladder before its last size
        complete: dict[int, BBasisConfiguration] = {}
        previous = 0
        for n in sizes:
            count = len(basis_functions(ACEBBasisSet(found[n])))
            if count > previous:
                complete[n], previous = found[n], count
        return complete
    own = trainer.configuration(task)
    start = ACEBBasisSet(own)
    known = basis_functions(start)
    contains = {}
    for n, configuration in found.items():
        basis = ACEBBasisSet(configuration)
        more = basis_functions(basis)
        if len(more) > len(known) and set(known) < set(more) and same_radial(start, basis):
            contains[n] = configuration
    # the potential's own basis comes first; it keeps its functions unless a larger one is clearly better
    return {min(size_of(start), min(contains, default=size_of(start) + 1) - 1): own, **contains}


def with_shape(trainer: LinearSettings, task: FitTask) -> LinearSettings:
    """Return the trainer with the shape of a ladder, where the user gave none; with many elements there is another."""
    settings = trainer.basis
    shape = settings.nradmax_by_orders is None and len(task.elements) < MANY_ELEMENTS
    return trainer.with_basis(
        replace(
            settings,
            nradmax_by_orders=list(LADDER_SHAPE[0]) if shape else settings.nradmax_by_orders,
            lmax_by_orders=list(LADDER_SHAPE[1]) if shape else settings.lmax_by_orders,
        ),
    )


def size_of(basis: ACEBBasisSet) -> int:
    """Return the largest number of functions that an element has."""
    return max(len(a) + len(b) for a, b in zip(basis.basis_rank1, basis.basis, strict=True))
