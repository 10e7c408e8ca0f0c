"""The state of the loop, and the one document it ends with."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, Field

from mlip_autopipec.lammps.types import Condition, HaltVerdict
from mlip_autopipec.schemas.base import Document
from mlip_autopipec.schemas.check import (  # noqa: F401 - stored by version 0.1.0 as classes of this module
    CheckDocument,
    CheckResult,
    WalkerErrors,
)
from mlip_autopipec.schemas.potential import Errors, LinearRecord, PotentialDocument, unfitted


class LoopStatus(StrEnum):
    """Status of a loop."""

    LEARNING = "LEARNING"
    """The next cycle follows."""
    CONVERGED = "CONVERGED"
    """Every walker completed without a halt."""
    MAX_ITER_REACHED = "MAX_ITER_REACHED"
    """As many cycles as allowed; some walkers still halt, or the last check has failed."""
    BUDGET_SPENT = "BUDGET_SPENT"
    """As many labels or hours as allowed; walkers still halt, not all was checked, or the last check has failed."""
    STALLED = "STALLED"
    """A walker halted at the same place again and again, or labels of a check failed."""
    ORACLE_FAILING = "ORACLE_FAILING"
    """Too many labels failed."""
    FAILED = "FAILED"
    """A step of the last cycle failed; its folder and log have the reason. All labels are kept."""
    PAUSED = "PAUSED"
    """This process cannot nest further cycles; everything is kept and can be continued."""


class WalkerState(BaseModel):
    """One walker = (structure, temperature, pressure, seed) and how far it got."""

    index: int = Field(description="Number of the walker.")
    formula: str = Field(description="Chemical formula of its structure.")
    condition: Condition = Field(description="Temperature and pressure.")
    seed: int = Field(description="Seed of its velocities.")
    start_id: str | None = Field(None, description="uuid of the document that holds the structure it starts from.")
    start_index: int = Field(0, description="Place of the structure in that document.")
    start_volume_A3: float | None = Field(None, description="Volume of that structure, A^3.")
    biased: bool = Field(False, description="Whether it makes its biased walk (dynamics.bias), before plain MD.")
    after: int | None = Field(None, description="Walker that has to complete before this one starts: the rung below.")
    status: Literal["WAITING", "PENDING", "HALTED", "CONVERGED", "NOT_RUN"] = Field(
        "PENDING", description="As of the last cycle; WAITING for the walker named by `after`."
    )
    step: int = Field(0, description="MD step reached.")
    reason: str | None = Field(None, description="Why it halted last.")
    verdict: HaltVerdict | None = Field(
        None,
        description="What that halt is taken for: novelty, short_contact, explosion, repeat; None where its last run "
        "ended otherwise.",
    )
    gamma_max: float | None = Field(None, description="Largest grade at the last halt.")
    atom_index: int | None = Field(None, description="Atom of that grade.")
    walk_id: str | None = Field(None, description="uuid of its last walk.")
    force_std_eV_A: float | None = Field(None, description="Expected force error at the halt, where that halted it.")
    only_potential_id: str | None = Field(
        None, description="uuid of the potential of all its MD since its start; None where there were several."
    )
    crash: str | None = Field(None, description="What the error said, where its last run crashed.")
    n_halts: int = Field(0, description="Halts so far.")
    n_repeats: int = Field(0, description="Halts in a row without progress.")
    n_explosions: int = Field(0, description="Explosions in a row, crashes between them not counted.")
    stuck_at: int = Field(0, description="MD step of the repeated explosions before it was restarted with a new seed.")
    replica: int = Field(
        0,
        description="Restarts with a new seed: after a failed check, explosions, roll-back or biased walk; as proof.",
    )
    n_rolled_back: int = Field(0, description="How often its walk was thrown away and it went back to its start.")
    steps_thrown_away: int = Field(0, description="MD steps of these walks.")

    @property
    def is_due(self) -> bool:
        """Whether it is run in the next cycle."""
        return self.status not in ("CONVERGED", "WAITING")

    @property
    def asks_for_labels(self) -> bool:
        """Whether its last run ended in unknown territory, as opposed to a crash or the end of its wall time."""
        return self.status == "HALTED" and self.walk_id is not None and self.reason not in ("crashed", "timed_out")

    def describe(self) -> str:
        """Return the state of this walker as a short text."""
        where = f"w{self.index} {self.condition.temperature_K:g} K"
        if self.n_rolled_back:
            times = "once" if self.n_rolled_back == 1 else f"{self.n_rolled_back} times"
            where += f" (rolled back to its start {times}, {self.steps_thrown_away} steps thrown away)"
        if self.status == "HALTED":
            grade = "" if self.gamma_max is None else f" {self.gamma_max:.1f}"
            if self.force_std_eV_A is not None:
                grade = f" {self.force_std_eV_A:.3g} eV/A"
            if self.reason == "crashed":
                return f"{where} crashed at step {self.step}" + (f": {self.crash}" if self.crash else "")
            return f"{where} halted at step {self.step} ({self.reason}{grade})"
        return f"{where} {self.status.lower()} at step {self.step}"


#: Why a walk is thrown away whose halt could not be labelled.
NO_LABELS = "no labels"


class ThrownAway(BaseModel):
    """A walk that was thrown away: its last halt is not where its temperature leads."""

    walker: int = Field(description="Number of the walker.")
    steps: int = Field(description="MD steps thrown away.")
    reason: str = Field(description="Why: the reason of the halt, energy, or no labels.")
    energy_above_start_eV_atom: float | None = Field(
        None,
        description="Energy of the halted frame above that of its start, with the work of the barostat, per atom that "
        "moves, eV; by its label, or by the potential that was trained on the labels around it.",
    )
    limit_eV_atom: float | None = Field(None, description="How far above its temperature leads at most, eV/atom.")

    def describe(self) -> str:
        """Return it as a short text."""
        why = f"it halted by {self.reason}"
        if self.reason == NO_LABELS:
            why = "the labels around its halt, where MD may have broken the structure, could not be computed"
        if self.energy_above_start_eV_atom is not None and self.limit_eV_atom is not None:
            why = (
                f"it halted {self.energy_above_start_eV_atom:.3g} eV/atom above its start, where its temperature leads "
                f"to {self.limit_eV_atom:.2g} at most"
            )
        return f"w{self.walker} rolled back to its start, {self.steps} steps thrown away: {why}"


def learns_failed_check(state: LoopState | OTFDocument) -> bool:
    """Whether the next training is of the labels of a check that has failed, after which all walkers begin anew."""
    check = state.check
    return check is not None and not check.passed and state.untrained_batch_id == check.batch_id


class LoopState(BaseModel):
    """State that one cycle gives to the next; its size does not grow with the cycles."""

    campaign_id: str
    seed: int
    elements: list[str]
    cycle: int = 0
    potential_id: str | None = None
    walkers: list[WalkerState]
    n_labels: int = 0
    n_given_labels: int = 0
    n_reused_labels: int = 0
    n_failed_labels: int = 0
    n_halts: int = 0
    hours: float = 0.0
    hours_before: float = 0.0
    clock_started: str | None = None
    check: CheckResult | None = None
    untrained_batch_id: str | None = None
    n_not_learnt: int = 0
    not_learnt: str | None = None
    n_functions: int | None = None
    gamma_thresholds: tuple[float, float] | None = None

    @property
    def n_computed_labels(self) -> int:
        """Labels of this campaign without those that the user brought along."""
        return self.n_labels - self.n_given_labels

    @property
    def learns_check(self) -> bool:
        """Whether the next training is the last one: of the labels of a check that has passed."""
        return self.check is not None and self.check.passed and self.untrained_batch_id == self.check.batch_id

    @property
    def n_checks_failed(self) -> int:
        """How many checks in a row have failed, up to now."""
        return 0 if self.check is None or self.check.passed else self.check.n_failed_before + 1

    @property
    def proven_id(self) -> str | None:
        """The potential (uuid) that MD and the check are to be done with: the present one, or the one it came from."""
        check = self.check
        if check is not None and check.delivered_id is not None and check.delivered_id == self.potential_id:
            return check.potential_id
        return self.potential_id


class CycleResults(BaseModel):
    """Stored documents of an interrupted cycle: their uuids."""

    potential_id: str | None = None
    batch_id: str | None = None
    walk_ids: dict[int, str] = Field(default_factory=dict)
    unfinished_walk_ids: dict[int, str] = Field(default_factory=dict)


class OTFDocument(Document):
    """
    Status of a campaign after a cycle; the last one is the output of the Flow.

    The final document carries the potential with its files, the earlier ones only its id.
    """

    kind: Literal["loop"] = "loop"
    status: LoopStatus = Field(description="LEARNING, or how the loop ended.")
    why: str = Field(description="The reason of the status, in words.")
    n_cycles: int = Field(description="Cycles of halt, label and train so far.")
    n_labels: int = Field(description="Labels obtained so far, including the first dataset.")
    n_new_labels: int = Field(0, description="Labels obtained in this cycle.")
    n_reused_labels: int = Field(0, description="Of all labels, those that had been computed before.")
    n_failed_labels: int = Field(0, description="Labels that failed so far.")
    n_halts: int = Field(0, description="Halts so far.")
    hours: float = Field(0.0, description="Wall time that was worked since the campaign was made or extended, h.")
    hours_before: float = Field(0.0, description="That before it was last resumed, up to the last complete cycle, h.")
    clock_started: str | None = Field(None, description="When it was last resumed (UTC); None if never interrupted.")
    check: CheckResult | None = Field(None, description="The last check on labels from halt-free MD.")
    untrained_batch_id: str | None = Field(
        None,
        description="uuid of the batch to train on next: labels of a failed check, or accepted outliers.",
    )
    n_not_learnt: int = Field(
        0,
        description="Failed checks in a row whose labels have errors above the check's limits even after the "
        "potential, with a basis of the same size, was trained on them.",
    )
    not_learnt: str | None = Field(None, description="These errors with their limits, of the last such check.")
    n_functions: int | None = Field(None, description="Basis functions of the potential, of all elements together.")
    gamma_thresholds: tuple[float, float] | None = Field(
        None, description="Lower and upper threshold of gamma in the next MD, where they are adapted."
    )
    elements: list[str] = Field(default_factory=list, description="Elements of the campaign, alphabetical.")
    walkers: list[WalkerState] = Field(description="All walkers.")
    thrown_away: list[ThrownAway] = Field(
        default_factory=list, description="Walks that were thrown away in this cycle, after they had run on."
    )
    potential_id: str | None = Field(description="uuid of the potential; None if none could be trained.")
    potential: PotentialDocument | None = Field(
        None, description="The potential with its active set, in the final document."
    )
    train: Errors | None = Field(None, description="Errors on the training set.")
    fits_stress: bool | None = Field(None, description="Whether stresses of labels are fitted; None if not known.")
    test: Errors | None = Field(None, description="Errors on the held-out set.")
    linear: LinearRecord | None = Field(
        None, description="What a linear fit chose, with its errors of labels left out."
    )
    new_before: Errors | None = Field(None, description="Errors of the previous potential on this cycle's labels.")
    new_after: Errors | None = Field(None, description="Errors of the present potential on them.")
    seconds: dict[str, float] = Field(
        default_factory=dict, description="Wall time of this cycle by step (label, train, explore), s."
    )
    seed: int = Field(0, description="Seed of the campaign.")

    def _limit_that_failed(self) -> float | None:
        """Return the limit of the force error (meV/A) that the cycle before failed, whose labels this one learnt."""
        check = self.check
        if check is None or check.passed or check.cycle != self.cycle - 1:
            return None
        return check.limit_meV_A

    def walks_thrown_away(self) -> str:
        """Tell of which walkers walks were thrown away so far, how often, and how many MD steps; empty where none."""
        thrown = [w for w in self.walkers if w.n_rolled_back]
        return ", ".join(f"w{w.index} {w.n_rolled_back} ({w.steps_thrown_away} steps)" for w in thrown)

    def line(self) -> str:
        """Tell this cycle in one line: walkers, labels, errors, time."""
        ran = [w for w in self.walkers if w.status not in ("PENDING", "WAITING")]
        if not ran and not self.thrown_away:  # biased walks that have ended, and whose walkers begin anew
            ran = [w for w in self.walkers if w.status == "PENDING"]
        if self.check is not None and self.check.cycle == self.cycle:
            told = f"check {'passed' if self.check.passed else 'failed'}: {self.check.describe()}"
            return f"cycle {self.cycle:3d}  {told}  | labels {self.n_labels} (+{self.n_new_labels})"
        if self.check is not None and self.check.learnt is not None and self.train is not None:
            return f"cycle {self.cycle:3d}  {self.check.describe_learnt()}  | labels {self.n_labels} (+0)"
        shown = ", ".join(w.describe() for w in ran[:3]) + (f", +{len(ran) - 3} more" if len(ran) > 3 else "")
        shown = ", ".join([*filter(None, [shown]), *(one.describe() for one in self.thrown_away)])
        parts = [f"cycle {self.cycle:3d}  {shown}", f"labels {self.n_labels} (+{self.n_new_labels})"]
        if self.train is not None:
            parts.append(
                f"train {self.train.energy_rmse_meV_atom:.2f} meV/atom {self.train.forces_rmse_meV_A:.1f} meV/A"
                + (
                    ""
                    if self.train.stress_rmse_GPa is None
                    else f" {self.train.stress_rmse_GPa:.2f} GPa{unfitted(self.fits_stress)}"
                )
            )
        if self.linear is not None:
            parts.append(self.linear.describe())
        if self.new_before is not None and self.new_after is not None:
            before, after = self.new_before.forces_rmse_meV_A, self.new_after.forces_rmse_meV_A
            parts.append(f"new labels {before:.1f} -> {after:.1f} meV/A")
            limit = self._limit_that_failed()
            if limit is not None and after > limit:  # further labels of the kind will not help
                parts.append(f"above the check's limit {limit:.1f} even after training on it: try a larger basis")
        parts.append(f"{sum(self.seconds.values()):.1f} s")
        return "  | ".join(parts)
