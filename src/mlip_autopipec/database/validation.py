"""Validation MD in the store: each frame is kept as it comes, so that no evaluation is done twice."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.frames import pack, pack_frames, unpack, unpack_frames
from mlip_autopipec.validation.oracle_md import MDState, oracle_md_states

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from jobflow import JobStore

    from mlip_autopipec.validation.oracle_md import ValidationSettings

KIND = "validation"


def stored_md(
    store: JobStore,
    campaign_id: str,
    asked: str,
    atoms: Atoms,
    calculator: Calculator,
    temperature_K: float,
    settings: ValidationSettings,
    seed: int,
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
    atoms, calculator, temperature_K, settings, seed
        As for :func:`~mlip_autopipec.validation.oracle_md.oracle_md_states`.
    """
    essence = [asked, temperature_K, settings.interval_steps, settings.timestep_fs, seed]
    run = hashlib.sha256(json.dumps(essence).encode()).hexdigest()[:32]
    of_run = {"output.kind": KIND, "output.run": run, "output.campaign_id": campaign_id}
    found = sorted(store.query(of_run, ["output"], load=True), key=lambda document: document["output"]["number"])
    states = [_unpacked(document["output"]["payload"]) for document in found][: settings.n_frames]
    for number, state in enumerate(
        oracle_md_states(atoms, calculator, temperature_K, settings, seed, states[-1] if states else None, len(states)),
        start=len(states),
    ):
        output = {
            "kind": KIND,
            "campaign_id": campaign_id,
            "run": run,
            "number": number,
            "temperature_K": temperature_K,
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
