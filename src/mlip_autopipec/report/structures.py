"""The structures of the halts, to be turned about in three dimensions."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from ase.data import covalent_radii
from ase.neighborlist import natural_cutoffs, neighbor_list

from mlip_autopipec.report.panels import GREY, RED, SCALE, Panel, colour_of

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.report.collect import CampaignData
    from mlip_autopipec.schemas.walk import WalkDocument

#: Of elements, with the colours of their edges: gamma has the colour of the face. Of those that plotly has in 3D.
_SYMBOLS = ("circle", "square", "diamond", "cross", "x")
#: Longest side of the box that is drawn, where the camera is 1.6 away.
_LONGEST = 1.3
_HIDDEN = {"visible": False, "showspikes": False}


def halts(data: CampaignData, n_atoms: int) -> Panel:
    """
    Show the frames at which MD halted, coloured by gamma.

    Parameters
    ----------
    data
        The campaign.
    n_atoms
        Most atoms of one of them.
    """
    title = "Structures of the halts"
    walks = [w for w in data.walks if w.uuid in data.halted]
    if not walks:
        why = "MD has never halted." if any(w.status != "NOT_RUN" for w in data.walks) else "No MD has been run yet."
        if any(w.status == "HALTED" for w in data.walks):
            why = "MD halted, but the frames of its halts could not be read."
        return Panel("halts", title, absence=why)
    views = {_name(w): _view(data.halted[w.uuid], w, n_atoms) for w in reversed(walks)}
    cut = [w for w in walks if w.n_atoms > n_atoms]
    n_all = sum(w.status == "HALTED" for w in data.walks)
    note = "The ring marks the atom of largest grade; elements differ by shape and edge. "
    note += "After an explosion the last valid frame is shown."
    if cut:
        note += f" Of cells of more than {n_atoms} atoms the {n_atoms} nearest to it."
    if n_all > len(walks):
        note += f" The last {len(walks)} of {n_all} halts."
    return Panel("halts", title, views, note, height=480)


def _name(walk: WalkDocument) -> str:
    # the grade belongs to every halt, whatever its reason
    grade = "" if walk.gamma_max is None else f" (gamma {walk.gamma_max:.3g})"
    reason = "halt" if walk.reason == "gamma" else walk.reason
    return f"cycle {walk.cycle}, walker {walk.walker}: {reason} at step {walk.halt_step}{grade}"


def _view(atoms: Atoms, walk: WalkDocument, n_atoms: int) -> go.Figure:
    gamma = atoms.arrays.get("gamma")
    worst = walk.atom_index
    if worst is None or not 0 <= worst < len(atoms):
        worst = 0 if gamma is None else int(np.argmax(np.nan_to_num(gamma)))
    kept, positions = _around(atoms, worst, n_atoms)
    symbols = [atoms.symbols[i] for i in kept]
    figure = go.Figure(layout={"template": "none", "showlegend": len(set(symbols)) > 1})
    marker: dict[str, Any] = {
        "size": [9 + 8 * float(covalent_radii[atoms.numbers[i]]) for i in kept],
        "opacity": 1.0,
    }
    grades = [""] * len(kept)
    if gamma is None:
        marker["color"] = SCALE[0][1]
    else:
        finite = np.nan_to_num(np.asarray(gamma, float)[kept], nan=0.0, posinf=0.0)
        grades = [f", gamma {g:.3g}" for g in finite]
        marker |= {
            "color": finite.tolist(),
            "coloraxis": "coloraxis",
        }
        bar = {"title": {"text": "gamma"}, "thickness": 10, "len": 0.7}
        highest = max(float(finite.max()), 1.0)
        figure.update_layout(coloraxis={"colorscale": SCALE, "cmin": 0.0, "cmax": highest, "colorbar": bar})
    figure.add_trace(_lines(_bonds(atoms[kept], positions), GREY, 3, 0.55))
    if len(kept) == len(atoms):
        figure.add_trace(_lines(_box(atoms), GREY, 1.5, 0.8))
    elements = sorted(set(symbols))
    for number, element in enumerate(elements):
        own = [place for place, symbol in enumerate(symbols) if symbol == element]
        figure.add_trace(
            go.Scatter3d(
                **_columns(positions[own]),
                mode="markers",
                name=element,
                marker=_of(marker, own)
                | {"symbol": _SYMBOLS[number % len(_SYMBOLS)], "line": {"width": 2, "color": colour_of(number)}},
                text=[f"{element} {kept[place]}{grades[place]}" for place in own],
                hovertemplate="%{text}<extra></extra>",
                showlegend=len(elements) > 1,
            )
        )
    place = kept.tolist().index(worst)
    figure.add_trace(
        go.Scatter3d(
            **_columns(positions[place : place + 1]),
            mode="markers",
            marker={"symbol": "circle-open", "size": 24, "color": RED, "line": {"width": 4, "color": RED}},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    figure.update_layout(
        scene={
            # plotly's own "data" cuts tall cells off
            "aspectmode": "manual",
            "aspectratio": _aspect(positions if len(kept) < len(atoms) else np.array([*positions, *_corners(atoms)])),
            "xaxis": _HIDDEN,
            "yaxis": _HIDDEN,
            "zaxis": _HIDDEN,
            "camera": {"projection": {"type": "perspective"}, "eye": {"x": 1.25, "y": 1.55, "z": 0.85}},
        }
    )
    return figure


def _around(atoms: Atoms, centre: int, n_atoms: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the atoms to show, and where: the whole cell, or the nearest ones around its centre."""
    if len(atoms) <= n_atoms:
        return np.arange(len(atoms)), atoms.get_positions(wrap=any(atoms.pbc))
    vectors = atoms.get_distances(centre, np.arange(len(atoms)), mic=True, vector=True)
    kept = np.sort(np.argsort(np.linalg.norm(vectors, axis=1))[:n_atoms])
    return kept, vectors[kept]


def _bonds(atoms: Atoms, positions: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return lines between neighbours, of what is drawn only: none goes through the boundary."""
    drawn = atoms.copy()
    drawn.positions = positions
    drawn.pbc = False
    first, second = neighbor_list("ij", drawn, natural_cutoffs(drawn, mult=1.1))
    return [positions[[i, j]] for i, j in zip(first, second, strict=True) if i < j]


def _of(marker: dict[str, Any], own: list[int]) -> dict[str, Any]:
    """Return the properties of some atoms."""
    return {k: [v[place] for place in own] if isinstance(v, list) else v for k, v in marker.items()}


def _corners(atoms: Atoms) -> NDArray[np.float64]:
    return np.array(list(product((0, 1), repeat=3)), float) @ atoms.cell.array


def _aspect(points: NDArray[np.float64]) -> dict[str, float]:
    """Return the sides of the box that is drawn: as in space, the longest of one length."""
    sides = np.maximum(np.ptp(points, axis=0), 0.05 * np.ptp(points, axis=0).max() + 1e-6)
    return dict(zip("xyz", (_LONGEST * sides / sides.max()).tolist(), strict=True))


def _box(atoms: Atoms) -> list[NDArray[np.float64]]:
    """Return the edges of the cell."""
    edges = []
    for corner in product((0, 1), repeat=3):
        for axis in range(3):
            if corner[axis] == 0:
                ends = np.array([corner, corner], float)
                ends[1, axis] = 1
                edges.append(ends @ atoms.cell.array)
    return edges


def _lines(segments: list[NDArray[np.float64]], colour: str, width: float, opacity: float) -> go.Scatter3d:
    gap = np.full((1, 3), np.nan)
    points = np.concatenate([part for segment in segments for part in (segment, gap)]) if segments else np.empty((0, 3))
    return go.Scatter3d(
        **_columns(points),
        mode="lines",
        line={"color": colour, "width": width},
        opacity=opacity,
        hoverinfo="skip",
        showlegend=False,
    )


def _columns(points: NDArray[np.float64]) -> dict[str, list[float]]:
    # a hundredth of an Angstrom is finer than what is seen
    rounded = np.round(points, 2)
    return {"x": rounded[:, 0].tolist(), "y": rounded[:, 1].tolist(), "z": rounded[:, 2].tolist()}
