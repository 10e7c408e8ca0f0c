"""The walkers of a campaign: how they are made, wait for each other, and are sent on together."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from mlip_autopipec.lammps.types import HaltVerdict
from mlip_autopipec.loop.walkers import Event, State, happened, state_of
from mlip_autopipec.schemas.loop import WalkerState
from mlip_autopipec.seeds import SeedPurpose, derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.schemas.campaign import CampaignDocument

#: After so many explosions in a row, not counting the first, a walker restarts with a new seed.
_EXPLOSIONS = 1


def begun_anew(walkers: Sequence[WalkerState], seed: int) -> list[WalkerState]:
    """Let walkers take other ways; those that still wait for the rung below go on waiting."""
    return [w if state_of(w) is State.WAITING else happened(w, Event.BEGUN_ANEW, seed=seed) for w in walkers]


def completed_begun_anew(walkers: Sequence[WalkerState], seed: int) -> list[WalkerState]:
    """Let walkers that have completed take other ways."""
    return [happened(w, Event.BEGUN_ANEW, seed=seed) if state_of(w) is State.CONVERGED else w for w in walkers]


def is_proven(walker: WalkerState, potential_id: str | None) -> bool:
    """Whether a walker did its whole length from its start with this potential (its uuid), without a halt."""
    return state_of(walker) is State.CONVERGED and walker.only_potential_id == potential_id


def sent_to_proof(walkers: Sequence[WalkerState], potential_id: str | None, seed: int) -> list[WalkerState]:
    """Let completed walkers that are not proven with this potential run once more from their start."""
    return [
        happened(w, Event.PROOF, seed=seed) if state_of(w) is State.CONVERGED and not is_proven(w, potential_id) else w
        for w in walkers
    ]


def given_another_way(walker: WalkerState, seed: int) -> WalkerState:
    """Restart a walker that explodes repeatedly with a new seed, since its last valid frame leads to the explosion."""
    if walker.verdict is not HaltVerdict.EXPLOSION or walker.n_repeats < _EXPLOSIONS:
        return walker
    anew = happened(walker, Event.BEGUN_ANEW, seed=seed)
    return anew.model_copy(update={"n_repeats": walker.n_repeats, "stuck_at": max(walker.step, walker.stuck_at)})


def extended(walkers: Sequence[WalkerState], n_steps: int) -> list[WalkerState]:
    """Give the walkers of a campaign a new chance; those that are done go on if MD became longer than they went."""
    return [happened(w, Event.LENGTHENED if w.step < n_steps else Event.EXTENDED) for w in walkers]


def next_rungs_released(walkers: Sequence[WalkerState]) -> list[WalkerState]:
    """Let those walkers run whose rung below is done."""
    done = {w.index for w in walkers if state_of(w) is State.CONVERGED}
    return [happened(w, Event.RELEASED) if state_of(w) is State.WAITING and w.after in done else w for w in walkers]


def new_walkers(
    task: CampaignDocument, start_id: str, seed: int, walkers: Sequence[WalkerState] = (), *, biased: bool = False
) -> list[WalkerState]:
    """
    Make a walker for each structure and condition of a campaign.

    Parameters
    ----------
    task
        What is asked for.
    start_id
        uuid of the document that holds its structures.
    seed
        Of the campaign.
    walkers
        Those there are already; their structures and conditions are left out.
    biased
        Whether they begin with a biased walk.
    """
    volumes_A3 = [atoms.get_volume() for atoms in task.structures()]
    known = [(walker.start_index, walker.condition) for walker in walkers]
    wanted = [pair for pair in product(range(len(task.formulas)), task.conditions) if pair not in known]
    return [
        WalkerState(
            index=i,
            formula=task.formulas[k],
            condition=condition,
            seed=derive_seed(seed, SeedPurpose.WALKER, i, 0),
            start_id=start_id,
            start_index=k,
            start_volume_A3=volumes_A3[k],
            biased=biased,
        )
        for i, (k, condition) in enumerate(wanted, start=len(walkers))
    ]


def as_ladders(walkers: Sequence[WalkerState]) -> list[WalkerState]:
    """
    Let each new walker wait for the one before it in the same structure.

    Parameters
    ----------
    walkers
        In the order of the rungs; those that have been run stay as they are.
    """
    last: dict[int, int] = {}
    rungs = []
    for walker in walkers:
        below = last.get(walker.start_index)
        last[walker.start_index] = walker.index
        waits = below is not None and walker.status == "PENDING" and walker.walk_id is None
        rungs.append(walker.model_copy(update={"status": "WAITING", "after": below}) if waits else walker)
    return next_rungs_released(rungs)
