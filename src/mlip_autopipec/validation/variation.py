"""What labels vary by: the measure of errors where the user asks for none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.structures.periodicity import stress_without_vacuum
from mlip_autopipec.training.design import label_stress
from mlip_autopipec.training.usual import usual_labels
from mlip_autopipec.training.weights import EV_A3_IN_GPA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from mlip_autopipec.potentials.potential import ACEPotential


def energy_spread_meV_atom(potential: ACEPotential, labels: Sequence[Atoms]) -> float:
    """
    Return the standard deviation of the energies of usual labels in meV/atom, without reference energies.

    Dimers and what is far above the most stable labels would allow errors with which MD of the material is useless.
    """
    usual = np.flatnonzero(usual_labels(labels))
    values = [(a.get_potential_energy() - potential.reference_energy(a)) / len(a) for a in (labels[i] for i in usual)]
    return 1e3 * float(np.std(values)) if values else 0.0


def stress_rms_GPa(labels: Sequence[Atoms]) -> float | None:
    """Return the root mean square of the labels' stresses (GPa) but for components across vacuum; None without."""
    given = [(stress, atoms) for atoms in labels if (stress := label_stress(atoms)) is not None]
    found = np.concatenate([np.empty(0), *(stress_without_vacuum(*one) for one in given)])
    return EV_A3_IN_GPA * float(np.sqrt(np.mean(np.square(found)))) if len(found) else None
