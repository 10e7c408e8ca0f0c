"""The benchmark beside a peer: its elastic constants and phonons are those that other code finds."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import _c
from paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("head_to_head")
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in ("head_to_head", "label_efficiency", "biased_md", "_peers", "_teachers"):
        sys.modules.pop(name, None)


def test_properties_by_central_differences(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Cu", a=3.61, cubic=True)
    frames = [benchmark.labelled(frame, EMT()) for frame in benchmark.property_frames(atoms)]
    assert len(frames) == 12 + 6 * len(atoms)
    constants = benchmark.elastic_constants(frames)
    assert constants == pytest.approx(constants.T, abs=1.0)
    # the bulk modulus of EMT copper, from its energies
    volumes, energies = [], []
    for scale in np.linspace(0.995, 1.005, 7):
        cell = atoms.copy()
        cell.set_cell(cell.cell * scale, scale_atoms=True)
        cell.calc = EMT()
        volumes.append(cell.get_volume())
        energies.append(cell.get_potential_energy())
    bulk_modulus = 2 * np.polyfit(volumes, energies, 2)[0] * atoms.get_volume() * benchmark.EV_A3_IN_GPA
    assert constants[:3, :3].mean() == pytest.approx(bulk_modulus, rel=0.03)
    frequencies = benchmark.phonons(frames)
    moving = atoms.copy()
    moving.calc = EMT()
    from ase.vibrations import Vibrations  # imports matplotlib

    vibrations = Vibrations(moving, delta=benchmark.STEP_A)
    vibrations.run()
    expected = vibrations.get_frequencies()[3:].real * 100 * _c / 1e12  # 1/cm to THz
    assert frequencies[3:] == pytest.approx(expected, rel=1e-3)
    assert frequencies[:3] == pytest.approx(np.zeros(3), abs=0.05)


def test_frames_of_the_oracle_itself_have_no_errors(benchmark: ModuleType) -> None:
    atoms = bulk("Cu", a=3.61, cubic=True)
    frames = [benchmark.labelled(frame, EMT()) for frame in [atoms, *benchmark.property_frames(atoms)]]
    assert benchmark.errors_of(frames, frames, 1) == dict.fromkeys(benchmark.COLUMNS, 0.0)


def test_sets_of_labels_all_have_the_first_ones(benchmark: ModuleType) -> None:
    first, bought, pool = ["a", "b"], ["x", "y", "z"], list(range(10))
    sets = dict(benchmark.label_sets(first, 0, pool, bought, [2, 5, 20]))
    assert all(labels[:2] == first for labels in sets.values())
    assert sets.pop("the loop") == [*first, *bought]
    # a budget above the pool is left out, and a larger set has the smaller ones in it
    assert {name: len(labels) for name, labels in sets.items()} == {
        "as many random": 5,
        "2 random": 4,
        "5 random": 7,
    }
    assert sets["5 random"][:5] == sets["as many random"]
    assert sets["as many random"][:4] == sets["2 random"]


def test_a_peer_that_fails_is_an_error_with_its_last_words(benchmark: ModuleType, tmp_path: Path) -> None:
    peers = sys.modules["_peers"]
    with pytest.raises(RuntimeError, match=r"ended with 3: .*these words"):
        peers.run([sys.executable, "-c", "print('these words'); raise SystemExit(3)"], tmp_path)
    assert peers.has_flare_loop(benchmark.SYSTEMS["copper-gold"]())
    assert not peers.has_flare_loop(benchmark.SYSTEMS["MgO"]())
