"""How the errors of a potential on its training set are spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from mlip_autopipec.active_learning.spread import FittedErrors


class ErrorSpread(BaseModel):
    """How errors are spread, by medians."""

    n: int = Field(description="How many there are.")
    middle: float = Field(description="Their median.")
    deviation: float = Field(description="Median of their distances from it.")
    largest: float = Field(description="Largest of these distances.")


class FittedRecord(BaseModel):
    """The errors of a potential on what it was trained on, without dimers: new labels are judged by them."""

    energy_eV_atom: ErrorSpread = Field(description="Potential minus label of each label, eV/atom.")
    forces_eV_A: ErrorSpread = Field(description="Length of the error of the force on each atom, eV/A.")

    @classmethod
    def of(cls, fitted: FittedErrors | None) -> FittedRecord | None:
        """Take over what was measured, or None where nothing was."""
        if fitted is None:
            return None
        energy, force = (ErrorSpread(**spread._asdict()) for spread in fitted)
        return cls(energy_eV_atom=energy, forces_eV_A=force)

    def to_errors(self) -> FittedErrors:
        """Return them as the rule for outliers reads them."""
        from mlip_autopipec.active_learning.spread import FittedErrors, Spread

        return FittedErrors(*(Spread(**one.model_dump()) for one in (self.energy_eV_atom, self.forces_eV_A)))
