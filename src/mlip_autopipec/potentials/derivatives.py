"""
Derivatives of the basis functions of a linear ACE by atomic positions and strain.

pyace gives them one neighbour and function at a time. Here they are matrix products over whole structures: the force
of a basis function is a sum over channels (element, n, l) of a neighbour function times the derivative of the basis
function by the channel, and it has few channels. Radial functions are pyace's own splines, so energies and forces
agree with those of pyace to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from mlip_autopipec.potentials.radial import Splines, spherical_harmonics
from mlip_autopipec.structures.distances import neighbours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ase import Atoms
    from numpy.typing import NDArray
    from pyace import ACEBBasisSet

#: xx yy zz yz xz xy: order of the components of a stress in ASE.
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
#: Central atoms evaluated together: what is held in memory grows with it.
_CENTRES = 64


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


@dataclass(frozen=True)
class _Rank:
    """
    All products of one correlation order.

    Parameters
    ----------
    channels
        Index into the atomic base of all m, (order, n_terms).
    real, imaginary
        Sparse, (n_weights, order * n_terms): from products without one factor to the weights.
    """

    channels: NDArray[np.intp]
    real: Any
    imaginary: Any


@dataclass(frozen=True)
class _Channel:
    """
    One (element, n, l), and the functions that have it.

    Parameters
    ----------
    element, n, l
        Of the neighbour.
    functions
        Columns, (n_functions,).
    weights
        Rows of the weights: functions by 2 l + 1 components.
    """

    element: int
    n: int
    l: int  # noqa: E741 the name of the index
    functions: NDArray[np.intp]
    weights: slice


class _Centre:
    """The functions of one central element, as matrices."""

    def __init__(self, basis: ACEBBasisSet, element: int, first: int) -> None:
        lmax, nradial = basis.radial_functions.lmax, basis.radial_functions.nradial
        self.pairs = [(int(f.mus[0]), int(f.ns[0]) - 1) for f in basis.basis_rank1[element]]
        self.first = first
        n_rank1 = len(self.pairs)
        functions = basis.basis[element]
        full = (lmax + 1) ** 2  # of the (l, m), in the atomic base
        has: dict[tuple[int, int, int], dict[int, int]] = {}
        terms: dict[int, list[tuple[int, float, list[tuple[int, int, int, int]]]]] = {}
        for k, f in enumerate(functions):
            ns, ls, mus = list(f.ns), list(f.ls), list(f.mus)
            for n, l, mu in zip(ns, ls, mus, strict=True):  # noqa: E741
                of = has.setdefault((int(mu), int(n) - 1, int(l)), {})
                of.setdefault(k, len(of))
            for ms, factor in zip(f.ms_combs, f.gen_cgs, strict=True):
                factors = [(int(mu), n - 1, l, m) for mu, n, l, m in zip(mus, ns, ls, ms, strict=True)]  # noqa: E741
                terms.setdefault(len(ns), []).append((k, float(factor), factors))
        self.channels: list[_Channel] = []
        start: dict[tuple[int, int, int], int] = {}
        at = 0
        for key in sorted(has):
            start[key] = at
            width = len(has[key]) * (2 * key[2] + 1)
            columns = first + n_rank1 + np.array(list(has[key]), dtype=np.intp)
            self.channels.append(_Channel(*key, columns, slice(at, at + width)))
            at += width
        self.n_weights = at
        self.used = sorted(has)
        self.n_functions = n_rank1 + len(functions)
        self.ranks: list[_Rank] = []
        for order, of_order in sorted(terms.items()):
            channels = np.empty((order, len(of_order)), dtype=np.intp)
            real: list[tuple[float, int, int]] = []
            imaginary: list[tuple[float, int, int]] = []
            for i, (k, factor, factors) in enumerate(of_order):
                for t, (mu, n, l, m) in enumerate(factors):  # noqa: E741
                    channels[t, i] = (mu * nradial + n) * full + l * l + l + m
                    row = start[mu, n, l] + has[mu, n, l][k] * (2 * l + 1)
                    entry = t * len(of_order) + i
                    # of -m only the part that is not conjugate to that of m; the base is half a basis
                    sign = (-1.0) ** m if m < 0 else 1.0
                    real.append((factor * sign, row + abs(m), entry))
                    if m:
                        imaginary.append((-factor * sign * np.sign(m), row + l + abs(m), entry))
            shape = (at, order * len(of_order))
            self.ranks.append(_Rank(channels, _sparse(real, shape), _sparse(imaginary, shape)))
        # one product of each term with its energy: the first factor times what is left of it
        self.energy = [
            _sparse([(c, k, i) for i, (k, c, _) in enumerate(of_order)], (len(functions), len(of_order)))
            for _, of_order in sorted(terms.items())
        ]


def _sparse(entries: Sequence[tuple[float, int, int]], shape: tuple[int, int]) -> Any:
    if not entries:
        return csr_array(shape)
    values, rows, columns = zip(*entries, strict=True)
    return csr_array((values, (rows, columns)), shape=shape)


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
        self._centres: list[_Centre] = []
        first = 0
        for element in range(len(basis.basis)):
            self._centres.append(_Centre(basis, element, first))
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
        of: _Centre,
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
        is_of = [near.species == element for element in range(n_species)]
        for k, (element, m) in enumerate(of.pairs):
            energy[of.first + k] += radial.g[is_of[element], m].sum()
            slope = np.where(is_of[element], radial.dg[:, m], 0.0)
            rows[of.first + k] += near.collect((slope[:, None] * unit)[:, None])[0].sum(axis=0)
        if not of.channels:
            return
        # the atomic base: sums over neighbours, for all m
        full = (lmax + 1) ** 2
        base = np.zeros((n_species * self._splines.nradial * full, n_centres), dtype=complex)
        for element, n, l in of.used:  # noqa: E741
            radial_part = np.where(is_of[element], radial.f[:, n, l], 0.0)
            start = l * (l + 1) // 2
            summed = near.by_centre(radial_part * harmonics[start : start + l + 1])
            at = (element * self._splines.nradial + n) * full + l * l + l
            base[at : at + l + 1] = summed
            for m in range(1, l + 1):
                base[at - m] = (-1.0) ** m * summed[m].conj()
        weights = np.zeros((of.n_weights, n_centres))
        first = of.first + len(of.pairs)
        for rank, to_energy in zip(of.ranks, of.energy, strict=True):
            factors = base[rank.channels]
            order = len(factors)
            without = np.empty_like(factors)
            without[0] = 1.0
            for t in range(1, order):
                np.multiply(without[t - 1], factors[t - 1], out=without[t])
            product = (without[-1] * factors[-1]).real.sum(axis=1)
            energy[first : first + to_energy.shape[0]] += to_energy @ product
            after = factors[-1].copy()
            for t in range(order - 2, -1, -1):
                without[t] *= after
                after *= factors[t]
            flat = without.reshape(-1, n_centres)
            weights += rank.real @ np.ascontiguousarray(flat.real)
            weights += rank.imaginary @ np.ascontiguousarray(flat.imag)
        outward, sideways = _by_l(harmonics, gradients, unit, near.distance, lmax)
        for channel in of.channels:
            chosen, l = is_of[channel.element], channel.l  # noqa: E741
            value = np.where(chosen, radial.f[:, channel.n, l], 0.0)[:, None, None]
            slope = np.where(chosen, radial.df[:, channel.n, l], 0.0)[:, None, None]
            collected = near.collect(slope * outward[l] + value * sideways[l])
            of_functions = weights[channel.weights].reshape(len(channel.functions), -1)
            rows[channel.functions] += of_functions @ collected.reshape(-1, rows.shape[1])

    def _core(self, atoms: Atoms, distance: NDArray[np.float64]) -> tuple[float, NDArray[Any], NDArray[Any]]:
        """Return energy, forces and virial of the core repulsion."""
        from pyace.atomicenvironment import aseatoms_to_atomicenvironment

        n_atoms = len(atoms)
        if self._splines.core_within is not None and not (distance < self._splines.core_within).any():
            return 0.0, np.zeros((n_atoms, 3)), np.zeros(6)
        environment = aseatoms_to_atomicenvironment(
            atoms.copy(), cutoff=self._basis.cutoffmax, elements_mapper_dict=self._species
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
    """Return what the derivative of R and R itself are multiplied by, for each l: real, (n_pairs, 2 l + 1, 3)."""
    outward, sideways = [], []
    for l in range(lmax + 1):  # noqa: E741
        start = l * (l + 1) // 2
        complex_value, complex_gradient = harmonics[start : start + l + 1], gradients[:, start : start + l + 1]
        value = np.concatenate([complex_value.real, complex_value.imag[1:]]).T
        gradient = np.concatenate([complex_gradient.real, complex_gradient.imag[:, 1:]], axis=1).transpose(2, 1, 0)
        outward.append(value[:, :, None] * unit[:, None, :])
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
        self.atoms, self.species = atoms, species
        self.distance, self.vector = distance, vector
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

    def by_centre(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum (n, n_pairs) over the neighbours: (n, n_centres)."""
        return np.asarray((self._by_centre @ values.T).T)

    def collect(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """
        Sum derivatives by the vectors, (n_pairs, n, 3), to forces on all atoms and the derivative by strain.

        Returns
        -------
        ndarray
            (n, n_centres, 3 n_atoms + 9).
        """
        n_pairs, n, _ = gradient.shape
        found = (self._to_atoms @ gradient.reshape(n_pairs, -1)).reshape(len(self.atoms), -1, n, 3)
        return np.ascontiguousarray(found.transpose(2, 0, 1, 3)).reshape(n, len(self.atoms), -1)
