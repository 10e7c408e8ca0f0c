"""What is known of a campaign's progress; whatever is not known is None."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Look:
    """
    The last grading step of an MD run.

    Parameters
    ----------
    step
        MD step.
    temperature_K
        Instantaneous.
    gamma_max
        Largest extrapolation grade.
    """

    step: int
    temperature_K: float
    gamma_max: float


@dataclass(frozen=True)
class FitLoss:
    """
    Progress of a fit.

    Parameters
    ----------
    iteration
        Of the optimiser.
    max_iterations
        Most there may be.
    first_loss, loss
        At the start and now, in the program's own units.
    """

    iteration: int
    max_iterations: int | None
    first_loss: float
    loss: float


@dataclass(frozen=True)
class WalkerProgress:
    """
    One walker.

    Parameters
    ----------
    index
        Its number.
    formula
        Of its structure.
    temperature_K, pressure_GPa
        What it is held at.
    state
        ``due``, ``running``, ``halted``, ``through``, ``waiting`` (for the rung below) or ``not run``.
    step, n_steps
        MD steps done, and asked for.
    timestep_fs
        Length of a step.
    n_halts
        Halts so far.
    reason, gamma_max
        Of its last halt.
    look
        Where it is now, while it runs.
    """

    index: int
    formula: str
    temperature_K: float
    pressure_GPa: float = 0.0
    state: str = "due"
    step: int = 0
    n_steps: int | None = None
    timestep_fs: float | None = None
    n_halts: int = 0
    reason: str | None = None
    gamma_max: float | None = None
    look: Look | None = None

    @property
    def steps_done(self) -> int:
        """Steps by the last grading step, else by the last document."""
        return self.step if self.look is None else max(self.step, self.look.step)


@dataclass(frozen=True)
class Labels:
    """
    Labels of the present cycle, and of the whole campaign.

    Parameters
    ----------
    asked
        In this cycle; None while it is not decided.
    done, failed
        In this cycle.
    total
        Successful ones of all cycles.
    given
        Of all, those that the user brought along, which no budget counts.
    """

    asked: int | None
    done: int
    failed: int
    total: int
    given: int = 0

    @property
    def left(self) -> int:
        """Labels of this cycle still to come."""
        return 0 if self.asked is None else max(self.asked - self.done - self.failed, 0)


@dataclass(frozen=True)
class Budget:
    """Most cycles, labels and hours the campaign may take; None for no limit, or where that is not known."""

    max_cycles: int | None = None
    max_labels: int | None = None
    max_hours: float | None = None


@dataclass(frozen=True)
class Forecast:
    """
    How long it may still take, one job at a time, at the pace of this campaign's steps so far.

    Parameters
    ----------
    least_s
        If no walker halts any more, at the best pace.
    most_s
        If all cycles left are needed, each as long as the longest; None where cycles have no limit.
    """

    least_s: float
    most_s: float | None

    def later(self, seconds: float) -> Forecast:
        """Return what is left of it after some time."""
        most = None if self.most_s is None else max(self.most_s - seconds, 0.0)
        return Forecast(max(self.least_s - seconds, 0.0), most)


@dataclass(frozen=True)
class RunningStep:
    """
    A job that runs.

    Parameters
    ----------
    worker
        Number of its worker, from 1; 0 where there are none.
    name
        Of the job.
    seconds
        Since it began, in s.
    """

    worker: int
    name: str
    seconds: float


@dataclass(frozen=True)
class CampaignProgress:
    """
    How far a campaign is.

    Parameters
    ----------
    campaign_id, name
        The campaign; the name is its maker's.
    status, why
        Of the last assessment.
    cycle
        The one under way; of a campaign that has ended the last.
    doing
        What it does in that cycle, in words; empty when it has ended.
    walkers, labels, budget
        See there.
    hours
        Wall time since the campaign was recorded.
    energy_rmse_meV_atom, forces_rmse_meV_A
        Of the present potential, on ``errors_on`` (``held-out``, ``left-out`` or ``training``) labels.
    gamma_lo, gamma_hi
        Frames above the lower threshold are kept; above the upper one MD halts.
    fit
        While a fit is under way that tells its loss.
    forecast
        None while this campaign has not shown how long its steps take.
    running
        Jobs that run now, where that is known.
    n_oracle_frames
        Stored frames of the oracle's own MD, while it runs.
    """

    campaign_id: str
    name: str
    status: str
    why: str
    cycle: int
    doing: str
    walkers: tuple[WalkerProgress, ...]
    labels: Labels
    budget: Budget = field(default_factory=Budget)
    hours: float | None = None
    energy_rmse_meV_atom: float | None = None
    forces_rmse_meV_A: float | None = None
    errors_on: str = ""
    gamma_lo: float | None = None
    gamma_hi: float | None = None
    fit: FitLoss | None = None
    forecast: Forecast | None = None
    running: tuple[RunningStep, ...] = ()
    n_oracle_frames: int | None = None

    def later(self, seconds: float) -> CampaignProgress:
        """Return it some time after it was read from the documents, in which nothing ended."""
        return replace(
            self,
            hours=None if self.hours is None else self.hours + seconds / 3600,
            forecast=None if self.forecast is None else self.forecast.later(seconds),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)
