"""Potentials: files, errors, and proof of training."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.moved import renamed_classes
from mlip_autopipec.schemas.base import Document, WithPayload
from mlip_autopipec.schemas.fitted import FittedRecord
from mlip_autopipec.schemas.linear import LeftOutErrors, LinearRecord, RootMeanSquares

if TYPE_CHECKING:
    from mlip_autopipec.active_learning.calibration import GradedErrors
    from mlip_autopipec.active_learning.coverage import Coverage
    from mlip_autopipec.potentials.potential import ACEPotential
    from mlip_autopipec.training.accuracy import ErrorMetrics
    from mlip_autopipec.training.error_scale import ExpectedError
    from mlip_autopipec.training.results import FitProgress, LossPoint, Refit, TrainingResult


class Errors(RootMeanSquares):
    """Errors of a potential on a set of labels."""

    n_atoms: int = Field(description="Atoms measured on.")
    energy_max_meV_atom: float = Field(description="Largest energy error in meV/atom.")
    forces_max_meV_A: float = Field(description="Largest error of a force component in meV/A.")
    energy_mae_meV_atom: float | None = Field(default=None, description="Mean absolute energy error in meV/atom.")
    forces_mae_meV_A: float | None = Field(
        default=None, description="Mean absolute error of a force component in meV/A."
    )
    stress_mae_GPa: float | None = Field(default=None, description="Mean absolute error of a stress component in GPa.")

    @classmethod
    def from_metrics(cls, metrics: ErrorMetrics | None) -> Errors | None:
        """Take over what was measured, or None where nothing was."""
        return None if metrics is None else cls(**metrics.as_dict())


def unfitted(fits_stress: bool | None) -> str:
    """Return what to say beside the error of stresses that were not fitted, of pacemaker; empty for others."""
    return " (not fitted)" if fits_stress is False else ""


class GradedLabel(BaseModel):
    """Extrapolation grade and force error of one label, of the potential before it was trained on."""

    label_id: str = Field(description="uuid of the label.")
    gamma_max: float = Field(description="Largest grade of its atoms.")
    force_error_max_eV_A: float = Field(description="Largest length of the error of a force, eV/A.")
    energy_error_eV_atom: float = Field(description="Potential minus label, eV/atom.")
    in_core: bool = Field(description="Whether a pair is inside the core, where the grade is not meaningful.")
    forces_error_eV_A: float | None = Field(None, description="Root mean square error of its force components, eV/A.")
    expected_forces_error_eV_A: float | None = Field(
        None, description="The same as the error bars of the potential expected it, eV/A; None without error bars."
    )
    expected_energy_error_eV_atom: float | None = Field(
        None, description="Standard deviation of the energy by the error bars, eV/atom."
    )
    fresh_factors: tuple[float, float] = Field(
        (1.0, 1.0), description="Factors for fresh labels (energy, forces) that the expected errors contain."
    )

    @classmethod
    def of(cls, label_id: str, graded: GradedErrors) -> GradedLabel:
        """Take over what was measured."""
        gamma, force = graded.worst
        energy_std, forces_std, *fresh = graded.expected or (None, None, 1.0, 1.0)
        return cls(
            label_id=label_id,
            gamma_max=gamma,
            force_error_max_eV_A=force,
            energy_error_eV_atom=graded.energy_error,
            in_core=graded.in_core,
            forces_error_eV_A=graded.forces_error,
            expected_forces_error_eV_A=forces_std,
            expected_energy_error_eV_atom=energy_std,
            fresh_factors=(fresh[0], fresh[1]),
        )

    def to_expected(self) -> ExpectedError | None:
        """Return what was expected without the factors for fresh labels, and the errors; None without error bars."""
        from mlip_autopipec.training.error_scale import ExpectedError

        energy, forces = self.expected_energy_error_eV_atom, self.expected_forces_error_eV_A
        if energy is None or forces is None or self.forces_error_eV_A is None:
            return None
        return ExpectedError(
            energy / self.fresh_factors[0],
            abs(self.energy_error_eV_atom),
            forces / self.fresh_factors[1],
            self.forces_error_eV_A,
        )

    def to_graded(self) -> GradedErrors:
        """Return the pair as calibration reads it."""
        from mlip_autopipec.active_learning.calibration import GradedErrors

        gamma, force = np.array([self.gamma_max]), np.array([self.force_error_max_eV_A])
        return GradedErrors(gamma, force, self.energy_error_eV_atom, self.in_core)


class FlaggedLabel(BaseModel):
    """A label that is not trained on until the user lets it in."""

    label_id: str = Field(description="uuid of the label.")
    reasons: list[str] = Field(description="Why it is flagged.")


class Loss(BaseModel):
    """The loss of a fit after an iteration; what energies and forces leave of it is regularisation."""

    iteration: int = Field(description="Counted over all steps of a ladder; 0 is the start.")
    total: float = Field(description="What the optimiser minimises.")
    energy: float = Field(description="Share of the energies, (1 - kappa) <(dE/n)^2> in eV^2 for uniform weights.")
    forces: float = Field(description="Share of the forces, kappa <|dF|^2> in (eV/A)^2 for uniform weights.")

    @classmethod
    def from_point(cls, point: LossPoint) -> Loss:
        """Take over a point of a loss curve."""
        return cls(**point._asdict())


class FitRecord(BaseModel):
    """How an iterative fit went."""

    n_iterations: int = Field(description="Iterations of the optimiser, over all steps of a ladder.")
    converged: bool | None = Field(description="Whether the optimiser converged; ending at maxiter is usual.")
    message: str = Field(description="Why the optimiser stopped, in its own words.")
    device: str = Field(description="cpu, or the GPU.")
    start: Loss = Field(description="Before the first iteration.")
    end: Loss = Field(description="After the last iteration.")
    history: list[Loss] = Field(description="Along the way, thinned.")

    @classmethod
    def from_progress(cls, progress: FitProgress | None) -> FitRecord | None:
        """Take over what a fit told, or None for a fit in closed form."""
        if progress is None:
            return None
        history = [Loss.from_point(p) for p in progress.history]
        return cls(
            n_iterations=progress.n_iterations,
            converged=progress.converged,
            message=progress.message,
            device=progress.device,
            start=history[0],
            end=history[-1],
            history=history,
        )


class RefitRecord(BaseModel):
    """A refit from reset coefficients beside a fine-tune; the better of the two was kept."""

    kept: Literal["fine-tune", "refit"] = Field(description="Which potential this document holds.")
    judged_on: Literal["test", "train"] = Field(description="The set of labels whose loss decided.")
    fine_tune_loss: float = Field(description="Loss of the fine-tuned potential there, eV^2.")
    refit_loss: float | None = Field(description="Loss of the refitted potential there, eV^2.")
    fine_tune: Errors = Field(description="Errors of the fine-tuned potential there.")
    refit: Errors | None = Field(description="Errors of the refitted potential there.")
    failure: str | None = Field(None, description="Why the refit failed.")

    @classmethod
    def from_refit(cls, refit: Refit | None) -> RefitRecord | None:
        """Take over what a refit gave, or None where none was due."""
        if refit is None:
            return None
        fine_tune = Errors.from_metrics(refit.fine_tune)
        assert fine_tune is not None
        return cls(
            kept=refit.kept,
            judged_on=refit.judged_on,
            fine_tune_loss=refit.fine_tune_loss,
            refit_loss=None if refit.refit is None else refit.refit_loss,
            fine_tune=fine_tune,
            refit=Errors.from_metrics(refit.refit),
            failure=refit.failure,
        )


class PotentialDocument(WithPayload):
    """
    A potential with its active set.

    ``payload`` holds ``yaml`` and ``yace`` (empty for GRACE-FS) as text, ``asi`` as base64, the training ``log``,
    and of a linear fit its ``posterior`` (base64), from which error bars follow.
    """

    kind: Literal["potential"] = "potential"
    elements: list[str] = Field(description="Elements, alphabetical.")
    cutoff_A: float = Field(description="Largest cutoff in Angstrom.")
    n_functions: dict[str, int] = Field(description="Basis functions of each element.")
    reference_energies_eV: dict[str, float] = Field(description="Energy added per atom of each element, eV.")
    sha256: str = Field(description="Fingerprint of basis and active set.")
    parent_id: str | None = Field(None, description="uuid of the potential this one continues.")
    teacher_id: str | None = Field(None, description="uuid of the teacher its training was given; None without one.")
    teacher_factor: float | None = Field(
        None, description="Factor of the teacher's energies and forces in it; None where no teacher is in it."
    )
    trainer: dict[str, Any] = Field(default_factory=dict, description="Trainer class and parameters.")
    fits_stress: bool | None = Field(
        None, description="Whether stresses of labels were fitted, not only compared; None in earlier documents."
    )
    fine_tuned: bool = Field(False, description="Whether training continued from the parent.")
    n_train: int = Field(0, description="Labels trained on.")
    n_test: int = Field(0, description="Labels held out.")
    train: Errors | None = Field(None, description="Errors on the training set.")
    test: Errors | None = Field(None, description="Errors on the held-out set.")
    new_before: Errors | None = Field(
        None, description="Errors of the parent on this cycle's labels, before training on them."
    )
    new_after: Errors | None = Field(None, description="Errors of this potential on the same labels.")
    new_left_out: LeftOutErrors | None = Field(
        None, description="Errors of the same labels, each left out of the fit; None if the trainer cannot tell."
    )
    coefficients_moved: float | None = Field(None, description="Relative change of the coefficients from the parent's.")
    graded: list[GradedLabel] = Field(
        default_factory=list, description="Grade and error at each label of this cycle by the parent, before training."
    )
    quarantined: list[FlaggedLabel] = Field(
        default_factory=list, description="Labels of this cycle that were flagged as outliers and not trained on."
    )
    linear: LinearRecord | None = Field(
        None, description="What a linear fit chose; `payload['left_out']` has the errors of each label left out."
    )
    let_in: list[str] = Field(
        default_factory=list, description="uuids of flagged outliers that the user accepted and that were trained on."
    )
    coverage: dict[str, Any] | None = Field(
        None,
        description="How many atoms of the training set have which elements within the cutoff (elements, pairs, "
        "triplets; cutoff_A); None if the training set is not known.",
    )
    trained_on: str | None = Field(
        None, description="SHA-256 of which labels it was trained on; None in documents of earlier versions."
    )
    fitted: FittedRecord | None = Field(
        None, description="Errors on what it was trained on; None in documents of earlier versions."
    )
    seconds: float = Field(0.0, description="Wall time of the fit in s, with that of a refit.")
    fit: FitRecord | None = Field(None, description="How the fit went; None for a fit in closed form.")
    refit: RefitRecord | None = Field(None, description="What a refit from scratch gave, in cycles where one was due.")

    @classmethod
    def from_potential(cls, potential: ACEPotential, **fields: Any) -> PotentialDocument:
        """Make a document of a potential."""
        from mlip_autopipec.potentials.potential import pack_active_set

        log = fields.pop("log", "")
        more = {}
        if potential.posterior is not None:
            more["posterior"] = base64.b64encode(potential.posterior.pack()).decode()
        return cls(
            elements=potential.elements,
            cutoff_A=potential.cutoff,
            n_functions=potential.n_functions,
            reference_energies_eV=dict(potential.reference_energies),
            sha256=potential.sha256,
            payload={
                "yaml": potential.yaml,
                "yace": "" if potential.is_grace else potential.yace,
                "asi": base64.b64encode(pack_active_set(potential.active_set_inverse)).decode(),
                "log": log,
                **more,
            },
            **fields,
        )

    @classmethod
    def from_training(cls, result: TrainingResult, **fields: Any) -> PotentialDocument:
        """Make a document of a training result."""
        how = result.linear or result.progress
        return cls.from_potential(
            result.potential,
            train=Errors.from_metrics(result.train),
            test=Errors.from_metrics(result.test),
            new_before=Errors.from_metrics(result.new_before),
            new_after=Errors.from_metrics(result.new_after),
            coefficients_moved=result.coefficients_moved,
            seconds=result.seconds,
            log=result.log,
            fit=FitRecord.from_progress(result.progress),
            refit=RefitRecord.from_refit(result.refit),
            linear=LinearRecord.of(result.linear),
            teacher_factor=None if how is None else how.teacher_factor,
            fitted=FittedRecord.of(result.fitted),
            **fields,
        )

    def errors(self) -> dict[str, Errors | None]:
        """Return all measured errors by the names of their fields."""
        return {"train": self.train, "test": self.test, "new_before": self.new_before, "new_after": self.new_after}

    def known_surroundings(self) -> Coverage | None:
        """Return the pairs and triplets of elements in the training set; None if not known."""
        from mlip_autopipec.active_learning.coverage import Coverage

        return None if self.coverage is None else Coverage.from_dict(self.coverage)

    def to_potential(self) -> ACEPotential:
        """
        Return the potential; needs the payload.

        Raises
        ------
        MLIPError
            It has not the fingerprint it was stored with.
        """
        from mlip_autopipec.potentials.posterior import Posterior
        from mlip_autopipec.potentials.potential import ACEPotential, unpack_active_set

        yaml = self.bulk("yaml")
        asi = base64.b64decode(self.payload.get("asi") or "")
        posterior = Posterior.unpack(base64.b64decode(self.payload.get("posterior") or ""))
        potential = ACEPotential(yaml, unpack_active_set(asi), self.reference_energies_eV, posterior)
        if self.sha256 and potential.sha256 != self.sha256:
            raise MLIPError(
                f"the potential of cycle {self.cycle} (document {self.uuid}) is not the one that was stored: its "
                f"fingerprint is {potential.sha256[:12]}, and {self.sha256[:12]} is recorded, so the store is damaged. "
                "Put it back from a backup, or take the potential of an earlier cycle"
            )
        return potential


__getattr__ = renamed_classes(__name__, QuarantinedLabel="FlaggedLabel")


class FailureDocument(Document):
    """A step that failed, and left nothing else."""

    kind: Literal["failure"] = "failure"
    step: str = Field(description="Which step: teach, label, train, or explore w0 of a walker.")
    attempt: str = Field("", description="The uuid of the outermost flow of its job: a continuation is another one.")
    job: str = Field("", description="The uuid of its job.")
    reason: str = Field(description="What the error said, in short; the log of the job has all of it.")
