"""Exchanges of atoms in a campaign: asked for by a run file, counted in walks of several parts, told in the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from ase.build import bulk
from ase.io import write
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.explore import _joined
from mlip_autopipec.report.collect import Limits, collect
from mlip_autopipec.report.walks import progress
from mlip_autopipec.runfile.model import RunFile

if TYPE_CHECKING:
    from pathlib import Path


def run_file(folder: Path, symbols: str, **swap: object) -> RunFile:
    atoms = bulk("Cu", cubic=True, a=3.8) * (2, 1, 1)
    atoms.symbols[:] = symbols.split()
    write(folder / "start.extxyz", atoms)
    content = {
        "name": "alloy",
        "structures": [{"file": "start.extxyz", "repeat": [1, 2, 2]}],
        "conditions": [{"temperature_K": 900}],
        "oracle": {"kind": "emt"},
        "trainer": {"kind": "linear", "basis": {"number_of_functions_per_element": 10, "cutoff": 4.0}},
        "first_dataset": {"n_structures": 6, "n_test": 1, "cover_pairs": False},
        "dynamics": {"n_steps": 60, "engine": "library", "gamma_lo": 1e5, "gamma_hi": 1e6, "swap": swap},
        "stop": {"n_check_labels": 0, "prove": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return RunFile.load(folder / "run.yaml")


def test_a_campaign_counts_them(tmp_path: Path) -> None:
    flow = run_file(tmp_path, "Cu Au Cu Au Cu Au Au Cu", every_steps=20, attempts=5).flow("alloy")
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(flow, store=store, create_folders=True, root_dir=tmp_path, ensure_success=True)
    campaigns = Campaigns(store)
    (walk,) = campaigns.walks("alloy")
    assert walk.n_swaps_attempted == 10
    assert 0 <= (walk.n_swaps_accepted or 0) <= 10
    whole = campaigns.walk(walk.uuid)
    both = _joined(whole, whole, 20)
    assert both.n_swaps_attempted == 20
    assert _joined(whole.model_copy(update={"n_swaps_attempted": None}), whole, 20).n_swaps_attempted == 10
    note = progress(collect(campaigns, "alloy", Limits())).note
    assert f"Exchanges of atoms: {walk.n_swaps_accepted} of 10 accepted." in note


def test_one_element_is_refused_with_its_setting(tmp_path: Path) -> None:
    run = run_file(tmp_path, "Cu Cu Cu Cu Cu Cu Cu Cu", every_steps=20)
    with pytest.raises(InvalidInputError, match="there is nothing to exchange"):
        run.flow("alloy")


def test_values_are_refused_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no multiple of gamma_every"):
        run_file(tmp_path, "Cu Au Cu Au Cu Au Au Cu", every_steps=25)
    with pytest.raises(InvalidInputError, match="every_step"):
        run_file(tmp_path, "Cu Au Cu Au Cu Au Au Cu", every_step=20)
