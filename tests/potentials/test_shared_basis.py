"""Potentials of one text share a basis set; one of its own can be changed without a trace in the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.build import bulk

from mlip_autopipec.potentials.potential import ACEPotential

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms


def energy(potential: ACEPotential, atoms: Sequence[Atoms]) -> list[float]:
    calculator = potential.calculator()
    return [calculator.get_potential_energy(one) for one in atoms]


def test_a_basis_is_read_once(copper_potential: ACEPotential) -> None:
    again = ACEPotential(copper_potential.yaml, copper_potential.active_set_inverse)
    assert again.basis is ACEPotential(copper_potential.yaml).basis
    assert again.own_basis() is not again.basis


def test_a_basis_of_its_own_may_be_changed(copper_potential: ACEPotential) -> None:
    atoms = [bulk("Cu", cubic=True), bulk("Cu", a=3.4)]
    before = energy(ACEPotential(copper_potential.yaml), atoms)
    changed = copper_potential.own_basis()
    changed.basis_coeffs = 2 * np.asarray(changed.basis_coeffs)
    assert energy(ACEPotential(copper_potential.yaml), atoms) == before
    assert energy(ACEPotential.from_basis(changed), atoms) != before
    assert energy(ACEPotential(copper_potential.yaml), atoms) == before
