"""Walkers whose last halt is a state that their temperature does not lead to, by the labels of that halt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlip_autopipec.jobs.base import current_store, load_document
from mlip_autopipec.jobs.dataset import in_batch
from mlip_autopipec.lammps.types import HaltReason
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.loop import NO_LABELS, ThrownAway
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.structures.periodicity import boxed
from mlip_autopipec.structures.thermal import rise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.schemas.label import LabelBatch
    from mlip_autopipec.schemas.loop import LoopState, WalkerState
    from mlip_autopipec.schemas.potential import PotentialDocument

#: Halts at which atoms have left: gamma is blind there, and the last valid frame leads to the same.
LEFT = (HaltReason.EVAPORATION,)
#: Halts at structures that a wrong potential may have broken, other than those that are merely new: an oracle that does
#: not converge there is not to blame, until it has happened so often to a walker.
BROKEN = frozenset(HaltReason) - {HaltReason.GAMMA, HaltReason.UNSEEN}
_PATIENCE = 2


def out_of_reach(
    state: LoopState,
    walkers: Sequence[int],
    walks: Sequence[WalkDocument | None],
    potential: PotentialDocument | None,
    batch: LabelBatch | None,
) -> list[ThrownAway]:
    """
    Find the walkers that are to be rolled back after a halt that has been labelled.

    These are halts at which atoms left the structure, and frames whose energy is out of thermal reach. The energy of
    the frame a walker halted at is that of its label, if it was labelled whole, else that of the potential that has
    been trained on the labels around it. Where the labels of a cycle could not be computed, so that there is neither,
    these are all walkers that halted, if MD may have broken their structures.

    Parameters
    ----------
    state
        Before the cycle.
    walkers, walks
        Numbers of the walkers that were run in the cycle, and what came out; None where the job failed.
    potential, batch
        Of the cycle.
    """
    if batch is None:
        return []
    halted = [w for w in state.walkers if w.index in walkers and w.asks_for_labels]
    left = [w for w in halted if w.reason in LEFT]
    reached = {index: walk.step for index, walk in zip(walkers, walks, strict=True) if walk is not None}
    steps = {w.index: max(w.step, reached.get(w.index, 0)) for w in halted}
    if batch.oracle_failing:
        if any(one.required for one in batch.failed) or not all(_may_be_broken(w) for w in halted):
            return []
        return [ThrownAway(walker=w.index, steps=steps[w.index], reason=NO_LABELS) for w in halted]
    found = [ThrownAway(walker=w.index, steps=steps[w.index], reason=str(w.reason)) for w in left]
    if potential is None or potential.cycle != state.cycle or len(left) == len(halted):
        return found
    labelled = _labelled_eV(batch)
    # without the active set no projections are computed, which takes half of the time
    calculator = replace(potential.to_potential(), active_set_inverse={}).calculator()
    for walker in halted:
        if walker in left:
            continue
        start = boxed(load_document(CampaignDocument, walker.start_id or "").structures()[walker.start_index])
        frame = load_document(WalkDocument, walker.walk_id or "").final_atoms()
        energies = []
        for atoms in (start, frame):
            calculator.calculate(atoms)
            energies.append(float(calculator.results["energy"]))
        energy = labelled.get((walker.index, len(frame)), energies[1])
        condition = walker.condition
        hottest = max(condition.temperature_at(0.0), condition.temperature_at(1.0))
        above = rise(start, energies[0], frame, energy, hottest, condition.pressure_GPa)
        if above.is_out_of_reach:
            found.append(
                ThrownAway(
                    walker=walker.index,
                    steps=steps[walker.index],
                    reason="energy",
                    energy_above_start_eV_atom=above.found_eV / above.n_atoms,
                    limit_eV_atom=above.limit_eV / above.n_atoms,
                )
            )
    return found


def _may_be_broken(walker: WalkerState) -> bool:
    return walker.reason in BROKEN and walker.n_rolled_back < _PATIENCE


def _labelled_eV(batch: LabelBatch) -> dict[tuple[int, int], float]:
    """Return the energies of the labelled halted frames by walker and number of atoms, in eV."""
    criteria = {**in_batch(batch), "output.origin": "halted", "output.state": "successful"}
    names = ("walker", "n_atoms", "energy_eV")
    found = [doc["output"] for doc in current_store().query(criteria, [f"output.{name}" for name in names])]
    return {(one["walker"], one["n_atoms"]): one["energy_eV"] for one in found}
