"""Several campaigns at once: one pool of workers, one store in which they share labels, a folder for each."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from mlip_autopipec.cli.base import MEMBER, console, in_words, member_of, names_in, short, typed
from mlip_autopipec.cli.exit_codes import ExitCode, exit_code
from mlip_autopipec.cli.folder import begin_results, clear, held, is_finished
from mlip_autopipec.errors import InvalidInputError, MLIPError, NothingLeftError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobflow import Flow, JobStore

    from mlip_autopipec.managers.fork_server import ForkServer
    from mlip_autopipec.managers.local import Run
    from mlip_autopipec.runfile.model import RunFile

#: The worst first: the exit code of all is that of the first that one of them has.
_WORST = (ExitCode.FAILED, ExitCode.UNFINISHED, ExitCode.STALLED, ExitCode.NOT_CONVERGED)
#: Log of all campaigns, in their common folder.
LOG = "campaigns.log"


@dataclass(frozen=True)
class Member:
    """
    One of the campaigns.

    Parameters
    ----------
    run_file
        Its run file, read.
    folder
        Its own, below the common one.
    flow
        What is left to run; None if its loop has ended.
    """

    run_file: RunFile
    folder: Path
    flow: Flow | None = None


def are_several(paths: Sequence[Path], folder: Path | None) -> bool:
    """Tell whether these are run files, or a folder of them, of campaigns that run together or once did."""
    if len(paths) > 1 or paths[0].is_dir():
        return True
    return folder is not None and (folder / LOG).is_file()


def run_files_in(paths: Sequence[Path]) -> list[Path]:
    """
    Return run files, in the order given; of a folder those in it, by name.

    Raises
    ------
    MLIPError
        A folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
        if not inside:
            raise MLIPError(f"'{path}' is a folder without run files (*.yaml)")
        found += inside
    return list(dict.fromkeys(found))


def default_folder(paths: Sequence[Path]) -> Path:
    """Return the common folder of campaigns that were given none: below ``runs``, named as the folder of run files."""
    return Path("runs") / (paths[0].resolve().name if len(paths) == 1 and paths[0].is_dir() else "together")


def read_all(files: Sequence[Path]) -> list[RunFile]:
    """
    Read run files.

    Raises
    ------
    InvalidInputError
        Some are invalid, and how; or two have one name.
    """
    from mlip_autopipec.cli.local import check_what_runs_here
    from mlip_autopipec.runfile.model import RunFile

    read: dict[str, tuple[Path, RunFile]] = {}
    wrong = []
    for file in files:
        try:
            campaign = RunFile.load(file)
            check_what_runs_here(campaign)
        except MLIPError as error:
            wrong.append(f"{file}: {error}" if str(file) not in str(error) else str(error))
            continue
        if campaign.name in read:
            wrong.append(f"{file}: its name is '{campaign.name}', as that of {read[campaign.name][0]}; give it another")
        read.setdefault(campaign.name, (file, campaign))
    if wrong:
        raise InvalidInputError("\n".join([*wrong, "no campaign was begun"] if len(files) > 1 else wrong))
    return [campaign for _, campaign in read.values()]


def begin(campaigns: Sequence[RunFile], folder: Path, overwrite: bool, stack: ExitStack) -> list[Member]:
    """
    Make the flows of new campaigns, and their folders.

    Parameters
    ----------
    campaigns
        Their run files.
    folder
        The common one. Other campaigns may be in it already, whose labels are then shared.
    overwrite
        Whether those that are there may be deleted.
    stack
        Holds the folders.

    Raises
    ------
    MLIPError
        One of the campaigns is there already, or a folder holds something else.
    """
    from mlip_autopipec.cli.local import check_engine

    for campaign in campaigns:
        check_engine(campaign)
    flows = [campaign.flow(campaign.name) for campaign in campaigns]
    members = [Member(campaign, folder / campaign.name, flow) for campaign, flow in zip(campaigns, flows, strict=True)]
    mine = {campaign.name for campaign in campaigns}
    there = set(_names(folder))
    if folder.exists() and not there and (folder / "store").exists():
        raise MLIPError(f"'{folder}' has a store that holds no campaign; choose another folder with --folder")
    if there & mine and not overwrite:
        go_on = typed("resume", "RUN.yaml", "...", "--folder", folder)
        raise MLIPError(
            f"folder '{folder}' holds the campaigns {sorted(there & mine)}; go on with them by `{go_on}`, choose "
            "another folder with --folder, or delete them with --overwrite"
        )
    if there & mine and there - mine:
        raise MLIPError(
            f"folder '{folder}' holds the campaigns {sorted(there - mine)}, too, which share its store; --overwrite "
            "deletes no others than those it is given. Give their run files, too, or choose another folder"
        )
    for member in members:
        if member.folder.is_dir() and any(member.folder.iterdir()) and member_of(member.folder) is None:
            raise MLIPError(f"'{member.folder}' is not of these campaigns; choose another folder with --folder")
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(held(folder))
    if there & mine:
        clear(folder)
    for member in members:
        _make_folder(member, folder, stack)
    return members


def go_on(
    campaigns: Sequence[RunFile], folder: Path, stack: ExitStack, *, more: bool, new_oracle: bool
) -> list[Member]:
    """
    Make the flows of what is left of campaigns, or of what their run files ask for beyond it.

    Parameters
    ----------
    campaigns, folder, stack
        As for :func:`begin`.
    more
        Whether the run files may ask for more than before (`extend`). Else one that was not begun begins (`resume`).
    new_oracle
        Whether another oracle may go on with them.

    Raises
    ------
    MLIPError
        There are none of them, or a run file asks for something that its campaign cannot go on with; or nothing is left
        to do in any.
    """
    from mlip_autopipec.cli.changes import flow_left
    from mlip_autopipec.cli.local import check_engine

    there = set(_names(folder))
    unknown = [campaign.name for campaign in campaigns if campaign.name not in there]
    if len(unknown) == len(campaigns) or (more and unknown):
        raise MLIPError(f"'{folder}' does not hold the campaigns {unknown}; begin them with `mlip-autopipec run`")
    stack.enter_context(held(folder))
    store, _ = names_in(folder)
    members = []
    ended: list[str] = []
    for campaign in campaigns:
        own = folder / campaign.name
        if campaign.name in unknown:  # it was interrupted before its first job had ended
            check_engine(campaign)
            members.append(Member(campaign, own, campaign.flow(campaign.name)))
            _make_folder(members[-1], folder, stack)
            continue
        stack.enter_context(held(own))
        flow = None
        try:
            flow = flow_left(campaign, campaign.name, store, more=more, new_oracle=new_oracle)
        except NothingLeftError as nothing:
            ended.append(str(nothing))
        members.append(Member(campaign, own, flow))
    if len(ended) == len(campaigns):
        raise InvalidInputError("\n".join(ended))
    return members


def _make_folder(member: Member, folder: Path, stack: ExitStack) -> None:
    """Make the folder of a new campaign, with the note that says where its store is, and hold it."""
    member.folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(held(member.folder))
    clear(member.folder)
    note = {"campaign": member.run_file.name, "store": os.path.relpath(folder / "store", member.folder)}
    (member.folder / MEMBER).write_text(json.dumps(note))


def run_together(
    members: Sequence[Member], folder: Path, started: float, workers: int, server: ForkServer | None
) -> dict[str, Any]:
    """
    Run campaigns side by side, and write the results of each.

    A campaign that fails does not stop the others; what it failed with stands in its row.

    Parameters
    ----------
    members
        The campaigns.
    folder
        The common one.
    started
        ``time.perf_counter()`` when the command began.
    workers, server
        As for :func:`~mlip_autopipec.managers.local.run_flows`.

    Returns
    -------
    dict
        What ``--json`` prints.
    """
    from mlip_autopipec.cli.base import open_store
    from mlip_autopipec.cli.local import log_to, quiet
    from mlip_autopipec.managers.local import Run, Watch, run_flows
    from mlip_autopipec.progress.together import view_together

    names = {member.folder: member.run_file.name for member in members}
    log_to(folder / LOG, names)
    console.print(
        f"[bold]{len(members)} campaigns[/]: {escape(', '.join(names.values()))}; "
        f"everything is in {escape(str(short(folder)))}"
    )
    store = open_store(folder / "store")
    for member in members:
        if member.flow is not None or not is_finished(member.folder):
            begin_results(member.folder)
    runs = [
        Run(member.flow, member.folder / "jobs", member.run_file.load_resources())
        for member in members
        if member.flow is not None
    ]

    def run(these: Sequence[Run]) -> None:
        watch = Watch()
        with view_together(console, folder, names, watch), quiet():
            run_flows(these, store, workers=workers, watch=watch, server=server)

    if runs:
        run(runs)
    return _results(members, store, folder, started, run)


def _results(
    members: Sequence[Member],
    store: JobStore,
    folder: Path,
    started: float,
    run: Callable[[Sequence[Run]], None],
) -> dict[str, Any]:
    """Write the results of each campaign, print a table of all, and return the same for scripts."""
    from mlip_autopipec.cli.local import VALIDATING, Ended, ended, finish
    from mlip_autopipec.cli.status import Row, overview
    from mlip_autopipec.database.campaigns import Campaigns

    wrote: list[Ended | Exception] = []
    for member in members:
        try:
            wrote.append(ended(member.run_file, member.flow, member.folder, store))
        except Exception as error:  # whatever it was, the results of the others are written
            wrote.append(error)
    if asked := [one.oracle_md() for one in wrote if isinstance(one, Ended) and one.asked]:
        console.print(VALIDATING)
        run(asked)
    found, rows = [], []
    for member, outcome in zip(members, wrote, strict=True):
        name = member.run_file.name
        try:
            if isinstance(outcome, Exception):
                raise outcome
            one = finish(outcome, store, started)[0]
            one["exit_code"] = int(exit_code(one["status"]))
            rows.append(Row(Campaigns(store).status(name), short(member.folder), False))
        except Exception as error:  # as above
            why = in_words(error)
            console.print(f"[red]{escape(name)}:[/] {escape(why)}")
            one = {"campaign_id": name, "status": "ERROR", "error": why, "exit_code": int(ExitCode.FAILED)}
            one["folder"] = str(member.folder)
        found.append(one)
    if rows:
        console.print(overview(rows))
    codes = {one["exit_code"] for one in found}
    worst = next((code for code in _WORST if code in codes), ExitCode.CONVERGED)
    seconds = time.perf_counter() - started
    return {"campaigns": found, "folder": str(folder), "seconds": seconds, "exit_code": int(worst)}


def interrupted(paths: Sequence[Path], folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return how to continue after Ctrl-C."""
    go_on = typed("resume", *paths, "--folder", folder)
    why = "interrupted; all labels are kept. Continue with"
    if not set(_names(folder)) & set(names):
        go_on, why = typed("run", *paths, "--folder", folder, "--overwrite"), "interrupted; start again with"
    console.print(f"[yellow]{why}[/] {escape(go_on)}")
    code = int(ExitCode.INTERRUPTED)
    return {"status": "INTERRUPTED", "why": why, "exit_code": code, "folder": str(folder), "go_on": go_on}


def _names(folder: Path) -> list[str]:
    """Return the names of the campaigns in a common folder."""
    if not (folder / "store" / "documents.sqlite").is_file():
        return []
    store, names = names_in(folder)
    store.close()
    return names
