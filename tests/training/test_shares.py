"""How the functions of an element are shared by neighbours of one, two and three elements."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk
from pyace import ACEBBasisSet
from teacher import labelled_by

from mlip_autopipec.potentials.basis import EQUAL_SHARES, LADDER_SHAPE, SHARES, BasisSettings, Shares, shares_for
from mlip_autopipec.training import cutoff
from mlip_autopipec.training.design import BasisFunction, basis_functions
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.potentials.potential import ACEPotential

PAIR, THREE, FOUR = ["Au", "Cu"], ["Ag", "Au", "Cu"], ["Ag", "Au", "Cu", "Ni"]


def functions_of(elements: list[str], n: int, shares: Shares) -> list[BasisFunction]:
    return list(functions_once(tuple(elements), n, shares))


@cache
def functions_once(elements: tuple[str, ...], n: int, shares: Shares) -> tuple[BasisFunction, ...]:
    limits = [list(part) for part in LADDER_SHAPE] if len(elements) < 4 else [None, None]
    configuration = BasisSettings(n, 4.0, *limits).configuration(list(elements), shares)
    return tuple(basis_functions(ACEBBasisSet(configuration)))


def n_elements_of(function: BasisFunction) -> int:
    return len({function.centre, *function.species})


def cells(elements: list[str], n: int, seed: int = 0) -> list[Atoms]:
    """Rattled and strained cells of 8 atoms with the elements in random places."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", a=3.9, cubic=True) * (2, 1, 1)
        atoms.symbols = rng.permutation([elements[i % len(elements)] for i in range(len(atoms))])
        atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.02)), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.12, atoms.positions.shape)
        frames.append(atoms)
    return frames


def taught_by(functions: list[BasisFunction], shares: Shares, elements: list[str], frames: list[Atoms]) -> list[Atoms]:
    """Label with the given functions of a basis."""
    limits = [list(part) for part in LADDER_SHAPE]
    basis = ACEBBasisSet(BasisSettings(150, 4.0, *limits).configuration(elements, shares))
    return labelled_by(basis, frames, set(functions))


@pytest.mark.parametrize("elements", [PAIR, THREE, FOUR])
def test_functions_of_lowest_degree_are_taken(elements: list[str]) -> None:
    by_degree = [shares for shares in SHARES[len(elements)] if shares is not EQUAL_SHARES]
    assert by_degree
    for shares in by_degree:
        some, more = (functions_of(elements, n, shares) for n in (100, 220))
        added = (0, *shares)

        def degree(function: BasisFunction, added: tuple[int, ...] = added) -> int:
            return function.degree + added[n_elements_of(function) - 1]

        for centre in range(len(elements)):
            taken = {f for f in some if f.centre == centre}
            left = {f for f in more if f.centre == centre} - taken
            assert len(taken) == 100
            assert max(map(degree, taken)) <= min(map(degree, left))


@pytest.mark.parametrize("elements", [PAIR, THREE, FOUR])
def test_larger_bases_hold_smaller_ones(elements: list[str]) -> None:
    for shares in shares_for(elements):
        bases = [set(functions_of(elements, n, shares)) for n in (30, 100, 220)]
        assert all(small < large for small, large in pairwise(bases)), shares


def test_four_elements_meet_in_threes_only_where_functions_are_taken_by_degree() -> None:
    most = {shares: max(map(n_elements_of, functions_of(FOUR, 150, shares))) for shares in (*SHARES[4], EQUAL_SHARES)}
    assert most == {(2, 4): 3, EQUAL_SHARES: 2}
    counts = Counter(map(n_elements_of, functions_of(FOUR, 150, (2, 4))))
    assert 0 < counts[3] < counts[1] < counts[2]


def test_one_element_and_many_have_nothing_to_choose() -> None:
    assert shares_for(["Cu"]) == (EQUAL_SHARES,)
    assert shares_for([*FOUR, "Pd"]) == (EQUAL_SHARES,)


def shares_of(potential: ACEPotential, elements: list[str]) -> Shares:
    """Return the shares by which a potential's functions are those of the ladder; small bases have the first ones."""
    own = set(basis_functions(potential.basis))
    n = max(Counter(f.centre for f in own).values())
    return next(s for s in shares_for(elements) if set(functions_of(elements, n, s)) == own)


@pytest.fixture
def one_cutoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutoff, "RADIAL_BASES", ("SBessel",))
    monkeypatch.setattr(cutoff, "cutoffs_for", lambda _labels: [4.0])


@pytest.mark.long
@pytest.mark.usefixtures("one_cutoff")
def test_the_labels_choose_whether_three_elements_meet() -> None:
    frames = cells(THREE, 24)
    everything, pairs = functions_of(THREE, 100, (0, 0)), functions_of(THREE, 100, (0, 2))
    meeting = taught_by(everything, (0, 0), THREE, frames)
    apart = taught_by(list(set(pairs) - set(everything)), (0, 2), THREE, frames)
    assert shares_of(LinearACETrainer().train(meeting).potential, THREE) == (0, 0)
    assert shares_of(LinearACETrainer().train(apart).potential, THREE) == (0, 2)


@pytest.mark.usefixtures("one_cutoff")
def test_shares_stay_in_a_fine_tune_and_the_basis_grows() -> None:
    frames = cells(PAIR, 40)
    labels = taught_by(functions_of(PAIR, 150, (0,)), (0,), PAIR, frames)
    first = LinearACETrainer().train(labels[:6]).potential
    shares = shares_of(first, PAIR)
    one = LinearACETrainer().train(labels[:6], first, fine_tune=True, new_labels=labels[6:7]).potential
    assert shares_of(one, PAIR) == shares
    many = LinearACETrainer().train(labels[:30], first, fine_tune=True, new_labels=labels[30:31]).potential
    assert shares_of(many, PAIR) == shares
    assert set(basis_functions(first.basis)) < set(basis_functions(many.basis)), "larger, and the same functions in it"


@pytest.mark.usefixtures("one_cutoff")
def test_a_potential_of_equal_shares_goes_on_and_changes_when_the_labels_have_become_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As all were before shares were chosen."""
    frames = cells(PAIR, 24)
    labels = taught_by(functions_of(PAIR, 150, (0,)), (0,), PAIR, frames)
    with monkeypatch.context() as before:
        before.setattr(cutoff, "shares_for", lambda _elements: (EQUAL_SHARES,))
        first = LinearACETrainer().train(labels[:13]).potential
    assert shares_of(first, PAIR) == EQUAL_SHARES
    one = LinearACETrainer().train(labels[:13], first, fine_tune=True, new_labels=labels[13:14]).potential
    assert shares_of(one, PAIR) == EQUAL_SHARES, "one label more is no reason"
    tuned = LinearACETrainer().train(labels[:13], first, fine_tune=True, new_labels=labels[13:])
    assert shares_of(tuned.potential, PAIR) == (0,)
    assert tuned.coefficients_moved is None, "the functions are others"


def test_a_number_of_functions_that_is_given_is_pacemakers_basis() -> None:
    labels = taught_by(functions_of(PAIR, 150, (0,)), (0,), PAIR, cells(PAIR, 12))
    given = LinearACETrainer(basis=BasisSettings(60, 4.0)).train(labels).potential
    own = BasisSettings(60, 4.0).configuration(PAIR)
    assert set(basis_functions(given.basis)) == set(basis_functions(ACEBBasisSet(own)))


def test_a_potential_of_a_given_number_of_functions_goes_on_to_the_basis_that_labels_choose() -> None:
    labels = taught_by(functions_of(PAIR, 150, (0,)), (0,), PAIR, cells(PAIR, 24))
    given = LinearACETrainer(basis=BasisSettings(30, 6.0)).train(labels[:9]).potential
    one = LinearACETrainer().train(labels[:9], given, fine_tune=True, new_labels=labels[9:10]).potential
    assert one.cutoff == given.cutoff, "one label more is no reason"
    more = LinearACETrainer().train(labels[:9], given, fine_tune=True, new_labels=labels[9:]).potential
    assert more.cutoff < given.cutoff
    assert shares_of(more, PAIR) == (0,)
