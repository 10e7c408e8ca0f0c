"""``export``: a folder to share, with potential, examples and dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlip_autopipec.cli.base import AsJson, CampaignName, RunFolder, app, asked_for, console, put, told
from mlip_autopipec.errors import MLIPError


@app.command()
def export(
    folder: RunFolder = None,
    campaign: CampaignName = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make; default export in the folder of the run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Write the last potential of a campaign, with examples and dataset, into a new folder.

    The potential as .yaml, .yace and .asi, a LAMMPS input and an ASE example that run, all labels as extended XYZ for
    MACE, NequIP, pacemaker and ASE, all settings, what to cite, and a README. Nothing is overwritten.
    """
    with told(as_json):
        from mlip_autopipec.export import write_export

        campaigns, name = asked_for(folder, campaign)
        default = Path(f"{name.replace('/', '-')}-export") if folder is None else folder / "export"
        target = (output or default).resolve()
        try:
            written = write_export(target, campaigns, name)
        except OSError as error:
            raise MLIPError(f"'{target}' cannot be written: {error}; name another place with --output") from error
        for path in written:
            console.print(str(path), markup=False)
    if as_json:
        put({"campaign_id": name, "folder": str(target), "files": [str(p.relative_to(target)) for p in written]})
