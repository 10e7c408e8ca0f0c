"""Gamma, the active set, and the D-optimal choice among candidates."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk
from pyace.activelearning import compute_A_active_inverse, compute_active_set

from mlip_autopipec.active_learning.activeset import (
    build_active_set,
    complete_active_set,
    compute_gamma,
    enlarge_active_set,
    select_active_set,
)
from mlip_autopipec.active_learning.coverage import Coverage
from mlip_autopipec.active_learning.duplicates import Duplicates
from mlip_autopipec.active_learning.graded import graded_functions, is_graded
from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.potential import ACEPotential, pack_active_set, unpack_active_set
from mlip_autopipec.potentials.projections import compute_projections
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ase import Atoms


def rattled(amplitude: float, seed: int, element: str = "Cu") -> Atoms:
    atoms = bulk(element, cubic=True) * (2, 2, 2)
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


def test_gamma_does_not_grow_with_the_basis(emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]]) -> None:
    """As many functions as the labels bear: the active set is that of the leading ones."""
    labels = emt_labelled([rattled(a, s) for s, a in enumerate((0.05, 0.1, 0.15, 0.05, 0.1, 0.15))])
    small, large = (
        LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=n, cutoff=5.0)).train(labels).potential
        for n in (15, 90)
    )
    assert large.n_functions["Cu"] > 5 * small.n_functions["Cu"]
    graded = is_graded(large.active_set_inverse["Cu"])
    assert graded.sum() == is_graded(small.active_set_inverse["Cu"]).sum() == 15  # of 192 atoms
    known, new = rattled(0.1, 20), rattled(0.3, 21)
    for potential in (small, large):
        assert compute_gamma(potential, known).max() < 5 < compute_gamma(potential, new).max()
    every = replace(large, active_set_inverse=whole_active_set(large, labels))
    # of all functions gamma is many times larger, and depends on how many there are
    assert compute_gamma(every, new).max() > 3 * compute_gamma(large, new).max()
    counts = [int(graded_functions(large, "Cu", n).sum()) for n in (20, 140, 150, 220, 10**6)]
    assert counts == [10, 10, 15, 22, 50]  # ten atoms for each, up to what tells environments apart
    # rows that are added keep the others ungraded
    assert np.array_equal(is_graded(enlarge_active_set(large, [new]).active_set_inverse["Cu"]), graded)
    assert compute_gamma(enlarge_active_set(large, [new]), new).max() <= 1.01
    assert np.array_equal(complete_active_set(large).active_set_inverse["Cu"], large.active_set_inverse["Cu"])


def test_projections_are_not_all_held_at_once(narrow: ACEPotential) -> None:
    """Those of 5000 labels onto 1200 functions have gigabytes; the graded functions of them are a few per cent."""
    frames = [rattled(0.05, seed) for seed in range(10)]
    held: list[weakref.ref[np.ndarray]] = []

    def frame_by_frame():
        for one in compute_projections(narrow, frames):
            rows = one["Cu"].copy()
            held.append(weakref.ref(rows))
            yield {"Cu": rows}
            alive.append(sum(of() is not None for of in held))

    alive: list[int] = []
    given = build_active_set(narrow, frames, projections=frame_by_frame())
    assert len(held) == 10
    assert max(alive) <= 2
    assert np.array_equal(given.active_set_inverse["Cu"], build_active_set(narrow, frames).active_set_inverse["Cu"])


def whole_active_set(potential: ACEPotential, labels: Sequence[Atoms]) -> dict[str, np.ndarray]:
    rows = {0: np.vstack([r["Cu"] for r in compute_projections(potential, labels)])}
    return {"Cu": compute_A_active_inverse(compute_active_set(rows, tol=1.001, max_iters=1000))[0]}


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


def test_at_most_n(narrow: ACEPotential) -> None:
    candidates = [rattled(a, s) for s, a in enumerate((0.15, 0.3, 0.25, 0.2))]
    assert len(select_active_set(narrow, candidates, 2)) == 2
    assert select_active_set(narrow, candidates, 1)[0].index == int(
        np.argmax([compute_gamma(narrow, c).max() for c in candidates])
    )


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


PURE = [rattled(a, s, e) for e in ("Cu", "Ni") for s, a in enumerate((0.05, 0.1, 0.1, 0.15, 0.2, 0.25))]


@pytest.fixture(scope="module")
def pure_metals(emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]]) -> ACEPotential:
    """A potential for copper and nickel that never saw both together."""
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=20))
    return trainer.train(emt_labelled(PURE)).potential


@pytest.fixture(scope="module")
def by_pyace(pure_metals: ACEPotential) -> ACEPotential:
    """The same with the active set that ``pace_activeset --all-atoms`` makes."""
    per_frame = compute_projections(pure_metals, PURE)
    rows = {i: np.vstack([r[e] for r in per_frame]) for i, e in enumerate(pure_metals.elements)}
    inverse = compute_A_active_inverse(compute_active_set(rows, tol=1.001, max_iters=1000))
    return replace(pure_metals, active_set_inverse={e: inverse[i] for i, e in enumerate(pure_metals.elements)})


def impurity(seed: int = 1) -> Atoms:
    atoms = rattled(0.05, seed)
    atoms.symbols[0] = "Ni"
    return atoms


def test_a_planted_impurity_is_seen_by_coverage_and_not_by_gamma_of_pyace(
    pure_metals: ACEPotential, by_pyace: ACEPotential
) -> None:
    planted = impurity()
    assert compute_gamma(by_pyace, planted).max() < 2
    assert compute_gamma(by_pyace, planted)[0] < 1e-3
    coverage = Coverage.of(PURE, by_pyace.cutoff)
    assert coverage.unseen(planted)[0].neighbours == ("Cu",)
    assert not any(coverage.unseen(atoms) for atoms in PURE)
    # before a plain extrapolation, and once is enough
    (plain, first) = select_active_set(by_pyace, [rattled(0.4, 5), planted, planted], 3, coverage=coverage)[::-1]
    assert (first.index, first.unseen[0].element) == (1, "Ni")
    assert (plain.index, plain.unseen) == (0, ())
    # the active sets made here see it by themselves, and so does MD
    assert compute_gamma(pure_metals, planted).max() > 1e6
    assert max(compute_gamma(pure_metals, atoms).max() for atoms in PURE) <= 1.01


def test_active_sets_of_other_origin_can_be_completed(pure_metals: ACEPotential, by_pyace: ACEPotential) -> None:
    completed = complete_active_set(by_pyace)
    assert compute_gamma(completed, impurity()).max() > 1e6
    assert max(compute_gamma(completed, atoms).max() for atoms in PURE) <= 1.01
    same = complete_active_set(pure_metals)
    assert all(np.array_equal(same.active_set_inverse[e], pure_metals.active_set_inverse[e]) for e in ("Cu", "Ni"))


def test_the_first_label_of_a_new_pair_does_not_end_the_loop(pure_metals: ACEPotential) -> None:
    """One impurity cannot span the functions of the pair: an error for a first dataset, not later."""
    frames = [*PURE, impurity()]
    with pytest.raises(TrainingError, match="too similar"):
        build_active_set(pure_metals, frames)
    learnt = build_active_set(pure_metals, frames, pure_metals)
    assert compute_gamma(learnt, impurity()).max() <= 1.01
    assert max(compute_gamma(learnt, atoms).max() for atoms in PURE) <= 1.01
    alloy = impurity()
    alloy.symbols[::2] = "Ni"
    assert compute_gamma(learnt, alloy).max() > 10


def test_an_enlarged_active_set_spans_what_a_new_one_does(copper_potential: ACEPotential) -> None:
    frames = [rattled(0.05 + 0.02 * seed, seed) for seed in range(10)]
    present = build_active_set(copper_potential, frames)
    more = [*frames, rattled(0.35, 11), rattled(0.3, 12)]
    enlarged = build_active_set(copper_potential, more, present)
    assert max(compute_gamma(enlarged, atoms).max() for atoms in more) <= 1.0011
    rows = {name: np.linalg.inv(p.active_set_inverse["Cu"]) for name, p in (("old", present), ("new", enlarged))}
    kept = [np.isclose(rows["new"], row, rtol=1e-6).all(axis=1).any() for row in rows["old"]]
    assert 0 < sum(kept) < len(kept)
    volumes = [np.linalg.slogdet(p.active_set_inverse["Cu"])[1] for p in (enlarged, present)]
    assert volumes[0] < volumes[1]
    # rows of another basis are no start: the same as without
    foreign = replace(present, active_set_inverse={"Cu": 1.1 * present.active_set_inverse["Cu"]})
    anew = build_active_set(copper_potential, more).active_set_inverse["Cu"]
    assert np.allclose(build_active_set(copper_potential, more, foreign).active_set_inverse["Cu"], anew)


def test_what_is_nearly_the_same_as_one_chosen_is_not_chosen_even_if_required(narrow: ACEPotential) -> None:
    known, other = rattled(0.25, 1), rattled(0.25, 2)
    turned = known[np.random.default_rng(1).permutation(len(known))]
    turned.rotate(30, (1, 2, 3), rotate_cell=True)
    turned.rattle(1e-3, seed=4)
    turned.wrap()
    chosen = select_active_set(narrow, [known, turned, other], 3, required=[0, 1])
    assert sorted(c.index for c in chosen) in ([0, 2], [1, 2])
    assert select_active_set(narrow, [turned], 2) != []


def test_duplicates_are_told_by_what_gamma_is_made_of(narrow: ACEPotential) -> None:
    known = rattled(0.1, 1)
    duplicates = Duplicates(narrow, [rattled(0.1, 7), known])
    moved = known.copy()
    for step, same in ((0.002, True), (0.2, False)):
        moved.positions[3] = known.positions[3] + [step, 0, 0]
        assert duplicates.has(moved, compute_projections(narrow, [moved])[0]) is same


def test_of_equals_the_first_is_taken(narrow: ACEPotential) -> None:
    twin = rattled(0.3, 1)
    candidates = [rattled(0.05, 3), twin, twin.copy(), rattled(0.2, 2)]
    chosen = [select_active_set(narrow, candidates, 3) for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert chosen[0][0].index == 1
