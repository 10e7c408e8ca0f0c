"""Potentials: files, errors, and proof of training."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from mlip_autopipec.schemas.base import WithPayload

if TYPE_CHECKING:
    from mlip_autopipec.ace.accuracy import ErrorMetrics
    from mlip_autopipec.ace.potential import ACEPotential
    from mlip_autopipec.ace.training import TrainingResult


class Errors(BaseModel):
    """Errors of a potential on a set of labels."""

    n_structures: int = Field(description="Structures measured on.")
    n_atoms: int = Field(description="Atoms measured on.")
    energy_rmse_meV_atom: float = Field(description="Root mean square energy error in meV/atom.")
    energy_max_meV_atom: float = Field(description="Largest energy error in meV/atom.")
    forces_rmse_meV_A: float = Field(description="Root mean square error of a force component in meV/A.")
    forces_max_meV_A: float = Field(description="Largest error of a force component in meV/A.")

    @classmethod
    def from_metrics(cls, metrics: ErrorMetrics | None) -> Errors | None:
        """Take over what was measured, or None where nothing was."""
        return None if metrics is None else cls(**metrics.as_dict())


class PotentialDocument(WithPayload):
    """
    A potential with its active set.

    ``payload`` holds ``yaml`` and ``yace`` as text, ``asi`` as base64, and the training ``log``.
    """

    kind: Literal["potential"] = "potential"
    elements: list[str] = Field(description="Elements, alphabetical.")
    cutoff_A: float = Field(description="Largest cutoff in Angstrom.")
    n_functions: dict[str, int] = Field(description="Basis functions of each element.")
    reference_energies_eV: dict[str, float] = Field(description="Energy added per atom of each element, eV.")
    sha256: str = Field(description="Fingerprint of basis and active set.")
    parent_id: str | None = Field(None, description="uuid of the potential this one continues.")
    trainer: dict[str, Any] = Field(default_factory=dict, description="Trainer class and parameters.")
    fine_tuned: bool = Field(False, description="Whether training continued from the parent.")
    n_train: int = Field(0, description="Labels trained on.")
    n_test: int = Field(0, description="Labels held out.")
    train: Errors | None = Field(None, description="Errors on the training set.")
    test: Errors | None = Field(None, description="Errors on the held-out set.")
    new_before: Errors | None = Field(
        None, description="Errors of the parent on this cycle's labels, before training on them."
    )
    new_after: Errors | None = Field(None, description="Errors of this potential on the same labels.")
    coefficients_moved: float | None = Field(None, description="Relative change of the coefficients from the parent's.")
    seconds: float = Field(0.0, description="Wall time of the fit in s.")

    @classmethod
    def from_potential(cls, potential: ACEPotential, **fields: Any) -> PotentialDocument:
        """Make a document of a potential."""
        from mlip_autopipec.ace.potential import pack_active_set

        log = fields.pop("log", "")
        return cls(
            elements=potential.elements,
            cutoff_A=potential.cutoff,
            n_functions=potential.n_functions,
            reference_energies_eV=dict(potential.reference_energies),
            sha256=potential.sha256,
            payload={
                "yaml": potential.yaml,
                "yace": potential.yace,
                "asi": base64.b64encode(pack_active_set(potential.active_set_inverse)).decode(),
                "log": log,
            },
            **fields,
        )

    @classmethod
    def from_training(cls, result: TrainingResult, **fields: Any) -> PotentialDocument:
        """Make a document of a training result."""
        return cls.from_potential(
            result.potential,
            train=Errors.from_metrics(result.train),
            test=Errors.from_metrics(result.test),
            new_before=Errors.from_metrics(result.new_before),
            new_after=Errors.from_metrics(result.new_after),
            coefficients_moved=result.coefficients_moved,
            seconds=result.seconds,
            log=result.log,
            **fields,
        )

    def errors(self) -> dict[str, Errors | None]:
        """Return all measured errors by the names of their fields."""
        return {"train": self.train, "test": self.test, "new_before": self.new_before, "new_after": self.new_after}

    def to_potential(self) -> ACEPotential:
        """Return the potential; needs the payload."""
        from mlip_autopipec.ace.potential import ACEPotential, unpack_active_set

        if "yaml" not in self.payload:
            raise ValueError(f"the files of potential {self.uuid} were not loaded; read the document with load=True")
        asi = base64.b64decode(self.payload.get("asi") or "")
        return ACEPotential(self.payload["yaml"], unpack_active_set(asi), self.reference_energies_eV)
