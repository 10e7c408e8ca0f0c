"""The page of settings has every setting of a run file with its default, and says why."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, get_args

import pytest
from paths import ROOT

from mlip_autopipec.kinds import TRAINERS
from mlip_autopipec.runfile.fields import Strict
from mlip_autopipec.runfile.model import RunFile

PAGE = (ROOT / "docs" / "settings.md").read_text()
KINDS_OF_TRAINER = re.findall(r"^## `trainer: {kind: (\w+)}`$", PAGE, re.MULTILINE)
SECTIONS = re.findall(r"^## `(\w+)`$", PAGE, re.MULTILINE)


def model_of(hint: Any) -> type[Strict]:
    """The model in the type hint of a section."""
    if isinstance(hint, type) and issubclass(hint, Strict):
        return hint
    return next(model_of(part) for part in get_args(hint) if part is not type(None))


def shown(field: Any) -> str:
    if field.is_required():
        return "required"
    return written(field.get_default(call_default_factory=True))


def written(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    return "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_all_sections_with_settings_of_their_own_are_there():
    left_out = {"name", "seed", "structures", "ladder", "trainer", "criteria", "start_from"}
    assert set(SECTIONS) == set(RunFile.model_fields) - left_out


@pytest.mark.parametrize("section", SECTIONS)
def test_defaults_are_those_of_the_code_and_have_a_reason(section):
    rows = rows_of(section)
    fields = model_of(RunFile.model_fields[section].annotation).model_fields
    assert {name: default for name, default, _ in rows} == {name: shown(field) for name, field in fields.items()}
    assert all(len(why) > 3 for *_, why in rows)


def rows_of(section: str) -> list[tuple[str, str, str]]:
    """Return setting, default and reason of each row of a section."""
    text = PAGE.split(f"## `{section}`\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| (.*?) \| (.+) \|$", text, re.MULTILINE)


def test_all_trainers_are_there():
    assert set(KINDS_OF_TRAINER) == set(TRAINERS)


@pytest.mark.parametrize("kind", KINDS_OF_TRAINER)
def test_defaults_of_trainers_are_those_of_the_code_and_have_a_reason(kind):
    trainer = TRAINERS[kind].trainer
    values = {field.name: written(getattr(trainer(), field.name)) for field in dataclasses.fields(trainer)}
    rows = rows_of(f"trainer: {{kind: {kind}}}")
    assert {name: default for name, default, _ in rows} == {**values, "basis": "see below"}
    assert all(len(why) > 0 for *_, why in rows)
