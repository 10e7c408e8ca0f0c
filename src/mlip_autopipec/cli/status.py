"""``status``: progress of campaigns, from a folder's store or from the database."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pymongo.errors import PyMongoError
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mlip_autopipec.cli.base import (
    AsJson,
    app,
    campaign_in,
    configured_store,
    console,
    folder_of,
    in_words,
    member_of,
    names_in,
    put,
    told,
)
from mlip_autopipec.cli.exit_codes import ExitCode, exit_code
from mlip_autopipec.cli.folder import is_held
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.schemas.measured import errors_by_set, measured_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from mlip_autopipec.database.campaigns import Campaigns
    from mlip_autopipec.schemas.loop import OTFDocument


@dataclass(frozen=True)
class Row:
    """A campaign, its folder where it has one, and whether a process runs it there."""

    document: OTFDocument
    folder: Path | None = None
    running: bool | None = None


_APPEARS = "one that was submitted appears when a worker has run its first job"
_NONE = f"no campaign is there yet; {_APPEARS}"
_COLUMNS = ("folder", "campaign", "elements", "status", "cycles", "labels", "halts", "meV/atom", "meV/A", "h")
_COLOURS = {"CONVERGED": "green", "LEARNING": "cyan", "FAILED": "red", "ORACLE_FAILING": "red"}


@app.command()
def status(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a run, for instance runs/Cu, or its run file, or a folder above several; none for the "
            "database, or without one for the folder runs.",
            metavar="DIR",
            callback=folder_of,
        ),
    ] = None,
    campaign: Annotated[str | None, typer.Option(help="One campaign of the database, with its walkers.")] = None,
    elements: Annotated[
        list[str] | None, typer.Option("--element", "-e", help="Only campaigns with this element.")
    ] = None,
    watch: Annotated[
        float | None, typer.Option(help="Print again every so many seconds, until the campaign has ended.", min=0.1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Show the progress of campaigns.

    The database is the JobStore that jobflow is configured for (JOBFLOW_CONFIG_FILE). Of one campaign the exit code is
    that of run: 0 converged, 3 budget spent, 4 stalled, 1 failed; 5 while it runs. A table of all ends with 0.

    For instance:

        mlip-autopipec status runs/Cu
        mlip-autopipec status runs/Cu --watch 10
        mlip-autopipec status runs
        mlip-autopipec status
        mlip-autopipec status --campaign copper-1 --json
    """
    with told(as_json):
        from mlip_autopipec.database.campaigns import Campaigns
        from mlip_autopipec.database.validation import read_errors
        from mlip_autopipec.jobs.stores import title_of
        from mlip_autopipec.progress import progress_of

        several = _below(folder, campaign)
        if folder is not None and not several:
            store, name = campaign_in(folder)
            campaigns, campaign = Campaigns(store), name
        elif not several:
            campaigns = Campaigns(configured_store())
        result: dict[str, Any]
        code = ExitCode.CONVERGED
        if several:
            rows, result = _of_folders(several, elements)
            console.print(overview(rows) if rows else _NONE)
        elif campaign is None:
            everything = campaigns.list(elements)
            result = {"campaigns": [_summary(one) for one in everything]}
            console.print(overview([Row(one) for one in everything]) if everything else _NONE)
        else:
            if folder is None and campaign not in campaigns.names():
                if watch is None or as_json:
                    there = f"there are {campaigns.names()}; {_APPEARS}"
                    raise MLIPError(f"no campaign '{campaign}' is in {title_of(campaigns.store)}; {there}")
                console.print(f"[yellow]note:[/] {_NONE}; waiting for '{escape(campaign)}'")
                while campaign not in campaigns.names():
                    time.sleep(watch)
            document = campaigns.status(campaign)
            if watch is None or as_json:
                console.print(_detail(campaigns, document, folder))
            else:
                document = _watched(campaigns, campaign, watch, folder)
            code = exit_code(document.status)
            result = {**_summary(document), "walkers": _walkers(campaigns, document), "exit_code": int(code)}
            validated = read_errors(campaigns.store, campaign, document.potential_id)
            result["validation"] = None if validated is None else validated.model_dump(mode="json")
            result["progress"] = progress_of(campaigns, campaign).to_dict()
            result["running"] = None if folder is None else is_held(folder)
    if as_json:
        put(result)
    raise typer.Exit(int(code))


def _below(folder: Path | None, campaign: str | None) -> list[Path]:
    """Return the folders of runs below a folder that is none itself; below ``runs`` where no database is configured."""
    if campaign is not None:
        return []
    above = Path("runs") if folder is None else folder
    if (above / "store").is_dir():
        return [above] if len(names_in(above)[1]) > 1 else []
    if member_of(above) is not None:
        return []
    found = sorted(store.parent for pattern in ("*/store", "*/*/store") for store in above.glob(pattern))
    if folder is None and found:
        from jobflow.settings import JobflowSettings

        from mlip_autopipec.jobs.stores import is_kept

        if is_kept(JobflowSettings().JOB_STORE.docs_store):
            return []
    return found


def _of_folders(folders: Sequence[Path], elements: Sequence[str] | None) -> tuple[list[Row], dict[str, Any]]:
    """Return the campaigns of several folders, and the same for scripts; one that cannot be read is told."""
    from mlip_autopipec.database.campaigns import Campaigns

    rows, summaries, unread = [], [], []
    for folder in folders:
        try:
            store, names = names_in(folder)
        except MLIPError as error:
            console.print(f"[yellow]note:[/] {escape(str(error))}")
            unread.append({"folder": str(folder), "error": str(error)})
            continue
        for name in names:
            document = Campaigns(store).status(name)
            if set(elements or ()) <= set(document.elements):
                shared = member_of(folder / name)
                own = folder / name if shared is not None and shared[1] == name else folder
                running = is_held(own)
                rows.append(Row(document, own, running))
                summaries.append({**_summary(document), "folder": str(own), "running": running})
        store.close()
    return rows, {"campaigns": summaries, "unread": unread}


def _watched(campaigns: Campaigns, campaign: str, seconds: float, folder: Path | None) -> OTFDocument:
    document = campaigns.status(campaign)
    shown = _detail(campaigns, document, folder)
    with Live(shown, console=console, auto_refresh=False) as live:
        try:
            while exit_code(document.status) is ExitCode.UNFINISHED:
                time.sleep(seconds)
                try:
                    document = campaigns.status(campaign)
                    shown = _detail(campaigns, document, folder)
                except PyMongoError as error:  # it may come back: watching goes on
                    shown = Group(f"[yellow]note:[/] {escape(in_words(error))}; trying again", shown)
                live.update(shown, refresh=True)
        except KeyboardInterrupt:  # ends the watching, not the campaign
            pass
    return document


def _summary(document: OTFDocument) -> dict[str, Any]:
    """Return the status of a campaign for scripts."""
    words = {"campaign_id", "status", "why", "elements", "hours"}
    counts = {"n_cycles", "n_halts", "n_labels", "n_new_labels", "n_reused_labels", "n_failed_labels"}
    errors = {"train", "test", "new_before", "new_after"}
    return document.model_dump(mode="json", include=words | counts | errors)


def _walkers(campaigns: Campaigns, document: OTFDocument) -> list[dict[str, Any]]:
    """Return how far each walker got, with the length of its walk."""
    walks = {walk.walker: walk for walk in campaigns.walks(document.campaign_id)}
    rows = []
    for walker in document.walkers:
        walk = walks.get(walker.index)
        rows.append(
            {
                "walker": walker.index,
                "formula": walker.formula,
                "temperature_K": walker.condition.temperature_K,
                "pressure_GPa": walker.condition.pressure_GPa,
                "status": walker.status,
                "step": walker.step,
                "n_steps": None if walk is None else walk.n_steps,
                "ps": None if walk is None else walker.step * walk.timestep_fs / 1000,
                "n_halts": walker.n_halts,
                "n_rolled_back": walker.n_rolled_back,
                "steps_thrown_away": walker.steps_thrown_away,
                "reason": walker.reason,
                "verdict": walker.verdict,
                "gamma_max": walker.gamma_max,
            }
        )
    return rows


def _coloured(status: str) -> str:
    return f"[{_COLOURS.get(status, 'yellow')}]{status}[/]"


def overview(rows: Sequence[Row]) -> Table:
    """Return one line for each campaign; those of folders have the folder in place of elements and energy error."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    in_folders = any(row.folder is not None for row in rows)
    left_out = ("elements", "meV/atom") if in_folders else ("folder",)
    lines = [_cells(row) for row in rows]
    for name in (name for name in _COLUMNS if name not in left_out):
        table.add_column(name, no_wrap=name not in ("campaign", "elements", "folder"), overflow="fold")
    for cells in lines:
        table.add_row(*(cell for name, cell in zip(_COLUMNS, cells, strict=True) if name not in left_out))
    table.caption = "errors on the held-out set, or of each label left out of a linear fit, or on the training set"
    return table


def _cells(row: Row) -> tuple[str, ...]:
    one = row.document
    _, errors = measured_on(one)
    interrupted = row.running is False and exit_code(one.status) is ExitCode.UNFINISHED
    return (
        "" if row.folder is None else escape(str(row.folder)),
        escape(one.campaign_id),
        "-".join(one.elements),
        "[yellow]interrupted[/]" if interrupted else _coloured(one.status),
        str(one.n_cycles),
        f"{one.n_labels}" + (f" ({one.n_failed_labels} failed)" if one.n_failed_labels else ""),
        str(one.n_halts),
        "" if errors is None else f"{errors.energy_rmse_meV_atom:.2f}",
        "" if errors is None else f"{errors.forces_rmse_meV_A:.1f}",
        f"{one.hours:.1f}",
    )


def _detail(campaigns: Campaigns, document: OTFDocument, folder: Path | None) -> RenderableType:
    if exit_code(document.status) is ExitCode.UNFINISHED:
        from mlip_autopipec.progress import Shown, progress_of

        progress = progress_of(campaigns, document.campaign_id)
        running = None if folder is None else is_held(folder)
        if running is False:
            doing = f"interrupted while {progress.doing}" if progress.doing else "interrupted"
            note = "no process runs it; `mlip-autopipec resume` with its run file continues"
            return Shown(replace(progress, doing=doing, forecast=None), note=note)
        idle = "if nothing runs, look at the jobs of its LaunchPad (docs/fireworks.md), or resume it"
        return Shown(progress, note="" if running else idle if folder is None else "if nothing runs, resume it")
    from mlip_autopipec.database.validation import read_errors

    head = Table(title=f"{escape(document.campaign_id)}: {_coloured(document.status)}", show_header=False)
    head.add_row("why", escape(document.why))
    failed = f", {document.n_failed_labels} failed" if document.n_failed_labels else ""
    reused = f", {document.n_reused_labels} of them there before" if document.n_reused_labels else ""
    head.add_row("cycles, halts", f"{document.n_cycles}, {document.n_halts}")
    head.add_row("labels", f"{document.n_labels}{reused}{failed}")
    compared = campaigns.comparison(document.campaign_id)
    if compared is not None and (shift := compared.describe_shift()):
        head.add_row("energies given, shifted", shift)
    if thrown := document.walks_thrown_away():
        head.add_row("walks thrown away", thrown)
    if document.check is not None:
        head.add_row("check", f"{'passed' if document.check.passed else 'failed'}: {document.check.describe()}")
    if (validated := read_errors(campaigns.store, document.campaign_id, document.potential_id)) is not None:
        head.add_row("error, MD of the oracle itself", validated.describe())
    for name, errors in errors_by_set(document).items():
        head.add_row(f"error, {name}", errors.describe())
    walkers = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("walker", "cell", "at", "status", "step", "ps", "halts", "last halt"):
        walkers.add_column(name, no_wrap=name != "cell", overflow="fold")
    for row in _walkers(campaigns, document):
        walkers.add_row(
            f"w{row['walker']}",
            escape(row["formula"]),
            f"{row['temperature_K']:g} K" + (f", {row['pressure_GPa']:g} GPa" if row["pressure_GPa"] else ""),
            _coloured(row["status"]),
            f"{row['step']}" + ("" if row["n_steps"] is None else f"/{row['n_steps']}"),
            "" if row["ps"] is None else f"{row['ps']:.2f}",
            str(row["n_halts"]),
            escape(row["reason"] or "") + ("" if row["gamma_max"] is None else f" {row['gamma_max']:.1f}"),
        )
    return Group(head, walkers) if document.walkers else head
