"""
Elastic constants of a crystal from calculations of strained cells, none of which is relaxed.

Atoms that give way inside of a strained cell change the constants. What relaxation would give follows to first
order from the forces in the strained cells and the force constants at q = 0 (X. Wu, D. Vanderbilt and
D. R. Hamann, Phys. Rev. B 72, 035105 (2005), eq. 29), so that every calculation is a static one of a cell known
beforehand, the same for oracle and potential.

Tensors are written as 6-vectors (xx, yy, zz, yz, xz, xy) with the off-diagonal components times sqrt(2), in which
rotations are orthogonal matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
from ase import units

from mlip_autopipec.structures.distort import deform
from mlip_autopipec.validation.crystals import PropertyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.validation.crystals import Crystal, Result

    Floats = NDArray[np.float64]

_NAMES = ("xx", "yy", "zz", "yz", "xz", "xy")
_ROWS, _COLUMNS = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
_WEIGHTS = np.sqrt([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
_ZERO = 1e-8
#: A crystal gives way without limit along modes at q = 0 softer than this part of the stiffest.
_SOFT = 1e-4


@dataclass(frozen=True, eq=False)
class Strain:
    """A homogeneous strain: its name and its 6-vector (see the module)."""

    name: str
    vector: Floats

    def apply(self, atoms: Atoms) -> Atoms:
        """Return the strained cell with its fractional coordinates kept."""
        return deform(atoms, np.eye(3) + _tensor(self.vector))


@dataclass(frozen=True, eq=False)
class ElasticConstants:
    """
    Elastic constants in GPa, Voigt's notation, (6, 6).

    Parameters
    ----------
    relaxed
        Atoms inside of the cell gave way; None if that was not asked for.
    clamped
        Atoms kept their fractional coordinates.
    """

    relaxed: Floats | None
    clamped: Floats

    @property
    def best(self) -> Floats:
        """Relaxed constants if they are known: those that experiments measure."""
        return self.clamped if self.relaxed is None else self.relaxed


def required_strains(crystal: Crystal, amplitude: float, from_energies: bool) -> list[Strain]:
    """
    Choose the fewest strains along and between the axes that determine all elastic constants.

    Both senses of a strain are taken unless symmetry makes them equal, so that stress or forces which the crystal
    has already, and all terms of even order, drop out.

    Parameters
    ----------
    amplitude
        Length of a strain (root of the sum of the squares of the tensor's components).
    from_energies
        Whether energies alone have to do, which takes more strains; the unstrained cell is then one of them.
    """
    matrices = _representation(crystal.rotations)
    candidates = [(name, axis) for name, axis in zip(_NAMES, np.eye(6), strict=True)]
    if from_energies:
        pairs = combinations(range(6), 2)
        candidates += [(f"{_NAMES[i]}+{_NAMES[j]}", (np.eye(6)[i] + np.eye(6)[j]) / np.sqrt(2)) for i, j in pairs]
    strains = [Strain("none", np.zeros(6))] if from_energies else []
    known = np.empty((0, 36 if from_energies else 6))
    for name, direction in candidates:
        copies = matrices @ direction
        # a stress tells its constants for every equivalent direction, an energy one number for all of them
        new = np.einsum("gi,gj->ij", copies, copies).reshape(1, 36) / len(copies) if from_energies else copies
        more = np.vstack([known, new])
        if np.linalg.matrix_rank(more, tol=1e-6) == np.linalg.matrix_rank(known, tol=1e-6):
            continue
        known = more
        equal = np.abs(copies + direction).max(axis=1).min() < 1e-6
        strains += [
            Strain(f"{name} {s * amplitude:+.4f}", s * amplitude * direction) for s in ((1,) if equal else (1, -1))
        ]
    return strains


def gives_way(crystal: Crystal) -> bool:
    """Tell whether symmetry lets strain move the atoms inside of the cell; in fcc, bcc or rock salt it does not."""
    n = len(crystal.primitive)
    allowed = np.zeros((3 * n, 6, 3 * n, 6))
    for matrix, rotation, order in zip(
        _representation(crystal.rotations), crystal.rotations, crystal.permutations, strict=True
    ):
        move = np.zeros((n, 3, n, 3))
        move[order, :, np.arange(n), :] = rotation
        allowed += np.einsum("ab,cd->acbd", move.reshape(3 * n, 3 * n), matrix)
    # a common force on all atoms is no internal one
    allowed = allowed.reshape(n, 3, 6, -1)
    return bool(np.abs(allowed - allowed.mean(axis=0)).max() > _ZERO * len(crystal.rotations))


def fit_elastic_constants(
    crystal: Crystal,
    strains: Sequence[Strain],
    results: Sequence[Result],
    hessian: Floats | None = None,
    from_energies: bool = False,
) -> ElasticConstants:
    """
    Fit stress (or energy) over strain, with all copies that symmetry makes of each calculation.

    Where the unstrained cell is under stress, stresses give the coefficients of stress over strain, energies the
    second derivatives of the energy; these differ by that stress.

    Parameters
    ----------
    strains, results
        From :func:`required_strains`, and the calculations of them.
    hessian
        Force constants at q = 0 in eV/A^2, (3 n_atoms, 3 n_atoms); None leaves the atoms clamped.
    from_energies
        As in :func:`required_strains`.

    Raises
    ------
    PropertyError
        If stresses are missing, or the crystal is not stable at q = 0.
    """
    matrices, volume = _representation(crystal.rotations), crystal.primitive.get_volume()
    vectors = np.array([strain.vector for strain in strains])
    if from_energies:
        clamped = _from_energies(matrices, vectors, np.array([result.energy for result in results]), volume)
    else:
        stresses = [_vector(result.stress) for result in results if result.stress is not None]
        if len(stresses) < len(results):
            raise PropertyError(
                "there is no stress",
                "set PropertyCriterion.elastic_from to 'energy', or have the oracle compute stress",
            )
        _, clamped = _linear(_copies(matrices, vectors), _copies(matrices, np.array(stresses)))
        clamped = (clamped + clamped.T) / 2
    if hessian is None:
        return ElasticConstants(None, _voigt(clamped))
    forces = [
        np.einsum("ab,nb->na", rotation, result.forces)[np.argsort(order)].ravel()
        for result in results
        for rotation, order in zip(crystal.rotations, crystal.permutations, strict=True)
    ]
    _, coupling = _linear(np.concatenate([matrices @ vector for vector in vectors]), np.array(forces))
    relaxation = coupling.T @ _inverse(hessian) @ coupling / volume
    return ElasticConstants(_voigt(clamped - relaxation), _voigt(clamped))


def independent_constants(crystal: Crystal) -> list[tuple[int, int]]:
    """Return the places (row, column) of the constants from which symmetry gives all others: C11, C12, C44 if cubic."""
    matrices, places = _representation(crystal.rotations), list(combinations_with_replacement(range(6), 2))
    allowed = []
    for i, j in places:
        one = np.zeros((6, 6))
        one[i, j] = one[j, i] = 1.0
        mean = np.einsum("gai,ij,gbj->ab", matrices, one, matrices) / len(matrices)
        allowed.append([mean[place] for place in places])
    columns, chosen = np.array(allowed), list[int]()
    for k in range(len(places)):
        if np.linalg.matrix_rank(columns[:, [*chosen, k]], tol=1e-6) > len(chosen):
            chosen.append(k)
    return [places[k] for k in chosen]


def _from_energies(matrices: Floats, vectors: Floats, energies: Floats, volume: float) -> Floats:
    """Return the constants (eV/A^3): of what symmetry leaves undetermined, least squares take nothing."""
    scale = np.abs(vectors).max()
    copies = np.einsum("gij,nj->ngi", matrices, vectors / scale)
    second = np.einsum("ngi,ngj->nij", copies, copies) / (2 * len(matrices))
    design = np.hstack([np.ones((len(vectors), 1)), copies.mean(axis=1), second.reshape(-1, 36)])
    solution = np.linalg.lstsq(design, energies - energies.mean(), rcond=1e-9)[0]
    constants = solution[7:].reshape(6, 6) / (volume * scale**2)
    return np.asarray((constants + constants.T) / 2)


def _linear(inputs: Floats, outputs: Floats) -> tuple[Floats, Floats]:
    """Fit outputs = constant + matrix @ inputs."""
    scale = np.abs(inputs).max()
    design = np.hstack([inputs / scale, np.ones((len(inputs), 1))])
    solution = np.linalg.lstsq(design, outputs, rcond=None)[0]
    return solution[-1], solution[:-1].T / scale


def _inverse(hessian: Floats) -> Floats:
    """Invert force constants, translations left out."""
    values, vectors = np.linalg.eigh(hessian)
    translations = np.tile(np.eye(3), len(hessian) // 3) / np.sqrt(len(hessian) / 3)
    internal = np.linalg.norm(translations @ vectors, axis=0) < 0.5
    if (values[internal] < _SOFT * values.max()).any():
        raise PropertyError(
            f"the crystal is not stable: a mode at q = 0 has a force constant of {values[internal].min():.4f} eV/A^2, "
            "so its atoms do not relax to a minimum",
            "give a stable crystal, or set PropertyCriterion.relaxed_ions to false for constants of clamped ions",
        )
    inside = vectors[:, internal]
    return np.asarray((inside / values[internal]) @ inside.T)


def _representation(rotations: Floats) -> Floats:
    """Return the matrices that rotate 6-vectors, (n, 6, 6)."""
    basis = np.array([_tensor(axis) for axis in np.eye(6)])
    rotated = np.einsum("gab,kbc,gdc->gkad", rotations, basis, rotations)
    return np.asarray((rotated[..., _ROWS, _COLUMNS] * _WEIGHTS).transpose(0, 2, 1))


def _copies(matrices: Floats, vectors: Floats) -> Floats:
    return np.einsum("gij,nj->ngi", matrices, vectors).reshape(-1, 6)


def _vector(tensor: Floats) -> Floats:
    return np.asarray(tensor[_ROWS, _COLUMNS] * _WEIGHTS)


def _tensor(vector: Floats) -> Floats:
    tensor = np.zeros((3, 3))
    tensor[_ROWS, _COLUMNS] = tensor[_COLUMNS, _ROWS] = vector / _WEIGHTS
    return tensor


def _voigt(constants: Floats) -> Floats:
    return np.asarray(constants / np.outer(_WEIGHTS, _WEIGHTS) / units.GPa)
