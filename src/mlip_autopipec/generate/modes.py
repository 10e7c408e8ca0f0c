"""Normal modes of a structure with any calculator, and thermal displacements along the softest.

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
#: No atom moves farther than this (Angstrom) along modes.
MAX_MODE_DISPLACEMENT = 0.3
#: Angular frequency in ASE's units, sqrt(eV/amu)/Angstrom, of 1 THz.
_OMEGA_PER_THZ = 2 * np.pi * 1e12 / units.s


@dataclass(frozen=True, eq=False)
class SoftModes:
    """
    The softest normal modes.

    Parameters
    ----------
    frequencies_THz
        Ascending, (n_modes,); imaginary frequencies are negative.
    patterns
        Cartesian displacement of every atom per unit of the mass-weighted coordinate Q,
        e_ik / sqrt(m_i) in amu^-1/2, (n_modes, n_atoms, 3); zero for atoms that were not
        displaced. A displacement is ``Q @ patterns`` with Q in Angstrom amu^1/2.
    """

    frequencies_THz: NDArray[np.float64]
    patterns: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of modes."""
        return len(self.frequencies_THz)


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


def soft_modes(
    atoms: Atoms,
    calculator: Calculator,
    n_modes: int,
    indices: Sequence[int] | None = None,
    displacement: float = HESSIAN_DISPLACEMENT,
) -> SoftModes:
    """
    Find the modes of lowest frequency (the most unstable first).

    The eigenvectors of H_ij / sqrt(m_i m_j). When all atoms move, the three global
    translations are taken out, and of a cluster (no periodic direction) the rotations too.

    Parameters
    ----------
    atoms, calculator, indices, displacement
        As in :func:`compute_hessian`.
    n_modes
        So many modes are returned, or all there are if there are fewer.

    Returns
    -------
    SoftModes
        Possibly of length 0 (one atom in a periodic cell has only translations).
    """
    if n_modes < 1:
        raise InvalidInputError(f"n_modes is {n_modes}; at least one mode has to be asked for")
    chosen = _checked_indices(atoms, indices)
    masses = np.repeat(atoms.get_masses()[chosen], 3)
    everything = len(set(chosen)) == len(atoms)
    # the orthogonal complement of the rigid motions: they vanish exactly, also where the
    # numerical noise of the sum rule would mix them with truly soft modes
    basis = null_space(_rigid_motions(atoms, chosen).T) if everything else np.eye(len(masses))
    if basis.shape[1] == 0:
        return SoftModes(np.empty(0), np.empty((0, len(atoms), 3)))
    hessian = compute_hessian(atoms, calculator, chosen, displacement)
    dynamical = hessian / np.sqrt(np.outer(masses, masses))
    eigenvalues, vectors = np.linalg.eigh(basis.T @ dynamical @ basis)
    n = min(n_modes, len(eigenvalues))
    omega = np.sign(eigenvalues[:n]) * np.sqrt(np.abs(eigenvalues[:n]))
    cartesian = (basis @ vectors[:, :n]).T / np.sqrt(masses)
    patterns = np.zeros((n, len(atoms), 3))
    patterns[:, chosen] = cartesian.reshape(n, len(chosen), 3)
    return SoftModes(omega / _OMEGA_PER_THZ, patterns)


def nearest_atoms(atoms: Atoms, centre: int, n_atoms: int) -> list[int] | None:
    """Return the ``n_atoms`` atoms nearest to ``centre``, ascending; None if that is all of them."""
    if len(atoms) <= n_atoms:
        return None
    distances = atoms.get_distances(centre, range(len(atoms)), mic=True)
    return [int(i) for i in np.sort(np.argsort(distances, kind="stable")[:n_atoms])]


def displace_along_modes(
    atoms: Atoms,
    modes: SoftModes,
    temperature_K: float,
    rng: np.random.Generator,
    *,
    multiples: Sequence[float] = (1.0, 2.0, 3.0),
    omega_floor_THz: float = OMEGA_FLOOR_THZ,
    max_displacement: float = MAX_MODE_DISPLACEMENT,
) -> Atoms:
    """
    Displace along a random combination of modes with classical thermal amplitudes.

    Each mode takes part with probability 1/2 (at least one does) with Q = +-k sqrt(kB T) /
    omega: <Q^2> = kB T / omega^2 is equipartition of a classical harmonic oscillator.

    Parameters
    ----------
    atoms
        The structure the modes belong to; left as it is.
    modes
        From :func:`soft_modes`.
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
    if len(modes) == 0:
        raise InvalidInputError("modes is empty; there is nothing to displace along")
    if not temperature_K > 0 or not omega_floor_THz > 0 or not max_displacement > 0:
        raise InvalidInputError(
            f"temperature_K = {temperature_K}, omega_floor_THz = {omega_floor_THz} and max_displacement = "
            f"{max_displacement} all have to be positive"
        )
    taking_part = rng.random(len(modes)) < 0.5
    taking_part[rng.integers(len(modes))] = True
    signs = rng.choice([-1.0, 1.0], size=len(modes))
    factors = rng.choice(np.asarray(multiples, dtype=float), size=len(modes))
    omega = np.maximum(modes.frequencies_THz, omega_floor_THz) * _OMEGA_PER_THZ
    amplitudes = np.where(taking_part, signs * factors * np.sqrt(units.kB * temperature_K) / omega, 0.0)
    shift = np.tensordot(amplitudes, modes.patterns, axes=1)
    longest = float(np.linalg.norm(shift, axis=1).max())
    copy = atoms.copy()
    copy.positions += shift * min(1.0, max_displacement / max(longest, 1e-300))
    return copy


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
    if not atoms.pbc.any():
        arms = atoms.positions[chosen] - atoms.get_center_of_mass()
        motions += [(roots[:, None] * np.cross(axis, arms)).ravel() for axis in np.eye(3)]
    # a linear molecule has two rotations, an atom none: orth drops what vanishes
    return np.asarray(orth(np.array(motions).T, rcond=1e-8))
