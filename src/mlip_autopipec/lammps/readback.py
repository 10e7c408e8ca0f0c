"""Reads what the ``lmp`` command wrote and judges how the run ended."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import units
from ase.io.lammpsrun import iread_lammps_dump_text

from mlip_autopipec.errors import ExplorationError
from mlip_autopipec.lammps import input_script
from mlip_autopipec.lammps.failures import TIME_OVER, crash, how_it_ended, is_exploded
from mlip_autopipec.lammps.records import FrameRecord, Trace
from mlip_autopipec.lammps.structures import ANGSTROM_PER_PS, Frame
from mlip_autopipec.lammps.swaps import SwapCount
from mlip_autopipec.lammps.types import ExplorationResult, HaltReason, HaltStructure, WalkStatus
from mlip_autopipec.potentials.potential import reference_energy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec.lammps.types import MDSettings

#: LAMMPS' own, rounded, bar per eV/A^3 in metal units; undoing just this one keeps all digits.
LAMMPS_BAR = 1.6021765e6


@dataclass(frozen=True)
class Look:
    """
    One line of the trace file.

    Parameters
    ----------
    step
        MD step.
    temperature_K, energy_eV, pressure_GPa, volume_A3
        Instantaneous; the energy without reference energies.
    gamma_max
        Largest extrapolation grade; infinite where something was not finite.
    stop
        Sum of the :data:`.input_script.STOP` that apply.
    """

    step: int
    temperature_K: float
    energy_eV: float
    pressure_GPa: float
    volume_A3: float
    gamma_max: float
    stop: int

    @property
    def reason(self) -> HaltReason | None:
        """Why to halt here, if so."""
        for name, weight in sorted(input_script.STOP.items(), key=lambda item: -item[1]):
            if self.stop >= weight:
                return HaltReason(name)
        return None


def read_looks(path: Path) -> Iterator[Look]:
    """
    Read the trace file; a last line cut off by a crash is left out.

    It is a file of ours, in place of the thermo output that pymatgen reads, because that one is rounded, begins anew
    with each ``run``, and ends in the middle of a table when LAMMPS is killed, which pymatgen does not take.
    """
    if not path.is_file():
        return
    last = -1
    with path.open() as stream:
        for line in stream:
            words = line.split()
            if (
                len(words) != len(input_script.TRACE_COLUMNS)
                or not line.endswith("\n")
                or words[0] == input_script.TRACE_COLUMNS[0]
            ):
                continue
            step = int(words[0])
            if step > last:  # the first step may be written by both runs of the input script
                temperature, energy, pressure, volume, gamma, stop = map(float, words[1:])
                pressure /= LAMMPS_BAR * units.GPa
                gamma = gamma if math.isfinite(energy + pressure + gamma) else math.inf
                yield Look(step, temperature, energy, pressure, volume, gamma, round(stop))
            last = step


def read_dump(path: Path, frame: Frame, n_atoms: int | None = None) -> Iterator[tuple[int, Atoms]]:
    """
    Read the steps and structures of a text dump, in the structure's own orientation.

    A last frame that is cut off, as LAMMPS leaves it when it is killed, is left out.

    Parameters
    ----------
    path
        Of the dump. ``f_grade[1]`` becomes the array ``gamma``, forces (eV/A) the array ``forces``.
    frame
        From :meth:`.script.Frame.of`.
    n_atoms
        Frames with another number of atoms (some are lost) are left out.

    Raises
    ------
    ExplorationError
        If a frame cannot be read that is not cut off.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return
    last, n_read = -1, 0
    with path.open() as stream:
        # ase.io.iread would read all frames at once, and none if the last one is cut off
        raws = iread_lammps_dump_text(stream, index=":", specorder=list(frame.elements), units="metal")
        while True:
            try:
                raw = next(raws, None)
            except Exception as error:
                if _is_cut_off(path, n_read):  # the frame LAMMPS was writing when it was killed
                    return
                raise ExplorationError(
                    f"frame {n_read + 1} of {path} cannot be read: {type(error).__name__}: {error}; it is no dump of "
                    "LAMMPS as this package asks for it, or it is damaged"
                ) from error
            if raw is None:
                return
            n_read += 1
            if _is_cut_off(path, n_read - 1):  # perhaps in the middle of its last number
                return
            step = int(raw.info["timestep"])
            if (n_atoms is None or len(raw) == n_atoms) and step > last:
                yield step, _to_atoms(raw, frame)
            last = step


def _is_cut_off(path: Path, n_read: int) -> bool:
    """Return whether the frame after so many is the last of a dump and has fewer lines than its header says."""
    text = path.read_text(errors="replace")
    if text.endswith("\n") and text.count("ITEM: TIMESTEP\n") > n_read + 1:
        return False
    frames = text.split("ITEM: TIMESTEP\n")[1:]
    if len(frames) != n_read + 1:
        return len(frames) == n_read  # not even the heading of a further frame
    lines = frames[-1].splitlines(keepends=True)
    if len(lines) < 8 or not lines[-1].endswith("\n"):
        return True
    count = lines[2].strip()
    return count.isdigit() and len(lines) < 8 + int(count)


def _to_atoms(raw: Atoms, frame: Frame) -> Atoms:
    """Rotate and shift what ASE read, which is in LAMMPS' frame."""
    atoms = frame.to_atoms(
        raw.arrays["type"],
        raw.positions,
        raw.get_velocities() / ANGSTROM_PER_PS,
        raw.cell.array,
        raw.get_celldisp().ravel(),
    )
    if raw.calc is not None:
        atoms.arrays["forces"] = raw.get_forces() @ frame.rotation.T
    if "f_grade[1]" in raw.arrays:
        atoms.arrays["gamma"] = raw.arrays["f_grade[1]"]
    return atoms


def read_result(
    folder: Path,
    frame: Frame,
    reference_energies: Mapping[str, float],
    *,
    exit_code: int,
    settings: MDSettings,
    start_step: int = 0,
    grade: Callable[[int, Atoms], Look] | None = None,
) -> ExplorationResult:
    """
    Judge a finished LAMMPS process by its files.

    Parameters
    ----------
    folder
        Where it ran.
    frame
        Orientation and elements.
    reference_energies
        In eV; added to the energies of the trace.
    exit_code
        Of the process.
    settings
        Where the run ends, how often it looks, how many frames between the thresholds are kept.
    start_step
        Where it began.
    grade
        Judges the last frame where LAMMPS did not, since its step is no multiple of ``gamma_every``.

    Raises
    ------
    ExplorationError
        If LAMMPS crashed, its first frame was already invalid, or it stopped early without saying why
        (a full disk, for one).
    """
    kept = _kept_looks(folder, frame)
    n_atoms = len(next(iter(kept.values()))) if kept else None
    log = "".join(
        p.read_text(errors="replace")
        for name in (input_script.LOG, input_script.SCREEN)
        if (p := folder / name).is_file()
    )
    end = re.search(rf"^{input_script.END} step (\d+)$", log, re.MULTILINE)
    finals = [atoms for _, atoms in read_dump(folder / input_script.FINAL, frame)]
    finished = exit_code == 0 and end is not None and len(finals) == 1
    # which elements there are never changes, so one frame tells the shift
    shift = reference_energy((finals or list(kept.values()))[-1], reference_energies) if finals or kept else 0.0
    trace, last, valid_steps = Trace(), None, set()
    for look in read_looks(folder / input_script.TRACE):
        trace.add(
            look.step, look.temperature_K, look.energy_eV + shift, look.pressure_GPa, look.volume_A3, look.gamma_max
        )
        last = look
        if look.reason is None and look.step in kept:
            valid_steps.add(look.step)
    valid = kept[max(valid_steps)] if valid_steps else None

    status = WalkStatus.CONVERGED
    if finished and end is not None:
        final, step = finals[0], int(end[1])
        status, reason = _judge_end(step, last, settings, start_step, log, folder)
        if status is WalkStatus.CONVERGED and grade is not None and step % settings.gamma_every:
            last = grade(step, final)
            kept[step], reason = final, last.reason
            trace.add(
                step, last.temperature_K, last.energy_eV + shift, last.pressure_GPa, last.volume_A3, last.gamma_max
            )
    elif last is not None and valid is not None and is_exploded(log):
        final, step, reason = valid, last.step, HaltReason.LOST_ATOMS
    else:
        unfinished = " without its last line (is the disk full?)" if exit_code == 0 else ""
        raise crash(f"LAMMPS {how_it_ended(exit_code)}{unfinished} in {folder}", log)

    halt = None
    if reason is not None and last is not None:
        status = WalkStatus.HALTED
        if reason is HaltReason.GAMMA and last.gamma_max > settings.explosive_gamma and valid is not None:
            reason = HaltReason.EXPLOSION
        present = kept.get(last.step)
        gamma_max, index = math.inf, 0
        if reason not in (HaltReason.NOT_FINITE, HaltReason.LOST_ATOMS):
            gamma_max = last.gamma_max
            index = 0 if present is None else int(np.argmax(present.arrays["gamma"]))
        is_usable = reason in (HaltReason.GAMMA, HaltReason.CORE_REPULSION)
        halted = present if is_usable else valid  # else go back to the last valid frame
        if halted is None:
            raise ExplorationError(
                f"MD was not finite, too hot, too large or evaporating ({reason}) at its very first step; "
                "check the structure"
            )
        if not is_usable:
            final, step = halted, max(valid_steps)
        halt = HaltStructure(halted, last.step, reason, gamma_max, index)
    record = FrameRecord(settings.max_frames)
    for at, atoms in read_dump(folder / input_script.FRAMES, frame, n_atoms):
        record.add(atoms, at, float(atoms.arrays["gamma"].max()))
    restart = folder / input_script.RESTART
    is_restart_of_final = restart.is_file() and finished and final is finals[0]  # not after an explosion
    return ExplorationResult(
        status=status,
        step=step,
        final=final,
        halt=halt,
        frames=record.frames,
        spread=_read_spread(folder, frame, n_atoms, start_step, step),
        trace=trace.columns,
        restart_file=str(restart) if is_restart_of_final else None,
        swaps=_swaps(log),
    )


def _swaps(log: str) -> SwapCount | None:
    """Read how many exchanges of atoms were tried and done; None where the input does not say so."""
    said = re.search(rf"^{input_script.SWAPS} tried (\d+) done (\d+)$", log, re.MULTILINE)
    return None if said is None else SwapCount(int(said[1]), int(said[2]))


def _read_spread(folder: Path, frame: Frame, n_atoms: int | None, first: int, last: int) -> list[Atoms]:
    """Read the frames of the whole way that lie between its ends."""
    record = FrameRecord(input_script.N_SPREAD)
    for step, atoms in read_dump(folder / input_script.SPREAD, frame, n_atoms):
        if first < step < last:
            record.add(atoms, step)
    return record.frames


def _judge_end(
    step: int, last: Look | None, settings: MDSettings, start_step: int, log: str, folder: Path
) -> tuple[WalkStatus, HaltReason | None]:
    """Say why an input that ran to its end did so; files that a full disk cut short must not pass for a run."""
    last_look = step - step % settings.gamma_every
    if last_look >= start_step and (last is None or last.step != last_look):
        at = "no line" if last is None else f"step {last.step}"
        what = f"LAMMPS ended at step {step}, but {input_script.TRACE} ends with {at} (is the disk full?) in {folder}"
        raise crash(what, log)
    if last is not None and last.step == step and last.reason is not None:
        return WalkStatus.HALTED, last.reason
    if step >= settings.n_steps:
        return WalkStatus.CONVERGED, None
    if TIME_OVER in log:
        return WalkStatus.TIMED_OUT, None
    raise crash(f"LAMMPS ended at step {step} of {settings.n_steps} without saying why in {folder}", log)


def _kept_looks(folder: Path, frame: Frame) -> dict[int, Atoms]:
    """Read the last looks by step, without those in which atoms are missing."""
    looks = dict(entry for path in folder.glob(input_script.LOOKS) for entry in read_dump(path, frame))
    most = max(map(len, looks.values()), default=0)
    return {step: atoms for step, atoms in looks.items() if len(atoms) == most}
