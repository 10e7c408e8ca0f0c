"""A maker that was stored and read again is the same maker."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from monty.json import MontyDecoder, MontyEncoder
from run_files import QUIET

from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.runfile.model import RunFile

if TYPE_CHECKING:
    from pathlib import Path

LENNARD_JONES = {
    "calculator_class": "ase.calculators.lj.LennardJones",
    "calculator_kwargs": {"sigma": 2.3, "epsilon": 0.4},
    "energy_kind": "potential_energy",
}
ALLOY = [{"bulk": {"name": "AuCu", "crystal": "rocksalt", "a": 5.4, "cubic": True}}]


def made(tmp_path: Path, **sections: Any) -> OTFMaker:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(deepcopy(QUIET) | sections))
    return RunFile.load(path).maker()


def through_json(maker: OTFMaker) -> OTFMaker:
    return json.loads(json.dumps(maker, cls=MontyEncoder), cls=MontyDecoder)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"teacher": {"kind": "emt", "n_labels": 10}},
        {"teacher": {"kind": "ase", "maker": LENNARD_JONES}, "oracle": {"kind": "gfn-xtb"}},
        {"oracle": {"kind": "vasp"}},
        {"oracle": {"kind": "espresso"}},
        {"oracle": {"kind": "ase", "maker": LENNARD_JONES}},
        {"accuracy": {"forces_meV_A": 50.0}, "stop": {}},
        {"dynamics": {"bias": {}, "ensemble": "npt"}},
        {"structures": ALLOY, "dynamics": {"swap": {}}},
        {"trainer": {"kind": "pacemaker"}},
        {"trainer": {"kind": "grace"}},
        {"trainer": {"kind": "linear", "ridge": 1e-6, "basis": {"radial_basis": "SBessel"}}},
    ],
    ids=str,
)
def test_a_maker_that_is_read_again_is_the_same(sections: dict[str, Any], tmp_path: Path) -> None:
    maker = made(tmp_path, **sections)
    for again in (OTFMaker.from_dict(maker.as_dict()), through_json(maker), made(tmp_path, **sections)):
        assert again == maker
    assert replace(maker, seed=maker.seed + 1) != maker
    settings = MDSettings(n_steps=maker.dynamics_maker.settings.n_steps + 1)
    assert replace(through_json(maker), dynamics_maker=replace(maker.dynamics_maker, settings=settings)) != maker


def test_another_oracle_or_teacher_is_another_maker(tmp_path: Path) -> None:
    maker = made(tmp_path, teacher={"kind": "emt", "n_labels": 10})
    assert maker.teach_maker is not None
    assert replace(maker, teach_maker=None) != maker
    assert replace(maker, teach_maker=replace(maker.teach_maker, n_labels=11)) != maker
    asap = EMTStaticMaker(calculator_kwargs={"asap_cutoff": True})
    assert replace(maker, oracle_maker=replace(maker.oracle_maker, static_maker=asap)) != maker
    assert maker != maker.as_dict()
    with pytest.raises(TypeError, match="unhashable"):
        hash(maker)
