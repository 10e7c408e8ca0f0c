"""Explore: one MD run of one walker."""

from __future__ import annotations

import logging
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobflow import CURRENT_JOB, Maker, Response

from mlip_autopipec.errors import RestartFileError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.assess import can_nest_further
from mlip_autopipec.jobs.base import current_uuid, load_document, loop_job
from mlip_autopipec.jobs.failures import keeps_reason, read_reason
from mlip_autopipec.lammps.bias import begins_biased
from mlip_autopipec.lammps.exploration import check_error_halt, run_exploration
from mlip_autopipec.lammps.input_script import N_SPREAD, check_template
from mlip_autopipec.lammps.records import FrameRecord, Trace
from mlip_autopipec.lammps.types import Condition, Engine, MDSettings, WalkStatus
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.loop import WalkerState
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.structures.periodicity import goes_on_along, pieces

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.lammps.types import ExplorationResult


logger = logging.getLogger(__name__)

#: A walk of at least so many looks is cold that never reached this share of its temperature.
_LOOKS, _WARM = 5, 0.3


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

    def check(self, elements: Sequence[str], conditions: Sequence[Condition]) -> None:
        """Refuse invalid settings, and a template whose output cannot be read."""
        self.settings.check()
        check_error_halt(self.settings, self.engine)
        for condition in conditions:
            check_template(elements, condition, self.settings, self.engine)

    @loop_job(tolerate_failed_inputs=True)
    def make(
        self,
        walker: WalkerState,
        potential: PotentialDocument | str | None,
        campaign_id: str,
        cycle: int,
        start: CampaignDocument | None = None,
        restart_file: str | None = None,
        part: int = 1,
        part_of: str | None = None,
    ) -> WalkDocument | Response[WalkDocument]:
        """
        Start a walker, or resume it where it halted.

        A run whose wall time is over replaces itself by one that goes on from its restart file.

        Parameters
        ----------
        walker
            Which walker; resumed from its last walk if it has one.
        potential
            The potential or its uuid; None if none could be trained, then nothing is run.
        campaign_id, cycle
            Of the loop.
        start
            The campaign, with the structures walkers start from; read by the walker's ``start_id`` if not given.
        restart_file
            LAMMPS restart file to start from instead, on the machine the job runs on.
        part
            Which of the jobs this walk takes.
        part_of
            uuid of a walk whose wall time was over and that no job went on with: this one does.
        """
        return self._explored(campaign_id, cycle, walker, potential, start, restart_file, part, part_of)

    @keeps_reason(lambda **given: explore_step(given["walker"].index))
    def _explored(
        self,
        campaign_id: str,
        cycle: int,
        walker: WalkerState,
        potential: PotentialDocument | str | None,
        start: CampaignDocument | None,
        restart_file: str | None,
        part: int,
        part_of: str | None,
    ) -> WalkDocument | Response[WalkDocument]:
        if isinstance(potential, str):
            potential = load_document(PotentialDocument, potential)
        earlier: WalkDocument | None = None
        if part_of is not None:
            earlier = load_document(WalkDocument, part_of)
            part = earlier.n_parts + 1
        elif part > 1:
            # what this job replaces: the same uuid, one index less
            earlier = load_document(WalkDocument, current_uuid(), index=CURRENT_JOB.job.index - 1)
        elif walker.walk_id is not None:
            earlier = load_document(WalkDocument, walker.walk_id)
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
            n_steps=self.settings.of_walk(is_biased=walker.biased).n_steps,
            timestep_fs=self.settings.timestep_fs,
            restart_of=walker.walk_id,
            potential_id=None if potential is None else potential.uuid,
            seed=walker.seed,
            n_parts=part,
            is_biased=(walker.biased and begins_biased(self.settings)) or walker.condition.colvars is not None,
        )
        if potential is None:
            return document
        atoms: Atoms | None = None
        if earlier is not None:
            atoms = earlier.final_atoms()
        elif restart_file is None:
            start = load_document(CampaignDocument, walker.start_id or "") if start is None else start
            # campaigns of version 0.1.0 hold velocities that came with a structure; a walk begins with its own
            atoms = start.structures()[walker.start_index]
            atoms.arrays.pop("momenta", None)
        at = walker if part == 1 or earlier is None else walker.model_copy(update={"step": earlier.step})
        with tempfile.TemporaryDirectory() as folder:
            if earlier is not None and (restart := earlier.restart()) is not None:
                path = Path(folder) / "walk.restart"
                path.write_bytes(restart)
                restart_file = str(path)
            try:
                result = self.explore(at, potential, atoms, restart_file)
            except RestartFileError as error:
                if atoms is None:
                    raise
                logger.warning("going on without the state of the thermostat, from positions and velocities: %s", error)
                result = self.explore(at, potential, atoms, None)
        document = _filled(document, result)
        if (
            told := never_warm(result.trace.get("temperature_K", []), walker.condition, self.settings.ensemble)
        ) is not None:
            logger.warning("walk of walker %d: %s", walker.index, told)
        if part > 1 and earlier is not None:
            document = _joined(earlier, document, self.settings.max_frames)
        # a walk that ends here unfinished is taken up again in the next cycle
        if result.status is not WalkStatus.TIMED_OUT or not can_nest_further():
            return document
        CURRENT_JOB.job.hosts = CURRENT_JOB.job.hosts[-1:]  # else they grow with every part
        further = self.make(walker, potential.uuid, campaign_id, cycle, part=part + 1)
        further.name = CURRENT_JOB.job.name
        return Response(output=document, replace=further)

    def explore(
        self, walker: WalkerState, potential: PotentialDocument, atoms: Atoms | None, restart_file: str | None
    ) -> ExplorationResult:
        """Run the MD; what a stand-in for LAMMPS replaces."""
        settings = self.settings.of_walk(is_biased=walker.biased).begun_with(walker.start_volume_A3)
        if walker.walk_id is not None and walker.start_id is not None and settings.halt_on_break_up:
            # what begins as several molecules may meet and part
            started = load_document(CampaignDocument, walker.start_id).structures()[walker.start_index]
            if not goes_on_along(started).all():
                together = not pieces(started, potential.cutoff_A).any()
                settings = replace(settings, halt_on_break_up=together)
        return run_exploration(
            atoms,
            potential.to_potential(),
            walker.condition,
            settings,
            start_step=walker.step,
            seed=walker.seed,
            restart_file=restart_file,
            engine=self.engine,
            coverage=potential.known_surroundings(),
        )


def explore_step(walker: int) -> str:
    """Name the MD of a walker as a step whose failure is kept."""
    return f"explore w{walker}"


def read_crashes(
    walkers: Sequence[int], walks: Sequence[WalkDocument | None], campaign_id: str, cycle: int
) -> dict[int, str | None]:
    """Return what the errors of the walkers whose MD failed in a cycle said, where that is known."""
    failed = [index for index, walk in zip(walkers, walks, strict=True) if walk is None]
    return {index: read_reason(explore_step(index), campaign_id, cycle) for index in failed}


def never_warm(temperatures_K: Sequence[float], condition: Condition, ensemble: str) -> str | None:
    """
    Tell whether a walk never came near the temperature it was to be at: then it explored nothing.

    Parameters
    ----------
    temperatures_K
        Of its looks, in K.
    condition
        What was asked for.
    ensemble
        Without a thermostat (``nve``) nothing keeps a temperature.

    Returns
    -------
    str or None
        What to say, or None.
    """
    asked = min(condition.temperature_K, condition.temperature_at(1.0))
    if ensemble == "nve" or len(temperatures_K) < _LOOKS or max(temperatures_K) > _WARM * asked:
        return None
    return (
        f"it was never above {max(temperatures_K):.3g} K, and {asked:g} K were asked for, so it proves nothing; see "
        "whether the thermostat (dynamics.thermostat_damping_fs, template) acts and atoms are free to move"
    )


def _filled(document: WalkDocument, result: ExplorationResult) -> WalkDocument:
    """Write the outcome of a run into its document."""
    halt = result.halt
    payload = {
        "final": pack_frames([halt.atoms if halt is not None else result.final]),
        "frames": pack_frames(result.frames),
        "trace": result.trace,
    }
    if halt is None:  # a check takes frames of MD without halts
        payload["spread"] = pack_frames(result.spread)
    if result.restart_file is not None:
        payload["restart"] = b64encode(Path(result.restart_file).read_bytes()).decode()
    return document.model_copy(
        update={
            "status": str(result.status),
            "reason": None if halt is None else str(halt.reason),
            "verdict": None if halt is None else halt.reason.verdict,
            "n_atoms": len(result.final),
            "step": result.step,
            "halt_step": None if halt is None else halt.step,
            "gamma_max": None if halt is None else halt.gamma_max,
            "atom_index": None if halt is None else halt.atom_index,
            "force_std_eV_A": None if halt is None else halt.force_std_eV_A,
            "n_frames": len(result.frames),
            "n_swaps_attempted": None if result.swaps is None else result.swaps.attempted,
            "n_swaps_accepted": None if result.swaps is None else result.swaps.accepted,
            "engine": result.engine,
            "seconds": result.seconds,
            "payload": payload,
        }
    )


def _joined(earlier: WalkDocument, later: WalkDocument, max_frames: int) -> WalkDocument:
    """Let the document of a further part speak for the parts before."""
    frames = FrameRecord.joined(earlier.dumped_frames(), later.dumped_frames(), max_frames)
    trace = Trace.joined(earlier.payload["trace"], later.payload["trace"])
    payload = {**later.payload, "frames": pack_frames(frames), "trace": trace}
    if "spread" in later.payload:
        spread = FrameRecord.joined(earlier.spread_frames(), later.spread_frames(), 2 * N_SPREAD)
        payload["spread"] = pack_frames(spread)
    return later.model_copy(
        update={
            "n_frames": len(frames),
            "n_swaps_attempted": _sum(earlier.n_swaps_attempted, later.n_swaps_attempted),
            "n_swaps_accepted": _sum(earlier.n_swaps_accepted, later.n_swaps_accepted),
            "seconds": earlier.seconds + later.seconds,
            "payload": payload,
        }
    )


def _sum(earlier: int | None, later: int | None) -> int | None:
    """Add what two parts counted; a part need not have counted."""
    return later if earlier is None else earlier if later is None else earlier + later
