"""Fixtures for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from mlip_autopipec.schemas.loop import OTFDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ase import Atoms
    from jobflow import Flow

    from mlip_autopipec.ace.potential import ACEPotential


@pytest.fixture
def memory_jobstore() -> JobStore:
    """A JobStore in memory, with the one additional store that the loop uses."""
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    return store


@pytest.fixture
def tmp_cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_loop(memory_jobstore: JobStore, tmp_path: Path) -> Callable[[Flow], OTFDocument]:
    """Run a campaign here, in ``memory_jobstore``, and return its final document."""

    def run(flow: Flow) -> OTFDocument:
        jobs = tmp_path / "jobs"
        run_locally(flow, store=memory_jobstore, create_folders=True, root_dir=jobs, log=False)
        found = memory_jobstore.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1}, load=True)
        assert found is not None, "no assessment was stored"
        return OTFDocument.model_validate(found["output"])

    return run


@pytest.fixture(scope="session")
def emt_labelled() -> Callable[[Sequence[Atoms]], list[Atoms]]:
    """A function that labels structures with EMT (eV, eV/A, eV/A^3)."""

    def label(frames: Sequence[Atoms]) -> list[Atoms]:
        labelled = []
        for frame in frames:
            probe = frame.copy()
            probe.calc = EMT()
            results = {
                "energy": probe.get_potential_energy(),
                "forces": probe.get_forces(),
                "stress": probe.get_stress(),
            }
            atoms = frame.copy()
            atoms.calc = SinglePointCalculator(atoms, **results)
            labelled.append(atoms)
        return labelled

    return label


@pytest.fixture(scope="session")
def copper_potential(emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]]) -> ACEPotential:
    """A small linear ACE for copper near equilibrium, with its active set."""
    from mlip_autopipec.ace.basis import BasisSettings
    from mlip_autopipec.ace.linear import LinearACETrainer
    from mlip_autopipec.generate.seeds import StructureGenerator

    generator = StructureGenerator(n_structures=6, n_test=0, max_atoms=32, min_width=7.0)
    frames = generator.generate([bulk("Cu", cubic=True)], seed=1)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=10))
    return trainer.train(emt_labelled(frames)).potential
