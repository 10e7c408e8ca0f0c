"""
Stand-ins for LAMMPS, the oracle and the ACE fit: the real loop in milliseconds.

Each replaces one physics call of the maker it is derived from and nothing else, so what runs
is the loop itself: the same jobs, documents and stores. What a stand-in does is written in its
fields, and what happened is written to a file; it keeps no state, hence works under any
manager.

Examples
--------
>>> from ase.build import bulk
>>> from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, stand_in_loop
>>> maker = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)]))
>>> flow = maker.make(bulk("Cu", cubic=True), 300)
"""

from mlip_autopipec.testing.dynamics import Halt, PeriodicHaltsDynamicsMaker, ScriptedDynamicsMaker
from mlip_autopipec.testing.events import read_events, record_event
from mlip_autopipec.testing.loop import stand_in_loop
from mlip_autopipec.testing.oracle import StandInOracleMaker
from mlip_autopipec.testing.sampling import StandInProposeMaker, StandInSelectMaker
from mlip_autopipec.testing.trainer import StandInTrainer, tiny_potential

__all__ = [
    "Halt",
    "PeriodicHaltsDynamicsMaker",
    "ScriptedDynamicsMaker",
    "StandInOracleMaker",
    "StandInProposeMaker",
    "StandInSelectMaker",
    "StandInTrainer",
    "read_events",
    "record_event",
    "stand_in_loop",
    "tiny_potential",
]
