"""Errors of a potential on MD of the oracle itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from mlip_autopipec.schemas.base import Document
from mlip_autopipec.schemas.potential import Errors
from mlip_autopipec.validation.targets import STILL_MEV_A


class ValidatedWalk(BaseModel):
    """Errors on one MD run of the oracle."""

    walker: int = Field(description="Number of the walker whose structure and condition it has.")
    begins: Literal["start", "end"] = Field(description="Where it begins: where the walker started, or where it ended.")
    errors: Errors = Field(description="Of the potential on its frames.")
    forces_rms_meV_A: float | None = Field(None, description="Root mean square force component of its labels, meV/A.")


class ValidationDocument(Document):
    """Errors of a potential on frames of the oracle's own MD, which nothing was trained on or chosen by."""

    kind: Literal["validated"] = "validated"
    potential_id: str = Field(description="uuid of the potential.")
    errors: Errors = Field(description="On all frames.")
    walks: list[ValidatedWalk] = Field(default_factory=list, description="On those of each run.")
    above: list[str] = Field(
        default_factory=list, description="Errors on all frames that are larger than asked for (accuracy), with that."
    )

    def describe(self) -> str:
        """Return the errors as a short text."""
        e = self.errors
        still = [
            f"w{walk.walker}"
            for walk in self.walks
            if walk.forces_rms_meV_A is not None and walk.forces_rms_meV_A < STILL_MEV_A
        ]
        proves = f"; the atoms of {', '.join(dict.fromkeys(still))} hardly move, so that its frames prove nothing"
        stress = "" if e.stress_rmse_GPa is None else f", {e.stress_rmse_GPa:.2f} GPa"
        above = f"; above what is asked for: {', '.join(self.above)}" if self.above else ""
        return (
            f"{e.energy_rmse_meV_atom:.2f} meV/atom, {e.forces_rmse_meV_A:.1f} meV/A{stress} "
            f"({e.n_structures} frames of {len(self.walks)} runs){above}{proves if still else ''}"
        )
