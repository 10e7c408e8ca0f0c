"""Units of datasets whose cells are strained: the stress does work as well, and the door knows it."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from packed import read_packed
from paths import SHARED_DATA

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.given import take_in_labels

DFT = SHARED_DATA / "zuo2020"


def strained(n=12, sigma=0.04, strain=0.02, *, sheared=False, energy=1.0, forces=1.0, stress=1.0):
    """Palladium, each frame strained and rattled by itself; sizes of the units it is given in."""
    rng, frames = np.random.default_rng(4), []
    for _ in range(n):
        atoms = bulk("Pd", cubic=True) * (2, 2, 2)
        change = rng.uniform(-strain, strain, (3, 3)) if sheared else np.eye(3) * rng.uniform(-strain, strain)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (change + change.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, sigma, atoms.positions.shape)
        atoms.calc = EMT()
        results = {
            "energy": energy * atoms.get_potential_energy(),
            "forces": forces * atoms.get_forces(),
            "stress": stress * atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("sheared", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 0.02, 0.08])
def test_right_units_pass(sigma, sheared):
    assert take_in_labels(strained(sigma=sigma, sheared=sheared)).remarks == ()


@pytest.mark.parametrize(
    ("element", "n", "sigma", "seed"), [("Pd", 8, 0.05, 0), ("Cu", 6, 0.05, 2), ("Pd", 6, 0.1, 0), ("Ni", 8, 0.05, 2)]
)
def test_small_cells_that_are_hot_are_not_refused_by_chance(element, n, sigma, seed):
    """What the forces leave of the energy is little beside their change on the way, and says nothing of the stress."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = bulk(element, cubic=True)
        atoms.set_cell(atoms.cell.array * (1 + 0.01 * rng.normal()), scale_atoms=True)
        atoms.positions += sigma * rng.normal(size=atoms.positions.shape)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    assert len(take_in_labels(frames)) == n


@pytest.mark.skipif(not DFT.is_dir(), reason=f"{DFT} is not there")
def test_one_wrong_energy_is_named_and_does_not_make_units_of_all():
    """Of these 20 labels of germanium six are near each other; the set was refused for its forces or its stress."""
    every = read_packed(DFT / "Ge_train.extxyz.gz")
    rng = np.random.default_rng(0)
    frames = [every[i] for i in rng.choice(len(every), 20, replace=False)]
    wrong = int(rng.integers(20))
    frames[wrong].calc.results["energy"] += 0.1 * len(frames[wrong])
    frames[wrong].calc.results.pop("free_energy", None)
    said = take_in_labels(frames).remarks
    told = f"of 1 of 19 labels do not belong together (labels[{wrong}] (Ge64)), those of the others do"
    assert any(told in one for one in said), said


@pytest.mark.parametrize(
    ("wrong", "sigma", "told"),
    [
        ({"energy": units.mol / units.kcal}, 0.04, "the energies look like kcal/mol; divide them by 23.061"),
        ({"energy": 1 / 32}, 0.04, "eV per atom; multiply them by 32"),
        ({"energy": 1 / 32}, 0.0, "eV per atom; multiply them by 32"),
        ({"forces": -1.0}, 0.06, "the forces look like gradients"),
        ({"forces": units.mol / units.kcal}, 0.06, "the forces look like kcal/mol/A"),
        ({"forces": units.Bohr / units.Ry}, 0.06, "the forces look like Ry/bohr; multiply them by 25.711"),
        ({"stress": -1.0}, 0.005, "the stress looks positive = compressed; turn its sign"),
        ({"stress": -1 / units.GPa}, 0.005, "the stress looks like GPa, positive = compressed; divide them by 160.22"),
        ({"stress": units.Bohr**3 / units.Ry}, 0.0, "the stress looks like Ry/bohr"),
    ],
)
def test_another_unit_is_refused_by_its_name(wrong, sigma, told):
    """Cells that differ were not compared at all, so any of these was trained on."""
    with pytest.raises(InvalidInputError, match=told):
        take_in_labels(strained(sigma=sigma, strain=0.01 if "forces" in wrong else 0.02, **wrong))


@pytest.mark.skipif(not DFT.is_dir(), reason=f"{DFT.name} is not there")
@pytest.mark.parametrize("element", ["Si", "Ge"])
def test_published_labels_pass_without_a_word(element):
    """Of hot silicon, atoms with one near and several less near neighbours were taken for molecules of soft bonds."""
    remarks = take_in_labels(read_packed(DFT / f"{element}_train.extxyz.gz")).remarks
    # cells strained along x are those strained along y, turned
    assert ["their structures are given already" in remark for remark in remarks] == [True]
