"""Names of earlier versions lead to the modules of today."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from importlib import import_module

import pytest
from monty.json import MontyDecoder

import mlip_autopipec
from mlip_autopipec import (
    Campaigns,
    CandidateGenerator,
    Criteria,
    PropertyCriterion,
    StopRule,
    StructureGenerator,
    TrainMaker,
)
from mlip_autopipec.active_learning.calibration import ThresholdAdapter
from mlip_autopipec.active_learning.outliers import OutlierRule
from mlip_autopipec.cutouts.cutout import CutoutGenerator
from mlip_autopipec.moved import MOVED
from mlip_autopipec.runfile import sections


@pytest.mark.parametrize("old", sorted(MOVED))
def test_the_old_name_gives_the_module_itself(old):
    sys.modules.pop(f"mlip_autopipec.{old}", None)
    with pytest.warns(DeprecationWarning, match="is now"):
        module = import_module(f"mlip_autopipec.{old}")
    assert module is import_module(f"mlip_autopipec.{MOVED[old]}")
    assert module.__spec__ is not None
    assert module.__spec__.name == module.__name__ == f"mlip_autopipec.{MOVED[old]}"


def test_the_stand_in_for_vasp_is_found_where_it_was():
    sys.modules.pop("mlip_autopipec.testing.vasp", None)
    with pytest.warns(DeprecationWarning, match="testing.vasp is now vasp_stand_in"):
        module = import_module("mlip_autopipec.testing.vasp")
    assert module is import_module("vasp_stand_in")
    assert module.write_potcars is import_module("mlip_autopipec.testing").write_potcars


def test_a_new_process_decodes_what_an_earlier_version_wrote():
    stored = '{"@module": "mlip_autopipec.training.linear", "@class": "LinearACETrainer", "ridge": 1e-5}'
    program = f"from monty.json import MontyDecoder; print(MontyDecoder().decode('{stored}').ridge)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1e-05\n"), done.stderr


def test_what_never_was_is_still_missing():
    with pytest.raises(ModuleNotFoundError, match=r"mlip_autopipec\.ace\.nothing"):
        import_module("mlip_autopipec.ace.nothing")


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("validation.criteria", "Gate", "Criterion"),
        ("validation.criteria", "CellGate", "CellCriterion"),
        ("validation.criteria", "Gates", "Criteria"),
        ("validation.properties", "PropertyGate", "PropertyCriterion"),
        ("active_learning.outliers", "LabelQuarantine", "OutlierRule"),
        ("schemas.potential", "QuarantinedLabel", "FlaggedLabel"),
    ],
)
def test_classes_are_found_by_their_earlier_names(module, old, new):
    found = import_module(f"mlip_autopipec.{module}")
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        assert getattr(found, old) is getattr(found, new)
    if hasattr(mlip_autopipec, new):
        with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
            assert getattr(mlip_autopipec, old) is getattr(found, new)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        found.Nothing


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_makers_stored_with_earlier_names_are_decoded():
    def stored(module, name, **fields):
        return {"@module": f"mlip_autopipec.{module}", "@class": name, **fields}

    gate = stored("ace.properties", "PropertyGate", properties=["phonons"])
    rule = stored("loop.stop_rule", "StopRule", property_gate=stored("ace.gates", "Gates", gates=[gate]), max_cycles=3)
    train = stored("jobs.train", "TrainMaker", quarantine=stored("ace.quarantine", "LabelQuarantine", n_sigma=7.0))
    rule, train = MontyDecoder().decode(json.dumps([rule, train]))
    assert rule == StopRule(criterion=Criteria([PropertyCriterion(["phonons"])]), max_cycles=3)
    assert train.outliers.n_sigma == 7
    again = rule.as_dict()
    assert "property_gate" not in again
    assert StopRule.from_dict(again) == rule


def test_settings_are_known_by_their_earlier_names():
    with pytest.warns(DeprecationWarning, match="property_gate of StopRule is now criterion"):
        rule = StopRule(property_gate=PropertyCriterion())
    assert rule.criterion == PropertyCriterion()
    with pytest.warns(DeprecationWarning, match=r"StopRule\.property_gate is now criterion"):
        assert rule.property_gate is rule.criterion
    with pytest.warns(DeprecationWarning, match="property_gate"):
        assert replace(rule, property_gate=None).criterion is None
    maker = TrainMaker()
    with pytest.warns(DeprecationWarning, match=r"TrainMaker\.quarantine is now outliers"):
        maker.quarantine = None
    assert maker.outliers is None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        maker.nothing


@dataclass
class EarlierRule(StopRule):
    """A rule that somebody wrote for version 0.1.0."""

    property_gate: PropertyCriterion | None = field(default_factory=PropertyCriterion)


def test_a_subclass_that_declares_an_earlier_name_sets_the_field_of_today():
    with pytest.warns(DeprecationWarning, match="property_gate is now criterion"):
        assert EarlierRule().criterion == PropertyCriterion()


def test_earlier_methods_of_a_database_call_those_of_today(memory_jobstore):
    campaigns = Campaigns(memory_jobstore)
    with pytest.warns(DeprecationWarning, match=r"Campaigns\.quarantined is now outliers"):
        assert campaigns.quarantined("c") == {}
    with pytest.warns(DeprecationWarning, match=r"with_quarantined of Campaigns\.dataset is now with_outliers"):
        assert campaigns.dataset("c", with_quarantined=True) == []


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (CandidateGenerator, "n_modes", 8),
        (CutoutGenerator, "composition_tolerance", 0.1),
        (StructureGenerator, "pair_cutoff", 5.0),
        (ThresholdAdapter, "quantile", 0.9),
        (OutlierRule, "n_largest", 2.0),
    ],
)
def test_a_setting_that_is_gone_is_said_where_it_was_another_than_the_default(cls, name, value, recwarn):
    made = cls()
    assert name not in made.as_dict()
    assert cls(**{name: value}) == cls.from_dict({**made.as_dict(), name: value}) == made
    assert not recwarn
    said = f"{cls.__name__}.{name} is not a setting any more: 0.3 is ignored, {value} holds"
    with pytest.warns(UserWarning, match=re.escape(said)):
        assert cls(**{name: 0.3}) == made
    with pytest.warns(UserWarning, match=re.escape(said)):
        assert getattr(cls.from_dict({**made.as_dict(), name: 0.3}), name) == value
    with pytest.warns(UserWarning, match=re.escape(said)):
        model = sections.section(cls)(**{name: 0.3})
    assert name not in model.model_dump()
