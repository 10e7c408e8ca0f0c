"""A teacher: what a cheap model taught, before the first label that costs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.schemas.base import WithPayload
from mlip_autopipec.schemas.linear import LeftOutErrors, factor_doubt


class TeacherDocument(WithPayload):
    """
    A potential that learnt free labels of a cheap model; they are labels of nothing else.

    ``payload`` holds the potential's ``yaml``, and the ``labels`` as packed structures with energies (eV), forces
    (eV/A) and, where there are any, stresses (eV/A^3).
    """

    kind: Literal["teacher"] = "teacher"
    model: str = Field(description="Class of the maker whose calculator is the teacher; ACE for a potential.")
    calculator: str = Field("", description="Its calculator and what that is made with; empty of a potential.")
    asked: str = Field(description="SHA-256 of all it was asked for; taught once for each.")
    taught_by: str = Field("", description="SHA-256 of the teacher's settings; empty if an earlier version taught.")
    seed: int = Field(description="Of everything random.")
    n_labels: int = Field(0, description="Free labels; 0 of a potential that was given.")
    n_failed: int = Field(0, description="Structures that the teacher could not compute.")
    n_functions: dict[str, int] = Field(description="Basis functions of each element.")
    left_out: LeftOutErrors | None = Field(
        None, description="Errors of its own labels, each left out of the fit; None of a potential that was given."
    )
    seconds: float = Field(0.0, description="Wall time of labels and fit in s.")

    def describe(self, factor: float) -> str:
        """Say who taught a potential that holds what was taught, times a factor."""
        made_of = f" ({self.calculator})" if self.calculator not in ("", self.model) else ""
        free = f", {self.n_labels} labels of its own, which count nowhere" if self.n_labels else ""
        beware = "" if (doubt := factor_doubt(factor)) is None else f": {doubt}"
        return f"{self.model}{made_of}{free}; what it says is in the potential, times {factor:.3g}{beware}"

    def to_potential(self) -> ACEPotential:
        """Return the potential; needs the payload. It has no active set: gamma is that of labels that cost."""
        return ACEPotential(self.bulk("yaml"))

    def labels(self) -> list[dict[str, Any]]:
        """Return the free labels: structures, energies, forces, stresses; needs the payload."""
        from mlip_autopipec.frames import unpack

        found: list[dict[str, Any]] = unpack(self.bulk("labels"))
        return found
