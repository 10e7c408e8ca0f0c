"""Candidates around a halted frame."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from monty.json import MontyDecoder

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.kinds import ORIGINS, OriginKind
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.candidates import CandidateGenerator, generate_local_candidates
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.structures.distances import LABEL_RATIO, nearest_distances, shortest_contact
from mlip_autopipec.structures.distort import same_structure
from mlip_autopipec.structures.provenance import Origin, Provenance
from mlip_autopipec.training.linear import LinearACETrainer


class CountingEMT(EMT):
    """Counts its evaluations."""

    n_calls = 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        """Evaluate and count."""
        CountingEMT.n_calls += 1
        super().calculate(atoms, properties, system_changes)


class NoCalculator(Calculator):
    """Fails when asked."""

    implemented_properties = ("energy", "forces")

    def calculate(self, *args, **kwargs):
        """Refuse."""
        raise AssertionError("the Hessian was not asked for")


def frame(seed: int = 0, sigma: float = 0.08) -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat((2, 2, 1))
    atoms.symbols[3] = "Au"
    atoms.rattle(sigma, seed=seed)
    return atoms


def assert_sound(candidates: list[Atoms], n: int) -> None:
    assert len(candidates) == n
    for c in candidates:
        assert c.info["origin"] in ("halted", "dumped", *ORIGINS)
        assert c.calc is None
        assert not c.constraints
        assert not c.has("momenta")
        # what MD reached by itself may be closer than what is made
        assert shortest_contact(c, LABEL_RATIO if c.info["origin"] == "halted" else 0.65) is None
    assert not any(same_structure(a, b) for a, b in combinations(candidates, 2))


def test_every_origin_is_there_and_nothing_of_the_run_sticks():
    halted = frame()
    halted.set_constraint(FixAtoms([0]))
    halted.set_momenta(np.ones((len(halted), 3)), apply_constraint=False)
    halted.set_array("gamma", np.ones(len(halted)))
    halted.info["step"] = 120
    halted.calc = EMT()
    candidates = generate_local_candidates(halted, 15, calculator=EMT(), frames=[frame(s) for s in range(1, 9)])
    assert_sound(candidates, 15)
    assert Counter(c.info["origin"] for c in candidates) == Counter(
        {"halted": 1, "dumped": 4, "thermal": 4, "volume": 3, "soft_mode": 3}
    )
    assert candidates[0].info == {"step": 120, "origin": "halted", "split": "train"}
    assert (candidates[0].positions == halted.positions).all()
    assert "step" not in candidates[-1].info
    assert "gamma" not in candidates[-1].arrays
    assert "origin" not in halted.info
    assert halted.constraints


def test_amplitudes_are_what_the_settings_say():
    halted = frame(sigma=0.02)
    shares = {"thermal": 1.0, "displacement": 1.0, "volume": 1.0, "soft_mode": 1.0}
    generator = CandidateGenerator(
        shares=shares,
        displacement_sigma=0.03,
        volume_range=0.04,
        max_thermal_ratio=0.1,
        max_mode_displacement=0.1,
    )
    candidates = generator.generate(halted, 81, EMT(), seed=5, temperature_K=1000)
    by_origin = {o: [c for c in candidates if c.info["origin"] == o] for o in ORIGINS}
    moves = np.array([c.positions - halted.positions for c in by_origin["displacement"]])
    assert moves.std() == pytest.approx(0.03, rel=0.1)
    changes = np.array([c.get_volume() / halted.get_volume() - 1 for c in by_origin["volume"]])
    assert np.abs(changes).max() <= 0.04
    assert changes.min() < -0.035
    assert changes.max() > 0.035
    assert np.allclose([c.get_scaled_positions() for c in by_origin["volume"]], halted.get_scaled_positions())
    reach = [np.linalg.norm(c.positions - halted.positions, axis=1).max() for c in by_origin["soft_mode"]]
    assert max(reach) == pytest.approx(0.1)
    reach = [
        np.linalg.norm(c.positions - halted.positions, axis=1) / nearest_distances(halted) for c in by_origin["thermal"]
    ]
    assert np.max(reach) == pytest.approx(0.1)


@pytest.mark.parametrize("calculator", [None, EMT()])
def test_one_atom_gives_five_different_structures(calculator):
    candidates = generate_local_candidates(bulk("Cu"), 5, calculator=calculator)
    assert_sound(candidates, 5)
    # different as materials, not just shifted or turned: no two agree in all interatomic distances
    spectra = [np.sort(c.repeat(4).get_all_distances(mic=False).ravel()) for c in candidates]
    assert min(np.abs(a - b).max() for a, b in combinations(spectra, 2)) > 0.01
    assert {c.info["origin"] for c in candidates} == {"halted", "volume"}


def test_same_seed_same_structures_bit_for_bit():
    def make(seed):
        return generate_local_candidates(frame(), 9, calculator=EMT(), frames=[frame(7)], seed=seed)

    first, other = make(4), make(5)
    for a, b in zip(first, make(4), strict=True):
        assert (a.positions == b.positions).all()
        assert (a.cell.array == b.cell.array).all()
        assert a.info == b.info
    assert not any(same_structure(a, b) for a in first[2:] for b in other[2:])


def test_shares_direct_the_mix_and_unusable_ones_go_elsewhere():
    only = CandidateGenerator(shares={"volume": 1.0}).generate(frame(), 7, NoCalculator())
    assert [c.info["origin"] for c in only] == ["halted"] + ["volume"] * 6
    modes_without_potential = CandidateGenerator(shares={"soft_mode": 1.0}).generate(frame(), 7)
    assert_sound(modes_without_potential, 7)
    thermal_without_potential = CandidateGenerator(shares={"thermal": 1.0}).generate(frame(), 7)
    assert [c.info["origin"] for c in thermal_without_potential] == ["halted"] + ["displacement"] * 6
    few_dumped = CandidateGenerator(shares={"dumped": 1.0}).generate(frame(), 7, frames=[frame(1), frame(1), frame(0)])
    assert_sound(few_dumped, 7)
    assert Counter(c.info["origin"] for c in few_dumped)["dumped"] == 1
    assert_sound(generate_local_candidates(frame(), 1), 1)


def test_with_an_ace_potential():
    labels = []
    for atoms in StructureGenerator(n_structures=10, n_test=0, max_atoms=16).generate([bulk("Cu", cubic=True)]):
        work = atoms.copy()
        work.calc = EMT()
        energy, forces = work.get_potential_energy(), work.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        labels.append(atoms)
    potential = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=15)).train(labels).potential
    halted = bulk("Cu", cubic=True).repeat((2, 2, 1))
    halted.rattle(0.15, seed=4)
    candidates = generate_local_candidates(halted, 9, calculator=potential.calculator(), temperature_K=800)
    assert_sound(candidates, 9)
    assert Counter(c.info["origin"] for c in candidates)["soft_mode"] == 2
    gammas = [compute_gamma(potential, c).max() for c in candidates]
    assert len({round(float(g), 6) for g in gammas}) == 9


def test_hessian_of_a_large_cell_stays_near_the_centre():
    halted = bulk("Cu", cubic=True).repeat(3)
    halted.rattle(0.05, seed=1)
    halted.set_array("gamma", np.eye(len(halted))[40])
    CountingEMT.n_calls = 0
    candidates = generate_local_candidates(halted, 5, calculator=CountingEMT(), max_mode_atoms=6)
    assert CountingEMT.n_calls == 37  # six of each atom, and the frame itself
    moved = next(c for c in candidates if c.info["origin"] == "soft_mode")
    lengths = np.linalg.norm(moved.positions - halted.positions, axis=1)
    assert lengths[40] > 0
    assert (lengths > 0).sum() == 6


def test_too_large_amplitudes_are_reduced():
    candidates = generate_local_candidates(frame(), 12, displacement_sigma=1.0)
    assert_sound(candidates, 12)


def test_halted_frame_with_a_close_pair_is_replaced_by_earlier_frames():
    halted = frame()
    halted.positions[1] = halted.positions[0] + [1.2, 0.0, 0.0]
    candidates = generate_local_candidates(halted, 8, calculator=EMT(), frames=[frame(1), halted, frame(2)])
    assert_sound(candidates, 8)
    assert "halted" not in {c.info["origin"] for c in candidates}
    displaced = next(c for c in candidates if c.info["origin"] == "thermal")
    assert np.abs(displaced.positions - frame(2).positions).max() < 0.45


def test_slightly_too_close_heals_and_hopeless_is_refused():
    dimer = Atoms("Cu2", [[0, 0, 0], [1.70, 0, 0]], cell=[8, 8, 8], pbc=True)  # allowed are 1.716 A
    healed = generate_local_candidates(dimer, 6)
    assert healed
    assert_sound(healed, len(healed))
    assert [c.info["origin"] for c in healed].count("halted") == 1  # labels go closer than what is made
    dimer.positions[1] = [0.8, 0, 0]
    with pytest.raises(InvalidInputError, match=r"Cu-Cu are 0\.800 A apart, allowed are 1\.716"):
        generate_local_candidates(dimer, 6, calculator=EMT())


@pytest.mark.parametrize("atoms", [molecule("CH3CH2OH"), fcc111("Al", (2, 2, 3), vacuum=8.0)], ids=["molecule", "slab"])
def test_molecules_and_slabs(atoms):
    assert_sound(generate_local_candidates(atoms, 9, calculator=EMT()), 9)


@pytest.mark.parametrize(
    ("atoms", "arguments", "message"),
    [
        (Atoms(), {}, "atoms is empty"),
        (Atoms("Cu"), {"n_samples": 3}, "n_samples is 3"),
        (frame(), {"n_samples": 0}, "n_samples is 0"),
        (frame(), {"centre": 99}, "centre is 99"),
        (frame(), {"temperature_K": 0.0}, "temperature_K 0.0"),
        (frame(), {"shares": {"magic": 1.0}}, "magic"),
        (frame(), {"displacement_sigma": 0.0}, "displacement_sigma is 0.0"),
        (frame(), {"volume_range": 0.9}, "volume_range is 0.9"),
    ],
)
def test_wrong_input_is_named(atoms, arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        generate_local_candidates(atoms, **arguments)


def test_an_origin_of_another_package_takes_its_share(monkeypatch):
    def pulled_apart(base, count):
        def move(size: float) -> Atoms:
            moved = base.atoms.copy()
            moved.positions[base.rng.integers(len(moved))] += 0.3 * size
            return moved

        return [move] * count

    impossible = OriginKind("not of copper", pulled_apart, possible=lambda base: "Fe" in base.atoms.symbols)
    kinds = {**ORIGINS, "pull": OriginKind("one atom pulled out", pulled_apart), "never": impossible}
    monkeypatch.setattr("mlip_autopipec.sampling.candidates.ORIGINS", kinds)
    generator = CandidateGenerator(shares={"pull": 2.0, "volume": 1.0, "never": 9.0})
    candidates = generator.generate(frame(), 7)
    assert Counter(c.info["origin"] for c in candidates) == {"halted": 1, "pull": 4, "volume": 2}
    for pulled in candidates[-4:]:
        moves = np.abs(pulled.positions - frame().positions).max(axis=1)
        assert sorted(moves)[-2:] == pytest.approx([0, 0.3])
    assert not any(same_structure(a, b) for a, b in combinations(candidates, 2))


def test_settings_survive_json():
    generator = CandidateGenerator(n_samples=4, shares={"volume": 2.0, "displacement": 1.0}, seed=8)
    again = MontyDecoder().decode(generator.to_json())
    assert again == generator
    for a, b in zip(generator.generate(frame()), again.generate(frame()), strict=True):
        assert (a.positions == b.positions).all()


def test_what_md_reached_is_a_candidate_down_to_what_is_labelled():
    """A required halted frame between the limit of made structures and that of labels is not dropped."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    radii = 2 * covalent_radii[29]
    for ratio, taken in ((0.45, False), (0.55, True), (0.64, True), (0.8, True)):
        close = atoms.copy()
        away = close.get_distance(0, 1, mic=True, vector=True)
        close.positions[1] = close.positions[0] + away / np.linalg.norm(away) * ratio * radii
        earlier = atoms.copy()
        earlier.rattle(0.05, seed=1)
        made = CandidateGenerator(n_samples=6).generate(close, frames=[earlier])
        assert (Provenance.of(made[0]).origin == Origin.HALTED) is taken, ratio
        assert len(made) == 6
        assert all(shortest_contact(one) is None for one in made[1:])
