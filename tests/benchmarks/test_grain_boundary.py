"""The benchmark of cut-outs: the force on a centre converges with the size of its cut-out."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from paths import ROOT

from mlip_autopipec.cutouts.cutout import CutoutGenerator

if TYPE_CHECKING:
    from ase import Atoms

SCRIPT = ROOT / "benchmarks/grain_boundary.py"


def hot_copper(repeat: int = 8, sigma: float = 0.1, seed: int = 1) -> Atoms:
    atoms = bulk("Cu", cubic=True, a=3.63).repeat(repeat)
    atoms.rattle(sigma, seed=seed)
    return atoms


@pytest.mark.long
def test_forces_converge_with_the_buffer(copper_potential, monkeypatch):
    spec = importlib.util.spec_from_file_location("grain_boundary", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, benchmark)  # its dataclasses look for their module
    spec.loader.exec_module(benchmark)
    atoms = hot_copper(6, sigma=0.08)
    quick = CutoutGenerator(relax_steps=3)
    points = benchmark.buffer_convergence(atoms, copper_potential, 0, ratios=(1.0, 1.5, 2.0), generator=quick)
    changes = [p.change for p in points]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 1e-4
    assert changes[-1] < 1e-10
    assert [p.n_atoms for p in points] == sorted(p.n_atoms for p in points)
    assert all(p.width >= 2 * p.core_radius for p in points)
    assert "100" not in repr(points[0])
    by_emt = benchmark.buffer_convergence(atoms, copper_potential, 0, EMT(), ratios=(1.0, 1.5), generator=quick)
    assert by_emt[1].change < 0.1 * by_emt[0].change
