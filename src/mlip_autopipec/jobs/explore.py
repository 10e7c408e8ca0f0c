"""Explore: one MD run of one walker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobflow import Maker

from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.base import current_uuid, load_document, loop_job
from mlip_autopipec.lammps.exploration import run_exploration
from mlip_autopipec.lammps.types import Engine, MDSettings
from mlip_autopipec.schemas.loop import WalkerState
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import StructuresDocument, WalkDocument

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.lammps.types import ExplorationResult


@dataclass
class LammpsDynamicsMaker(Maker):
    """
    Run MD with LAMMPS until the end or the first halt.

    Parameters
    ----------
    name
        Name of the job.
    settings
        Length, ensemble and gamma thresholds.
    engine
        ``auto`` (the ``lmp`` executable where it has ML-PACE, else LAMMPS as a library),
        ``library`` or ``executable``.
    """

    name: str = "explore"
    settings: MDSettings = field(default_factory=MDSettings)
    engine: Engine = "auto"

    @loop_job(tolerate_failed_inputs=True)
    def make(
        self,
        walker: WalkerState,
        potential: PotentialDocument | str | None,
        campaign_id: str,
        cycle: int,
        start: StructuresDocument | None = None,
        restart_file: str | None = None,
    ) -> WalkDocument:
        """
        Start a walker, or resume it where it halted.

        Parameters
        ----------
        walker
            Which walker; resumed from its last walk if it has one.
        potential
            The potential or its uuid; None if none could be trained, then nothing is run.
        campaign_id, cycle
            Of the loop.
        start
            The structures walkers start from; read by the walker's ``start_id`` if not given.
        restart_file
            LAMMPS restart file to start from instead.
        """
        if isinstance(potential, str):
            potential = load_document(PotentialDocument, potential)
        document = WalkDocument(
            uuid=current_uuid(),
            campaign_id=campaign_id,
            cycle=cycle,
            walker=walker.index,
            status="NOT_RUN",
            formula=walker.formula,
            temperature_K=walker.condition.temperature_K,
            pressure_GPa=walker.condition.pressure_GPa,
            start_step=walker.step,
            step=walker.step,
            n_steps=self.settings.n_steps,
            timestep_fs=self.settings.timestep_fs,
            restart_of=walker.walk_id,
            potential_id=None if potential is None else potential.uuid,
            seed=walker.seed,
        )
        if potential is None:
            return document
        atoms: Atoms | None = None
        if walker.walk_id is not None:
            atoms = load_document(WalkDocument, walker.walk_id).final_atoms()
        elif restart_file is None:
            start = load_document(StructuresDocument, walker.start_id or "") if start is None else start
            atoms = start.structures()[walker.start_index]
        result = self.explore(walker, potential, atoms, restart_file)
        halt = result.halt
        return document.model_copy(
            update={
                "status": str(result.status),
                "reason": None if halt is None else str(halt.reason),
                "n_atoms": len(result.final),
                "step": result.step,
                "halt_step": None if halt is None else halt.step,
                "gamma_max": None if halt is None else halt.gamma_max,
                "atom_index": None if halt is None else halt.atom_index,
                "n_frames": len(result.frames),
                "engine": result.engine,
                "seconds": result.seconds,
                "payload": {
                    "final": pack_frames([halt.atoms if halt is not None else result.final]),
                    "frames": pack_frames(result.frames),
                    "trace": result.trace,
                },
            }
        )

    def explore(
        self, walker: WalkerState, potential: PotentialDocument, atoms: Atoms | None, restart_file: str | None
    ) -> ExplorationResult:
        """Run the MD; what a stand-in for LAMMPS replaces."""
        return run_exploration(
            atoms,
            potential.to_potential(),
            walker.condition,
            self.settings,
            start_step=walker.step,
            seed=walker.seed,
            restart_file=restart_file,
            engine=self.engine,
        )
