"""A campaign's progress on a screen, wide or narrow."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from mlip_autopipec.progress.types import CampaignProgress, Forecast, RunningStep, WalkerProgress

#: What a campaign does after its loop has ended; how long that takes is not forecast.
VALIDATING = "validating on MD of the oracle"
#: Columns below which a walker takes two lines.
NARROW = 64
#: Walkers that move, or are about to, come first where not all can be shown.
_FIRST = ("running", "halted", "due", "not run", "waiting", "through")
_COLOURS = {"running": "cyan", "halted": "yellow", "through": "green", "not run": "red"}
_BAR = 10
#: Workers that are shown one by one.
_MOST_WORKERS = 8
#: A name that was not given by a person.
_MADE_UP = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Shown:
    """
    A progress as rich shows it, in any width.

    Parameters
    ----------
    progress
        What is shown.
    max_walkers
        Most walkers that are shown one by one.
    note
        A last line.
    """

    progress: CampaignProgress
    max_walkers: int = 12
    note: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render in the width there is; a console that leaves long lines alone would break the display."""
        options = options.update(no_wrap=False, overflow="fold")
        narrow = options.max_width < NARROW
        yield Text("")
        yield from console.render(_headline(self.progress), options)
        yield from console.render(_facts(self.progress, narrow=narrow), options)
        if self.progress.walkers:
            yield from console.render(_walkers(self.progress, self.max_walkers, narrow=narrow), options)
        if self.note:
            yield from console.render(Text(self.note, style="dim"), options)


def duration(seconds: float) -> str:
    """Tell a time in the unit in which one thinks of it."""
    for limit, unit, name in ((90.0, 1.0, "s"), (5400.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if name == "h" and value < 10 else f"{value:.0f} {name}"
    return f"{seconds / 86_400:.1f} days"


def plain_line(progress: CampaignProgress, seconds: float) -> str:
    """
    Tell of a step that takes long in one line.

    Parameters
    ----------
    progress
        Where the campaign is.
    seconds
        How long the step has taken so far, in s.
    """
    told = [f"cycle {progress.cycle:3d}  {progress.doing or progress.status} for {duration(seconds)}"]
    labels = progress.labels
    if labels.left:
        failed = f" ({labels.failed} failed)" if labels.failed else ""
        told.append(f"{labels.done} of {labels.asked} labels{failed}")
    if progress.fit is not None:
        told.append(f"iteration {progress.fit.iteration}, loss {progress.fit.loss:.3g}")
    for walker in progress.walkers:
        if walker.state == "running" and walker.look is not None:
            of = "" if walker.n_steps is None else f" of {walker.n_steps}"
            told.append(
                f"w{walker.index} {walker.temperature_K:g} K at step {walker.look.step}{of} "
                f"(gamma {_gamma(walker.look.gamma_max)})"
            )
    return "  | ".join(told)


def _headline(progress: CampaignProgress) -> Text:
    name = progress.campaign_id
    if _MADE_UP.fullmatch(name) and progress.name:
        name = f"{progress.name} ({name[:8]})"
    line = Text.assemble((name, "bold"), f", cycle {progress.cycle}: ")
    line.append(progress.doing or progress.status, style="cyan")
    return line


def _facts(progress: CampaignProgress, *, narrow: bool) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, style="dim", min_width=8)
    grid.add_column(overflow="fold")
    labels = progress.labels
    total = f"{labels.total} in all" + (f", {labels.given} of them given" if labels.given else "")
    if labels.asked is None:
        grid.add_row("labels", total)
    else:
        done = f"{labels.done} of {labels.asked} in this cycle"
        failed = f" ({labels.failed} failed)" if labels.failed else ""
        told = f"{done}{failed}, {total}"
        grid.add_row("labels", told if narrow else _with_bar(labels.done + labels.failed, labels.asked, told))
    if progress.fit is not None:
        fit = progress.fit
        most = "" if fit.max_iterations is None else f" of at most {fit.max_iterations}"
        grid.add_row(
            "training", f"iteration {fit.iteration}{most}, loss {fit.loss:.3g} (began with {fit.first_loss:.3g})"
        )
    if progress.n_oracle_frames is not None:
        grid.add_row("frames", f"{progress.n_oracle_frames} by MD of the oracle so far")
    if on_workers := [step for step in progress.running if step.worker]:
        grid.add_row("workers", _running(on_workers))
    if progress.energy_rmse_meV_atom is not None and progress.forces_rmse_meV_A is not None:
        errors = f"{progress.energy_rmse_meV_atom:.2f} meV/atom, {progress.forces_rmse_meV_A:.1f} meV/A"
        grid.add_row("error", f"{errors} on {progress.errors_on} labels")
    if progress.doing:
        grid.add_row("spent", _spent(progress))
        if progress.doing != VALIDATING:
            grid.add_row("to go", _to_go(progress.forecast, progress.budget.max_cycles))
    else:
        grid.add_row("why", Text(progress.why))
    if progress.doing not in ("", VALIDATING) and progress.gamma_lo is not None and progress.gamma_hi is not None:
        grid.add_row("gamma", f"frames kept above {progress.gamma_lo:g}, MD halts above {progress.gamma_hi:g}")
    return grid


def _running(steps: Sequence[RunningStep]) -> str:
    """Tell which worker runs what."""
    shown = sorted(steps, key=lambda step: step.worker)[:_MOST_WORKERS]
    told = [f"{step.worker}: {step.name}, {duration(step.seconds)}" for step in shown]
    return "; ".join([*told, *([f"and {len(steps) - len(shown)} more"] if len(steps) > len(shown) else [])])


def _with_bar(done: float, of: float, text: str) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=_BAR)
    row.add_column(overflow="fold")
    row.add_row(_bar(done, of), text)
    return row


def _bar(done: float, of: float) -> ProgressBar:
    return ProgressBar(
        total=max(of, 1), completed=min(done, of), width=_BAR, complete_style="cyan", finished_style="green"
    )


def _spent(progress: CampaignProgress) -> str:
    budget, parts = progress.budget, []
    if progress.hours is not None:
        hours = duration(progress.hours * 3600)
        parts.append(hours if budget.max_hours is None else f"{hours} of {duration(budget.max_hours * 3600)}")
    parts.append(
        f"{progress.cycle} cycles" if budget.max_cycles is None else f"{progress.cycle} of {budget.max_cycles} cycles"
    )
    if budget.max_labels is not None:
        parts.append(f"{progress.labels.total - progress.labels.given} of {budget.max_labels} labels")
    return ", ".join(parts)


def _to_go(forecast: Forecast | None, max_cycles: int | None) -> str:
    if forecast is None:
        return "unknown yet"
    least = f"{duration(forecast.least_s)} if MD halts no more"
    if forecast.most_s is None:
        return least
    cycles = "all cycles" if max_cycles is None else f"all {max_cycles} cycles"
    return f"{least}, {duration(forecast.most_s)} with {cycles}"


def _walkers(progress: CampaignProgress, most: int, *, narrow: bool) -> Table:
    by_urgency = sorted(progress.walkers, key=lambda walker: (_FIRST.index(walker.state), walker.index))
    shown = sorted(by_urgency[:most], key=lambda walker: walker.index)
    rows = [_row(walker, progress) for walker in shown]
    if narrow:
        grid = Table.grid(padding=(0, 1))
        for name, what, at, bar, way, state in rows:
            grid.add_row(Text(" ").join([name, what, at, way]))
            grid.add_row(_indented(bar, state))
    else:
        grid = Table.grid(padding=(0, 2, 0, 0))
        for number in range(len(rows[0])):
            grid.add_column(no_wrap=number in (0, 2, 3, 4), overflow="fold", max_width=12 if number == 1 else None)
        for row in rows:
            grid.add_row(*row)
    if len(by_urgency) > most:
        counts = _counted(by_urgency[most:])
        return _above(grid, Text(f"and {counts}", style="dim"))
    return grid


def _counted(walkers: Iterable[WalkerProgress]) -> str:
    counts: dict[str, int] = {}
    for walker in walkers:
        counts[walker.state] = counts.get(walker.state, 0) + 1
    return ", ".join(f"{number} more {state}" for state, number in counts.items())


def _above(*parts: RenderableType) -> Table:
    grid = Table.grid()
    for part in parts:
        grid.add_row(part)
    return grid


def _indented(*parts: RenderableType) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_row("  ", *parts)
    return grid


def _row(walker: WalkerProgress, progress: CampaignProgress) -> tuple[Text, Text, Text, RenderableType, Text, Text]:
    """Return number, structure, condition, bar, length of the way and state."""
    pressure = f" {walker.pressure_GPa:g} GPa" if walker.pressure_GPa else ""
    steps, of = walker.steps_done, walker.n_steps
    way = Text(f"{steps} steps" if of is None else f"{steps}/{of} steps")
    if of is not None and walker.timestep_fs is not None:
        way = Text(f"{_ps(steps * walker.timestep_fs)}/{_ps(of * walker.timestep_fs)} ps")
    bar: RenderableType = Text("") if of is None else _bar(steps, of)
    at = Text(f"{walker.temperature_K:g} K{pressure}")
    return Text(f"w{walker.index}", style="dim"), Text(walker.formula), at, bar, way, _state(walker, progress)


def _ps(fs: float) -> str:
    return f"{fs / 1000:.{2 if fs < 100_000 else 0}f}"


def _state(walker: WalkerProgress, progress: CampaignProgress) -> Text:
    if walker.state == "running" and walker.look is not None:
        text = Text(f"{walker.look.temperature_K:.0f} K, ", style="cyan")
        text.append(f"gamma {_gamma(walker.look.gamma_max)}", style=_alarm(walker.look.gamma_max, progress))
        return text
    colour = _COLOURS.get(walker.state, "dim")
    if walker.state == "halted":
        which = f"halt {walker.n_halts}" if walker.n_halts else "halted"
        grade = "" if walker.gamma_max is None or walker.reason == "crashed" else f" {_gamma(walker.gamma_max)}"
        return Text(f"{which}: {walker.reason}{grade}" if walker.reason else which, style=colour)
    text = Text(walker.state, style=colour)
    if walker.n_halts:
        text.append(f" ({walker.n_halts} halt{'s' if walker.n_halts > 1 else ''})", style="dim")
    return text


def _gamma(value: float) -> str:
    return "not finite" if not math.isfinite(value) else f"{value:.1f}" if value < 1000 else f"{value:.0e}"


def _alarm(gamma: float, progress: CampaignProgress) -> str:
    """Return the colour of a grade: kept above the lower threshold, a halt above the upper one."""
    if progress.gamma_lo is None or progress.gamma_hi is None:
        return ""
    return "red" if gamma > progress.gamma_hi else "yellow" if gamma > progress.gamma_lo else "green"
