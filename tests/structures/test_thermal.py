"""How far a temperature leads."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from mlip_autopipec.structures.frozen import freeze
from mlip_autopipec.structures.thermal import rise, thermal_limit_eV


def test_harmonic_atoms_stay_far_within_the_limit_and_a_small_cell_has_room_for_its_fluctuations():
    rng, kT = np.random.default_rng(1), units.kB * 300
    for n_atoms in (1, 3, 100):
        energies_eV = 0.5 * kT * rng.chisquare(3 * n_atoms, size=100_000)
        assert energies_eV.max() < thermal_limit_eV(n_atoms, 300)
    assert thermal_limit_eV(1000, 300) / 1000 == pytest.approx(6 * kT, rel=0.1)


def test_md_of_hot_copper_is_within_reach_and_a_shaken_cell_is_not():
    start = bulk("Cu", cubic=True) * (2, 2, 2)
    moving = start.copy()
    start.calc = moving.calc = EMT()
    MaxwellBoltzmannDistribution(moving, temperature_K=1300, rng=np.random.default_rng(1))
    Langevin(moving, 3 * units.fs, temperature_K=1300, friction=0.05 / units.fs, rng=np.random.default_rng(2)).run(80)
    found = rise(start, start.get_potential_energy(), moving, moving.get_potential_energy(), 1300, 0.0)
    assert 0.05 < found.found_eV / found.n_atoms < found.limit_eV / found.n_atoms
    assert not found.is_out_of_reach
    shaken = start.copy()
    shaken.rattle(0.3, rng=np.random.default_rng(3))
    shaken.calc = EMT()
    assert rise(start, start.get_potential_energy(), shaken, shaken.get_potential_energy(), 300, 0.0).is_out_of_reach


def test_the_work_of_a_barostat_is_no_rise_and_frozen_atoms_have_no_part_in_it():
    start = Atoms("Cu4", positions=np.eye(4, 3) * 3, cell=[10, 10, 10], pbc=True)
    pressed = start.copy()
    pressed.set_cell([9, 10, 10])
    work_eV = 10 * units.GPa * 100.0
    assert rise(start, 0.0, pressed, work_eV, 300, 10.0).found_eV == pytest.approx(0.0)
    held = freeze(start, np.array([0, 1, 2]))
    assert rise(held, 0.0, held, 1.0, 300, 0.0).n_atoms == 1
    assert rise(start, 0.0, start, 1.0, 300, 0.0).limit_eV > rise(held, 0.0, held, 1.0, 300, 0.0).limit_eV
