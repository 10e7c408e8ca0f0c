"""
A teacher: a potential that learnt free labels of a cheap model, as the prior mean of the fit to the labels that cost.

What the teacher says, times one factor, comes off the labels; the fit learns the rest with as few functions as the
labels bear, and both are one potential: their coefficients are added in the teacher's basis. Kept only where the labels
are more probable with it than without (:func:`~mlip_autopipec.training.linear_fit.fit_linear`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.training.bases import size_of, with_shape
from mlip_autopipec.training.budget import Budget
from mlip_autopipec.training.cutoff import form_of, with_form
from mlip_autopipec.training.design import basis_functions
from mlip_autopipec.training.ladder import atoms_of, md_cost, rungs_within
from mlip_autopipec.training.weights import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from pyace import BBasisConfiguration

    from mlip_autopipec.training.cutoff import LinearSettings
    from mlip_autopipec.training.design import Design
    from mlip_autopipec.training.training import FitTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lesson:
    """
    What a teacher adds to a fit.

    Parameters
    ----------
    coefficients
        Those of the teacher times the factor, (n_functions,) by column of the design.
    factor
        By which its energies and forces are multiplied: cheap models are systematically too soft or too hard.
    energies
        Energy in eV of each element by which labels and teacher differ, alphabetical.
    """

    coefficients: NDArray[np.float64]
    factor: float
    energies: dict[str, float]

    def taken_off(self, design: Design, labels: Sequence[Atoms]) -> Design:
        """Return the design with what is left of its targets."""
        shares = np.array([_shares(atoms, list(self.energies)) for atoms in labels])
        of_elements = shares @ np.array(list(self.energies.values()))
        energy = np.where(design.kind == Kind.ENERGY, of_elements[design.structure], 0.0)
        return replace(design, target=design.target - _said(design, self.coefficients) - energy)

    def references(self, before: Mapping[str, float]) -> dict[str, float]:
        """Return the energies of reference, eV, that belong to what is left."""
        return {e: before.get(e, 0.0) + energy for e, energy in self.energies.items()}


def bases_below(
    trainer: LinearSettings, task: FitTask, teacher: ACEPotential, budget: Budget | None = None
) -> tuple[dict[int, BBasisConfiguration], BBasisConfiguration]:
    """
    Return the bases for what the labels add to a teacher, by functions per element, and the one that holds them all.

    They have the teacher's radial functions, cutoff and shares; where these are not the trainer's own, or the user
    gives the number of functions, the teacher's basis is the only one. Of larger ones those are left out that are
    beyond the limit of the cost of MD, if there is one; for the teacher's own see :func:`is_within`.
    """
    from pyace import ACEBBasisSet

    own = trainer.configuration(replace(task, start=teacher))
    basis = ACEBBasisSet(own)
    known, size = set(basis_functions(basis)), size_of(basis)
    ladder = with_shape(trainer, task)
    form = form_of(teacher, ladder, task)
    if form is None or trainer.basis.number_of_functions_per_element is not None:
        return {size: own}, own
    ladder, found = with_form(ladder, form), {size: own}
    larger: dict[int, BBasisConfiguration] = {}
    sizes = rungs_within(atoms_of(task.labels), trainer.max_functions_per_element)
    for n in sizes:
        configuration = ladder.configuration(task, n, form.shares)
        functions = set(basis_functions(ACEBBasisSet(configuration)))
        if functions < known:
            found[n] = configuration
        elif functions > known:
            larger[n] = configuration
    within = list(larger) if budget is None else budget.those_within(list(larger), larger.__getitem__, form)
    found |= {n: larger[n] for n in within}
    whole = larger[within[-1]] if within else own
    allowed = {n: c for n, c in found.items() if n <= max(sizes)}
    return allowed or {size: own}, whole


def is_within(budget: Budget, trainer: LinearSettings, task: FitTask, teacher: ACEPotential) -> bool:
    """Tell whether fits with a teacher, which have all its functions, are within the limit of the cost of MD."""
    if budget.allows(trainer.configuration(replace(task, start=teacher))):
        return True
    logger.warning("the teacher is in no fit: it %s", budget.told())
    return False


def linear_potential(text: str) -> ACEPotential:
    """
    Read a potential that can be added to a linear fit.

    Raises
    ------
    InvalidInputError
        It is none, or no linear one.
    """
    potential = ACEPotential(text)
    try:
        potential.refuse_grace("a teacher")
        potential.configuration()
    except InvalidInputError:
        raise
    except Exception as error:  # of a reader in C++
        raise InvalidInputError.of(
            "TeachMaker.potential",
            f"is no linear ACE potential in its B-basis ({str(error)[:100]}); give the text of pacemaker's .yaml, "
            "which lies beside a .yace",
        ) from error
    if any(block.ndensityi > 1 for block in potential.configuration().funcspecs_blocks if block.number_of_species == 1):
        raise InvalidInputError("the teacher's potential has several densities; a teacher has to be a linear ACE")
    return potential


def refuse_beyond_limit(trainer: LinearSettings, teacher: ACEPotential, frames: Sequence[Atoms]) -> None:
    """
    Refuse a given potential whose functions cost more in MD than the trainer allows: all fits with it have them.

    Parameters
    ----------
    trainer
        Of the fits.
    teacher
        The given potential.
    frames
        Structures of the campaign; the largest of them is evaluated.

    Raises
    ------
    InvalidInputError
        It is beyond the limit.
    """
    limit = trainer.max_us_per_atom_step
    if limit is None:
        return
    budget = Budget(limit, lambda potential: md_cost(potential, frames))
    if not budget.allows(teacher.configuration()):
        raise InvalidInputError.of("TeachMaker.potential", budget.told())


def holds_functions(potential: ACEPotential, teacher: ACEPotential) -> bool:
    """Tell whether a potential has all functions of a teacher, as one that learnt from it has."""
    theirs, own = teacher.basis, potential.basis
    same = potential.elements == teacher.elements and potential.cutoff == teacher.cutoff
    return same and set(basis_functions(theirs)) <= set(basis_functions(own))


def learn(design: Design, task: FitTask, teacher: ACEPotential) -> Lesson:
    """
    Compare a teacher with labels: by what factor its forces differ, and by what energy of each element.

    Parameters
    ----------
    design
        Rows of the labels; it has the teacher's functions.
    task
        The labels.
    teacher
        Its coefficients belong to the same core.
    """
    basis = teacher.basis
    coefficients = np.zeros(len(design.functions))
    coefficients[design.columns(basis_functions(basis))] = basis.basis_coeffs
    said = _said(design, coefficients)
    factor = _factor(design, said, np.asarray(task.weights))
    symbols = sorted(task.elements)
    rows = np.flatnonzero(design.kind == Kind.ENERGY)
    weights = np.sqrt(np.asarray(task.weights)[design.structure[rows]])
    shares = np.array([_shares(task.labels[i], symbols) for i in design.structure[rows]])
    lacking = design.target[rows] - factor * said[rows]
    energies = np.linalg.lstsq(shares * weights[:, None], lacking * weights, rcond=None)[0]
    return Lesson(factor * coefficients, factor, dict(zip(symbols, map(float, energies), strict=True)))


def _factor(design: Design, said: NDArray[np.float64], of_label: NDArray[np.float64]) -> float:
    """
    Return the factor between forces of labels and teacher: of most labels, by least squares in each.

    One structure that MD has torn, whose forces are off by tens of eV/A, is not to change what is said of all others,
    nor are dimers, which weigh less.
    """
    factors = []
    for rows, weight in zip(design.blocks, of_label, strict=True):
        forces = design.kind[rows] == Kind.FORCES
        theirs, label = said[rows][forces], design.target[rows][forces]
        if weight >= min(1.0, of_label.max()) and (square := float(theirs @ theirs)) > 0.0:
            factors.append(float(theirs @ label) / square)
    return max(0.0, float(np.median(factors))) if factors else 0.0


def _said(design: Design, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a potential without reference energies says of each row; structure by structure, to save memory."""
    columns = np.flatnonzero(coefficients)
    return np.concatenate([design.part(rows, columns) @ coefficients[columns] for rows in design.blocks])


def _shares(atoms: Atoms, symbols: Sequence[str]) -> list[float]:
    """Return the share of the atoms that each element has."""
    found = atoms.get_chemical_symbols()
    return [found.count(symbol) / len(found) for symbol in symbols]
