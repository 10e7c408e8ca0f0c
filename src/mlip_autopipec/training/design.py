"""
The design matrix of a linear ACE: what each basis function adds to energies, forces and stresses.

The derivatives are those of :mod:`mlip_autopipec.potentials.derivatives`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
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
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ase import Atoms
    from numpy.typing import NDArray
    from pyace import ACEBBasisSet

    from mlip_autopipec.potentials.derivatives import StructureRows
    from mlip_autopipec.training.weights import FitWeights

#: Atoms times functions above which further processes are worth their start.
_WORTH_A_PROCESS = 200_000


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
    matrix
        (n_rows, n_functions); of each structure one row of the energy per atom (eV/atom), 3 n rows of forces
        (eV/A), and, where the label has a stress, 6 rows of it (eV/A^3); those across vacuum are left out.
    target
        Labels without reference energies and core repulsion, (n_rows,).
    kind
        What each row is about, a :class:`~mlip_autopipec.training.weights.Kind`.
    structure
        Index of the structure of each row; ascending.
    functions
        The columns.
    """

    matrix: NDArray[np.float64]
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
        return Design(self.matrix[keep], self.target[keep], self.kind[keep], self.structure[keep], self.functions)

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
    rows = _all_rows(basis, labels, processes)
    matrix: list[NDArray[Any]] = []
    target: list[NDArray[Any]] = []
    kind: list[int] = []
    structure: list[int] = []
    for i, (atoms, row) in enumerate(zip(labels, rows, strict=True)):
        n = len(atoms)
        cohesive = atoms.get_potential_energy() - sum(reference_energies.get(s, 0.0) for s in atoms.symbols)
        matrix += [row.energy[None] / n, row.forces.reshape(3 * n, -1)]
        target += [np.array([(cohesive - row.core_energy) / n]), (atoms.get_forces() - row.core_forces).ravel()]
        kinds = [Kind.ENERGY] + [Kind.FORCES] * (3 * n)
        stress = label_stress(atoms)
        if stress is not None:
            volume, inside = atoms.get_volume(), stress_components(atoms)
            matrix.append(inside @ row.virial / volume)
            target.append(inside @ (stress - row.core_virial / volume))
            kinds += [Kind.STRESS] * len(inside)
        kind += kinds
        structure += [i] * len(kinds)
    design = Design(
        np.concatenate(matrix), np.concatenate(target), np.array(kind, dtype=np.int8), np.array(structure), functions
    )
    if not np.isfinite(design.matrix).all() or not design.matrix.any():
        raise TrainingError("the ACE design matrix is empty or not finite; are all atoms farther than the cutoff?")
    return design


def _all_rows(basis: ACEBBasisSet, labels: Sequence[Atoms], processes: int | None) -> list[StructureRows]:
    """Return the rows of all labels; those known from earlier fits are read."""
    bare = [atoms.copy() for atoms in labels]
    n_functions = len(basis.basis_coeffs)
    basis.basis_coeffs = np.zeros(n_functions)
    cache = RowCache.here()
    if cache is None:
        return _computed(basis, bare, n_functions, processes)
    text = basis_text(basis)
    keys = [key_of(text, atoms) for atoms in bare]
    found = [cache.read(key, len(atoms), n_functions) for key, atoms in zip(keys, bare, strict=True)]
    new = [i for i, rows in enumerate(found) if rows is None]
    computed = dict(zip(new, _computed(basis, [bare[i] for i in new], n_functions, processes), strict=True))
    for i, rows in computed.items():
        cache.write(keys[i], rows)
    if new:
        cache.prune()
    return [computed[i] if rows is None else rows for i, rows in enumerate(found)]


def _computed(
    basis: ACEBBasisSet, bare: Sequence[Atoms], n_functions: int, processes: int | None
) -> list[StructureRows]:
    if not bare:
        return []
    if processes is None:
        work = sum(map(len, bare)) * n_functions
        processes = max(1, min(len(os.sched_getaffinity(0)), work // _WORTH_A_PROCESS))
    processes = min(processes, len(bare))
    if processes <= 1:
        derivatives = Derivatives(basis)
        return [derivatives.of(atoms) for atoms in bare]
    # forked workers inherit the basis, which cannot be pickled
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(basis,)) as pool:
        return list(pool.map(_rows_in_worker, bare, chunksize=max(1, len(bare) // (8 * processes))))


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
