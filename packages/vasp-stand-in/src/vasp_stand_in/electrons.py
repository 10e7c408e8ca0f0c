"""
What an ASE calculator does not have but VASP's files show: bands, Fermi level, DOS, electronic steps.

Bands are those of the empty lattice (free electrons), so band count, k-points and occupation have
the shapes of a real run. The electronic steps are made up: they approach the calculator's energy
by a factor of ten each. The files say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase.units import Bohr, Hartree

if TYPE_CHECKING:
    from vasp_stand_in.inputs import Incar, VaspInput

HBAR2_OVER_2M = 0.5 * Hartree * Bohr**2  # eV A^2
DEFAULT_NELM = 60
DEFAULT_EDIFF_EV = 1e-4
FIRST_ERROR_EV_PER_ATOM = 5.0
UNCONVERGED_ERROR_EV_PER_ATOM = 0.05


@dataclass(frozen=True)
class Bands:
    """Empty-lattice bands, the same for both spins."""

    energies_eV: np.ndarray  # (k-points, bands), ascending
    occupations: np.ndarray  # (k-points, bands), 0 to 1
    fermi_eV: float
    grid_eV: np.ndarray  # (NEDOS,)
    dos: np.ndarray  # (NEDOS,) states per eV and spin
    integrated_dos: np.ndarray  # (NEDOS,)


def plane_wave_cutoff(kinetic_eV: float) -> float:
    """Return the largest ``|k + G|`` in 1/A of plane waves up to a kinetic energy in eV."""
    return float(np.sqrt(kinetic_eV / HBAR2_OVER_2M))


def empty_lattice_bands(given: VaspInput) -> Bands:
    """Fill the free-electron bands of the cell with the run's electrons, smeared by SIGMA (Fermi)."""
    reciprocal = 2 * np.pi * given.atoms.cell.reciprocal().array
    k_points = given.mesh.points @ reciprocal
    energies = HBAR2_OVER_2M * _lowest_squares(k_points, reciprocal, given.bands)
    sigma = max(abs(given.incar.real("SIGMA", 0.2)), 1e-3)
    wanted = given.electrons / 2  # per spin

    def occupations(fermi: float) -> np.ndarray:
        return _fermi((energies - fermi) / sigma)

    low, high = float(energies.min()) - 10 * sigma, float(energies.max()) + 10 * sigma
    for _ in range(80):
        middle = 0.5 * (low + high)
        filled = float(given.mesh.weights @ occupations(middle).sum(axis=1))
        low, high = (middle, high) if filled < wanted else (low, middle)
    fermi = 0.5 * (low + high)
    points = given.incar.integer("NEDOS", 301)
    grid = np.linspace(energies.min() - 5 * sigma, energies.max() + 5 * sigma, points)
    integrated = np.array([given.mesh.weights @ _fermi((energies - energy) / sigma).sum(axis=1) for energy in grid])
    return Bands(energies, occupations(fermi), fermi, grid, np.gradient(integrated, grid), integrated)


def _fermi(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 - np.tanh(0.5 * x))


def _lowest_squares(k_points: np.ndarray, reciprocal: np.ndarray, bands: int) -> np.ndarray:
    """Return the `bands` smallest ``|k + G|^2`` of each k-point, ascending, in 1/A^2."""
    zone = abs(np.linalg.det(reciprocal))
    margin = np.linalg.norm(reciprocal, axis=1).sum() / 2
    # a sphere with room for all bands, widened so that no shifted sphere is cut
    radius = (3 * bands * zone / (4 * np.pi)) ** (1 / 3) + 2 * margin
    reach = np.ceil(radius / (2 * np.pi) * np.linalg.norm(np.linalg.inv(reciprocal).T * 2 * np.pi, axis=1)).astype(int)
    indices = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    vectors = indices @ reciprocal
    vectors = vectors[np.linalg.norm(vectors, axis=1) <= radius + margin]
    return np.array([np.sort(((k + vectors) ** 2).sum(axis=1))[:bands] for k in k_points])


@dataclass(frozen=True)
class Loop:
    """The made-up electronic loop: the free energy in eV after each step, and whether EDIFF was reached."""

    energies_eV: np.ndarray  # (steps,)
    converged: bool

    @property
    def changes_eV(self) -> np.ndarray:
        """Change at each step, the first one from zero, as VASP prints it."""
        return np.diff(self.energies_eV, prepend=0.0)


def made_up_loop(energy_eV: float, n_atoms: int, incar: Incar, *, converges: bool = True) -> Loop:
    """
    Make up an electronic loop that ends at an energy, or at NELM without having reached EDIFF.

    Parameters
    ----------
    energy_eV
        The calculator's energy. A loop that ran into NELM ends *elsewhere*, as one of VASP's would.
    n_atoms
        Number of atoms; the error of the steps grows with it.
    incar
        For EDIFF, NELM and NELMIN.
    converges
        False for a loop that swings about the energy until NELM is reached.
    """
    ediff = abs(incar.real("EDIFF", DEFAULT_EDIFF_EV))
    nelm, nelmin = incar.integer("NELM", DEFAULT_NELM), incar.integer("NELMIN", 2)
    if not converges:
        errors = UNCONVERGED_ERROR_EV_PER_ATOM * n_atoms * (1.5 + np.cos(np.pi * np.arange(nelm)))
        return Loop(energy_eV + errors, converged=False)
    # the last error is half of EDIFF, so that the change falls below EDIFF at the very last step
    last = 0.5 * ediff
    decades = max(0, math.ceil(math.log10(FIRST_ERROR_EV_PER_ATOM * n_atoms / last)))
    errors_eV = [last * 10.0**power for power in range(decades, -1, -1)]
    errors_eV += [0.0] * max(1, nelmin - len(errors_eV))
    # VASP counts a loop that needs all of NELM as unconverged, and so does pymatgen
    converged = len(errors_eV) < nelm
    return Loop(energy_eV + np.array(errors_eV[:nelm]), converged)
