"""Sections of a run file made from the dataclasses they fill: same names, same defaults, same descriptions."""

from __future__ import annotations

import dataclasses
import inspect
import re
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator
from pydantic.fields import FieldInfo

_NAMES = re.compile(r"^\w+(, \w+)*$")


class Strict(BaseModel):
    """A part of a run file, which has no other keys than these."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _no_truth(value: Any) -> Any:
    """Refuse what YAML makes of yes, no, on, off and true where a number is asked for; pydantic takes 1 for it."""
    if isinstance(value, bool):
        raise ValueError("is true or false, as YAML reads yes, no, on and off; give a number")  # noqa: TRY004 pydantic's
    return value


#: Numbers of a run file.
Number = Annotated[float, BeforeValidator(_no_truth)]
Whole = Annotated[int, BeforeValidator(_no_truth)]


def section(cls: type, *leave_out: str, model_name: str | None = None, **extra: Any) -> type[Strict]:
    """
    Make the model of a run-file section from the dataclass it fills.

    Parameters
    ----------
    cls
        The dataclass. Fields that are dataclasses themselves become sections, never objects of a class that the
        file names (as monty would make them).
    *leave_out
        Fields a run file does not have.
    model_name
        Name of the model in the JSON schema; that of the dataclass by default.
    **extra
        Further fields, as for pydantic's ``create_model``, or other ones in place of those of the dataclass.
    """
    hints, described = get_type_hints(cls), parameter_descriptions(cls)
    fields: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        if f.name in leave_out or f.name in extra:
            continue
        told: dict[str, Any] = {"description": described.get(f.name)}
        if f.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=f.default_factory, **told)
        else:
            default = Field(... if f.default is dataclasses.MISSING else f.default, **told)
        fields[f.name] = (_nested(hints[f.name]), default)
    for name, (hint, default) in extra.items():
        field = default if isinstance(default, FieldInfo) else Field(default, description=described.get(name))
        fields[name] = (hint, field)
    summary = (inspect.getdoc(cls) or "").split("\n", 1)[0]
    checks: dict[str, Any] = {}
    if drop := getattr(cls, "dropped", None):  # settings of earlier versions
        checks["_drop"] = model_validator(mode="before")(
            lambda given: drop(given) if isinstance(given, dict) else given
        )
    return create_model(model_name or cls.__name__, __base__=Strict, __doc__=summary, __validators__=checks, **fields)


def _nested(hint: Any) -> Any:
    """Return the hint of a field in a run file: dataclasses become sections, numbers take no true and false."""
    if hint in (float, int):
        return Number if hint is float else Whole
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return section(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        # of a dataclass or something else, a class that the file names would be made
        if NoneType not in inner and any(dataclasses.is_dataclass(choice) for choice in inner):
            return hint
        return Union[tuple(map(_nested, inner))]  # noqa: UP007 - made at run time
    if origin in (list, tuple, dict):
        return origin[tuple(one if one is Ellipsis else _nested(one) for one in inner)]
    return hint


def parameter_descriptions(cls: type) -> dict[str, str]:
    """Return what the numpy-style docstrings of a class and its bases say of each parameter, in one line."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        doc = inspect.cleandoc(one.__dict__.get("__doc__") or "")
        _, _, below = doc.partition("Parameters\n----------\n")
        names: list[str] = []
        for line in re.split(r"\n\w+\n-{3,}", below)[0].splitlines():
            if _NAMES.match(line):
                names = line.split(", ")
                found.update(dict.fromkeys(names, ""))
            elif line.strip():
                for name in names:
                    found[name] = f"{found[name]} {_plain(line.strip())}".strip()
    return {name: text for name, text in found.items() if text}


def _plain(text: str) -> str:
    """Take the markup out of a line of a docstring."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    return text.replace("``", "")
