"""
The design matrix of a linear ACE: what each basis function adds to energies, forces and stresses.

The derivatives are those of :mod:`mlip_autopipec.potentials.derivatives`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase.calculators.calculator import PropertyNotImplementedError
from threadpoolctl import threadpool_limits

from mlip_autopipec.errors import TrainingError
from mlip_autopipec.potentials.basis import degree_of
from mlip_autopipec.potentials.derivatives import Derivatives
from mlip_autopipec.potentials.row_cache import RowCache, basis_text, key_of
from mlip_autopipec.structures.periodicity import stress_components
from mlip_autopipec.training.weights import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from pyace import ACEBBasisSet

    from mlip_autopipec.potentials.derivatives import StructureRows
    from mlip_autopipec.training.weights import FitWeights

#: Atoms times functions above which further processes are worth their start.
_WORTH_A_PROCESS = 200_000
#: Most structures that a process is given at a time; what it makes of them is held in memory.
_CHUNK = 16
#: Bytes above which a design matrix is in a file.
_IN_MEMORY = 10**9

#: What an error of a stress is worth grows by this share of the largest component of its label: at 300 GPa a tenth of
#: a GPa is less than DFT with its basis set gives. Iron up to such pressures: 94 instead of 129 meV/A.
STRESS_SHARE = 0.003


class BasisFunction(NamedTuple):
    """A basis function by its species and indices; the same in all bases of a ladder."""

    centre: int
    species: tuple[int, ...]
    n: tuple[int, ...]
    l: tuple[int, ...]  # noqa: E741 the name of the field
    coupling: tuple[int, ...]

    @property
    def degree(self) -> int:
        """See :func:`~mlip_autopipec.potentials.basis.degree_of`."""
        return degree_of(self.n, self.l)


def same_radial(a: ACEBBasisSet, b: ACEBBasisSet) -> bool:
    """Whether the radial functions that both bases have are the same."""
    bonds_a, bonds_b = a.map_bond_specifications, b.map_bond_specifications
    return bonds_a.keys() == bonds_b.keys() and all(
        bonds_a[pair].radbasename == bonds_b[pair].radbasename
        and np.allclose(bonds_a[pair].radparameters, bonds_b[pair].radparameters)
        and np.isclose(bonds_a[pair].rcut, bonds_b[pair].rcut)
        and np.isclose(bonds_a[pair].dcut, bonds_b[pair].dcut)
        for pair in bonds_a
    )


def basis_functions(basis: ACEBBasisSet) -> list[BasisFunction]:
    """Return the functions of all elements in the order of the columns of the design matrix."""
    return [
        BasisFunction(int(f.mu0), tuple(f.mus), tuple(f.ns), tuple(f.ls), tuple(f.LS))
        for rank1, higher in zip(basis.basis_rank1, basis.basis, strict=True)
        for f in (*rank1, *higher)
    ]


def label_stress(atoms: Atoms) -> NDArray[np.float64] | None:
    """Return the stress of the label (6,), eV/A^3, ASE's order and sign; None where there is none."""
    if atoms.calc is None or atoms.cell.rank != 3:
        return None
    try:
        stress = atoms.get_stress(voigt=True)
    except (PropertyNotImplementedError, NotImplementedError):
        return None
    return np.asarray(stress, dtype=float)


@dataclass(frozen=True)
class Design:
    """
    A design matrix with its targets, ordered by structure.

    Parameters
    ----------
    stored
        A matrix that has the rows, (n_stored, n_functions); in a file where it is large. Of each structure it has one
        row of the energy per atom (eV/atom), 3 n rows of forces (eV/A), and, where the label has a stress, 6 rows of it
        (eV/A^3); those across vacuum are left out.
    place
        Where it has them, (n_rows,); ascending.
    target
        Labels without reference energies and core repulsion, (n_rows,).
    kind
        What each row is about, a :class:`~mlip_autopipec.training.weights.Kind`.
    structure
        Index of the structure of each row; ascending.
    functions
        The columns.
    """

    stored: NDArray[np.float64]
    place: NDArray[np.intp]
    target: NDArray[np.float64]
    kind: NDArray[np.int8]
    structure: NDArray[np.intp]
    functions: tuple[BasisFunction, ...]

    @property
    def blocks(self) -> list[slice]:
        """Rows of each structure."""
        ends = np.searchsorted(self.structure, np.arange(self.structure[-1] + 2))
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]

    def rows(self, keep: NDArray[np.bool_]) -> Design:
        """Return the design of some of the rows."""
        some = (self.place[keep], self.target[keep], self.kind[keep], self.structure[keep])
        return Design(self.stored, *some, self.functions)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """All rows, (n_rows, n_functions): a copy, which may have gigabytes."""
        return self.part(slice(None), np.arange(len(self.functions)))

    def part(self, rows: slice | NDArray[np.bool_], columns: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return a copy of some columns of some rows."""
        place = self.place[rows]
        if len(place) and place[-1] - place[0] == len(place) - 1:
            return np.take(self.stored[place[0] : place[-1] + 1], columns, axis=1)
        return self.stored[np.ix_(place, columns)]

    def columns(self, functions: Sequence[BasisFunction]) -> NDArray[np.intp]:
        """Return the columns of the given functions, in their order."""
        place = {function: i for i, function in enumerate(self.functions)}
        return np.array([place[function] for function in functions], dtype=np.intp)


def units_of(design: Design, weights: FitWeights, of_label: Sequence[float]) -> NDArray[np.float64]:
    """
    Return for each row of a design what an error is worth, divided by the root of the weight of its label, (n_rows,).

    Parameters
    ----------
    design
        The rows.
    weights
        What an error of a stable label without stress is worth. That of a stress grows by :data:`STRESS_SHARE` of the
        largest component of its label.
    of_label
        Weight of each label in the sum of squares.
    """
    unit = weights.unit(design.kind)
    stress = design.kind == Kind.STRESS
    largest = np.zeros(len(of_label))
    np.maximum.at(largest, design.structure[stress], np.abs(design.target[stress]))
    unit[stress] += STRESS_SHARE * largest[design.structure[stress]]
    return np.asarray(unit / np.sqrt(np.asarray(of_label))[design.structure])


def build_design(
    basis: ACEBBasisSet,
    labels: Sequence[Atoms],
    reference_energies: Mapping[str, float],
    processes: int | None = None,
) -> Design:
    """
    Build the design matrix of labelled structures.

    Parameters
    ----------
    basis
        Its coefficients are set to zero.
    labels
        Labels (eV, eV/A, eV/A^3) in attached calculators.
    reference_energies
        Energy in eV per atom of each element that is taken from the labels first.
    processes
        Worker processes; None takes the cores that there are, where the work is worth it.

    Raises
    ------
    TrainingError
        If the matrix is not finite or zero.
    """
    functions = tuple(basis_functions(basis))
    stresses = [label_stress(atoms) for atoms in labels]
    inside = [None if s is None else stress_components(atoms) for atoms, s in zip(labels, stresses, strict=True)]
    kinds = [
        [Kind.ENERGY] + [Kind.FORCES] * (3 * len(atoms)) + [Kind.STRESS] * (0 if of is None else len(of))
        for atoms, of in zip(labels, inside, strict=True)
    ]
    kind = np.array(list(itertools.chain.from_iterable(kinds)), dtype=np.int8)
    matrix, target = _storage(len(kind), len(functions)), np.empty(len(kind))
    begin, finite = 0, True
    for atoms, stress, of, row in zip(labels, stresses, inside, _all_rows(basis, labels, processes), strict=True):
        n = len(atoms)
        cohesive = atoms.get_potential_energy() - sum(reference_energies.get(s, 0.0) for s in atoms.symbols)
        parts = [
            (row.energy[None] / n, [(cohesive - row.core_energy) / n]),
            (row.forces.reshape(3 * n, -1), (atoms.get_forces() - row.core_forces).ravel()),
        ]
        if stress is not None and of is not None:
            volume = atoms.get_volume()
            parts.append((of @ row.virial / volume, of @ (stress - row.core_virial / volume)))
        for values, wanted in parts:
            rows = slice(begin, begin + len(values))
            matrix[rows], target[rows], begin = values, wanted, begin + len(values)
            finite = finite and bool(np.isfinite(values).all())
    if not finite or not matrix.any():
        raise TrainingError("the ACE design matrix is empty or not finite; are all atoms farther than the cutoff?")
    structure = np.repeat(np.arange(len(labels)), [len(of) for of in kinds])
    return Design(matrix, np.arange(len(kind)), target, kind, structure, functions)


def _storage(n_rows: int, n_functions: int) -> NDArray[np.float64]:
    """Return room for a matrix: in memory, or in a file without a name, which ends with the process however it ends."""
    size = 8 * n_rows * n_functions
    if size <= _IN_MEMORY:
        return np.empty((n_rows, n_functions))
    try:
        with tempfile.TemporaryFile() as file:
            # a disk that is full is told now; to write a map beyond it kills the process
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=np.float64, mode="r+", shape=(n_rows, n_functions))
    except OSError as error:
        raise TrainingError(
            f"the design matrix has {size / 1e9:.2g} GB ({n_rows} energies, forces and stresses, {n_functions} "
            f"functions), for which there is no room in '{tempfile.gettempdir()}' ({error}); let TMPDIR name a folder "
            "on a larger disk, or set trainer.basis.number_of_functions_per_element"
        ) from error


def _all_rows(basis: ACEBBasisSet, labels: Sequence[Atoms], processes: int | None) -> Iterator[StructureRows]:
    """Make the rows of each label; those known from earlier fits are read."""
    bare = [atoms.copy() for atoms in labels]
    n_functions = len(basis.basis_coeffs)
    basis.basis_coeffs = np.zeros(n_functions)
    cache = RowCache.here()
    if cache is None:
        yield from _computed(basis, bare, n_functions, processes)
        return
    text = basis_text(basis)
    keys = [key_of(text, atoms) for atoms in bare]
    known = [cache.has(key) for key in keys]
    new = _computed(basis, [atoms for atoms, has in zip(bare, known, strict=True) if not has], n_functions, processes)
    # what is new takes no room from what is about to be read
    sizes = [8 * (3 * len(atoms) + 7) * n_functions for atoms in bare]
    room = 0.8 * cache.limit_bytes - sum(size for size, has in zip(sizes, known, strict=True) if has)
    for key, atoms, has, size in zip(keys, bare, known, sizes, strict=True):
        rows = cache.read(key, len(atoms), n_functions) if has else None
        if rows is None:
            # one that is there may be damaged, or gone meanwhile
            rows = Derivatives(basis).of(atoms) if has else next(new)
            room -= size
            if room > 0 or not any(known):
                cache.write(key, rows)
        yield rows
    if not all(known):
        cache.prune()


def _computed(
    basis: ACEBBasisSet, bare: Sequence[Atoms], n_functions: int, processes: int | None
) -> Iterator[StructureRows]:
    if not bare:
        return
    if processes is None:
        work = sum(map(len, bare)) * n_functions
        processes = max(1, min(len(os.sched_getaffinity(0)), work // _WORTH_A_PROCESS))
    processes = min(processes, len(bare))
    if processes <= 1:
        derivatives = Derivatives(basis)
        yield from map(derivatives.of, bare)
        return
    # forked workers inherit the basis, which cannot be pickled
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(basis,)) as pool:
        yield from pool.map(_rows_in_worker, bare, chunksize=max(1, min(_CHUNK, len(bare) // (8 * processes))))


_worker: dict[str, Derivatives] = {}


def _start_worker(basis: ACEBBasisSet) -> None:
    # there are as many workers as cores: with threads of BLAS in each, two cores took four times as long
    threadpool_limits(1)
    # the process that began the fit answers signals and tells of them; its workers end without a traceback
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _worker["derivatives"] = Derivatives(basis)


def _rows_in_worker(atoms: Atoms) -> StructureRows:
    return _worker["derivatives"].of(atoms)
