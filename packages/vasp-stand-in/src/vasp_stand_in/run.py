"""One run of the stand-in as a value: what was read, what was computed, what was made up."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from vasp_stand_in.compute import KBAR

if TYPE_CHECKING:
    from vasp_stand_in.compute import SinglePoint
    from vasp_stand_in.electrons import Bands, Loop
    from vasp_stand_in.inputs import VaspInput

# The version whose files are imitated; VASP itself puts a fourth part of any text behind such numbers
IMITATED_VERSION = "6.1.2"


@dataclass(frozen=True)
class StandInRun:
    """A finished single point, ready to be written as VASP's files."""

    given: VaspInput
    point: SinglePoint
    bands: Bands
    loop: Loop
    calculator: str  # as the user named it
    entropy_eV: float = 0.0  # T*S, a stated shift that tells the kinds of energy apart
    started: datetime = field(default_factory=lambda: datetime.now(tz=UTC).astimezone())

    @property
    def what(self) -> str:
        """What wrote the files; stands in all of them."""
        return f"stand-in of mlip_autopipec, calculator {self.calculator}, NOT VASP"

    @property
    def version(self) -> str:
        """The version with what it is in the fourth part, so that parsers find three numbers."""
        return f"{IMITATED_VERSION}.{self.what.replace('.', ':')}"

    @property
    def free_energies_eV(self) -> list[float]:
        """F, the force-consistent energy, after each electronic step."""
        return [float(energy) for energy in self.loop.energies_eV]

    @property
    def isif(self) -> int:
        """ISIF: 0 no stress, 1 its trace alone, 2 and more all of it."""
        return self.given.incar.integer("ISIF", 0 if self.given.incar.integer("IBRION", -1) == 0 else 2)

    @property
    def stress_kB(self) -> np.ndarray | None:
        """What VASP writes as stress, (3, 3): with ISIF = 1 the pressure alone, with ISIF = 0 nothing."""
        if self.isif == 0:
            return None
        whole = self.point.stress_kB
        return whole if self.isif > 1 else np.eye(3) * np.trace(whole) / 3

    @property
    def pv_eV(self) -> float:
        """P V of PSTRESS (kB), which VASP adds to the energies of an ionic step, not to those of electronic steps."""
        return self.given.incar.real("PSTRESS", 0.0) * KBAR * float(self.given.atoms.cell.volume)

    def without_entropy_eV(self, free_energy: float) -> float:
        """Energy without entropy, ``F + TS``."""
        return free_energy + self.entropy_eV

    def sigma_zero_eV(self, free_energy: float) -> float:
        """Energy extrapolated to sigma -> 0, ``F + TS / 2``, as VASP does for Gaussian smearing."""
        return free_energy + 0.5 * self.entropy_eV
