"""Labels by a linear ACE with random coefficients: a fit knows which functions they were made with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.potentials.derivatives import Derivatives
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.training.design import basis_functions
from mlip_autopipec.training.regression import prior_scale

if TYPE_CHECKING:
    from collections.abc import Collection

    from ase import Atoms
    from pyace import ACEBBasisSet

    from mlip_autopipec.training.design import BasisFunction


def labelled_by(
    basis: ACEBBasisSet, frames: list[Atoms], functions: Collection[BasisFunction] | None = None
) -> list[Atoms]:
    """Label with all functions of a basis, or with some of them; forces of about 1 eV/A."""
    known = basis_functions(basis)
    coefficients = np.random.default_rng(0).normal(size=len(known)) / prior_scale(known)
    if functions is not None:
        coefficients *= [function in functions for function in known]
    forces = [Derivatives(basis).of(atoms).forces @ coefficients for atoms in frames]
    basis.basis_coeffs = coefficients / np.sqrt(np.mean(np.square(forces)))
    calculator = ACEPotential.from_basis(basis).calculator()
    labels = [atoms.copy() for atoms in frames]
    for atoms in labels:
        calculator.calculate(atoms)
        found = {name: calculator.results[name] for name in ("energy", "forces")}
        atoms.calc = SinglePointCalculator(atoms, **found)
    return labels
