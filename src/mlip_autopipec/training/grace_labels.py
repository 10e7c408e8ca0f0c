"""What gracemaker is given of the labels: their table with weights, and what a linear fit to them tells before."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.structures.periodicity import stress_components
from mlip_autopipec.training.design import STRESS_SHARE, label_stress
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.files import label_frame
from mlip_autopipec.training.results import Fit
from mlip_autopipec.training.weights import EV_A3_IN_GPA

if TYPE_CHECKING:
    from collections.abc import Collection

    import pandas as pd
    from ase import Atoms

    from mlip_autopipec.training.training import FitTask

logger = logging.getLogger(__name__)

#: Most functions of the linear fit that looks at the labels first; its cutoff is to suit a basis of 70:
#: silicon, 20 labels, prefers 5 A with 70 to 300 functions, 6 A with 600.
_FUNCTIONS = 150


class LabelTable(NamedTuple):
    """
    The labels as gracemaker reads them.

    Parameters
    ----------
    frame
        A row for each label. The weights of its energy, of the forces on each atom, and of its stress are columns.
    atoms_per_label
        Mean number of atoms of a label, by their weights.
    share_with_stress
        Sum of the weights of stresses over that of the labels.
    """

    frame: pd.DataFrame
    atoms_per_label: float
    share_with_stress: float

    def shares(self) -> pd.DataFrame:
        """
        Return the table with weights that add up to 1, by component.

        gracemaker divides each part of the loss by the sum of its weights in each batch, and adds the batches: a last
        batch of one label would weigh as much as 32 others, and one without a stress makes the loss not a number. With
        these weights and ``normalize_by_samples: false`` the loss is the mean over all labels, however they are split.
        """
        frame = self.frame.copy()
        frame["energy_weight"] /= frame["energy_weight"].sum()
        of_forces = 3 * sum(weights.sum() for weights in frame["force_weight"])
        frame["force_weight"] = [weights / of_forces for weights in frame["force_weight"]]
        if (of_stress := 6 * frame["virial_weight"].sum()) > 0:
            frame["virial_weight"] /= of_stress
        return frame


class LabelView(NamedTuple):
    """
    What a linear fit tells of the labels.

    Parameters
    ----------
    cutoff_A
        Cutoff in Angstrom of largest evidence, or the given one.
    doubtful_stresses
        Labels whose stresses are not to be fitted: their shear components seem to be in another order.
    log
        Of the linear fit.
    """

    cutoff_A: float
    doubtful_stresses: Collection[int]
    log: str


def look_at_labels(task: FitTask, cutoff_A: float | None) -> LabelView:
    """
    Fit the labels by a linear ACE: it chooses the cutoff, and notices stresses in another convention.

    Parameters
    ----------
    task
        The labels.
    cutoff_A
        None lets the labels choose, among potentials with the radial functions of gracemaker (SBessel).

    Raises
    ------
    InvalidInputError
        If the stresses have another sign or unit.
    TrainingError
        If no linear fit can be made, as :func:`~mlip_autopipec.training.linear_fit.fit_linear`.
    """
    logger.info("before gracemaker a linear fit looks at the labels")
    basis = BasisSettings(cutoff=cutoff_A, radial_basis="SBessel")
    trainer = LinearACETrainer(basis=basis, max_functions_per_element=_FUNCTIONS)
    weighted = task.with_dimers_at_most(trainer.dimer_weight)
    found = Fit(*trainer.fit(replace(weighted, start=None)))
    doubtful = () if found.linear is None else found.linear.doubtful_stresses
    if doubtful:
        logger.warning("gracemaker is not given the stresses of %d labels with permuted components", len(doubtful))
    told = f"A linear fit to the same labels was made before:\n{found.log}\n\n"
    return LabelView(cutoff_A or found.potential.cutoff, doubtful, told)


def has_stress(atoms: Atoms) -> bool:
    """Return whether gracemaker can fit the stress of a label: periodic, without vacuum, all six components."""
    return bool(atoms.pbc.all()) and label_stress(atoms) is not None and len(stress_components(atoms)) == 6


def label_table(task: FitTask, stress_GPa: float, without_stress: Collection[int] = ()) -> LabelTable:
    """
    Make the table of labels.

    Parameters
    ----------
    task
        Labels, with their weights.
    stress_GPa
        What an error of a stress component is worth, which grows with the stress as in the linear fit.
    without_stress
        Labels whose stresses are left out, too.
    """
    of_label = np.asarray(task.weights, dtype=float)
    frame = label_frame(task.labels, task.reference_energies, of_label.tolist(), "label", "GRACEFSTrainer")
    frame["energy"] = frame["energy_corrected"]  # gracemaker computes the latter from the former
    frame["energy_weight"] = of_label
    frame["force_weight"] = [np.full(len(atoms), weight) for atoms, weight in zip(task.labels, of_label, strict=True)]
    stresses, weights = [], []
    for i, (atoms, weight) in enumerate(zip(task.labels, of_label, strict=True)):
        stress = label_stress(atoms) if i not in without_stress and has_stress(atoms) else None
        stresses.append(np.zeros(6) if stress is None else stress)
        unit = stress_GPa / EV_A3_IN_GPA
        grown = 0.0 if stress is None else unit / (unit + STRESS_SHARE * np.abs(stress).max())
        weights.append(float(weight * grown**2))
    frame["stress"], frame["virial_weight"] = stresses, weights
    atoms_per_label = float(of_label @ [len(atoms) for atoms in task.labels] / of_label.sum())
    return LabelTable(frame, atoms_per_label, float(sum(weights) / of_label.sum()))
