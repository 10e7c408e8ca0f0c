"""
Where modules, classes and settings of earlier versions are now.

Stored makers and documents name their classes by module (``@module``), FireWorks names its tasks so, and other
packages import from here. Each old name below gives the module of today itself, with a DeprecationWarning.
"""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

F = TypeVar("F")

#: Packages of earlier versions of which nothing is left.
EMPTIED = ("ace", "generate")
#: Old and new names of modules, below the package.
MOVED = {
    "ace.accuracy": "training.accuracy",
    "ace.activeset": "active_learning.activeset",
    "ace.basis": "potentials.basis",
    "ace.calculators": "potentials.calculators",
    "ace.calibration": "active_learning.calibration",
    "ace.comparison": "validation.comparison",
    "ace.core": "potentials.core",
    "ace.coverage": "active_learning.coverage",
    "ace.crystals": "validation.crystals",
    "ace.duplicates": "active_learning.duplicates",
    "ace.elasticity": "validation.elasticity",
    "ace.equation_of_state": "validation.equation_of_state",
    "ace.gates": "validation.criteria",
    "ace.grace": "training.grace",
    "ace.linear": "training.linear",
    "ace.pacemaker": "training.pacemaker.trainer",
    "ace.pacemaker_files": "training.pacemaker.files",
    "ace.pacemaker_input": "training.pacemaker.input",
    "ace.pacemaker_log": "training.pacemaker.log",
    "ace.pacemaker_run": "training.pacemaker.run",
    "ace.potential": "potentials.potential",
    "ace.program": "training.program",
    "ace.projections": "potentials.projections",
    "ace.properties": "validation.properties",
    "ace.quarantine": "active_learning.outliers",
    "ace.training": "training.training",
    "ace.vibrations": "validation.vibrations",
    "firetask": "managers.fireworks.firetask",
    "generate.boxes": "cutouts.boxes",
    "generate.candidates": "sampling.candidates",
    "generate.cutout": "cutouts.cutout",
    "generate.cutting": "cutouts.cutting",
    "generate.dimers": "structures.dimers",
    "generate.distances": "structures.distances",
    "generate.distort": "structures.distort",
    "generate.layout": "cutouts.layout",
    "generate.modes": "sampling.modes",
    "generate.pieces": "cutouts.pieces",
    "generate.seams": "cutouts.boundaries",
    "generate.seeds": "sampling.seeds",
    "generate.supercells": "structures.supercells",
    "generate.surroundings": "cutouts.surroundings",
    "jobs.quarantine": "jobs.outliers",
    "lammps.deck": "lammps.input_script",
    "lammps.script": "lammps.structures",
    "launchpad": "managers.fireworks.launchpad",
    "oracle.espresso": "jobs.espresso",
    "oracle.run": "jobs.run_oracle",
    "oracle.static": "jobs.static",
    "oracle.validation": "validation.oracle_md",
}


#: Modules that are packages of their own now.
APART = {"testing.vasp": "vasp_stand_in"}

_FIRST = {new: old for old, new in MOVED.items()}


def first_name(module: str) -> str:
    """
    Return the name a module had when it was first published, which stays when it moves.

    Keys of labels are made of it, so that moving a file makes no label unknown.

    Parameters
    ----------
    module
        Its full name today, of this package or any other.
    """
    package, _, name = module.partition(".")
    return f"{package}.{_FIRST[name]}" if package == "mlip_autopipec" and name in _FIRST else module


class _Found(Loader):
    """Gives a module of today for an old name."""

    def __init__(self, old: str, new: str | None) -> None:
        self.old, self.new = old, new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module of today; a package of which nothing is left is an empty one."""
        if self.new is None:
            package = ModuleType(spec.name)
            package.__path__ = []
            return package
        warnings.warn(f"{self.old} is now {self.new}", DeprecationWarning, stacklevel=2)
        module = import_module(self.new)
        self.spec = module.__spec__  # the import system is about to replace it
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is: it has been executed."""
        if self.new is not None:
            module.__spec__ = self.spec


class _Finder(MetaPathFinder):
    """Knows the old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer the import system, which asks once all others know nothing of a name."""
        del path, target
        package, _, name = fullname.partition(".")
        if package != "mlip_autopipec":
            return None
        if name in EMPTIED:
            return ModuleSpec(fullname, _Found(fullname, None), is_package=True)
        if name in APART:
            return ModuleSpec(fullname, _Found(fullname, APART[name]))
        if name in MOVED:
            return ModuleSpec(fullname, _Found(fullname, f"{package}.{MOVED[name]}"))
        return None


def install() -> None:
    """Let the import system know the old names; once is enough."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _say(old: str, new: str) -> None:
    """Warn of a name that is out of use, at the line of the caller's caller."""
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)


def renamed_classes(module: str, **names: str) -> Callable[[str], Any]:
    """
    Return a module's ``__getattr__`` that finds its classes by their earlier names, stored ``@class`` names included.

    Parameters
    ----------
    module
        Full name of the module.
    **names
        Names of today by the earlier ones.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        _say(f"{module}.{name}", names[name])
        return getattr(sys.modules[module], names[name])

    return find


def renamed_keywords(**names: str) -> Callable[[F], F]:
    """
    Let a function accept its keywords by their earlier names.

    Parameters
    ----------
    **names
        Names of today by the earlier ones. Where both are given, as ``dataclasses.replace`` does, the
        earlier one holds.
    """

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def renamed(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                _say(f"{old} of {function.__qualname__.removesuffix('.__init__')}", names[old])
                kwargs[names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        renamed.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return renamed

    return decorate


def renamed_fields(**names: str) -> Callable[[F], F]:
    """
    Let a dataclass that monty stores be made, read and changed by earlier names of its fields.

    Subclasses may still declare a field by its earlier name.

    Parameters
    ----------
    **names
        Names of today by the earlier ones.
    """

    def decorate(cls: Any) -> Any:
        cls.__init__ = renamed_keywords(**names)(cls.__init__)

        def read(self: Any, name: str) -> Any:
            if name not in names:
                raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
            _say(f"{type(self).__name__}.{name}", names[name])
            return getattr(self, names[name])

        def change(self: Any, name: str, value: Any) -> None:
            if name in names:
                _say(f"{type(self).__name__}.{name}", names[name])
            object.__setattr__(self, names.get(name, name), value)

        def from_dict(one: Any, d: Mapping[str, Any]) -> Any:
            return super(cls, one).from_dict({names.get(key, key): value for key, value in d.items()})

        cls.__getattr__, cls.__setattr__, cls.from_dict = read, change, classmethod(from_dict)
        return cls

    return decorate


def dropped_fields(*names: str, **renamed: str) -> Callable[[F], F]:
    """
    Let a dataclass that monty stores be made with fields that it does not have any more: they are said and ignored.

    Parameters
    ----------
    *names
        Those fields; each is a class variable with the value that holds.
    **renamed
        Such fields whose class variable has another name, which is the value.
    """
    constants = {name: name for name in names} | renamed

    def decorate(cls: Any) -> Any:
        init = cls.__init__

        def keep(given: Mapping[str, Any]) -> dict[str, Any]:
            for name, constant in constants.items():
                if name in given and given[name] != (value := getattr(cls, constant)):
                    warnings.warn(
                        f"{cls.__name__}.{name} is not a setting any more: {given[name]} is ignored, {value} holds",
                        stacklevel=3,
                    )
            return {key: value for key, value in given.items() if key not in constants}

        @functools.wraps(init)
        def without(*args: Any, **kwargs: Any) -> None:
            init(*args, **keep(kwargs))

        def from_dict(one: Any, d: Mapping[str, Any]) -> Any:
            return super(cls, one).from_dict(keep(d))

        without.__signature__ = inspect.signature(init)  # type: ignore[attr-defined]
        cls.__init__, cls.from_dict, cls.dropped = without, classmethod(from_dict), staticmethod(keep)
        return cls

    return decorate


def renamed_method(old: str, new: str) -> Any:
    """
    Return a method that warns and calls the one of today.

    Parameters
    ----------
    old, new
        Its earlier name and the one of today.
    """

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        _say(f"{type(self).__name__}.{old}", new)
        return getattr(self, new)(*args, **kwargs)

    call.__name__, call.__doc__ = old, f"Call :meth:`{new}`, its name of today."
    return call
