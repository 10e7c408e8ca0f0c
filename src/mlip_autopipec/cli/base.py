"""What all commands share: the application, the screen, errors, the store of a folder."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from mlip_autopipec.cli.exit_codes import ExitCode
from mlip_autopipec.errors import MLIPError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jobflow import JobStore

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)
console = Console(highlight=False, soft_wrap=True)


@app.callback()
def main() -> None:
    """Learn ACE interatomic potentials on the fly."""


@contextmanager
def errors_told() -> Iterator[None]:
    """Tell an error that was raised on purpose in its own words, without a traceback, and leave with FAILED."""
    try:
        yield
    except MLIPError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", markup=True)
        raise typer.Exit(ExitCode.FAILED) from error


def open_store(folder: Path) -> JobStore:
    """Open (or make) the on-disk JobStore of a run."""
    from mlip_autopipec.database import disk

    return disk.open_store(folder)


def campaign_in(folder: Path) -> tuple[JobStore, str]:
    """Open the store of a run and return it with the name of its campaign."""
    if not (folder / "store").is_dir():
        raise MLIPError(f"'{folder}' holds no campaign; begin one with `mlip-autopipec run`, or name its --folder")
    store = open_store(folder / "store")
    names = sorted(map(str, store.distinct("output.campaign_id", {"output.kind": "campaign"})))
    if len(names) != 1:
        raise MLIPError(f"'{folder}' holds the campaigns {names}; one is expected. If none, delete it and run anew")
    return store, names[0]
