"""Propose and select without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
from mlip_autopipec.structures.provenance import Origin, mark
from mlip_autopipec.testing.events import record_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from mlip_autopipec.schemas.potential import PotentialDocument
    from mlip_autopipec.schemas.walk import WalkDocument


@dataclass
class StandInProposeMaker(ProposeMaker):
    """
    Propose the halted frame and rattled copies of it.

    Parameters
    ----------
    n_samples
        Number of candidates.
    displacement_A
        Standard deviation of the copies' displacements.
    events
        Log of events: ``propose`` with the walker.
    """

    n_samples: int = 4
    displacement_A: float = 0.02
    events: str | None = None

    def sample(self, walk: WalkDocument, potential: PotentialDocument, seed: int) -> list[Atoms]:
        """Return the candidates."""
        del potential
        record_event(self.events, f"propose w{walk.walker}")
        halted = walk.final_atoms()
        for name in ("momenta", "gamma"):
            halted.arrays.pop(name, None)
        mark(halted, origin=Origin.HALTED)
        rng = np.random.default_rng(seed)
        candidates = [halted]
        for _ in range(self.n_samples - 1):
            copy = halted.copy()
            copy.rattle(self.displacement_A, rng=rng)
            mark(copy, origin=Origin.DISPLACEMENT)
            candidates.append(copy)
        return candidates


@dataclass
class StandInSelectMaker(SelectMaker):
    """
    Choose in turn from the halts, each halted frame first.

    Parameters
    ----------
    n_max
        Most labels per cycle.
    events
        Log of events: ``select`` with the number of candidates.
    """

    n_max: int = 4
    events: str | None = None

    def choose(
        self,
        potential: PotentialDocument,
        candidates: Sequence[Atoms],
        halted: Sequence[int],
        required: Sequence[int],
        n_max: int,
    ) -> list[tuple[int, float | None]]:
        """Return the places of the chosen candidates, without grades."""
        del potential, required
        record_event(self.events, f"select {len(candidates)}")
        others = [k for k in range(len(candidates)) if k not in halted]
        return [(k, None) for k in [*halted, *others][:n_max]]
