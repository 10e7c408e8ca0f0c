"""Plots of the page, or the text in their place; colours for light and dark backgrounds."""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

if TYPE_CHECKING:
    from collections.abc import Sequence

BLUE, RED, GREEN, ORANGE, VIOLET = "#4a86d8", "#d64f62", "#2f9e73", "#dd8a3c", "#9069c6"
TEAL, GOLD, GREY, PINK, OLIVE = "#2b9fa8", "#c2a12c", "#8b93a1", "#cc6aa5", "#7f9a3a"
#: In the order in which they are given out.
COLOURS = (BLUE, ORANGE, GREEN, VIOLET, TEAL, GOLD, PINK, OLIVE, GREY)
#: From early to late, or from small to large.
SCALE = [[0.0, "#7aa6e8"], [0.5, "#9069c6"], [1.0, "#c2456b"]]


@dataclass(frozen=True)
class Panel:
    """
    One plot with a title.

    Parameters
    ----------
    key
        Its name in the page.
    title
        Heading.
    views
        Plots by name; with more than one the reader chooses.
    note
        What is to be known when reading it.
    absence
        Why there is no plot.
    wide
        Over the whole width of the page.
    height
        In pixels.
    """

    key: str
    title: str
    views: dict[str, go.Figure] = field(default_factory=dict)
    note: str = ""
    absence: str = ""
    wide: bool = True
    height: int = 360

    def __post_init__(self) -> None:
        """Make sure that there is something to see or to read."""
        if not self.views and not self.absence:
            raise ValueError(f"panel '{self.key}' has neither a plot nor a reason why there is none")

    def plain(self) -> list[dict[str, Any]]:
        """Return the plots as plotly's JSON, numbers rounded to six digits; what is not finite is left out."""
        return [_plain(figure.to_plotly_json()) for figure in self.views.values()]


def new_figure(x: str, y: str, **layout: Any) -> go.Figure:
    """
    Make an empty plot.

    Parameters
    ----------
    x, y
        Titles of the axes, with units.
    **layout
        Further fields of plotly's layout.
    """
    figure = go.Figure(layout={"template": "none", "hovermode": "closest"})
    figure.update_xaxes(title={"text": safe(x)})
    figure.update_yaxes(title={"text": safe(y)})
    figure.update_layout(**layout)
    return figure


def number_cycles(figure: go.Figure, cycles: Sequence[int]) -> None:
    """Let the horizontal axis show whole cycles, also where there is one alone; plotly would show -1 to 1."""
    if not cycles:
        return
    first, last = min(cycles), max(cycles)
    figure.update_xaxes(
        range=[first - 0.5, last + 0.5], tick0=first, dtick=max(1, math.ceil((last - first + 1) / 15)), zeroline=False
    )


def log_ticks(low: float, high: float) -> list[float]:
    """
    Choose the ticks of a logarithmic axis: four to ten round numbers that do not overlap.

    Parameters
    ----------
    low, high
        Ends of the axis; positive.
    """
    decades = math.log10(high / low)
    if decades < 0.7:  # round steps, as on a linear axis
        step = 10 ** math.floor(math.log10((high - low) / 3))
        step = next(step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 6)
        return [
            float(f"{step * k:.6g}") for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        ]
    if decades > 7:
        every = math.ceil(decades / 7)
        return [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1, every)]
    digits = (1, 2, 5) if decades < 2.2 else (1, 3) if decades < 3.5 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [d * 10.0**k for k in powers for d in digits if low <= d * 10.0**k <= high]


def make_logarithmic(figure: go.Figure, **values: Sequence[float | None]) -> None:
    """
    Make axes logarithmic.

    Parameters
    ----------
    figure
        Where.
    **values
        What is drawn, by the name of the axis (``x``, ``y``).
    """
    for axis, numbers in values.items():
        positive = [v for v in numbers if v is not None and 0 < v < math.inf] or [1.0]
        low, high = min(positive), max(positive)
        margin = max((high / low) ** 0.06, 1.15)
        low, high = low / margin, high * margin
        ticks = log_ticks(low, high)
        figure.layout[f"{axis}axis"].update(
            type="log",
            range=[math.log10(low), math.log10(high)],
            tickmode="array",
            tickvals=ticks,
            ticktext=[f"{tick:g}" if 1e-4 <= tick < 1e6 else f"10<sup>{math.log10(tick):.0f}</sup>" for tick in ticks],
        )


def add_level(
    figure: go.Figure,
    value: float,
    text: str = "",
    *,
    axis: str = "y",
    colour: str = GREY,
    dash: str = "dash",
    at_end: bool = True,
) -> None:
    """
    Draw a line across a plot at a value of one of its axes.

    Parameters
    ----------
    figure
        Where; the type of its axes has to be set already.
    value
        In the units of the axis; nothing is drawn where a logarithmic axis has no place for it.
    text
        What to write beside it.
    axis
        ``x`` or ``y``.
    colour, dash
        Of the line, as plotly calls them.
    at_end
        Whether the words stand at the right end of a horizontal line, else at the left one.
    """
    is_log = figure.layout[f"{axis}axis"].type == "log"
    if is_log and value <= 0:
        return
    line = {"color": colour, "width": 1.2, "dash": dash}
    if axis == "y":
        figure.add_shape(type="line", xref="paper", x0=0, x1=1, yref="y", y0=value, y1=value, line=line)
    else:
        figure.add_shape(type="line", yref="paper", y0=0, y1=1, xref="x", x0=value, x1=value, line=line)
    if text:
        # plotly wants the logarithm here, and the value itself for the line
        place = math.log10(value) if is_log else value
        at = (
            {
                "xref": "paper",
                "x": float(at_end),
                "xanchor": "right" if at_end else "left",
                "yref": "y",
                "y": place,
                "yanchor": "bottom",
            }
            if axis == "y"
            else {"yref": "paper", "y": 1, "yanchor": "top", "xref": "x", "x": place, "xanchor": "left"}
        )
        figure.add_annotation(text=safe(text), showarrow=False, font={"size": 11, "color": colour}, **at)


def safe(text: object) -> str:
    """Make words from a database harmless for plotly, which reads some HTML in them."""
    return html.escape(str(text), quote=True)


def colour_of(index: int) -> str:
    """Give out one of the colours."""
    return COLOURS[index % len(COLOURS)]


def marker_size(n_points: int) -> int:
    """Size of the points of a curve in pixels: smaller where there are many."""
    return 8 if n_points <= 25 else 6 if n_points <= 60 else 4


def colour_between(share: float) -> str:
    """Colour of :data:`SCALE` at ``share``, 0 to 1."""
    from plotly.colors import sample_colorscale

    return str(sample_colorscale(SCALE, [min(max(share, 0.0), 1.0)])[0])


def as_json(value: Any) -> str:
    """Write JSON that may stand inside of a ``<script>``: nothing in it ends the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
