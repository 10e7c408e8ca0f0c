"""Labels whose forces do not belong to their structures, by what is true of all forces."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.given import take_in_labels


def labels(base: Atoms, n_frames=8, rattle=0.08) -> list[Atoms]:
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(n_frames):
        atoms = base.copy()
        atoms.rattle(rattle, rng=rng)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if atoms.pbc.all():
            results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


COPPER = bulk("Cu", cubic=True) * (2, 2, 1)
ETHANOL = molecule("CH3CH2OH")


@pytest.mark.parametrize("base", [COPPER, ETHANOL, fcc111("Al", (2, 2, 3), vacuum=8)], ids=["bulk", "molecule", "slab"])
def test_forces_that_do_not_add_up_to_nothing_are_named(base):
    frames = labels(base)
    assert not [one for one in take_in_labels(frames).remarks if "add up" in one]
    frames[3].calc.results["forces"][0, 0] += 1.0
    with pytest.raises(InvalidInputError, match=r"^labels\[3\] .* has forces that add up to 1 eV/A, and those of all"):
        take_in_labels(frames)


def test_forces_of_two_atoms_in_each_others_place_turn_a_molecule():
    frames = labels(ETHANOL)
    forces = frames[2].calc.results["forces"]
    forces[[0, 1]] = forces[[1, 0]]
    with pytest.raises(InvalidInputError, match=r"^labels\[2\] .* has forces with a torque of .* nothing turns a clu"):
        take_in_labels(frames)


def test_what_a_code_leaves_in_all_labels_is_said():
    frames = labels(COPPER)
    for atoms in frames:
        atoms.calc.results["forces"] += [0.1, 0, 0]
    said = take_in_labels(frames).remarks
    assert any("the forces of 8 of 8 do not add up to nothing (of the median label to 1.6 eV/A)" in one for one in said)
    for atoms in frames:
        atoms.calc.results["forces"] += [-0.099, 0, 0]  # 1 meV/A is a grid
    assert not any("add up" in one for one in take_in_labels(frames).remarks)


def test_what_a_coarse_grid_leaves_is_no_wrong_label_at_rest():
    frames = labels(COPPER, rattle=0.1)
    frames[4] = labels(COPPER, 1, rattle=0.001)[0]
    for atoms in frames:
        atoms.calc.results["forces"] += [0.02, 0, 0]  # 0.3 eV/A of all: most of what there is in the frame at rest
    assert len(take_in_labels(frames)) == 8


def test_one_calculator_of_several_labels_holds_those_of_the_last():
    calculator = EMT()
    frames = []
    for label in labels(COPPER):
        atoms = label.copy()
        atoms.calc = calculator
        atoms.get_forces()
        frames.append(atoms)
    with pytest.raises(InvalidInputError, match=r"^labels\[0\] .* holds the results of other positions \(atom \d+ is"):
        take_in_labels(frames)


def moved(atoms: Atoms) -> None:
    atoms.positions[3] += 0.2


def strained(atoms: Atoms) -> None:
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)


def exchanged(atoms: Atoms) -> None:
    atoms.symbols[0] = "Au"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (moved, r"other positions \(atom 3 is 0\.3"),
        (strained, "another cell"),
        (exchanged, r"another structure \(Cu16"),
    ],
)
def test_what_was_changed_after_it_was_computed_is_refused(change, told):
    frames = labels(COPPER)
    change(frames[1])
    with pytest.raises(InvalidInputError, match=rf"^labels\[1\] .* holds the results of {told}"):
        take_in_labels(frames)


def test_a_label_that_was_wrapped_or_shifted_is_the_same():
    frames = labels(COPPER)
    for atoms in frames:
        atoms.positions += [0.3, -8.0, 1.0]
        atoms.wrap()
    molecules = labels(ETHANOL)
    for atoms in molecules:
        atoms.center(vacuum=5.0)
    assert len(take_in_labels(frames)) == len(take_in_labels(molecules)) == 8


def test_what_only_some_labels_have_is_said():
    frames = labels(COPPER)
    frames[0].calc.results["stress"] = np.zeros(6)  # not computed
    del frames[1].calc.results["stress"]
    assert any("6 of 8 periodic ones have a stress" in one for one in take_in_labels(frames).remarks)
    for atoms in frames[:3]:
        atoms.calc.results["magmoms"] = np.full(16, 2.0)
    assert any(
        "3 of 8 have computed magnetic moments, the others none" in one for one in take_in_labels(frames).remarks
    )
    for atoms in frames[3:]:
        atoms.calc.results["magmoms"] = np.full((16, 3), 0.01)
    told = [one for one in take_in_labels(frames).remarks if "magnetic" in one]
    assert told[0].startswith("labels: Cu is magnetic in 3 of 8 (a moment of 2 Bohr magnetons) and not in 5")


def test_what_is_no_label_is_refused_in_words():
    frames = labels(COPPER, 2)
    with pytest.raises(InvalidInputError, match=r"^labels\[1\] is a str; give ase\.Atoms with"):
        take_in_labels([frames[0], "labels.xyz"])
    frames[1].numbers[0] = 119
    with pytest.raises(InvalidInputError, match=r"^labels\[1\] \(16 atoms\): atom 0 is of atomic number 119"):
        take_in_labels(frames)
    frames = labels(COPPER, 2)
    frames[1].calc.results["magmoms"] = np.ones(3)
    with pytest.raises(InvalidInputError, match=r"magnetic moments of shape \(3,\) for 16 atoms"):
        take_in_labels(frames)
    assert len(take_in_labels(atoms for atoms in labels(COPPER, 2))) == 2
