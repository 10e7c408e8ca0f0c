"""The linear fit from labels to potential: basis by the ladder, weights, ridge, errors of labels left out."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlip_autopipec.active_learning.activeset import build_active_set
from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.potentials.posterior import Posterior
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.potentials.projections import kept_projections
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.structures.periodicity import Shape, shape_of, stress_without_vacuum
from mlip_autopipec.structures.provenance import Origin, Provenance
from mlip_autopipec.structures.successive import related_labels
from mlip_autopipec.training.accuracy import Prediction, evaluate
from mlip_autopipec.training.bases import bases_to_choose
from mlip_autopipec.training.budget import Budget
from mlip_autopipec.training.cutoff import is_due
from mlip_autopipec.training.design import Design, basis_functions, build_design, label_stress, units_of
from mlip_autopipec.training.error_scale import known_by_others, scale_to_left_out, surprises_of, usual_force_eV_A
from mlip_autopipec.training.excitation import energies_above_hull, softened
from mlip_autopipec.training.ladder import (
    MARGIN,
    FittedRung,
    Rung,
    climb,
    fit_rung,
    log_probability,
    md_cost,
)
from mlip_autopipec.training.linear_record import LabelError, LinearFitRecord
from mlip_autopipec.training.stress_labels import doubt_stresses, whole_stresses
from mlip_autopipec.training.teacher import bases_below, holds_functions, is_within, learn
from mlip_autopipec.training.weights import FitWeights, Kind, errors_by_kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from pyace import ACEBBasisSet

    from mlip_autopipec.training.cutoff import LinearSettings
    from mlip_autopipec.training.design import BasisFunction, Design
    from mlip_autopipec.training.teacher import Lesson
    from mlip_autopipec.training.training import FitTask

logger = logging.getLogger(__name__)

#: Where no label is farther above the most stable ones than this part of the scale of softness, all are worth the same:
#: MD of one phase is not to be weighted by its fluctuations.
FAR = 0.25
#: So many functions tell how stresses are meant and whether softer weights are the likelier ones: ten DFT sets were
#: told alike by 900 and by 1200, which take twice the time; 600 would have told 60 labels of WBe otherwise.
TELLING = 900
#: Evaluations of one potential differ by less than this, in eV/A and relative to the largest force.
_SAME = 1e-5


class LinearFit(NamedTuple):
    """
    The potential with its active set, the record, and what the potential says of each label.

    Last the logarithm of the probability of the labels, but for a constant, for each number that they hold.
    """

    potential: ACEPotential
    record: LinearFitRecord
    log: str
    predicted: list[Prediction]
    log_probability: float


def fit_linear(trainer: LinearSettings, task: FitTask, weights: FitWeights) -> LinearFit:
    """
    Fit a linear ACE; see :class:`~mlip_autopipec.training.linear.LinearACETrainer`.

    With a teacher the fit is made with and without it, and that in which the labels are clearly more probable is kept;
    a fit that continues one with the teacher does so again where there are many more labels. A teacher whose basis is
    beyond the limit of the cost of MD is in no fit; a warning says so.

    Raises
    ------
    TrainingError
        If no basis has an active set, or the stress labels have another sign or unit.
    """
    if task.teacher is None:
        return _fit(trainer, task, weights, _budget(trainer, task, task.start))
    goes_on = task.start is not None and holds_functions(task.start, task.teacher)
    without = replace(task, teacher=None, start=None if goes_on else task.start)
    budget = _budget(trainer, task, task.start if goes_on else task.teacher)
    if budget is None or is_within(budget, trainer, task, task.teacher):
        taught = _fit(trainer, task, weights, budget)
        if goes_on and not is_due(task):
            return taught
    else:
        taught = None
    alone = _fit(trainer, without, weights, _budget(trainer, without, without.start))
    if taught is None:
        return alone
    gain = sum(1 + 3 * len(label) for label in task.labels) * (taught.log_probability - alone.log_probability)
    logger.info("logarithm of the evidence with the teacher, more than without: %.4g", gain)
    # of a factor of zero nothing is in it but other energies of the elements
    return taught if gain > MARGIN and taught.record.teacher_factor else alone


def _fit(trainer: LinearSettings, task: FitTask, weights: FitWeights, budget: Budget | None) -> LinearFit:
    """Fit with the teacher that there is, or without one."""
    from pyace import ACEBBasisSet

    above = _above(task)
    tasks = _softened(trainer, task, above)
    held = None
    if task.teacher is None:
        configurations = bases_to_choose(trainer, tasks, weights, budget)
    else:
        configurations, held = bases_below(trainer, task, task.teacher, budget)
    bases = {n: ACEBBasisSet(configuration) for n, configuration in configurations.items()}
    functions = {n: basis_functions(basis) for n, basis in bases.items()}
    largest = bases[max(bases)] if held is None else ACEBBasisSet(held)
    whole = build_design(largest, task.labels, task.reference_energies, trainer.processes)
    design, doubtful = _trusted(whole, functions, weights, tasks[-1])
    counted = _counted(trainer, task, above)
    lesson = None
    if task.teacher is not None:
        lesson = learn(design, task, task.teacher)
        whole, design = (lesson.taken_off(one, task.labels) for one in (whole, design))
    task = _likelier(design, functions, weights, tasks)
    unit = units_of(design, weights, task.weights)
    rungs: list[Rung] = []
    for attempt in range(len(functions)):
        fitted, climbed = climb(design, functions, unit)
        rungs = rungs or climbed
        size = fitted.rung.n_functions
        potential = _potential(bases[size] if lesson is None else largest, fitted, lesson)
        try:
            potential = _with_active_set(potential, task)
            break
        except TrainingError:
            # the environments are too alike for this basis
            functions = {n: f for n, f in functions.items() if n < size}
            if not functions or lesson is not None:  # the teacher's basis stays
                raise
            logger.info("no active set for %d functions per element; trying fewer (attempt %d)", size, attempt + 1)
    left_out = fitted.factorisation.leave_out(fitted.rung.strength, related_labels(task.labels))
    residuals = left_out.residuals * unit
    known = known_by_others(design, left_out, counted)
    judged = known[design.structure]
    posterior = Posterior(
        np.array(potential.basis.basis_coeffs),
        fitted.placed(fitted.factorisation.covariance_root(fitted.rung.strength), basis_functions(potential.basis)),
        scale_to_left_out(design.kind, left_out, judged),
        usual_force_eV_A=usual_force_eV_A(task.labels),
    )
    record = LinearFitRecord(
        weights,
        fitted.rung.strength,
        errors_by_kind(residuals[judged], design.kind[judged]),
        tuple(_label_errors(design, residuals)),
        tuple(surprises_of(design, left_out, residuals, judged)),
        tuple(rungs),
        potential.n_functions,
        md_cost(potential, task.labels),
        doubtful,
        posterior,
        int(known.sum()),
        None if lesson is None else lesson.factor,
        n_counted_atoms=int(np.sum(judged & (design.kind == Kind.FORCES))) // 3,
        n_counted_stresses=len(np.unique(design.structure[judged & (design.kind == Kind.STRESS)])),
        counted=tuple(known.tolist()),
    )
    references = task.reference_energies if lesson is None else lesson.references(task.reference_energies)
    predicted = _predicted(whole, fitted, task.labels)
    potential = replace(potential, reference_energies=references, posterior=posterior)
    _check_prediction(potential, task.labels[-1], predicted[-1])
    probability = fitted.rung.log_evidence - float(np.sum(np.log(unit)))
    return LinearFit(potential, record, _log(record, design, potential.cutoff), predicted, probability / len(unit))


def _budget(trainer: LinearSettings, task: FitTask, present: ACEPotential | None) -> Budget | None:
    """Return the limit of the cost of MD with its measurement; None without a limit."""
    limit = trainer.max_us_per_atom_step
    return None if limit is None else Budget(limit, lambda potential: md_cost(potential, task.labels), present)


def _predicted(design: Design, fitted: FittedRung, labels: Sequence[Atoms]) -> list[Prediction]:
    """Return what the potential says of each label: rows of the design times coefficients, which are at hand."""
    columns, coefficients = design.columns(fitted.functions), fitted.coefficients
    found = []
    for atoms, rows in zip(labels, design.blocks, strict=True):
        kind, off = (
            design.kind[rows],
            design.target[rows] - design.part(rows, columns) @ coefficients,
        )  # label minus fit
        stress = label_stress(atoms)
        found.append(
            Prediction(
                float(atoms.get_potential_energy() - len(atoms) * off[0]),
                raw_forces(atoms) - off[kind == Kind.FORCES].reshape(-1, 3),
                None if stress is None else stress_without_vacuum(stress, atoms) - off[kind == Kind.STRESS],
            )
        )
    return found


def _check_prediction(potential: ACEPotential, label: Atoms, predicted: Prediction) -> None:
    """Compare with pyace's own evaluation, which is that of MD: a coefficient in another place would show."""
    (found,) = evaluate(potential, [label])
    off = float(np.abs(found.forces - predicted.forces).max())
    energy_off = abs(found.energy - predicted.energy) / len(label)
    if not max(off, energy_off) < _SAME * max(1.0, float(np.abs(predicted.forces).max())):
        raise TrainingError(
            f"the fitted potential gives other forces than its fit for {label.get_chemical_formula()}: up to {off:.2g} "
            f"eV/A and {energy_off:.2g} eV/atom off; the installed python-ace evaluates the basis otherwise than it did"
        )


def _above(task: FitTask) -> NDArray[np.float64]:
    """Return how far each label is above the most stable ones, eV/atom, (n_labels,); 0 for dimers."""
    above = np.zeros(len(task.labels))
    ordinary = np.asarray(task.weights) >= 1.0
    above[ordinary] = energies_above_hull([task.labels[i] for i in np.flatnonzero(ordinary)])
    return above


def _softened(trainer: LinearSettings, task: FitTask, above: NDArray[np.float64]) -> list[FitTask]:
    """Return the task, and one in which errors of labels far above the most stable ones are worth more, if any are."""
    scale = trainer.soft_energy_eV_atom
    if scale is None or above.max(initial=0.0) < FAR * scale:
        return [task]
    weights = np.asarray(task.weights) * softened(above, scale)
    return [task, replace(task, weights=[float(weight) for weight in weights])]


def _counted(trainer: LinearSettings, task: FitTask, above: NDArray[np.float64]) -> NDArray[np.bool_]:
    """
    Return the labels whose errors, left out, are those of the fit, (n_labels,): no dimers, none far above the others.

    One cell at a tenth of its volume, left out, is wrong by electronvolts: that says nothing of the solid. Nor does
    HO2, which holds the pair O-O for the fit, say anything of a water molecule.
    """
    ordinary = np.asarray(task.weights) >= 1.0
    near = ordinary & (above <= (trainer.soft_energy_eV_atom or np.inf))
    if near.sum() < ordinary.sum():
        logger.info("errors of labels left out: %d far above the others are not counted", ordinary.sum() - near.sum())
    foreign = near & [_is_of_another_molecule(label) for label in task.labels]
    if foreign.any():
        logger.info("errors of labels left out: %d molecules made for pairs of elements are not counted", foreign.sum())
        near &= ~foreign
    return near if near.any() else np.ones(len(task.labels), dtype=bool)


def _is_of_another_molecule(label: Atoms) -> bool:
    """Tell whether a label is of a molecule with other elements than the user's, made for a pair that these lack."""
    return Provenance.of(label).origin == Origin.SEED_PAIR and shape_of(label) is Shape.CLUSTER


def _likelier(
    design: Design, functions: Mapping[int, Sequence[BasisFunction]], weights: FitWeights, tasks: Sequence[FitTask]
) -> FitTask:
    """Return the task with whose weights the labels are more probable."""
    if len(tasks) == 1:
        return tasks[0]
    some = _largest_within(functions, TELLING)
    return max(tasks, key=lambda task: log_probability(design, some, units_of(design, weights, task.weights)))


def _largest_within(functions: Mapping[int, Sequence[BasisFunction]], most: int) -> Sequence[BasisFunction]:
    """Return the largest basis of at most so many functions; the smallest if all have more."""
    allowed = [n for n in functions if len(functions[n]) <= most]
    return functions[max(allowed, default=min(functions))]


def _trusted(
    design: Design, functions: Mapping[int, Sequence[BasisFunction]], weights: FitWeights, task: FitTask
) -> tuple[Design, tuple[int, ...]]:
    """Return the design without stress components in another place, and whose they were."""
    stress = design.kind == Kind.STRESS
    if not stress.any():
        return design, ()
    without = design.rows(~stress)
    some = _largest_within(functions, min(TELLING, len(without.target) // 10))
    fitted = fit_rung(without, some, 0, units_of(without, weights, task.weights))
    volumes = np.array([atoms.cell.volume for atoms in task.labels])
    doubts = doubt_stresses(design, fitted.coefficients, design.columns(some), volumes)
    if (wrong := doubts.whole_set or doubts.part) is not None:
        which = f"{len(doubts.of_part)} of {len(task.labels)} labels ({', '.join(map(str, doubts.of_part[:8]))} ...)"
        said = (
            f"the stresses of {'the labels' if doubts.part is None else which} seem to be of another convention, "
            f"{wrong}: that is what energies and forces imply. Stresses are eV/A^3 in ASE's order and sign (xx yy zz "
            "yz xz xy, positive when stretched); convert them, or leave them out of the labels"
        )
        if not doubts.is_few:
            raise InvalidInputError(said)
        logger.warning("%s. They are fitted as they are, which spoils the fit", said)
    if not doubts.labels:
        return design, ()
    logger.warning(
        "the stresses of %d of %d labels seem to have their shear components in the order %s instead of yz xz xy "
        "(first: label %d, %s); those in another place are not fitted, nor those of %d labels that do not tell. "
        "Correct the labels",
        len(doubts.labels),
        len(np.unique(design.structure[stress])),
        doubts.order,
        doubts.labels[0],
        task.labels[doubts.labels[0]].get_chemical_formula(),
        len(doubts.undecided),
    )
    moved = np.zeros(len(stress), dtype=bool)
    whole = whole_stresses(design)
    moved[whole] = np.isin(np.arange(int(whole.sum())) % 6, doubts.moved)
    return design.rows(~(moved & np.isin(design.structure, [*doubts.labels, *doubts.undecided]))), doubts.labels


def _potential(basis: ACEBBasisSet, fitted: FittedRung, lesson: Lesson | None) -> ACEPotential:
    coefficients = fitted.placed(fitted.coefficients, basis_functions(basis))
    # a design has the columns of the basis that holds teacher and fit
    basis.basis_coeffs = coefficients if lesson is None else coefficients + lesson.coefficients
    return ACEPotential.from_basis(basis)


def _with_active_set(potential: ACEPotential, task: FitTask) -> ACEPotential:
    """Build the active set; a basis that grew has to be spanned by the labels, as a first one has."""
    start = task.start
    another = start is not None and (start.n_functions, start.cutoff) != (potential.n_functions, potential.cutoff)
    return build_active_set(
        potential, task.labels, None if another else start, kept_projections(potential, task.labels)
    )


def _label_errors(design: Design, residuals: NDArray[np.float64]) -> list[LabelError]:
    errors = []
    for rows in design.blocks:
        kind, found = design.kind[rows], residuals[rows]
        by_kind = errors_by_kind(found, kind)
        errors.append(LabelError(-1e3 * float(found[0]), by_kind.forces_meV_A, by_kind.stress_GPa))
    return errors


def _log(record: LinearFitRecord, design: Design, cutoff: float) -> str:
    lines = [
        (
            f"{len(design.blocks)} structures, {len(design.target)} equations; an error is worth "
            f"{record.weights.energy_meV_atom:g} meV/atom, {record.weights.forces_meV_A:g} meV/A, "
            f"{record.weights.stress_GPa:g} GPa"
        ),
        f"cutoff {cutoff:g} A; logarithm of the evidence:",
    ]
    lines += [f"  {rung.n_functions} functions: {rung.log_evidence:.6g}" for rung in record.rungs]
    if record.teacher_factor is not None:
        lines.append(f"the rest of what the teacher says, times {record.teacher_factor:.3f}, is fitted")
    energy, forces, stress = record.left_out
    pressure = "" if stress is None else f", {stress:.3g} GPa"
    lines.append(f"errors of structures left out: {energy:.3g} meV/atom, {forces:.3g} meV/A{pressure}")
    functions = ", ".join(f"{n} of {element}" for element, n in record.n_functions.items())
    lines.append(
        f"taken: {functions}; ridge {record.strength:.3g}; {record.us_per_atom_step:.3g} us per atom and step of MD"
    )
    return "\n".join(lines)
