"""How a process of LAMMPS ended, by its exit code and its messages; for both engines."""

from __future__ import annotations

from mlip_autopipec.errors import ExplorationError, RestartFileError
from mlip_autopipec.lammps import colvars

#: LAMMPS' messages when atoms or the cell fly apart or collapse: an explosion (a halt), not a crash.
EXPLODED = (
    "Lost atoms",
    "Non-numeric",
    "out of range - cannot compute",
    "Bond atoms missing",
    "Neighbor list overflow",
    "Too many neighbor bins",
    "Too many atom sorting bins",
    "Box bounds are invalid or missing",
    "Domain too large for neighbor bins",
    "box size << cutoff",
    "have moved too far apart",
    "tilted box too far",
)
#: LAMMPS' message when its ``timer timeout`` ended the run.
TIME_OVER = "Wall time limit reached"
_KILLERS = {
    9: "by the batch queue, or out of memory",
    11: "a crash inside of it",
    15: "by the batch queue",
    25: "a file grew beyond what the file system or ulimit -f allows",
}
RETRY = "nothing is lost, run it again"


def is_exploded(text: str) -> bool:
    """Return whether LAMMPS reports that atoms flew apart or collapsed."""
    return any(words in text for words in EXPLODED)


def too_early(text: str, *, begun: bool) -> str:
    """
    Say what to do where a barostat asked for a virial before there were forces; empty otherwise.

    LAMMPS sets fixes up in the order of their lines and leaves the virial of a fix undefined until then: it is whatever
    the memory held, now and then not a number.

    Parameters
    ----------
    text
        LAMMPS' message.
    begun
        Whether forces have been computed.
    """
    if begun or "Non-numeric pressure" not in text:
        return ""
    return "\nIn a template the line 'fix ace all external ...' has to stand before the fix of a barostat."


def crash(what: str, log: str, of_lammps: str = "") -> ExplorationError:
    """
    Return the error of a process that ended without its result: what happened, what to do, the end of the log.

    Parameters
    ----------
    what
        How it ended, and where.
    log
        What the process wrote.
    of_lammps
        The log of LAMMPS, where that is another one.
    """
    if colvars.FAILED in log:
        return colvars.explained(of_lammps or log)
    if "read_restart.cpp" in log:
        return RestartFileError(
            f"{what}: it cannot read its restart file; LAMMPS reads files of its own and of older versions:\n"
            f"{log[-2000:].strip()}"
        )
    return ExplorationError(f"{what}; {RETRY}:\n{log[-2000:].strip()}")


def how_it_ended(exit_code: int) -> str:
    """Say how a process ended; one that was killed names the usual culprits."""
    signal = -exit_code if exit_code < 0 else exit_code - 128  # a shell or launcher in between adds 128
    if signal in _KILLERS:
        return f"ended with code {exit_code}, killed by signal {signal} ({_KILLERS[signal]})"
    return f"ended with code {exit_code}"
