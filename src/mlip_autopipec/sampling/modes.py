"""Normal modes of a structure with any calculator, and displacements along all of them or the softest.

Nothing is assumed about symmetry: the structures are frames of MD runs, where phonopy would
save no displacement. Files are not written, so many processes may run in one folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import units
from scipy.linalg import null_space, orth

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.processes import in_one_thread
from mlip_autopipec.structures.distances import nearest_distances
from mlip_autopipec.structures.periodicity import gathered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

#: Step in Angstrom of the finite differences: frequencies move by less than 0.003 THz between
#: 0.001 and 0.01, and by up to 0.05 THz at 0.05.
HESSIAN_DISPLACEMENT = 0.01
#: Modes below this frequency (THz), imaginary ones too, are displaced as if they had it.
OMEGA_FLOOR_THZ = 1.0
#: No atom moves farther than this (Angstrom) along soft modes.
MAX_MODE_DISPLACEMENT = 0.3
#: No atom moves farther than this along all modes together, in mean distances of its element's atoms to their nearest
#: neighbours. At a third the force errors of MgO were three times as large (docs/benchmarks.md).
MAX_THERMAL_RATIO = 0.25
#: How much of the displacement a frame has along each mode a thermal displacement keeps. With a half, it moves away
#: from the frame by one thermal amplitude.
THERMAL_MEMORY = 0.5
#: A frame is displaced along a mode by at most this many thermal amplitudes; beyond, the mode is not harmonic.
_FARTHEST_AMPLITUDES = 3.0
#: Angular frequency in ASE's units, sqrt(eV/amu)/Angstrom, of 1 THz.
_OMEGA_PER_THZ = 2 * np.pi * 1e12 / units.s


@dataclass(frozen=True, eq=False)
class NormalModes:
    """
    Normal modes, the softest first.

    Parameters
    ----------
    frequencies_THz
        Ascending, (n_modes,); imaginary frequencies are negative.
    patterns
        Cartesian displacement of every atom per unit of the mass-weighted coordinate Q,
        e_ik / sqrt(m_i) in amu^-1/2, (n_modes, n_atoms, 3); zero for atoms that were not
        displaced. A displacement is ``Q @ patterns`` with Q in Angstrom amu^1/2.
    coordinates
        Q of the structure itself, counted from the minimum that the force along each mode points to,
        -F/omega^2; (n_modes,). None if they are not known, as in a minimum.
    """

    frequencies_THz: NDArray[np.float64]
    patterns: NDArray[np.float64]
    coordinates: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Return the number of modes."""
        return len(self.frequencies_THz)

    def softest(self, n_modes: int) -> NormalModes:
        """Return the first ``n_modes``, or all there are if there are fewer."""
        known = None if self.coordinates is None else self.coordinates[:n_modes]
        return NormalModes(self.frequencies_THz[:n_modes], self.patterns[:n_modes], known)

    def displacements(
        self, coordinates: NDArray[np.float64], farthest: float | NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Add up the patterns, scaled down until no atom moves farther than ``farthest`` (A), (n_atoms, 3) in A."""
        shift = np.tensordot(coordinates, self.patterns, axes=1)
        lengths = np.maximum(np.linalg.norm(shift, axis=1), 1e-300)
        return np.asarray(shift * min(1.0, float((farthest / lengths).min())))

    def thermal_amplitudes(self, temperature_K: float, omega_floor_THz: float) -> NDArray[np.float64]:
        """
        Return the standard deviations of the coordinates Q in Angstrom amu^1/2, (n_modes,).

        <Q^2> = kB T / omega^2 is equipartition of a classical harmonic oscillator; frequencies below
        ``omega_floor_THz``, also imaginary ones, count as this one.
        """
        omega = np.maximum(self.frequencies_THz, omega_floor_THz) * _OMEGA_PER_THZ
        return np.asarray(np.sqrt(units.kB * temperature_K) / omega)


def compute_hessian(
    atoms: Atoms,
    calculator: Calculator,
    indices: Sequence[int] | None = None,
    displacement: float = HESSIAN_DISPLACEMENT,
) -> NDArray[np.float64]:
    """
    Second derivatives of the energy by central differences of the forces.

    Parameters
    ----------
    atoms
        Any structure; it is neither changed nor given the calculator.
    calculator
        Any ASE calculator with forces; 6 force evaluations per displaced atom.
    indices
        Atoms to displace, all others stay; all by default.
    displacement
        Step in Angstrom.

    Returns
    -------
    numpy.ndarray
        Symmetrised Hessian in eV/Angstrom^2, (3 n, 3 n) for n displaced atoms.

    Raises
    ------
    InvalidInputError
        If ``displacement`` is not positive, an index does not exist, or a force is not finite.
    """
    if not displacement > 0:
        raise InvalidInputError(f"displacement is {displacement}; the Hessian needs a positive step in Angstrom")
    chosen = _checked_indices(atoms, indices)
    work = atoms.copy()
    work.set_constraint()  # ASE zeroes the forces of constrained atoms
    work.calc = calculator
    rows = []
    for atom in chosen:
        for axis in range(3):
            sides = []
            for sign in (1, -1):
                work.positions = atoms.positions
                work.positions[atom, axis] += sign * displacement
                sides.append(work.get_forces()[chosen].ravel())
            rows.append((sides[1] - sides[0]) / (2 * displacement))
    hessian = np.array(rows).reshape(3 * len(chosen), 3 * len(chosen))
    if not np.isfinite(hessian).all():
        raise InvalidInputError(
            f"the forces of {atoms.get_chemical_formula()} displaced by {displacement} A are not finite; "
            "the calculator cannot describe this structure"
        )
    return (hessian + hessian.T) / 2


@in_one_thread
def normal_modes(
    atoms: Atoms,
    calculator: Calculator,
    indices: Sequence[int] | None = None,
    displacement: float = HESSIAN_DISPLACEMENT,
) -> NormalModes:
    """
    Find the normal modes (the most unstable first).

    The eigenvectors of H_ij / sqrt(m_i m_j). When all atoms move, the three global
    translations are taken out, and of a cluster (no periodic direction) the rotations too.

    Parameters
    ----------
    atoms, calculator, indices, displacement
        As in :func:`compute_hessian`.

    Returns
    -------
    NormalModes
        Possibly of length 0 (one atom in a periodic cell has only translations).
    """
    chosen = _checked_indices(atoms, indices)
    masses = np.repeat(atoms.get_masses()[chosen], 3)
    everything = len(set(chosen)) == len(atoms)
    # the orthogonal complement of the rigid motions: they vanish exactly, also where the
    # numerical noise of the sum rule would mix them with truly soft modes
    basis = null_space(_rigid_motions(atoms, chosen).T) if everything else np.eye(len(masses))
    if basis.shape[1] == 0:
        return NormalModes(np.empty(0), np.empty((0, len(atoms), 3)))
    hessian = compute_hessian(atoms, calculator, chosen, displacement)
    dynamical = hessian / np.sqrt(np.outer(masses, masses))
    eigenvalues, vectors = np.linalg.eigh(basis.T @ dynamical @ basis)
    omega = np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues))
    cartesian = (basis @ vectors).T / np.sqrt(masses)
    patterns = np.zeros((len(omega), len(atoms), 3))
    patterns[:, chosen] = cartesian.reshape(len(omega), len(chosen), 3)
    work = atoms.copy()
    work.set_constraint()
    work.calc = calculator
    along = np.tensordot(patterns, work.get_forces(), axes=([1, 2], [0, 1]))
    # where the curvature is not positive there is no minimum to count from
    harmonic = eigenvalues > 0
    coordinates = np.where(harmonic, -along / np.where(harmonic, eigenvalues, 1.0), 0.0)
    return NormalModes(omega / _OMEGA_PER_THZ, patterns, coordinates)


def nearest_atoms(atoms: Atoms, centre: int, n_atoms: int) -> list[int] | None:
    """Return the ``n_atoms`` atoms nearest to ``centre``, ascending; None if that is all of them."""
    if len(atoms) <= n_atoms:
        return None
    distances = atoms.get_distances(centre, range(len(atoms)), mic=True)
    return [int(i) for i in np.sort(np.argsort(distances, kind="stable")[:n_atoms])]


def displace_along_modes(
    atoms: Atoms,
    modes: NormalModes,
    temperature_K: float,
    rng: np.random.Generator,
    *,
    multiples: Sequence[float] = (1.0, 2.0, 3.0),
    omega_floor_THz: float = OMEGA_FLOOR_THZ,
    max_displacement: float = MAX_MODE_DISPLACEMENT,
) -> Atoms:
    """
    Displace along a random combination of modes by multiples of their thermal amplitudes.

    Each mode takes part with probability 1/2 (at least one does) with Q = +-k times its
    thermal amplitude.

    Parameters
    ----------
    atoms
        The structure the modes belong to; left as it is.
    modes
        From :func:`normal_modes`, mostly the softest.
    temperature_K
        Temperature in K.
    rng
        Draws the modes, signs and multiples.
    multiples
        The k to draw from, in standard deviations.
    omega_floor_THz
        Frequencies below, also imaginary ones, count as this one.
    max_displacement
        The whole displacement is scaled down until no atom moves farther (Angstrom).

    Returns
    -------
    ase.Atoms
        A displaced copy.
    """
    _check_displacement(modes, temperature_K, omega_floor_THz, max_displacement)
    taking_part = rng.random(len(modes)) < 0.5
    taking_part[rng.integers(len(modes))] = True
    signs = rng.choice([-1.0, 1.0], size=len(modes))
    factors = rng.choice(np.asarray(multiples, dtype=float), size=len(modes))
    amplitudes = modes.thermal_amplitudes(temperature_K, omega_floor_THz)
    coordinates = np.where(taking_part, signs * factors * amplitudes, 0.0)
    return _moved(atoms, modes.displacements(coordinates, max_displacement))


def displace_thermally(
    atoms: Atoms,
    modes: NormalModes,
    temperature_K: float,
    rng: np.random.Generator,
    *,
    omega_floor_THz: float = OMEGA_FLOOR_THZ,
    max_ratio: float = MAX_THERMAL_RATIO,
) -> Atoms:
    """
    Displace along all modes as at a temperature, within the classical harmonic ensemble.

    A frame of MD is displaced already: adding the thermal motion once more would make it twice as hot as the MD.
    Each coordinate keeps a part rho of what it has, and the rest is drawn anew: Q' = rho Q + sqrt(1 - rho^2) s x with
    the thermal amplitude s and x drawn from a normal distribution. This is a step of an Ornstein-Uhlenbeck process,
    which leaves the ensemble as it is (Risken, The Fokker-Planck Equation, section 5.3). Neighbours move together
    where the material is stiff, as in MD.

    Parameters
    ----------
    atoms, modes, temperature_K, omega_floor_THz
        As in :func:`displace_along_modes`.
    rng
        Draws a normally distributed Q for each mode.
    max_ratio
        The whole displacement is scaled down until no atom moves farther than this times the
        mean distance of its element's atoms to their nearest neighbours.

    Returns
    -------
    ase.Atoms
        A displaced copy.
    """
    _check_displacement(modes, temperature_K, omega_floor_THz, max_ratio)
    amplitudes = modes.thermal_amplitudes(temperature_K, omega_floor_THz)
    drawn = rng.normal(size=len(modes)) * amplitudes
    if modes.coordinates is None:
        change = drawn
    else:
        farthest = _FARTHEST_AMPLITUDES * amplitudes
        present = np.clip(modes.coordinates, -farthest, farthest)
        change = (THERMAL_MEMORY - 1) * present + np.sqrt(1 - THERMAL_MEMORY**2) * drawn
    return _moved(atoms, modes.displacements(change, max_ratio * nearest_distances(atoms)))


def _moved(atoms: Atoms, shift: NDArray[np.float64]) -> Atoms:
    copy = atoms.copy()
    copy.positions += shift
    return copy


def _check_displacement(modes: NormalModes, temperature_K: float, omega_floor_THz: float, farthest: float) -> None:
    if len(modes) == 0:
        raise InvalidInputError("modes is empty; there is nothing to displace along")
    if not temperature_K > 0 or not omega_floor_THz > 0 or not farthest > 0:
        raise InvalidInputError(
            f"temperature_K = {temperature_K}, omega_floor_THz = {omega_floor_THz} and what limits the displacement "
            f"({farthest}) all have to be positive"
        )


def _checked_indices(atoms: Atoms, indices: Sequence[int] | None) -> list[int]:
    chosen = list(range(len(atoms))) if indices is None else [int(i) for i in indices]
    if not chosen:
        raise InvalidInputError("no atom to displace: 'atoms' or 'indices' is empty")
    if min(chosen) < 0 or max(chosen) >= len(atoms) or len(set(chosen)) < len(chosen):
        raise InvalidInputError(f"indices {chosen} do not name different atoms of a structure of {len(atoms)} atoms")
    return chosen


def _rigid_motions(atoms: Atoms, chosen: list[int]) -> NDArray[np.float64]:
    """Orthonormal mass-weighted translations (and rotations of a cluster), (3 n, 3 to 6)."""
    roots = np.sqrt(atoms.get_masses()[chosen])
    motions = [np.outer(roots, axis).ravel() for axis in np.eye(3)]
    positions, goes_on = gathered(atoms)
    if not goes_on.any():
        arms = positions[chosen] - atoms.get_masses() @ positions / atoms.get_masses().sum()
        motions += [(roots[:, None] * np.cross(axis, arms)).ravel() for axis in np.eye(3)]
    # a linear molecule has two rotations, an atom none: orth drops what vanishes
    return np.asarray(orth(np.array(motions).T, rcond=1e-8))
