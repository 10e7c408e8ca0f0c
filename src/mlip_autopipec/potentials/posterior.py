"""Error bars of a linear potential: the posterior of its coefficients, calibrated on labels it was not fitted to."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import qr

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.derivatives import Derivatives

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray
    from pyace import ACEBBasisSet

#: Array and entry of ``info`` that hold error bars of a frame: forces (n_atoms, 3) in eV/A, energy in eV.
FORCES_STD, ENERGY_STD = "forces_std", "energy_std"
#: Largest number of atoms times functions for which frames get error bars that nobody asked for: some 0.3 s.
_QUICK = 100_000


class Scales(NamedTuple):
    """Factors of the standard deviations of energies, forces and stresses; NaN where nothing is known."""

    energy: float
    forces: float
    stress: float

    def times(self, other: Scales) -> Scales:
        """Return the product with other factors."""
        return Scales(self.energy * other.energy, self.forces * other.forces, self.stress * other.stress)


NO_SCALES = Scales(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class StandardDeviations:
    """
    Expected errors of one structure.

    Parameters
    ----------
    energy
        Of all atoms together, eV.
    forces
        Of each component, (n_atoms, 3), eV/A.
    stress
        (6,), eV/A^3, in ASE's order; None without a cell, or if no label of the fit had a stress.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None

    @property
    def by_atom(self) -> NDArray[np.float64]:
        """Expected length of the error of the force on each atom (root mean square), (n_atoms,), eV/A."""
        return np.asarray(np.linalg.norm(self.forces, axis=1))


@dataclass(frozen=True)
class Posterior:
    """
    The posterior of the coefficients of a linear potential.

    Parameters
    ----------
    mean
        The coefficients, (n_functions,), in the order of the functions of the basis set.
    root
        ``L`` of the covariance ``L L'`` for unit noise, (n_functions, rank).
    scale
        By what standard deviations are multiplied, so that the squared errors of labels left out of the fit are on
        average those expected.
    fresh
        A further factor: by what the errors of fresh labels of MD exceeded what was expected of them.
    usual_force_eV_A
        Root mean square length of the force on an atom in the median label; 0 where that is not known.
    """

    mean: NDArray[np.float64]
    root: NDArray[np.float64]
    scale: Scales
    fresh: Scales = NO_SCALES
    usual_force_eV_A: float = 0.0

    @property
    def factors(self) -> Scales:
        """Both factors together."""
        return self.scale.times(self.fresh)

    def spread(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return standard deviations for unit noise of rows (..., n_functions); shape (...)."""
        return np.asarray(np.linalg.norm(rows @ self.root, axis=-1))

    def steepest(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """
        Return the coefficients that the energy's standard deviation, for unit noise, is linear in around a structure.

        Parameters
        ----------
        row
            Derivative of the energy by the coefficients, (n_functions,).

        Returns
        -------
        ndarray
            (n_functions,): the forces of a potential with these coefficients are minus the gradient of the standard
            deviation. Zero where that is zero.
        """
        along = row @ self.root
        length = float(np.linalg.norm(along))
        return np.zeros_like(row) if length == 0.0 else np.asarray(self.root @ (along / length))

    def of(self, derivatives: Derivatives, atoms: Atoms) -> StandardDeviations:
        """Return the standard deviations of a structure."""
        rows = derivatives.of(atoms)
        energy, forces, stress = self.factors
        virial = None
        if atoms.cell.rank == 3 and np.isfinite(stress):
            virial = stress * self.spread(rows.virial) / atoms.get_volume()
        return StandardDeviations(
            float(energy * self.spread(rows.energy)), np.asarray(forces * self.spread(rows.forces)), virial
        )

    def committee(self, n: int, seed: int) -> NDArray[np.float64]:
        """
        Draw sets of coefficients around the mean, with the calibration of the forces.

        Returns
        -------
        ndarray
            (n, n_functions).
        """
        draws = np.random.default_rng(seed).standard_normal((n, self.root.shape[1]))
        return np.asarray(self.mean + self.factors.forces * draws @ self.root.T)

    def pack(self) -> bytes:
        """Return the posterior as bytes; a triangle stands for ``root``, which gives the same deviations."""
        n = len(self.mean)
        triangle = np.zeros((n, n))
        found = qr(self.root.T, mode="r", check_finite=False)[0][:n]
        triangle[: len(found)] = found
        buffer = io.BytesIO()
        np.savez(
            buffer,
            mean=self.mean,
            triangle=triangle[np.triu_indices(n)],
            scale=np.array(self.scale),
            fresh=np.array(self.fresh),
            usual_force_eV_A=np.array(self.usual_force_eV_A),
        )
        return buffer.getvalue()

    @classmethod
    def unpack(cls, data: bytes) -> Posterior | None:
        """
        Read what :meth:`pack` wrote; no bytes, no posterior.

        Raises
        ------
        InvalidInputError
            They hold something else.
        """
        if not data:
            return None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                mean, packed = archive["mean"], archive["triangle"]
                n = len(mean)
                triangle = np.zeros((n, n))
                triangle[np.triu_indices(n)] = packed
                usual = float(archive["usual_force_eV_A"]) if "usual_force_eV_A" in archive else 0.0
                return cls(mean, triangle.T, Scales(*archive["scale"]), Scales(*archive["fresh"]), usual)
        except Exception as error:  # of zipfile, zlib, numpy's headers, shapes
            raise InvalidInputError(
                f"the posterior of the potential cannot be read ({type(error).__name__}: {str(error)[:200]}); copy "
                "its file again, or delete it: the potential then has no error bars"
            ) from error


class ErrorBars:
    """
    Evaluates the error bars of one potential.

    Parameters
    ----------
    basis
        A basis set of its own: its coefficients are set to zero.
    posterior
        Of its coefficients.

    Raises
    ------
    InvalidInputError
        They do not belong together.
    """

    def __init__(self, basis: ACEBBasisSet, posterior: Posterior) -> None:
        if len(basis.basis_coeffs) != len(posterior.mean) or not np.allclose(basis.basis_coeffs, posterior.mean):
            raise InvalidInputError(
                f"the posterior is of {len(posterior.mean)} coefficients that are not the {len(basis.basis_coeffs)} of "
                "the potential: its file belongs to another potential"
            )
        self._posterior = posterior
        self._derivatives = Derivatives(basis)

    def of(self, atoms: Atoms) -> StandardDeviations:
        """Return the standard deviations of a structure: eV, eV/A, eV/A^3."""
        return self._posterior.of(self._derivatives, atoms)

    def is_quick(self, atoms: Atoms) -> bool:
        """Whether a structure is so small that its error bars take no seconds."""
        return len(atoms) * len(self._posterior.mean) <= _QUICK

    def write_on(self, atoms: Atoms) -> None:
        """Put those of energy and forces on a frame, unless it is so large that it takes seconds."""
        if not self.is_quick(atoms):
            return
        found = self.of(atoms)
        atoms.arrays[FORCES_STD] = found.forces
        atoms.info[ENERGY_STD] = found.energy
