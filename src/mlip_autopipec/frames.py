"""Many structures as one string: exact, compact, and safe to read from anywhere."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any

from ase import Atoms
from ase.io.jsonio import decode, encode

from mlip_autopipec.errors import MLIPError

if TYPE_CHECKING:
    from collections.abc import Sequence


def pack_frames(frames: Sequence[Atoms]) -> str:
    """
    Pack structures with all their arrays (velocities, gamma ...) and info, but no calculator.

    Numbers are kept to the last bit, which a restart of MD relies on; nothing is pickled.
    """
    return pack([{**atoms.todict(), "info": atoms.info} for atoms in frames])


def unpack_frames(packed: str) -> list[Atoms]:
    """Undo :func:`pack_frames`."""
    return [Atoms.fromdict(d) for d in unpack(packed)]


def pack(value: Any) -> str:
    """Pack lists, dictionaries, numbers and arrays as one string."""
    return base64.b64encode(zlib.compress(encode(value).encode())).decode()


def unpack(packed: str) -> Any:
    """
    Undo :func:`pack`.

    Raises
    ------
    MLIPError
        It is not what was packed: a bit has changed, or a part is missing.
    """
    try:
        return decode(zlib.decompress(base64.b64decode(packed, validate=True)).decode())
    except (ValueError, zlib.error, KeyError, TypeError) as error:
        raise MLIPError(
            f"packed structures are damaged ({type(error).__name__}: {str(error)[:200]}): what is stored is not what "
            "was written. Copy the store to a safe place, and put it back from a backup"
        ) from error
