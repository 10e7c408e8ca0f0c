"""``submit`` and ``mend``: campaigns on a FireWorks LaunchPad."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.markup import escape

from mlip_autopipec.cli.base import AsJson, app, configured_store, console, put, told, typed
from mlip_autopipec.cli.run import NewOracle
from mlip_autopipec.errors import ExecutableError, InvalidInputError

if TYPE_CHECKING:
    from fireworks import LaunchPad

    from mlip_autopipec.runfile.model import RunFile

LaunchPadFile = Annotated[
    Path | None,
    typer.Option("--launchpad", "-l", help="my_launchpad.yaml. Default: the one FireWorks is configured for."),
]


@app.command()
def submit(
    run_file: Annotated[Path, typer.Argument(help="The run file of the campaign.", metavar="RUN.yaml")],
    campaign: Annotated[
        str | None, typer.Option(help="Name of the campaign in the database. Default: the run file's name.")
    ] = None,
    launchpad: LaunchPadFile = None,
    workers: Annotated[
        Path | None,
        typer.Option(help="YAML: for the steps label, train, explore, light entries of their Fireworks' specs."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="Against other campaigns on this LaunchPad; higher first.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a campaign of this name that was interrupted or failed.")
    ] = False,
    extend: Annotated[bool, typer.Option("--extend", help="Continue a campaign of this name that has ended.")] = False,
    new_oracle: NewOracle = False,
    as_json: AsJson = False,
) -> None:
    """
    Put a campaign on a FireWorks LaunchPad, for workers to run.

    Documents go to the JobStore that jobflow is configured for here and on the workers (JOBFLOW_CONFIG_FILE).
    Structures and all files that the run file names are read now; the workers need none of them.

    For instance:

        mlip-autopipec submit Cu.yaml --campaign copper-1
        mlip-autopipec submit Cu.yaml --workers workers.yaml --priority 10
        mlip-autopipec submit Cu.yaml --resume

    Then qlaunch or rlaunch as usual (docs/fireworks.md); status shows its progress.
    """
    with told(as_json):
        from mlip_autopipec.cli.cautions import cautions
        from mlip_autopipec.cli.changes import check_unchanged, maker_if_changed
        from mlip_autopipec.database.campaigns import Campaigns
        from mlip_autopipec.flows.otf import OTFMaker
        from mlip_autopipec.jobs.dataset import recorded_task
        from mlip_autopipec.managers.fireworks.launchpad import submit as put_up
        from mlip_autopipec.runfile.model import RunFile

        if resume and extend:
            raise InvalidInputError("--resume and --extend exclude each other; extend what has ended, resume the rest")
        run = RunFile.load(run_file)
        name = campaign or run.name
        entries = {} if workers is None else _read_workers(workers)
        store = configured_store()
        for told_of in [*cautions(run), *_not_run_here(run)]:
            console.print(f"[yellow]note:[/] {escape(told_of)}")
        if resume or extend:
            check_unchanged(run, name, store, more=extend, extend="`mlip-autopipec submit --extend`")
            maker = maker_if_changed(run, name, store, new_oracle=new_oracle)
            if resume:
                flow = OTFMaker.resume(name, store, maker)
            else:
                new = run.load_structures()[len(recorded_task(name, store).formulas) :]
                flow = OTFMaker.extend(name, store, new, run.load_conditions(), maker)
        else:
            if name in Campaigns(store).names():
                raise InvalidInputError(
                    f"the JobStore holds a campaign '{name}' already; give this one another name with --campaign, or "
                    "continue that one with --resume or --extend"
                )
            flow = run.flow(name)
        submission = put_up(flow, _launchpad(launchpad), entries, priority=priority)
        console.print(
            f"campaign [bold]{escape(submission.campaign_id)}[/] is on the LaunchPad as workflow of Firework "
            f"{submission.fw_ids[0]}\n  rlaunch rapidfire --nlaunches infinite   # or qlaunch (docs/fireworks.md)\n"
            f"  {escape(typed('status', '--campaign', submission.campaign_id))}"
        )
    if as_json:
        put(asdict(submission))


def _not_run_here(run: RunFile) -> list[str]:
    """Return what a run file asks for that a LaunchPad does not do."""
    told = []
    if run.validation is not None:
        told.append(
            "validation, MD of the oracle itself at the end, is no part of a campaign on a LaunchPad: it is left out "
            "(docs/fireworks.md)"
        )
    if run.resources is not None:
        told.append("resources are those of `run` on one machine; here --workers says what a step is run with")
    return told


@app.command()
def mend(
    launchpad: LaunchPadFile = None,
    older_than: Annotated[
        float, typer.Option(help="Ignore documents written in the last so many seconds.", min=0)
    ] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """
    Repair a LaunchPad after a worker was killed while writing to it.

    Safe at any time, for instance every hour by cron, beside "lpad detect_lostruns --rerun --refresh".

    For instance:

        mlip-autopipec mend
    """
    with told(as_json):
        pad = _launchpad(launchpad)
        from mlip_autopipec.managers.fireworks.launchpad import mend as put_right

        mended = put_right(pad, older_than_s=older_than)
        console.print(
            f"carried on {mended.carried_on or 'nothing'}, removed {mended.removed or 'nothing'}", markup=False
        )
    if as_json:
        put(asdict(mended))


def _launchpad(file: Path | None) -> LaunchPad:
    """Return the LaunchPad of a file, or the configured one; it has to answer."""
    try:
        from fireworks import LaunchPad
    except ImportError as error:
        raise ExecutableError(f"FireWorks is missing ({error}): pip install 'mlip-autopipec[fireworks]'") from error
    if file is not None and not file.is_file():
        raise InvalidInputError(f"--launchpad '{file}' does not exist; `lpad init` writes one")
    try:
        pad = LaunchPad.auto_load() if file is None else LaunchPad.from_file(str(file))
    except Exception as error:  # of its readers of YAML and JSON
        which = "the file that FireWorks is configured for" if file is None else f"--launchpad '{file}'"
        raise InvalidInputError(
            f"{which} is no LaunchPad ({type(error).__name__}: {' '.join(str(error).split())[:200]}); `lpad init` "
            "writes one (docs/fireworks.md)"
        ) from error
    try:
        pad.workflows.find_one({}, ["_id"])
    except Exception as error:
        raise ExecutableError(
            f"the LaunchPad {pad.name} does not answer: {type(error).__name__}: {str(error)[:300]}\nname its file with "
            "--launchpad, or configure FireWorks (docs/fireworks.md)"
        ) from error
    return pad


def _read_workers(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInputError(f"--workers '{path}' cannot be read: {error}") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InvalidInputError(
            f"--workers '{path}' holds {entries!r}; for each step entries are expected, such as "
            "label: {_category: label}"
        )
    return entries
