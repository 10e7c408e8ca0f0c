"""Seeds of different purposes have nothing to do with each other."""

from __future__ import annotations

from itertools import product

from mlip_autopipec.seeds import SeedPurpose, derive_seed

#: Stored campaigns were made with it: another number would change what they resume to.
EXPECTED = 790367358


def test_no_two_seeds_of_a_campaign_agree():
    """Numbers that end in zeros used to be as good as left out: walker 0 had the seed of the training of cycle 2."""
    numbers = [(), *((i,) for i in range(40)), *product(range(20), range(6))]
    seeds = {(purpose, n): derive_seed(2, purpose, *n) for purpose in SeedPurpose for n in numbers}
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= seed < 2**31 - 1 for seed in seeds.values())


def test_the_same_arguments_give_the_same_seed():
    assert derive_seed(5, SeedPurpose.WALKER, 1, 0) == derive_seed(5, SeedPurpose.WALKER, 1, 0) == EXPECTED
    assert derive_seed(6, SeedPurpose.WALKER, 1, 0) != EXPECTED
