"""What the walkers do at the beginning of a cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip_autopipec.loop.campaign_walkers import begun_anew, completed_begun_anew, given_another_way, sent_to_proof
from mlip_autopipec.schemas.loop import learns_failed_check

if TYPE_CHECKING:
    from mlip_autopipec.loop.stop_rule import StopRule
    from mlip_autopipec.schemas.loop import LoopState


def next_cycle(rule: StopRule, state: LoopState) -> LoopState:
    """
    Return the state a cycle works with.

    Parameters
    ----------
    rule
        When the loop ends.
    state
        After the cycle before.
    """
    walkers = [given_another_way(walker, state.seed) for walker in state.walkers]
    if learns_failed_check(state):  # documents of earlier versions have them begun anew already
        walkers = completed_begun_anew(walkers, state.seed)
    state = state.model_copy(update={"cycle": state.cycle + 1, "walkers": walkers})
    if state.untrained_batch_id is not None or rule.needs_check(state) or any(w.is_due for w in walkers):
        return state
    if rule.unproven(state):
        return state.model_copy(update={"walkers": sent_to_proof(walkers, state.potential_id, state.seed)})
    # a custom stop rule may require more than one completed run of each
    return state.model_copy(update={"walkers": begun_anew(walkers, state.seed)})
