"""Checks of a potential on labels of MD without halts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from mlip_autopipec.schemas.base import Document, WithPayload
from mlip_autopipec.schemas.potential import Errors, GradedLabel, LeftOutErrors
from mlip_autopipec.validation.confidence import FEW_FRAMES, Bounds, bound_factor, frames_wanted
from mlip_autopipec.validation.targets import STILL_MEV_A, Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.schemas.potential import PotentialDocument


class WalkerErrors(BaseModel):
    """Errors on the frames of one walker in a check."""

    walker: str = Field(description="Its number and temperature.")
    errors: Errors = Field(description="On its frames.")
    forces_rms_meV_A: float = Field(description="Root mean square force component of its labels, meV/A.")

    def of(self, what: str) -> float | None:
        """Return the error of energy, forces or stress."""
        found = {
            "energy": self.errors.energy_rmse_meV_atom,
            "forces": self.errors.forces_rmse_meV_A,
            "stress": self.errors.stress_rmse_GPa,
        }
        return found[what]


class CheckResult(Document):
    """What a check gave, as the state of the loop keeps it."""

    kind: Literal["check"] = "check"
    potential_id: str = Field(description="uuid of the potential.")
    batch_id: str = Field(description="uuid of the batch of labels.")
    errors: Errors | None = Field(
        None, description="Of the potential on labels from halt-free MD; None if none were asked for."
    )
    forces_rms_meV_A: float | None = Field(None, description="Root mean square force component of these labels, meV/A.")
    limit_meV_A: float | None = Field(None, description="What the root mean square force error may be, meV/A.")
    energy_limit_meV_atom: float | None = Field(None, description="What the energy error may be, meV/atom.")
    stress_limit_GPa: float | None = Field(
        None, description="What the stress error may be, GPa; None where the labels have no stress."
    )
    most_allowed: tuple[float | None, float | None, float | None] = Field(
        (None, None, None),
        description="These three limits where the training set is not fitted better; None: as they are.",
    )
    is_still: bool = Field(False, description="Whether the atoms hardly move, so that the frames prove nothing.")
    properties: list[dict[str, Any]] = Field(
        default_factory=list, description="Properties of crystals: PropertyComparison without its curves."
    )
    passed: bool = Field(description="Whether error and properties are within their limits.")
    left_out_exceeded: list[str] = Field(
        default_factory=list,
        description="Errors of labels left out of the linear fit that are larger than asked for, with these limits.",
    )
    unmeasured: list[str] = Field(
        default_factory=list, description="What is asked for and no label tells, with what to do; it does not pass."
    )
    remarks: list[str] = Field(
        default_factory=list, description="What is said beside it of errors that only some labels, or others, tell."
    )
    beyond_budget: bool = Field(
        False, description="Whether the labels left were too few for one of the properties, or for all walkers."
    )
    confidence: float | None = Field(
        None, description="Confidence at which errors are within what is asked for; None where nothing is asked for."
    )
    bound_factors: tuple[float, float, float] = Field(
        (1.0, 1.0, 1.0), description="Factors that make the errors of energy, forces and stress bounds at it."
    )
    n_failed_before: int = Field(0, description="Checks in a row before this one that failed.")
    by_walker: list[WalkerErrors] = Field(default_factory=list, description="Errors on the frames of each walker.")
    unchecked: list[str] = Field(default_factory=list, description="Walkers of which no frame was labelled.")
    hints: list[str] = Field(default_factory=list, description="What would help against errors that are too large.")
    learnt: LeftOutErrors | None = Field(
        None,
        description="Errors of its labels by the potential that was fitted to them as well after the check had passed, "
        "each left out of the fit.",
    )
    not_delivered: str = Field(
        "", description="Errors of all labels left out of that potential that are larger than asked for."
    )
    delivered_id: str | None = Field(
        None, description="uuid of that potential, if these errors are within the limits: it is the one delivered."
    )

    def after_learning(self, potential: PotentialDocument | None, left_out_exceeded: Sequence[str] = ()) -> CheckResult:
        """
        Return this check, which has passed, after its labels were learnt as well.

        Parameters
        ----------
        potential
            Fitted to them and all others; None where the fit failed. It is delivered if it is within the limits of the
            check on each of these labels left out of the fit; else the checked one is.
        left_out_exceeded
            Which errors of all its labels left out of the fit are larger than asked for; with any it is not delivered.
        """
        learnt = None if potential is None else potential.new_left_out
        if potential is None or learnt is None or left_out_exceeded or self.limits.exceeded_by(learnt, self.bounds):
            return self.model_copy(update={"learnt": learnt, "not_delivered": "; ".join(left_out_exceeded)})
        return self.model_copy(update={"learnt": learnt, "delivered_id": potential.uuid})

    @property
    def teaches(self) -> bool:
        """Whether the potential is worse than it may be; else a failed check failed for want of labels."""
        if self.unmeasured:  # further labels do not tell it either
            return False
        untold = bool(self.unchecked) and not self.beyond_budget
        return bool(self.exceeded) or untold or any(p["state"] == "failed" for p in self.properties)

    @property
    def limits(self) -> Limits:
        """What the errors may be."""
        return Limits(self.energy_limit_meV_atom, self.limit_meV_A, self.stress_limit_GPa)

    @property
    def limits_once_learnt(self) -> Limits:
        """What the errors of these labels may be after training on them: the limits of a training set like them."""
        pairs = zip(
            (self.energy_limit_meV_atom, self.limit_meV_A, self.stress_limit_GPa), self.most_allowed, strict=True
        )
        return Limits(*(limit if most is None else most for limit, most in pairs))

    @property
    def bounds(self) -> Bounds:
        """By what errors are multiplied before they are compared with the limits."""
        return Bounds(self.confidence or 0.5, *self.bound_factors)

    @property
    def exceeded_kinds(self) -> dict[str, str]:
        """What is larger than it may be on labels of MD (energy, forces, stress), each told with its walker."""
        if self.errors is None:
            return {}
        told = self.limits.exceeded_by(self.errors, self.bounds)
        for what in told:
            errors = [(error, one.walker) for one in self.by_walker if (error := one.of(what)) is not None]
            if len(errors) > 1:
                told[what] += f", largest on {max(errors)[1]}: {max(errors)[0]:.3g}"
        if self.confidence is not None:  # asked for of every walker
            for one in self.by_walker:
                for what, words in self.limits.exceeded_by(one.errors).items():
                    told.setdefault(what, f"{one.walker}: {words}")
        return told

    @property
    def exceeded(self) -> list[str]:
        """The errors that are larger than they may be."""
        return [*self.left_out_exceeded, *self.exceeded_kinds.values()]

    @property
    def least_force_meV_A(self) -> float:
        """Root mean square force (meV/A) of the walker whose atoms move least."""
        return min([one.forces_rms_meV_A for one in self.by_walker], default=self.forces_rms_meV_A or 0.0)

    def where_still(self) -> str:
        """Name the walkers whose atoms hardly move, where there are others."""
        still = [one.walker for one in self.by_walker if one.forces_rms_meV_A < STILL_MEV_A]
        return f" of {', '.join(still)}" if still and len(self.by_walker) > 1 else ""

    def describe_still(self) -> str:
        """Tell of atoms that hardly move."""
        return (
            f"the atoms hardly move in MD{self.where_still()} (root mean square force {self.least_force_meV_A:.2g} "
            "meV/A), so that its frames prove nothing"
        )

    @property
    def failures(self) -> list[str]:
        """Why it does not pass; empty where it does."""
        told = [*self.exceeded_kinds.values(), *self.unmeasured]
        if self.is_still:
            told.append(self.describe_still())
        if self.unchecked:
            told.append(f"no frame of {', '.join(self.unchecked)} was labelled")
        if self.left_out_exceeded:
            told.append(f"{'; '.join(self.left_out_exceeded)}: more labels or a larger basis would help")
        return told + [str(p["description"]) for p in self.properties if p["state"] in ("failed", "not_measured")]

    def describe(self) -> str:
        """Return the result as a short text."""
        told, exceeded = [], self.exceeded_kinds
        if self.errors is not None:
            told.append(
                f"{self.errors.forces_rmse_meV_A:.1f} meV/A on {self.errors.n_structures} frame(s) of halt-free MD, "
                f"limit {self.limit_meV_A:.1f}"
            )
            if self.energy_limit_meV_atom is not None and "energy" not in exceeded:
                energy, limit = self.errors.energy_rmse_meV_atom, self.energy_limit_meV_atom
                told.append(f"energy {energy:.2f} meV/atom{self._by_few_frames(energy)}, limit {limit:.3g}")
            stress, most = self.errors.stress_rmse_GPa, self.stress_limit_GPa
            if most is not None and stress is not None and "stress" not in exceeded:
                told.append(f"stress {stress:.2f} GPa, limit {most:.2g}")
        if self.confidence is not None and self.errors is not None and self.passed:
            told.append(f"true errors are within what is asked for with {self.confidence:.0%} confidence")
        told += [*self.remarks, *self.failures, *self.hints]
        if n_passed := sum(p["state"] == "passed" for p in self.properties):
            told.append(f"{n_passed} properties within their limits")
        if self.learnt is not None:
            told.append(self.describe_learnt())
        return "; ".join(told)

    def _by_few_frames(self, energy_meV_atom: float) -> str:
        """Tell how large the energy error may be, where few frames may be lucky ones: each is one number."""
        n = 0 if self.errors is None else self.errors.n_structures
        if n == 0 or n >= frames_wanted(FEW_FRAMES):
            return ""
        most = bound_factor(n, FEW_FRAMES) * energy_meV_atom
        return f" (up to {most:.2f} with {FEW_FRAMES:.0%} confidence)"

    def describe_learnt(self) -> str:
        """Tell what came out of learning its labels as well."""
        if self.learnt is None:
            return "its labels were not learnt"
        errors = f"{self.learnt.describe()} on each of them left out of the fit"
        if self.delivered_id is None:
            also = f"; {self.not_delivered}" if self.not_delivered else ""
            return f"its labels are not learnt: a potential fitted to them as well has {errors}{also}"
        return f"the potential delivered is fitted to these labels as well: {errors}"


class CheckDocument(CheckResult, WithPayload):
    """A check of a potential on labels it was not trained on; ``payload['properties']`` holds the curves."""

    graded: list[GradedLabel] = Field(default_factory=list, description="Grade and error at each of these labels.")

    def comparisons(self) -> list[dict[str, Any]]:
        """Return the properties with what they come from: curves, matrices, frequencies; needs the payload."""
        curves = self.payload.get("properties") or [{}] * len(self.properties)
        return [{**one, "data": data} for one, data in zip(self.properties, curves, strict=True)]

    def result(self) -> CheckResult:
        """Return what is kept in the state."""
        return CheckResult.model_validate(self.model_dump(include=set(CheckResult.model_fields)))
