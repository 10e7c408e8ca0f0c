"""Errors of a potential against labelled structures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.structures.periodicity import boxed, stress_without_vacuum
from mlip_autopipec.training.design import label_stress
from mlip_autopipec.training.weights import EV_A3_IN_GPA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential


@dataclass(frozen=True)
class ErrorMetrics:
    """
    Root mean square, mean absolute and largest errors; meV/atom, meV/A and GPa, as the field quotes them.

    Errors of the stress are None where no label has one; they are over all components that are not across vacuum.
    """

    n_structures: int
    n_atoms: int
    energy_rmse_meV_atom: float
    energy_max_meV_atom: float
    forces_rmse_meV_A: float
    forces_max_meV_A: float
    energy_mae_meV_atom: float | None = None
    forces_mae_meV_A: float | None = None
    stress_rmse_GPa: float | None = None
    stress_mae_GPa: float | None = None

    def as_dict(self) -> dict[str, float | None]:
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
    """
    Energies (eV/atom, one per structure), forces (eV/A, all components) and stresses, label beside potential.

    Stresses are in eV/A^3, ASE's sign, of the structures whose label has one and whose forces all count: all
    components that are not across vacuum, flat.
    """

    energy_label: NDArray[np.float64]
    energy_potential: NDArray[np.float64]
    forces_label: NDArray[np.float64]
    forces_potential: NDArray[np.float64]
    stress_label: NDArray[np.float64]
    stress_potential: NDArray[np.float64]


class Prediction(NamedTuple):
    """
    What a potential says of one labelled structure.

    Parameters
    ----------
    energy
        eV, with the reference energies.
    forces
        (n_atoms, 3), eV/A.
    stress
        Of a structure whose label has one: its components that are not across vacuum, eV/A^3, ASE's sign; else None.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None


def evaluate(potential: ACEPotential, labels: Sequence[Atoms]) -> list[Prediction]:
    """Evaluate a potential on labelled structures, without gamma, which would cost more than the forces."""
    calculator = replace(potential, active_set_inverse={}).calculator()
    found = []
    for atoms in labels:
        calculator.calculate(boxed(atoms))
        results = calculator.results
        stress = None
        if label_stress(atoms) is not None and results.get("stress") is not None:
            stress = stress_without_vacuum(results["stress"], atoms)
        found.append(Prediction(float(results["energy"]), np.asarray(results["forces"]), stress))
    return found


def predict(
    potential: ACEPotential,
    labels: Sequence[Atoms],
    measured: Sequence[NDArray[np.intp] | None] | None = None,
    known: Sequence[Prediction] | None = None,
) -> Predictions:
    """
    Evaluate the potential on labelled structures.

    Parameters
    ----------
    labels
        Structures whose attached calculator holds the label (energy in eV, forces in eV/A).
    measured
        Of each structure the indices of the atoms whose forces count; None for all.
    known
        What :func:`evaluate` gives for them, where that is known.
    """
    which = [slice(None) if some is None else some for some in measured or [None] * len(labels)]
    energies, forces = [], []
    stress_label, stress_potential = [], []
    found = evaluate(potential, labels) if known is None else known
    for atoms, some, one in zip(labels, which, found, strict=True):
        energies.append(one.energy / len(atoms))
        forces.append(one.forces[some].ravel())
        stress = label_stress(atoms)
        if stress is not None and one.stress is not None and isinstance(some, slice):
            stress_label.append(stress_without_vacuum(stress, atoms))
            stress_potential.append(one.stress)
    return Predictions(
        np.array([a.get_potential_energy() / len(a) for a in labels]),
        np.array(energies),
        np.concatenate([raw_forces(a)[some].ravel() for a, some in zip(labels, which, strict=True)])
        if labels
        else np.empty(0),
        np.concatenate(forces) if labels else np.empty(0),
        np.concatenate([np.empty(0), *stress_label]),
        np.concatenate([np.empty(0), *stress_potential]),
    )


def compute_errors(
    potential: ACEPotential,
    labels: Sequence[Atoms],
    measured: Sequence[NDArray[np.intp] | None] | None = None,
    known: Sequence[Prediction] | None = None,
) -> ErrorMetrics | None:
    """Return the errors on ``labels``, None where there are none; parameters as for :func:`predict`."""
    return errors_of(predict(potential, labels, measured, known)) if labels else None


def errors_of(p: Predictions) -> ErrorMetrics:
    """Return the errors of what was predicted for at least one structure."""
    de, df = 1e3 * (p.energy_potential - p.energy_label), 1e3 * (p.forces_potential - p.forces_label)
    ds = EV_A3_IN_GPA * (p.stress_potential - p.stress_label)
    return ErrorMetrics(
        n_structures=len(de),
        n_atoms=len(p.forces_label) // 3,
        energy_rmse_meV_atom=float(np.sqrt(np.mean(de**2))),
        energy_max_meV_atom=float(np.abs(de).max()),
        forces_rmse_meV_A=float(np.sqrt(np.mean(df**2))),
        forces_max_meV_A=float(np.abs(df).max()),
        energy_mae_meV_atom=float(np.abs(de).mean()),
        forces_mae_meV_A=float(np.abs(df).mean()),
        stress_rmse_GPa=float(np.sqrt(np.mean(ds**2))) if ds.size else None,
        stress_mae_GPa=float(np.abs(ds).mean()) if ds.size else None,
    )
