"""The library engine: starts a process of its own for LAMMPS, and reads back what it did."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlip_autopipec.errors import ExplorationError
from mlip_autopipec.frames import pack_frames, unpack_frames
from mlip_autopipec.lammps import colvars, failures, input_script, structures
from mlip_autopipec.lammps.cell import MDCell
from mlip_autopipec.lammps.swaps import SwapCount
from mlip_autopipec.lammps.types import ExplorationResult, HaltReason, HaltStructure, WalkStatus
from mlip_autopipec.processes import run_process
from mlip_autopipec.structures.masses import mass_of_elements

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec.lammps.types import Condition, MDSettings
    from mlip_autopipec.potentials.potential import ACEPotential

INPUT, OUTPUT, LOG = "exploration_input.json", "exploration_output.json", "exploration.log"


def run(
    atoms: Atoms | None,
    potential: ACEPotential,
    condition: Condition,
    settings: MDSettings,
    *,
    start_step: int,
    restart_file: Path | None,
    directory: Path,
    seed: int = 0,
) -> ExplorationResult:
    """Run one exploration with LAMMPS as a library; see :func:`.exploration.run_exploration`."""
    folder = structures.make_run_folder(
        directory, potential, atoms, restart_file, (input_script.STRUCTURE, input_script.START_RESTART)
    )
    text = input_script.render(
        potential.elements,
        condition,
        settings,
        engine="library",
        start_step=start_step,
        from_restart=restart_file is not None,
        masses=mass_of_elements(potential.elements, atoms),
        cutoff_A=potential.cutoff,
        cell=MDCell.of(atoms, potential.cutoff),
        seed=seed,
    )
    task = {
        "atoms": None if atoms is None else pack_frames([atoms]),
        "reference_energies": dict(potential.reference_energies),
        "condition": asdict(condition),
        "settings": asdict(settings),
        "start_step": start_step,
        "seed": seed,
    }
    # one thread: pyace and LAMMPS are serial here, and walkers run side by side
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        (folder / input_script.INPUT).write_text(text)
        if condition.colvars is not None:
            (folder / colvars.CONFIGURATION).write_text(condition.colvars)
        (folder / INPUT).write_text(json.dumps(task))
        code = run_process([sys.executable, "-m", "mlip_autopipec.lammps.worker"], folder / LOG, environment)
    except OSError as error:
        raise ExplorationError(f"MD cannot be run in {folder}: {error}; nothing is lost, run it again") from error
    if code != 0 or not (folder / OUTPUT).is_file():
        own = folder / input_script.LOG
        of_lammps = own.read_text() if own.is_file() else ""
        what = f"the MD process {failures.how_it_ended(code)} in {folder}"
        raise failures.crash(what, (folder / LOG).read_text(), of_lammps)
    return read_result(folder)


def read_result(folder: Path) -> ExplorationResult:
    """Read what the worker wrote."""
    out = json.loads((folder / OUTPUT).read_text())
    halt = None
    if out["halt"] is not None:
        (halted,) = unpack_frames(out["halt"].pop("atoms"))
        halt = HaltStructure(atoms=halted, reason=HaltReason(out["halt"].pop("reason")), **out["halt"])
    return ExplorationResult(
        status=WalkStatus(out["status"]),
        step=out["step"],
        final=unpack_frames(out["final"])[0],
        halt=halt,
        frames=unpack_frames(out["frames"]),
        spread=unpack_frames(out["spread"]),
        trace=out["trace"],
        swaps=None if out.get("swaps") is None else SwapCount(**out["swaps"]),
        restart_file=str(folder / input_script.RESTART) if (folder / input_script.RESTART).is_file() else None,
    )
