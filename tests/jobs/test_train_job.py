"""What the training job says about the labels it is given."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from jobflow import run_locally

from mlip_autopipec.active_learning.coverage import Coverage
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.train import _coverage, _spread_left_out
from mlip_autopipec.jobs.training_labels import digest, warn_of_mixed_settings
from mlip_autopipec.oracle.record import OracleRecord
from mlip_autopipec.schemas.label import LabelDocument
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, stand_in_loop

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ase import Atoms
    from jobflow import JobStore


def label(uuid: str, record: OracleRecord | None) -> LabelDocument:
    return LabelDocument(uuid=uuid, index=0, state="successful", origin="given", computed_with=record)


def test_labels_of_other_settings_are_named(caplog: pytest.LogCaptureFixture) -> None:
    one, other = (OracleRecord.of("VASP", {"ENCUT": encut}, functional="PBE") for encut in (520, 680))
    labels = [label("a", one), label("b", one), label("c", other), label("d", None)]
    with caplog.at_level(logging.WARNING):
        warn_of_mixed_settings(labels)
    assert [record.getMessage() for record in caplog.records] == [
        "label c was computed with other settings than a: ENCUT: 520 and 680"
    ]
    caplog.clear()
    warn_of_mixed_settings(labels[:2])
    assert not caplog.records


def test_the_surroundings_of_labels_that_were_trained_on_before_are_not_counted_again(
    memory_jobstore: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first dataset and two halts; each label's neighbours are looked for once."""
    counted: list[int] = []
    of = Coverage.of

    def counting(structures: Iterable[Atoms], cutoff: float) -> Coverage:
        frames = list(structures)
        counted.append(len(frames))
        return of(frames, cutoff)

    monkeypatch.setattr(Coverage, "of", counting)
    maker = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100), Halt(step=200)]))
    flow = maker.make(bulk("Cu", cubic=True), 300, campaign_id="copper")
    run_locally(flow, store=memory_jobstore, create_folders=True, root_dir=tmp_path, log=False)
    found = memory_jobstore.query({"output.kind": "potential"}, ["output"], sort={"output.cycle": 1})
    potentials = [PotentialDocument.model_validate(one["output"]) for one in found]
    frames = [
        label.to_atoms() for label in read_labels("copper", store=memory_jobstore) if label.split in ("train", "check")
    ]
    assert len(potentials) == len(counted) >= 3
    assert sum(counted) == potentials[-1].n_train == len(frames)
    assert potentials[-1].known_surroundings() == of(frames, potentials[-1].known_surroundings().cutoff)


def test_surroundings_are_counted_anew_where_the_potential_before_was_trained_on_something_else() -> None:
    frames = [bulk("Cu", cubic=True), bulk("Au", cubic=True)]
    labels = [label("a", None), label("b", None)]
    known = Coverage.of(frames[:1], 3.0)
    parent = PotentialDocument.model_construct(trained_on=digest(labels[:1]), coverage=known.as_dict())
    everything = Coverage.of(frames, 3.0)
    assert _coverage(parent, labels[:1], frames[:1], frames[1:], 3.0) == everything
    assert _coverage(parent, labels, frames, [], 3.0) == everything
    assert _coverage(parent, labels[:1], frames[:1], frames[1:], 4.0) == Coverage.of(frames, 4.0)
    assert _coverage(None, labels[:1], frames[:1], frames[1:], 3.0) == everything
    before = PotentialDocument.model_construct(trained_on=None, coverage=known.as_dict())
    assert _coverage(before, labels, frames, [], 3.0) == everything


def test_new_labels_are_judged_by_errors_of_those_left_out() -> None:
    def labelled(uuid: str, atoms: Atoms, origin: str = "seed_rattled") -> LabelDocument:
        atoms.calc = EMT()
        atoms.get_forces()
        return LabelDocument.from_labelled(atoms, uuid=uuid, index=0, origin=origin)

    old = [labelled(uuid, bulk("Cu", cubic=True)) for uuid in "abc"] + [labelled("d", molecule("N2"), "dimer")]
    errors = {"a": [1.0, 20.0, 0.1], "b": [-3.0, 40.0, None], "d": [900.0, 9000.0, None], "set aside": [5.0, 50.0, 0.1]}
    parent = PotentialDocument.model_construct(payload={"left_out": errors})
    found = _spread_left_out(parent, old)
    assert found is not None
    assert (found.energy.n, found.force.n) == (2, 2), "a dimer and what is not learnt do not count"
    assert found.energy.middle == pytest.approx(-0.001)
    assert found.energy.largest == pytest.approx(0.002)
    assert found.force.middle == pytest.approx(0.03 * 3**0.5)
    assert _spread_left_out(PotentialDocument.model_construct(payload={}), old) is None
    assert _spread_left_out(None, old) is None
