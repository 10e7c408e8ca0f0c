"""How far MD got, and gamma on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from mlip_autopipec.report.panels import (
    GREEN,
    RED,
    Panel,
    add_level,
    colour_between,
    colour_of,
    make_logarithmic,
    marker_size,
    new_figure,
    number_cycles,
    safe,
)

if TYPE_CHECKING:
    from mlip_autopipec.report.collect import CampaignData
    from mlip_autopipec.schemas.walk import WalkDocument

_SYMBOLS = {"CONVERGED": "circle", "HALTED": "x", "TIMED_OUT": "triangle-right", "NOT_RUN": "circle-open"}
_ENDS = {"CONVERGED": "completed", "HALTED": "halted", "TIMED_OUT": "wall time over", "NOT_RUN": "not run"}
#: More walkers than these are drawn without a legend.
_NAMED = 12


def progress(data: CampaignData) -> Panel:
    """Show how far each walker got in each cycle."""
    title = "How far MD got before each halt"
    ran = [w for w in data.walks if w.status != "NOT_RUN"]
    if not ran:
        return Panel("progress", title, absence=_no_walks(data))
    walkers = sorted({w.walker for w in ran})
    figure = new_figure("cycle", "simulated time / ps", showlegend=len(walkers) <= _NAMED)
    figure.update_yaxes(rangemode="tozero")
    number_cycles(figure, [w.cycle for w in ran])
    for place, index in enumerate(walkers):
        own = [w for w in ran if w.walker == index]
        figure.add_trace(
            go.Scatter(
                x=[w.cycle for w in own],
                y=[_reached_ps(w) for w in own],
                mode="lines+markers",
                name=safe(data.walker_name(index)),
                line={"color": colour_of(place), "width": 1.5},
                marker={
                    "symbol": [_SYMBOLS[w.status] for w in own],
                    "size": marker_size(len(own)) + 2,
                    "color": colour_of(place),
                },
                text=[_told(w) for w in own],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    for asked in sorted({1e-3 * w.n_steps * w.timestep_fs for w in ran}):
        add_level(figure, asked, dash="dot")
    n_halts = sum(w.status == "HALTED" for w in ran)
    note = f"MD runs: {len(ran)}, halts: {n_halts}. Cross: a halt; dot: a run that completed; dotted line: asked for."
    if tried := sum(w.n_swaps_attempted or 0 for w in ran):
        note += f" Exchanges of atoms: {sum(w.n_swaps_accepted or 0 for w in ran)} of {tried} accepted."
    if driven := sum(w.is_biased for w in ran):
        note += f" A bias or a collective variable drove {driven} of {len(ran)} runs; no check has their frames."
    if thrown := [f"cycle {cycle.cycle}: {one.describe()}" for cycle in data.cycles for one in cycle.thrown_away]:
        note += f" Walks that were thrown away: {'; '.join(thrown[-_NAMED:])}."
    return Panel("progress", title, {"all walkers": figure}, note)


def gamma(data: CampaignData) -> Panel:
    """Show the largest grade along the way of each walker."""
    title = "Extrapolation grade along each walker"
    if not data.traces:
        return Panel("gamma", title, absence=_no_walks(data))
    last_cycle = max((w.cycle for w in data.walks), default=0)
    views = {}
    for index in sorted({w.walker for w in data.walks if w.uuid in data.traces}):
        own = [w for w in data.walks if w.walker == index and w.uuid in data.traces]
        figure = new_figure("simulated time / ps", "largest gamma of all atoms", showlegend=len(own) <= _NAMED)
        make_logarithmic(figure, y=[g for w in own for g in data.traces[w.uuid]["gamma_max"]])
        for walk in own:
            _add_walk(figure, walk, data.traces[walk.uuid], walk.cycle / max(last_cycle, 1))
        halts = [w for w in own if w.status == "HALTED"]
        if halts:
            figure.add_trace(
                go.Scatter(
                    x=[_reached_ps(w) for w in halts],
                    # where gamma could not be computed the mark stands at the end of its trace
                    y=[_last_grade(w, data.traces[w.uuid]["gamma_max"]) for w in halts],
                    mode="markers",
                    name="halts",
                    marker={"symbol": "x", "size": 11, "color": RED},
                    text=[_told(w) for w in halts],
                    hovertemplate="%{text}<extra></extra>",
                )
            )
        if data.thresholds is not None:
            for level, colour, word in zip(data.thresholds, (GREEN, RED), ("kept", "halt"), strict=True):
                add_level(figure, level, f"{word} above {level:.3g}", colour=colour)
        views[data.walker_name(index)] = figure
    note = (
        "Each line is the MD of one cycle, which begins where the one before halted, or at the walker's start; from "
        "blue, early, to red, late."
    )
    if data.n_unread:
        note += f" The traces of the {data.n_unread} oldest runs are left out."
    return Panel("gamma", title, views, note)


def _add_walk(figure: go.Figure, walk: WalkDocument, trace: dict[str, list[float]], share: float) -> None:
    colour = colour_between(share)
    figure.add_trace(
        go.Scatter(
            x=trace["time_ps"],
            y=[g if g > 0 else None for g in trace["gamma_max"]],
            mode="lines" if len(trace["time_ps"]) > 1 else "markers",
            name=f"cycle {walk.cycle}",
            line={"color": colour, "width": 1.4},
            hovertemplate=f"cycle {walk.cycle}: gamma %{{y:.3g}} at %{{x:.4g}} ps<extra></extra>",
        )
    )


def _reached_ps(walk: WalkDocument) -> float:
    step = walk.step if walk.halt_step is None else walk.halt_step
    return 1e-3 * walk.timestep_fs * step


def _last_grade(walk: WalkDocument, trace: list[float]) -> float | None:
    if walk.gamma_max is not None and 0 < walk.gamma_max < float("inf"):
        return walk.gamma_max
    return next((g for g in reversed(trace) if g > 0), None)


def _told(walk: WalkDocument) -> str:
    words = f"cycle {walk.cycle}, walker {walk.walker}: {_ENDS[walk.status]} at {_reached_ps(walk):.4g} ps"
    if walk.status == "HALTED":
        grade = "" if walk.gamma_max is None else f", gamma {walk.gamma_max:.3g}"
        words += f" ({safe(walk.reason)}{grade})"
    return words


def _no_walks(data: CampaignData) -> str:
    if data.final is None:
        return "No MD has been run: there is no potential yet to run it with."
    if any(w.status != "NOT_RUN" for w in data.walks):
        why = "could not be read" if data.unreadable else "is none: the engine that moved the atoms recorded no trace"
        return f"MD has been run, but what gamma was on the way {why}."
    return "No MD run has ended yet."
