"""The basis of an alloy of many elements."""

from __future__ import annotations

import pytest

from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training.ladder import rungs_within

ALLOY = ["Ag", "Au", "Cu", "Ni", "Pd"]


def blocks(settings: BasisSettings, elements: list[str]) -> set[int]:
    return {block.number_of_species for block in settings.configuration(elements).funcspecs_blocks}


def test_functions_of_many_elements_go_to_the_pairs():
    configuration = BasisSettings(number_of_functions_per_element=100, cutoff=5.0).configuration(ALLOY)
    pairs = [b for b in configuration.funcspecs_blocks if b.number_of_species == 2]
    assert {block.number_of_species for block in configuration.funcspecs_blocks} == {1, 2}
    assert len(pairs) == 20
    assert all(len(block.funcspecs) >= 20 for block in pairs)


def test_few_elements_keep_their_triplets():
    assert blocks(BasisSettings(number_of_functions_per_element=20, cutoff=5.0), ALLOY[:3]) == {1, 2, 3}


def test_a_shape_that_is_given_stays():
    given = BasisSettings(5, 5.0, nradmax_by_orders=[4, 2], lmax_by_orders=[0, 1])
    assert blocks(given, ALLOY[:4]) == {1, 2, 3, 4}


@pytest.mark.parametrize(("n_elements", "largest"), [(1, 1200), (2, 600), (3, 750), (4, 600), (5, 320), (7, 320)])
def test_how_large_the_basis_of_an_alloy_may_grow(n_elements: int, largest: int):
    atoms_of = dict.fromkeys(range(n_elements), 100_000)
    assert rungs_within({str(e): n for e, n in atoms_of.items()})[-1] == largest
