"""Halts in cells too large for the oracle: what is new is cut out, and candidates are made around that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.cutouts.cutout import CutoutGenerator, choose_centres
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.assess import update_state
from mlip_autopipec.jobs.propose import ProposeMaker, is_required, what_halted
from mlip_autopipec.lammps.types import Condition, HaltVerdict
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.schemas.loop import LoopState, WalkerState
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import ProposalDocument, WalkDocument
from mlip_autopipec.structures.distances import minimum_distances

if TYPE_CHECKING:
    from ase import Atoms


@pytest.fixture
def walk(copper_potential) -> WalkDocument:
    """500 atoms of warm copper with one atom far off its site."""
    atoms = bulk("Cu", cubic=True) * (5, 5, 5)
    atoms.rattle(0.05, seed=1)
    atoms.positions[200] += [0.8, 0.2, 0.0]
    atoms.arrays["gamma"] = compute_gamma(copper_potential, atoms)
    worst = int(np.argmax(atoms.arrays["gamma"]))
    payload = {"final": pack_frames([atoms]), "frames": pack_frames([])}
    return WalkDocument(
        uuid="w", walker=0, status="HALTED", reason="gamma", atom_index=worst, temperature_K=300.0, payload=payload
    )


def test_candidates_of_a_large_cell_are_small(copper_potential, walk):
    maker = ProposeMaker(generator=CandidateGenerator(n_samples=6, max_mode_atoms=8))
    candidates = maker.sample(walk, PotentialDocument.from_potential(copper_potential), seed=3)
    assert len(candidates) >= 6
    assert max(map(len, candidates)) <= 150
    whole = [atoms for atoms in candidates if atoms.info["origin"] in ("halted", "cutout")]
    assert [atoms.info["origin"] for atoms in whole] == ["halted", *["cutout"] * (len(whole) - 1)]
    halted = walk.final_atoms()
    for atoms in whole:
        centre = atoms.info["cutout_of"]
        assert np.abs(compute_gamma(copper_potential, atoms) - halted.arrays["gamma"][centre]).min() < 1e-8
    assert whole[0].info["cutout_of"] == walk.atom_index
    again = maker.sample(walk, PotentialDocument.from_potential(copper_potential), seed=3)
    assert all(one == other for one, other in zip(candidates, again, strict=True))


def test_what_looks_the_same_elsewhere_is_cut_out_once(copper_potential, walk):
    cell = bulk("Cu", cubic=True) * (3, 3, 3)
    cell.rattle(0.05, seed=1)
    cell.positions[50] += [1.0, 0.4, 0.0]
    twice = cell * (2, 1, 1)
    gamma = compute_gamma(copper_potential, twice)
    apart = 2 * copper_potential.cutoff
    assert gamma.max() > 1.2
    assert len(choose_centres(twice, gamma, apart, 3, 1.2)) == 2
    generator = CutoutGenerator(max_centres=3, gamma_min=1.2)
    (cutout,), failed = generator.generate(twice, copper_potential)
    assert not failed
    assert cutout.gamma_before == pytest.approx(gamma.max())


def test_atoms_inside_the_core_are_cut_out_whatever_their_gamma(copper_potential, walk):
    atoms = walk.final_atoms()
    worst = walk.atom_index
    pair = in_contact(atoms, 0.97 * copper_potential.core_radii["Cu", "Cu"])
    assert worst not in pair
    document = walk.model_copy(
        update={"reason": "core_repulsion", "payload": {**walk.payload, "final": pack_frames([atoms])}}
    )
    ratio = 0.45  # this potential knows even such distances
    maker = ProposeMaker(
        generator=CandidateGenerator(n_samples=4, max_mode_atoms=4, minimum_distance_ratio=ratio),
        cutouts=CutoutGenerator(minimum_distance_ratio=ratio, gamma_min=0.8),
    )
    candidates = maker.sample(document, PotentialDocument.from_potential(copper_potential), seed=3)
    (halted,) = [atoms for atoms in candidates if atoms.info["origin"] == "halted"]
    assert halted.info["cutout_of"] in pair
    others = [atoms for atoms in candidates if atoms.info["origin"] == "cutout"]
    assert all(atoms.info["cutout_of"] not in pair for atoms in others)
    proposal = ProposalDocument(reason="core_repulsion", is_required=True, n_candidates=0, origins={}, seed=0)
    first, required = what_halted([(proposal, k, atoms) for k, atoms in enumerate(candidates)])
    assert [candidates[k].info["origin"] for k in required] == ["halted"]
    assert others
    assert set(required) < set(first)
    assert len(first) == 1 + len(others)


def test_colliding_atoms_are_cut_out_of_an_earlier_frame(copper_potential, walk):
    atoms = walk.final_atoms()
    in_contact(atoms, 1.2)
    payload = {"final": pack_frames([atoms]), "frames": pack_frames([walk.final_atoms()])}
    document = walk.model_copy(update={"reason": "core_repulsion", "payload": payload})
    maker = ProposeMaker(generator=CandidateGenerator(n_samples=4, max_mode_atoms=4))
    candidates = maker.sample(document, PotentialDocument.from_potential(copper_potential), seed=3)
    assert {minimum_distances(atoms)["Cu", "Cu"] > 1.7 for atoms in candidates} == {True}
    origins = [atoms.info["origin"] for atoms in candidates]
    assert origins[0] == "dumped", "so that it does not count as what halted"
    assert "halted" not in origins


@pytest.mark.parametrize(
    ("atom", "n_learnt", "verdict", "n_repeats"),
    [(8, 70, "novelty", 0), (7, 70, "repeat", 1), (8, 500, "repeat", 1), (8, None, "novelty", 1)],
    ids=["another atom", "the same atom", "all atoms were labelled", "nothing was labelled"],
)
def test_another_atom_that_halts_the_same_frame_is_progress(atom, n_learnt, verdict, n_repeats):
    halted = WalkerState(
        index=0, formula="Cu500", condition=Condition(300), seed=1, status="HALTED", step=40, n_halts=1, atom_index=7
    )
    state = LoopState(campaign_id="c", seed=1, elements=["Cu"], walkers=[halted])
    walk = WalkDocument(
        uuid="w", walker=0, status="HALTED", reason="gamma", verdict="novelty", step=40, n_atoms=500, atom_index=atom
    )
    learnt = {} if n_learnt is None else {0: n_learnt}
    (walker,) = update_state(state, [walk], [0], None, None, learnt).walkers
    assert (walker.verdict, walker.n_repeats, walker.atom_index) == (verdict, n_repeats, atom)


def in_contact(atoms: Atoms, distance_A: float) -> tuple[int, int]:
    """Push two neighbours together, far from the atom that is off its site."""
    centre = int(np.argmax(atoms.get_distances(200, range(len(atoms)), mic=True)))
    away = atoms.get_distances(centre, range(len(atoms)), mic=True)
    away[centre] = np.inf
    other = int(np.argmin(away))
    atoms.set_distance(centre, other, distance_A, mic=True)
    return centre, other


def test_what_cannot_be_cut_out_is_told(copper_potential, walk):
    maker = ProposeMaker(cutouts=CutoutGenerator(max_atoms=20))
    with pytest.raises(MLIPError, match=r"nothing could be cut out of the 500 atoms"):
        maker.sample(walk, PotentialDocument.from_potential(copper_potential), seed=3)


@pytest.mark.parametrize(
    ("changed", "required"),
    [
        ({}, False),
        ({"step": 0}, True),
        ({"reason": "core_repulsion", "verdict": "short_contact"}, True),
        ({"reason": "force_error"}, True),
        ({"reason": "explosion", "verdict": HaltVerdict.EXPLOSION}, True),
    ],
)
def test_only_without_another_way_on_the_halted_frame_has_to_be_labelled(walk, changed, required):
    halted = {"start_step": 0, "step": 40, "reason": "gamma", "verdict": HaltVerdict.NOVELTY}
    assert is_required(walk.model_copy(update=halted | changed)) is required
