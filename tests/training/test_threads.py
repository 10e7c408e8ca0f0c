"""However many threads linear algebra is given, a campaign goes on from the same numbers to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from threadpoolctl import threadpool_info, threadpool_limits

from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.modes import normal_modes
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from collections.abc import Callable


def in_each(make: Callable[[], bytes]) -> set[bytes]:
    found = set()
    for n in (1, 2):
        with threadpool_limits(n, user_api="blas"):
            if {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"} != {n}:
                pytest.skip(f"this library of linear algebra cannot have {n} threads")
            found.add(make())
    return found


def test_fits() -> None:
    """Two threads gave another potential of the same labels, and so other MD: seen with one worker and with two."""
    labels = []
    for seed in range(12):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.rattle(0.05 + 0.01 * seed, seed=seed)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        labels.append(atoms)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=200, cutoff=4.5))

    def fitted() -> bytes:
        potential = trainer.train(labels).potential
        return potential.yaml.encode() + b"".join(potential.active_set_inverse[e].tobytes() for e in ("Cu",))

    assert len(in_each(fitted)) == 1


def test_normal_modes() -> None:
    atoms = bulk("Ar", cubic=True) * (3, 3, 2)
    atoms.rattle(0.01, seed=1)
    calculator = LennardJones(sigma=3.4, epsilon=0.01, rc=8.0)

    def patterns() -> bytes:
        return normal_modes(atoms, calculator).patterns.tobytes()

    assert len(in_each(patterns)) == 1
