"""What an MD run keeps of its way: a trace of numbers and a bounded set of frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

#: Most points of a trace that are kept; beyond it every second one is dropped.
MAX_TRACE = 2000
COLUMNS = ("step", "temperature_K", "potential_energy_eV", "pressure_GPa", "volume_A3", "gamma_max")


@dataclass
class Trace:
    """Thermodynamics and gamma along a run, thinned so that it stays small however long the run."""

    columns: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    _stride: int = 1
    _seen: int = 0

    @classmethod
    def joined(
        cls, earlier: Mapping[str, Sequence[float]], later: Mapping[str, Sequence[float]]
    ) -> dict[str, list[float]]:
        """Columns of two runs one after the other; the first line of the later one repeats the last of the earlier."""
        if not earlier or not later:  # an engine of one's own need not keep any
            return {name: list(column) for name, column in (earlier or later).items()}
        known = set(earlier["step"])
        new = [i for i, step in enumerate(later["step"]) if step not in known]
        columns = {name: [*earlier[name], *(later[name][i] for i in new)] for name in COLUMNS}
        while len(columns["step"]) > MAX_TRACE:
            columns = {name: column[::2] for name, column in columns.items()}
        return columns

    def add(self, *values: float) -> None:
        """Append one point, in the order of :data:`COLUMNS`; a second one of a step takes the place of the first."""
        if self.columns["step"] and self.columns["step"][-1] == values[0]:
            for name, value in zip(COLUMNS, values, strict=True):
                self.columns[name][-1] = value
            return
        if self._seen % self._stride == 0:
            for name, value in zip(COLUMNS, values, strict=True):
                self.columns[name].append(value)
            if len(self.columns["step"]) > MAX_TRACE:
                self.columns = {name: column[::2] for name, column in self.columns.items()}
                self._stride *= 2
        self._seen += 1


@dataclass
class FrameRecord:
    """Frames between the two gamma thresholds, at most ``limit``, spread over the whole run."""

    limit: int
    frames: list[Atoms] = field(default_factory=list)
    _stride: int = 1
    _seen: int = 0

    @classmethod
    def joined(cls, earlier: Sequence[Atoms], later: Sequence[Atoms], limit: int) -> list[Atoms]:
        """Frames of two runs one after the other, at most ``limit``."""
        known = {atoms.info["step"] for atoms in earlier}
        frames = [*earlier, *(atoms for atoms in later if atoms.info["step"] not in known)]
        while len(frames) > max(limit, 0):
            frames = frames[::2] if limit > 0 else []
        return frames

    def add(self, atoms: Atoms, step: int, gamma_max: float | None = None) -> None:
        """Offer one frame."""
        if self.limit > 0 and self._seen % self._stride == 0:
            atoms.info.update({"step": step} if gamma_max is None else {"step": step, "gamma_max": gamma_max})
            self.frames.append(atoms)
            if len(self.frames) > self.limit:
                self.frames = self.frames[::2]
                self._stride *= 2
        self._seen += 1
