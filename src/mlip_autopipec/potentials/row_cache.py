"""Rows of the design matrix, and projections, on disk: labels of earlier cycles are not evaluated again."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.potentials.derivatives import StructureRows
from mlip_autopipec.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from ase import Atoms
    from numpy.typing import NDArray
    from pyace import ACEBBasisSet

#: Changed when rows are computed otherwise.
_VERSION = b"3"
_SUFFIX = ".rows.npz"


def basis_text(basis: ACEBBasisSet) -> bytes:
    """Return what a basis is, its coefficients included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "basis.yaml"
        basis.save(str(path))
        return path.read_bytes()


def key_of(text: bytes, atoms: Atoms) -> str:
    """Return the fingerprint of the rows of a structure in a basis (its :func:`basis_text`)."""
    digest = hashlib.sha256(_VERSION + text)
    for part in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _of_projections(key: str) -> str:
    return f"{key}-projections"


@dataclass
class RowCache:
    """
    A folder with the rows of structures, bounded in size.

    What cannot be read, or is not what its name says, is as if it were not there. Entries that were not used for
    longest are deleted first, whenever a quarter of the limit was written: rows of thousands of labels would fill the
    disk before their fit has ended.

    Parameters
    ----------
    folder
        Made when something is written.
    limit_bytes
        Most bytes of all entries together.
    """

    folder: Path
    limit_bytes: int
    _written: int = field(default=0, init=False, repr=False)

    @classmethod
    def here(cls) -> RowCache | None:
        """Return that of this user on this machine; None where the settings turn it off."""
        settings = get_settings()
        if settings.ROWS_MB == 0:
            return None
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "mlip-autopipec" / "rows" if settings.ROWS_DIR is None else settings.ROWS_DIR
        return cls(folder, settings.ROWS_MB * 10**6)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def has(self, key: str) -> bool:
        """Tell whether there is something under a key; it may be damaged."""
        return self._path(key).is_file()

    def read(self, key: str, n_atoms: int, n_functions: int) -> StructureRows | None:
        """Return the rows stored under a key; None if they are not there, damaged, or of something else."""
        stored = self._read(key, StructureRows._fields)
        if stored is None:
            return None
        rows = StructureRows(**stored)
        rows = rows._replace(core_energy=float(rows.core_energy))
        shapes = [rows.energy.shape, rows.forces.shape, rows.virial.shape, rows.core_forces.shape]
        wanted = [(n_functions,), (n_atoms, 3, n_functions), (6, n_functions), (n_atoms, 3)]
        return rows if shapes == wanted and rows.forces.dtype == np.float64 else None

    def read_projections(
        self, key: str, shapes: Mapping[str, tuple[int, int]]
    ) -> dict[str, NDArray[np.float64]] | None:
        """Return projections by element, of the given shapes, stored under a key; None as for :meth:`read`."""
        stored = self._read(_of_projections(key), shapes)
        if stored is None or any(stored[element].shape != shape for element, shape in shapes.items()):
            return None
        return stored

    def write(self, key: str, rows: StructureRows) -> None:
        """Store rows; a disk that is full only costs the time to compute them again."""
        self._write(key, rows._asdict())

    def write_projections(self, key: str, projections: Mapping[str, NDArray[np.float64]]) -> None:
        """Store projections by element; as :meth:`write`."""
        self._write(_of_projections(key), projections)

    def _read(self, key: str, names: Iterable[str]) -> dict[str, Any] | None:
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as stored:  # a checksum of each array is compared
                if stored["key"].tobytes() != key.encode():
                    return None
                found = {name: stored[name] for name in names}
            os.utime(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return found

    def _write(self, key: str, arrays: Mapping[str, Any]) -> None:
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            number, part = tempfile.mkstemp(dir=self.folder, suffix=".part")
            try:
                with os.fdopen(number, "wb") as stream:
                    np.savez(stream, key=np.frombuffer(key.encode(), dtype=np.uint8), **arrays)
                self._written += Path(part).stat().st_size
                Path(part).replace(self._path(key))
            except BaseException:
                Path(part).unlink(missing_ok=True)
                raise
        if self._written > self.limit_bytes / 4:
            self.prune()

    def prune(self) -> None:
        """Delete the entries that were not used for longest, down to the limit."""
        self._written = 0
        with suppress(OSError):
            found = sorted(((s := p.stat()).st_mtime, s.st_size, p) for p in self.folder.glob(f"*{_SUFFIX}"))
            total = sum(size for _, size, _ in found)
            for _, size, path in found:
                if total <= self.limit_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size
