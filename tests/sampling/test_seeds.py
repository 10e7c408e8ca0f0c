"""The first dataset, and that gamma means something after training on it."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from monty.json import MontyDecoder

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.structures.distances import minimum_distances, shortest_contact
from mlip_autopipec.structures.distort import deform, rattle, same_structure
from mlip_autopipec.structures.supercells import cell_width, nearly_cubic_supercell, pair_coverage
from mlip_autopipec.training.linear import LinearACETrainer


def label(atoms: Atoms) -> Atoms:
    work, labelled = atoms.copy(), atoms.copy()
    work.calc = EMT()
    labelled.calc = SinglePointCalculator(labelled, energy=work.get_potential_energy(), forces=work.get_forces())
    return labelled


def split(structures: list[Atoms], name: str) -> list[Atoms]:
    return [a for a in structures if a.info["split"] == name]


@pytest.mark.parametrize("seed", [0, 1])
def test_gamma_of_fresh_frames_is_small(seed):
    made = StructureGenerator(n_structures=30, n_test=5, max_atoms=32).generate([bulk("Cu")], seed=seed)
    assert {len(a) for a in made} == {32}
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=30))
    result = trainer.train(
        [label(a) for a in split(made, "train")], test_labels=[label(a) for a in split(made, "test")]
    )
    rng = np.random.default_rng(100 + seed)
    perfect = bulk("Cu", cubic=True).repeat(2)
    fresh = [
        rattle(deform(perfect, np.eye(3) * v ** (1 / 3)), 0.1, rng)
        for v in np.linspace(0.95, 1.05, 7)
        for _ in range(3)
    ]
    assert max(compute_gamma(result.potential, a).max() for a in fresh) < 2
    assert result.test is not None
    assert result.test.n_structures == 5
    assert result.test.forces_rmse_meV_A < 5 * result.train.forces_rmse_meV_A


@pytest.mark.parametrize(
    ("structures", "settings", "n"),
    [
        ([bulk("Cu", cubic=True) * 2], {}, 4),
        ([bulk("Cu", cubic=True) * 2, fcc111("Cu", (3, 3, 4), vacuum=7)], {}, 8),
        ([bulk("Cu", cubic=True) * 2], {"n_atoms": 300}, 10),
        ([molecule("CH3CH2OH")], {"cover_pairs": False}, 40),
        (
            [Atoms("Au" + "Cu" * 31, bulk("Cu", cubic=True).repeat(2).positions, cell=[7.22] * 3, pbc=True)],
            {"cover_pairs": False},
            20,
        ),
        (
            [Atoms("Au" + "Cu" * 31, bulk("Cu", cubic=True).repeat(2).positions, cell=[7.22] * 3, pbc=True)],
            {"cover_pairs": False, "n_atoms": 60},
            30,
        ),
        ([bulk("Cu", cubic=True) * 2], {"n_structures": 2, "n_atoms": 300}, 2),
    ],
)
def test_few_structures_are_made_where_their_number_is_not_given(structures, settings, n):
    made = StructureGenerator(max_atoms=36, min_width=5.0, **settings).generate(structures)
    assert len(made) == n
    assert {atoms.info["split"] for atoms in made} == {"train"}
    assert {"seed_ideal", "seed_rattled"} <= {atoms.info["origin"] for atoms in made} or n < 4


def test_pieces_of_a_large_cell_are_distorted_too():
    alloy = bulk("Cu", cubic=True, a=3.8) * 6
    alloy.symbols = np.random.default_rng(1).permutation(["Cu"] * 700 + ["Au"] * 164)
    made = StructureGenerator(max_atoms=64, n_pieces=3, cover_pairs=False).generate([alloy], largest=150)
    assert Counter(atoms.info["origin"] == "seed_piece" for atoms in made) == {True: 3, False: 3}


def test_first_is_ideal_and_the_others_span_the_windows():
    made = StructureGenerator(n_structures=30, n_test=4, max_atoms=32).generate([bulk("Cu", cubic=True)], seed=3)
    train, test = split(made, "train"), split(made, "test")
    assert (len(train), len(test)) == (30, 4)
    assert Counter(a.info["origin"] for a in train) == Counter(seed_ideal=1, seed_rattled=15, seed_strained=14)
    ideal = train[0]
    assert ideal.get_volume() / len(ideal) == pytest.approx(3.61**3 / 4)
    volumes = np.array([a.get_volume() / ideal.get_volume() for a in train])
    assert 0.85 <= volumes.min() < 0.87
    assert 1.18 < volumes.max() <= 1.2
    for atoms in made:
        assert shortest_contact(atoms) is None
        assert atoms.calc is None
    angles = np.array([np.abs(a.cell.angles() - 90).max() for a in train if a.info["origin"] == "seed_strained"])
    assert angles.max() > 1
    assert not any(same_structure(a, b) for a, b in combinations(made, 2))
    nearest = {k: min(minimum_distances(a)["Cu", "Cu"] for a in split(made, k)) for k in ("train", "test")}
    assert nearest["test"] >= nearest["train"]


def test_small_set_is_possible_and_still_spans_the_volumes():
    made = StructureGenerator(n_structures=8, n_test=0, max_atoms=4).generate([bulk("Cu", cubic=True)])
    assert len(made) == 8
    volumes = np.sort([a.get_volume() / made[0].get_volume() for a in made[1:]])
    assert np.diff(volumes).max() < 0.11
    assert len(StructureGenerator(n_structures=1, n_test=2, max_atoms=8).generate([bulk("Cu")])) == 3


def test_deterministic_by_seed():
    generator = StructureGenerator(n_structures=5, n_test=2, max_atoms=8)
    first, second, other = (generator.generate([bulk("Cu"), bulk("Au")], seed=s) for s in (2, 2, 3))
    for a, b in zip(first, second, strict=True):
        assert (a.positions == b.positions).all()
        assert (a.numbers == b.numbers).all()
        assert a.info == b.info
    assert not same_structure(first[1], other[1])


def test_missing_pairs_are_made():
    made = StructureGenerator(n_structures=3, n_test=3, max_atoms=32).generate([bulk("Cu"), bulk("Au")])
    assert pair_coverage(made, 3.0)["Au", "Cu"] > 0
    pairs = [a for a in made if a.info["origin"] == "seed_pair"]
    assert len(pairs) == 6
    assert all(pair_coverage([a], 5.0)["Au", "Cu"] > 0 for a in pairs)
    contents = {round(a.get_chemical_symbols().count("Au") / len(a), 3) for a in pairs}
    assert len(contents) >= 3
    assert {a.get_chemical_formula("metal") for a in split(made, "test")} >= {"Cu32", "Au32"}
    without = StructureGenerator(n_structures=3, max_atoms=32, cover_pairs=False).generate([bulk("Cu"), bulk("Au")])
    assert pair_coverage(without, 5.0)["Au", "Cu"] == 0


def test_pairs_in_ionic_and_dilute_cells():
    salts = [bulk("NaCl", "rocksalt", a=5.64), bulk("KBr", "rocksalt", a=6.6)]
    made = StructureGenerator(n_structures=2, n_test=0, max_atoms=16, n_pair_structures=2).generate(salts)
    assert min(pair_coverage(made, 5.0).values()) > 0
    assert all(shortest_contact(a) is None for a in made)
    dilute = bulk("Cu", cubic=True).repeat(2)
    dilute.symbols[0] = "Au"
    assert pair_coverage([dilute], 5.0)["Au", "Au"] == 0
    made = StructureGenerator(n_structures=2, n_test=0, n_pair_structures=2).generate([dilute])
    assert pair_coverage(made, 5.0)["Au", "Au"] >= 2


def test_pairs_that_no_molecule_can_have_are_not_made():
    def pairs(*given):
        made = StructureGenerator(n_structures=2, max_atoms=64).generate(given)
        return {a.get_chemical_formula() for a in made if a.info["origin"] == "seed_pair"}

    water, peroxide = molecule("H2O"), molecule("H2O2")
    assert pairs(water) == pairs(water, peroxide) == set()
    # two molecules that never meet
    assert pairs(water, molecule("NH3")) == set()
    # beside a crystal they may
    assert pairs(water, bulk("Pd", cubic=True))


def test_far_apart_in_one_cell_is_swapped_so_the_composition_stays():
    atoms = fcc111("Cu", (1, 1, 10), vacuum=6.0, periodic=True)
    atoms.symbols[0] = "Au"
    atoms.symbols[-1] = "Pt"
    generator = StructureGenerator(n_structures=1, n_test=0, n_pair_structures=1, max_atoms=10)
    planted = [a for a in generator.generate([atoms]) if a.info["origin"] == "seed_pair"]
    met = [a for a in planted if pair_coverage([a], 5.0).get(("Au", "Pt"), 0)]
    assert any(a.get_chemical_formula() == atoms.get_chemical_formula() for a in met)


def test_pair_coverage_counts_pairs_once():
    assert pair_coverage([bulk("Cu")], 2.7) == {("Cu", "Cu"): 6}
    assert pair_coverage([molecule("H2O")], 1.2) == {("H", "H"): 0, ("H", "O"): 2, ("O", "O"): 0}
    assert pair_coverage([], 5.0) == {}


@pytest.mark.parametrize(
    ("atoms", "max_atoms"),
    [
        (bulk("Cu"), 32),
        (bulk("Cu"), 200),
        (bulk("Si", cubic=True), 64),
        (bulk("Mg"), 60),
        (bulk("NaCl", "rocksalt", a=5.64), 64),
    ],
)
def test_supercells_are_roughly_cubic_and_respect_the_limits(atoms, max_atoms):
    made = nearly_cubic_supercell(atoms, max_atoms, 10.0)
    assert len(made) <= max_atoms
    width = cell_width(made.cell.array)
    assert width > 0.8 * np.cbrt(made.get_volume())
    assert width >= 10.0 or len(made) > max_atoms / 2 - len(atoms)
    assert len(made) / made.get_volume() == pytest.approx(len(atoms) / atoms.get_volume())


def test_cubic_cells_are_found_where_they_exist():
    for atoms in (bulk("Cu"), bulk("Cu", cubic=True)):
        made = nearly_cubic_supercell(atoms, 120, 10.0)
        assert np.allclose(made.cell.cellpar(), [10.83] * 3 + [90] * 3)


def test_slabs_grow_in_their_plane_only_and_molecules_not():
    slab = fcc111("Al", (1, 1, 3), vacuum=8.0)
    made = nearly_cubic_supercell(slab, 48, 10.0)
    assert len(made) == 48
    assert made.cell.lengths()[2] == pytest.approx(slab.cell.lengths()[2])
    assert len(nearly_cubic_supercell(molecule("H2O"), 64, 10.0)) == 3
    mixed = [molecule("H2O"), Atoms("O"), bulk("Cu")]
    made = StructureGenerator(n_structures=3, n_test=2, max_atoms=8, cover_pairs=False).generate(mixed)
    assert len(made) == 3 + 1 + 3 + 2


@pytest.mark.parametrize(
    ("structures", "settings", "message"),
    [
        ([], {}, "structures is empty"),
        ([bulk("Cu"), Atoms()], {}, r"structures\[1\] is empty"),
        ([bulk("Cu", a=2.0)], {}, r"structures\[0\].*Cu-Cu are 1\.414 A"),
        ([Atoms("Cu"), Atoms("Au")], {}, "cover_pairs"),
        ([bulk("Cu")], {"n_structures": 0}, "n_structures is 0"),
        ([bulk("Cu")], {"volume_window": (1.2, 0.9)}, "volume_window"),
        ([bulk("Cu")], {"rattle_amplitudes": []}, "rattle_amplitudes"),
        ([bulk("Cu")], {"strain": 0.7}, "strain is 0.7"),
    ],
)
def test_wrong_input_is_named(structures, settings, message):
    with pytest.raises(InvalidInputError, match=message):
        StructureGenerator(**settings).generate(structures)


def test_settings_survive_json():
    generator = StructureGenerator(n_structures=7, volume_window=(0.9, 1.1))
    assert MontyDecoder().decode(generator.to_json()) == generator


def test_isolated_atoms_come_last_and_are_no_training_data():
    made = StructureGenerator(n_structures=2, n_test=1, isolated_atoms=True).generate([bulk("CuAu", "rocksalt", a=5.2)])
    atoms = [a for a in made if a.info["origin"] == "isolated_atom"]
    assert [a.get_chemical_formula() for a in atoms] == ["Au", "Cu"]
    assert made[-2:] == atoms
    assert {a.info["split"] for a in atoms} == {"reference"}
    assert len(set(atoms[0].cell.lengths())) == 3
    assert all(atoms[0].pbc)
