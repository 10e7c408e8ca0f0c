"""``report``: one HTML file about a campaign."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlip_autopipec.cli.base import AsJson, CampaignName, RunFolder, app, asked_for, console, put, told
from mlip_autopipec.cli.folder import is_held
from mlip_autopipec.errors import MLIPError


@app.command()
def report(
    folder: RunFolder = None,
    campaign: CampaignName = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default report.html in the folder.")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """
    Write one self-contained HTML file about a campaign, also while it runs.

    How far MD got before each halt, gamma on the way, errors, why each label was computed, calibration of gamma, the
    halted structures, and what is needed to repeat it. It works offline, and an older file is replaced.
    """
    with told(as_json):
        from mlip_autopipec.report.page import write_report

        campaigns, name = asked_for(folder, campaign)
        default = Path(f"{name.replace('/', '-')}-report.html") if folder is None else folder / "report.html"
        path = (output or default).resolve()
        try:
            size = write_report(path, campaigns, name, running=None if folder is None else is_held(folder))
        except OSError as error:
            raise MLIPError(f"'{path}' cannot be written: {error}; name another place with --output") from error
        console.print(f"{path} ({size / 1e6:.1f} MB)", markup=False)
        if open_it:
            typer.launch(path.as_uri())
    if as_json:
        put({"campaign_id": name, "report": str(path), "bytes": size})
