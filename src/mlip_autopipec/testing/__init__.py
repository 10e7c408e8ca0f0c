"""
Stand-ins for LAMMPS, the oracle and the ACE fit: the real loop in milliseconds.

Each replaces one physics call of the maker it is derived from and nothing else, so what runs
is the loop itself: the same jobs, documents and stores. What a stand-in does is written in its
fields, and what happened is written to a file; it keeps no state, hence works under any
manager. The package ``vasp_stand_in`` stands in for VASP itself, at the level of the process.

The names below are imported when they are first used.

Examples
--------
>>> from ase.build import bulk
>>> from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, stand_in_loop
>>> maker = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)]))
>>> flow = maker.make(bulk("Cu", cubic=True), 300)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip_autopipec.testing.dynamics import Halt, PeriodicHaltsDynamicsMaker, ScriptedDynamicsMaker
    from mlip_autopipec.testing.events import read_events, record_event
    from mlip_autopipec.testing.loop import stand_in_loop
    from mlip_autopipec.testing.oracle import StandInOracleMaker
    from mlip_autopipec.testing.sampling import StandInProposeMaker, StandInSelectMaker
    from mlip_autopipec.testing.trainer import StandInTrainer, tiny_potential

_HOMES = {
    "Halt": "dynamics",
    "PeriodicHaltsDynamicsMaker": "dynamics",
    "ScriptedDynamicsMaker": "dynamics",
    "StandInOracleMaker": "oracle",
    "StandInProposeMaker": "sampling",
    "StandInSelectMaker": "sampling",
    "StandInTrainer": "trainer",
    "read_events": "events",
    "record_event": "events",
    "stand_in_loop": "loop",
    "tiny_potential": "trainer",
}
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


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name in ("vasp_stand_in_environment", "write_potcars"):
        return getattr(import_module("mlip_autopipec.testing.vasp"), name)
    if name not in _HOMES:
        raise AttributeError(f"module 'mlip_autopipec.testing' has no attribute '{name}'")
    return getattr(import_module(f"mlip_autopipec.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
