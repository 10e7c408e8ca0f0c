"""What a campaign is refused for before anything is computed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ase import Atoms

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps.cell import check_ensemble
from mlip_autopipec.lammps.colvars import check_atoms
from mlip_autopipec.lammps.colvars_trial import check_by_lammps
from mlip_autopipec.lammps.exploration import check_structure, check_swaps
from mlip_autopipec.lammps.types import Condition, MDSettings
from mlip_autopipec.oracle.ase_calculators import samples_gamma_only
from mlip_autopipec.oracle.comparison import check_shift
from mlip_autopipec.potentials.basis import GRADIENT_CUTOFF
from mlip_autopipec.seeds import SeedPurpose, derive_seed
from mlip_autopipec.structures.distances import shortest_contact
from mlip_autopipec.structures.electrons import has_total, told
from mlip_autopipec.structures.periodicity import goes_on_along, lone_atoms
from mlip_autopipec.structures.provenance import Provenance, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.flows.parts import LoopParts
    from mlip_autopipec.potentials.potential import ACEPotential

logger = logging.getLogger(__name__)


def check_campaign(
    maker: LoopParts,
    frames: Sequence[Atoms],
    conditions: Sequence[Condition],
    labels: Sequence[Atoms],
    initial_potential: ACEPotential | None,
) -> None:
    """
    Refuse bad input; each message names the field, its value and what is allowed.

    Raises
    ------
    InvalidInputError
        For structures MD cannot run in, labels without energy or forces, elements the initial
        potential lacks, and invalid parameters of the makers.
    """
    if not frames:
        raise InvalidInputError("structures is empty; give at least one structure")
    _check_teacher(maker, elements_of([*frames, *labels]), initial_potential)
    if not conditions:
        raise InvalidInputError("conditions is empty; give at least one temperature in K")
    for condition in conditions:
        check_held(condition, maker.dynamics_maker.settings, frames)
        condition.check()
    maker.dynamics_maker.check(elements_of([*frames, *labels]), conditions)
    if isinstance(settings := maker.dynamics_maker.settings, MDSettings):  # an engine of one's own need not know them
        check_swaps(frames, conditions, settings, maker.dynamics_maker.engine)
    maker.stop_rule.check()
    if maker.stop_rule.n_check_labels and all(condition.colvars is not None for condition in conditions):
        raise InvalidInputError.of(
            "Condition.colvars",
            "is given for every condition, and the potential is checked on frames of plain MD only; add a condition "
            "without it, or leave the check out (StopRule.n_check_labels = 0, without accuracy)",
        )
    if maker.select_maker.gamma_min > maker.dynamics_maker.settings.gamma_hi:
        raise InvalidInputError(
            f"selection.gamma_min is {maker.select_maker.gamma_min}, above dynamics.gamma_hi = "
            f"{maker.dynamics_maker.settings.gamma_hi}: frames that halt MD would not be labelled; lower gamma_min"
        )
    _check_error_halt(maker, labels, initial_potential)
    made, labelled = maker.propose_maker.generator.minimum_distance_ratio, maker.oracle_maker.minimum_distance_ratio
    if made < labelled:
        raise InvalidInputError(
            f"candidates.minimum_distance_ratio is {made}, below oracle.minimum_distance_ratio = {labelled}: "
            "candidates would be made that are not labelled; raise the one or lower the other"
        )
    maker.oracle_maker.check(elements_of([*frames, *labels]))
    maker.oracle_maker.check_structures([*frames, *labels], maker.propose_maker.cutouts.max_atoms)
    for atoms in frames:
        check_structure(atoms)
        _check_conditions(atoms, conditions, maker.dynamics_maker.settings)
        _check_contacts(atoms, maker.oracle_maker.minimum_distance_ratio)
        _check_neighbours(atoms, _cutoff_A(maker, initial_potential))
        if initial_potential is not None:
            initial_potential.check_elements(atoms, f"the structure {atoms.get_chemical_formula()}")
    _check_labels(frames, labels, initial_potential)
    if labels and maker.oracle_maker.energy_shift == "fit":
        check_shift(labels)
    if initial_potential is not None and labels and not initial_potential.active_set_inverse:
        raise InvalidInputError(
            "initial_potential has no active set; give its .asi file, or build_active_set(...) first"
        )
    maker.train_maker.trainer.basis.section(elements_of([*frames, *labels]))
    if maker.stop_rule.criterion is not None:
        if charged := [atoms for atoms in frames if has_total(atoms)]:
            raise InvalidInputError.of(
                "StopRule.criterion",
                f"asks for properties of crystals, and {charged[0].get_chemical_formula()} has {told(charged[0])}: the "
                "cells they are computed with have other numbers of atoms. Leave the property criteria out",
            )
        gamma_only = samples_gamma_only(maker.oracle_maker.static_maker)
        maker.stop_rule.criterion.check(frames, gamma_only=gamma_only)
    if maker.stop_rule.max_labels is not None and not labels:
        n_first = len(first_dataset(maker, frames))
        if n_first > maker.stop_rule.max_labels:
            raise InvalidInputError.of(
                "StopRule.max_labels",
                f"is {maker.stop_rule.max_labels}, but the first dataset alone has {n_first} "
                "structures; raise it, or lower StructureGenerator.n_structures and n_test (first_dataset.n_structures "
                "of a run file, or n_atoms where that is not given)",
            )
    for text in dict.fromkeys(condition.colvars for condition in conditions):  # last: it takes a second
        if text is not None:
            check_by_lammps(text, frames[0])


def first_dataset(maker: LoopParts, frames: Sequence[Atoms]) -> list[Atoms]:
    """
    Return the structures that the first job of a campaign will make.

    Parameters
    ----------
    maker
        The loop.
    frames
        Structures of the campaign, each in a cell.
    """
    seed = derive_seed(maker.seed, SeedPurpose.FIRST_DATASET)
    largest = maker.propose_maker.cutouts.max_atoms
    generator = maker.first_dataset_maker(elements_of(frames)).generator
    return generator.generate(frames, seed=seed, largest=largest)


def _check_teacher(maker: LoopParts, elements: Sequence[str], initial_potential: ACEPotential | None) -> None:
    """Refuse a teacher that cannot teach, or whom nothing would learn from."""
    if maker.teach_maker is None:
        return
    try:
        maker.teach_maker.check(elements)
        maker.train_maker.trainer.check_takes_teacher()
        check_one_beginning(maker, initial_potential is not None)
    except InvalidInputError as error:
        error.field = error.field or "TeachMaker"
        raise


def check_one_beginning(maker: LoopParts, given_potential: bool) -> None:
    """Refuse a teacher of a campaign that was given a potential to start from."""
    if maker.teach_maker is not None and given_potential:
        raise InvalidInputError(
            "a potential to start from and a teacher are given (start_from.potential, teacher): a fit begins at one of "
            "them; leave the other out"
        )


def _check_error_halt(maker: LoopParts, labels: Sequence[Atoms], initial_potential: ACEPotential | None) -> None:
    """Refuse a halt by expected errors, or a bias, that no potential of the campaign knows."""
    name = getattr(maker.dynamics_maker.settings, "needs_posterior", None)
    if name is None:
        return
    trainer = maker.train_maker.trainer
    if not trainer.gives_error_bars:
        raise InvalidInputError.of(
            f"MDSettings.{name}",
            f"is given, but {type(trainer).__name__} gives no error bars with these settings; use the linear trainer "
            "without energy_weight, force_weight and ridge, or leave this setting out",
        )
    if initial_potential is not None and initial_potential.posterior is None and not labels:
        raise InvalidInputError.of(
            f"MDSettings.{name}",
            "is given, but the potential to start from has no error bars; give labels to train on first, or leave "
            "this setting out",
        )


def check_held(condition: Condition, settings: MDSettings, frames: Sequence[Atoms]) -> None:
    """
    Refuse what a condition holds and MD of this ensemble does not.

    Parameters
    ----------
    condition, settings
        Of MD.
    frames
        The structures, which decide what can be done about it.

    Raises
    ------
    InvalidInputError
        For a pressure or a temperature that changes and that nothing holds.
    """
    if condition.pressure_GPa and settings.ensemble != "npt":
        remedy = "a pressure needs 'npt'"
        if without := next((atoms for atoms in frames if not goes_on_along(atoms).all()), None):
            remedy = (
                f"{without.get_chemical_formula()} has vacuum on its sides, and no ensemble holds a pressure of it: "
                "leave pressure_GPa out"
            )
        raise InvalidInputError.of(
            "Condition.pressure_GPa", f"is {condition.pressure_GPa}, but ensemble is '{settings.ensemble}'; {remedy}"
        )
    if settings.ensemble == "nve" and condition.temperature_end_K not in (None, condition.temperature_K):
        raise InvalidInputError.of(
            "Condition.temperature_end_K",
            f"is {condition.temperature_end_K}, but ensemble is 'nve', which has no thermostat; a temperature that "
            "changes needs 'nvt' or 'npt'",
        )


def _check_conditions(atoms: Atoms, conditions: Sequence[Condition], settings: MDSettings) -> None:
    for condition in conditions:
        check_ensemble(atoms, condition, settings)
        if condition.colvars is not None:
            check_atoms(condition.colvars, atoms)


def _check_contacts(atoms: Atoms, minimum_distance_ratio: float) -> None:
    """Refuse a structure that is never labelled: its walker could never leave its first frame."""
    contact = shortest_contact(atoms, minimum_distance_ratio)
    if contact is not None:
        raise InvalidInputError(
            f"the structure {atoms.get_chemical_formula()}: {contact[0]}-{contact[1]} are {contact[2]:.3f} A apart; "
            f"below {contact[3]:.3f} A nothing is labelled (OracleMaker.minimum_distance_ratio "
            f"{minimum_distance_ratio}); relax it, or lower the ratio if such short distances are intended"
        )


def _cutoff_A(maker: LoopParts, initial_potential: ACEPotential | None) -> float:
    """Return the cutoff (Angstrom) of the potentials of a campaign; where the trainer chooses, the longest it takes."""
    if initial_potential is not None:
        return initial_potential.cutoff
    return maker.train_maker.trainer.basis.cutoff or GRADIENT_CUTOFF


def _check_neighbours(atoms: Atoms, cutoff_A: float) -> None:
    """Refuse a structure of atoms that are all alone, and say which atoms of another one are."""
    alone = lone_atoms(atoms, cutoff_A)
    if len(alone) == len(atoms):
        raise InvalidInputError(
            f"the structure {atoms.get_chemical_formula()}: no atom has another one within the cutoff of {cutoff_A:g} "
            "A, so there is nothing to explore; give atoms that are nearer, in Angstrom (isolated atoms are labelled "
            "without being asked for)"
        )
    if len(alone):
        listed = ", ".join(f"{index} ({atoms.symbols[index]})" for index in alone[:5])
        logger.warning(
            "%s: %d of %d atoms have no other one within the cutoff of %g A: %s. gamma says nothing of them, and MD "
            "does not halt when atoms leave; take them out, or put them where they belong",
            atoms.get_chemical_formula(),
            len(alone),
            len(atoms),
            cutoff_A,
            listed,
        )


def _check_labels(frames: Sequence[Atoms], labels: Sequence[Atoms], initial_potential: ACEPotential | None) -> None:
    splits = {Provenance.of(atoms).split for atoms in labels}
    if splits == {Split.REFERENCE}:
        elements = ", ".join(sorted({atoms.get_chemical_formula() for atoms in labels}))
        raise InvalidInputError(
            f"the labels are isolated atoms alone ({elements}), which give reference energies and are not trained on; "
            "give labels of structures beside them, or leave them out and let the first dataset be computed"
        )
    if labels and Split.TRAIN not in splits:
        raise InvalidInputError(
            f"none of the {len(labels)} labels is to be trained on: their info['split'] is "
            f"{sorted(map(str, splits))}; use 'train' for labels to train on"
        )
    for i, atoms in enumerate(labels):
        if initial_potential is not None:
            initial_potential.check_elements(atoms, f"labels[{i}]")
    if labels and initial_potential is None:
        _check_elements_of_labels(frames, labels)


def _check_elements_of_labels(frames: Sequence[Atoms], labels: Sequence[Atoms]) -> None:
    """Refuse labels that the first potential cannot learn every element of the campaign from."""
    learnt = set(elements_of([atoms for atoms in labels if Provenance.of(atoms).split is Split.TRAIN]))
    if missing := sorted(set(elements_of(frames)) - learnt):
        raise InvalidInputError(
            f"the labels to start from hold no structure with {', '.join(missing)} to train on, and the structures "
            f"have {', '.join(elements_of(frames))}: the first potential would not know all of them. Add labels with "
            f"{', '.join(missing)}, or leave the labels out (start_from.labels): the campaign then makes its first "
            "dataset itself"
        )
    if alone := sorted(set(elements_of(labels)) - learnt):
        raise InvalidInputError(
            f"of the labels to start from, those with {', '.join(alone)} are isolated atoms or held out alone (split), "
            f"so nothing is learnt of {', '.join(alone)}; leave them out, or add labels with these elements to train on"
        )


def elements_of(frames: Sequence[Atoms]) -> list[str]:
    """Return the elements of all frames, alphabetical."""
    return sorted({s for a in frames for s in a.get_chemical_symbols()})
