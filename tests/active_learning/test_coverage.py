"""The coverage table: what was never in the training set, and what gamma says to it."""

from __future__ import annotations

import json

import pytest
from ase import Atoms
from ase.build import bulk, molecule

from mlip_autopipec.active_learning.coverage import Coverage, Unseen
from mlip_autopipec.errors import InvalidInputError

COPPER = bulk("Cu", cubic=True).repeat(2)
NICKEL = bulk("Ni", cubic=True).repeat(2)


def with_symbols(atoms: Atoms, **where: list[int]) -> Atoms:
    made = atoms.copy()
    for symbol, indices in where.items():
        made.symbols[indices] = symbol
    return made


def test_an_impurity_is_unseen_from_both_sides() -> None:
    coverage = Coverage.of([COPPER, NICKEL], 3.0)
    assert coverage.elements == {"Cu": 32, "Ni": 32}
    assert coverage.pairs == {("Cu", "Cu"): 32, ("Ni", "Ni"): 32}
    assert coverage.unseen(COPPER) == coverage.unseen(NICKEL) == []
    unseen = coverage.unseen(with_symbols(COPPER, Ni=[0]))
    assert unseen[0] == Unseen(0, "Ni", ("Cu",))
    assert len(unseen) == 13  # the atom and its twelve neighbours
    assert {(u.element, u.neighbours) for u in unseen[1:]} == {("Cu", ("Ni",))}
    assert str(unseen[0]) == "atom 0: Ni with Cu within the cutoff is not in the training set"


def test_an_unknown_element_is_named_once_and_its_neighbours_too() -> None:
    unseen = Coverage.of([COPPER], 3.0).unseen(with_symbols(COPPER, Au=[5]))
    assert [u for u in unseen if u.atom == 5] == [Unseen(5, "Au")]
    assert {u.neighbours for u in unseen if u.atom != 5} == {("Au",)}


def test_two_neighbours_seen_apart_are_known_and_counted_together() -> None:
    """Ni and Pd each in copper, far apart, then both beside the same atoms."""
    apart = [with_symbols(COPPER, Ni=[0]), with_symbols(COPPER, Pd=[0])]
    near = with_symbols(COPPER, Ni=[0], Pd=[1])
    coverage = Coverage.of([*apart, with_symbols(NICKEL, Pd=[0])], 3.0)
    assert coverage.unseen(near) == []
    assert ("Ni", "Cu", "Pd") not in coverage.triplets
    assert coverage.merge(Coverage.of([near], 3.0)).triplets["Ni", "Cu", "Pd"] == 1
    # two of a kind are another thing than one
    assert Coverage.of([apart[0]], 3.0).unseen(with_symbols(COPPER, Ni=[0, 1]))[0] == Unseen(0, "Ni", ("Ni",))


def test_merged_parts_are_the_whole_and_survive_storage() -> None:
    whole = Coverage.of([COPPER, NICKEL, molecule("H2O")], 3.0)
    parts = Coverage.of([COPPER], 3.0).merge(Coverage.of([NICKEL, molecule("H2O")], 3.0))
    assert parts == whole
    assert whole.pairs["O", "H"] == 1
    assert Coverage.from_dict(json.loads(json.dumps(whole.as_dict()))) == whole
    with pytest.raises(InvalidInputError, match=r"within 3\.0 A cannot be merged with one within 4\.0 A"):
        whole.merge(Coverage.of([COPPER], 4.0))
    with pytest.raises(InvalidInputError, match="cutoff is 0"):
        Coverage.of([COPPER], 0)


def test_periodic_images_are_neighbours() -> None:
    primitive = bulk("Cu")
    assert Coverage.of([primitive], 3.0).pairs == {("Cu", "Cu"): 1}
    assert Coverage.of([Atoms("Cu", cell=[15] * 3, pbc=True)], 3.0).pairs == {}
