"""Properties of the final potential beside the oracle's: equation of state, elastic constants, phonons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from ase.units import GPa

from mlip_autopipec.report.panels import BLUE, GREY, ORANGE, Panel, new_figure

if TYPE_CHECKING:
    from mlip_autopipec.report.collect import CampaignData

_SIDES = {"oracle": (BLUE, "circle"), "potential": (ORANGE, "x")}
_RESULTS = {
    "passed": "within the limit",
    "failed": "off",
    "not_measured": "not measured",
    "not_applicable": "not applicable",
}


def compared(data: CampaignData) -> list[dict[str, Any]]:
    """Return the comparisons of the last check that made any."""
    return next((check.comparisons() for check in reversed(data.checks) if check.properties), [])


def rows(data: CampaignData) -> list[dict[str, str]]:
    """Return the table of compared properties, in words."""
    return [
        {
            "crystal": str(p.get("crystal", "")),
            "name": str(p.get("name", "")),
            "unit": str(p.get("unit", "")),
            **{key: _number(p.get(key)) for key in ("oracle", "potential", "error", "limit")},
            "result": _RESULTS.get(str(p.get("state")), "within the limit" if p.get("passed") else "off"),
            "reason": str(p.get("reason") or ""),
        }
        for p in compared(data)
    ]


def panels(data: CampaignData) -> list[Panel]:
    """Show the curves behind the numbers; where there are none, say why."""
    found = compared(data)
    if not found:
        title = "Equation of state, elastic constants, phonons"
        if not data.checks:
            return [Panel("properties_none", title, absence="No check has been made, so no property was compared.")]
        why = "The checks of this campaign compared labels only: it did not ask for any property."
        return [Panel("properties_none", title, absence=why)]
    last = next(check for check in reversed(data.checks) if check.properties)
    shown = []
    for kind, title, draw in (
        ("eos", "Equation of state", _equation_of_state),
        ("phonons", "Phonon frequencies", _phonons),
    ):
        of_kind = [p for p in found if p.get("kind") == kind]
        views = {str(p["crystal"]): draw(p) for p in of_kind if p.get("data")}
        if views:
            notes = list(dict.fromkeys(str(p["reason"]) for p in of_kind if p.get("reason")))
            note = "; ".join([f"Compared in cycle {last.cycle}", *notes]) + "."
            shown.append(Panel(f"properties_{kind}", title, views, note, wide=False))
        elif of_kind:
            why = "; ".join(str(p.get("reason")) for p in of_kind)
            shown.append(Panel(f"properties_{kind}", title, absence=f"Not compared: {why}.", wide=False))
        else:
            why = "This campaign did not ask for it."
            shown.append(Panel(f"properties_{kind}", title, absence=why, wide=False))
    with_path = [p for p in found if "dispersion" in (p.get("data") or {}).get("oracle", {})]
    paths = {str(p["crystal"]): _dispersion(p["data"]) for p in with_path}
    if paths:
        note = "Exact at the wave vectors that the supercell holds, elsewhere an interpolation by its force constants."
        shown.append(Panel("properties_dispersion", "Phonon dispersion", paths, note))
    return shown


def _equation_of_state(comparison: dict[str, Any]) -> go.Figure:
    figure = new_figure("volume / Å³/atom", "energy above the lowest / meV/atom")
    for side, (colour, symbol) in _SIDES.items():
        curve = comparison["data"][side]
        volumes = np.array(curve["volumes_A3"], float)
        energies = np.array(curve["energies_eV"], float)
        # a potential without a minimum has energies, and no fit
        fitted = comparison[side] is not None
        lowest = float(curve["energy"]) if fitted else float(energies.min())
        if fitted:
            fine = np.linspace(volumes.min(), volumes.max(), 81)
            figure.add_trace(
                go.Scatter(
                    x=fine.tolist(),
                    y=(1e3 * _birch_murnaghan(curve, fine)).tolist(),
                    mode="lines",
                    line={"color": colour, "width": 1.5, "dash": "solid" if side == "oracle" else "dash"},
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
        figure.add_trace(
            go.Scatter(
                x=volumes.tolist(),
                y=(1e3 * (energies - lowest)).tolist(),
                mode="markers" if fitted else "lines+markers",
                name=side if fitted else f"{side}, which has no minimum here",
                marker={"color": colour, "symbol": symbol, "size": 8},
                hovertemplate=f"{side}: %{{y:.4g}} meV/atom at %{{x:.5g}} Å³/atom<extra></extra>",
            )
        )
    return figure


def _birch_murnaghan(curve: dict[str, Any], volumes: np.ndarray) -> np.ndarray:
    """Energy above the minimum, eV/atom, of the equation of third order (Birch, Phys. Rev. 71, 809 (1947))."""
    minimum, modulus = float(curve["volume"]), float(curve["bulk_modulus_GPa"]) * GPa
    eta = (minimum / volumes) ** (2 / 3) - 1
    third = eta**3 * float(curve["derivative"]) + eta**2 * (6 - 4 * (eta + 1))
    return np.asarray(9 * minimum * modulus / 16 * third)


def _phonons(comparison: dict[str, Any]) -> go.Figure:
    data = comparison["data"]
    figure = new_figure("oracle / THz", "potential / THz")
    oracle = np.ravel(data["oracle"]["frequencies_THz"]).astype(float)
    potential = np.ravel(data["potential"].get("frequencies_THz", [])).astype(float)
    ends = [float(min(oracle.min(), 0.0)), float(oracle.max())]
    figure.add_trace(
        go.Scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "width": 1}, hoverinfo="skip", showlegend=False)
    )
    n_modes = np.shape(data["oracle"]["frequencies_THz"])[1]
    q_points = [q for q in data["oracle"]["q_points"] for _ in range(n_modes)]
    if len(potential) == len(oracle):
        figure.add_trace(
            go.Scatter(
                x=oracle.tolist(),
                y=potential.tolist(),
                mode="markers",
                name="modes of the supercell",
                marker={"color": ORANGE, "size": 6, "opacity": 0.7},
                text=["q = " + " ".join(f"{x:.3g}" for x in q) for q in q_points],
                hovertemplate="%{text}: oracle %{x:.4g}, potential %{y:.4g} THz<extra></extra>",
            )
        )
    return figure


def _dispersion(data: dict[str, Any]) -> go.Figure:
    figure = new_figure("", "frequency / THz")
    for side, (colour, _) in _SIDES.items():
        if not (path := data[side].get("dispersion")):
            continue
        distances = np.array(path["distances"], float)
        ends = np.flatnonzero(np.diff(distances) == 0) + 1  # the path jumps there
        x = np.insert(distances, ends, np.nan)
        bands = np.insert(np.array(path["frequencies_THz"], float), ends, np.nan, axis=0)
        x = np.tile(np.append(x, np.nan), bands.shape[1])[:-1]
        y = np.concatenate([np.append(band, np.nan) for band in bands.T])[:-1]
        figure.add_trace(
            go.Scatter(
                x=x.tolist(),
                y=y.tolist(),
                mode="lines",
                name=side,
                line={"color": colour, "width": 1.5, "dash": "solid" if side == "oracle" else "dash"},
                hovertemplate=f"{side}: %{{y:.4g}} THz<extra></extra>",
            )
        )
    names: dict[float, list[str]] = {}
    for tick, label in zip(data["oracle"]["dispersion"]["ticks"], data["oracle"]["dispersion"]["labels"], strict=True):
        names.setdefault(tick, []).append("Γ" if label == "G" else label)
    figure.update_xaxes(
        tickvals=list(names), ticktext=["|".join(dict.fromkeys(at)) for at in names.values()], tickangle=0
    )
    return figure


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, (int, float)) else str(value)
