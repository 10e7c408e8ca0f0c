"""``schema``: JSON schema of run files, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mlip_autopipec.cli.base import app, say, told


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it here instead of printing it.")] = None,
) -> None:
    """
    Print the JSON schema of run files, with which editors complete, explain and check them.

    Write it beside a run file,

        mlip-autopipec schema -o run.schema.json

    and name it in the file's first line, "# yaml-language-server: $schema=run.schema.json": VS Code with its YAML
    extension, Neovim, Emacs and others read that.
    """
    with told():
        from mlip_autopipec.runfile.model import json_schema

        text = json.dumps(json_schema(), indent=2)
        if output is not None:
            output.write_text(text + "\n")
    if output is None:
        say(text)
