"""Error bars of a linear fit: the posterior of its coefficients, calibrated on structures left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.training.weights import Kind

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.training.derivatives import Derivatives
    from mlip_autopipec.training.regression import LeftOut


@dataclass(frozen=True)
class StandardDeviations:
    """Expected errors of one structure: energy in eV (of all atoms), forces (n_atoms, 3) in eV/A, stress in eV/A^3."""

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None


@dataclass(frozen=True)
class Posterior:
    """
    The posterior of the coefficients.

    Parameters
    ----------
    mean
        The coefficients, (n_functions,).
    root
        ``L`` of the covariance ``L L'`` for unit noise, (n_functions, rank).
    scale
        By what the standard deviation of an energy, a force and a stress is multiplied, so that the squared
        errors of structures left out are on average those expected. NaN for a kind without labels.
    """

    mean: NDArray[np.float64]
    root: NDArray[np.float64]
    scale: tuple[float, float, float]

    def std(self, rows: NDArray[np.float64], kind: int) -> NDArray[np.float64]:
        """
        Return standard deviations.

        Parameters
        ----------
        rows
            Derivatives by coefficient, (..., n_functions).
        kind
            A :class:`~mlip_autopipec.training.weights.Kind`.

        Returns
        -------
        ndarray
            (...), in the unit of the rows.
        """
        return np.asarray(self.scale[kind] * np.linalg.norm(rows @ self.root, axis=-1))

    def of(self, derivatives: Derivatives, atoms: Atoms) -> StandardDeviations:
        """Return the standard deviations of a structure."""
        rows = derivatives.of(atoms)
        stress = self.std(rows.virial, Kind.STRESS) / atoms.get_volume() if atoms.cell.rank == 3 else None
        return StandardDeviations(float(self.std(rows.energy, Kind.ENERGY)), self.std(rows.forces, Kind.FORCES), stress)

    def committee(self, n: int, seed: int) -> NDArray[np.float64]:
        """
        Draw sets of coefficients around the mean, with the calibration of the forces.

        Returns
        -------
        ndarray
            (n, n_functions).
        """
        draws = np.random.default_rng(seed).standard_normal((n, self.root.shape[1]))
        return np.asarray(self.mean + self.scale[Kind.FORCES] * draws @ self.root.T)


def calibrate(row_kind: NDArray[np.int8], left_out: LeftOut, judged: NDArray[np.bool_]) -> tuple[float, float, float]:
    """
    Return by what the standard deviations of energies, forces and stresses have to be multiplied.

    The error of a structure left out is that of the fit plus what the basis can never represent; for a user both
    are errors, so both are in the scale.

    Parameters
    ----------
    row_kind
        What each row is about, (n_rows,).
    left_out
        Residuals and variances of the rows.
    judged
        Rows that count, (n_rows,).
    """
    scale = []
    for kind in (Kind.ENERGY, Kind.FORCES, Kind.STRESS):
        rows = (row_kind == kind) & (left_out.variance > 0) & judged
        if not rows.any():
            scale.append(float("nan"))
            continue
        # rows of little variance, as forces that are zero by symmetry, decide nothing
        scale.append(float(np.sqrt(np.sum(left_out.residuals[rows] ** 2) / np.sum(left_out.variance[rows]))))
    return scale[0], scale[1], scale[2]
