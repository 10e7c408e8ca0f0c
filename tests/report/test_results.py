"""The table that a run ends with, and the files that it leaves."""

from __future__ import annotations

import io

import numpy as np
import pytest
from ase.build import bulk
from PIL import Image
from rich.console import Console

from mlip_autopipec import Campaigns
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.report.results import plot_parity, summary_table, write_results
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.check import CheckResult
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.structures.dimers import DimerGenerator
from mlip_autopipec.testing import ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop
from mlip_autopipec.training.accuracy import ErrorMetrics, Predictions
from mlip_autopipec.training.linear import LinearACETrainer


def test_errors_on_md_of_the_oracle_above_the_limits_of_the_check_are_said(tmp_path):
    """A campaign said CONVERGED beside an error of 1394 meV/atom on MD of the oracle, and nothing more."""
    check = CheckResult(
        uuid="k",
        campaign_id="c",
        cycle=1,
        potential_id="p",
        batch_id="b",
        errors=None,
        passed=True,
        limit_meV_A=54.0,
        energy_limit_meV_atom=10.0,
    )
    document = OTFDocument(
        uuid="d",
        campaign_id="c",
        status="CONVERGED",
        why="",
        n_cycles=1,
        n_halts=0,
        n_labels=9,
        check=check,
        walkers=[],
        potential_id=None,
    )

    def told(energy: float) -> str:
        errors = {"validation": ErrorMetrics(4, 20, energy, energy, 30.0, 60.0)}
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(summary_table(document, errors, tmp_path, 1.0))
        return console.export_text()

    assert "on MD of the oracle itself energy 1.39e+03 meV/atom, limit 10 of the check" in told(1394.0)
    assert "beware" not in told(2.0)


def test_errors_on_the_training_set_are_those_of_what_was_trained_on(run_loop, memory_jobstore, tmp_path):
    """Labels of a check that were learnt are part of it, dimers on an energy scale of their own are not."""
    generator = StructureGenerator(n_structures=5, n_test=1, max_atoms=32, dimers=DimerGenerator(n_distances=2))
    maker = stand_in_loop(
        check=True,
        generate_maker=GenerateMaker(generator=generator),
        dynamics_maker=ScriptedDynamicsMaker(displacement_A=0.08),
        oracle_maker=StandInOracleMaker(physics="emt"),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
        ),
    )
    document = run_loop(maker.make(bulk("Cu", cubic=True) * (2, 2, 2), 300, campaign_id="c"))
    assert document.check.delivered_id == document.potential_id
    labels = Campaigns(memory_jobstore).dataset("c")
    assert {"check", "dimer"} <= {label.info["origin"] for label in labels}
    errors = write_results(tmp_path, document, labels)["train"]
    assert errors.n_structures == document.train.n_structures
    assert errors.forces_rmse_meV_A == pytest.approx(document.train.forces_rmse_meV_A)


def predictions(n_stresses):
    energy, forces, stress = np.linspace(-3, -2.9, 4), np.linspace(-1, 1, 48), np.linspace(-0.01, 0.01, n_stresses)
    return Predictions(energy, energy + 1e-3, forces, 0.99 * forces, stress, stress)


def test_stresses_have_a_panel_where_any_label_has_them(tmp_path):
    for name, sets in (
        ("two", {"train": predictions(0)}),
        ("three", {"train": predictions(24), "test": predictions(0), "validation": predictions(6)}),
    ):
        plot_parity(tmp_path / f"{name}.png", sets)
    widths = [Image.open(tmp_path / f"{name}.png").width for name in ("two", "three")]
    assert widths == [1350, 2025]
