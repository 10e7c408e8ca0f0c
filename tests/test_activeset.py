"""Gamma, the active set, and the D-optimal choice among candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk

from mlip_autopipec.ace.activeset import build_active_set, compute_gamma, compute_projections, select_active_set
from mlip_autopipec.ace.potential import ACEPotential, pack_active_set, unpack_active_set
from mlip_autopipec.errors import InvalidInputError, TrainingError

if TYPE_CHECKING:
    from ase import Atoms


def rattled(amplitude: float, seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(amplitude, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def narrow(copper_potential: ACEPotential) -> ACEPotential:
    """The copper potential with the active set of small displacements only."""
    return build_active_set(copper_potential, [rattled(0.05, seed) for seed in range(10)])


def test_gamma_is_cramers_rule_and_one_inside(narrow: ACEPotential) -> None:
    """gamma_j = abs(det A with row j replaced) / abs(det A), evaluated in numpy without the inverse."""
    atoms = rattled(0.12, 99)
    (rows,) = compute_projections(narrow, [atoms])
    active = np.linalg.inv(narrow.active_set_inverse["Cu"])
    _, log_det = np.linalg.slogdet(active)
    expected = 0.0
    for j in range(len(active)):
        replaced = active.copy()
        replaced[j] = rows["Cu"][5]
        expected = max(expected, np.exp(np.linalg.slogdet(replaced)[1] - log_det))
    assert compute_gamma(narrow, atoms)[5] == pytest.approx(expected, rel=1e-6)
    assert max(compute_gamma(narrow, rattled(0.05, seed)).max() for seed in range(10)) <= 1.01


def test_labelled_frames_are_no_longer_extrapolated(narrow: ACEPotential) -> None:
    candidates = [rattled(0.2, seed) for seed in range(3)]
    assert min(compute_gamma(narrow, c).max() for c in candidates) > 2
    wider = build_active_set(narrow, [*(rattled(0.05, s) for s in range(10)), *candidates])
    assert max(compute_gamma(wider, c).max() for c in candidates) <= 1.01


def test_near_duplicates_are_not_chosen_twice(narrow: ACEPotential) -> None:
    one, other = rattled(0.25, 1), rattled(0.2, 2)
    copies = []
    for seed in range(5):
        copy = one.copy()
        copy.rattle(1e-4, seed=seed)
        copies.append(copy)
    chosen = select_active_set(narrow, [*copies, other], 6)
    assert len([c for c in chosen if c.index < 5]) == 1
    assert [c.gamma for c in chosen] == sorted((c.gamma for c in chosen), reverse=True)
    assert all(c.gamma > 1.1 for c in chosen)


def test_at_most_n_and_halted_frames_first(narrow: ACEPotential) -> None:
    candidates = [rattled(a, s) for s, a in enumerate((0.15, 0.3, 0.25, 0.2))]
    assert len(select_active_set(narrow, candidates, 2)) == 2
    assert select_active_set(narrow, candidates, 1)[0].index == int(
        np.argmax([compute_gamma(narrow, c).max() for c in candidates])
    )
    assert select_active_set(narrow, candidates, 2, first=[0])[0].index == 0


def test_required_frames_are_chosen_whatever_their_grade(narrow: ACEPotential) -> None:
    known = rattled(0.05, 3)
    assert select_active_set(narrow, [known], 4) == []
    (chosen,) = select_active_set(narrow, [known], 4, required=[0])
    assert chosen.gamma <= 1.01
    assert [c.index for c in select_active_set(narrow, [rattled(0.3, 1), known], 1, required=[1])] == [1]


def test_what_cannot_be_is_refused(narrow: ACEPotential) -> None:
    with pytest.raises(InvalidInputError, match="n_max is 0"):
        select_active_set(narrow, [rattled(0.1, 1)], 0)
    with pytest.raises(InvalidInputError, match="no active set"):
        select_active_set(ACEPotential(narrow.yaml), [rattled(0.1, 1)], 2)
    with pytest.raises(TrainingError, match="4 atoms of Cu"):
        build_active_set(narrow, [bulk("Cu", cubic=True)])
    with pytest.raises(InvalidInputError, match=r"\['Au'\]"):
        select_active_set(narrow, [bulk("Au", cubic=True)], 2)


def test_asi_bytes_are_exact(narrow: ACEPotential) -> None:
    again = unpack_active_set(pack_active_set(narrow.active_set_inverse))
    assert np.array_equal(again["Cu"], narrow.active_set_inverse["Cu"])
    assert unpack_active_set(b"") == {}
