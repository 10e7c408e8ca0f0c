"""The campaign that is killed, and what has to be true of it whatever happened on the way."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.build import bulk

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.reuse import CLAIMS, collection_beside
from mlip_autopipec.managers.worker import OUTPUT
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.testing import (
    Halt,
    ScriptedDynamicsMaker,
    StandInOracleMaker,
    StandInProposeMaker,
    read_events,
    stand_in_loop,
)
from mlip_autopipec.testing.events import record_event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from jobflow import Flow, JobStore

    from mlip_autopipec.lammps.types import ExplorationResult
    from mlip_autopipec.oracle.extracted import ExtractedLabel
    from mlip_autopipec.schemas.loop import WalkerState
    from mlip_autopipec.schemas.potential import PotentialDocument

CAMPAIGN = "killed"

#: A job of each kind there is in a campaign, at its first, second or last cycle.
KINDS = {
    "record": "record campaign",
    "generate": "generate c000",
    "request": "request labels c001",
    "label": "label c001 001",
    "count": "count labels c000",
    "train": "train c001",
    "propose": "propose c001 w01",
    "select": "select c002",
    "explore": "explore c001 w00",
    "assess": "assess c001",
}

#: Kinds in the order in which a campaign comes to these jobs.
IN_ORDER = ["record", "generate", "count", "propose", "request", "label", "train", "explore", "assess", "select"]


@dataclass
class NamingOracleMaker(StandInOracleMaker):
    """Effective medium theory that also notes the key of each label it has computed."""

    def compute(self, atoms: Atoms) -> ExtractedLabel:
        """Label one structure."""
        label = super().compute(atoms)
        record_event(self.events, f"label {self.key_of(atoms)}")
        return label


@dataclass
class DumpingDynamicsMaker(ScriptedDynamicsMaker):
    """
    A script whose first walk also dumps frames.

    Parameters
    ----------
    dumped_bytes
        How much the positions in them take.
    """

    dumped_bytes: int = 0

    def explore(
        self, walker: WalkerState, potential: PotentialDocument, atoms: Atoms | None, restart_file: str | None
    ) -> ExplorationResult:
        """Follow the script."""
        result = super().explore(walker, potential, atoms, restart_file)
        if self.dumped_bytes and walker.index == 0 and walker.walk_id is None:
            n_atoms = self.dumped_bytes // 240
            for seed in range(10):
                positions = np.random.default_rng(seed).random((n_atoms, 3))
                frame = Atoms(f"Cu{n_atoms}", positions, cell=[1, 1, 1])
                frame.info |= {"step": seed, "gamma_max": 0.5}
                result.frames.append(frame)
        return result


def make_campaign(events: Path, campaign_id: str = CAMPAIGN, dumped_bytes: int = 0) -> Flow:
    """Two walkers; one halts once and the other twice: 31 jobs, 8 labels."""
    halts = [Halt(step=100), Halt(step=250, walker=1)]
    generator = StructureGenerator(n_structures=1, n_test=1, max_atoms=8)
    maker = stand_in_loop(
        str(events),
        generate_maker=GenerateMaker(generator=generator),
        dynamics_maker=DumpingDynamicsMaker(halts=halts, dumped_bytes=dumped_bytes),
        propose_maker=StandInProposeMaker(n_samples=2),
        oracle_maker=NamingOracleMaker(physics="emt"),
    )
    return maker.make(bulk("Cu", cubic=True), [300, 600], campaign_id=campaign_id)


def next_flow(store: JobStore, events: Path, campaign_id: str = CAMPAIGN, dumped_bytes: int = 0) -> Flow | None:
    """Return what a user would run next: the campaign, what is left of it, or nothing."""
    if store.query_one({"output.kind": "campaign", "output.campaign_id": campaign_id}, ["uuid"]) is None:
        return make_campaign(events, campaign_id, dumped_bytes)
    try:
        return OTFMaker.resume(campaign_id, store)
    except InvalidInputError as error:
        if "has ended: CONVERGED" not in str(error):
            raise
        return None


def final_of(store: JobStore, campaign_id: str = CAMPAIGN) -> OTFDocument:
    """Return the assessment a campaign ended with."""
    found = assessments(store, campaign_id)
    assert found, "no assessment was stored"
    return max(found, key=lambda document: document.cycle)


def assessments(store: JobStore, campaign_id: str = CAMPAIGN) -> list[OTFDocument]:
    """Return all of them."""
    criteria = {"output.kind": "loop", "output.campaign_id": campaign_id}
    return [OTFDocument.model_validate(doc["output"]) for doc in store.query(criteria, ["output"])]


def dataset(store: JobStore, campaign_id: str = CAMPAIGN) -> list[tuple[Any, ...]]:
    """Return what a potential is trained on, to the last bit, and what asked for it."""
    rows = []
    for label in read_labels(campaign_id, store=store):
        atoms = label.to_atoms()
        arrays = [atoms.positions, atoms.cell.array, atoms.get_forces(), atoms.get_stress()]
        what = (label.cycle, label.index, label.split, label.origin, label.walker, label.gamma, label.key)
        rows.append((*what, label.energy_eV.hex(), str(atoms.symbols), *(a.tobytes() for a in arrays)))
    return rows


def without_ids(document: OTFDocument) -> dict[str, Any]:
    """Return what an assessment says, without what is another one in each run: ids and times."""
    return {
        **document.model_dump(include={"status", "n_cycles", "n_labels", "n_halts", "n_failed_labels", "seed"}),
        "walkers": [walker.model_dump(exclude={"walk_id", "start_id"}) for walker in document.walkers],
    }


def computed_keys(events: Path) -> list[str]:
    """Return the keys of the labels that were computed, in order."""
    return [event.split()[1] for event in read_events(events) if re.fullmatch(r"label [0-9a-f]{64}", event)]


def stored_keys(store: JobStore) -> set[str]:
    """Return the keys of the labels that are safe."""
    criteria = {"output.kind": "label", "output.state": "successful", "output.reused_from": None}
    return {doc["output"]["key"] for doc in store.query(criteria, ["output.key"])}


@dataclass(frozen=True)
class Expected:
    """What comes out if nothing happens."""

    final: dict[str, Any]
    labels: list[tuple[Any, ...]]


class Ledger:
    """
    Which labels are safe at which moment: none of them may be computed again.

    Parameters
    ----------
    events
        Log of events of all campaigns of a store.
    """

    def __init__(self, events: Path) -> None:
        self.events = events
        self.pages: list[tuple[int, set[str]]] = []

    def note(self, store: JobStore) -> None:
        """Note what is stored now."""
        safe = stored_keys(store)
        # read after the store: whatever is stored was computed, and noted, before
        self.pages.append((len(computed_keys(self.events)), safe))

    def check(self, store: JobStore, interrupted: int | Collection[str]) -> None:
        """
        Find labels that were computed more often than they may have been, or are lost.

        Parameters
        ----------
        store
            At the end.
        interrupted
            Most labels that may have been computed and lost with their process, or names of jobs of which this is
            known.
        """
        computed = computed_keys(self.events)
        for n_before, safe in self.pages:
            again = safe & set(computed[n_before:])
            assert not again, "a label was computed again although its document was stored"
        twice = {key: n - 1 for key, n in Counter(computed).items() if n > 1}
        if isinstance(interrupted, int):
            assert sum(twice.values()) <= interrupted, f"labels were computed twice: {twice}"
        else:
            assert sum(twice.values()) == len(interrupted), f"{interrupted} were lost, {twice} were computed again"
        assert set(computed) <= stored_keys(store), "a label that was computed is not in the store"


def check_campaign(
    store: JobStore, expected: Expected, campaign_id: str = CAMPAIGN, said: Callable[[], str] = str
) -> None:
    """Compare a campaign with one that nothing happened to."""
    final = final_of(store, campaign_id)
    assert final.status == "CONVERGED"
    criteria = {"output.kind": "labels", "output.campaign_id": campaign_id}
    failed = [doc["output"]["failed"] for doc in store.query(criteria, ["output.failed"])]
    assert not any(failed), f"{failed}\n{said()}"
    assert without_ids(final) == expected.final
    assert dataset(store, campaign_id) == expected.labels
    cycles = Counter(document.cycle for document in assessments(store, campaign_id))
    assert cycles == dict.fromkeys(range(final.n_cycles + 1), 1), "the loop went on more than once from a cycle"
    assert all(document.campaign_id == campaign_id for document in assessments(store, campaign_id))
    assert claims(store) == [], "a claim on a label was left behind"


def claims(store: JobStore) -> list[dict[str, Any]]:
    """Return the claims on labels; there are none in a store in memory."""
    collection = collection_beside(store, CLAIMS)
    return [] if collection is None else list(collection.find())


def files_left(folder: Path) -> list[str]:
    """Return the files in a run folder that are neither the store nor inside of a job's own folder."""
    known = {"store/documents.sqlite", "store/data.sqlite"}
    files = (path for path in folder.rglob("*") if path.is_file())
    # a worker that was killed leaves the file for what its job prints
    found = [path.relative_to(folder) for path in files if path.name != OUTPUT or path.stat().st_size]
    return sorted(str(path) for path in found if str(path) not in known)
