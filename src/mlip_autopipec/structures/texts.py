"""Text of files, packed or not, in the encodings that editors and spreadsheets write."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

#: How packed files are opened, by their last suffix.
OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
#: What a file begins with that says its encoding, and the name of that.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text_of(path: Path, length: int = -1) -> str:
    """
    Return the text of a file.

    Parameters
    ----------
    path
        Packed by gzip, bzip2 or xz or not.
    length
        So many bytes from its beginning; all of them by default.
    """
    opener: Any = OPENERS.get(path.suffix, open)
    with opener(path, "rb") as stream:
        found = bytes(stream.read(length))
    return found.decode(_encoding(found) or "utf-8", errors="replace")


def readable(path: Path, *, binary: bool = False) -> str | io.StringIO | io.BytesIO:
    """
    Return what a reader can take: the name of a file, or its text where that begins with a byte-order mark.

    Parameters
    ----------
    path
        Packed by gzip, bzip2 or xz or not.
    binary
        Whether the reader takes bytes.
    """
    opener: Any = OPENERS.get(path.suffix, open)
    with opener(path, "rb") as stream:
        marked = _encoding(bytes(stream.read(4)))
    if marked is None:
        return str(path)
    text = text_of(path)
    return io.BytesIO(text.encode()) if binary else io.StringIO(text)


def _encoding(beginning: bytes) -> str | None:
    return next((name for mark, name in _MARKS if beginning.startswith(mark)), None)
