"""``run``, ``resume`` and ``extend``: campaigns on this machine."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape

from mlip_autopipec.cli.base import AsJson, app, campaign_in, console, member_of, put, short, told, typed
from mlip_autopipec.cli.exit_codes import ExitCode, exit_code
from mlip_autopipec.cli.folder import check_free, clear, held, is_finished, network_file_system
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.runfile.errors import RunFileText

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jobflow import Flow

    from mlip_autopipec.cli.several import Member
    from mlip_autopipec.runfile.model import RunFile

RunFilePaths = Annotated[
    list[Path],
    typer.Argument(
        help="YAML run file; init writes one. Several, or a folder of them, run together.", metavar="RUN.yaml"
    ),
]
NewOracle = Annotated[
    bool, typer.Option("--new-oracle", help="Continue with another oracle; the potential is trained on labels of both.")
]
Folder = Annotated[Path | None, typer.Option(help="Folder of the campaign. Default: runs/NAME.", metavar="DIR")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Jobs that run side by side, each in a process of its own. Default: the cores there are, divided by "
        "OMP_NUM_THREADS if that is set; 0: one job after the other in this process.",
        min=0,
        metavar="N",
        show_default=False,
    ),
]


@app.command()
def run(
    run_files: RunFilePaths,
    folder: Folder = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the campaign that is in the folder.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would run, the limit of labels, and their cost."),
    ] = False,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="With --dry-run: compute one label for its time. Default: of EMT, Lennard-Jones, xTB",
        ),
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """
    Run a campaign on this machine, without a database server.

    Prints one line per cycle, then a summary. The folder holds report.html, potential/, dataset.extxyz,
    result.json, campaign.log and the store of all documents. After Ctrl-C, resume continues.

    Several run files, or a folder of them, are campaigns that run together: on one pool of workers, with one store in
    which they share labels. Each has a folder of its own below the common one; one that fails stops no other.

    For instance:

        mlip-autopipec run Cu.yaml --dry-run
        mlip-autopipec run Cu.yaml
        mlip-autopipec run Cu.yaml --workers 8
        mlip-autopipec run Cu.yaml --folder /scratch/cu --json > result.json
        mlip-autopipec run Cu.yaml Ag.yaml Au.yaml --folder runs/coinage

    Exit code 0: converged; 3: budget spent; 4: stalled; 1: failed; 130: interrupted. See mlip-autopipec --help.
    """
    if dry_run:
        _dry_run(run_files, measure, as_json)
        return
    from mlip_autopipec.cli.several import are_several, begin

    if are_several(run_files, folder):
        _run_several(
            run_files, folder, lambda read, common, stack: begin(read, common, overwrite, stack), workers, as_json
        )

    def prepare(campaign: RunFile, folder: Path, stack: ExitStack) -> Flow:
        from mlip_autopipec.cli.local import check_engine

        check_engine(campaign)
        flow = campaign.flow()
        # only now, when nothing can be refused any more, may an old run be deleted
        check_free(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(held(folder))
        if left := clear(folder):
            console.print(
                f"[yellow]note:[/] {escape(', '.join(left))} in {escape(str(short(folder)))} stay as they are"
            )
        return flow

    _run(run_files[0], folder, prepare, workers, as_json)


@app.command()
def resume(
    run_files: RunFilePaths,
    folder: Folder = None,
    new_oracle: NewOracle = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """
    Continue a campaign that was killed or interrupted, or whose step failed.

    Stored results are not computed again. If the loop has ended, missing validation and results are completed. Changed
    settings of MD, selection, training and stopping apply from now on and are printed. Other structures, conditions or
    seeds are refused; another oracle needs --new-oracle.
    Exit codes as for run.

    For instance:

        mlip-autopipec resume Cu.yaml
        mlip-autopipec resume Cu.yaml Ag.yaml Au.yaml --folder runs/coinage
    """
    _go_on(run_files, folder, workers, as_json, more=False, new_oracle=new_oracle)


@app.command()
def extend(
    run_files: RunFilePaths,
    folder: Folder = None,
    new_oracle: NewOracle = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """
    Continue a campaign that has ended.

    First change its run file: further conditions, structures (after the old ones), larger limits of
    the stop rule, or longer MD. Of several campaigns those go on whose run files ask for more. Exit codes as for run.

    For instance, after adding "- {temperature_K: 1200}" to the conditions in Cu.yaml:

        mlip-autopipec extend Cu.yaml
        mlip-autopipec extend Cu.yaml Ag.yaml Au.yaml --folder runs/coinage
    """
    _go_on(run_files, folder, workers, as_json, more=True, new_oracle=new_oracle)


def _go_on(
    run_files: Sequence[Path], folder: Path | None, workers: int | None, as_json: bool, *, more: bool, new_oracle: bool
) -> None:
    """Continue one campaign or several; with ``more``, beyond where they ended."""
    from mlip_autopipec.cli import several

    if several.are_several(run_files, folder):
        _run_several(
            run_files,
            folder,
            lambda read, common, stack: several.go_on(read, common, stack, more=more, new_oracle=new_oracle),
            workers,
            as_json,
        )
    _run(run_files[0], folder, _going_on(more=more, new_oracle=new_oracle), workers, as_json)


def _going_on(*, more: bool, new_oracle: bool) -> Callable[[RunFile, Path, ExitStack], Flow | None]:
    def prepare(campaign: RunFile, folder: Path, stack: ExitStack) -> Flow | None:
        from mlip_autopipec.cli.changes import flow_left

        store, campaign_id = campaign_in(folder)
        stack.enter_context(held(folder))
        return flow_left(campaign, campaign_id, store, more=more, new_oracle=new_oracle, finished=is_finished(folder))

    return prepare


def _dry_run(paths: Sequence[Path], measure: bool | None, as_json: bool) -> None:
    with told(as_json):
        from mlip_autopipec.cli.several import are_several, read_all, run_files_in

        together = are_several(paths, None)
        files = run_files_in(paths) if together else paths
        for file in files:
            RunFileText(file)  # a mistake in its name or its YAML is told at once, before much is imported
        from mlip_autopipec.cli.plan import plan, show

        found = []
        for campaign in read_all(files):
            found.append(plan(campaign, measure=measure))
            show(campaign, found[-1])
    if as_json:
        put({"campaigns": [one.to_dict() for one in found]} if together else found[0].to_dict())


def _run_several(
    paths: Sequence[Path],
    folder: Path | None,
    prepare: Callable[[Sequence[RunFile], Path, ExitStack], Sequence[Member]],
    workers: int | None,
    as_json: bool,
) -> NoReturn:
    """Run campaigns together, and leave with the exit code of the one that went worst."""
    started = time.perf_counter()
    from mlip_autopipec.cli import several

    target: Path | None = None
    names: list[str] = []
    try:
        with told(as_json), _sigterm_as_ctrl_c(), ExitStack() as stack:
            files = several.run_files_in(paths)
            for file in files:
                RunFileText(file)  # as in a dry run
            from mlip_autopipec.cli.cautions import cautions
            from mlip_autopipec.managers.fork_server import ForkServer
            from mlip_autopipec.settings import default_workers, thread_variables

            workers = default_workers() if workers is None else workers
            server = stack.enter_context(ForkServer(thread_variables(workers))) if workers else None
            target = _resolved(folder or several.default_folder(paths))
            campaigns = several.read_all(files)
            names = [campaign.name for campaign in campaigns]
            for campaign in campaigns:
                for caution in cautions(campaign):
                    console.print(f"[yellow]note:[/] {escape(f'{campaign.name}: {caution}')}")
            members = prepare(campaigns, target, stack)
            _warn_of_network(target, workers)
            result = several.run_together(members, target, started, workers, server)
    except KeyboardInterrupt:
        if target is None:
            target = folder or several.default_folder(paths)
        result = several.interrupted(paths, target, names)
    if as_json:
        put(result)
    raise typer.Exit(int(result["exit_code"]))


def _warn_of_network(folder: Path, workers: int) -> None:
    if workers > 1 and (network := network_file_system(folder)) is not None:
        console.print(
            f"[yellow]note:[/] {escape(str(short(folder)))} is on a network file system ({network}), where "
            "several processes may damage the store; take a folder on a local disk, or --workers 1"
        )


def _run(
    run_file: Path,
    folder: Path | None,
    prepare: Callable[[RunFile, Path, ExitStack], Flow | None],
    workers: int | None,
    as_json: bool,
) -> NoReturn:
    """Make a flow, run it here, report, and leave with the exit code."""
    started = time.perf_counter()
    target: Path | None = None
    result: dict[str, Any]
    try:
        with told(as_json), _sigterm_as_ctrl_c(), ExitStack() as stack:
            RunFileText(run_file)  # as in a dry run
            from mlip_autopipec.managers.fork_server import ForkServer
            from mlip_autopipec.settings import default_workers, thread_variables

            workers = default_workers() if workers is None else workers
            # it imports what jobs need while this process imports what it needs itself
            server = stack.enter_context(ForkServer(thread_variables(workers))) if workers else None
            from mlip_autopipec.cli.cautions import cautions
            from mlip_autopipec.cli.local import check_what_runs_here, log_to, run_here
            from mlip_autopipec.runfile.model import RunFile

            campaign = RunFile.load(run_file)
            check_what_runs_here(campaign)
            target = _resolved(folder or Path("runs") / campaign.name)
            if (shared := member_of(target)) is not None:
                together = typed("resume", run_file, "--folder", short(shared[0].parent))
                raise MLIPError(
                    f"'{short(target)}' shares its store with other campaigns; go on with it by `{together}`"
                )
            for caution in cautions(campaign):
                console.print(f"[yellow]note:[/] {escape(caution)}")
            flow = prepare(campaign, target, stack)
            log_to(target / "campaign.log")
            _warn_of_network(target, workers)
            result = run_here(campaign, flow, target, started, workers, server)
            result["exit_code"] = exit_code(result["status"])
    except KeyboardInterrupt:
        result = _interrupted(run_file, folder, target)
    if as_json:
        put(result)
    raise typer.Exit(int(result["exit_code"]))


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links is the latter
        raise MLIPError(f"--folder '{folder}' leads nowhere ({error}); name another folder") from error


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
    """Return how to continue after Ctrl-C."""
    where = [] if folder is None else ["--folder", folder]
    go_on = typed("resume", run_file, *where)
    from mlip_autopipec.flows.resume import ended_as

    try:
        if target is None:
            raise MLIPError("not begun")
        store, name = campaign_in(target)
        status = ended_as(name, store)
    except MLIPError:
        go_on = typed("run", run_file, *where, "--overwrite")
        why = "interrupted before anything was computed; start again with"
    else:
        if status is None:
            why = "interrupted; all labels are kept. Continue with"
        elif not is_finished(target):
            why = f"interrupted after the loop ended as {status}. Results, validation and report are completed by"
        else:
            go_on = typed("report", short(target))
            why = f"interrupted after all was written; the campaign ended as {status}. Its report is written again by"
    console.print(f"[yellow]{why}[/] {escape(go_on)}")
    return {
        "status": "INTERRUPTED",
        "why": why,
        "exit_code": ExitCode.INTERRUPTED,
        "folder": None if target is None else str(target),
        "go_on": go_on,
    }
