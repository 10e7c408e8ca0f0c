"""Errors of a potential against labelled structures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.ace.potential import ACEPotential


@dataclass(frozen=True)
class ErrorMetrics:
    """Root mean square and largest errors; meV/atom and meV/A, as the field quotes them."""

    n_structures: int
    n_atoms: int
    energy_rmse_meV_atom: float
    energy_max_meV_atom: float
    forces_rmse_meV_A: float
    forces_max_meV_A: float

    def as_dict(self) -> dict[str, float]:
        """Return the fields as a plain dictionary."""
        return asdict(self)

    def loss(self, kappa: float) -> float:
        """
        Return pacemaker's loss of these errors for uniform weights, without regularisation.

        ``(1 - kappa) <(dE/n)^2> + kappa <|dF|^2>`` in eV^2, with force errors in eV/A (A = 1).

        Parameters
        ----------
        kappa
            Share of the forces, 0 to 1.
        """
        energy, component = 1e-3 * self.energy_rmse_meV_atom, 1e-3 * self.forces_rmse_meV_A
        return (1 - kappa) * energy**2 + kappa * 3 * component**2


@dataclass(frozen=True)
class Predictions:
    """Energies (eV/atom, one per structure) and forces (eV/A, all components), label beside potential."""

    energy_label: NDArray[np.float64]
    energy_potential: NDArray[np.float64]
    forces_label: NDArray[np.float64]
    forces_potential: NDArray[np.float64]


def predict(potential: ACEPotential, labels: Sequence[Atoms]) -> Predictions:
    """
    Evaluate the potential on labelled structures.

    Parameters
    ----------
    labels
        Structures whose attached calculator holds the label (energy in eV, forces in eV/A).
    """
    calculator = potential.calculator()
    energies, forces = [], []
    for atoms in labels:
        calculator.calculate(atoms)
        energies.append(calculator.results["energy"] / len(atoms))
        forces.append(calculator.results["forces"].ravel())
    return Predictions(
        np.array([a.get_potential_energy() / len(a) for a in labels]),
        np.array(energies),
        np.concatenate([a.get_forces().ravel() for a in labels]) if labels else np.empty(0),
        np.concatenate(forces) if labels else np.empty(0),
    )


def compute_errors(potential: ACEPotential, labels: Sequence[Atoms]) -> ErrorMetrics | None:
    """Return the errors on ``labels``, or None where there are none to measure on."""
    if not labels:
        return None
    p = predict(potential, labels)
    de, df = 1e3 * (p.energy_potential - p.energy_label), 1e3 * (p.forces_potential - p.forces_label)
    return ErrorMetrics(
        n_structures=len(labels),
        n_atoms=sum(map(len, labels)),
        energy_rmse_meV_atom=float(np.sqrt(np.mean(de**2))),
        energy_max_meV_atom=float(np.abs(de).max()),
        forces_rmse_meV_A=float(np.sqrt(np.mean(df**2))),
        forces_max_meV_A=float(np.abs(df).max()),
    )
