"""Any static maker of atomate2, by its import path, as an oracle of a run file."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from jobflow import Maker

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.static import CALCULATORS
from mlip_autopipec.kinds import OracleKind, added_packages
from mlip_autopipec.oracle.suitability import import_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Packages whose makers a run file may name.
MAKERS = frozenset(["atomate2"])
#: Fields of force field makers that are names of models, or import paths of calculators.
_IMPORTED = frozenset(["force_field_name", "calculator_meta"])


def make_static_maker(maker_class: str, maker_kwargs: Mapping[str, Any] | None = None) -> Maker:
    """
    Make a static maker by the import path of its class.

    Parameters
    ----------
    maker_class
        For instance ``atomate2.forcefields.jobs.ForceFieldStaticMaker``.
    maker_kwargs
        Its fields, plain data. Fields that are dataclasses themselves, such as ``input_set_generator``, take keys and
        values; what is left out keeps the default of the maker.

    Raises
    ------
    InvalidInputError
        The class is no maker, is of no package that a run file may name, relaxes, or does not take these fields.
    """
    cls, given = _class_of(maker_class), dict(maker_kwargs or {})
    _check_named(given)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    if unknown := sorted(set(given) - set(known)):
        raise InvalidInputError.of(
            "maker.maker_kwargs", f"has {unknown}, which {maker_class} does not take; it takes {sorted(known)}"
        )
    for name, value in given.items():
        make_default = known[name].default_factory
        if isinstance(value, dict) and make_default is not dataclasses.MISSING:
            default = make_default()
            if dataclasses.is_dataclass(default) and not isinstance(default, type):
                inner = {f.name for f in dataclasses.fields(default) if f.init}
                if unknown := sorted(set(value) - inner):
                    raise InvalidInputError.of(f"maker.maker_kwargs.{name}", f"has {unknown}; it takes {sorted(inner)}")
                given[name] = dataclasses.replace(default, **value)
    try:
        maker = cls(**given)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"maker: {maker_class} cannot be made: {error}") from error
    if (steps := getattr(maker, "steps", 1)) != 1:  # of a relaxation that takes one, atomate2 makes a single point
        raise InvalidInputError.of(
            "maker.maker_kwargs.steps",
            f"is {steps} with {maker_class}, which then relaxes the structure, and a label is of the structure as it "
            "is; set steps: 1, or name its static maker",
        )
    return maker


def check(maker: Mapping[str, Any]) -> None:
    """Import nothing but makers, of packages that a run file may name."""
    name = maker.get("maker_class")
    if not name:
        raise InvalidInputError(
            "maker.maker_class is missing: name the static maker that labels, for instance "
            "atomate2.forcefields.jobs.ForceFieldStaticMaker; there is no default"
        )
    _class_of(name)
    _check_named(dict(maker.get("maker_kwargs") or {}))


def _class_of(name: Any) -> type:
    where = "maker.maker_class"
    if not isinstance(name, str) or not re.fullmatch(r"\w+(\.\w+)+", name):
        raise InvalidInputError(f"{where}: {name!r} is no import path of a class")
    _refuse_package(name, where, MAKERS | added_packages())
    found = import_named(name, where)
    if not (isinstance(found, type) and issubclass(found, Maker) and dataclasses.is_dataclass(found)):
        raise InvalidInputError(
            f"{where}: '{name}' is not a class of makers of jobs; give one, for instance "
            "atomate2.forcefields.jobs.ForceFieldStaticMaker"
        )
    return found


def _refuse_package(name: str, where: str, packages: frozenset[str]) -> None:
    if not any(name.startswith(f"{package}.") for package in packages):
        raise InvalidInputError(
            f"{where}: '{name}' is of no package that a run file may name here ({', '.join(sorted(packages))}); "
            "nothing was imported. Set MLIP_AUTOPIPEC_CODE_FROM to its package if you trust it"
        )


def _check_named(value: Any, where: str = "maker.maker_kwargs") -> None:
    """Refuse classes and functions, named as monty does, that atomate2 would import and call: calculators alone."""
    if isinstance(value, dict):  # atomate2 imports these strings as well
        for name in _IMPORTED & set(value):
            if isinstance(value[name], str) and "." in value[name].removeprefix("MLFF."):
                _refuse_package(value[name], f"{where}.{name}", CALCULATORS | added_packages())
    for place, module, called in _named(value, where):
        _refuse_package(f"{module}.{called}", f"{place}.@module", CALCULATORS | added_packages())
        if not isinstance(called, str) or not re.fullmatch(r"\w+", called):
            raise InvalidInputError(f"{place}: '{called}' is no name of a class; give '@callable' beside '@module'")


def _named(value: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, dict):
        if any(str(key).startswith("@") for key in value):
            yield where, str(value.get("@module")), value.get("@callable", value.get("@class"))
        for key, item in value.items():
            yield from _named(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _named(item, f"{where}.{number}")


KIND = OracleKind(
    maker="mlip_autopipec.jobs.any_maker.make_static_maker",
    about="any static maker of atomate2",
    template="""\
  maker:
    maker_class: atomate2.forcefields.jobs.ForceFieldStaticMaker
    maker_kwargs: {force_field_name: MACE-MP-0}   # its fields; see docs/oracles.md
""",
    check=check,
)
