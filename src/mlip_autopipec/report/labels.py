"""Labels: where each came from, why it was computed, and its gamma against its force error."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from ase import Atoms

from mlip_autopipec.active_learning.calibration import MIN_LABELS, ThresholdAdapter, calibrate
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.kinds import ORIGINS
from mlip_autopipec.report.panels import (
    GREY,
    RED,
    SCALE,
    VIOLET,
    Panel,
    add_level,
    colour_of,
    make_logarithmic,
    new_figure,
    number_cycles,
    safe,
)

if TYPE_CHECKING:
    from mlip_autopipec.active_learning.calibration import Calibration
    from mlip_autopipec.report.collect import CampaignData
    from mlip_autopipec.schemas.label import LabelDocument

#: What the origins mean besides those of candidates, which their kinds tell.
MEANINGS = {
    "seed_ideal": "first dataset: the structure as given",
    "seed_pair": "first dataset: a pair of elements that the structures lack, by exchange of atoms",
    "seed_strained": "first dataset: strained",
    "seed_rattled": "first dataset: rattled",
    "seed_piece": "first dataset: a piece cut out of a large cell",
    "dimer": "first dataset: two atoms at a distance",
    "isolated_atom": "isolated atom, for the reference energy",
    "given": "brought along by the user",
    "halted": "the frame at which MD halted",
    "dumped": "a frame between the two thresholds, before the halt",
    "cutout": "the surroundings of high grade, cut out of a large cell",
    "check": "a frame of halt-free MD, to check the potential with",
    "property": "a point of a property the potential is compared in",
}


def meaning(origin: str) -> str:
    """Return what an origin means; nothing for one that no installed package knows."""
    if origin in MEANINGS:
        return MEANINGS[origin]
    try:
        return ORIGINS[origin].about
    except (KeyError, InvalidInputError):
        return ""


#: Rank correlations from which on gamma tells errors apart, and hardly does.
_TELLS, _HARDLY = 0.6, 0.3


def by_origin(data: CampaignData) -> Panel:
    """Show how many labels each cycle computed, by origin."""
    title = "Labels by cycle and origin"
    if not data.dataset and not data.failed:
        return Panel("origins", title, absence="No label has been computed yet.")
    counts = Counter((str(a.info["origin"]), int(a.info["cycle"])) for a in data.dataset)
    counts.update(("failed", label.cycle) for label in data.failed)
    totals: Counter[str] = Counter()
    for (origin, _), n in counts.items():
        totals[origin] += n
    cycles = sorted({cycle for _, cycle in counts})
    highest = max(sum(n for (_, of), n in counts.items() if of == cycle) for cycle in cycles)
    figure = new_figure("cycle", "labels", barmode="stack", showlegend=True)
    figure.update_yaxes(dtick=max(1, round(highest / 6)))
    number_cycles(figure, cycles)
    for place, origin in enumerate(sorted(totals, key=lambda o: (o == "failed", -totals[o], o))):
        figure.add_trace(
            go.Bar(
                x=cycles,
                y=[counts[origin, cycle] for cycle in cycles],
                name=f"{safe(origin)} ({totals[origin]})",
                marker={"color": RED if origin == "failed" else colour_of(place)},
                hovertemplate=f"cycle %{{x}}: %{{y}} {safe(origin)}<extra></extra>",
            )
        )
    reused = sum("reused_from" in a.info for a in data.dataset)
    note = (
        f"{reused} of {len(data.dataset)} had been computed before and were taken from the database." if reused else ""
    )
    if data.shift:
        told = f"Energies that were brought along are shifted to the scale of the oracle: {safe(data.shift)}."
        note = f"{note} {told}".strip()
    return Panel("origins", title, {title: figure}, note)


def origin_rows(data: CampaignData) -> list[dict[str, Any]]:
    """Return origins with their meaning and number."""
    totals = Counter(str(a.info["origin"]) for a in data.dataset)
    return [{"origin": o, "meaning": meaning(o), "n": n} for o, n in totals.most_common()]


def label_rows(data: CampaignData, n_rows: int) -> tuple[list[dict[str, Any]], int]:
    """
    Return the rows of the table of labels, and how many older ones are left out.

    Each has ``cycle``, ``origin``, ``walker``, ``gamma``, ``formula``, ``n_atoms``, ``energy`` (eV/atom),
    ``force`` (largest component, eV/A), ``split`` and ``remark``.
    """
    ever = {q.label_id for p in data.potentials for q in p.quarantined}
    asked: list[Atoms | LabelDocument] = [*data.dataset, *data.failed]
    asked.sort(key=lambda label: int(label.info["cycle"] if isinstance(label, Atoms) else label.cycle))
    rows = [
        _label_row(label, label.info["label_id"] in ever, label.info["label_id"] in data.aside)
        if isinstance(label, Atoms)
        else _failed_row(label)
        for label in asked[-n_rows:]
    ]
    return rows, len(asked) - len(rows)


def _label_row(atoms: Atoms, ever_aside: bool, still_aside: bool) -> dict[str, Any]:
    info, results = atoms.info, atoms.calc.results
    remarks = []
    if ever_aside:
        remarks.append("flagged outlier" if still_aside else "accepted outlier")
    if "reused_from" in info:
        remarks.append("had been computed before")
    return {
        "cycle": info["cycle"],
        "origin": info["origin"],
        "walker": info.get("walker"),
        "gamma": info.get("gamma"),
        "formula": atoms.get_chemical_formula(),
        "n_atoms": len(atoms),
        "energy": results["energy"] / len(atoms),
        "force": float(np.abs(results["forces"]).max()),
        "split": info["split"],
        "remark": ", ".join(remarks),
        "failed": False,
    }


def _failed_row(label: LabelDocument) -> dict[str, Any]:
    return {
        "cycle": label.cycle,
        "origin": label.origin,
        "walker": label.walker,
        "gamma": label.gamma,
        "formula": label.formula,
        "n_atoms": label.n_atoms or None,
        "energy": None,
        "force": None,
        "split": label.split,
        "remark": f"failed: {label.reason}",
        "failed": True,
    }


def set_aside_rows(data: CampaignData) -> list[dict[str, Any]]:
    """Return the flagged outliers, with their reasons."""
    known = {a.info["label_id"]: a for a in data.dataset}
    rows: dict[str, dict[str, Any]] = {}
    for potential in data.potentials:
        for label in potential.quarantined:
            atoms = known.get(label.label_id)
            rows[label.label_id] = {
                "cycle": potential.cycle,
                "label_id": label.label_id,
                "formula": "" if atoms is None else atoms.get_chemical_formula(),
                "reasons": label.reasons,
                "let_in": label.label_id not in data.aside,
            }
    return list(rows.values())


def worth_of_gamma(data: CampaignData) -> tuple[Panel, Calibration | None]:
    """Show the grade of every label against the true error of the potential that had not seen it."""
    title = "Extrapolation grade against true error"
    graded = data.graded
    if not graded:
        why = (
            "No label of this campaign has a grade with the error of the potential before it was trained on: "
            "either no cycle has computed labels yet, or a version that did not store it trained the potentials."
        )
        return Panel("worth", title, absence=why), None
    adapter = _adapter(data)
    found = calibrate([g.to_graded() for _, g in graded], adapter.wished_error, quantile=adapter.quantile)
    figure = new_figure("largest gamma of the label", "largest force error before training / eV/Å")
    make_logarithmic(
        figure,
        x=[g.gamma_max for _, g in graded],
        y=[adapter.wished_error, *(max(g.force_error_max_eV_A, 1e-4) for _, g in graded)],
    )
    last = max(cycle for cycle, _ in graded)
    for in_core, name, symbol in ((False, "labels", "circle"), (True, "inside the core, left out", "circle-open")):
        own = [(cycle, g) for cycle, g in graded if g.in_core is in_core]
        if own:
            figure.add_trace(
                go.Scatter(
                    x=[g.gamma_max for _, g in own],
                    y=[max(g.force_error_max_eV_A, 1e-4) for _, g in own],
                    mode="markers",
                    name=name,
                    marker={
                        "symbol": symbol,
                        "size": 8,
                        "color": [cycle for cycle, _ in own],
                        "colorscale": SCALE,
                        "cmin": 0,
                        "cmax": max(last, 1),
                        "colorbar": {"title": {"text": "cycle"}, "thickness": 10, "len": 0.8},
                        "showscale": not in_core,
                    },
                    text=[f"cycle {cycle}" for cycle, _ in own],
                    hovertemplate="%{text}: gamma %{x:.3g}, error %{y:.3g} eV/Å<extra></extra>",
                )
            )
    add_level(figure, adapter.wished_error, f"wished {adapter.wished_error:g} eV/Å", dash="dot", at_end=False)
    if found.threshold is not None and found.threshold_low is not None and found.threshold_high is not None:
        add_level(figure, found.threshold, "calibrated", axis="x", colour=VIOLET)
        low = found.threshold_low if found.threshold_low > 0 else min(g.gamma_max for _, g in graded)
        figure.add_shape(
            type="rect",
            yref="paper",
            y0=0,
            y1=1,
            x0=low,
            x1=found.threshold_high,
            fillcolor=VIOLET,
            opacity=0.12,
            line_width=0,
        )
    if data.thresholds is not None:
        add_level(figure, data.thresholds[1], "halt", axis="x", colour=RED, dash="dot")
    return Panel("worth", title, {title: figure}, _told(found, data)), found


def worth_of_error_bars(data: CampaignData) -> Panel:
    """Show the expected force error of every label against the true one, before it was trained on."""
    title = "Expected against true force error"
    found = [
        (cycle, g, g.expected_forces_error_eV_A, g.forces_error_eV_A)
        for cycle, g in data.graded
        if g.expected_forces_error_eV_A is not None and g.forces_error_eV_A is not None
    ]
    if not found:
        why = (
            "No label of this campaign has an expected error: only linear fits with weights in units of errors have "
            "error bars, or no cycle has computed labels yet."
        )
        return Panel("error_bars", title, absence=why)
    expected = [max(x, 1e-4) for _, _, x, _ in found]
    true = [max(y, 1e-4) for _, _, _, y in found]
    figure = new_figure("expected force error (rms) / eV/Å", "true force error (rms) / eV/Å")
    make_logarithmic(figure, x=expected, y=true)
    figure.add_trace(
        go.Scatter(
            x=expected,
            y=true,
            mode="markers",
            name="labels",
            marker={
                "size": 8,
                "color": [cycle for cycle, *_ in found],
                "colorscale": SCALE,
                "cmin": 0,
                "cmax": max(1, *(cycle for cycle, *_ in found)),
                "colorbar": {"title": {"text": "cycle"}, "thickness": 10, "len": 0.8},
            },
            text=[f"cycle {cycle}" for cycle, *_ in found],
            hovertemplate="%{text}: expected %{x:.3g}, true %{y:.3g} eV/Å<extra></extra>",
        )
    )
    ends = [min(*expected, *true), max(*expected, *true)]
    line = {"color": GREY, "width": 1.2, "dash": "dot"}
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", name="as expected", line=line, hoverinfo="skip"))
    ratios = np.array(true) / np.array(expected)
    energy = [
        abs(g.energy_error_eV_atom) / g.expected_energy_error_eV_atom
        for _, g, *_ in found
        if g.expected_energy_error_eV_atom
    ]
    note = (
        f"{len(found)} labels. True force errors are {np.median(ratios):.2g} times the expected ones (median)"
        + (f", and {sum(r < 2 for r in energy)} of {len(energy)} energies are within two of theirs" if energy else "")
        + ". From these pairs and from labels left out of the fit follows the scale of the error bars of the next "
        "potential."
    )
    return Panel("error_bars", title, {title: figure}, note)


def _told(found: Calibration, data: CampaignData) -> str:
    words = f"{found.n_labels} labels, the pair of largest grade and largest error of each."
    if found.n_labels < MIN_LABELS:
        return f"{words} Too few to calibrate: {found.why}."
    if found.spearman is not None:
        words += f" Rank correlation {found.spearman:.2f}, correlation of the logarithms {found.log_pearson:.2f}:"
        words += f" {_concluded(found.spearman)}."
    share = f"{found.quantile:.0%}"
    if found.threshold is None:
        words += f" No threshold: {found.why}."
    elif found.beyond:
        words += (
            f" Up to the largest grade of the labels, {found.threshold:.3g}, {share} of the errors stayed within "
            f"{found.wished_error:g} eV/Å: the threshold could be higher."
        )
    else:
        low = "below all labels" if not found.threshold_low else f"{found.threshold_low:.3g}"
        words += (
            f" Calibrated threshold {found.threshold:.3g} (dashed; from {low} to {found.threshold_high:.3g} in nine of "
            f"ten resamplings): up to there {share} of the errors stayed within {found.wished_error:g} eV/Å."
        )
    if data.thresholds is not None:
        words += f" MD halts above {data.thresholds[1]:.3g} (dotted)."
    return words


def _concluded(correlation: float) -> str:
    """Say what a rank correlation of gamma and error means for the use of gamma."""
    if correlation >= _TELLS:
        return "gamma tells which labels the potential has large errors on"
    if correlation >= _HARDLY:
        return "gamma tells large errors from small ones only roughly"
    return (
        "on these labels gamma does not tell large errors from small ones, so believe neither a low gamma nor a "
        "threshold set by them. Either all labels are of one kind and alike in error, or the errors have another "
        "cause: the basis, or the noise of the oracle"
    )


def _adapter(data: CampaignData) -> ThresholdAdapter:
    """Return the wished error of the campaign, or the package's own where it has none."""
    recorded = _find(data.maker, "wished_error")
    return ThresholdAdapter() if recorded is None else ThresholdAdapter(wished_error=float(recorded["wished_error"]))


def _find(value: Any, name: str) -> dict[str, Any] | None:
    """Return the first dictionary in nested data that has a field with a value."""
    if isinstance(value, dict):
        if value.get(name) is not None:
            return value
        value = list(value.values())
    if isinstance(value, list):
        return next((found for item in value if (found := _find(item, name)) is not None), None)
    return None
