"""pacemaker has no stress in its loss: it is refused where it is asked for, and told where errors are shown."""

from __future__ import annotations

import copy
import pickle

import pytest

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.schemas.potential import Errors, unfitted
from mlip_autopipec.training.grace import GRACEFSTrainer
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer


def test_the_worth_of_a_stress_is_refused_with_the_reason():
    with pytest.raises(InvalidInputError, match=r"PacemakerTrainer\.stress_GPa .*no stress in its loss"):
        PacemakerTrainer(stress_GPa=0.1)
    with pytest.raises(TypeError, match="no_setting"):
        PacemakerTrainer(no_setting=1)
    trainer = PacemakerTrainer(energy_meV_atom=2.0)
    for same in (
        copy.deepcopy(trainer),
        pickle.loads(pickle.dumps(trainer)),
        type(trainer).from_dict(trainer.as_dict()),
    ):
        assert same == trainer


def test_trainers_say_whether_they_fit_stresses():
    assert not PacemakerTrainer().fits_stress
    assert LinearACETrainer().fits_stress
    assert not LinearACETrainer(ridge=1e-6).fits_stress
    assert GRACEFSTrainer().fits_stress


def test_a_target_by_another_name_is_refused_with_the_right_one():
    with pytest.raises(InvalidInputError, match=r"accuracy\.force_meV_A is unknown; did you mean forces_meV_A\?"):
        StopRule(accuracy={"force_meV_A": 3})
    assert StopRule(accuracy={"forces_meV_A": 3}).accuracy.forces_meV_A == 3


@pytest.mark.parametrize(
    ("fits", "told"), [(False, "0.12 GPa (not fitted)  |"), (True, "0.12 GPa  |"), (None, "0.12 GPa  |")]
)
def test_lines_of_the_loop_say_that_stresses_were_not_fitted(fits, told):
    errors = {"n_structures": 1, "n_atoms": 1, "energy_rmse_meV_atom": 1.0, "forces_rmse_meV_A": 2.0}
    train = Errors(**errors, energy_max_meV_atom=1.0, forces_max_meV_A=2.0, stress_rmse_GPa=0.12)
    fields = dict.fromkeys(OTFDocument.model_fields)
    document = OTFDocument.model_construct(
        **fields
        | {"cycle": 1, "walkers": [], "thrown_away": [], "seconds": {}, "n_labels": 3, "n_new_labels": 1}
        | {"train": train, "fits_stress": fits}
    )
    assert told in document.line()
    assert bool(unfitted(fits)) is (fits is False)
