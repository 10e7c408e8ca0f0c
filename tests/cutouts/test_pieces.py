"""First dataset of structures too large to be labelled whole: pieces of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, make_supercell
from ase.neighborlist import neighbor_list

from mlip_autopipec.cutouts.boxes import shortest_translation
from mlip_autopipec.cutouts.pieces import cut_pieces, neighbourhoods
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.structures.distances import minimum_distances

COPPER_A = 3.61
NEAREST_A = COPPER_A / np.sqrt(2)


def bicrystal() -> Atoms:
    """720 atoms: two grains of copper, one turned by 45 degrees about [001], where they meet not relaxed."""
    grain = bulk("Cu", a=COPPER_A, cubic=True) * (5, 5, 4)
    height = grain.cell[2, 2]
    turned = make_supercell(bulk("Cu", a=COPPER_A, cubic=True), [[1, 1, 0], [-1, 1, 0], [0, 0, 1]]) * (5, 5, 4)
    turned.rotate(-45, "z")
    inside = (turned.positions[:, :2] >= -1e-6).all(axis=1) & (turned.positions[:, :2] < grain.cell[0, 0] - 0.9).all(
        axis=1
    )
    turned = turned[inside]
    turned.positions[:, 2] += height + 0.5
    both = Atoms("Cu" * (len(grain) + len(turned)), np.vstack([grain.positions, turned.positions]), pbc=True)
    both.cell = np.diag([*grain.cell.lengths()[:2], 2 * height + 1.0])
    i, j, d = neighbor_list("ijd", both, 2.2)
    del both[sorted(set(np.maximum(i, j)[d < 2.2].tolist()))]
    return both


def coordination(atoms: Atoms) -> np.ndarray:
    return np.bincount(neighbor_list("i", atoms, 0.854 * COPPER_A), minlength=len(atoms))


def density(atoms: Atoms) -> float:
    return len(atoms) / atoms.get_volume()


def test_pieces_of_two_grains_are_grain_and_boundary():
    atoms = bicrystal()
    pieces = cut_pieces(atoms, 3, 150, 10.0, np.random.default_rng(1))
    assert len(pieces) == 3
    assert max(map(len, pieces)) <= 150
    grain, *boundary = pieces
    assert (coordination(grain) == 12).all()
    assert density(grain) == pytest.approx(4 / COPPER_A**3, rel=0.03)  # the grains are thin
    for piece in boundary:
        assert (coordination(piece) != 12).sum() > 10
        assert 0.75 < density(piece) * COPPER_A**3 / 4 < 1.2
    for piece in pieces:
        assert piece.pbc.all()
        assert shortest_translation(piece.cell.array) >= 10.0 - 1e-6
        assert minimum_distances(piece)["Cu", "Cu"] > 0.85 * NEAREST_A
    (again,) = cut_pieces(atoms, 1, 150, 10.0, np.random.default_rng(1))
    assert np.array_equal(again.positions, grain.positions)


def test_a_crystal_has_one_piece_which_is_a_crystal():
    (piece,) = cut_pieces(bulk("Cu", cubic=True) * (6, 6, 6), 4, 100, 10.0, np.random.default_rng(1))
    assert density(piece) == pytest.approx(4 / 3.61**3, rel=1e-6)
    assert (coordination(piece) == 12).all()


def test_a_piece_as_wide_as_wanted_would_be_too_large():
    (piece,) = cut_pieces(bulk("Cu", cubic=True) * (6, 6, 6), 1, 40, 10.0, np.random.default_rng(1))
    assert len(piece) <= 40
    assert 5.0 < shortest_translation(piece.cell.array) < 10.0
    with pytest.raises(InvalidInputError, match=r"no piece of at most 3 atoms .* of Cu864"):
        cut_pieces(bulk("Cu", cubic=True) * (6, 6, 6), 1, 3, 10.0, np.random.default_rng(1))


def test_a_slab_gives_its_surface():
    slab = fcc111("Cu", (7, 7, 9), a=COPPER_A, vacuum=8.0, periodic=True)
    pieces = cut_pieces(slab, 4, 150, 9.0, np.random.default_rng(2))
    surfaces = [piece for piece in pieces if (coordination(piece) == 9).any()]
    assert surfaces
    assert all(np.ptp(piece.positions[:, 2]) + 8.0 < piece.cell.lengths().max() + 1.0 for piece in surfaces)


def test_pieces_of_an_oxide_are_neutral():
    oxide = bulk("MgO", "rocksalt", a=4.21, cubic=True) * (4, 4, 4)
    oxide.rattle(0.05, seed=1)
    for piece in cut_pieces(oxide, 2, 150, 9.0, np.random.default_rng(1)):
        counts = Counter(piece.get_chemical_symbols())
        assert counts["Mg"] == counts["O"]
        assert minimum_distances(piece)["Mg", "O"] > 1.7


def test_neighbourhoods_of_different_elements_are_far_apart():
    prints = neighbourhoods(bulk("MgO", "rocksalt", a=4.21, cubic=True) * 2)
    assert len(np.unique(prints.round(6), axis=0)) == 2


def test_the_first_dataset_of_a_large_structure_is_small():
    generator = StructureGenerator(n_structures=5, n_test=2, n_pieces=2)
    made = generator.generate([bicrystal(), bulk("Cu", a=COPPER_A)], seed=4, largest=120)
    assert max(map(len, made)) <= 120
    assert Counter(a.info["split"] for a in made) == Counter(train=10, test=2)
    origins = Counter(a.info["origin"] for a in made if a.info["split"] == "train")
    assert (origins["seed_piece"], origins["seed_ideal"]) == (2, 1)
    (whole,) = StructureGenerator(n_structures=1, n_test=0).generate([bicrystal()], seed=4)
    assert len(whole) > 120, "no limit was given"
