"""How long a campaign may still take, from what its own steps have taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip_autopipec.progress.types import Forecast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.progress.types import CampaignProgress
    from mlip_autopipec.schemas.loop import OTFDocument


def forecast(
    progress: CampaignProgress,
    assessed: Sequence[OTFDocument],
    walks: Sequence[tuple[int, float]],
    *,
    is_trained: bool,
) -> Forecast | None:
    """
    Forecast the time that is left, one job at a time.

    MD goes on where it halted, so how much of it is left is known, but for a check that fails; what is not known is how
    many more cycles of labels and training it takes.

    Parameters
    ----------
    progress
        Where the campaign is.
    assessed
        Its cycles so far.
    walks
        Steps and seconds of each MD run so far.
    is_trained
        Whether this cycle's training is done.

    Returns
    -------
    Forecast or None
        None until labels, training and MD have each been seen once.
    """
    bought = [one for one in assessed if one.n_new_labels > 0]
    lengths = [walker.n_steps for walker in progress.walkers]
    if not bought or not walks or not lengths or any(n_steps is None for n_steps in lengths):
        return None
    per_label = [one.seconds.get("label", 0.0) / one.n_new_labels for one in bought]
    training = [one.seconds.get("train", 0.0) for one in bought]
    per_step = [seconds / steps for steps, seconds in walks]
    mean_step = sum(seconds for _, seconds in walks) / sum(steps for steps, _ in walks)
    steps_left = sum(
        max((walker.n_steps or 0) - walker.steps_done, 0) for walker in progress.walkers if walker.state != "through"
    )
    trainings_left = 0 if is_trained else 1
    least = progress.labels.left * min(per_label) + trainings_left * min(training) + steps_left * min(per_step)
    if progress.budget.max_cycles is None:
        return Forecast(least, None)
    longest = max(one.seconds.get("label", 0.0) + one.seconds.get("train", 0.0) for one in bought)
    cycles_left = max(progress.budget.max_cycles - progress.cycle, 0)
    rest = progress.labels.left * max(per_label) + trainings_left * max(training) + steps_left * mean_step
    most = rest + cycles_left * longest
    if progress.budget.max_hours is not None and progress.hours is not None:
        # it is looked at after each cycle
        in_time = max(progress.budget.max_hours - progress.hours, 0.0) * 3600 + longest
        most = min(most, max(in_time, least))
    return Forecast(least, most)
