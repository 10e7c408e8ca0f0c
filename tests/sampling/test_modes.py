"""Normal modes against phonopy and against what mechanics demands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.sampling.modes import (
    compute_hessian,
    displace_along_modes,
    displace_thermally,
    nearest_atoms,
    normal_modes,
)


def cu_au() -> Atoms:
    atoms = bulk("Cu", cubic=True, a=3.75).repeat((2, 1, 1))
    atoms.symbols[[1, 4]] = "Au"
    atoms.rattle(0.05, seed=3)
    return atoms


def phonopy_frequencies(atoms: Atoms) -> np.ndarray:
    cell = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        positions=atoms.positions,
        masses=atoms.get_masses(),
    )
    phonon = Phonopy(cell, supercell_matrix=np.eye(3), primitive_matrix=np.eye(3))
    phonon.generate_displacements(distance=0.01, is_plusminus=True)
    forces = []
    for displaced in phonon.supercells_with_displacements:
        work = Atoms(displaced.symbols, positions=displaced.positions, cell=displaced.cell, pbc=True, calculator=EMT())
        forces.append(work.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    return np.sort(phonon.run_qpoints([[0, 0, 0]]).frequencies[0])


@pytest.mark.parametrize("atoms", [bulk("Cu", cubic=True).repeat(2), cu_au()], ids=["Cu32", "Cu6Au2 rattled"])
def test_frequencies_agree_with_phonopy(atoms):
    ours = normal_modes(atoms, EMT()).frequencies_THz
    theirs = phonopy_frequencies(atoms)
    theirs = np.delete(theirs, np.argsort(np.abs(theirs))[:3])
    assert len(ours) == 3 * len(atoms) - 3
    assert np.abs(ours - theirs).max() < 0.01


def test_hessian_is_symmetric_obeys_the_sum_rule_and_leaves_the_input_alone():
    atoms = cu_au()
    before = atoms.positions.copy()
    hessian = compute_hessian(atoms, EMT())
    assert np.abs(hessian - hessian.T).max() == 0
    assert np.abs(hessian.reshape(24, 8, 3).sum(axis=1)).max() < 1e-3
    assert (atoms.positions == before).all()
    assert atoms.calc is None


def test_hessian_of_some_atoms_is_a_block_of_the_whole():
    atoms = cu_au()
    whole, part = compute_hessian(atoms, EMT()), compute_hessian(atoms, EMT(), [5, 2])
    rows = [15, 16, 17, 6, 7, 8]
    assert np.allclose(part, whole[np.ix_(rows, rows)], atol=1e-9)


def test_displacement_costs_and_gains_the_harmonic_energy():
    atoms = cu_au()
    modes = normal_modes(atoms, EMT()).softest(3)
    atoms.calc = EMT()
    forces, energy = atoms.get_forces(), atoms.get_potential_energy()
    step = 0.05 * modes.patterns[2]
    atoms.positions += step
    omega = modes.frequencies_THz[2] * 2 * np.pi * 1e12 / units.s
    harmonic = 0.5 * (omega * 0.05) ** 2
    assert atoms.get_potential_energy() - energy + (forces * step).sum() == pytest.approx(harmonic, rel=0.02)


def test_expanded_lattice_has_imaginary_modes_first():
    atoms = bulk("Cu", cubic=True, a=5.0).repeat((2, 1, 1))
    frequencies = normal_modes(atoms, EMT()).frequencies_THz
    assert frequencies[0] < -0.5
    assert (np.diff(frequencies) >= 0).all()


def test_rotations_of_a_molecule_are_no_modes():
    water = molecule("H2O")
    assert len(normal_modes(water, EMT())) == 3
    assert len(normal_modes(molecule("N2"), EMT())) == 1


def test_one_atom_has_no_modes():
    modes = normal_modes(bulk("Cu"), EMT()).softest(5)
    assert len(modes) == 0
    with pytest.raises(InvalidInputError, match="modes is empty"):
        displace_along_modes(bulk("Cu"), modes, 300, np.random.default_rng(0))


def test_only_the_chosen_atoms_move():
    atoms = bulk("Cu", cubic=True).repeat(2)
    near = nearest_atoms(atoms, 7, 13)
    assert len(near) == 13
    assert 7 in near
    assert nearest_atoms(atoms, 7, 32) is None
    modes = normal_modes(atoms, EMT(), near)
    moved = displace_along_modes(atoms, modes, 300, np.random.default_rng(1))
    lengths = np.linalg.norm(moved.positions - atoms.positions, axis=1)
    assert set(np.flatnonzero(lengths > 1e-12)) <= set(near)
    assert lengths.max() > 0.01


def test_amplitude_is_thermal_floored_and_capped():
    atoms = bulk("Cu", cubic=True).repeat(2)
    modes = normal_modes(atoms, EMT()).softest(1)
    rng = np.random.default_rng(0)
    cold = displace_along_modes(atoms, modes, 1.0, rng, multiples=[1.0]).positions - atoms.positions
    omega = modes.frequencies_THz[0] * 2 * np.pi * 1e12 / units.s
    q = np.sqrt((atoms.get_masses()[:, None] * cold**2).sum())
    assert q == pytest.approx(np.sqrt(units.kB * 1.0) / omega, rel=1e-9)
    floored = displace_along_modes(
        atoms, modes, 1.0, rng, multiples=[1.0], omega_floor_THz=2 * modes.frequencies_THz[0]
    )
    assert np.abs(floored.positions - atoms.positions).max() == pytest.approx(np.abs(cold).max() / 2)
    hot = displace_along_modes(atoms, modes, 1e6, rng, max_displacement=0.2)
    assert np.linalg.norm(hot.positions - atoms.positions, axis=1).max() == pytest.approx(0.2)


def test_thermal_displacements_have_the_energy_and_the_correlations_of_equipartition():
    atoms = cu_au()
    modes = replace(normal_modes(atoms, EMT()), coordinates=None)  # of a structure that is not displaced
    rng = np.random.default_rng(0)
    draws = [displace_thermally(atoms, modes, 1.0, rng, omega_floor_THz=1e-3) for _ in range(400)]
    moves = np.array([(draw.positions - atoms.positions).ravel() for draw in draws])
    energies = 0.5 * np.einsum("ni,ij,nj->n", moves, compute_hessian(atoms, EMT()), moves)
    assert energies.mean() == pytest.approx(len(modes) * units.kB / 2, rel=0.05)
    # as many displacements of the same size that know nothing of each other cost more
    apart = rng.normal(size=moves.shape) * moves.std()
    assert (0.5 * np.einsum("ni,ij,nj->n", apart, compute_hessian(atoms, EMT()), apart)).mean() > 1.15 * energies.mean()
    hot = displace_thermally(atoms, modes, 1e6, rng, max_ratio=0.2)
    nearest = np.sort(atoms.repeat(3).get_all_distances(mic=True)[:8], axis=1)[:, 1]
    for element in ("Cu", "Au"):
        nearest[atoms.symbols == element] = nearest[atoms.symbols == element].mean()
    assert (np.linalg.norm(hot.positions - atoms.positions, axis=1) / nearest).max() == pytest.approx(0.2)


def test_thermal_displacements_of_a_frame_of_md_are_as_hot_as_the_md():
    """A frame is displaced already; the harmonic energy above its minimum stays that of equipartition."""
    minimum = bulk("Cu", cubic=True).repeat((2, 1, 1))
    hessian, kT = compute_hessian(minimum, EMT()), 30 * units.kB
    modes, rng = normal_modes(minimum, EMT()), np.random.default_rng(0)
    energies = []
    for _ in range(25):
        frame = displace_thermally(minimum, modes, 30.0, rng, omega_floor_THz=1e-3)
        of_frame = normal_modes(frame, EMT())
        for _ in range(5):
            made = displace_thermally(frame, of_frame, 30.0, rng, omega_floor_THz=1e-3)
            assert np.abs(made.positions - frame.positions).max() > 0.01
            moved = (made.positions - minimum.positions).ravel()
            energies.append(0.5 * moved @ hessian @ moved)
    assert np.mean(energies) == pytest.approx(len(modes) * kT / 2, rel=0.15)  # twice that if it were added on top


def test_signs_and_combinations_come_from_the_rng():
    atoms = bulk("Cu", cubic=True)
    modes = normal_modes(atoms, EMT()).softest(4)
    a, b, c = (displace_along_modes(atoms, modes, 300, np.random.default_rng(s)).positions for s in (1, 1, 2))
    assert (a == b).all()
    assert np.abs(a - c).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"displacement": 0.0}, "displacement is 0.0"), ({"indices": [9]}, r"\[9\]"), ({"indices": []}, "empty")],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        compute_hessian(bulk("Cu", cubic=True), EMT(), **arguments)
