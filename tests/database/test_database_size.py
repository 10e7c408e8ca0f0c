"""Documents stay small where walkers and batches are large; at full size in benchmarks/document_sizes.py."""

from __future__ import annotations

from dataclasses import dataclass

import bson
import numpy as np
import pytest
from ase.build import bulk
from jobflow import run_locally
from jobflow.managers.fireworks import job_to_firework

from mlip_autopipec import OracleMaker
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.base import current_uuid, loop_job
from mlip_autopipec.oracle.vasp import isolated_atom_maker, vasp_static_maker
from mlip_autopipec.schemas.walk import ProposalDocument
from mlip_autopipec.testing import ScriptedDynamicsMaker, stand_in_loop

MB = 1_000_000
MONGODB_LIMIT = 16 * 1024**2
COPPER = bulk("Cu", cubic=True)


@dataclass
class DumpingDynamicsMaker(ScriptedDynamicsMaker):
    """A walk that dumps frames."""

    n_frames: int = 0

    def explore(self, walker, potential, atoms, restart_file):
        result = super().explore(walker, potential, atoms, restart_file)
        for step in range(self.n_frames):
            frame = atoms.copy()
            frame.rattle(0.1, seed=step)
            frame.info = {"step": step}
            result.frames.append(frame)
        return result


def sizes_of(store) -> dict[str, int]:
    return {doc["name"]: len(bson.encode(doc)) for doc in store.query()}


def test_a_document_does_not_grow_with_the_frames_of_large_walkers(memory_jobstore, tmp_path):
    sizes = []
    for n_frames in (0, 30):
        maker = stand_in_loop(dynamics_maker=DumpingDynamicsMaker(n_frames=n_frames))
        flow = maker.make(COPPER.repeat(10), 1000, campaign_id=f"{n_frames:02d} frames")
        run_locally(flow, store=memory_jobstore, create_folders=True, root_dir=tmp_path, log=False, ensure_success=True)
        sizes.append(sizes_of(memory_jobstore))
        memory_jobstore.docs_store.remove_docs({})
    without, with_frames = sizes
    assert with_frames["explore c000 w00"] == pytest.approx(without["explore c000 w00"], abs=20)
    assert max(with_frames.values()) < MB / 2, with_frames
    blobs = [len(bson.encode(blob)) for blob in memory_jobstore.additional_stores["data"].query()]
    assert max(blobs) > 3 * MB


@loop_job()
def propose(n: int) -> ProposalDocument:
    rng = np.random.default_rng(0)
    frames = [COPPER.copy() for _ in range(n)]
    for frame in frames:
        frame.rattle(0.05, rng=rng)
        frame.info = {"origin": "displacement"}
    payload = {"candidates": pack_frames(frames)}
    return ProposalDocument(uuid=current_uuid(), n_candidates=n, origins={"displacement": n}, seed=0, payload=payload)


def test_a_thousand_labels_with_vasp_can_be_requested_at_once(memory_jobstore):
    """FireWorks keeps all that a job appends in one launch document."""
    oracle = OracleMaker(static_maker=vasp_static_maker(), atom_maker=isolated_atom_maker())
    bytes_for = []
    for n in (10, 30):
        proposal = propose(n)
        proposal.run(memory_jobstore)
        firework = job_to_firework(oracle.make(proposal.output, "campaign", 0), memory_jobstore)
        action = firework.tasks[0].run_task({})
        (workflow,) = action.detours
        assert sum(" c000 " in one.name for one in workflow.fws) == n
        bytes_for.append(len(bson.encode(action.to_dict())))
    per_label = (bytes_for[1] - bytes_for[0]) / 20
    assert 1000 * per_label < MONGODB_LIMIT
