"""``report``: one HTML file about a campaign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlip_autopipec.cli.base import AsJson, app, campaign_in, console, folder_of, put, told
from mlip_autopipec.errors import MLIPError

if TYPE_CHECKING:
    from mlip_autopipec.database.campaigns import Campaigns


@app.command()
def report(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder of a run, for instance runs/copper, or its run file.", callback=folder_of),
    ] = None,
    campaign: Annotated[
        str | None, typer.Option(help="Instead of a folder: a campaign in the JobStore of JOBFLOW_CONFIG_FILE.")
    ] = None,
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
            size = write_report(path, campaigns, name)
        except OSError as error:
            raise MLIPError(f"'{path}' cannot be written: {error}; name another place with --output") from error
        console.print(f"{path} ({size / 1e6:.1f} MB)", markup=False)
        if open_it:
            typer.launch(path.as_uri())
    if as_json:
        put({"campaign_id": name, "report": str(path), "bytes": size})


def asked_for(folder: Path | None, campaign: str | None) -> tuple[Campaigns, str]:
    """
    Find the campaign a command is about.

    Parameters
    ----------
    folder
        Of a run on this machine.
    campaign
        Name of one in the configured JobStore; with a folder the name it is to have.

    Raises
    ------
    MLIPError
        Neither is given, or there is no such campaign.
    """
    from mlip_autopipec.database.campaigns import Campaigns

    if folder is not None:
        store, name = campaign_in(folder)
        if campaign not in (None, name):
            raise MLIPError(f"'{folder}' holds the campaign '{name}', not '{campaign}'; leave one of the two out")
        return Campaigns(store), name
    if campaign is None:
        raise MLIPError("which campaign? Give the folder of a run, or --campaign with its name in the JobStore")
    campaigns = Campaigns()
    campaigns.status(campaign)  # an unknown one is told with those there are
    return campaigns, campaign
