"""Cut-outs of large cells: what is kept, what the boundary region is like, and when none is made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, cut, fcc111, rotate, stack
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cluster import Octahedron
from ase.neighborlist import neighbor_list
from matscipy.calculators.pair_potential import LennardJonesCut, PairPotential
from monty.json import MontyDecoder

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.cutouts.boundaries import balanced, close, oxidation_states, usual_distances
from mlip_autopipec.cutouts.boxes import candidate_boxes, covering_radius, shortest_translation, volume
from mlip_autopipec.cutouts.cutout import Cutout, CutoutError, CutoutGenerator, choose_centres
from mlip_autopipec.cutouts.surroundings import lattices, surroundings, with_open_vacuum
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.frames import pack_frames, unpack_frames
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.structures.distances import minimum_distances, shortest_contact
from mlip_autopipec.structures.periodicity import Shape, goes_on_along, heights_of, shape_of
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

NOWHERE, NO_INTERVAL = np.empty((0, 3)), np.empty((0, 2))


def hot_copper(repeat: int = 8, sigma: float = 0.1, seed: int = 1) -> Atoms:
    atoms = bulk("Cu", cubic=True, a=3.63).repeat(repeat)
    atoms.rattle(sigma, seed=seed)
    return atoms


def grain_boundary() -> Atoms:
    """Two symmetric Sigma 5 (210) tilt boundaries, 1872 atoms."""
    grain = cut(bulk("Cu", cubic=True, a=3.63), a=(1, 2, 0), b=(-2, 1, 0), c=(0, 0, 1))
    rotate(grain, grain.cell[0], (1, 0, 0), grain.cell[1], (0, 1, 0))
    grain = grain.repeat((1, 4, 1))
    mirrored = grain.copy()
    mirrored.positions[:, 1] = grain.cell[1, 1] - grain.positions[:, 1]
    mirrored.wrap()
    atoms = stack(grain, mirrored, axis=1, maxstrain=1e9)
    i, j = neighbor_list("ij", atoms, 1.9)
    del atoms[sorted(set(np.maximum(i, j).tolist()))]
    atoms = atoms.repeat((3, 1, 4))
    atoms.cell = np.diag(atoms.cell.lengths())
    atoms.rattle(0.05, seed=2)
    return atoms


@pytest.fixture(scope="module")
def glass() -> Atoms:
    """Copper without a lattice: 500 atoms put down one by one where no other is within 2.1 A."""
    rng, side = np.random.default_rng(5), 20.0
    positions = np.empty((0, 3))
    while len(positions) < 500:
        new = rng.random(3) * side
        apart = positions - new
        apart -= side * np.round(apart / side)
        if (np.einsum("ij,ij->i", apart, apart) > 2.1**2).all():
            positions = np.vstack([positions, new])
    return Atoms("Cu500", positions=positions, cell=[side] * 3, pbc=True)


def magnesia(repeat: tuple[int, int, int] = (4, 4, 5), sigma: float = 0.06) -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(repeat)
    atoms.rattle(sigma, seed=3)
    return atoms


def pair_potential() -> Calculator:
    strength, size = {20: 0.6, 24: 0.05, 16: 0.05}, {20: 1.876, 24: 2.5, 16: 2.5}
    return PairPotential(
        {(a, b): LennardJonesCut(strength[a + b], size[a + b], 6.0) for a, b in ((12, 8), (12, 12), (8, 8))}
    )


def trained(parents: list[Atoms], calculator: Callable[[], Calculator], n: int = 10) -> ACEPotential:
    labelled = []
    for frame in StructureGenerator(n_structures=n, n_test=0, max_atoms=48, min_width=7.0).generate(parents, seed=1):
        probe = frame.copy()
        probe.calc = calculator()
        results = {"energy": probe.get_potential_energy(), "forces": probe.get_forces(), "stress": probe.get_stress()}
        frame.calc = SinglePointCalculator(frame, **results)
        labelled.append(frame)
    return LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=8)).train(labelled).potential


@pytest.fixture(scope="module")
def alloy_potential() -> ACEPotential:
    ordered = bulk("Cu", cubic=True, a=3.75)
    ordered.symbols[0] = "Au"
    return trained([ordered], EMT)


@pytest.fixture(scope="module")
def oxide_potential() -> ACEPotential:
    return trained([bulk("MgO", "rocksalt", a=4.21, cubic=True)], pair_potential)


def within(atoms: Atoms, centre: int, radius: float) -> NDArray[np.float64]:
    """Element and position relative to the centre of every atom within a radius, by ASE's minimum images; sorted."""
    assert shortest_translation(atoms.cell.complete().array) >= 2 * radius, "one image of each atom, at most"
    vectors = atoms.get_distances(centre, np.arange(len(atoms)), mic=True, vector=True)
    near = np.linalg.norm(vectors, axis=1) < radius
    near[centre] = False
    rows = np.column_stack([atoms.numbers[near], vectors[near]])
    return rows[np.lexsort(rows.round(6).T)]


def assert_faithful(
    cutout: Cutout, source: Atoms, potential: ACEPotential, gamma: NDArray[np.float64], floor: float = 1.0
) -> None:
    """The centre is what it was; nothing is broken, too dense or too new; all computed independently."""
    atoms, centre, r_c = cutout.atoms, cutout.centre, potential.cutoff
    assert atoms.pbc.all()
    assert atoms.cell.volume > 0
    assert np.linalg.det(atoms.cell.array) > 0
    assert shortest_translation(atoms.cell.array) >= 2 * r_c
    grades = compute_gamma(potential, atoms)
    assert abs(grades[centre] - gamma[cutout.source_centre]) < 1e-8
    assert cutout.gamma_after == pytest.approx(grades[centre], abs=1e-10)
    assert cutout.gamma_before == pytest.approx(gamma[cutout.source_centre], abs=1e-10)
    assert abs(cutout.energy_change) < 1e-8
    # not only gamma: the very atoms within r_c
    np.testing.assert_allclose(within(atoms, centre, r_c), within(source, cutout.source_centre, r_c), atol=1e-9)
    assert len(within(atoms, centre, r_c)) + 1 == cutout.core.sum()
    others = np.delete(grades, centre)
    assert cutout.boundary_gamma == pytest.approx(others.max())
    known = np.delete(gamma[cutout.source_index], centre)
    assert (others <= np.maximum(known, max(cutout.gamma_before, floor)) * (1 + 1e-6)).all()
    assert shortest_contact(atoms) is None
    assert 0.8 <= cutout.density_ratio <= 1.2
    assert (atoms.numbers == source.numbers[cutout.source_index]).all()
    assert cutout.source_index[centre] == cutout.source_centre
    assert cutout.problems == ()


@pytest.fixture(scope="module")
def copper_cutouts(copper_potential: ACEPotential) -> tuple[Atoms, NDArray[np.float64], list[Cutout]]:
    atoms = hot_copper()
    gamma = compute_gamma(copper_potential, atoms)
    generator = CutoutGenerator(gamma_min=0.5)
    assert generator.wanted(atoms)
    made, failed = generator.generate(atoms, copper_potential, gamma)
    assert failed == {}
    return atoms, gamma, made


def test_the_centre_of_a_cutout_keeps_its_gamma(copper_potential, copper_cutouts):
    atoms, gamma, made = copper_cutouts
    assert len(made) == 3
    assert made[0].source_centre == int(np.argmax(gamma))
    for cutout in made:
        assert_faithful(cutout, atoms, copper_potential, gamma)
        assert cutout.box == "commensurate"
        assert len(cutout.atoms) <= 100  # of 150 allowed
        assert cutout.density_ratio == pytest.approx(1, abs=0.03)
    assert f"atom {made[0].source_centre}: Cu" in repr(made[0])
    assert "PROBLEMS" not in repr(made[0])


def test_forces_on_the_centre_stay_near_those_of_the_large_cell(copper_potential, copper_cutouts):
    atoms, _, made = copper_cutouts
    large = atoms.copy()
    large.calc = copper_potential.calculator()
    for cutout in made:
        small = cutout.atoms.copy()
        small.calc = copper_potential.calculator()
        change = np.linalg.norm(small.get_forces()[cutout.centre] - large.get_forces()[cutout.source_centre])
        assert cutout.force_change == pytest.approx(change, abs=1e-8)
        assert 1e-6 < change < 0.2  # forces reach 2 r_c


def test_cutouts_travel_as_frames_and_have_variants(copper_cutouts, copper_potential):
    cutout = copper_cutouts[2][0]
    (back,) = unpack_frames(pack_frames([cutout.atoms]))
    assert back.info == {"origin": "cutout", "split": "train", "centre": cutout.centre}
    assert (back.arrays["source_index"] == cutout.source_index).all()
    assert (back.arrays["core"] == cutout.core).all()
    calculator = copper_potential.calculator()
    variants = CandidateGenerator(n_samples=4, max_mode_atoms=4).generate(
        back, calculator=calculator, centre=cutout.centre
    )
    assert len(variants) == 4
    assert all(len(v) == len(back) for v in variants)
    assert (variants[0].positions == cutout.atoms.positions).all()


def test_same_seed_same_cutout(copper_potential, copper_cutouts):
    atoms, gamma, made = copper_cutouts
    again = CutoutGenerator().cut(atoms, copper_potential, made[0].source_centre, gamma=gamma)
    assert (again.atoms.positions == made[0].atoms.positions).all()
    # without gamma of all atoms it is computed of those that matter
    alone = CutoutGenerator().cut(atoms, copper_potential, made[0].source_centre)
    assert np.allclose(alone.atoms.positions, made[0].atoms.positions, atol=1e-6)


def test_a_crystal_in_any_orientation_gets_a_commensurate_box(copper_potential):
    atoms = bulk("Cu", a=3.63).repeat(11)
    atoms.rotate(37, (1, 2, 3), rotate_cell=True)
    atoms.rattle(0.08, seed=4)
    (cutout,), _ = CutoutGenerator(gamma_min=0.3, max_centres=1).generate(atoms, copper_potential)
    assert_faithful(cutout, atoms, copper_potential, compute_gamma(copper_potential, atoms))
    assert cutout.box == "commensurate"
    # the box holds one atom for each site: a whole multiple of the primitive cell
    sites = cutout.atoms.get_volume() / (3.63**3 / 4)
    assert sites == pytest.approx(len(cutout.atoms), abs=1.0)


def test_a_vacancy_stays_a_vacancy(copper_potential):
    atoms = hot_copper(6, sigma=0.08)
    neighbour = surroundings(atoms, 400, 3.0).indices[1]
    del atoms[neighbour]
    centre = 400 if neighbour > 400 else 399
    cutout = CutoutGenerator().cut(atoms, copper_potential, centre)
    assert_faithful(cutout, atoms, copper_potential, compute_gamma(copper_potential, atoms), floor=2.0)
    assert cutout.atoms.get_volume() / (3.63**3 / 4) == pytest.approx(len(cutout.atoms) + 1, abs=0.6)


@pytest.mark.parametrize("periodic", [True, False])
def test_a_surface_keeps_its_vacuum(copper_potential, periodic):
    atoms = fcc111("Cu", (12, 12, 10), a=3.63, vacuum=9, orthogonal=True)
    atoms.rattle(0.08, seed=1)
    atoms.pbc = True
    gamma = compute_gamma(copper_potential, atoms)
    atoms.pbc = (True, True, periodic)
    made, failed = CutoutGenerator(gamma_min=0.5, max_centres=2).generate(atoms, copper_potential, gamma)
    assert (len(made), failed) == (2, {})
    atoms.pbc = True
    for cutout in made:
        assert_faithful(cutout, atoms, copper_potential, gamma)
        normal = cutout.atoms.cell.array[2] / np.linalg.norm(cutout.atoms.cell.array[2])
        heights = np.sort(cutout.atoms.get_scaled_positions()[:, 2]) * cutout.atoms.cell.lengths()[2]
        assert abs(normal[2]) == pytest.approx(1)
        assert np.diff(np.append(heights, heights[0] + cutout.atoms.cell.lengths()[2])).max() >= 9.9
        assert abs(cutout.atoms.cell.array[:2, 2]).max() < 1e-9


def test_gamma_of_a_slab_is_computed_where_pyace_cannot(copper_potential):
    atoms = fcc111("Cu", (8, 8, 7), a=3.63, vacuum=9, orthogonal=True)
    atoms.rattle(0.08, seed=1)
    (first,), _ = CutoutGenerator(gamma_min=0.5, max_centres=1).generate(atoms, copper_potential)
    atoms.pbc = True
    assert first.source_centre == int(np.argmax(compute_gamma(copper_potential, atoms)))


def test_particles_are_cut_into_particles(copper_potential):
    particle = Octahedron("Cu", 13, 3)
    atoms = Atoms(particle.symbols, particle.positions)
    atoms.rattle(0.08, seed=1)
    gamma = compute_gamma(copper_potential, atoms)
    (cutout,), _ = CutoutGenerator(max_centres=1, gamma_min=0.5).generate(atoms, copper_potential, gamma)
    boxed = atoms.copy()
    boxed.center(vacuum=10)
    assert_faithful(cutout, boxed, copper_potential, gamma)
    assert len(cutout.atoms) <= 150


def test_a_grain_boundary_is_cut_out(copper_potential):
    atoms = grain_boundary()
    gamma = compute_gamma(copper_potential, atoms)
    made, failed = CutoutGenerator(max_centres=2, gamma_min=0.5).generate(atoms, copper_potential, gamma)
    assert len(made) == 2, failed
    for cutout in made:
        assert_faithful(cutout, atoms, copper_potential, gamma)
        assert len(cutout.atoms) <= 150


def test_without_a_lattice_the_boundary_region_is_relaxed(copper_potential, glass):
    atoms = glass
    gamma = compute_gamma(copper_potential, atoms)
    made, failed = CutoutGenerator(gamma_min=1.0, max_centres=2).generate(atoms, copper_potential, gamma)
    assert made, failed
    for cutout in made:
        assert_faithful(cutout, atoms, copper_potential, gamma)
        assert cutout.box == "free"
        # what a box of the same size, simply filled, would have been
        around = surroundings(atoms, cutout.source_centre, 12.0)
        side = cutout.atoms.get_volume() ** (1 / 3)
        inside = (np.abs(around.vectors) <= side / 2).all(axis=1)
        naive = Atoms(numbers=around.numbers[inside], positions=around.vectors[inside], cell=[side] * 3, pbc=True)
        nearest = minimum_distances(naive)["Cu", "Cu"]
        assert minimum_distances(cutout.atoms)["Cu", "Cu"] > nearest + 0.2
        assert compute_gamma(copper_potential, naive).max() > 2 * cutout.boundary_gamma


def test_a_random_alloy_keeps_its_composition(alloy_potential):
    atoms = bulk("Cu", cubic=True, a=3.8).repeat(7)
    atoms.symbols[np.random.default_rng(0).random(len(atoms)) < 0.25] = "Au"
    atoms.rattle(0.08, seed=3)
    gamma = compute_gamma(alloy_potential, atoms)
    made, failed = CutoutGenerator(gamma_min=0.5, max_centres=2).generate(atoms, alloy_potential, gamma)
    assert made, failed
    overall = (atoms.symbols == "Au").mean()
    for cutout in made:
        assert_faithful(cutout, atoms, alloy_potential, gamma)
        assert cutout.box == "commensurate"  # the lattice of the sites
        assert cutout.composition_change <= 0.1
        assert (cutout.atoms.symbols == "Au").mean() == pytest.approx(overall, abs=0.15)


def test_an_ordered_alloy_keeps_its_order(alloy_potential):
    cell = bulk("Cu", cubic=True, a=3.75)
    cell.symbols[0] = "Au"
    atoms = cell.repeat(7)
    atoms.rattle(0.06, seed=3)
    cutout = CutoutGenerator().cut(atoms, alloy_potential, 100)
    assert_faithful(cutout, atoms, alloy_potential, compute_gamma(alloy_potential, atoms), floor=2.0)
    assert cutout.atoms.get_chemical_formula(empirical=True) == "AuCu3"


def test_an_oxide_stays_neutral(oxide_potential):
    atoms = magnesia()
    assert oxidation_states(atoms) == {"Mg": 2.0, "O": -2.0}
    gamma = compute_gamma(oxide_potential, atoms)
    made, failed = CutoutGenerator(gamma_min=0.3, max_centres=1).generate(atoms, oxide_potential, gamma)
    assert made, failed
    for cutout in made:
        assert_faithful(cutout, atoms, oxide_potential, gamma)
        assert cutout.atoms.get_chemical_formula(empirical=True) == "MgO"


def test_a_vacancy_of_an_oxide_is_in_the_cutout_or_not(oxide_potential):
    atoms = magnesia(sigma=0.05)
    near = surroundings(atoms, 300, 2.6)
    gone = next(k for k in near.indices if atoms.symbols[k] == "O" and k != 300)
    del atoms[gone]
    centre = 300 - (gone < 300)
    cutout = CutoutGenerator().cut(atoms, oxide_potential, centre)
    counts = cutout.atoms.symbols.formula.count()
    assert counts["Mg"] - counts["O"] == 1
    far = int(np.argmax(atoms.get_distances(centre, range(len(atoms)), mic=True)))
    counts = CutoutGenerator().cut(atoms, oxide_potential, far).atoms.symbols.formula.count()
    assert counts["Mg"] == counts["O"]


def test_surplus_ions_of_a_box_of_any_shape_are_taken_out():
    around = surroundings(magnesia(), 500, 12.0)
    allowed = usual_distances(around, 0.65)
    charges = {"Mg": 2.0, "O": -2.0}
    lopsided = 0
    for box in candidate_boxes([], np.eye(3), 10.0, 1400.0, 15, np.random.default_rng(1))[0]:
        closed = close(around, box, NOWHERE, NO_INTERVAL, 10.0, 4.5, allowed)
        if closed is None:
            continue
        counts = closed.atoms.symbols.formula.count()
        lopsided += counts["Mg"] != counts["O"]
        even = balanced(closed, around, charges, (0.0, 0.0))
        counts = even.atoms.symbols.formula.count()
        assert counts["Mg"] == counts["O"]
        assert even.core.sum() == closed.core.sum()
    assert lopsided


@pytest.mark.parametrize(
    ("formula", "expected"),
    [("TiO2", {"Ti": 4.0, "O": -2.0}), ("Mg500O499", {"Mg": 2.0, "O": -2.0}), ("Cu3Au", {}), ("Cu", {}), ("NiAl", {})],
)
def test_charges_are_guessed_for_compounds_only(formula, expected):
    assert oxidation_states(Atoms(formula)) == expected


def test_a_cutoff_that_does_not_fit_is_named(copper_potential):
    atoms = hot_copper(6)
    with pytest.raises(
        CutoutError, match=r"at least \d+ atoms.*10\.0 A wide.*r_c = 5\.00 A.*max_atoms is 50"
    ) as caught:
        CutoutGenerator(max_atoms=50).cut(atoms, copper_potential, 0)
    assert caught.value.best is None
    made, failed = CutoutGenerator(max_atoms=50, gamma_min=0.1, max_centres=2).generate(atoms, copper_potential)
    assert made == []
    assert len(failed) == 2


def test_overlaps_of_the_core_are_refused_not_mended(copper_potential):
    atoms = hot_copper(6)
    first, second = surroundings(atoms, 300, 3.0).indices[:2]
    atoms.positions[second] = atoms.positions[first] + (1.2, 0, 0)
    with pytest.raises(CutoutError, match=r"Cu-Cu is 1\.200 A apart.*earlier frame"):
        CutoutGenerator().cut(atoms, copper_potential, 300)


def test_faults_are_reported_with_the_best_attempt(copper_potential, glass):
    atoms = glass
    centre = int(np.argmin(compute_gamma(copper_potential, atoms)))  # what surrounds it is newer than it is
    strict = CutoutGenerator(relax_steps=0, max_relaxed=1, density_range=(0.9999, 1.0001))
    with pytest.raises(CutoutError, match=r"density ratio .* outside") as caught:
        strict.cut(atoms, copper_potential, centre)
    best = caught.value.best
    assert best is not None
    assert best.problems
    assert "PROBLEMS" in repr(best)


def test_the_relaxation_moves_the_boundary_region_only_and_lowers_its_forces(copper_potential, copper_cutouts):
    atoms, gamma, made = copper_cutouts
    cutout = made[0]
    raw = CutoutGenerator(relax_steps=0, max_relaxed=40).cut(
        atoms, copper_potential, cutout.source_centre, gamma=np.full(len(gamma), 1e3)
    )
    assert raw.relax_steps == 0 < cutout.relax_steps
    # nothing of the boundary region before it was relaxed was moved: every atom is at a place of the large cell
    shifts = raw.atoms.positions - raw.atoms.positions[raw.centre]
    source = atoms.positions[raw.source_index] - atoms.positions[raw.source_centre]
    box, cell = raw.atoms.cell.array, atoms.cell.array
    both = np.vstack([box, cell])
    left = (shifts - source) @ np.linalg.pinv(both)
    assert np.abs(left @ both - (shifts - source)).max() < 1e-8
    assert cutout.boundary_force < 2.0
    free = ~cutout.core
    distances = cutout.atoms.get_distances(cutout.centre, np.flatnonzero(free), mic=True)
    assert distances.min() >= copper_potential.cutoff * (1 - 1e-12)


def test_centres_are_chosen_greedily():
    atoms = hot_copper(5, sigma=0.0)
    gamma = np.ones(len(atoms))
    order = surroundings(atoms, 0, 8.0).indices
    gamma[0], gamma[order[1]], gamma[order[-1]] = 9.0, 8.0, 5.0
    # 8.0 sits within the separation of the worst, and so is dropped
    assert choose_centres(atoms, gamma, 6.0, 5, 2.0) == [0, order[-1]]
    assert choose_centres(atoms, gamma, 6.0, 1, 2.0) == [0]
    assert choose_centres(atoms, gamma, 6.0, 5, 20.0) == []
    assert choose_centres(atoms, gamma, 2.0, 5, 2.0) == [0, order[1], order[-1]]
    # one that halted in the core, which gamma does not see
    assert choose_centres(atoms, gamma, 6.0, 5, 20.0, first=7) == [7]
    chosen = choose_centres(atoms, gamma, 7.0, 50, 0.5)
    distances = atoms.get_all_distances(mic=True)[np.ix_(chosen, chosen)]
    assert distances[~np.eye(len(chosen), dtype=bool)].min() >= 7.0
    gamma[3] = np.nan
    assert choose_centres(atoms, gamma, 6.0, 1, 2.0) == [3]
    with pytest.raises(InvalidInputError, match=r"shape \(2,\)"):
        choose_centres(atoms, gamma[:2], 6.0, 1, 2.0)


def test_settings_are_stored_and_checked(copper_potential):
    generator = CutoutGenerator(max_atoms=120, oxidation_states={"Mg": 2.0}, density_range=(0.7, 1.3))
    assert MontyDecoder().process_decoded(generator.as_dict()) == generator
    for wrong in (
        {"max_atoms": 0},
        {"core_ratio": 0.8},
        {"gamma_min": 0.0},
        {"relax_steps": -1},
        {"density_range": (1.1, 1.2)},
    ):
        with pytest.raises(InvalidInputError, match=next(iter(wrong))):
            CutoutGenerator(**wrong)
    with pytest.raises(InvalidInputError, match="centre is 9999"):
        CutoutGenerator().cut(hot_copper(2), copper_potential, 9999)
    with pytest.raises(InvalidInputError, match="no active set"):
        CutoutGenerator().generate(hot_copper(2), replace(copper_potential, active_set_inverse={}))


@pytest.mark.parametrize(
    ("cell", "per_cell"),
    [
        (bulk("Cu", cubic=True), 4),
        (bulk("Fe", cubic=True), 2),
        (bulk("Si", cubic=True), 4),
        (bulk("MgO", "rocksalt", a=4.21, cubic=True), 4),
        (bulk("NaCl", "cesiumchloride", a=3.2), 1),
    ],
)
def test_the_lattice_is_found_in_hot_crystals(cell, per_cell):
    atoms = cell.repeat([round(26 / length) for length in cell.cell.lengths()])
    atoms.rattle(0.12, seed=1)
    found = lattices(surroundings(atoms, 7, 12.0), np.eye(3), np.random.default_rng(0))
    assert len(found[0]) == 3
    assert volume(found[0]) == pytest.approx(cell.get_volume() / per_cell, rel=0.01)
    counts = cell.cell.array @ np.linalg.inv(found[0])  # what the crystal was made of are whole vectors of it
    assert np.abs(counts - counts.round()).max() < 0.05


def test_no_lattice_is_found_where_there_is_none(glass):
    rng = np.random.default_rng(2)
    gas = Atoms("Cu800", positions=rng.random((800, 3)) * 21, cell=[21] * 3, pbc=True)
    assert lattices(surroundings(gas, 0, 10.0), np.eye(3), rng) == []
    assert lattices(surroundings(glass, 0, 10.0), np.eye(3), rng) == []


def test_boxes_are_wide_and_small_enough():
    basis = bulk("Cu", a=3.63).cell.array
    families = candidate_boxes([basis], np.eye(3), 10.0, 1700.0, 20, np.random.default_rng(0))
    for family, kind in zip(families, ("commensurate", "free"), strict=True):
        assert len(family) > 5
        for box in family:
            assert shortest_translation(box) >= 10.0
            assert volume(box) <= 1700.0 * (1 + 1e-9)
            counts = box @ np.linalg.inv(basis)
            assert kind == "free" or np.abs(counts - counts.round()).max() < 1e-6
            # no point is farther from the nearest lattice point than the covering radius
            points = np.random.default_rng(1).random((40, 3)) @ box
            images = np.indices((5, 5, 5)).reshape(3, -1).T - 2
            nearest = np.linalg.norm(points[:, None] - images @ box, axis=2).min(axis=1)
            assert nearest.max() <= covering_radius(box)


def test_vacuum_is_found_wherever_the_cell_begins():
    atoms = fcc111("Cu", (3, 3, 5), a=3.63, vacuum=8)
    atoms.pbc = True
    atoms.positions[:, 2] += 11.0
    atoms.wrap()
    opened = with_open_vacuum(atoms, 6.0)
    assert opened.pbc.tolist() == [True, True, False]
    assert np.ptp(opened.positions[:, 2]) == pytest.approx(4 * 3.63 / np.sqrt(3))
    assert with_open_vacuum(atoms, 20.0).pbc.all()


@pytest.mark.parametrize("periodic", [True, False])
def test_an_adatom_is_cut_out_with_its_vacuum(copper_potential, periodic):
    """The halt is at the surface: no atom is put into the vacuum, whether the slab is periodic across or not."""
    slab = fcc111("Cu", (8, 8, 5), vacuum=9.0)
    add_adsorbate(slab, "Cu", 1.9, "fcc")
    slab.set_array("frozen", slab.positions[:, 2] < slab.positions[:, 2].min() + 2.5)
    slab.pbc = (True, True, periodic)
    cutout = CutoutGenerator(max_atoms=150).cut(slab, copper_potential, len(slab) - 1)
    atoms = cutout.atoms
    assert shape_of(atoms) is Shape.SLAB
    _frozen_atoms_rest(cutout, slab)
    (axis,) = np.flatnonzero(~goes_on_along(atoms))
    normal = np.linalg.inv(atoms.cell.array)[:, axis]
    thick = np.ptp(atoms.positions @ (normal / np.linalg.norm(normal)))
    assert heights_of(atoms.cell.array)[axis] - thick == pytest.approx(10, abs=0.5)
    # the adatom lies alone on top of its side
    heights = np.abs((atoms.positions - atoms.positions[0]) @ (normal / np.linalg.norm(normal)))
    assert np.sort(heights)[1] > 1.0


def _frozen_atoms_rest(cutout, slab):
    """Frozen atoms are marked, and none has moved against another one near it."""
    frozen = cutout.atoms.arrays["frozen"]
    assert np.array_equal(frozen, slab.arrays["frozen"][cutout.source_index])
    held = np.flatnonzero(frozen)
    assert len(held) > 4
    assert not cutout.core[held].all()
    first, *others = held
    kept = cutout.atoms.get_distances(first, others, mic=True)
    before = slab.get_distances(cutout.source_index[first], cutout.source_index[others], mic=True)
    near = before < 3.0
    assert near.any()
    assert kept[near] == pytest.approx(before[near], abs=1e-9)
