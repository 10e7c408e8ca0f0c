"""
A pytest plugin: run campaigns in memory and look at what they stored.

Switched on in the ``conftest.py`` of a package built on this one, with
``pytest_plugins = ["mlip_autopipec.testing.fixtures"]``. See docs/testing.md.

Everything heavy is imported when a fixture is first used, so that the plugin can be loaded before the variables of
the stand-in for VASP are set, which atomate2 and pymatgen read when they are imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ase import Atoms
    from jobflow import Flow, Job, JobStore

    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.schemas.base import Document
    from mlip_autopipec.schemas.loop import OTFDocument

DocumentType = TypeVar("DocumentType", bound="Document")


class ReadDocuments(Protocol):
    """Reads the documents of one class; see :func:`stored_documents`."""

    def __call__(self, model: type[DocumentType]) -> list[DocumentType]:
        """Return them in the order in which they were made."""


@pytest.fixture
def memory_jobstore() -> JobStore:
    """Make a JobStore in memory, with the one additional store that the loop uses."""
    from jobflow import JobStore
    from maggma.stores import MemoryStore

    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    return store


@pytest.fixture
def tmp_cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def events(tmp_path: Path) -> str:
    """Absolute path of a log of events for the stand-ins; :func:`~mlip_autopipec.testing.read_events` reads it."""
    return str(tmp_path / "events.log")


@pytest.fixture
def run_flow(memory_jobstore: JobStore, tmp_path: Path) -> Callable[[Flow | Job], Any]:
    """
    Run a flow or job here, in ``memory_jobstore``, and return its output.

    Jobs that fail are left to the flow; an output that nothing made is a ``ValueError``. Jobs run in folders of their
    own below ``tmp_path / "jobs"``.
    """
    from jobflow import run_locally
    from jobflow.core.reference import find_and_resolve_references

    def run(flow: Flow | Job) -> Any:
        run_locally(flow, store=memory_jobstore, create_folders=True, root_dir=tmp_path / "jobs", log=False)
        return find_and_resolve_references(flow.output, memory_jobstore)

    return run


@pytest.fixture
def run_loop(run_flow: Callable[[Flow | Job], Any]) -> Callable[[Flow], OTFDocument]:
    """Run a campaign here, in ``memory_jobstore``, and return its final document."""
    from mlip_autopipec.schemas.loop import OTFDocument

    def run(flow: Flow) -> OTFDocument:
        return OTFDocument.model_validate(run_flow(flow))

    return run


@pytest.fixture
def stored_documents(memory_jobstore: JobStore) -> ReadDocuments:
    """Make a function that reads all documents of one class, e.g. ``WalkDocument``, from the store, in order."""

    def read(model: type[DocumentType]) -> list[DocumentType]:
        kind = model.model_fields["kind"].default
        found = memory_jobstore.query({"output.kind": kind}, ["output"], sort={"completed_at": 1}, load=True)
        return [model.model_validate(doc["output"]) for doc in found]

    return read


@pytest.fixture(scope="session")
def emt_labelled() -> Callable[[Sequence[Atoms]], list[Atoms]]:
    """Make a function that labels structures with EMT (eV, eV/A, eV/A^3)."""
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

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
    """Train a small linear ACE for copper near equilibrium on EMT, with its active set."""
    from ase.build import bulk

    from mlip_autopipec.potentials.basis import BasisSettings
    from mlip_autopipec.sampling.seeds import StructureGenerator
    from mlip_autopipec.training.linear import LinearACETrainer

    generator = StructureGenerator(n_structures=6, n_test=0, max_atoms=32, min_width=7.0)
    frames = generator.generate([bulk("Cu", cubic=True)], seed=1)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=10))
    return trainer.train(emt_labelled(frames)).potential
