"""MD that follows a script instead of Newton."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from monty.json import MSONable

from mlip_autopipec.errors import ExplorationError, InvalidInputError
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.lammps.exploration import with_velocities
from mlip_autopipec.lammps.types import ExplorationResult, HaltReason, HaltStructure, WalkStatus
from mlip_autopipec.testing.events import record_event

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.schemas.loop import WalkerState
    from mlip_autopipec.schemas.potential import PotentialDocument


@dataclass
class Halt(MSONable):
    """
    One halt of a script.

    Parameters
    ----------
    step
        MD step of the halt; may repeat the last one, which is no progress.
    gamma
        Grade of the worst atom.
    walker
        Walker that halts; None for every one.
    reason
        Value of a :class:`~mlip_autopipec.lammps.types.HaltReason`.
    crashes
        So often the MD process dies before it gets as far as this halt.
    """

    step: int
    gamma: float = 12.0
    walker: int | None = None
    reason: str = "gamma"
    crashes: int = 0


@dataclass
class ScriptedDynamicsMaker(LammpsDynamicsMaker):
    """
    Halt where the script says, then complete.

    A walker that halted n times is at line n of its script: the loop's own count is the only
    state. Atoms move a little between two halts, the same way for the same seed and step.

    Parameters
    ----------
    halts
        The script, in order.
    displacement_A
        Standard deviation of the moves; 0 leaves the atoms where they are.
    seconds
        Wall time of a run in s, which is slept: no processor is needed.
    events
        Log of events: ``start``, ``restart``, ``crash``, ``halt`` and ``finish``, with walker and step.
    """

    halts: list[Halt] = field(default_factory=list)
    displacement_A: float = 0.02
    seconds: float = 0.0
    events: str | None = None

    def next_halt(self, walker: WalkerState) -> Halt | None:
        """Return the halt that comes next for this walker; None to complete without one."""
        mine = [h for h in self.halts if h.walker in (None, walker.index)]
        return mine[walker.n_halts] if walker.n_halts < len(mine) else None

    def explore(
        self, walker: WalkerState, potential: PotentialDocument, atoms: Atoms | None, restart_file: str | None
    ) -> ExplorationResult:
        """Follow the script."""
        time.sleep(self.seconds)
        del potential
        if atoms is None:
            raise InvalidInputError(f"restart_file is {restart_file}; a script starts from a structure")
        begin = "start" if walker.walk_id is None else "restart"
        record_event(self.events, f"{begin} w{walker.index} {walker.step}")
        halt = self.next_halt(walker)
        if halt is not None and walker.n_repeats < halt.crashes:
            record_event(self.events, f"crash w{walker.index}")
            raise ExplorationError("the script says that MD crashes here")
        step = self.settings.n_steps if halt is None else halt.step
        moved = with_velocities(atoms, walker.condition.temperature_K, walker.seed)
        if self.displacement_A:
            moved.rattle(self.displacement_A, rng=np.random.default_rng([walker.seed, step]))
        result = ExplorationResult(WalkStatus.CONVERGED, step, moved, halt=None, engine="script")
        if halt is not None:
            gamma = np.full(len(moved), 0.5)
            gamma[0] = halt.gamma
            moved.arrays["gamma"] = gamma
            result.status = WalkStatus.HALTED
            result.halt = HaltStructure(moved, step, HaltReason(halt.reason), halt.gamma, atom_index=0)
        record_event(self.events, f"{'finish' if halt is None else 'halt'} w{walker.index} {step}")
        return result


@dataclass
class PeriodicHaltsDynamicsMaker(ScriptedDynamicsMaker):
    """
    Halt a number of times at equal distances, then complete: any number of cycles, each with progress.

    Parameters
    ----------
    n_halts
        How often.
    """

    n_halts: int = 1

    def next_halt(self, walker: WalkerState) -> Halt | None:
        """Return the halt that comes next for this walker; None to complete without one."""
        if self.settings.n_steps <= self.n_halts:
            raise InvalidInputError(
                f"settings.n_steps is {self.settings.n_steps}; {self.n_halts} halts need more steps"
            )
        done = walker.n_halts
        return Halt(step=(done + 1) * self.settings.n_steps // (self.n_halts + 1)) if done < self.n_halts else None
