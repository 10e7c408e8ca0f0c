"""Which labels say something of the material, beside dimers and what is far above it."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.structures.provenance import Origin, mark
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.usual import dimers_among, usual_labels
from mlip_autopipec.validation.variation import energy_spread_meV_atom


def _label(atoms):
    atoms.calc = EMT()
    atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    return atoms


def _cells(n=6):
    found = [bulk("Cu", cubic=True).repeat(2) for _ in range(n)]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.08, seed=seed)
    return [_label(atoms) for atoms in found]


def _dimers(symbols="Cu2", n=8, pbc=True):
    return [
        _label(Atoms(symbols, [[3, 3, 3], [3, 3, 3 + d]], cell=[18] * 3, pbc=pbc)) for d in np.linspace(1.0, 6.0, n)
    ]


@pytest.mark.parametrize("pbc", [True, False])
def test_pairs_far_above_a_material_are_dimers(pbc):
    labels = [*_cells(), *_dimers(pbc=pbc), _label(Atoms("Cu", cell=[12] * 3, pbc=True))]
    assert np.flatnonzero(dimers_among(labels)).tolist() == list(range(6, 14))
    assert np.flatnonzero(usual_labels(labels)).tolist() == list(range(6))


def test_a_system_that_is_a_dimer_has_none_to_leave_out():
    assert not dimers_among(_dimers()).any()
    assert usual_labels(_dimers()[2:]).any()


def test_molecules_as_stable_as_the_rest_are_no_dimers():
    slabs = []
    for seed in range(4):
        slab = fcc100("Cu", (2, 2, 3), vacuum=6)
        add_adsorbate(slab, Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]), 1.8, "ontop")
        slab.rattle(0.05, seed=seed)
        slabs.append(_label(slab))
    assert not dimers_among([*slabs, *_dimers("N2")]).any()


def test_pairs_that_MD_was_made_of_are_no_dimers():
    pairs = _dimers()
    mark(pairs[3], origin=Origin.HALTED)
    assert not dimers_among([*_cells(), *pairs]).any()


def test_own_dimers_do_not_spoil_the_material():
    cells, fresh = _cells(12), _cells(16)[12:]
    dimers = [atoms for atoms in _dimers(n=20) if 1.7 < atoms.get_distance(0, 1) < 4.4]
    atom = _label(Atoms("Cu", cell=[14] * 3, pbc=True))
    basis = BasisSettings(cutoff=4.5, number_of_functions_per_element=30)
    found = LinearACETrainer(basis=basis, processes=1).train([*cells, *dimers, atom])
    assert found.train.n_structures == found.linear.n_counted == len(cells)
    for pair in dimers:  # weights of 1, as before
        mark(pair, origin=Origin.HALTED)
    spoilt = LinearACETrainer(basis=basis, processes=1).train([*cells, *dimers, atom])
    errors = [compute_errors(one.potential, fresh).forces_rmse_meV_A for one in (found, spoilt)]
    assert errors[0] < errors[1] / 3, errors


def test_dimers_and_crushed_cells_do_not_raise_the_limit_of_the_energy():
    crushed = bulk("Cu", cubic=True)
    crushed.set_cell(0.65 * crushed.cell, scale_atoms=True)
    cells, potential = _cells(), ACEPotential("", reference_energies={})
    alone = energy_spread_meV_atom(potential, cells)
    assert 0 < alone < 20
    assert energy_spread_meV_atom(potential, [*cells, *_dimers(n=40), _label(crushed)]) == alone
