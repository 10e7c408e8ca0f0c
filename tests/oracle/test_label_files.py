"""Datasets that users bring along."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from paths import SHARED_DATA

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.files import hold_out, label_files, read_labels_file
from mlip_autopipec.oracle.given import take_in_labels
from mlip_autopipec.schemas.label import LabelDocument
from mlip_autopipec.structures.readers import read_structure

SILICON = SHARED_DATA / "dft" / "Si_gap_17frames.extxyz"


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    atoms.get_stress()
    return atoms


def test_a_file_ase_wrote_comes_back_as_it_was(copper, tmp_path):
    ase.io.write(tmp_path / "labels.extxyz", copper)
    (read,) = read_labels_file(tmp_path / "labels.extxyz")
    assert read.get_potential_energy() == pytest.approx(copper.get_potential_energy(), abs=1e-8)
    assert np.allclose(read.get_forces(), copper.get_forces(), atol=1e-7)
    assert np.allclose(read.get_stress(), copper.get_stress(), atol=1e-9)


def test_other_names_and_a_virial(copper, tmp_path):
    bare = copper.copy()
    bare.info["REF_energy"] = copper.get_potential_energy()
    bare.info["REF_virial"] = -copper.get_volume() * copper.get_stress(voigt=False)
    bare.arrays["REF_forces"] = copper.get_forces()
    path = tmp_path / "labels.xyz"
    ase.io.write(path, bare, format="extxyz")
    (read,) = read_labels_file(path, "REF_energy", "REF_forces", "REF_virial")
    assert read.get_potential_energy() == pytest.approx(copper.get_potential_energy(), abs=1e-7)
    assert np.allclose(read.get_forces(), copper.get_forces(), atol=1e-7)
    assert np.allclose(read.get_stress(), copper.get_stress(), atol=1e-8)
    found = read_labels_file(path)
    assert found[0].calc.results.keys() == read.calc.results.keys()
    assert found.remarks == (
        "labels: 'labels.xyz', 1 frames: energy 'REF_energy', forces 'REF_forces', virial 'REF_virial' (1 of 1 frames)",
    )
    with pytest.raises(InvalidInputError, match=r"frame 0 \(Cu4\) has no dft_energy; it has .*REF_energy.*REF_forces"):
        read_labels_file(path, "dft_energy")


def test_isolated_atoms_need_no_forces(copper, tmp_path):
    alone = Atoms("Cu", info={"REF_energy": -0.5, "config_type": "IsolatedAtom"})
    bare = copper.copy()
    bare.info["REF_energy"], bare.arrays["REF_forces"] = copper.get_potential_energy(), copper.get_forces()
    ase.io.write(tmp_path / "atom.xyz", alone, format="extxyz")
    ase.io.write(tmp_path / "both.xyz", [alone, bare, alone], format="extxyz")
    ase.io.write(tmp_path / "crystal.xyz", bare, format="extxyz")
    for given in (tmp_path / "both.xyz", [tmp_path / "crystal.xyz", tmp_path / "atom.xyz"]):
        read = [atoms for atoms in read_labels_file(given) if len(atoms) == 1]
        assert read
        assert all(atoms.info["origin"] == "isolated_atom" for atoms in read)
        assert all(not atoms.get_forces().any() and atoms.get_potential_energy() == -0.5 for atoms in read)
    two = Atoms("Cu2", [[0, 0, 0], [2.4, 0, 0]], info={"REF_energy": -2.0})
    ase.io.write(tmp_path / "two.xyz", [bare, two], format="extxyz")
    with pytest.raises(InvalidInputError, match=r"frame 1 \(Cu2\) has no forces"):
        read_labels_file(tmp_path / "two.xyz")


def test_an_isolated_atom_is_a_reference(tmp_path):
    atom = bulk("Cu")
    atom.set_cell([12, 12, 12])
    atom.info["config_type"] = "IsolatedAtom"
    atom.calc = SinglePointCalculator(atom, energy=-0.25, forces=np.zeros((1, 3)))
    ase.io.write(tmp_path / "atom.extxyz", atom)
    (read,) = read_labels_file(tmp_path / "atom.extxyz")
    assert read.info["split"] == "reference"
    assert read.info["origin"] == "isolated_atom"
    assert read.get_potential_energy() == -0.25


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="does not exist"):
        read_labels_file(tmp_path / "nothing.extxyz")
    (tmp_path / "labels.pckl.gzip").write_bytes(b"garbage")
    with pytest.raises(InvalidInputError, match="extended XYZ"):
        read_labels_file(tmp_path / "labels.pckl.gzip")
    (tmp_path / "broken.xyz").write_text("3\nProperties=species:S:1\nCu\n")
    with pytest.raises(InvalidInputError, match=r"broken.xyz.*cannot be read"):
        read_labels_file(tmp_path / "broken.xyz")


@pytest.mark.parametrize("energy", ["abc", '"1 2 3"'])
def test_an_energy_that_is_no_number_is_shown(tmp_path, energy):
    header = 'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3'
    (tmp_path / "labels.extxyz").write_text(f"1\n{header} energy={energy}\nCu 0 0 0 0 0 0\n")
    with pytest.raises(InvalidInputError, match=r"frame 0 .*energy is .*one number in eV"):
        read_labels_file(tmp_path / "labels.extxyz")


@pytest.mark.skipif(not SILICON.is_file(), reason=f"{SILICON.name} is not there")
def test_real_silicon_frames():
    frames = read_labels_file(SILICON, "REF_energy", "REF_forces", "REF_virial")
    assert len(frames) == 17
    first = frames[0]
    assert first.get_potential_energy() == -539.81299617
    assert first.get_forces()[0] == pytest.approx([-0.36376, 0.04403, -0.201101])
    assert first.get_stress()[0] == pytest.approx(1.7847047751225602 / first.get_volume())
    assert all(5 < -f.get_potential_energy() / len(f) < 6 for f in frames)


def test_a_share_is_held_out_the_same_for_the_same_seed():
    def choose(seed):
        frames = [bulk("Cu") for _ in range(10)]
        frames[0].info["split"] = "train"
        hold_out(frames, 0.2, seed)
        return [i for i, atoms in enumerate(frames) if atoms.info.get("split") == "test"]

    assert choose(1) == choose(1)
    assert len(choose(1)) == 2
    assert 0 not in [i for seed in range(20) for i in choose(seed)]
    assert any(choose(1) != choose(seed) for seed in range(2, 6))
    with pytest.raises(InvalidInputError, match="leaves none to train on"):
        hold_out([bulk("Cu")], 0.5, 1)
    with pytest.raises(InvalidInputError, match="share in"):
        hold_out([bulk("Cu")], 1.0, 1)


def rewritten(atoms, path, **info):
    """Write a labelled structure with some entries renamed or added; a value of None takes one out."""
    copy = atoms.copy()
    copy.arrays["forces"] = atoms.get_forces()
    copy.info["energy"] = atoms.get_potential_energy()
    for name, value in info.items():
        if value is None:
            copy.info.pop(name)
        else:
            copy.info[name] = value
    ase.io.write(path, copy, format="extxyz")
    return path


def test_the_force_consistent_energy_is_taken_and_said(copper, tmp_path):
    path = rewritten(copper, tmp_path / "both.extxyz", free_energy=-2.0)
    read = read_labels_file(path)
    assert read[0].get_potential_energy() == -2.0
    assert "'free_energy' is used, which the forces derive from" in read.remarks[1]
    assert read_labels_file(path, "energy")[0].get_potential_energy() != -2.0


def test_two_energies_of_different_origin_are_asked_about(copper, tmp_path):
    path = rewritten(copper, tmp_path / "two.extxyz", REF_energy=-2.0, energy_per_atom=-0.5)
    with pytest.raises(InvalidInputError, match=r"several energy that differ \(REF_energy -2.*energy .*energy_key"):
        read_labels_file(path)


@pytest.mark.parametrize("other", ["fermi_energy", "homo_energy", "band_energy", "smearing_energy", "energy_per_atom"])
def test_what_is_no_total_energy_is_never_taken(copper, tmp_path, other):
    for energy in ("REF_energy", "Energy"):
        path = rewritten(copper, tmp_path / "a.extxyz", energy=None, **{energy: -3.0, other: 2.0})
        (label,) = read_labels_file(path)
        assert label.get_potential_energy() == -3.0
    with pytest.raises(InvalidInputError, match=f"energy_key is {other}, which is no total energy by its name"):
        read_labels_file(path, energy_key=other)
    alone = rewritten(copper, tmp_path / "b.extxyz", energy=None, **{other: 2.0})
    with pytest.raises(InvalidInputError, match=rf"has no energy; it has .*\({other}: no total energy"):
        read_labels_file(alone)


@pytest.mark.parametrize("name", ["stress", "REF_stress", "dft_stress", "virial", "REF_virial", "dft_virials"])
@pytest.mark.parametrize("six", [True, False])
def test_stress_under_any_name_and_of_six_numbers(copper, tmp_path, name, six):
    stress = copper.get_stress(voigt=six)
    value = stress if "stress" in name else -copper.get_volume() * stress
    if six and name == "virial":
        with pytest.raises(InvalidInputError, match="write nine numbers, or call it REF_virial"):
            read_labels_file(rewritten(copper, tmp_path / "l.extxyz", virial=value))
        return
    read = read_labels_file(rewritten(copper, tmp_path / "l.extxyz", **{name: value}))
    assert np.allclose(read[0].get_stress(), copper.get_stress(), atol=1e-7)
    assert f"'{name}' (1 of 1 frames)" in read.remarks[0]


@pytest.mark.parametrize(
    ("energy", "stress", "told"),
    [
        ("energy_Ha", None, r"'energy_Ha' is read as energy \(eV\), and its name says Ha; convert the numbers"),
        ("dft_energy_kcal_mol", None, "says kcal"),
        ("energy", "stress_GPa", r"'stress_GPa' is read as stress \(eV/A\^3\), and its name says GPa"),
        ("energy", "virial_Ry", r"'virial_Ry' is read as virial \(eV\), and its name says Ry"),
        ("energy_eV", "stress_eV_A3", None),
        ("energy_Harris", None, None),
        ("total_energy", "REF_stress", None),
    ],
)
def test_a_name_that_says_another_unit_is_refused(copper, tmp_path, energy, stress, told):
    named = {energy: copper.get_potential_energy()} | ({} if stress is None else {stress: copper.get_stress()})
    path = rewritten(copper, tmp_path / "l.extxyz", **({} if energy == "energy" else {"energy": None}), **named)
    if told is None:
        assert len(read_labels_file(path)) == 1
        return
    with pytest.raises(InvalidInputError, match=told):
        read_labels_file(path)


def test_a_stress_that_is_no_number_or_of_another_sign(copper, tmp_path):
    path = rewritten(copper, tmp_path / "nan.extxyz", REF_stress=np.full(9, np.nan))
    with pytest.raises(InvalidInputError, match=r"nan.extxyz', frame 0 \(Cu4\): 'REF_stress' is .*nan"):
        read_labels_file(path)
    wrong = {"stress": copper.get_stress(), "virial": copper.get_volume() * copper.get_stress(voigt=False)}
    path = rewritten(copper, tmp_path / "sign.extxyz", **wrong)
    with pytest.raises(InvalidInputError, match="'stress' is not -'virial' / volume"):
        read_labels_file(path)
    zero = read_labels_file(rewritten(copper, tmp_path / "zero.extxyz", stress=np.zeros(6)))
    assert "stress" not in zero[0].calc.results


def emt(n_frames=6, sigma=0.06, symbols=None):
    frames = []
    for seed in range(n_frames):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        if symbols is not None:
            atoms.symbols = symbols
        atoms.rattle(sigma, seed=seed)
        probe = atoms.copy()
        probe.calc = EMT()
        results = {"energy": probe.get_potential_energy(), "forces": probe.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def scaled(energy=1.0, forces=1.0, positions=1.0):
    frames = emt()
    for atoms in frames:
        results = atoms.calc.results
        results = {"energy": energy * results["energy"], "forces": forces * results["forces"]}
        atoms.set_cell(positions * atoms.cell.array, scale_atoms=True)
        atoms.calc = SinglePointCalculator(atoms, **results)
    return frames


def test_labels_that_are_right_pass():
    assert take_in_labels(emt()).remarks == ()


@pytest.mark.parametrize(
    ("scales", "told"),
    [
        ({"forces": units.Bohr / units.Ry}, r"the forces look like Ry/bohr"),
        ({"forces": units.Bohr / units.Hartree}, r"the forces look like Hartree/bohr"),
        ({"energy": 1 / units.Hartree, "forces": units.Bohr / units.Hartree}, r"atomic units"),
        ({"energy": 1 / units.Hartree}, r"the energies look like Hartree"),
        ({"energy": 1 / 8}, r"eV per atom; multiply them by 8"),
        ({"forces": -1}, r"gradients; turn their sign"),
    ],
)
def test_units_are_guessed(scales, told):
    with pytest.raises(InvalidInputError, match=told):
        take_in_labels(scaled(**scales))


@pytest.mark.parametrize("base", [bulk("Cu", cubic=True) * (2, 2, 2), fcc111("Cu", (2, 2, 3), vacuum=8)])
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.15])
@pytest.mark.parametrize("n_frames", [4, 6])
def test_labels_of_large_displacements_pass(base, sigma, n_frames):
    for first in range(5):
        frames = []
        for seed in range(n_frames):
            atoms = base.copy()
            atoms.rattle(sigma, seed=100 * first + seed)
            probe = atoms.copy()
            probe.calc = EMT()
            results = {"energy": probe.get_potential_energy(), "forces": probe.get_forces()}
            atoms.calc = SinglePointCalculator(atoms, **results)
            frames.append(atoms)
        take_in_labels(frames)


def test_labels_of_a_crystal_that_lost_its_periodicity_are_said():
    """Their energies were learnt for clusters in vacuum, without a word."""
    frames = emt()
    for atoms in frames[:4]:
        atoms.pbc = False
    (told,) = [one for one in take_in_labels(frames).remarks if "not periodic" in one]
    assert told.startswith("labels: 4 of 6 like labels[0] (Cu8): it is not periodic along cell vector 1")


def test_energies_that_never_change_are_refused():
    frames = emt()
    for atoms in frames:
        atoms.calc.results["energy"] = 1.0
    with pytest.raises(InvalidInputError, match=r"the energy changes by 0 eV.*give the energy of each frame"):
        take_in_labels(frames)


def test_forces_that_a_constraint_took_off_are_refused():
    frames = emt()
    for atoms in frames[2:]:
        atoms.calc.results["forces"][[0, 3]] = 0.0
    told = r"^labels\[2\] \(Cu8\) has forces of exactly zero on atoms 0, 3 \(2 of 8\), which no symmetry"
    with pytest.raises(InvalidInputError, match=told):
        take_in_labels(frames)
    for atoms in frames:
        atoms.calc.results["forces"][:] = 0.0
    with pytest.raises(InvalidInputError, match=r"labels\[0\].* on all atoms, .*apply_constraint=False"):
        take_in_labels(frames)


@pytest.mark.parametrize(("axis", "name"), enumerate("xyz"))
def test_forces_without_a_component_are_refused(axis, name):
    frames = emt()
    for atoms in frames:
        atoms.calc.results["forces"][:, axis] = 0.0
    with pytest.raises(InvalidInputError, match=rf"labels\[0\].* and all others .* exactly zero along {name}"):
        take_in_labels(frames)


def test_planar_molecules_have_no_forces_across_their_plane():
    frames = []
    for seed in range(3):
        atoms = molecule("C6H6")
        atoms.positions[:, :2] += np.random.default_rng(seed).normal(0, 0.03, (12, 2))
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        results["forces"][:, 2] = 0.0
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    assert len(take_in_labels(frames)) == 3


def test_forces_that_symmetry_makes_zero_are_right():
    crystal = bulk("Cu", cubic=True) * (2, 1, 1)
    slab = fcc111("Cu", (2, 2, 3), vacuum=8)  # its middle layer has no force
    far = Atoms("Cu3", [[0, 0, 0], [2.2, 0, 0], [0, 0, 9]])
    for atoms in (crystal, slab, far):
        probe = atoms.copy()
        probe.calc = EMT()
        forces = np.where(np.abs(probe.get_forces()) < 1e-9, 0.0, probe.get_forces())
        atoms.calc = SinglePointCalculator(atoms, energy=probe.get_potential_energy(), forces=forces)
        assert take_in_labels([atoms])


def test_two_magnetic_states_of_one_structure_are_refused():
    frames = emt()
    twin = frames[2].copy()
    twin.set_initial_magnetic_moments([1.0] * 8)
    results = frames[2].calc.results
    twin.calc = SinglePointCalculator(twin, **{**results, "energy": results["energy"] + 1})
    with pytest.raises(InvalidInputError, match=r"labels\[2\] \(Cu8\) and labels\[6\] \(Cu8\) are one structure"):
        take_in_labels([*frames, twin])


def test_a_stress_of_nine_numbers_is_symmetric():
    stress = np.array([[0.1, 0.2, 0.3], [0.2, 0.4, 0.5], [0.3, 0.5, 0.6]])
    taken = take_in_labels(changed(1, stress=stress))
    assert taken[1].calc.results["stress"].tolist() == [0.1, 0.4, 0.6, 0.5, 0.3, 0.2]
    stress[0, 1] = -0.2
    with pytest.raises(InvalidInputError, match=r"labels\[1\] \(Cu8\) has a stress that is not symmetric \(by 0.4"):
        take_in_labels(changed(1, stress=stress))
    with pytest.raises(InvalidInputError, match=r"stress of shape \(5,\)"):
        take_in_labels(changed(1, stress=np.ones(5)))


def changed(index, **results):
    frames = emt()
    frames[index].calc.results.update(results)
    return frames


def doubled(energy):
    frames = emt()
    twin = frames[2].copy()
    twin.calc = SinglePointCalculator(twin, **{**frames[2].calc.results, "energy": energy})
    return [*frames, twin]


def close():
    frames = emt()
    frames[3].positions[1] = frames[3].positions[0] + [0.001, 0, 0]
    frames[3].calc.atoms = frames[3].copy()
    return frames


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (
            lambda: changed(4, forces=np.full((8, 3), 1e5)),
            r"^labels\[4\] \(Cu8\) has a force of 1e\+05 eV/A on atom 0 \(Cu\)",
        ),
        (lambda: changed(1, energy=5000.0), r"labels\[1\] \(Cu8\) has 625 eV/atom, others of this composition"),
        (lambda: changed(1, energy=np.nan), r"labels\[1\] \(Cu8\) has energy nan eV.*finite"),
        (lambda: changed(1, stress=np.full(6, np.nan)), r"labels\[1\] \(Cu8\) has the stress \[nan"),
        (lambda: changed(1, stress=np.full(6, 300.0)), r"labels\[1\].* 300 eV/A\^3, .* GPa"),
        (close, r"labels\[3\] \(Cu8\) has Cu and Cu 0.001 A apart"),
        (
            lambda: doubled(9.0),
            r"labels\[2\] \(Cu8\) and labels\[6\] \(Cu8\) are one structure with .* and 1.1250 eV/atom",
        ),
    ],
)
def test_a_bad_label_is_named(labels, told):
    with pytest.raises(InvalidInputError, match=told):
        take_in_labels(labels())


def test_labels_given_twice_are_said():
    energy = emt()[2].calc.results["energy"]
    taken = take_in_labels(doubled(energy))
    assert len(taken) == 6
    (told,) = taken.remarks
    assert told.startswith("labels: 1 of 7 to train on are left out, since their structures are given already: ")
    assert "labels[6] (Cu8) is labels[2] (Cu8)" in told


def lone(energy, box=15.0, pbc=True):
    atom = Atoms("Cu", cell=[box] * 3, pbc=pbc)
    atom.calc = SinglePointCalculator(atom, energy=energy, forces=np.zeros((1, 3)))
    return atom


def test_lone_atoms_are_recognised():
    taken = take_in_labels([*emt(), lone(3.5)])
    assert taken[-1].info["split"] == "reference"
    assert "labels[6] (Cu) is a lone atom: 3.5000 eV becomes" in taken.remarks[0]
    crystal = take_in_labels([lone(0.1, 2.55)])
    assert "split" not in crystal[0].info
    with pytest.raises(InvalidInputError, match=r"labels\[1\].*labels\[0\].*both a lone Cu atom"):
        take_in_labels([lone(3.5), lone(3.0, 14.0)])


def test_an_atom_that_is_called_isolated_is_far_from_its_images(tmp_path):
    near, far = lone(0.1, 5.0), lone(3.5)
    for atoms in (near, far):
        atoms.info["config_type"] = "IsolatedAtom"
    ase.io.write(tmp_path / "near.xyz", [*emt(), near])
    with pytest.raises(InvalidInputError, match=r"frame 6 \(Cu\) is called .* images are 5\.00 A apart"):
        read_labels_file(tmp_path / "near.xyz")
    ase.io.write(tmp_path / "far.xyz", [*emt(), far])
    (told,) = [one for one in read_labels_file(tmp_path / "far.xyz").remarks if "reference" in one]
    assert told == "labels: frames that are called isolated atoms give the elements' reference energies: Cu 3.5000 eV"


def test_copies_of_trained_labels_leave_the_test_set():
    copies = emt(3)
    for atoms in copies:
        atoms.info["split"] = "test"
    other = emt(7)[6]
    other.info["split"] = "test"
    taken = take_in_labels([*copies[:1], *emt(), *copies[1:], other])
    assert [atoms.info.get("split") for atoms in taken] == [None] * 6 + ["test"]
    assert taken.remarks[0].startswith("labels: 3 of 4 held out for tests are trained on as well, like labels[0] (Cu8)")
    twice = [*emt(), *emt(3)]
    hold_out(twice, 0.3, seed=0)
    assert not any(atoms.info.get("split") for atoms in (*twice[:3], *twice[6:]))
    assert [atoms.info.get("split") for atoms in twice[3:6]] == ["test"] * 3


def test_lengths_in_bohr_are_said():
    frames = emt(sigma=0.12)
    for atoms in frames:
        forces = 0.529177 * atoms.calc.results["forces"]
        energy = atoms.get_potential_energy()
        atoms.set_cell(atoms.cell.array / 0.529177, scale_atoms=True)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    (told,) = [one for one in take_in_labels(frames).remarks if "bohr" in one]
    assert "labels: nearest atoms are 1.6 times the sum of their covalent radii apart (median of 6 structures)" in told
    assert "lengths are in bohr" in told


@pytest.mark.parametrize("name", ["REF_stress", "REF_virial"])
def test_nine_numbers_of_a_file_are_symmetric(copper, tmp_path, name):
    factor = 1.0 if name == "REF_stress" else -copper.get_volume()
    tensor = factor * (copper.get_stress(voigt=False) + np.diag([0.01, 0.02], 1))
    path = rewritten(copper, tmp_path / "a.extxyz", **{name: tensor.ravel()})
    with pytest.raises(InvalidInputError, match=f"frame 0 .*'{name}' is not symmetric .by .* eV"):
        read_labels_file(path)


def test_of_the_entry_stress_all_nine_numbers_are_looked_at(tmp_path):
    ase.io.write(tmp_path / "a.xyz", [bulk("Cu", cubic=True)] * 2)
    text = (tmp_path / "a.xyz").read_text().replace(" pbc=", ' stress="0 0.1 0 0 0 0 0 0 0" energy=1.0 pbc=')
    text = text.replace("pos:R:3", "pos:R:3:forces:R:3").replace("00000\n", "00000 0 0 0\n")
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(InvalidInputError, match=r"frame 0 .*'stress' is not symmetric"):
        read_labels_file(tmp_path / "a.xyz")


def test_a_stress_needs_a_cell(tmp_path):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.eye(3) - 1 / 3, stress=np.full(6, 0.1))
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    with pytest.raises(InvalidInputError, match=r"has a stress and no volume \(no cell\)"):
        read_labels_file(tmp_path / "a.xyz")


@pytest.mark.parametrize(("right", "wrong"), [("Lattice=", "lattice="), ("Lattice=", "cell="), ("pbc=", "PBC=")])
def test_entries_that_the_reader_passes_over_are_refused(tmp_path, right, wrong):
    ase.io.write(tmp_path / "a.xyz", emt(2), format="extxyz")
    (tmp_path / "a.xyz").write_text((tmp_path / "a.xyz").read_text().replace(right, wrong))
    with pytest.raises(InvalidInputError, match=f"frame 0 .*its entry {wrong} is not read; write it as {right}"):
        read_labels_file(tmp_path / "a.xyz")
    with pytest.raises(InvalidInputError, match=f"its entry {wrong} is not read"):
        read_structure(tmp_path / "a.xyz")


def test_where_a_file_is_damaged(tmp_path):
    path = tmp_path / "a.xyz"
    ase.io.write(path, emt(3), format="extxyz")
    lines = path.read_text().splitlines()
    for damaged, told in (
        ([*lines[:14], lines[14][:20], *lines[15:]], "in frame 1, lines 11 to 20"),
        ([*lines[:14], *lines[15:]], "in frame 1, lines 11 to 20"),
        ([*lines[:15], lines[14], *lines[15:]], r"near line 21 \(frame 1, which begins at line 11, has more lines"),
        (lines[:-3], "in frame 2, lines 21 to 28"),
    ):
        path.write_text("\n".join(damaged) + "\n")
        with pytest.raises(InvalidInputError, match=f"a.xyz' cannot be read {told}"):
            read_labels_file(path)


def test_one_composition_is_said():
    assert "do not tell the energies of Ag, Cu apart" in take_in_labels(emt(symbols="Cu4Ag4")).remarks[0]
    assert take_in_labels([*emt(symbols="Cu4Ag4"), *emt()]).remarks == ()


def test_fixed_atoms_keep_their_forces(tmp_path):
    frames = emt()
    for atoms in frames:
        atoms.set_constraint(FixAtoms([0, 1]))
    ase.io.write(tmp_path / "fixed.extxyz", frames)  # with move_mask
    for labels in (frames, read_labels_file(tmp_path / "fixed.extxyz")):
        document = LabelDocument.from_labelled(take_in_labels(labels)[0], index=0, origin="given")
        assert np.abs(document.forces_eV_A[0]).max() > 0.1
    # and without the door
    assert LabelDocument.from_labelled(frames[0], index=0, origin="given").max_force_eV_A == pytest.approx(
        document.max_force_eV_A, abs=1e-6
    )


def test_charged_labels_keep_their_charge_and_no_stress():
    frames = emt()
    frames[1].info["charge"] = 1
    with pytest.raises(InvalidInputError, match=r"the labels hold Cu with no charge, and with a total charge of \+1 e"):
        take_in_labels(frames)
    for atoms in frames:
        atoms.info["charge"] = 1
    labels = take_in_labels(frames)
    assert {atoms.info["charge"] for atoms in labels} == {1}
    assert not any("stress" in atoms.calc.results for atoms in labels)
    assert any("have a total charge of +1 e" in remark for remark in labels.remarks)
    frames[1].info["charge"] = 0.4
    with pytest.raises(InvalidInputError, match=r"labels\[1\] \(Cu8\) has a total charge of \+0\.4 e"):
        take_in_labels(frames)


@pytest.mark.parametrize("name", ["labels.extxyz", "labels.traj", None], ids=["extxyz", "traj", "Python"])
def test_what_is_taken_off_a_label_is_said(tmp_path, name):
    """Constraints of some directions too; forces are those of all atoms."""
    frames, forces = [], []
    for seed in range(2):
        slab = fcc111("Cu", (2, 2, 3), vacuum=8.0, periodic=True)
        slab.rattle(0.05, seed=seed)
        slab.calc = EMT()
        forces.append(slab.get_forces())
        slab.set_constraint(FixAtoms([0, 1, 2, 3]) if name else [FixAtoms([0, 1, 2]), FixCartesian([3], (1, 0, 0))])
        slab.set_velocities(np.full((12, 3), 0.01))
        slab.set_masses([65.0] * 12)
        slab.info.clear()
        frames.append(slab)
    if name is None:
        taken = take_in_labels(frames)
    else:
        ase.io.write(tmp_path / name, frames)
        taken = read_labels_file(tmp_path / name)
    whose = f"'{name}'" if name else "the given ones"
    told = [remark for remark in taken.remarks if whose + ":" in remark]
    assert told[0].startswith(f"labels: {whose}: FixAtoms{'' if name else ', FixCartesian'} of 2 of 2 frames taken off")
    assert "Cu12: 4 of 12 atoms constrained" in told[0]
    assert told[1] == f"labels: {whose}: not used, of so many of 2 frames: velocities (2), masses of its own (2)"
    assert len(told) == 2
    for atoms, raw in zip(taken, forces, strict=True):
        assert not atoms.constraints
        assert np.allclose(atoms.get_forces(), raw, atol=1e-6)
        assert np.abs(raw[:4]).max() > 0.1


def test_an_energy_that_is_a_word_is_shown_by_its_name(copper, tmp_path):
    path = rewritten(copper, tmp_path / "words.extxyz", energy=None, REF_energy="-0.123D+00")
    with pytest.raises(InvalidInputError, match=r"frame 0 .*REF_energy is '-0.123D\+00'; it has to be one number"):
        read_labels_file(path)


def test_weights_and_spreads_are_no_energies(copper, tmp_path):
    path = rewritten(copper, tmp_path / "weights.extxyz", energy_weight=4.0, energy_std=0.1, energy_sigma=0.2)
    assert read_labels_file(path)[0].get_potential_energy() == pytest.approx(copper.get_potential_energy())


@pytest.mark.parametrize(("apart", "said"), [(0.3, True), (0.0, False)])
def test_free_energies_of_some_frames_alone_are_said(copper, tmp_path, apart, said):
    frames = []
    for n in range(4):
        free = {"free_energy": copper.get_potential_energy() - apart} if n else {}
        rewritten(copper, tmp_path / "one.extxyz", **free)
        (frame,) = ase.io.read(tmp_path / "one.extxyz", ":")
        frames.append(frame)
    ase.io.write(tmp_path / "some.extxyz", frames)
    found = read_labels_file(tmp_path / "some.extxyz")
    assert found[0].get_potential_energy() == pytest.approx(copper.get_potential_energy())
    told = [one for one in found.remarks if "is given in 3 of 4 frames alone, where it differs by up to 0.3 eV" in one]
    assert len(told) == said


def test_a_bare_word_charge_in_a_comment_is_no_charge(copper):
    atoms = copper.copy()
    atoms.calc = SinglePointCalculator(atoms, **copper.calc.results)
    atoms.info["charge"] = True  # what ASE's reader makes of "charge density of run 3"
    assert "charge" not in take_in_labels([atoms])[0].info


def test_a_split_of_another_program_is_refused_with_its_frame(copper, tmp_path):
    path = rewritten(copper, tmp_path / "split.extxyz", split="valid")
    with pytest.raises(InvalidInputError, match=r"split.extxyz', frame 0 .* has split=valid; train, test, .*'test'"):
        read_labels_file(path)


def test_files_of_labels_are_named_by_patterns(tmp_path, monkeypatch):
    runs = tmp_path / "runs [1]"  # no pattern of its own
    for name in ("b/vasprun.xml", "a/vasprun.xml", "a/deep/vasprun.xml", "a/INCAR", "odd[1].xyz", "more/x.xyz"):
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_text("")

    def named(*patterns, folder=runs):
        return [str(path.resolve().relative_to(runs)) for path in label_files(folder, [Path(one) for one in patterns])]

    assert named("*/vasprun.xml") == ["a/vasprun.xml", "b/vasprun.xml"]
    assert named("**/vasprun.xml") == ["a/deep/vasprun.xml", "a/vasprun.xml", "b/vasprun.xml"]
    assert named("a/*") == ["a/INCAR", "a/vasprun.xml"]  # files alone
    assert named("b/vasprun.xml", "*/vasprun.xml") == ["b/vasprun.xml", "a/vasprun.xml"]  # none twice
    assert named("../more/*.xyz", folder=runs / "a") == ["more/x.xyz"]
    assert named("odd[1].xyz") == ["odd[1].xyz"]
    assert named(f"{tmp_path}/*/more/x.xyz") == ["more/x.xyz"]
    with pytest.raises(InvalidInputError, match=r"no file of labels matches '\*/OUTCAR' in '.*runs \[1\]'"):
        named("*/OUTCAR")
    monkeypatch.chdir(runs)
    assert [str(path) for path in label_files(Path(), [Path("*/vasprun.xml")])] == ["a/vasprun.xml", "b/vasprun.xml"]


def test_folders_and_missing_files_are_told_apart(tmp_path):
    (tmp_path / "mix").mkdir()
    with pytest.raises(InvalidInputError, match=r"mix' is a folder; name the files in it, .* mix/\* for all"):
        read_labels_file(tmp_path / "mix")
    with pytest.raises(InvalidInputError, match=r"'.*none.xml' does not exist; .* an output of a code"):
        read_labels_file(tmp_path / "none.xml")
