"""
Cut-outs: the environments of highest gamma of a large cell, each in a small periodic cell of its own.

DFT cannot take a halted cell of thousands of atoms. What is new in it is the surroundings of a few atoms; each is
closed in a box of about 2 r_c: its centre then sees, within the cutoff r_c, just what it saw in the large cell, so that
energy and gamma of the centre are the same to rounding. The label is that of the small cell itself, so it is
exact; only the atoms near its faces are not those of the large cell. Their gamma is kept low: where there is a lattice
the box is commensurate with it, atoms that overlap are removed, and the boundary region is relaxed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase.geometry import get_distances

from mlip_autopipec.active_learning.activeset import enlarge_active_set
from mlip_autopipec.cutouts.cutting import Cutout, CutoutError, Cutting, evaluate, grading_calculator
from mlip_autopipec.cutouts.settings import CutoutSettings
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.moved import dropped_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

    Floats = NDArray[np.float64]

__all__ = ["Cutout", "CutoutError", "CutoutGenerator", "choose_centres"]


@dropped_fields(
    "relax_fmax",
    "composition_tolerance",
    max_seam_ratio="max_boundary_ratio",
    max_seam_force="max_boundary_force",
)
@dataclass
class CutoutGenerator(CutoutSettings):
    """
    Cuts small periodic cells out of a large one.

    Its parameters are those of :class:`~mlip_autopipec.cutouts.settings.CutoutSettings`.
    """

    def generate(
        self,
        atoms: Atoms,
        potential: ACEPotential,
        gamma: Sequence[float] | None = None,
        seed: int | None = None,
        centre: int | None = None,
    ) -> tuple[list[Cutout], dict[int, CutoutError]]:
        """
        Cut out the environments of highest gamma.

        Parameters
        ----------
        atoms
            The large cell.
        potential
            The present potential with its active set.
        gamma
            Gamma of each atom, if it is known; otherwise the array ``gamma`` of ``atoms``, else it is computed.
        seed
            Of the boxes' orientations.
        centre
            An atom that is cut out first whatever its gamma, one that halted in the core for instance.

        Returns
        -------
        tuple
            The cut-outs, most informative first: the next centre is the atom of highest gamma that is left if those
            before are labelled. And for each centre without a cut-out the reason.
        """
        if gamma is not None:
            grades = np.asarray(gamma, dtype=float)
        else:
            known = "gamma" in atoms.arrays
            grades = atoms.arrays["gamma"] if known else evaluate(grading_calculator(potential), atoms)["gamma"]
        made: list[Cutout] = []
        failed: dict[int, CutoutError] = {}
        separation = 2 * potential.cutoff
        remaining = np.where(np.isnan(grades), np.inf, grades).astype(float)
        enlarged = potential
        for _ in range(self.max_centres):
            chosen = choose_centres(atoms, remaining, separation, 1, self.gamma_min, centre)
            if not chosen:
                break
            (index,), centre = chosen, None
            try:
                made.append(self.cut(atoms, potential, index, seed, grades))
            except CutoutError as error:
                failed[index] = error
            else:  # equivalent surroundings elsewhere are known as soon as this one is labelled
                enlarged = enlarge_active_set(enlarged, [made[-1].atoms])
                remaining = np.minimum(remaining, evaluate(grading_calculator(enlarged), atoms)["gamma"])
            remaining[_distances(atoms, index) < separation] = -np.inf
        return made, failed

    def cut(
        self,
        atoms: Atoms,
        potential: ACEPotential,
        centre: int,
        seed: int | None = None,
        gamma: Sequence[float] | Floats | None = None,
    ) -> Cutout:
        """
        Cut out the surroundings of one atom.

        Families of boxes are tried in turn: commensurate with the lattice, with some of its directions, of free shape.
        Boxes without new gamma in the boundary region come first, small ones of small forces before others, then those
        of least new gamma; the first that passes all checks is returned.

        Raises
        ------
        CutoutError
            If a box 2 ``core_ratio`` r_c wide holds more than ``max_atoms``, if the core itself has too close a pair,
            or if no box passes the checks; ``best`` is the best attempt.
        """
        if not 0 <= centre < len(atoms):
            raise InvalidInputError(f"centre is {centre}, but atoms has {len(atoms)} atoms")
        grades = None if gamma is None else np.asarray(gamma, dtype=float)
        return Cutting(self, atoms, potential, centre, self.seed if seed is None else seed, grades).best()


def choose_centres(
    atoms: Atoms,
    gamma: Floats,
    separation: float,
    n_max: int,
    gamma_min: float,
    first: int | None = None,
) -> list[int]:
    """
    Choose atoms of high gamma, far from each other: the worst, then the worst of what remains, and so on.

    Parameters
    ----------
    gamma
        Of each atom, (n_atoms,).
    separation
        Atoms nearer to a chosen one than this (Angstrom) are dropped.
    n_max, gamma_min
        At most so many, none of a lower gamma.
    first
        Chosen before all others whatever its gamma.

    Returns
    -------
    list of int
    """
    if gamma.shape != (len(atoms),):
        raise InvalidInputError(f"gamma has shape {gamma.shape}, but atoms has {len(atoms)} atoms")
    # NaN is what an exploded frame has; it is worse than any number
    remaining = np.where(np.isnan(gamma), np.inf, gamma).astype(float)
    chosen: list[int] = []
    while len(chosen) < n_max:
        best = first if first is not None and not chosen else int(np.argmax(remaining))
        if not (remaining[best] >= gamma_min or best == first):
            break
        chosen.append(best)
        remaining[_distances(atoms, best) < separation] = -np.inf
        remaining[best] = -np.inf
    return chosen


def _distances(atoms: Atoms, index: int) -> Floats:
    """Return the distance (Angstrom) of every atom from one, (n_atoms,)."""
    cell, pbc = atoms.cell.complete(), atoms.pbc
    return np.asarray(get_distances(atoms.positions[index], atoms.positions, cell=cell, pbc=pbc)[1][0])
