"""A potential made elsewhere that comes without reference energies: a gradient fit goes on at its energies."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.linear_start import with_densities
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer
from mlip_autopipec.training.references import missing_energies

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec.potentials.potential import ACEPotential

TINY = BasisSettings(number_of_functions_per_element=8, cutoff=4.0, nradmax_by_orders=[4, 2], lmax_by_orders=[0, 1])
#: pacemaker's own backend, which differentiates numerically: no TensorFlow, so it starts quickly.
PYACE = {"backend": {"evaluator": "pyace"}}
EMBEDDING = {"npot": "FinnisSinclairShiftedScaled", "fs_parameters": [1, 1, 1, 0.5], "ndensity": 2}
#: Energies of isolated atoms, eV, as a DFT code has them, and of the crystal relative to them.
ATOMS, COHESIVE = {"Au": -0.3, "Cu": -1.2}, -3.5


def labels(n: int, seed: int = 0) -> list[Atoms]:
    """Cells of copper and gold: EMT, with the total energies of a DFT code."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = bulk("Cu", a=3.85, cubic=True)
        atoms.symbols[:2] = "Au"
        atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.02)), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.12, (4, 3))
        atoms.calc = EMT()
        energy = atoms.get_potential_energy() + sum(COHESIVE + ATOMS[symbol] for symbol in atoms.symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=atoms.get_forces())
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def elsewhere() -> ACEPotential:
    """Fitted to cohesive energies; those of the atoms do not come with it."""
    linear = LinearACETrainer(basis=TINY, reference_energies=ATOMS).train(labels(12)).potential
    return replace(with_densities(linear, {"Au": EMBEDDING, "Cu": EMBEDDING}), reference_energies={})


def test_a_fine_tune_begins_at_the_energies_of_the_potential(elsewhere: ACEPotential, tmp_path: Path) -> None:
    trainer = PacemakerTrainer(basis=replace(TINY, ndensity=2), fine_tune_maxiter=1, input_sections=PYACE)
    new = labels(4, seed=3)
    result = trainer.train(labels(12), elsewhere, fine_tune=True, new_labels=new, directory=tmp_path / "without")
    # a mean energy of the labels would count the cohesion that the potential has twice
    assert result.train.energy_rmse_meV_atom < 100
    assert sum(result.potential.reference_energies.values()) == pytest.approx(sum(ATOMS.values()), abs=0.2)
    trainer = replace(trainer, reference_energies=ATOMS)
    told = trainer.train(labels(12), elsewhere, fine_tune=True, new_labels=new, directory=tmp_path / "with")
    assert told.potential.reference_energies == ATOMS


def test_what_is_missing_is_fitted_and_what_fits_is_taken(
    elsewhere: ACEPotential, caplog: pytest.LogCaptureFixture
) -> None:
    some = labels(12)
    found = missing_energies(elsewhere, some, None)
    # of one composition the sum alone is known
    assert sum(found.values()) == pytest.approx(sum(ATOMS.values()), abs=0.2)
    assert missing_energies(elsewhere, some, ATOMS) == ATOMS
    assert not caplog.records
    wrong = {symbol: energy + COHESIVE for symbol, energy in ATOMS.items()}
    assert missing_energies(elsewhere, some, wrong) == found
    assert "eV/atom off those of the labels" in caplog.text
    # a potential of total energies lacks nothing, and the energies of isolated atoms do not belong to it
    whole = replace(elsewhere, reference_energies=ATOMS)
    assert missing_energies(whole, some, None) == pytest.approx(dict.fromkeys(ATOMS, 0.0), abs=0.2)
