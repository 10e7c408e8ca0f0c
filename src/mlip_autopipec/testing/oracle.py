"""An oracle for nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from jobflow import Maker

from mlip_autopipec.errors import LabelError
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.oracle.extracted import ExtractedLabel
from mlip_autopipec.oracle.record import OracleRecord
from mlip_autopipec.testing.events import is_current_job, record_event

if TYPE_CHECKING:
    from ase import Atoms


@dataclass
class NoStaticMaker(Maker):
    """Stands where atomate2's maker would, which takes seconds to import."""

    name: str = "none"

    def make(self) -> NoReturn:
        """Refuse."""
        raise LabelError("StandInOracleMaker labels without a static maker")


@dataclass
class StandInOracleMaker(OracleMaker):
    """
    Label without atomate2 and without cost, and fail where told to.

    Parameters
    ----------
    physics
        ``constant``: -1 eV per atom, no forces. ``lennard-jones``: argon-like, for any
        element. ``emt``: effective medium theory, for its elements.
    failing
        Parts of the names of label jobs that fail: ``c001 000`` is the first label of cycle 1,
        ``label`` is each of them.
    wrong
        Parts of the names of label jobs whose energy is 1 eV/atom too high, and nothing tells.
    events
        Log of events: ``label`` or ``bad label``.
    """

    static_maker: Maker = field(default_factory=NoStaticMaker)
    physics: Literal["constant", "lennard-jones", "emt"] = "constant"
    failing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    events: str | None = None
    n_compared: int = 0  # given labels are of other physics in many a test

    def asked(self, atoms: Atoms) -> OracleRecord:
        """Return what is asked for."""
        del atoms
        return OracleRecord.of("stand-in", {"physics": self.physics})

    def compute(self, atoms: Atoms) -> ExtractedLabel:
        """Label one structure."""
        if is_current_job(self.failing):
            record_event(self.events, "bad label")
            raise LabelError("the stand-in oracle was told to fail here")
        bare = atoms.copy()
        bare.info, bare.calc = {}, None
        results: dict[str, Any]
        if self.physics == "constant":
            results = {"energy": -1.0 * len(bare), "forces": np.zeros((len(bare), 3)), "stress": np.zeros(6)}
        else:
            probe = bare.copy()
            probe.calc = EMT() if self.physics == "emt" else LennardJones(sigma=2.3, epsilon=0.1, rc=5.0, smooth=True)
            results = {
                "energy": probe.get_potential_energy(),
                "forces": probe.get_forces(),
                "stress": probe.get_stress(),
            }
        if is_current_job(self.wrong):
            results = {**results, "energy": float(results["energy"]) + len(bare)}
        bare.calc = SinglePointCalculator(bare, **results)
        record_event(self.events, "label")
        return ExtractedLabel(bare, "potential_energy")
