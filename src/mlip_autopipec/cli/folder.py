"""The folder of a campaign on this machine: which process runs in it, and when it may be deleted."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlip_autopipec.cli.base import short
from mlip_autopipec.errors import MLIPError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: File that the process which runs a campaign holds locked. The lock ends with the process, however that ends.
LOCK = ".lock"
#: What shows that a folder is that of a campaign.
_OF_CAMPAIGN = frozenset(("store", "campaign.log"))


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
                f"`mlip-autopipec status {short(folder)}` shows its progress"
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
    there = {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()
    if there and not there & _OF_CAMPAIGN:
        raise MLIPError(
            f"folder '{folder}' is not empty and holds no campaign; nothing in it is touched, choose another with "
            "--folder"
        )
    if there and not overwrite:
        raise MLIPError(
            f"folder '{folder}' is not empty; go on with its campaign by `mlip-autopipec resume`, choose another "
            "with --folder, or delete it with --overwrite"
        )


def clear(folder: Path) -> None:
    """Delete what is in the folder of a campaign, which :func:`check_free` has seen and this process holds."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
