"""Errors of the potentials: by cycle, and of the final one label by label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from ase.units import GPa

from mlip_autopipec.report.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    TEAL,
    VIOLET,
    Panel,
    make_logarithmic,
    marker_size,
    new_figure,
    number_cycles,
)
from mlip_autopipec.report.thin import with_worst
from mlip_autopipec.structures.periodicity import stress_without_vacuum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.report.collect import CampaignData, Limits
    from mlip_autopipec.schemas.potential import Errors

_CURVES = {
    "new_before": ("new labels, before", RED, "x"),
    "new_after": ("after training", ORANGE, "circle"),
    "train": ("training", BLUE, "circle"),
    "test": ("held-out", GREEN, "square"),
}
#: Labels of a campaign by what they are to the final potential, as far as they can be drawn.
_SETS = {
    "train": ("training", BLUE),
    "test": ("held-out", GREEN),
    "check": ("check", VIOLET),
    "property": ("properties", TEAL),
    "dimer": ("pairs of atoms", GREY),
    "aside": ("flagged outlier", RED),
}
#: Errors below this are drawn here, for logarithmic axes.
_LEAST = 1e-3


def by_cycle(data: CampaignData) -> list[Panel]:
    """Show errors of forces and energies by cycle."""
    panels = []
    for key, name, unit in (
        ("forces_rmse_meV_A", "Force error by cycle", "meV/Å"),
        ("energy_rmse_meV_atom", "Energy error by cycle", "meV/atom"),
    ):
        figure = new_figure("cycle", f"root mean square error / {unit}")
        checks = [(c, e) for c in data.checks if (e := c.errors) is not None]
        drawn = [getattr(e, key) for p in data.potentials for e in p.errors().values() if e is not None]
        drawn += [getattr(e, key) for _, e in checks]
        make_logarithmic(figure, y=[max(value, _LEAST) for value in drawn])
        number_cycles(figure, [p.cycle for p in data.potentials] + [c.cycle for c, _ in checks])
        for curve, (label, colour, symbol) in _CURVES.items():
            found: list[tuple[int, Errors]] = [
                (p.cycle, e) for p in data.potentials if (e := p.errors()[curve]) is not None
            ]
            if not found:
                continue
            figure.add_trace(
                go.Scatter(
                    x=[cycle for cycle, _ in found],
                    y=[max(getattr(e, key), _LEAST) for _, e in found],
                    mode="lines+markers",
                    name=label,
                    line={"color": colour, "width": 1.5},
                    marker={"symbol": symbol, "size": marker_size(len(found))},
                    text=[f"{e.n_structures} structures" for _, e in found],
                    hovertemplate=f"{label}, cycle %{{x}}: %{{y:.3g}} {unit}, %{{text}}<extra></extra>",
                )
            )
        if checks:
            figure.add_trace(
                go.Scatter(
                    x=[c.cycle for c, _ in checks],
                    y=[max(getattr(e, key), _LEAST) for _, e in checks],
                    mode="markers",
                    name="check",
                    marker={"symbol": "diamond", "size": 10, "color": VIOLET},
                    text=["passed" if c.passed else "failed" for c, _ in checks],
                    hovertemplate=f"check, cycle %{{x}}: %{{y:.3g}} {unit}, %{{text}}<extra></extra>",
                )
            )
        if figure.data:
            panels.append(Panel(f"cycle_{key}", name, {name: figure}, wide=False))
        else:
            panels.append(Panel(f"cycle_{key}", name, absence=_no_potential(data), wide=False))
    return panels


@dataclass(frozen=True)
class Pairs:
    """One quantity by oracle and potential, flat, with the set each value belongs to."""

    oracle: NDArray[np.float64]
    potential: NDArray[np.float64]
    split: NDArray[np.str_]

    def rmse(self, split: str) -> float:
        """Root mean square difference within a set."""
        chosen = self.split == split
        return float(np.sqrt(np.mean((self.oracle[chosen] - self.potential[chosen]) ** 2)))


def parity(data: CampaignData, limits: Limits) -> list[Panel]:
    """Evaluate the final potential on its labels, and show energies, forces and stresses beside the oracle's."""
    titles = {"energy": "Energy", "forces": "Forces", "stress": "Stress"}
    units = {"energy": ("eV/atom", "meV/atom", 1e3), "forces": ("eV/Å", "meV/Å", 1e3), "stress": ("GPa", "GPa", 1.0)}
    # isolated atoms are the reference energies, not something that is fitted
    frames = [a for a in data.dataset if a.info.get("split") in _SETS]
    if data.final is None or not frames:
        why = _no_potential(data) if data.final is None else "There are no labels to compare the potential with."
        return [Panel(f"parity_{key}", title, absence=why, wide=False) for key, title in titles.items()]
    seed = data.status.seed
    used = _chosen(frames, limits.structures, seed)
    pairs = evaluate(data, used)
    panels = []
    for key, title in titles.items():
        found = pairs[key]
        if not len(found.oracle):
            why = "None of the labels holds a stress: the oracle gives none, or vacuum is all around."
            panels.append(Panel(f"parity_{key}", title, absence=why, wide=False))
            continue
        unit, error_unit, factor = units[key]
        figure = _parity_plot(found, with_worst(found.oracle - found.potential, limits.parity_points, seed), unit)
        errors = [
            f"{name} {factor * found.rmse(split):.3g} {error_unit}"
            for split, (name, _) in _SETS.items()
            if (found.split == split).any()
        ]
        note = "Root mean square error: " + ", ".join(errors) + "."
        if key == "stress" and data.final.fits_stress is False:
            note += " Stresses are compared only: the trainer does not fit them."
        if len(used) < len(frames):
            note += f" On {len(used)} of {len(frames)} labels."
        if len(found.oracle) > limits.parity_points:
            note += f" {limits.parity_points} of {len(found.oracle)} points, those of largest error among them."
        panels.append(Panel(f"parity_{key}", title, {title: figure}, note, wide=False))
    return panels


def evaluate(data: CampaignData, frames: Sequence[Atoms]) -> dict[str, Pairs]:
    """
    Evaluate the final potential.

    Returns
    -------
    dict
        ``energy`` (eV/atom), ``forces`` (eV/A, all components), ``stress`` (GPa, ASE sign, no components
        across vacuum), the last only of labels that hold one.
    """
    assert data.final is not None
    # without the active set no projections are computed, which takes half of the time
    calculator = replace(data.final.to_potential(), active_set_inverse={}).calculator()
    found: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64], str]]] = {
        "energy": [],
        "forces": [],
        "stress": [],
    }
    for atoms in frames:
        calculator.calculate(atoms)
        own, label, split = calculator.results, atoms.calc.results, _set_of(atoms, data)
        found["energy"].append(
            (np.array([label["energy"]]) / len(atoms), np.array([own["energy"]]) / len(atoms), split)
        )
        found["forces"].append((np.ravel(label["forces"]), np.ravel(own["forces"]), split))
        if label.get("stress") is not None and all(atoms.pbc):
            of_label, predicted = (stress_without_vacuum(np.ravel(one["stress"]), atoms) / GPa for one in (label, own))
            found["stress"].append((of_label, predicted, split))
    empty = np.empty(0)
    return {
        key: Pairs(
            np.concatenate([empty, *(oracle for oracle, _, _ in values)]),
            np.concatenate([empty, *(potential for _, potential, _ in values)]),
            np.array([split for oracle, _, split in values for _ in oracle], dtype=str),
        )
        for key, values in found.items()
    }


def _set_of(atoms: Atoms, data: CampaignData) -> str:
    """Return what a label is to the final potential: a key of ``_SETS``."""
    if atoms.info["label_id"] in data.aside:
        return "aside"
    if atoms.info["origin"] == "dimer":  # of little weight, and with energies of their own
        return "dimer"
    split = str(atoms.info["split"])
    if split != "check":
        return split
    # labels of a check are learnt by the next training
    if data.final is not None and atoms.info["cycle"] <= data.final.cycle:
        return "train"
    return "property" if atoms.info["origin"] == "property" else "check"


def _parity_plot(pairs: Pairs, kept: NDArray[np.int64], unit: str) -> go.Figure:
    figure = new_figure(f"oracle / {unit}", f"potential / {unit}")
    ends = [float(pairs.oracle.min()), float(pairs.oracle.max())]
    figure.add_trace(
        go.Scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "width": 1}, hoverinfo="skip", showlegend=False)
    )
    for split, (name, colour) in _SETS.items():
        own = kept[pairs.split[kept] == split]
        if len(own):
            figure.add_trace(
                go.Scatter(
                    x=pairs.oracle[own].tolist(),
                    y=pairs.potential[own].tolist(),
                    mode="markers",
                    name=name,
                    marker={"color": colour, "size": 5, "opacity": 0.65},
                    hovertemplate=f"{name}: oracle %{{x:.5g}}, potential %{{y:.5g}} {unit}<extra></extra>",
                )
            )
    return figure


def _chosen(frames: Sequence[Atoms], n: int, seed: int) -> list[Atoms]:
    """Return at most ``n`` labels: half of them held-out ones, where there are so many; the others at random."""
    if len(frames) <= n:
        return list(frames)
    rng = np.random.default_rng(seed)
    held_out = [i for i, a in enumerate(frames) if a.info["split"] != "train"]
    others = [i for i, a in enumerate(frames) if a.info["split"] == "train"]
    n_held_out = min(len(held_out), max(n // 2, n - len(others)))
    drawn = [*rng.permutation(held_out)[:n_held_out], *rng.permutation(others)[: n - n_held_out]]
    return [frames[int(i)] for i in sorted(drawn)]


def _no_potential(data: CampaignData) -> str:
    return f"There is no potential. The status of the campaign is {data.status.status}: {data.status.why}."
