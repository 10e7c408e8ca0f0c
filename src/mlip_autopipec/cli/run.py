"""``run``, ``resume`` and ``extend``: campaigns on this machine."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape

from mlip_autopipec.cli.base import AsJson, app, campaign_in, console, put, told
from mlip_autopipec.cli.exit_codes import ExitCode, exit_code
from mlip_autopipec.cli.folder import check_free, clear, held
from mlip_autopipec.errors import InvalidInputError, MLIPError
from mlip_autopipec.runfile.errors import RunFileText

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobflow import Flow, JobStore

    from mlip_autopipec.flows.otf import OTFMaker
    from mlip_autopipec.runfile.model import RunFile

RunFilePath = Annotated[Path, typer.Argument(help="The run file of the campaign.", metavar="RUN.yaml")]
Folder = Annotated[
    Path | None, typer.Option(help="Where everything of the campaign is. Default: runs/NAME.", metavar="DIR")
]


@app.command()
def run(
    run_file: Annotated[Path, typer.Argument(help="YAML run file; init writes one.", metavar="RUN.yaml")],
    folder: Folder = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the folder if it exists.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would run, how many labels at most, at what cost."),
    ] = False,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="With --dry-run: compute one label for its time. Default: of EMT, Lennard-Jones, xTB",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Run a campaign on this machine, without a database server.

    Prints one line per cycle, then a summary. The folder holds report.html, potential/, dataset.extxyz,
    result.json, campaign.log and the store of all documents. Ctrl-C is safe: resume goes on.

    For instance:

        mlip-autopipec run Cu.yaml --dry-run
        mlip-autopipec run Cu.yaml
        mlip-autopipec run Cu.yaml --folder /scratch/cu --json > result.json

    Exit code 0: converged; 3: budget spent; 4: stalled; 1: failed; 130: interrupted. See mlip-autopipec --help.
    """
    if dry_run:
        _dry_run(run_file, measure, as_json)
        return

    def prepare(campaign: RunFile, folder: Path, stack: ExitStack) -> Flow:
        flow = campaign.flow()
        # only now, when nothing can be refused any more, may an old run be deleted
        check_free(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(held(folder))
        clear(folder)
        return flow

    _run(run_file, folder, prepare, as_json)


@app.command()
def resume(run_file: RunFilePath, folder: Folder = None, as_json: AsJson = False) -> None:
    """
    Go on with a campaign that was killed, interrupted, or ended because a step failed.

    Nothing that was computed is computed again. Settings changed in the run file since then apply
    from now on. Exit codes as for run.

    For instance:

        mlip-autopipec resume Cu.yaml
    """

    def prepare(campaign: RunFile, folder: Path, stack: ExitStack) -> Flow:
        from mlip_autopipec.flows.otf import OTFMaker

        store, campaign_id = campaign_in(folder)
        stack.enter_context(held(folder))
        return OTFMaker.resume(campaign_id, store, maker_if_changed(campaign, campaign_id, store))

    _run(run_file, folder, prepare, as_json)


@app.command()
def extend(run_file: RunFilePath, folder: Folder = None, as_json: AsJson = False) -> None:
    """
    Go on with a campaign that has ended.

    Write further conditions or structures into its run file, new structures after the old ones, or a
    wider stop rule, or longer MD. Exit codes as for run.

    For instance, after adding "- {temperature_K: 1200}" to the conditions in Cu.yaml:

        mlip-autopipec extend Cu.yaml
    """

    def prepare(campaign: RunFile, folder: Path, stack: ExitStack) -> Flow:
        from mlip_autopipec.flows.otf import OTFMaker
        from mlip_autopipec.jobs.dataset import recorded_task

        store, campaign_id = campaign_in(folder)
        stack.enter_context(held(folder))
        known = len(recorded_task(campaign_id, store).formulas)
        maker = maker_if_changed(campaign, campaign_id, store)
        new = campaign.load_structures()[known:]
        return OTFMaker.extend(campaign_id, store, new, campaign.load_conditions(), maker)

    _run(run_file, folder, prepare, as_json)


def _dry_run(run_file: Path, measure: bool | None, as_json: bool) -> None:
    with told(as_json):
        RunFileText(run_file)  # a mistake in its name or its YAML is told at once, before much is imported
        from mlip_autopipec.cli.local import check_validation
        from mlip_autopipec.cli.plan import plan, show
        from mlip_autopipec.runfile.model import RunFile

        campaign = RunFile.load(run_file)
        check_validation(campaign)
        found = plan(campaign, measure=measure)
        show(campaign, found)
    if as_json:
        put(found.to_dict())


def _run(
    run_file: Path, folder: Path | None, prepare: Callable[[RunFile, Path, ExitStack], Flow], as_json: bool = False
) -> NoReturn:
    """Make a flow, run it here, report, and leave with the exit code."""
    started = time.perf_counter()
    target: Path | None = None
    result: dict[str, Any]
    try:
        with told(as_json), _sigterm_as_ctrl_c(), ExitStack() as stack:
            RunFileText(run_file)  # as in a dry run
            from mlip_autopipec.cli.cautions import cautions
            from mlip_autopipec.cli.local import check_validation, log_to, run_here
            from mlip_autopipec.runfile.model import RunFile

            campaign = RunFile.load(run_file)
            check_validation(campaign)
            target = (folder or Path("runs") / campaign.name).resolve()
            for caution in cautions(campaign):
                console.print(f"[yellow]note:[/] {escape(caution)}")
            flow = prepare(campaign, target, stack)
            log_to(target / "campaign.log")
            result = run_here(campaign, flow, target, started)
            result["exit_code"] = exit_code(result["status"])
    except KeyboardInterrupt:
        result = _interrupted(run_file, folder, target)
    if as_json:
        put(result)
    raise typer.Exit(int(result["exit_code"]))


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """
    Let SIGTERM (a batch system, ``timeout``) and SIGHUP (a closed terminal) end a campaign as Ctrl-C does.

    Children are ended, the rest is told. Under ``nohup``, which ignores SIGHUP, it stays ignored.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    wanted = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, interrupt) for one in wanted}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _interrupted(run_file: Path, folder: Path | None, target: Path | None) -> dict[str, Any]:
    """Say how to go on after Ctrl-C."""
    where = "" if folder is None else f" --folder {folder}"
    go_on = f"mlip-autopipec resume {run_file}{where}"
    try:
        if target is None:
            raise MLIPError("not begun")
        campaign_in(target)
    except MLIPError:
        go_on = f"mlip-autopipec run {run_file}{where} --overwrite"
        why = "interrupted before anything was computed; begin anew with"
    else:
        why = "interrupted; no label is lost. Go on with"
    console.print(f"[yellow]{why}[/] {escape(go_on)}")
    return {
        "status": "INTERRUPTED",
        "why": why,
        "exit_code": ExitCode.INTERRUPTED,
        "folder": None if target is None else str(target),
        "go_on": go_on,
    }


def maker_if_changed(campaign: RunFile, campaign_id: str, store: JobStore) -> OTFMaker | None:
    """
    Return the maker of the run file, if it is not the one the campaign was last run with.

    Raises
    ------
    InvalidInputError
        It asks for another basis, which the fit would silently not give it.
    """
    from mlip_autopipec.jobs.dataset import recorded_task
    from mlip_autopipec.kinds import TRAINERS

    maker = campaign.maker()
    before = json.loads(recorded_task(campaign_id, store).payload["maker"])
    now = json.loads(maker.to_json())
    if now == before:
        return None
    old, new = before["train_maker"]["trainer"], now["train_maker"]["trainer"]
    is_fitted = store.query_one({"output.kind": "potential", "output.campaign_id": campaign_id}, ["uuid"]) is not None
    if TRAINERS[campaign.trainer.kind].keeps_basis and is_fitted and old["basis"] != new["basis"]:
        changed = [
            f"{key} {old['basis'].get(key)} -> {value}"
            for key, value in new["basis"].items()
            if not key.startswith("@") and value != old["basis"].get(key)
        ]
        raise InvalidInputError(
            f"trainer.basis: {', '.join(changed)}; the campaign's potential keeps its basis when it is fine-tuned. "
            "Change it back, or begin a campaign of another name with these labels: `mlip-autopipec export` writes "
            "them, start_from: {labels: .../dataset/train.extxyz} reads them"
        )
    return maker
