"""Which structures are one: copies are found however they are written, and neighbours in MD are not taken for any."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from paths import SHARED_DATA
from scipy.spatial.transform import Rotation

from mlip_autopipec.structures.same import same_structures

ZUO = SHARED_DATA / "zuo2020"


def turned(atoms):
    rotation = Rotation.random(random_state=1).as_matrix()
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ rotation.T)
    copy.positions = atoms.positions @ rotation.T
    return copy


def moved(atoms, by):
    copy = atoms.copy()
    copy.positions += by
    return copy


def rounded(atoms):
    copy = atoms.copy()
    copy.positions = np.round(copy.positions, 5)
    copy.set_cell(np.round(copy.cell.array, 5))
    return copy


def mirrored(atoms):
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array * [1, 1, -1])
    copy.positions *= [1, 1, -1]
    return copy


WAYS = {
    "the same": lambda a: a.copy(),
    "another origin": lambda a: moved(a, [0.7, 0.3, 0.2]),
    "wrapped": lambda a: (b := moved(a, [0.7, 0.3, 0.2]), b.wrap())[0],
    "another order": lambda a: a[np.random.default_rng(0).permutation(len(a))],
    "turned": turned,
    "mirrored": mirrored,
    "rounded": rounded,
}


def structures():
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (2, 1, 1)
    slab = fcc111("Cu", (2, 2, 3), vacuum=8, periodic=True)
    found = [crystal, slab, molecule("CH3CH2OH"), bulk("Cu", cubic=True) * (2, 2, 2)]
    for atoms in found:
        atoms.rattle(0.1, seed=1)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_copies_are_found_however_they_are_written(way):
    frames = structures()
    assert same_structures([*frames, *map(WAYS[way], frames)]) == [[i, i + 4] for i in range(4)]


def test_what_moves_a_little_is_no_copy():
    for atoms in structures():
        other = atoms.copy()
        other.positions[1] += [0.001, 0, 0]
        assert same_structures([atoms, other]) == []


def test_crystals_of_other_volumes_are_no_copies():
    crystals = [bulk("Cu", cubic=True, a=3.6 * (1 + strain)) for strain in (0, 1e-4, 0.01)]
    assert same_structures(crystals) == []
    assert same_structures([*crystals, bulk("Cu", cubic=True, a=3.6)]) == [[0, 3]]


def test_cells_of_several_sizes_and_charges_are_no_copies():
    atoms = bulk("Cu", cubic=True)
    charged = atoms.copy()
    charged.info["charge"] = 1
    assert same_structures([atoms, atoms * (2, 1, 1), charged]) == []


@pytest.mark.parametrize("box", [{}, {"cell": [20.0] * 3, "pbc": True}])
def test_parts_that_do_not_see_each_other_are_told_apart_by_their_distance(box):
    apart = [Atoms("N2Ar", [[0, 0, 0], [0, 0, 1.1], [0, 0, z]], **box) for z in (7.0, 8.0, 9.0, 8.0)]
    assert same_structures(apart) == [[1, 3]]


@pytest.mark.parametrize("kelvin", [10, 300])
def test_frames_of_md_a_femtosecond_apart_are_no_copies(kelvin):
    atoms = bulk("Au", cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * kelvin, rng=rng)
    dynamics = VelocityVerlet(atoms, 1 * units.fs)
    dynamics.run(100)
    frames = []
    for _ in range(40):
        dynamics.run(1)
        frames.append(atoms.copy())
    assert same_structures(frames) == []


@pytest.mark.parametrize("name", ["Si_train", "Ge_train"])
def test_copies_in_published_sets_have_one_energy_and_one_set_of_forces(name):
    file = ZUO / f"{name}.extxyz.gz"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    frames = ase.io.read(file, ":")
    groups = same_structures(frames)
    assert groups  # cells strained along x are those strained along y, turned
    for one, *others in groups:
        for other in others:
            labels = [frames[i].calc.results for i in (one, other)]
            assert labels[0]["energy"] == pytest.approx(labels[1]["energy"], abs=1e-5 * len(frames[one]))
            sizes = [np.sort(np.linalg.norm(label["forces"], axis=1)) for label in labels]
            assert np.allclose(*sizes, atol=1e-3)
