"""The exit codes of all commands, in one place."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlip_autopipec.schemas.loop import LoopStatus


class ExitCode(IntEnum):
    """Exit codes of the commands, for scripts; :data:`MEANING` describes them."""

    CONVERGED = 0
    """Converged; of other commands: done."""
    FAILED = 1
    """Invalid input, a failed step, or too many failed labels."""
    USAGE = 2
    """An unknown option, a missing argument."""
    NOT_CONVERGED = 3
    """The budget was spent before it converged; the potential is kept."""
    STALLED = 4
    """The same halt again and again; the potential is kept."""
    UNFINISHED = 5
    """Paused, or still running; resume continues."""
    INTERRUPTED = 130
    """By Ctrl-C, SIGTERM or a closed terminal; resume continues."""


#: What each code means. Commands that run no campaign end with 0, 1 or 2.
MEANING: dict[ExitCode, str] = {
    ExitCode.CONVERGED: "converged; for other commands: done",
    ExitCode.FAILED: "failed: invalid input, a failed step, or too many failed labels",
    ExitCode.USAGE: "bad usage: an unknown option, a missing argument",
    ExitCode.NOT_CONVERGED: "budget spent (cycles, labels or hours) before it converged; the potential is kept",
    ExitCode.STALLED: "stalled: repeated halts without progress; the potential is kept",
    ExitCode.UNFINISHED: "not finished: paused, or (status) still running; resume continues",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C, SIGTERM or a closed terminal; resume continues",
}

CONVERGED, FAILED, NOT_CONVERGED = ExitCode.CONVERGED, ExitCode.FAILED, ExitCode.NOT_CONVERGED


def exit_code(status: LoopStatus | str) -> ExitCode:
    """Return the exit code of a campaign with this status."""
    from mlip_autopipec.schemas.loop import LoopStatus

    return {
        LoopStatus.CONVERGED: ExitCode.CONVERGED,
        LoopStatus.MAX_ITER_REACHED: ExitCode.NOT_CONVERGED,
        LoopStatus.BUDGET_SPENT: ExitCode.NOT_CONVERGED,
        LoopStatus.STALLED: ExitCode.STALLED,
        LoopStatus.ORACLE_FAILING: ExitCode.FAILED,
        LoopStatus.FAILED: ExitCode.FAILED,
        LoopStatus.LEARNING: ExitCode.UNFINISHED,
        LoopStatus.PAUSED: ExitCode.UNFINISHED,
    }[LoopStatus(status)]
