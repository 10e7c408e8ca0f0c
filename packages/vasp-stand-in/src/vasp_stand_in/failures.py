"""Failures on demand: which kind, and for which calls."""

from __future__ import annotations

import fcntl
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from vasp_stand_in.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path


class Failure(StrEnum):
    """Ways in which a run of VASP ends without a label."""

    UNCONVERGED = "unconverged"
    """NELM reached, EDIFF not; all files complete."""
    KILLED = "killed"
    """SIGKILL with half of the files written."""
    MISSING = "missing"
    """Nothing written, exit code 0."""
    EXIT_CODE = "exit-code"
    """Output stops before the electronic loop, exit code not 0."""
    CRASH_AT_END = "crash-at-end"
    """All files complete, exit code not 0."""
    TRUNCATED = "truncated"
    """vasprun.xml ends in the middle, exit code 0."""
    HANG = "hang"
    """Sleeps in the electronic loop."""
    MESSAGE = "message"
    """VASP's error message on standard output, files stop in the electronic loop."""
    NAN = "nan"
    """NaN energies in complete files."""


# VASP's words, as custodian's VaspErrorHandler looks for them
MESSAGES = {
    "brmix": "BRMIX: very serious problems\n the old and the new charge density differ",
    "zbrent": "ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF, or copy CONTCAR\n"
    "     to POSCAR and continue",
    "edddav": "Error EDDDAV: Call to ZHEGV failed. Returncode =  13 1  16",
    "zpotrf": "LAPACK: Routine ZPOTRF failed!           1",
    "subspacematrix": "WARNING: Sub-Space-Matrix is not hermitian in DAV            1",
    "too_few_bands": "TOO FEW BANDS",
}


@dataclass(frozen=True)
class FailurePlan:
    """
    What fails, and which calls; every condition that is given has to hold.

    Attributes
    ----------
    kind
        The failure; None for never.
    message
        For ``message``: a key of `MESSAGES` or any text.
    exit_code
        For ``exit-code``, ``crash-at-end`` and ``message``.
    seconds
        For ``hang``.
    calls
        ``first:N`` or ``every:K``, counted in `counter`.
    counter
        File that counts the calls of all processes that name it.
    larger_than
        Only structures with more atoms than this.
    fraction, seed
        Only this fraction of all POSCARs, chosen by a hash of POSCAR and seed: the same structure
        always meets the same fate, so that a retry does not help it.
    """

    kind: Failure | None = None
    message: str = "brmix"
    exit_code: int = 1
    seconds: float = 3600.0
    calls: str | None = None
    counter: Path | None = None
    larger_than: int | None = None
    fraction: float | None = None
    seed: int = 0

    def strikes(self, poscar: str) -> bool:
        """Tell whether this call fails; counts it."""
        number = count_call(self.counter) if self.counter else 0
        if self.kind is None:
            return False
        lines = poscar.splitlines()
        if self.larger_than is not None and sum(map(int, lines[6].split())) <= self.larger_than:
            return False
        if self.fraction is not None and hash_fraction("\n".join(lines[1:]), self.seed) >= self.fraction:
            return False
        return self.calls is None or self._call_is_chosen(number)

    def _call_is_chosen(self, number: int) -> bool:
        word, _, digits = (self.calls or "").partition(":")
        if word not in {"first", "every"} or not digits.isdigit() or int(digits) < 1:
            raise InvalidInputError(f"--calls {self.calls!r} is neither first:N nor every:K")
        if self.counter is None:
            raise InvalidInputError("--calls needs --counter, a file that counts the calls")
        return number <= int(digits) if word == "first" else number % int(digits) == 0


def count_call(path: Path) -> int:
    """Add one to the number in a file, whichever processes share it, and return it."""
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = int(file.read() or 0) + 1
        file.truncate(0)
        file.write(f"{number}\n")
    return number


def hash_fraction(text: str, seed: int) -> float:
    """Map a text and a seed onto [0, 1)."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
