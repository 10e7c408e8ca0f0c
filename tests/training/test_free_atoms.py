"""Free atoms among labels: their energies are the reference energies, and the fit is as if they were not there."""

from __future__ import annotations

import logging

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.references import FreeAtoms

FREE_EV = 3.51


def _label(atoms):
    atoms.calc = EMT()
    atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    return atoms


@pytest.fixture(scope="module")
def cells():
    found = [bulk("Cu", cubic=True).repeat(2) for _ in range(5)]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.06, seed=seed)
    return [_label(atoms) for atoms in found]


def _atom(pbc=True):
    return _label(Atoms("Cu", cell=[14] * 3, pbc=pbc))


def _trainer(**settings):
    return LinearACETrainer(
        basis=BasisSettings(cutoff=4.5, number_of_functions_per_element=15), processes=1, **settings
    )


@pytest.mark.parametrize("pbc", [True, False])
def test_a_free_atom_gives_the_reference_energy_and_is_in_no_fit(cells, pbc, caplog):
    with_atom = _trainer().train([_atom(pbc), *cells])
    given = _trainer(reference_energies={"Cu": FREE_EV}).train(cells)
    assert with_atom.potential.reference_energies == {"Cu": pytest.approx(FREE_EV, abs=1e-6)}
    assert with_atom.train.n_structures == len(cells)
    assert with_atom.train.forces_rmse_meV_A == pytest.approx(given.train.forces_rmse_meV_A, rel=0.02)
    assert with_atom.train.energy_rmse_meV_atom == pytest.approx(given.train.energy_rmse_meV_atom, rel=0.05)
    # one entry for each label given; a free atom is not counted
    assert [len(with_atom.linear.labels), with_atom.linear.n_counted] == [6, 5]
    atom = _atom(pbc)
    atom.calc = with_atom.potential.calculator()
    assert atom.get_potential_energy() == pytest.approx(FREE_EV, abs=1e-6)
    assert "left out" not in caplog.text


def test_the_fit_of_version_0_1_is_the_same_as_well(cells):
    found, alone = (_trainer(ridge=1e-6).train(labels) for labels in ([*cells, _atom()], cells))
    assert found.potential.reference_energies == {"Cu": pytest.approx(FREE_EV, abs=1e-6)}
    assert found.train.forces_rmse_meV_A < 2 * alone.train.forces_rmse_meV_A


def test_other_reference_energies_are_refused(cells):
    assert _trainer(reference_energies={"Cu": FREE_EV + 0.005}).train([*cells, _atom()])
    with pytest.raises(InvalidInputError, match=r"reference_energies.*of Cu is 0\.1000 eV.*free Cu atom.*3\.51"):
        _trainer(reference_energies={"Cu": 0.1}).train([*cells, _atom()])


def test_two_free_atoms_that_differ_are_refused(cells):
    other = _atom()
    other.calc.results["energy"] += 0.1
    with pytest.raises(InvalidInputError, match=r"label 6 is a free Cu atom of 3\.6100 eV.*3\.5100 eV"):
        _trainer().train([*cells, _atom(), other])


def test_atoms_beyond_the_cutoff_of_each_other_are_left_out_and_named(cells, caplog):
    far = _label(Atoms("Cu2", [[3, 3, 3], [3, 3, 8]], cell=[20] * 3, pbc=True))
    with caplog.at_level(logging.WARNING):
        found = _trainer().train([*cells, far])
    assert "label 5 (Cu2, +3.44 eV/atom)" in caplog.text
    assert "no atom has a neighbour within the cutoff" in caplog.text
    alone = _trainer().train(cells)
    assert found.potential.reference_energies == alone.potential.reference_energies
    assert found.train.forces_rmse_meV_A == pytest.approx(alone.train.forces_rmse_meV_A, rel=0.02)


def test_a_potential_to_continue_keeps_its_references_with_a_warning(cells, caplog):
    first = _trainer().train(cells[:4]).potential
    with caplog.at_level(logging.WARNING):
        found = _trainer().train(cells[:4], first, True, new_labels=[cells[4], _atom()])
    assert found.potential.reference_energies == first.reference_energies
    assert "1 label(s) are left out of the fit" in caplog.text


def test_free_atoms_alone_are_refused():
    with pytest.raises(InvalidInputError, match="no atom of the 1 labels has a neighbour"):
        _trainer().train([_atom()])


def test_one_atom_of_a_small_cell_is_not_free():
    assert not FreeAtoms.among([bulk("Cu")]).alone.any()
    assert FreeAtoms.among([_atom()]).energies == {"Cu": pytest.approx(FREE_EV, abs=1e-6)}
