"""Documents that every cycle reads are fetched once, until they change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase.build import bulk
from campaign_workers import needs_server
from jobflow import run_locally

from mlip_autopipec.active_learning.outliers import OutlierRule
from mlip_autopipec.database.disk import open_store
from mlip_autopipec.jobs import known, reuse
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.testing import stand_in_loop
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ase import Atoms
    from jobflow import JobStore


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the outputs of which models are made from now on."""
    from mlip_autopipec.jobs import dataset

    seen: list[dict[str, Any]] = []
    made_of = dataset._made_of

    def noted(output: dict[str, Any]) -> Any:
        seen.append(output)
        return made_of(output)

    noted.__qualname__ = "noted of one test"
    monkeypatch.setattr(dataset, "_made_of", noted)
    monkeypatch.setattr(known, "_kept", known._Kept())
    return seen


@pytest.fixture(params=["disk", pytest.param("server", marks=needs_server)])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobStore]:
    """A store with a campaign in it."""
    one = open_store(tmp_path / "store") if request.param == "disk" else request.getfixturevalue("configured").store
    flow = stand_in_loop().make(bulk("Cu", cubic=True), 300, campaign_id="copper")
    run_locally(flow, store=one, create_folders=True, root_dir=tmp_path, log=False)
    yield one
    if request.param == "disk":
        one.close()


def test_a_label_is_read_once_until_it_changes(stored: JobStore, read: list[dict[str, Any]]) -> None:
    first = read_labels("copper", store=stored)
    n_documents = len(read)
    assert n_documents >= len(first) >= 2
    again = read_labels("copper", store=stored)
    assert len(read) == n_documents
    assert again == first

    changed = stored.docs_store.query_one({"uuid": first[0].uuid, "output.kind": "label"})
    changed["output"]["energy_eV"] += 1.0
    changed["completed_at"] = "2030-01-01T00:00:00"
    stored.docs_store.update(changed, key=["uuid", "index"])
    third = read_labels("copper", store=stored)
    assert len(read) == n_documents + 1
    assert third[0].energy_eV == pytest.approx(first[0].energy_eV + 1.0)
    assert third[1:] == first[1:]
    assert third[0].to_atoms().get_potential_energy() == third[0].energy_eV


def test_what_labels_refer_to_is_read_once_too(
    stored: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another campaign has the labels of the first one, by reference."""
    flow = stand_in_loop().make(bulk("Cu", cubic=True), 300, campaign_id="copper again")
    run_locally(flow, store=stored, create_folders=True, root_dir=tmp_path, log=False)
    seen: list[str] = []
    original = reuse._original

    def noted(output: dict[str, Any]) -> Any:
        seen.append(output["uuid"])
        return original(output)

    noted.__qualname__ = "originals noted of one test"
    monkeypatch.setattr(reuse, "_original", noted)
    monkeypatch.setattr(known, "_kept", known._Kept())
    first = read_labels("copper again", store=stored)
    referred = {label.reused_from for label in first}
    assert len(referred) == len(first) >= 2
    assert None not in referred
    assert len(seen) == len(first)
    assert read_labels("copper again", store=stored, last_cycle=0) == [label for label in first if label.cycle == 0]
    assert read_labels("copper again", store=stored) == first
    n_of_later_cycles = sum(label.cycle > 0 for label in first)
    assert len(seen) <= len(first) + n_of_later_cycles, "those of cycle 0 were known"

    changed = stored.docs_store.query_one({"uuid": first[0].reused_from, "output.kind": "label"})
    changed["output"]["energy_eV"] += 1.0
    changed["completed_at"] = "2030-01-01T00:00:00"
    stored.docs_store.update(changed, key=["uuid", "index"])
    later = read_labels("copper again", store=stored)
    assert later[0].energy_eV == pytest.approx(first[0].energy_eV + 1.0)
    assert later[1:] == first[1:]


def test_what_is_kept_is_bounded(stored: JobStore, read: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MAX_KEPT", 10)
    first = read_labels("copper", store=stored)
    n_documents = len(read)
    assert read_labels("copper", store=stored) == first
    assert len(read) == 2 * n_documents
    assert sum(size for size, _ in known._kept._of.values()) <= 10


def test_structures_that_are_given_out_are_copies(stored: JobStore) -> None:
    label = read_labels("copper", store=stored)[0]
    atoms, untouched = label.to_atoms(), label.to_atoms()
    atoms.positions += 1.0
    atoms.cell[0, 0] = 50.0
    atoms.info["more"] = 1
    atoms.calc.results["forces"] += 1.0
    atoms.calc.results["energy"] = 0.0
    later = label.to_atoms()
    assert later == untouched
    assert later.info == untouched.info
    assert later.get_potential_energy() == untouched.get_potential_energy()
    np.testing.assert_array_equal(later.get_forces(), untouched.get_forces())
    shifted = label.model_copy(update={"energy_eV": 3.0})
    assert shifted.to_atoms().get_potential_energy() == 3.0


def test_trainers_that_say_so_leave_the_structures_as_they_are(
    emt_labelled: Callable[[Sequence[Atoms]], list[Atoms]],
) -> None:
    frames = [bulk("Cu", cubic=True) * (2, 2, 2) for _ in range(6)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    labels = emt_labelled(frames)

    def state() -> list[Any]:
        return [
            [
                sorted(atoms.info),
                {name: values.tobytes() for name, values in atoms.arrays.items()},
                atoms.cell.tobytes(),
                atoms.pbc.tolist(),
                id(atoms.calc),
                {name: np.asarray(values).tobytes() for name, values in atoms.calc.results.items()},
            ]
            for atoms in labels
        ]

    before = state()
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=20, cutoff=4.5))
    assert trainer.leaves_labels
    found = trainer.train(labels[:4], test_labels=labels[5:])
    trainer.train(labels[:4], found.potential, fine_tune=True, new_labels=labels[4:5], test_labels=labels[5:])
    OutlierRule().judge(found.potential, labels[4:5], labels[:4], [])
    assert state() == before
