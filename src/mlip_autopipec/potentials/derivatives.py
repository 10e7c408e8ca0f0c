"""
Derivatives of the basis functions of a linear ACE by atomic positions and strain.

pyace gives them one neighbour and function at a time. Here they are matrix products over whole structures: the force
of a basis function is a sum over channels (element, n, l) of a neighbour function times the derivative of the basis
function by the channel, and it has few channels. Radial functions are pyace's own splines, so energies and forces
agree with those of pyace to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from mlip_autopipec.potentials.channels import ElementFunctions, real_weights
from mlip_autopipec.potentials.radial import Splines, spherical_harmonics
from mlip_autopipec.structures.distances import neighbours
from mlip_autopipec.structures.periodicity import boxed_if_mixed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ase import Atoms
    from numpy.typing import NDArray
    from pyace import ACEBBasisSet

    from mlip_autopipec.potentials.radial import Radial


#: xx yy zz yz xz xy: order of the components of a stress in ASE.
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
#: Central atoms evaluated together. What is held in memory grows with it; twice as many took a quarter longer.
_CENTRES = 32


class StructureRows(NamedTuple):
    """
    Derivatives of one structure by basis function, and what the core repulsion adds.

    Parameters
    ----------
    energy
        Sum of the projections of all atoms, (n_functions,), eV per unit coefficient.
    forces
        (n_atoms, 3, n_functions), eV/A.
    virial
        Derivative of the energy by strain, (6, n_functions), eV, in ASE's order; the stress times the volume.
    core_energy, core_forces, core_virial
        The same of the core: eV; (n_atoms, 3), eV/A; (6,), eV.
    """

    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    virial: NDArray[np.float64]
    core_energy: float
    core_forces: NDArray[np.float64]
    core_virial: NDArray[np.float64]


class Derivatives:
    """
    Evaluates the rows of structures.

    Parameters
    ----------
    basis
        Its coefficients are set to zero: what is left of the energy is the core repulsion.
    """

    def __init__(self, basis: ACEBBasisSet) -> None:
        from pyace import ACEBEvaluator, ACECalculator

        basis.basis_coeffs = np.zeros(len(basis.basis_coeffs))
        self._basis = basis
        self._evaluator = ACEBEvaluator(basis)  # pyace's calculator holds no reference of its own
        self._calculator = ACECalculator(self._evaluator)
        self._species = basis.elements_to_index_map
        self._splines = Splines(basis)
        self._centres: list[ElementFunctions] = []
        first = 0
        for element in range(len(basis.basis)):
            self._centres.append(ElementFunctions(basis, element, first))
            first += self._centres[-1].n_functions
        self._n_functions = first

    def of(self, atoms: Atoms) -> StructureRows:
        """Return the rows of a structure; its calculator and label are not looked at."""
        n = len(atoms)
        species = np.array([self._species[s] for s in atoms.get_chemical_symbols()])
        i, j, distance, vector = neighbours("ijdD", atoms, self._basis.cutoffmax)
        keep = distance < self._splines.cutoff[species[i], species[j]]
        i, j, distance, vector = i[keep], j[keep], distance[keep], vector[keep]
        energy = np.zeros(self._n_functions)
        # 3 n forces, then 9 components of the derivative by strain
        rows = np.zeros((self._n_functions, 3 * n + 9))
        for centre, of_element in enumerate(self._centres):
            members = np.flatnonzero(species == centre)
            for begin in range(0, len(members), _CENTRES):
                chosen = members[begin : begin + _CENTRES]
                place = np.full(n, -1)
                place[chosen] = np.arange(len(chosen))
                pairs = place[i] >= 0
                if not pairs.any():
                    continue
                # of a large structure some atoms move few others: time and memory go with the atoms, not their square
                near_by = np.unique(np.concatenate([chosen, j[pairs]]))
                local = np.searchsorted(near_by, np.arange(n))
                near = _Neighbours(
                    place[i[pairs]],
                    local[chosen],
                    local[j[pairs]],
                    species[j[pairs]],
                    distance[pairs],
                    vector[pairs],
                    len(near_by),
                )
                if len(near_by) == n:
                    self._add(of_element, centre, near, energy, rows)
                    continue
                some = np.zeros((self._n_functions, 3 * len(near_by) + 9))
                self._add(of_element, centre, near, energy, some)
                columns = np.concatenate([(3 * near_by[:, None] + np.arange(3)).ravel(), 3 * n + np.arange(9)])
                rows[:, columns] += some
        core_energy, core_forces, core_virial = self._core(atoms, distance)
        return StructureRows(
            energy,
            rows[:, : 3 * n].T.reshape(n, 3, -1),
            voigt(rows[:, 3 * n :].reshape(-1, 3, 3)),
            core_energy,
            core_forces,
            core_virial,
        )

    def _add(
        self,
        of: ElementFunctions,
        centre: int,
        near: _Neighbours,
        energy: NDArray[np.float64],
        rows: NDArray[np.float64],
    ) -> None:
        """Add what some atoms of one element contribute."""
        lmax = self._splines.lmax
        n_centres, n_species = len(near.atoms), len(self._centres)
        radial = self._splines.of(centre, near.species, near.distance)
        unit = near.vector / near.distance[:, None]
        harmonics, gradients = spherical_harmonics(unit, lmax)
        is_of = [np.flatnonzero(near.species == element) for element in range(n_species)]
        for k, (element, m) in enumerate(of.pairs):
            energy[of.first + k] += radial.g[is_of[element], m].sum()
        if of.pairs:
            elements, ms = np.array(of.pairs).T
            slope = np.where(near.species[:, None] == elements, radial.dg[:, ms], 0.0)
            gradient = slope[:, None, :] * unit[:, :, None]
            rows[of.first : of.first + len(of.pairs)] += near.collect(gradient).sum(axis=1)
        if not of.shells:
            return
        pairs = [near.some(chosen) for chosen in is_of]
        first = of.first + len(of.pairs)
        energies, weights = of.products(self._base(of, radial, harmonics, pairs, is_of))
        energy[first : first + len(energies)] += energies
        outward, sideways = _by_l(harmonics, gradients, unit, near.distance, lmax)
        for shell in of.shells:
            l, chosen = shell.l, is_of[shell.element]  # noqa: E741
            if not len(chosen):
                continue
            value, slope = radial.f[chosen][:, shell.n, l], radial.df[chosen][:, shell.n, l]
            gradient = slope[:, None, :, None] * outward[l][chosen][:, :, None]
            gradient += value[:, None, :, None] * sideways[l][chosen][:, :, None]
            collected = pairs[shell.element].collect(gradient.reshape(len(chosen), 3, -1))
            collected = collected.reshape(len(shell.n), -1, rows.shape[1])
            of_shell = real_weights(weights[shell.weights].reshape(-1, 2 * l + 1, n_centres))
            done = 0
            for functions, of_channel in zip(shell.functions, collected, strict=True):
                rows[functions] += of_shell[done : done + len(functions)] @ of_channel
                done += len(functions)

    def _base(
        self,
        of: ElementFunctions,
        radial: Radial,
        harmonics: NDArray[Any],
        pairs: Sequence[_Neighbours],
        is_of: Sequence[NDArray[np.intp]],
    ) -> NDArray[Any]:
        """Return the atomic base: sums over neighbours, for all m; see :meth:`ElementFunctions.products`."""
        n_radial, n_lm = self._splines.nradial, (self._splines.lmax + 1) ** 2
        base = np.zeros((len(pairs) * n_radial, n_lm, len(pairs[0].atoms)), dtype=complex)
        for shell in of.shells:
            l, chosen = shell.l, is_of[shell.element]  # noqa: E741
            if not len(chosen):
                continue
            start = l * (l + 1) // 2
            values = radial.f[chosen][:, shell.n, l, None] * harmonics[start : start + l + 1, chosen].T[:, None]
            summed = pairs[shell.element].by_centre(values)
            at = shell.element * n_radial + shell.n
            for m in range(l + 1):
                base[at, l * l + l + m] = summed[:, m]
                if m:
                    base[at, l * l + l - m] = (-1.0) ** m * summed[:, m].conj()
        return base.reshape(-1, base.shape[-1])

    def _core(self, atoms: Atoms, distance: NDArray[np.float64]) -> tuple[float, NDArray[Any], NDArray[Any]]:
        """Return energy, forces and virial of the core repulsion."""
        from pyace.atomicenvironment import aseatoms_to_atomicenvironment

        n_atoms = len(atoms)
        if self._splines.core_within is not None and not (distance < self._splines.core_within).any():
            return 0.0, np.zeros((n_atoms, 3)), np.zeros(6)
        environment = aseatoms_to_atomicenvironment(
            boxed_if_mixed(atoms).copy(), cutoff=self._basis.cutoffmax, elements_mapper_dict=self._species
        )
        # every image is an atom of its own without neighbours: so the virial is exact
        n_images = environment.n_atoms_extended
        origins = np.asarray(environment.origins)
        environment.neighbour_list = list(environment.neighbour_list[:n_atoms]) + [[]] * (n_images - n_atoms)
        environment.origins = list(range(n_images))
        environment.n_atoms_real = n_images
        self._calculator.compute(environment, compute_projections=False, compute_b_grad=False)
        by_image = np.asarray(self._calculator.forces).reshape(n_images, 3)
        forces = np.zeros((n_atoms, 3))
        np.add.at(forces, origins, by_image)
        virial = voigt(-(by_image.T @ np.asarray(environment.x)))
        return float(np.sum(self._calculator.energies)), forces, virial


def _by_l(
    harmonics: NDArray[Any],
    gradients: NDArray[Any],
    unit: NDArray[np.float64],
    distance: NDArray[np.float64],
    lmax: int,
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Return what the derivative of R and R itself are multiplied by, for each l: real, (n_pairs, 3, 2 l + 1)."""
    outward, sideways = [], []
    for l in range(lmax + 1):  # noqa: E741
        start = l * (l + 1) // 2
        complex_value, complex_gradient = harmonics[start : start + l + 1], gradients[:, start : start + l + 1]
        value = np.concatenate([complex_value.real, complex_value.imag[1:]]).T
        gradient = np.concatenate([complex_gradient.real, complex_gradient.imag[:, 1:]], axis=1).transpose(2, 0, 1)
        outward.append(value[:, None, :] * unit[:, :, None])
        sideways.append(np.ascontiguousarray(gradient) / distance[:, None, None])
    return outward, sideways


def voigt(tensor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the six components of symmetric tensors (..., 3, 3) as (6, ...)."""
    return np.array([(tensor[..., i, j] + tensor[..., j, i]) / 2 for i, j in VOIGT])


class _Neighbours:
    """
    Pairs of some central atoms with their neighbours.

    Parameters
    ----------
    centre
        Of each pair, the place of its central atom in ``atoms``.
    atoms
        The central atoms, by their numbers among these and the neighbours.
    neighbour, species
        Of each pair: the neighbour, by that number, and its element.
    distance, vector
        Angstrom; from the centre.
    n_atoms
        Central atoms and neighbours together.
    """

    def __init__(
        self,
        centre: NDArray[np.intp],
        atoms: NDArray[np.intp],
        neighbour: NDArray[np.intp],
        species: NDArray[np.intp],
        distance: NDArray[np.float64],
        vector: NDArray[np.float64],
        n_atoms: int,
    ) -> None:
        self.centre, self.atoms, self.neighbour, self.species = centre, atoms, neighbour, species
        self.distance, self.vector, self.n_atoms = distance, vector, n_atoms
        n_pairs, n_centres = len(centre), len(atoms)
        every, one = np.arange(n_pairs), np.ones(n_pairs)
        self._by_centre = csr_array((one, (centre, every)), shape=(n_centres, n_pairs))
        # the force on the neighbour is minus the derivative by the vector, that on the centre its opposite;
        # the products with the components of the vector follow the atoms
        first = centre * (n_atoms + 3)
        values = np.concatenate([-one, one, *vector.T])
        places = np.concatenate([first + neighbour, first + atoms[centre], *(first + n_atoms + k for k in range(3))])
        shape = (n_centres * (n_atoms + 3), n_pairs)
        self._to_atoms = csr_array((values, (places, np.tile(every, 5))), shape=shape)

    def some(self, chosen: NDArray[np.intp]) -> _Neighbours:
        """Return some of the pairs; the atoms keep their numbers."""
        if len(chosen) == len(self.centre):
            return self
        of_pairs = (self.distance[chosen], self.vector[chosen])
        return _Neighbours(
            self.centre[chosen], self.atoms, self.neighbour[chosen], self.species[chosen], *of_pairs, self.n_atoms
        )

    def by_centre(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum complex (n_pairs, n, k) over the neighbours: (n, k, n_centres)."""
        # factors are real: a complex number is two columns
        summed = self._by_centre @ np.ascontiguousarray(values).reshape(len(values), -1).view(float)
        return np.moveaxis(summed.view(complex).reshape(-1, *values.shape[1:]), 0, -1)

    def collect(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """
        Sum derivatives by the vectors, (n_pairs, 3, n), to forces on all atoms and the derivative by strain.

        Returns
        -------
        ndarray
            (n, n_centres, 3 n_atoms + 9).
        """
        n_pairs, _, n = gradient.shape
        found = (self._to_atoms @ gradient.reshape(n_pairs, -1)).reshape(len(self.atoms), -1, n)
        return np.ascontiguousarray(np.moveaxis(found, -1, 0))
