"""Errors on MD of the oracle are compared with what was asked for."""

from __future__ import annotations

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.database.validation import OracleWalk, read_errors, store_errors
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.validation.targets import AccuracyTargets


def labelled(seed: int, size: float):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(size, seed=seed)
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.mark.parametrize("asked", [None, "met", "not met"])
def test_errors_above_what_is_asked_for_are_told(memory_jobstore, asked):
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
    potential = trainer.train([labelled(seed, 0.05) for seed in range(4)]).potential
    document = PotentialDocument.from_potential(potential, uuid="p", campaign_id="c", cycle=0)
    runs = [OracleWalk(0, "start", [labelled(seed, 0.1) for seed in (10, 11)])]
    error = store_errors(memory_jobstore, document, runs).errors.forces_rmse_meV_A
    factor = {None: None, "met": 1.1, "not met": 0.9}[asked]
    targets = None if factor is None else AccuracyTargets(forces_meV_A=factor * error, energy_meV_atom=1e6)
    store_errors(memory_jobstore, document, runs, targets)
    found = read_errors(memory_jobstore, "c", "p")
    if asked == "not met":
        assert found.above == [f"forces {error:.3g} meV/A, limit {0.9 * error:.3g}"]
        assert f"above what is asked for: forces {error:.3g} meV/A" in found.describe()
    else:
        assert found.above == []
        assert "above" not in found.describe()
