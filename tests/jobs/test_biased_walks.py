"""Walks that a bias or a collective variable drives, in a campaign: plain MD alone converges and is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ase.build import bulk
from ase.io import write
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from mlip_autopipec.cli.plan import plan
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.report.collect import Limits, collect
from mlip_autopipec.report.walks import progress
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.schemas.walk import ProposalDocument

if TYPE_CHECKING:
    from pathlib import Path

PULLED = """
colvar {
  name way
  distance {
    group1 { atomNumbers 1 }
    group2 { atomNumbers 2 }
  }
}
harmonic {
  colvars way
  centers 3.0
  forceConstant 1.0
}
"""


def run_file(folder: Path, conditions: list[dict[str, Any]], **sections: Any) -> RunFile:
    write(folder / "start.extxyz", bulk("Cu", cubic=True) * (2, 1, 1))
    (folder / "pulled.colvars").write_text(PULLED)
    content = {
        "name": "copper",
        "structures": [{"file": "start.extxyz", "repeat": [1, 2, 2]}],
        "conditions": conditions,
        "oracle": {"kind": "emt"},
        "trainer": {"kind": "linear", "basis": {"number_of_functions_per_element": 10, "cutoff": 4.0}},
        "first_dataset": {"n_structures": 8, "n_test": 1},
        "dynamics": {"n_steps": 60, "engine": "library", "gamma_lo": 1e5, "gamma_hi": 1e6},
        "stop": {"n_check_labels": 2, "max_relative_force_error": 1.0, "force_error_floor_meV_A": 1000.0},
        "accuracy": {"energy_meV_atom": 1000.0, "stress_GPa": 100.0},
    }
    for name, settings in sections.items():
        content[name] = {**content[name], **settings}  # type: ignore[dict-item]
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return RunFile.load(folder / "run.yaml")


def test_plain_md_follows_and_alone_is_checked(tmp_path: Path) -> None:
    bias = {"strength": 0.3, "ramp_steps": 10, "n_steps": 40}
    conditions = [{"temperature_K": 500}, {"temperature_K": 300, "colvars": "pulled.colvars"}]
    run = run_file(tmp_path, conditions, dynamics={"bias": bias})
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(run.flow("copper"), store=store, create_folders=True, root_dir=tmp_path, ensure_success=True)
    campaigns = Campaigns(store)
    status = campaigns.status("copper")
    assert status.status == "CONVERGED", status.why
    walks = campaigns.walks("copper")
    told = [(walk.walker, walk.n_steps, walk.step, walk.is_biased) for walk in walks]
    # first both are biased, then both run plain dynamics from their start; the second has its variable always
    assert sorted(told) == [(0, 40, 40, True), (0, 60, 60, False), (1, 40, 40, True), (1, 60, 60, True)]
    assert {walker.replica for walker in status.walkers} == {1}
    assert not any(walker.biased for walker in status.walkers)
    assert len({walk.seed for walk in walks}) == 4
    (check,) = (
        ProposalDocument.model_validate(doc["output"])
        for doc in store.query({"output.kind": "proposal", "output.origins.check": {"$exists": True}}, ["output"])
    )
    assert set(check.sources) == {"w0 500 K"}
    assert status.walkers[1].condition.colvars == PULLED
    collected = collect(campaigns, "copper", Limits())
    assert collected.walker_name(1).endswith("300 K, colvars")
    assert "drove 3 of 4 runs; no check has their frames." in progress(collected).note


def test_a_check_needs_plain_md(tmp_path: Path) -> None:
    only = [{"temperature_K": 300, "colvars": PULLED}]
    with pytest.raises(InvalidInputError, match="add a condition without it"):
        run_file(tmp_path, only).flow("copper")
    unasked = {"energy_meV_atom": None, "stress_GPa": None}
    run_file(tmp_path, only, stop={"n_check_labels": 0}, accuracy=unasked).flow("copper")


def test_a_file_that_is_missing_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"(?s)conditions\[0\]\.colvars.*none\.colvars"):
        run_file(tmp_path, [{"temperature_K": 300, "colvars": "none.colvars"}])


def test_a_trainer_without_posterior_is_refused(tmp_path: Path) -> None:
    run = run_file(tmp_path, [{"temperature_K": 300}], dynamics={"bias": {}}, trainer={"ridge": 1e-4})
    with pytest.raises(InvalidInputError, match=r"bias.*gives no error bars with these settings"):
        run.flow("copper")


def test_the_plan_counts_the_biased_walk(tmp_path: Path) -> None:
    conditions = [{"temperature_K": 300}, {"temperature_K": 600}]
    run = run_file(tmp_path, conditions, dynamics={"bias": {"n_steps": 40}})
    assert (planned := plan(run, measure=False)).n_steps == 100
    assert planned.md_ns == pytest.approx(2 * 100e-6)
