"""What a linear fit chose, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

    from mlip_autopipec.potentials.posterior import Posterior
    from mlip_autopipec.training.ladder import Rung
    from mlip_autopipec.training.weights import ErrorsByKind, FitWeights


class LabelError(NamedTuple):
    """
    Error of one label by the fit to all others.

    Parameters
    ----------
    energy_meV_atom
        Potential minus label.
    forces_rmse_meV_A
        Root mean square of the components.
    stress_rmse_GPa
        Root mean square of the components; of those fitted, None where there are none.
    """

    energy_meV_atom: float
    forces_rmse_meV_A: float
    stress_rmse_GPa: float | None


class Surprise(NamedTuple):
    """
    How much larger the errors of a label left out are than the fit to the others expects, 1 for the median label.

    Parameters
    ----------
    energy, forces, component
        Ratios, of the energy, all forces, and the largest force component of those whose error is not small beside the
        force on the atom.
    largest_eV_A
        Largest error in eV/A of these components.
    stress, stress_GPa
        Ratio, and error in GPa, of the first three stress components, which no order of shear components moves; 0
        without a stress.
    force_scale, stress_scale
        How many times as large as expected the label's forces and these components are, negative where they point the
        other way; 1 where both do not point along one direction.
    """

    energy: float
    forces: float
    component: float
    largest_eV_A: float
    stress: float = 0.0
    stress_GPa: float = 0.0
    force_scale: float = 1.0
    stress_scale: float = 1.0


@dataclass(frozen=True)
class LinearFitRecord:
    """
    What a linear fit chose, and what it is worth.

    Parameters
    ----------
    weights
        What an error was worth.
    strength
        Strength of the ridge, in weighted units.
    left_out
        Root mean square errors of labels left out, without dimers, labels far above the most stable ones, molecules
        made for a pair of elements that the user's lack, and labels unlike all others.
    labels
        The errors of each label left out, in the order of the labels.
    surprises
        How unexpected they are, in the same order.
    rungs
        The bases tried; the first of them is the smallest.
    n_functions
        Basis functions of each element.
    us_per_atom_step
        Measured cost of energy and forces by pyace on this machine.
    doubtful_stresses
        Labels whose shear components seem to be in another order; those in another place were left out.
    posterior
        Of the coefficients; by column of :func:`~mlip_autopipec.training.design.basis_functions`.
    n_counted
        Labels that ``left_out`` is of.
    teacher_factor
        What the energies and forces of the teacher are multiplied by; None where none is in the potential.
    n_counted_atoms, n_counted_stresses
        Atoms of the labels that ``left_out`` is of, and how many of these labels have a stress.
    counted
        Which labels ``left_out`` is of, in their order.
    """

    weights: FitWeights
    strength: float
    left_out: ErrorsByKind
    labels: tuple[LabelError, ...]
    surprises: tuple[Surprise, ...]
    rungs: tuple[Rung, ...]
    n_functions: Mapping[str, int]
    us_per_atom_step: float
    doubtful_stresses: tuple[int, ...]
    posterior: Posterior
    n_counted: int
    teacher_factor: float | None = None
    n_counted_atoms: int | None = None
    n_counted_stresses: int | None = None
    counted: tuple[bool, ...] = ()

    def left_out_of(self, which: Sequence[int], n_atoms: Sequence[int]) -> LabelError:
        """
        Return the root mean square errors of some labels together, each left out of the fit by itself.

        Parameters
        ----------
        which
            Indices of the labels.
        n_atoms
            Atoms of each of them.
        """
        errors = [self.labels[i] for i in which]
        stresses = [error.stress_rmse_GPa for error in errors if error.stress_rmse_GPa is not None]
        return LabelError(
            _rms([error.energy_meV_atom for error in errors]),
            _rms([error.forces_rmse_meV_A for error in errors], n_atoms),
            _rms(stresses) if stresses else None,
        )


def _rms(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    return float(np.sqrt(np.average(np.square(values), weights=weights)))
