"""A linear fit that judges given labels for trainers whose fits do not say what the others expect of each label."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlip_autopipec.errors import TrainingError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from mlip_autopipec.training.linear_record import LinearFitRecord
    from mlip_autopipec.training.training import ACETrainer

logger = logging.getLogger(__name__)

#: Functions of each element. With 60 a sound label of 107 of silicon was flagged, with 300 none, in 29 s.
_FUNCTIONS = 300
#: Cutoff in A of the judge where the trainer has none.
_CUTOFF_A = 5.5


def judged_by_linear_fit(
    trainer: ACETrainer, labels: Sequence[Atoms], elements: Sequence[str]
) -> LinearFitRecord | None:
    """
    Fit labels by a linear ACE of one fixed size, which takes some seconds, for the errors of each when left out.

    Parameters
    ----------
    trainer
        The one that will train on them; its cutoff and reference energies are taken over.
    labels
        Structures with their labels (eV, eV/A) in attached calculators.
    elements
        Elements of the potential.

    Returns
    -------
    LinearFitRecord or None
        None where no linear fit can be made of them; a warning says so.
    """
    basis = BasisSettings(cutoff=trainer.basis.cutoff or _CUTOFF_A, number_of_functions_per_element=_FUNCTIONS)
    judge = LinearACETrainer(basis=basis, reference_energies=trainer.reference_energies)
    try:
        return judge.train(labels, elements=elements).linear
    except TrainingError as error:
        logger.warning("the given labels are not judged before they are trained on: %s", error)
        return None
