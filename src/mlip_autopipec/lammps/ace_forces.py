"""ACE energies, forces and gamma on LAMMPS' own neighbour list.

pyace's Python neighbour list costs twice as much as evaluating the potential. Here LAMMPS keeps
the list (with its skin), pyace is told about it when LAMMPS rebuilds it, and in between only
the coordinates change hands. Between two evaluations of gamma the recursive evaluator of the
``.yace`` form is used, which is the fastest one pyace has.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
from pyace.calculator import ACECalculator
from pyace.catomicenvironment import ACEAtomicEnvironment
from pyace.evaluator import ACEBEvaluator, ACERecursiveEvaluator
from pyace.grace_fs import GRACEFSCalculator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential


class ACEForces:
    """
    Evaluate a potential on a neighbour list that is kept until it is replaced.

    Parameters
    ----------
    potential
        With its active set; atom types 1, 2, ... are its elements in order.
    """

    def __init__(self, potential: ACEPotential) -> None:
        # pyace keeps bare pointers, from a calculator to its evaluator to its basis set, so all
        # of them are held here
        self._basis = potential.basis
        if potential.is_grace:  # one evaluator does both
            self._evaluator = potential.grace_evaluator()
            self._fast = self._graded = GRACEFSCalculator(self._evaluator)
        else:
            self._ctilde_basis = self._basis.to_ACECTildeBasisSet()
            self._recursive = ACERecursiveEvaluator(self._ctilde_basis)
            self._recursive.set_recursive(True)
            self._bbasis = ACEBEvaluator(self._basis)
            self._bbasis.set_active_set(potential.active_set_matrices())
            self._fast, self._graded = ACECalculator(), ACECalculator()
            self._fast.set_evaluator(self._recursive)
            self._graded.set_evaluator(self._bbasis)
        self._environment = ACEAtomicEnvironment()
        self._used = np.empty(0, dtype=int)
        self._last = self._fast
        self._forces: NDArray[np.float64] | None = None
        elements = potential.elements
        self._core_radii = {
            (i, j): radius
            for (a, b), radius in potential.core_radii.items()
            for i, j in [(elements.index(a), elements.index(b)), (elements.index(b), elements.index(a))]
        }

    def set_neighbours(
        self,
        neighbours: Sequence[NDArray[np.int32]],
        types: NDArray[np.int32],
        tags: NDArray[np.int32],
        positions: NDArray[np.float64],
    ) -> None:
        """Take LAMMPS' own lists, one for each atom, as exported scripts do; see :meth:`set_joined_neighbours`."""
        joined = np.concatenate(neighbours) if len(neighbours) else np.empty(0, dtype=np.int32)
        self.set_joined_neighbours(joined, [len(n) for n in neighbours], types, tags, positions)

    def set_joined_neighbours(
        self,
        neighbours: NDArray[np.int32],
        counts: Sequence[int],
        types: NDArray[np.int32],
        tags: NDArray[np.int32],
        positions: NDArray[np.float64],
    ) -> None:
        """
        Take over a neighbour list.

        Parameters
        ----------
        neighbours
            Indices (into local and ghost atoms) of the neighbours of all local atoms, one after the other, (n_pairs,).
        counts
            How many neighbours each local atom has, (n_local,).
        types, tags
            LAMMPS atom type and ID of all local and ghost atoms, shape (n_all,).
        positions
            Of all local and ghost atoms in Angstrom, shape (n_all, 3).
        """
        n_local, n_all = len(counts), len(types)
        neighbours = _nearest_first(neighbours, counts, positions)
        is_used = np.zeros(n_all, dtype=bool)
        is_used[:n_local] = True
        is_used[neighbours] = True
        self._used = np.flatnonzero(is_used)  # ghosts that are nobody's neighbour are left out
        renumbered = (np.cumsum(is_used) - 1)[neighbours].tolist()
        owner = np.zeros(int(tags.max()) + 1, dtype=int)
        owner[tags[:n_local]] = np.arange(n_local)
        environment = ACEAtomicEnvironment()
        environment.x = positions[self._used].tolist()
        environment.species_type = (types[self._used] - 1).tolist()
        environment.neighbour_list = [renumbered[a:b] for a, b in pairwise(accumulate(counts, initial=0))]
        environment.origins = owner[tags[self._used]].tolist()
        self._environment = environment

    def set_types(self, types: NDArray[np.int32]) -> None:
        """Change the LAMMPS types of all local and ghost atoms, shape (n_all,), on the present neighbour list."""
        self._environment.species_type = (types[self._used] - 1).tolist()

    def evaluate(self, positions: NDArray[np.float64], *, with_gamma: bool) -> None:
        """Evaluate at ``positions`` (Angstrom, local and ghost atoms, shape (n_all, 3))."""
        self._environment.x = positions.take(self._used, axis=0).tolist()
        self._forces = None
        self._last = self._graded if with_gamma else self._fast
        self._last.compute(self._environment, compute_projections=with_gamma)

    @property
    def energy(self) -> float:
        """Potential energy in eV, without reference energies."""
        return float(self._last.energy)

    @property
    def forces(self) -> NDArray[np.float64]:
        """Forces on the local atoms in eV/A, shape (n_local, 3)."""
        if self._forces is None:
            self._forces = np.asarray(self._last.forces)
        return self._forces

    @property
    def virial(self) -> NDArray[np.float64]:
        """Virial in eV, LAMMPS order (xx, yy, zz, xy, xz, yz) and sign (positive pushes outwards)."""
        return -np.asarray(self._last.virial)

    @property
    def gamma(self) -> NDArray[np.float64]:
        """Extrapolation grade of the local atoms, shape (n_local,); after ``with_gamma=True`` only."""
        return np.asarray(self._last.gamma_grade)

    def projections(self) -> list[tuple[int, NDArray[np.float64]]]:
        """Element (its place among those of the potential) and projections of each local atom; once graded only."""
        rows = self._last.projections
        return [(kind, np.asarray(row)) for kind, row in zip(self._environment.species_type, rows, strict=False)]

    def forces_by(self, calculator: ACECalculator) -> NDArray[np.float64]:
        """Return the forces of another pyace calculator at the present positions in eV/A, shape (n_local, 3)."""
        calculator.compute(self._environment, compute_projections=False)
        return np.asarray(calculator.forces)

    def touches_core(self) -> bool:
        """Tell whether any two atoms are inside the core repulsion, which gamma does not see."""
        nearest = self._environment.get_minimal_nn_distance_per_bond()
        return any(distance < self._core_radii.get(tuple(pair), 0.0) for pair, distance in nearest.items())


def _nearest_first(
    neighbours: NDArray[np.int32], counts: Sequence[int], positions: NDArray[np.float64]
) -> NDArray[np.int32]:
    """
    Order the neighbours of each atom by distance: those of the skin come last.

    A processor then guesses rightly which of them are beyond the cutoff, which saves 2 to 4 % of an evaluation.
    """
    if not len(neighbours):
        return neighbours
    atom = np.repeat(np.arange(len(counts)), counts)
    squared = ((positions.take(neighbours, axis=0) - positions.take(atom, axis=0)) ** 2).sum(axis=1)
    return neighbours[np.argsort(atom + squared / (2 * squared.max()))]
