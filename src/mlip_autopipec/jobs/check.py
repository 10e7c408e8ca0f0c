"""Check: is the potential as good as its silence about unknown territory claims? Labels it was not trained on tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mlip_autopipec.ace.accuracy import compute_errors
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.generate.distort import bare_copy
from mlip_autopipec.jobs.base import SEED_CHECK, current_store, current_uuid, derive_seed, load_document, loop_job
from mlip_autopipec.jobs.reuse import with_originals
from mlip_autopipec.schemas.label import LabelBatch, LabelDocument
from mlip_autopipec.schemas.loop import CheckDocument
from mlip_autopipec.schemas.potential import Errors, PotentialDocument
from mlip_autopipec.schemas.walk import ProposalDocument, WalkDocument

#: What labels of a check are called; they are held out until the check has failed.
CHECK = "check"


@loop_job()
def propose_check(walk_ids: Sequence[str], campaign_id: str, cycle: int, n_labels: int, seed: int) -> ProposalDocument:
    """
    Take frames from MD that ran through without a halt.

    Parameters
    ----------
    walk_ids
        uuids of the walks that ran through.
    campaign_id, cycle
        Of the loop.
    n_labels
        Number of frames: last frames of different walks first, then frames dumped on their way, whose gamma is
        above the lower threshold.
    seed
        Of the choice.
    """
    rng = np.random.default_rng(derive_seed(seed, SEED_CHECK, cycle))
    walks = [load_document(WalkDocument, walk_ids[i]) for i in rng.permutation(len(walk_ids))]
    last = [walk.final_atoms() for walk in walks]
    dumped = [frame for walk in walks for frame in walk.dumped_frames()]
    frames = [*last, *(dumped[i] for i in rng.permutation(len(dumped)))][:n_labels]
    candidates = []
    for frame in frames:
        candidate = bare_copy(frame)
        candidate.info.update(origin=CHECK, split=CHECK)
        candidates.append(candidate)
    return ProposalDocument(
        uuid=current_uuid(),
        campaign_id=campaign_id,
        cycle=cycle,
        n_candidates=len(candidates),
        origins=dict(Counter({CHECK: len(candidates)})),
        seed=seed,
        payload={"candidates": pack_frames(candidates)},
    )


@loop_job()
def measure(
    batch: LabelBatch, potential_id: str, campaign_id: str, cycle: int, relative_limit: float, floor_meV_A: float
) -> CheckDocument | None:
    """
    Compare the potential with the labels of a check.

    Parameters
    ----------
    batch
        What became of the labels.
    potential_id
        uuid of the potential.
    campaign_id, cycle
        Of the loop.
    relative_limit, floor_meV_A
        The root mean square force error may be this share of the labels' root mean square force, or this.

    Returns
    -------
    CheckDocument or None
        None when the oracle is failing.
    """
    if batch.oracle_failing:
        return None
    criteria = {"output.kind": "label", "output.campaign_id": campaign_id, "output.cycle": cycle}
    store = current_store()
    found = store.query({**criteria, "output.state": "successful"}, ["output"], sort={"output.index": 1})
    labels = with_originals([LabelDocument.model_validate(doc["output"]) for doc in found], store)
    frames = [label.to_atoms() for label in labels if label.split == CHECK]
    potential = load_document(PotentialDocument, potential_id).to_potential()
    errors = compute_errors(potential, frames)
    if errors is None:
        raise MLIPError(f"there are no labels to check the potential of cycle {cycle} with")
    forces = 1e3 * float(np.sqrt(np.mean(np.concatenate([a.get_forces().ravel() for a in frames]) ** 2)))
    limit = max(floor_meV_A, relative_limit * forces)
    return CheckDocument(
        uuid=current_uuid(),
        campaign_id=campaign_id,
        cycle=cycle,
        potential_id=potential_id,
        batch_id=batch.uuid,
        errors=Errors(**errors.as_dict()),
        forces_rms_meV_A=forces,
        limit_meV_A=limit,
        passed=errors.forces_rmse_meV_A <= limit,
    )
