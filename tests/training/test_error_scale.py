"""Error bars are scaled by how wrong potentials were about labels that they had not seen."""

from __future__ import annotations

import numpy as np
import pytest

from mlip_autopipec.training.error_scale import ExpectedError, scale_to_fresh


def pairs(n, factor, seed=0):
    rng = np.random.default_rng(seed)
    return [
        ExpectedError(0.002, abs(0.002 * factor * rng.normal()), 0.05, 0.05 * factor * rng.uniform(0.8, 1.2))
        for _ in range(n)
    ]


def test_many_pairs_give_the_factor_and_few_only_a_part_of_it():
    many, few = scale_to_fresh(pairs(400, 3.0)), scale_to_fresh(pairs(2, 3.0))
    assert many.forces == pytest.approx(3.0, rel=0.05)
    assert many.energy == pytest.approx(3.0, rel=0.2)
    assert 1.0 < few.forces < 2.0
    assert scale_to_fresh([]) == (1.0, 1.0, 1.0)


def test_one_frame_far_from_all_others_decides_nothing():
    wild = ExpectedError(0.002, 50.0, 0.05, 500.0)
    assert scale_to_fresh([*pairs(20, 1.0), wild]).forces == pytest.approx(1.0, abs=0.1)


def test_bars_of_zero_are_left_out():
    assert scale_to_fresh([ExpectedError(0.0, 0.1, 0.0, 0.1)] * 8) == (1.0, 1.0, 1.0)
