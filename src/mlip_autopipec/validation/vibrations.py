"""Force constants and phonon frequencies of a crystal from displaced cells, by phonopy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms, units
from phonopy import Phonopy
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.cells import estimate_supercell_matrix
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlip_autopipec.validation.crystals import Crystal, Result

    Floats = NDArray[np.float64]

#: Tolerance (Angstrom) of phonopy's search for symmetry in cells that were idealised.
_SYMPREC = 1e-4
#: Wave vectors along a path.
_PATH_POINTS = 121
#: Angular frequency in ASE's units, sqrt(eV/amu)/Angstrom, of 1 THz.
_OMEGA_PER_THZ = 2 * np.pi * 1e12 / units.s


@dataclass(frozen=True)
class Dispersion:
    """
    Frequencies along lines between the special points of the Brillouin zone.

    They are exact where the supercell holds the wave vector, elsewhere an interpolation by its force constants.

    Parameters
    ----------
    distances
        Along the path, 1/Angstrom (with 2 pi), (n_q,); where it jumps, the same distance twice.
    frequencies_THz
        As in :class:`Phonons`, (n_q, 3 n_atoms).
    ticks, labels
        Distances and names of the special points (Setyawan and Curtarolo, Comput. Mater. Sci. 49, 299 (2010)).
    """

    distances: list[float]
    frequencies_THz: list[list[float]]
    ticks: list[float]
    labels: list[str]


@dataclass(frozen=True)
class Phonons:
    """
    Frequencies at the wave vectors that a supercell holds exactly, and between them.

    Parameters
    ----------
    q_points
        In units of the reciprocal vectors of the primitive cell, (n_q, 3).
    frequencies_THz
        Ascending, imaginary ones negative, (n_q, 3 n_atoms). Without the splitting of longitudinal and transverse
        optical modes at q = 0, for which an insulator's charges would be needed.
    dispersion
        Along a path through the zone.
    """

    q_points: list[list[float]]
    frequencies_THz: list[list[float]]
    dispersion: Dispersion


def supercell_matrix(crystal: Crystal, max_atoms: int) -> NDArray[np.int_]:
    """
    Choose the supercell of the primitive cell: the conventional cell repeated to be as round as its symmetry allows.

    Where not even one conventional cell has at most ``max_atoms`` atoms, the primitive cell itself.

    Returns
    -------
    numpy.ndarray
        Rows are the vectors of the supercell in those of the primitive cell, (3, 3).
    """
    if len(crystal.conventional) > max_atoms:
        return np.eye(3, dtype=int)
    symmetry = SpacegroupAnalyzer(AseAtomsAdaptor.get_structure(crystal.conventional), _SYMPREC, angle_tolerance=-1)
    repeats = estimate_supercell_matrix(symmetry.get_symmetry_dataset(), max_num_atoms=max_atoms)
    return np.diag(repeats) @ crystal.conventional_matrix


def displaced_cells(crystal: Crystal, matrix: NDArray[np.int_], displacement: float) -> list[Atoms]:
    """
    Return the supercells with one displaced atom each that are different by symmetry.

    Both senses of a displacement are taken where symmetry does not make them equal, so that forces which the
    undisplaced crystal has already drop out.

    Parameters
    ----------
    matrix
        From :func:`supercell_matrix`.
    displacement
        Length in Angstrom.
    """
    return [_to_atoms(cell) for cell in _displaced(crystal, matrix, displacement).supercells_with_displacements or []]


def force_constants(
    crystal: Crystal, matrix: NDArray[np.int_], displacement: float, results: Sequence[Result]
) -> Phonopy:
    """Return phonopy's object with the force constants that follow from the forces in the displaced cells."""
    phonon = _displaced(crystal, matrix, displacement)
    phonon.forces = np.array([result.forces for result in results])
    phonon.produce_force_constants(show_drift=False)
    phonon.symmetrize_force_constants(show_drift=False)
    return phonon


def zone_centre_force_constants(crystal: Crystal, displacement: float, results: Sequence[Result]) -> Floats:
    """Return the force constants of the primitive cell at q = 0 in eV/A^2, (3 n_atoms, 3 n_atoms)."""
    phonon = force_constants(crystal, np.eye(3, dtype=int), displacement, results)
    n = len(crystal.primitive)
    blocks = np.asarray(phonon.force_constants).reshape(n, n, 3, 3)
    hessian = blocks.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)
    return np.asarray((hessian + hessian.T) / 2)


def phonons(crystal: Crystal, matrix: NDArray[np.int_], displacement: float, results: Sequence[Result]) -> Phonons:
    """Return the frequencies at all wave vectors commensurate with the supercell, and along a path."""
    phonon = force_constants(crystal, matrix, displacement, results)
    points = get_commensurate_points(np.asarray(matrix).T)
    path = crystal.primitive.cell.bandpath(npoints=_PATH_POINTS)
    distances, ticks, labels = path.get_linear_kpoint_axis()
    along_path = _frequencies_THz(phonon, path.kpts)
    dispersion = Dispersion(distances.tolist(), along_path, ticks.tolist(), labels)
    return Phonons(points.tolist(), _frequencies_THz(phonon, points), dispersion)


def _frequencies_THz(phonon: Phonopy, q_points: NDArray[np.floating]) -> list[list[float]]:
    dynamical = phonon.dynamical_matrix
    if dynamical is None:
        raise RuntimeError(f"phonopy made no dynamical matrix of {phonon.unitcell.formula}")
    frequencies = []
    for q in q_points:
        dynamical.run(q)
        squares = np.linalg.eigvalsh(np.asarray(dynamical.dynamical_matrix))
        frequencies.append((np.sign(squares) * np.sqrt(np.abs(squares)) / _OMEGA_PER_THZ).tolist())
    return frequencies


def _displaced(crystal: Crystal, matrix: NDArray[np.int_], displacement: float) -> Phonopy:
    primitive = crystal.primitive
    cell = PhonopyAtoms(
        symbols=primitive.get_chemical_symbols(),
        cell=primitive.cell.array,
        scaled_positions=primitive.get_scaled_positions(),
        masses=primitive.get_masses(),
    )
    phonon = Phonopy(cell, np.asarray(matrix).T, np.eye(3), symprec=_SYMPREC)  # phonopy's matrices act on columns
    phonon.generate_displacements(distance=displacement)
    return phonon


def _to_atoms(cell: PhonopyAtoms) -> Atoms:
    return Atoms(cell.symbols, scaled_positions=cell.scaled_positions, cell=cell.cell, pbc=True)
