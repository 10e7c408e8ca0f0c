"""Halts in cells too large for the oracle: what is new is cut out, and candidates are made around that."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from mlip_autopipec.ace.activeset import compute_gamma
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.generate.candidates import CandidateGenerator
from mlip_autopipec.generate.cutout import CutoutGenerator
from mlip_autopipec.jobs.propose import ProposeMaker
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import WalkDocument


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
    whole = [atoms for atoms in candidates if atoms.info["origin"] == "halted"]
    assert whole
    halted = walk.final_atoms()
    for atoms in whole:
        centre = atoms.info["cutout_of"]
        assert np.abs(compute_gamma(copper_potential, atoms) - halted.arrays["gamma"][centre]).min() < 1e-8
    assert whole[0].info["cutout_of"] == walk.atom_index
    again = maker.sample(walk, PotentialDocument.from_potential(copper_potential), seed=3)
    assert all(one == other for one, other in zip(candidates, again, strict=True))


def test_what_cannot_be_cut_out_is_told(copper_potential, walk):
    maker = ProposeMaker(cutouts=CutoutGenerator(max_atoms=20))
    with pytest.raises(MLIPError, match=r"nothing could be cut out of the 500 atoms"):
        maker.sample(walk, PotentialDocument.from_potential(copper_potential), seed=3)
