"""Text of xyz files: how many frames it holds, where it is damaged, and entries that ASE's reader does not know."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ase import Atoms

#: Entries as the reader knows them, by their name in lower case; in another case they are passed over.
_KNOWN = {"lattice": "Lattice", "cell": "Lattice", "properties": "Properties", "pbc": "pbc"}


def frames_of(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line (from 1) where each frame begins, and its lines; the last one may be no frame."""
    lines = text.split("\n")
    at = 0
    while at < len(lines) and lines[at].strip():
        number = lines[at].strip()
        end = at + (int(number) + 2 if number.isdecimal() else 1)
        yield at + 1, lines[at:end]
        if not number.isdecimal():
            return
        at = end


def where_damaged(text: str) -> str:
    """Say in which frame of an extended XYZ file, and about which line, its text is no structure; empty if nowhere."""
    began = 1
    for i, (line, frame) in enumerate(frames_of(text)):
        if not frame[0].strip().isdecimal():
            before = (
                f"frame {i - 1}, which begins at line {began}, has more lines than its number of atoms, or "
                if i
                else ""
            )
            return f" near line {line} ({before}the number of atoms of frame {i} is '{frame[0].strip()[:40]}')"
        began = line
        try:
            ase.io.read(io.StringIO("\n".join(frame) + "\n"), format="extxyz")
        except Exception:  # readers raise what they like
            return f" in frame {i}, lines {line} to {line + len(frame) - 1}"
    return ""


def refuse_unread(atoms: Atoms, what: str) -> None:
    """
    Refuse a frame with a cell, columns or periodicity by a name that the reader does not know.

    Parameters
    ----------
    atoms
        As it was read from extended XYZ.
    what
        How the message names it.

    Raises
    ------
    InvalidInputError
        Names the entry, and how it is written.
    """
    for name, value in atoms.info.items():
        known = _KNOWN.get(str(name).lower())
        if known is None or (known == "Lattice" and atoms.cell.rank == 3) or not _is_meant(known, value):
            continue
        how = 'Lattice="ax ay az bx by bz cx cy cz"' if known == "Lattice" else f"{known}="
        raise InvalidInputError(f"{what}: its entry {name}= is not read; write it as {how}, or take it out")


def _is_meant(known: str, value: Any) -> bool:
    """Return whether an entry is what its name says: a lattice may be called fcc."""
    if known == "Properties":
        return isinstance(value, str) and ":" in value
    numbers = np.asarray(value)
    return numbers.dtype.kind in "biuf" and numbers.size in ((1, 3) if known == "pbc" else (3, 6, 9))
