"""A trainer that fits nothing and returns a real, tiny potential."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from ase.data import chemical_symbols
from pyace import ACEBBasisSet, create_multispecies_basis_config

from mlip_autopipec.errors import TrainingError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.testing.events import is_current_job, record_event
from mlip_autopipec.training.accuracy import ErrorMetrics
from mlip_autopipec.training.results import TrainingResult
from mlip_autopipec.training.training import ACETrainer, FitTask, TrainingInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms


@lru_cache(maxsize=8)
def tiny_potential(*elements: str) -> ACEPotential:
    """
    Make an ACE potential of four functions per element that was never trained.

    pyace, ASE and LAMMPS can evaluate it; its forces are small and mean nothing, and its
    active set is the unit matrix.
    """
    section = BasisSettings(number_of_functions_per_element=4).section(sorted(elements))
    basis = ACEBBasisSet(create_multispecies_basis_config(section))
    basis.all_coeffs = np.full(len(basis.all_coeffs), 1e-3)
    potential = ACEPotential.from_basis(basis)
    return replace(potential, active_set_inverse={e: np.eye(n) for e, n in potential.n_functions.items()})


@dataclass
class StandInTrainer(ACETrainer):
    """
    Return :func:`tiny_potential`, whatever the labels.

    Its reported errors are -1: nothing was measured.

    Parameters
    ----------
    failing
        Parts of the names of train jobs that die, e.g. ``c001``.
    events
        Log of events: ``train`` with the number of labels, or ``bad train``.
    """

    leaves_labels: ClassVar[bool] = True

    failing: list[str] = field(default_factory=list)
    events: str | None = None

    def train_on(self, given: TrainingInput) -> TrainingResult:
        """Return the potential and made-up errors."""
        if is_current_job(self.failing):
            record_event(self.events, "bad train")
            raise TrainingError("the stand-in trainer was told to die here")
        everything, new_labels, test_labels = [*given.labels, *given.new_labels], given.new_labels, given.test_labels
        numbers = set(np.concatenate([atoms.numbers for atoms in everything]).tolist())
        symbols = {chemical_symbols[number] for number in numbers} | set(given.elements or ())
        # the number of labels in the reference energies makes each cycle's potential another one
        references = dict.fromkeys(sorted(symbols), 1e-3 * len(everything))
        record_event(self.events, f"train {len(everything)}")
        started = given.initial_potential is not None
        tiny = tiny_potential(*sorted(symbols))
        potential = replace(tiny, reference_energies=references)
        # parsed and converted once, not in every cycle
        potential.__dict__.update(basis=tiny.basis, yace=tiny.yace)
        return TrainingResult(
            potential=potential,
            train=_unmeasured(everything),
            test=_unmeasured(test_labels) if test_labels else None,
            new_before=_unmeasured(new_labels) if started and new_labels else None,
            new_after=_unmeasured(new_labels) if started and new_labels else None,
            coefficients_moved=0.0 if started else None,
            seconds=0.0,
            log="no fit",
        )

    def fit(self, task: FitTask) -> tuple[ACEPotential, str]:
        """Fit nothing; see :meth:`ACETrainer.fit`."""
        return tiny_potential(*sorted(task.elements)), "no fit"


def _unmeasured(labels: Sequence[Atoms]) -> ErrorMetrics:
    return ErrorMetrics(len(labels), sum(map(len, labels)), -1.0, -1.0, -1.0, -1.0)
