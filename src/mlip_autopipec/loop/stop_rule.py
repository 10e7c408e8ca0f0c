"""When the loop ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps.types import HaltReason, HaltVerdict
from mlip_autopipec.loop.campaign_walkers import is_proven
from mlip_autopipec.moved import renamed_fields
from mlip_autopipec.schemas.loop import LoopStatus, learns_failed_check
from mlip_autopipec.validation.confidence import frames_wanted
from mlip_autopipec.validation.criteria import Criterion
from mlip_autopipec.validation.targets import AccuracyTargets, check_targets, is_number

if TYPE_CHECKING:
    from mlip_autopipec.schemas.loop import LoopState, WalkerState

_NUMBERS = (
    "max_cycles",
    "max_labels",
    "max_hours",
    "max_repeats",
    "max_not_learnt",
    "n_check_labels",
    "max_relative_force_error",
    "force_error_floor_meV_A",
    "confidence",
)
#: Frames of a check are at most so many times those of the first one; each walk keeps five.
MOST_TIMES = 3


@renamed_fields(property_gate="criterion")
@dataclass
class StopRule(MSONable):
    """
    When the loop ends.

    Parameters
    ----------
    max_cycles
        Most cycles of halt, label and train.
    max_labels
        Most labels that are computed, those of the first dataset included; None for no limit. Labels that the user
        brought along are not counted.
    max_hours
        Wall time of the campaign in hours, checked after each cycle; None for no limit.
    max_repeats
        Halts in a row at the same place after which a walker counts as stalled.
    max_not_learnt
        Failed checks in a row after which the loop ends because the potential is above the limits on the labels of
        these checks even after training on them, with a basis that did not grow: more labels do not mend that.
    n_check_labels
        When no walker halts any more, so many frames of their MD, at least one of each walker, are labelled, and the
        potential is compared with them before it is trained on them. If an error is larger than it may be, they are
        learnt and all walkers begin anew with other seeds. The next check takes twice as many, further ones three
        times: what is tried again and again with few frames passes by luck one day. A walker has its last frame, four
        spread over its way, and those above ``gamma_lo``; longer MD does not give more, further walkers do. 0:
        halt-free MD is believed, which is refused with ``accuracy``.
    learn_check
        Whether the labels of a check that has passed are learnt as well before the loop converges, by trainers that can
        tell their errors by a fit to all others (the linear one). That potential is delivered if these errors are
        within the limits of the check, else the one that was checked. With ``criterion`` the checked one is.
    prove
        Whether each walker has to do its full length from its start with the final potential before the loop converges.
        A walker that was resumed after a halt may be in a state that only an earlier, worse potential leads to; this
        costs one more run of its MD, and labels only where that halts.
    max_relative_force_error, force_error_floor_meV_A
        Where ``accuracy`` does not say otherwise, an error may be this share of what the labels vary by: of forces, of
        their root mean square; of energies, of their spread; of stresses, of their root mean square. If the training
        set has smaller errors it may be twice those only, but a third of that share in any case, and always this many
        meV/A, 5 meV/atom and 0.5 GPa.
    accuracy
        What the errors of energies, forces and stresses on these labels may be.
    confidence
        Probability with which the true errors are within ``accuracy``: not the error that was measured is compared with
        what is asked for, but its upper bound. With ``accuracy`` at least as many frames are labelled as make this
        bound at most twice the error (four for 0.9), if the walkers have them.
    criterion
        Validation criterion of the same check: properties of the campaign's crystals
        (:class:`~mlip_autopipec.validation.properties.PropertyCriterion`), or a subclass of
        :class:`~mlip_autopipec.validation.criteria.CellCriterion`.
    """

    max_cycles: int = 50
    max_labels: int | None = None
    max_hours: float | None = None
    max_repeats: int = 4
    max_not_learnt: int = 3
    n_check_labels: int = 2
    learn_check: bool = True
    prove: bool = True
    max_relative_force_error: float = 0.15
    force_error_floor_meV_A: float = 20.0
    criterion: Criterion | None = None
    accuracy: AccuracyTargets | None = None
    confidence: float = 0.9

    def __post_init__(self) -> None:
        """Take plain data, as of a run file, for the targets."""
        if isinstance(self.accuracy, dict):
            check_targets(self.accuracy)
            self.accuracy = AccuracyTargets(**self.accuracy)

    def check(self) -> None:
        """Refuse invalid values."""
        for name in _NUMBERS:
            value, optional = getattr(self, name), name in ("max_labels", "max_hours")
            if not (is_number(value) or (optional and value is None)):
                raise InvalidInputError.of(
                    f"StopRule.{name}", f"is {value!r}; give a number{', or None' if optional else ''}"
                )
        if self.accuracy is not None and not isinstance(self.accuracy, AccuracyTargets):
            raise InvalidInputError.of("StopRule.accuracy", f"is {self.accuracy!r}; give AccuracyTargets, or None")
        if self.max_cycles < 0:
            raise InvalidInputError.of("StopRule.max_cycles", f"is {self.max_cycles}; it cannot be negative")
        if self.max_labels is not None and self.max_labels < 1:
            raise InvalidInputError.of("StopRule.max_labels", f"is {self.max_labels}; give at least 1, or None")
        for name in ("max_hours", "max_relative_force_error", "force_error_floor_meV_A"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInputError.of(f"StopRule.{name}", f"is {value}; it has to be positive")
        if self.accuracy is not None:
            self.accuracy.check()
        if not 0.5 <= self.confidence < 1:
            raise InvalidInputError.of("StopRule.confidence", f"is {self.confidence}; give 0.5 to below 1")
        if self.n_check_labels < 0:
            raise InvalidInputError.of(
                "StopRule.n_check_labels", f"is {self.n_check_labels}; give 0 for no check, or more"
            )
        if self.n_check_labels == 0 and self._asks:
            raise InvalidInputError.of(
                "StopRule.n_check_labels",
                "is 0, and accuracy asks for errors that only labels of a check tell; give at least 1 (at least "
                f"{frames_wanted(self.confidence)} are taken), or leave accuracy out",
            )
        for name in ("max_repeats", "max_not_learnt"):
            if (value := getattr(self, name)) < 1:
                raise InvalidInputError.of(f"StopRule.{name}", f"is {value}; it has to be at least 1")

    def labels_left(self, state: LoopState) -> int | None:
        """Return how many labels may still be computed; None for no limit."""
        return None if self.max_labels is None else self.max_labels - state.n_computed_labels

    @property
    def _asks(self) -> bool:
        """Whether errors are asked for."""
        return self.accuracy is not None and self.accuracy.asks

    @property
    def n_frames(self) -> int:
        """How many frames of MD a check labels, if each walker has one; 0 for none."""
        if self.n_check_labels == 0 or not self._asks:
            return self.n_check_labels
        return max(self.n_check_labels, frames_wanted(self.confidence))

    def frames_of(self, n_walkers: int, n_checks_failed: int = MOST_TIMES) -> int:
        """Return how many frames of MD a check labels after so many in a row have failed; without these, at most."""
        if self.n_frames == 0:
            return 0
        return max(self.n_frames, n_walkers) * min(1 + n_checks_failed, MOST_TIMES)

    def unproven(self, state: LoopState) -> list[WalkerState]:
        """Return the walkers that have to run from their start with the present potential, when all have completed."""
        if not self.prove or any(w.status != "CONVERGED" for w in state.walkers):
            return []
        potentials = (state.potential_id, state.proven_id)
        return [w for w in state.walkers if not any(is_proven(w, potential) for potential in potentials)]

    def needs_check(self, state: LoopState) -> bool:
        """Whether the potential is to be compared with labels from MD without halts."""
        completed = all(w.status == "CONVERGED" for w in state.walkers)
        checked = state.check is not None and state.check.potential_id == state.proven_id
        asked = self.n_check_labels > 0 or self.criterion is not None
        return asked and completed and not checked and not self.unproven(state)

    def judge(self, state: LoopState) -> tuple[LoopStatus, str]:
        """Decide whether the loop goes on, and say why."""
        open_walkers = [w for w in state.walkers if w.status != "CONVERGED"]
        completed = f"all {len(state.walkers)} walkers completed without a halt"
        passed = state.check is None or state.check.passed
        unproven = self.unproven(state)
        if not open_walkers and not unproven and not self.needs_check(state) and passed:
            if state.learns_check:
                return LoopStatus.LEARNING, f"{completed} and the check has passed; its labels are learnt last"
            checked = "" if state.check is None else f"; {state.check.describe()}"
            if self._asks and (state.check is None or state.check.errors is None):  # begun before it was refused
                checked += "; what accuracy asks for was not looked at, since n_check_labels is 0"
            final = "the final potential" if state.proven_id == state.potential_id else "the potential of the check"
            whole = f", from their start and with {final}" if self.prove else ""
            return LoopStatus.CONVERGED, completed + whole + checked
        settled = not open_walkers and not unproven and not learns_failed_check(state)
        if state.check is not None and state.check.is_still and settled:
            return LoopStatus.STALLED, f"{state.check.describe_still()}; look at temperature and thermostat"
        if state.check is not None and not state.check.passed and not state.check.teaches and settled:
            found = state.check.describe()
            if state.check.beyond_budget and not state.check.unmeasured:
                return LoopStatus.BUDGET_SPENT, f"{state.n_computed_labels} labels computed, {completed}; {found}"
            return LoopStatus.STALLED, (
                f"the oracle does not give what the potential is to be compared with: {found}. Mend "
                "that, or ask for less (accuracy, properties); OTFMaker.extend goes on"
            )
        repeated = [w for w in open_walkers if w.verdict is HaltVerdict.REPEAT]
        if repeated:
            return LoopStatus.STALLED, (
                f"{repeated[0].describe()}, a frame that was labelled and trained on after it had halted there before: "
                "the potential, its active set and the MD engine do not belong together"
            )
        if state.n_not_learnt >= self.max_not_learnt:
            size = "" if state.n_functions is None else f" of {state.n_functions} functions"
            return LoopStatus.STALLED, (
                f"the labels of {state.n_not_learnt} checks in a row have errors above their limits even after "
                f"training on them, the last with {state.not_learnt}: the basis{size} is too small, and "
                "more labels do not mend that. Give more functions (trainer.basis.number_of_functions_per_element) or, "
                "to the linear trainer, no number, so that the labels choose; or allow larger errors (accuracy). A new "
                "campaign in the same store reuses the labels"
            )
        stuck = [w for w in open_walkers if w.n_repeats >= self.max_repeats]
        if stuck:
            told = f"{self.max_repeats} times in a row without progress: {stuck[0].describe()}"
            if stuck[0].reason == HaltReason.FORCE_ERROR:
                told += "; labels no longer lower the expected error: raise MDSettings.max_force_std_eV_A "
                told += "(max_relative_force_std where that is not given), or let the basis grow"
            return LoopStatus.STALLED, told
        left = f"{len(open_walkers)} walkers have not completed" if open_walkers else f"{completed}, unchecked"
        if not open_walkers and state.check is not None and not state.check.passed:
            failures = "; ".join(state.check.failures)
            left = f"{completed}, and the last check failed: {failures}"
            if not learns_failed_check(state):
                left = f"{completed}, unchecked since the last check failed, whose labels are learnt: {failures}"
        if unproven:
            left = f"{completed}, {len(unproven)} of them still have to run from their start with the final potential"
        if state.cycle >= self.max_cycles:
            return LoopStatus.MAX_ITER_REACHED, f"{state.cycle} cycles done, {left}"
        labels_wanted = not unproven or self.n_check_labels > 0 or self.criterion is not None
        if self.max_labels is not None and state.n_computed_labels >= self.max_labels and labels_wanted:
            return LoopStatus.BUDGET_SPENT, f"{state.n_computed_labels} labels computed, {left}"
        if self.max_hours is not None and state.hours >= self.max_hours:
            return LoopStatus.BUDGET_SPENT, f"{state.hours:.1f} h spent, {left}"
        return LoopStatus.LEARNING, left
