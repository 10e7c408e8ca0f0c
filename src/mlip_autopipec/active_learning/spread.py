"""How the errors of a potential on its labels are spread, which new labels are judged by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlip_autopipec.active_learning.calibration import is_in_core
from mlip_autopipec.structures.dimers import is_dimer
from mlip_autopipec.structures.intake import raw_forces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import ArrayLike, NDArray

    from mlip_autopipec.potentials.potential import ACEPotential


class Spread(NamedTuple):
    """
    How errors are spread, by medians.

    Parameters
    ----------
    n
        How many there are.
    middle
        Their median.
    deviation, largest
        Median and largest of their distances from it.
    """

    n: int
    middle: float
    deviation: float
    largest: float

    @classmethod
    def of(cls, errors: ArrayLike) -> Spread:
        """Look at some errors."""
        values = np.asarray(errors, dtype=float)
        if not len(values):
            return cls(0, 0.0, 0.0, 0.0)
        middle = float(np.median(values))
        away = np.abs(values - middle)
        return cls(len(values), middle, float(np.median(away)), float(away.max()))


class FittedErrors(NamedTuple):
    """
    The errors of a potential on labels that it was trained on, without dimers and labels inside the core.

    Parameters
    ----------
    energy
        Potential minus label of each label, eV/atom.
    force
        Length of the error of the force on each atom, eV/A.
    """

    energy: Spread
    force: Spread


def fitted_errors(
    potential: ACEPotential, labels: Sequence[Atoms], known: Sequence[tuple[float, NDArray[np.float64]]] | None = None
) -> FittedErrors:
    """
    Return how the errors of a potential on labels are spread: constant in size, however many labels there are.

    Parameters
    ----------
    potential
        It was trained on them. Neither gamma nor error bars are computed.
    labels
        Structures that carry their labels (eV, eV/A) in attached calculators. Dimers are left out.
    known
        Energy (eV) and forces (n_atoms, 3) (eV/A) that the potential gives for each of them, where they are known.
    """
    calculator = None if known is not None else replace(potential, active_set_inverse={}).calculator()
    energies: list[float] = []
    forces: list[NDArray[np.float64]] = []
    for i, label in enumerate(labels):
        if is_dimer(label) or is_in_core(potential, label):
            continue
        if calculator is not None:
            calculator.calculate(label)
            energy, force = calculator.results["energy"], calculator.results["forces"]
        else:
            assert known is not None
            energy, force = known[i]
        energies.append(float(energy - label.get_potential_energy()) / len(label))
        forces.append(np.linalg.norm(force - raw_forces(label), axis=1))
    return FittedErrors(Spread.of(energies), Spread.of(np.concatenate(forces) if forces else []))
