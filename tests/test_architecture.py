"""Imports between the rooms of the package go down, never up, and no file imports one that imports it."""

from __future__ import annotations

import ast
from functools import cache

import networkx as nx
import pytest
from paths import ROOT

SOURCE = ROOT / "src" / "mlip_autopipec"

#: From the bottom up: a room imports from itself and from the lines before its own. docs/architecture.md has the same.
FLOORS = (
    ("errors",),
    ("frames", "settings", "seeds", "processes", "moved"),
    ("kinds",),
    ("structures",),
    ("potentials", "oracle"),
    ("active_learning",),
    ("cutouts", "training", "lammps"),
    ("sampling", "validation"),
    ("schemas",),
    ("loop",),
    ("jobs",),
    ("flows", "database"),
    ("managers",),
    ("runfile", "progress", "report", "export", "testing"),
    ("doctor",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
#: Physics and plain logic, which are below the jobs, import none of these.
WORKFLOW = {"jobflow", "jobflow_remote", "fireworks", "maggma"}


@cache
def imports() -> dict[str, frozenset[str]]:
    """Return what every module of the package imports anywhere in it, for type checkers too, by dotted names."""
    found = {}
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = imported(file.read_text())
    del found[""]  # names the public ones and imports none of them
    return found


def imported(source: str) -> frozenset[str]:
    """Return the dotted names that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def graph(modules: dict[str, frozenset[str]]) -> nx.DiGraph:
    """Return which module imports which other one of the package."""
    arrows = nx.DiGraph()
    arrows.add_nodes_from(modules)
    for module, names in modules.items():
        for name in names:
            target = name.removeprefix("mlip_autopipec.")
            if target == name:
                continue
            while target and target not in modules:
                target = target.rpartition(".")[0]
            if target and target != module:
                arrows.add_edge(module, target)
    return arrows


def room(module: str) -> str:
    """Return the room of a module: the first part of its name."""
    return module.partition(".")[0]


def upward(modules: dict[str, frozenset[str]]) -> list[str]:
    """Return the imports between rooms that do not go down."""
    return sorted(
        f"{a} imports {b}" for a, b in graph(modules).edges if room(a) != room(b) and FLOOR[room(a)] <= FLOOR[room(b)]
    )


def circles(modules: dict[str, frozenset[str]]) -> list[list[str]]:
    """Return the modules that import each other."""
    return [sorted(circle) for circle in nx.strongly_connected_components(graph(modules)) if len(circle) > 1]


def test_every_room_has_a_floor():
    assert {room(module) for module in imports()} == set(FLOOR)


def test_imports_go_down():
    assert upward(imports()) == []


def test_no_circles():
    assert circles(imports()) == []


def test_physics_knows_no_workflow():
    found = {
        module: used
        for module, names in imports().items()
        if FLOOR[room(module)] < FLOOR["jobs"] and (used := {name.partition(".")[0] for name in names} & WORKFLOW)
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "from mlip_autopipec.flows import otf",
        "def f():\n    from mlip_autopipec.flows.otf import OTFMaker",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mlip_autopipec.flows.otf",
    ],
)
def test_an_import_upward_would_be_seen_wherever_it_stands(source):
    wrong = {**imports(), "structures.distort": imported(source)}
    assert upward(wrong) == ["structures.distort imports flows.otf"]
    assert any("structures.distort" in circle for circle in circles(wrong))
