"""The gradient trainer on real DFT numbers: silicon, 54 to 621 atoms a frame, where that data is at hand."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from paths import SHARED_DATA

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.oracle.files import read_labels_file
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

FRAMES = SHARED_DATA / "dft" / "Si_gap_17frames.extxyz"
pytestmark = [
    pytest.mark.skipif(not FRAMES.is_file(), reason=f"no real DFT frames at {FRAMES}"),
    pytest.mark.skipif(find_spec("tensorpotential") is None, reason="tensorpotential is not installed"),
]


@pytest.fixture(scope="module")
def silicon() -> list[Atoms]:
    return read_labels_file(FRAMES, "REF_energy", "REF_forces", "REF_virial")


@pytest.mark.long
def test_first_fit_and_fine_tune_on_dft(silicon: list[Atoms], tmp_path: Path) -> None:
    train, new, test = [silicon[i] for i in (0, 2, 9)], [silicon[8]], [silicon[i] for i in (3, 14)]
    trainer = PacemakerTrainer(
        basis=BasisSettings(25, cutoff=5.0, nradmax_by_orders=[8, 3], lmax_by_orders=[0, 3], ndensity=2),
        maxiter=40,
        fine_tune_maxiter=15,
    )
    first = trainer.train(train, directory=tmp_path / "first")
    held_out = compute_errors(first.potential, test)
    assert held_out is not None
    # 312 atoms of rattled crystals at 20 to 25 A^3 per atom
    assert first.train.energy_rmse_meV_atom < 10
    assert first.train.forces_rmse_meV_A < 100
    assert held_out.energy_rmse_meV_atom < 20
    assert held_out.forces_rmse_meV_A < 120
    # no isolated atom in the file: the mean energy per atom is the reference, and total energies come back
    calculator = first.potential.calculator()
    assert calculator.get_potential_energy(test[0].copy()) == pytest.approx(test[0].get_potential_energy(), abs=2)

    # another crystal, compressed to 18 A^3 per atom: unknown to gamma before, learnt after
    assert compute_gamma(first.potential, new[0]).max() > 2
    tuned = trainer.train(train, first.potential, fine_tune=True, new_labels=new, directory=tmp_path / "tuned")
    held_out = compute_errors(tuned.potential, test)
    assert tuned.new_before is not None
    assert tuned.new_after is not None
    assert held_out is not None
    assert tuned.new_after.energy_rmse_meV_atom < 0.5 * tuned.new_before.energy_rmse_meV_atom
    assert tuned.new_after.forces_rmse_meV_A < tuned.new_before.forces_rmse_meV_A
    assert held_out.forces_rmse_meV_A < 120
    assert compute_gamma(tuned.potential, new[0]).max() < 1.02
