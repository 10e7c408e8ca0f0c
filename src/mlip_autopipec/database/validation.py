"""Validation MD in the store: each frame is kept as it comes, so that no evaluation is done twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.frames import pack, pack_frames, unpack, unpack_frames
from mlip_autopipec.jobs.run_oracle import calculator_for
from mlip_autopipec.oracle.electrons import with_initial_moments
from mlip_autopipec.schemas.campaign import now_utc
from mlip_autopipec.schemas.potential import Errors
from mlip_autopipec.schemas.validation import ValidatedWalk, ValidationDocument
from mlip_autopipec.structures.electrons import has_total
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.validation.oracle_md import MDState, oracle_md_states
from mlip_autopipec.validation.targets import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from jobflow import JobStore, Maker

    from mlip_autopipec.lammps.types import Barostat, Condition
    from mlip_autopipec.schemas.potential import PotentialDocument
    from mlip_autopipec.validation.oracle_md import ValidationSettings
    from mlip_autopipec.validation.targets import AccuracyTargets

KIND = "validation"


@dataclass(frozen=True)
class OracleWalk:
    """
    One MD run of the oracle.

    Parameters
    ----------
    walker
        Number of the walker whose structure and condition it has.
    begins
        Where the walker started, or where it ended.
    frames
        Labelled.
    """

    walker: int
    begins: Literal["start", "end"]
    frames: list[Atoms]


@dataclass(frozen=True)
class AskedWalk:
    """
    One MD run of the oracle that is to be done; further parameters are those of :func:`stored_md`.

    Parameters
    ----------
    walker, begins
        As in :class:`OracleWalk`.
    """

    walker: int
    begins: Literal["start", "end"]
    asked: str
    atoms: Atoms
    condition: Condition
    settings: ValidationSettings
    seed: int
    barostat: Barostat | None

    def done(self, store: JobStore, campaign_id: str, static_maker: Maker) -> OracleWalk:
        """Compute the frames that are not stored, by the calculator of the oracle's maker, and return all."""
        frames = stored_md(
            store,
            campaign_id,
            self.asked,
            with_initial_moments(static_maker, self.atoms),
            calculator_for(static_maker, self.atoms),
            self.condition,
            self.settings,
            self.seed,
            self.barostat,
        )
        return OracleWalk(self.walker, self.begins, frames)


def stored_md(
    store: JobStore,
    campaign_id: str,
    asked: str,
    atoms: Atoms,
    calculator: Calculator,
    condition: Condition,
    settings: ValidationSettings,
    seed: int,
    barostat: Barostat | None = None,
) -> list[Atoms]:
    """
    Run MD of the oracle from the last frame that is stored on, and return all its frames.

    Parameters
    ----------
    store
        Where the frames are kept, with velocities and the state of the random numbers.
    campaign_id
        The campaign.
    asked
        Key of the label of ``atoms``: with another oracle it is another run.
    atoms, calculator, condition, settings, seed, barostat
        As for :func:`~mlip_autopipec.validation.oracle_md.oracle_md_states`.
    """
    essence = [asked, condition.temperature_K, settings.interval_steps, settings.timestep_fs, seed]
    if condition.temperature_end_K not in (None, condition.temperature_K):
        essence += [condition.temperature_end_K, settings.n_frames]
    if barostat is not None:
        essence += [barostat, condition.pressure_GPa]
    if has_total(atoms):  # stored by earlier versions are frames of the neutral system
        essence.append("charged")
    run = hashlib.sha256(json.dumps(essence).encode()).hexdigest()[:32]
    of_run = {"output.kind": KIND, "output.run": run, "output.campaign_id": campaign_id}
    found = sorted(store.query(of_run, ["output"], load=True), key=lambda document: document["output"]["number"])
    states = [_unpacked(document["output"]["payload"]) for document in found][: settings.n_frames]
    for number, state in enumerate(
        oracle_md_states(
            atoms, calculator, condition, settings, seed, states[-1] if states else None, len(states), barostat
        ),
        start=len(states),
    ):
        output = {
            "kind": KIND,
            "campaign_id": campaign_id,
            "run": run,
            "number": number,
            "temperature_K": condition.temperature_K,
            "pressure_GPa": condition.pressure_GPa,
        }
        payload = {"frame": pack_frames([state.frame]), "results": pack(state.frame.calc.results)}
        document: dict[str, Any] = {
            "uuid": f"{run}-{number:04d}",
            "index": 1,
            "output": {**output, "payload": {**payload, "random": state.random}},
        }
        store.update(document, key=["uuid", "index"], save={"data": "payload"})
        states.append(state)
    return [state.frame for state in states]


def _unpacked(payload: dict[str, Any]) -> MDState:
    (frame,) = unpack_frames(payload["frame"])
    frame.calc = SinglePointCalculator(frame, **unpack(payload["results"]))
    return MDState(frame, payload["random"])


def _forces_rms_meV_A(frames: Sequence[Atoms]) -> float:
    return 1e3 * float(np.sqrt(np.mean(np.concatenate([raw_forces(frame) for frame in frames]) ** 2)))


def store_errors(
    store: JobStore,
    potential: PotentialDocument,
    runs: Sequence[OracleWalk],
    targets: AccuracyTargets | None = None,
) -> ValidationDocument:
    """
    Measure a potential on MD of the oracle, and store the errors.

    Parameters
    ----------
    store
        Of the campaign.
    potential
        With its files.
    runs
        At least one frame.
    targets
        What the errors may be, where that was asked for. They are compared as measured: the frames of a run follow one
        another, so that their number bounds nothing.
    """
    fitted = potential.to_potential()

    def errors(frames: list[Atoms]) -> Errors:
        found = Errors.from_metrics(compute_errors(fitted, frames))
        assert found is not None
        return found

    found = errors([frame for run in runs for frame in run.frames])
    limits = Limits(**vars(targets)) if targets is not None else Limits(None, None, None)
    document = ValidationDocument(
        uuid=f"validated-{potential.uuid}",
        campaign_id=potential.campaign_id,
        cycle=potential.cycle,
        made_at=now_utc(),
        potential_id=potential.uuid,
        errors=found,
        above=list(limits.exceeded_by(found).values()),
        walks=[
            ValidatedWalk(
                walker=r.walker, begins=r.begins, errors=errors(r.frames), forces_rms_meV_A=_forces_rms_meV_A(r.frames)
            )
            for r in runs
            if r.frames
        ],
    )
    stored: dict[str, Any] = {"uuid": document.uuid, "index": 1, "output": document.model_dump(mode="json")}
    store.update(stored, key=["uuid", "index"])
    return document


def read_errors(store: JobStore, campaign_id: str, potential_id: str | None) -> ValidationDocument | None:
    """Return the stored errors of a potential on MD of the oracle; None if it was not validated."""
    found = store.query_one(
        {"output.kind": "validated", "output.campaign_id": campaign_id, "output.potential_id": potential_id}, ["output"]
    )
    return None if found is None else ValidationDocument.model_validate(found["output"])
