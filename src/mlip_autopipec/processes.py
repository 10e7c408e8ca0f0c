"""Programs in processes of their own: started with a log, watched, and ended with all that they started; threads."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

#: Seconds between the polite and the final signal to a program that is to end.
LAST_WORDS_S = 10.0
#: Seconds between two calls of ``watch``.
POLL_S = 0.2
#: Decorates what a campaign goes on from: linear algebra in one thread. The order in which threads add up decides the
#: last bits, and MD makes other structures of them: a campaign would depend on the cores that its jobs were given.
in_one_thread = threadpool_limits.wrap(limits=1, user_api="blas")
#: New objects after which Python looks for garbage. Imports make a million that stay, of which a command would look
#: through all again and again by default (700), for a fifth of the time it takes to start.
_GC_AFTER = 50_000


def look_for_garbage_rarely() -> None:
    """Let this process look for garbage less often; for a whole program, not for one part of it."""
    gc.set_threshold(_GC_AFTER)


def run_process(
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    *,
    timeout: float | None = None,
    watch: Callable[[], bool] | None = None,
    own_group: bool = False,
) -> int:
    """
    Run a program in the folder of its log until it ends.

    Whatever ends the wait (a timeout, Ctrl-C, an error of ``watch``) ends the program, too.

    Parameters
    ----------
    arguments
        Command and arguments; may begin with a launcher.
    log
        File for what it prints, both streams.
    environment
        Of the process.
    timeout
        Seconds after which it is ended.
    watch
        Called every :data:`POLL_S`, and once at the end, until it returns True.
    own_group
        The program is the first of a process group, which is ended as a whole; for launchers that do not pass signals
        on. In the group of this process, it ends with it when that is ended by its group, as terminals and ``timeout``
        do.

    Returns
    -------
    int
        Exit code; negative for the signal that killed it.

    Raises
    ------
    TimeoutError
        If it takes too long.
    OSError
        If it cannot be started.
    """
    done, end = watch is None, None if timeout is None else time.monotonic() + timeout
    with log.open("wb") as out:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=environment,
            start_new_session=own_group,
        )
        try:
            while True:
                left = None if end is None else end - time.monotonic()
                try:
                    code = process.wait(left if done else POLL_S if left is None else min(left, POLL_S))
                    break
                except subprocess.TimeoutExpired as error:
                    if end is not None and time.monotonic() >= end:
                        raise TimeoutError(f"{arguments[0]} did not end within {timeout:g} s") from error
                    done = done or (watch is not None and watch())
            if watch is not None and not done:
                watch()
        except BaseException:
            _end(process, own_group)
            raise
    return code


def _end(process: subprocess.Popen[bytes], own_group: bool) -> None:
    """Ask a program to end, then make it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            if own_group:
                os.killpg(process.pid, sign)
            else:
                process.send_signal(sign)
        except ProcessLookupError:
            break
        try:
            process.wait(LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            continue
        if not own_group:
            break
    process.wait()
