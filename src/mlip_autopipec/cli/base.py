"""What all commands share: the application, the screen, errors, the store of a folder."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sqlite3
import sys
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
from pymongo.errors import PyMongoError
from rich.console import Console
from rich.markup import escape

from mlip_autopipec.cli.exit_codes import MEANING, ExitCode
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.processes import look_for_garbage_rarely

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobflow import JobStore

    from mlip_autopipec.database.campaigns import Campaigns

#: The option ``--json``.
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, and everything else to stderr.")]

_CODES = "\n".join(f"- {code.value}: {meaning}" for code, meaning in MEANING.items())


#: Order of the commands in --help: in the order of use.
ORDER = "init doctor run resume extend status report export submit mend schema".split()


def short(path: Path) -> Path:
    """Return a path as one would type it here: relative where it lies below the present folder."""
    here = path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def typed(*words: object) -> str:
    """Return a command of this program as one would type it: what a shell would take apart is quoted."""
    return shlex.join(["mlip-autopipec", *map(str, words)])


class InOrder(typer.core.TyperGroup):
    """Lists the commands in :data:`ORDER`, others behind them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    epilog=f"**Exit codes**\n\n{_CODES}",
)
console = Console(highlight=False, soft_wrap=True)


@app.callback()
def main() -> None:
    """
    Learn ACE interatomic potentials on the fly.

    A first potential, from an empty folder:

        mlip-autopipec doctor
        mlip-autopipec init --element Cu --crystal fcc
        mlip-autopipec run Cu.yaml --dry-run
        mlip-autopipec run Cu.yaml

    Every command explains itself: mlip-autopipec COMMAND --help.
    """
    look_for_garbage_rarely()


def _unread_configuration() -> MLIPError | None:
    """Return what is wrong with jobflow's configuration if whatever imports jobflow fails at it; None if nothing is."""
    file = Path(os.environ.get("JOBFLOW_CONFIG_FILE") or "~/.jobflow.yaml").expanduser()
    if "jobflow" in sys.modules or not file.is_file():
        return None
    try:
        import jobflow  # noqa: F401
    except ImportError:
        return None
    except Exception as error:  # of its readers of YAML and of stores
        what = " ".join(str(error).split())[:300]
        return MLIPError(
            f"the configuration of jobflow, '{file}', cannot be used ({type(error).__name__}: {what}); mend it, or let "
            "JOBFLOW_CONFIG_FILE name another one (docs/database.md)"
        )
    return None


def put(result: dict[str, Any]) -> None:
    """Print the JSON document of a command with ``--json``."""
    say(json.dumps(result, indent=2, default=str))


def say(text: str) -> None:
    """Print to standard output; where that is a full disk, say so on standard error and leave with FAILED."""
    try:
        typer.echo(text)
    except OSError as error:
        with suppress(OSError):
            typer.echo(f"error: standard output cannot be written: {in_words(error)}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is buffered is not tried once more
        raise typer.Exit(ExitCode.FAILED) from error


def in_words(error: BaseException) -> str:
    """Tell in a sentence what a command failed at: what it raised on purpose, the disk, or the memory."""
    if isinstance(error, MLIPError):
        return str(error)
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        return f"the memory of this machine does not hold what was asked for ({what}); use smaller structures or files"
    if isinstance(error, RecursionError):
        return f"a file or document is nested too deeply to be read ({what}); is it the right file?"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "full" in str(error):
        place = getattr(error, "filename", None)
        where = f" while '{place}' was written" if place else ""
        return f"no space is left on the disk{where} ({error}); make room. What was stored is kept, `resume` continues"
    if isinstance(error, PyMongoError):
        # what it says may hold a whole topology; the server is named in its first words
        return (
            f"the database does not answer, or refuses ({type(error).__name__}: {str(error)[:200]}); what it has is "
            "kept. Look at its server, name and password, and try again"
        )
    if isinstance(error, sqlite3.Error):
        return (
            f"the store cannot be read or written ({what}); nothing in it is deleted. Look at disk and permissions, "
            "and copy it to a safe place before anything else"
        )
    name = getattr(error, "filename", None)
    return what if name is None else f"{getattr(error, 'strerror', None) or what}: '{name}'"


@contextmanager
def told(as_json: bool = False) -> Iterator[None]:
    """
    Run the body of a command: tell errors that were raised on purpose in their own words, and leave with FAILED.

    Parameters
    ----------
    as_json
        Keep standard output for one JSON document: what is printed meanwhile goes to standard error, and an error
        becomes ``{"status": "ERROR", "error": ..., "exit_code": 1}``.
    """
    console.stderr = as_json
    try:
        with _stdout_to_stderr() if as_json else _as_it_is():
            yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        known = isinstance(error, (MLIPError, OSError, sqlite3.Error, PyMongoError, MemoryError, RecursionError))
        told_of = error if known else _unread_configuration()
        if told_of is None:
            raise
        message = in_words(told_of)
        with suppress(OSError):
            console.print(f"[red]error:[/] {escape(message)}", markup=True)
            if as_json:
                put({"status": "ERROR", "error": message, "exit_code": int(ExitCode.FAILED)})
        raise typer.Exit(ExitCode.FAILED) from error


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send to standard error what Python and libraries in C (oracles, LAMMPS) write to standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def open_store(folder: Path) -> JobStore:
    """Open (or make) the on-disk JobStore of a run."""
    from mlip_autopipec.database import disk

    return disk.open_store(folder)


def folder_of(path: Path | None) -> Path | None:
    """Return the folder that a run file's campaign is in by default; a folder as it is."""
    if path is None or path.suffix not in (".yaml", ".yml") or path.is_dir():
        return path
    from mlip_autopipec.runfile.errors import RunFileText

    with suppress(MLIPError):
        if name := RunFileText(path).content.get("name"):
            return Path("runs") / str(name)
    return path


#: In the folder of a campaign that shares the store of others: where that store is, and which campaign this is.
MEMBER = "campaign.json"


def member_of(folder: Path) -> tuple[Path, str] | None:
    """
    Return the folder of the store that a campaign shares with others, and its name; None if it shares none.

    Raises
    ------
    MLIPError
        The note in the folder cannot be read.
    """
    note = folder / MEMBER
    if not note.is_file():
        return None
    try:
        content = json.loads(note.read_text())
        return (folder / content["store"]).resolve(), str(content["campaign"])
    except (ValueError, KeyError, TypeError) as error:
        raise MLIPError(
            f"'{note}' does not say where the store of its campaign is ({type(error).__name__}: {error}); it is "
            'written as {"campaign": NAME, "store": FOLDER}'
        ) from error


#: The argument of commands about one run: its folder.
RunFolder = Annotated[
    Path | None,
    typer.Argument(help="Folder of a run, for instance runs/copper, or its run file.", callback=folder_of),
]
#: The option ``--campaign`` of commands about one campaign.
CampaignName = Annotated[
    str | None, typer.Option(help="Instead of a folder: a campaign in the JobStore of JOBFLOW_CONFIG_FILE.")
]


def campaign_in(folder: Path) -> tuple[JobStore, str]:
    """Open the store of a run, its own or one it shares, and return it with the name of its campaign."""
    if (shared := member_of(folder)) is not None:
        store, names = names_in(shared[0].parent)
        if shared[1] not in names:
            raise MLIPError(f"the store '{short(shared[0])}' holds no campaign '{shared[1]}' (yet)")
        return store, shared[1]
    if not (folder / "store" / "documents.sqlite").is_file() and not (folder / "store" / "data.sqlite").is_file():
        raise MLIPError(f"'{folder}' holds no campaign; begin one with `mlip-autopipec run`, or name its --folder")
    store, names = names_in(folder)
    if len(names) != 1:
        raise MLIPError(f"'{folder}' holds the campaigns {names}; one is expected; give the folder of one of them")
    return store, names[0]


def names_in(folder: Path) -> tuple[JobStore, list[str]]:
    """
    Open the store of a run and return it with the names of all campaigns in it.

    Raises
    ------
    MLIPError
        It cannot be read.
    """
    from mlip_autopipec.database.disk import SQLiteStore

    try:
        store = open_store(folder / "store")
        if isinstance(store.docs_store, SQLiteStore):
            store.docs_store.verify()
        return store, sorted(map(str, store.distinct("output.campaign_id", {"output.kind": "campaign"})))
    except MLIPError:
        raise
    except Exception as error:
        raise MLIPError(
            f"the store in '{short(folder)}' cannot be read ({type(error).__name__}: {error}); nothing in it is "
            "touched. Copy it to a safe place before anything else; --folder names another folder"
        ) from error


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
    campaigns = Campaigns(configured_store())
    campaigns.status(campaign)  # an unknown one is told with those there are
    return campaigns, campaign


def configured_store() -> JobStore:
    """
    Return the JobStore that jobflow is configured with, connected.

    Raises
    ------
    MLIPError
        There is none but memory, it has no store for bulk data, or its server does not answer.
    """
    from jobflow.settings import JobflowSettings

    from mlip_autopipec.jobs.stores import is_kept, lacks

    settings = JobflowSettings()
    store = settings.JOB_STORE
    if not is_kept(store.docs_store):
        raise MLIPError(
            "jobflow is configured with a store in memory, in which nothing would be kept; name a JobStore in "
            f"{settings.CONFIG_FILE} or in the file of JOBFLOW_CONFIG_FILE (docs/database.md)"
        )
    if lack := lacks(store):
        raise MLIPError(f"the JobStore of {settings.CONFIG_FILE} cannot hold a campaign: {lack} (docs/database.md)")
    try:
        store.connect()
        store.query_one({}, ["uuid"])
    except Exception as error:
        raise MLIPError(
            f"the JobStore of {settings.CONFIG_FILE} does not answer: {type(error).__name__}: {str(error)[:300]}"
        ) from error
    return store
