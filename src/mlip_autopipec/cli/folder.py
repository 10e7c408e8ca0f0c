"""The folder of a campaign on this machine: which process runs in it, and when it may be deleted."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mlip_autopipec.cli.base import MEMBER, names_in, short, typed
from mlip_autopipec.errors import MLIPError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: File that the process which runs a campaign holds locked. The lock ends with the process, however that ends.
LOCK = ".lock"
#: The file of a store that holds its documents.
DOCUMENTS = "documents.sqlite"
_SQLITE = [f"{name}.sqlite{end}" for name in ("documents", "data") for end in ("", "-wal", "-shm")]
#: What the program makes in the folder of a campaign: files, and folders with what it makes in them (None: anything).
_CONTENTS: dict[str, list[str] | None] = {
    "store": _SQLITE,
    "jobs": None,
    "potential": [f"potential.{end}" for end in ("yaml", "yace", "asi")],
    "campaign.log": [],
    "result.json": [],
    "dataset.extxyz": [],
    "parity.png": [],
    "report.html": [],
    MEMBER: [],
}
MADE = frozenset(_CONTENTS)


#: File systems on which SQLite cannot rely on the locks of several processes.
_NETWORK = ("nfs", "cifs", "smb", "afs", "lustre", "gpfs", "beegfs", "glusterfs", "ceph", "fuse.sshfs", "9p")


#: Is there while the results of a campaign are not written.
UNFINISHED = ".unfinished"


def begin_results(folder: Path) -> None:
    """Note that results are to come."""
    (folder / UNFINISHED).touch()


def end_results(folder: Path) -> None:
    """Note that they are written."""
    (folder / UNFINISHED).unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Tell whether results and validation of the last run of a folder were written to their end."""
    return (folder / "result.json").is_file() and not (folder / UNFINISHED).exists()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """
    Keep other processes from running a campaign in this folder while the body does.

    Two of them would do everything twice and write into one store. On a file system without locks nothing is kept.

    Parameters
    ----------
    folder
        Of the campaign; it is there.

    Raises
    ------
    MLIPError
        Another process holds it; the message says which.
    """
    with (folder / LOCK).open("a+") as file:
        if not _locked(file.fileno(), fcntl.LOCK_EX):
            file.seek(0)
            raise MLIPError(
                f"'{short(folder)}' is run by {file.read().strip() or 'another process'} at present; "
                f"`{typed('status', short(folder))}` shows its progress"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def is_held(folder: Path) -> bool | None:
    """Tell whether a process runs the campaign of a folder; None where that cannot be known."""
    try:
        with (folder / LOCK).open() as file:
            return not _locked(file.fileno(), fcntl.LOCK_SH)
    except OSError:
        return None


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def campaign_of(folder: Path) -> str | None:
    """
    Return the name of the campaign of a folder; None where there is none.

    A folder is a campaign's only if its store opens and holds the document of a campaign, whatever its entries are
    called.

    Raises
    ------
    MLIPError
        There is a store that cannot be read: perhaps a damaged one, which is never deleted here.
    """
    store = folder / "store"
    if store.is_symlink() or not (store / DOCUMENTS).is_file():
        return None
    names = names_in(folder)[1]
    if len(names) > 1:
        raise MLIPError(
            f"folder '{short(folder)}' holds the campaigns {names}, which share its store; choose another folder with "
            "--folder, or give all their run files"
        )
    return names[0] if names else None


def check_free(folder: Path, overwrite: bool) -> None:
    """
    Refuse a folder in which a new campaign cannot begin.

    Parameters
    ----------
    folder
        Of the new campaign.
    overwrite
        Whether a campaign that is there may be deleted.

    Raises
    ------
    MLIPError
        It holds something else than a campaign, or a campaign that may not be deleted.
    """
    if folder.exists() and not folder.is_dir():
        raise MLIPError(f"'{folder}' is no folder; choose another with --folder")
    ours = sorted({path.name for path in folder.iterdir()} & MADE) if folder.is_dir() else []
    name = campaign_of(folder) if folder.is_dir() else None
    if name is None and ours:
        raise MLIPError(
            f"folder '{folder}' holds no campaign, but {', '.join(ours)}, which a campaign would write over; nothing "
            "in it is touched, choose another with --folder"
        )
    if name is not None and not overwrite:
        raise MLIPError(
            f"folder '{folder}' holds the campaign '{name}'; go on with it by `mlip-autopipec resume`, choose another "
            "folder with --folder, or delete the campaign with --overwrite"
        )


def clear(folder: Path) -> list[str]:
    """
    Delete the campaign of a folder, which :func:`check_free` has seen and this process holds.

    Only what the program makes is deleted, never what a link leads to.

    Returns
    -------
    list of str
        What else lies there; it stays.
    """
    for name, inside in _CONTENTS.items():
        path = folder / name
        if path.is_symlink() or not path.exists():
            continue
        if not path.is_dir():
            path.unlink()
        elif inside is None:
            shutil.rmtree(path)  # follows no links
        else:
            for one in inside:
                if not (path / one).is_symlink():
                    (path / one).unlink(missing_ok=True)
            with suppress(OSError):  # there is something else in it
                path.rmdir()
    return sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, UNFINISHED))


def network_file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """Return the kind of the network file system that a folder is on; None if it is on none, or nobody knows."""
    try:
        rows = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return None
    above = {str(folder.resolve()), *map(str, folder.resolve().parents)}
    mounted = [(row[1].replace("\\040", " "), row[2]) for row in rows if len(row) > 2]
    kinds = {len(point): kind for point, kind in mounted if point in above}
    kind = kinds[max(kinds)] if kinds else ""
    return kind if kind.startswith(_NETWORK) else None
