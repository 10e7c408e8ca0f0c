"""MD runs of the walkers, candidates around their halts, and the choice among them."""

from __future__ import annotations

from base64 import b64decode
from typing import Literal

from ase import Atoms
from pydantic import BaseModel, Field

from mlip_autopipec.frames import unpack_frames
from mlip_autopipec.lammps.types import HaltVerdict
from mlip_autopipec.schemas.base import Document, WithPayload


class WalkDocument(WithPayload):
    """
    One MD run of one walker.

    Where the wall time was over each job left a document under the same uuid; the newest one has the frames, the
    trace and the time of all of them.

    ``payload``: ``final`` and ``frames`` (packed structures; with velocities and gamma, and of a linear potential
    ``forces_std`` in eV/A and ``info['energy_std']`` in eV), ``spread`` (a few frames of a walk without a halt,
    whatever their gamma), ``trace`` (lists: step, temperature_K, potential_energy_eV, pressure_GPa, volume_A3,
    gamma_max), ``restart`` (LAMMPS' own restart file of ``final``, base64; absent after an explosion).
    """

    kind: Literal["walk"] = "walk"
    walker: int = Field(description="Number of the walker.")
    status: Literal["CONVERGED", "HALTED", "TIMED_OUT", "NOT_RUN"] = Field(
        description="TIMED_OUT when the wall time was over, NOT_RUN when there was no potential to run with."
    )
    reason: str | None = Field(
        None,
        description="Why it halted: gamma, unseen, force_error, core_repulsion, explosion, lost_atoms, not_finite.",
    )
    verdict: HaltVerdict | None = Field(
        None, description="What the halt is taken for: novelty, short_contact, explosion."
    )
    formula: str = Field("", description="Chemical formula.")
    n_atoms: int = Field(0, description="Number of atoms.")
    temperature_K: float = Field(0.0, description="Target temperature at the start of the whole run, K.")
    pressure_GPa: float = Field(0.0, description="Target pressure, GPa.")
    start_step: int = Field(0, description="MD step this run began at.")
    step: int = Field(0, description="MD step of its last valid frame, counted over all resumptions: where to resume.")
    halt_step: int | None = Field(None, description="MD step at which it halted; None without a halt.")
    n_steps: int = Field(0, description="MD steps asked for.")
    timestep_fs: float = Field(0.0, description="Time step, fs.")
    gamma_max: float | None = Field(None, description="Largest extrapolation grade at the halt; None without one.")
    atom_index: int | None = Field(None, description="Atom of largest grade, or of largest expected error.")
    force_std_eV_A: float | None = Field(
        None, description="Largest expected error of the force on an atom, where that halted MD, eV/A."
    )
    is_biased: bool = Field(False, description="Whether dynamics.bias or colvars drove it: no check takes its frames.")
    n_frames: int = Field(0, description="Frames kept between the two gamma thresholds.")
    n_swaps_attempted: int | None = Field(
        None, description="Exchanges of atoms that were tried; None where none were asked for."
    )
    n_swaps_accepted: int | None = Field(None, description="Those of them that were accepted.")
    restart_of: str | None = Field(None, description="uuid of the walk this one resumes.")
    potential_id: str | None = Field(None, description="uuid of the potential.")
    seed: int = Field(0, description="Seed of the velocities.")
    engine: str = Field("", description="library or executable.")
    n_parts: int = Field(1, description="Jobs it took; more than one where the wall time was over.")
    seconds: float = Field(0.0, description="Wall time of all of them, s.")

    def final_atoms(self) -> Atoms:
        """Return the last frame with velocities (after an explosion the last valid one)."""
        return unpack_frames(self.bulk("final"))[0]

    def trace(self) -> dict[str, list[float]]:
        """Return step, temperature_K, potential_energy_eV, pressure_GPa, volume_A3, gamma_max at each grading step."""
        return self.bulk("trace")

    def restart(self) -> bytes | None:
        """
        Return LAMMPS' restart file of the last frame, with the state of thermostat and barostat; None if there is none.

        Its atom types 1, 2, ... are the potential's elements in alphabetical order.
        """
        packed = self.payload.get("restart")
        return None if packed is None else b64decode(packed)

    def dumped_frames(self) -> list[Atoms]:
        """Return the frames between the two thresholds."""
        return unpack_frames(self.bulk("frames"))

    def spread_frames(self) -> list[Atoms]:
        """Return a few frames of the whole way, whatever their gamma; none of a walk that halted."""
        packed = self.payload.get("spread")
        return [] if packed is None else unpack_frames(packed)


class ProposalDocument(WithPayload):
    """Candidates for labelling; ``payload['candidates']`` holds the structures."""

    kind: Literal["proposal"] = "proposal"
    walker: int | None = Field(None, description="Walker whose halt was sampled; None for the first dataset.")
    walk_id: str | None = Field(None, description="uuid of the walk that halted.")
    reason: str | None = Field(None, description="Why it halted.")
    is_required: bool = Field(
        False, description="Whether the halted frame is labelled whatever its grade; without, MD would get no farther."
    )
    n_candidates: int = Field(description="Number of candidates.")
    origins: dict[str, int] = Field(description="Candidates by origin.")
    seed: int = Field(description="Seed of everything random in them.")
    sources: list[str] = Field(
        default_factory=list,
        description="Of a check: the walker, with its temperature, that each candidate is from; empty for a property.",
    )
    unchecked: list[str] = Field(default_factory=list, description="Of a check: walkers without a candidate.")

    def candidates(self) -> list[Atoms]:
        """Return the structures."""
        return unpack_frames(self.bulk("candidates"))


class Choice(BaseModel):
    """One candidate to be labelled."""

    source_id: str = Field(description="uuid of its proposal.")
    source_index: int = Field(description="Its place there.")
    walker: int | None = Field(None, description="Walker whose halt asked for it.")
    gamma: float | None = Field(None, description="Extrapolation grade when it was chosen.")


class SelectionDocument(Document):
    """What will be labelled in this cycle."""

    kind: Literal["selection"] = "selection"
    n_candidates: int = Field(description="Candidates of all halts together.")
    choices: list[Choice] = Field(description="The chosen ones, most informative first.")
