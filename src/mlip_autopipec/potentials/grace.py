"""
pyace's evaluator of GRACE-FS, and a structure that it has to see before any other.

Its arrays grow with the number of neighbours. Where the first structure has no atom with more than one, as a dimer, the
process ends with a segmentation fault (python-ace 0.4.0rc1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ase import Atoms

if TYPE_CHECKING:
    from pyace.grace_fs import GRACEFSBasisSet, GRACEFSBEvaluator


def first_structure(basis: GRACEFSBasisSet) -> Atoms:
    """Return three atoms of the first element, each with two neighbours."""
    side = basis.cutoffmax / 2
    return Atoms([str(basis.elements_name[0])] * 3, [[0, 0, 0], [side, 0, 0], [0, side, 0]])


def grace_evaluator(basis: GRACEFSBasisSet) -> GRACEFSBEvaluator:
    """Return an evaluator that has seen :func:`first_structure`, without an active set."""
    from pyace.atomicenvironment import aseatoms_to_atomicenvironment
    from pyace.grace_fs import GRACEFSBEvaluator, GRACEFSCalculator

    evaluator = GRACEFSBEvaluator()
    evaluator.set_basis(basis)
    species = {str(element): i for i, element in enumerate(basis.elements_name)}
    seen = aseatoms_to_atomicenvironment(first_structure(basis), cutoff=basis.cutoffmax, elements_mapper_dict=species)
    GRACEFSCalculator(evaluator).compute(seen, compute_projections=False)
    return evaluator
