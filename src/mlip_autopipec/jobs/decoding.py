"""Objects out of stored documents: of this package's classes and those of the makers, and of no others."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from typing import Any

from jobflow import Maker
from monty.json import MontyDecoder, MSONable

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.kinds import added_packages

#: Packages whose classes a document may name: this one, and those that makers are made of.
PACKAGES = frozenset(["mlip_autopipec", "atomate2", "jobflow", "pymatgen", "emmet", "custodian", "monty"])
#: Of these packages what opens connections or reads other files.
_NOT = ("pymatgen.ext", "pymatgen.cli", "atomate2.cli", "jobflow.managers", "mlip_autopipec.cli")
#: Values that monty writes with the name of their class.
_VALUES = frozenset(
    [
        ("datetime", "datetime"),
        ("uuid", "UUID"),
        ("pathlib", "Path"),
        ("numpy", "array"),
        ("numpy", "generic"),
        ("bson.objectid", "ObjectId"),
    ]
)


def decoded(content: Any, what: str) -> Any:
    """
    Make the objects that a stored document describes.

    monty would import any module that a document names and make any object. Here all names are looked at before
    anything is made.

    Parameters
    ----------
    content
        Lists and dictionaries out of a database or JSON.
    what
        The document, for messages.

    Raises
    ------
    MLIPError
        It names a class that is neither of :data:`PACKAGES`, nor of a package that adds kinds of its own, nor of one
        named in MLIP_AUTOPIPEC_CODE_FROM, nor a part of a campaign in a module that this process has imported itself.
    """
    todo = [content]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            module, name = value.get("@module"), value.get("@class", value.get("@callable"))
            if module is not None and name is not None and not _is_known(str(module), str(name)):
                raise MLIPError(
                    f"{what} names '{module}.{name}', which is not made from a document: it is of no package that "
                    f"makers are made of ({', '.join(sorted(PACKAGES))}). If it is yours, import it before, or set "
                    f"MLIP_AUTOPIPEC_CODE_FROM={str(module).partition('.')[0]}"
                )
            todo += value.values()
        elif isinstance(value, (list, tuple)):
            todo += value
    return MontyDecoder().process_decoded(content)


@lru_cache(maxsize=1024)
def _is_known(module: str, name: str) -> bool:
    """Tell whether an object of this name may be made; nothing is imported of packages that are not known."""
    if (module, name) in _VALUES:
        return True
    if moved := MSONable.REDIRECT.get(module, {}).get(name):
        module, name = moved["@module"], moved["@class"]
    packages = PACKAGES | added_packages()
    if module.partition(".")[0] not in packages:
        found = _attribute(sys.modules.get(module), name)
        return isinstance(found, type) and _is_part(found)
    if module.startswith(_NOT):
        return False
    try:
        found = _attribute(import_module(module), name)
    except ImportError:
        return True  # monty leaves what it cannot import as it is
    # `from x import y` gives a module names of other packages
    home = str(getattr(found, "__module__", ""))
    return found is not None and home.partition(".")[0] in packages and not home.startswith(_NOT)


def _attribute(found: Any, name: str) -> Any:
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _is_part(cls: type) -> bool:
    """Tell whether a class derives from a maker or from a class of this package."""
    return issubclass(cls, Maker) or any(base.__module__.startswith("mlip_autopipec.") for base in cls.__mro__)
