"""Axes and panels of the report that a reader can read."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
import pytest
from ase.build import bulk

from mlip_autopipec.report.labels import _concluded
from mlip_autopipec.report.panels import log_ticks, make_logarithmic, new_figure, number_cycles
from mlip_autopipec.report.structures import _aspect, _view
from mlip_autopipec.schemas.walk import WalkDocument


@pytest.mark.parametrize("low", [1e-6, 0.0031, 0.8, 2.0, 37.0, 9e4])
@pytest.mark.parametrize("ratio", [1.05, 1.3, 2.0, 4.0, 12.0, 90.0, 900.0, 2e4, 1e6, 1e9, 1e14])
def test_logarithmic_axes_have_ticks_that_do_not_overlap(low, ratio):
    high = low * ratio
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 10, ticks
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)
    places = np.log10(ticks)
    assert np.diff(places).min() > 0.04 * math.log10(ratio)  # of the length of the axis


def test_the_axis_of_one_value_has_ticks_too():
    figure = new_figure("a", "b")
    make_logarithmic(figure, y=[3.2])
    axis = figure.layout.yaxis
    assert 10 ** axis.range[0] < 3.2 < 10 ** axis.range[1]
    assert len(axis.tickvals) >= 2


def test_one_cycle_is_not_shown_between_minus_one_and_one():
    for cycles in ([0], [0, 1, 2], list(range(200))):
        figure = go.Figure()
        number_cycles(figure, cycles)
        axis = figure.layout.xaxis
        assert tuple(axis.range) == (-0.5, cycles[-1] + 0.5)
        assert axis.dtick == int(axis.dtick) >= 1
        assert (axis.range[1] - axis.range[0]) / axis.dtick < 17


def test_tall_cells_are_within_the_picture():
    for points in (np.array([[0, 0, 0], [5, 5, 60]]), np.array([[0, 0, 0], [90, 3, 3]]), np.eye(3)):
        sides = _aspect(points.astype(float))
        assert max(sides.values()) == pytest.approx(1.3)
        assert min(sides.values()) > 0.05


def test_elements_are_told_apart_by_shape_and_legend():
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.set_array("gamma", np.linspace(0, 5, len(atoms)))
    walk = WalkDocument.model_construct(atom_index=3, n_atoms=8)
    figure = _view(atoms, walk, 100)
    named = [trace for trace in figure.data if trace.showlegend]
    assert {trace.name for trace in named} == {"Na", "Cl"}
    assert len({trace.marker.symbol for trace in named}) == 2
    assert sum(len(trace.x) for trace in named) == 8
    alone = _view(bulk("Cu", cubic=True), walk, 100)
    assert not [trace for trace in alone.data if trace.showlegend]


def test_a_rank_correlation_has_a_conclusion():
    assert "does not tell large errors from small ones" in _concluded(-0.05)
    assert "only roughly" in _concluded(0.4)
    assert _concluded(0.8).startswith("gamma tells which")
