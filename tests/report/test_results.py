"""The table that a run ends with."""

from __future__ import annotations

import io

from rich.console import Console

from mlip_autopipec.report.results import summary_table
from mlip_autopipec.schemas.loop import CheckResult, OTFDocument
from mlip_autopipec.training.accuracy import ErrorMetrics


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
