"""Whether an ASE calculator can be asked at all: the elements it was made for, the arguments it knows."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase.calculators.calculator import Calculator, FileIOCalculator
from ase.calculators.genericfileio import GenericFileIOCalculator
from pydantic import ImportString, TypeAdapter, ValidationError

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

#: Depth of the Lennard-Jones potential of noble gases in eV.
NOBLE_GASES = {"Ne": 0.0031, "Ar": 0.0104, "Kr": 0.0142, "Xe": 0.0200}
#: Metals that ASE's effective medium theory was made for. It has H, C, N and O too, as toys for tests.
EMT_METALS = frozenset("Al Cu Ag Au Ni Pd Pt".split())
#: Calculators with one set of parameters for all atoms, whatever their elements.
_ONE_SPECIES = frozenset(
    ["ase.calculators.lj.LennardJones", "ase.calculators.morse.MorsePotential", "ase.calculators.eam.Morse"]
)
#: Parameters whose defaults in ASE are the number 1 in eV and A: they describe no element.
_NEEDED = {
    "ase.calculators.lj.LennardJones": ("sigma", "epsilon"),
    "ase.calculators.morse.MorsePotential": ("epsilon", "r0", "rho0"),
}
#: Potentials of positions alone: they have no electrons, and take any periodicity.
POTENTIALS = frozenset(
    [
        "ase.calculators.emt.EMT",
        "ase.calculators.lj.LennardJones",
        "ase.calculators.morse.MorsePotential",
        "ase.calculators.eam.EAM",
    ]
)
_EMT = frozenset(["ase.calculators.emt.EMT"])
_EAM = frozenset(["ase.calculators.eam.EAM"])
_TBLITE = frozenset(["tblite.ase.TBLite"])
#: The methods that tblite knows, by the names it takes.
_GFN_XTB_METHODS = ("GFN1-xTB", "GFN2-xTB", "IPEA1-xTB")
#: The heaviest element that GFN1-xTB and GFN2-xTB have parameters for: radon.
_GFN_XTB_LAST = 86
#: Calculators of makers that name none, by the class they derive from: static, or a relaxation of one step.
_OF_MAKERS = {
    "EMTStaticMaker": "ase.calculators.emt.EMT",
    "EmtRelaxMaker": "ase.calculators.emt.EMT",
    "LennardJonesRelaxMaker": "ase.calculators.lj.LennardJones",
    "GFNxTBRelaxMaker": "tblite.ase.TBLite",
    "EspressoStaticMaker": "ase.calculators.espresso.Espresso",
}


def calculator_of(maker: Any) -> str | None:
    """Return the import path of the calculator of a static maker, None where it is not known."""
    if named := getattr(maker, "calculator_class", None):
        return str(named)
    meta = getattr(maker, "calculator_meta", None)  # of force field makers: the name of a model, or an import path
    if isinstance(meta, str) and "." in meta:
        return meta
    return next((_OF_MAKERS[cls.__name__] for cls in type(maker).__mro__ if cls.__name__ in _OF_MAKERS), None)


def takes_any_pbc(maker: Any) -> bool:
    """
    Return whether an oracle computes structures that are periodic along some cell vectors only.

    Codes with plane waves repeat every cell in three directions, and so do GFN-xTB and others where one is periodic.
    A maker of one's own says so by an attribute ``any_pbc``.

    Parameters
    ----------
    maker
        A static maker.
    """
    own = getattr(maker, "any_pbc", None)
    return bool(own) if own is not None else calculator_of(maker) in POTENTIALS


def imported(name: str) -> Any:
    """Return what an import path of a calculator names, None where it cannot be imported: the worker may have it."""
    try:
        return TypeAdapter(ImportString[Any]).validate_python(name)
    except ValidationError:
        return None


def import_named(name: str, where: str) -> Any:
    """
    Import what an import path names.

    Parameters
    ----------
    name
        The path.
    where
        The setting that holds it, with which the message begins.

    Raises
    ------
    InvalidInputError
        It cannot be imported: the message says whether that is the module, or the class in it.
    """
    try:
        return TypeAdapter(ImportString[Any]).validate_python(name)
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Invalid python path: ")
        module, _, wanted = name.rpartition(".")
        if (found := sys.modules.get(module)) is not None and not hasattr(found, wanted):  # pydantic tells of a package
            classes = [key for key, value in vars(found).items() if isinstance(value, type)]
            close = get_close_matches(wanted, classes, n=1, cutoff=0.8)
            why = f"{module} has no class {wanted}" + (f"; did you mean {close[0]}?" if close else "")
        raise InvalidInputError(f"{where}: '{name}' cannot be imported: {why}") from error


def check_elements(maker: Any, elements: Sequence[str]) -> None:
    """
    Refuse elements that the calculator of a maker gives numbers for that mean nothing, or has no file for.

    A calculator whose parameters describe no element, or that gives no forces, is refused as well.

    Parameters
    ----------
    maker
        A static maker; one whose calculator is not known here may be asked for everything.
    elements
        Of the campaign.

    Raises
    ------
    InvalidInputError
        The message names the elements and what to do.
    """
    from ase.data import atomic_numbers

    name, arguments = calculator_of(maker), getattr(maker, "calculator_kwargs", None) or {}
    if missing := [key for key in _NEEDED.get(name or "", ()) if key not in arguments]:
        raise InvalidInputError(
            f"calculator_kwargs of {name} lacks {', '.join(missing)}; ASE's default of 1 (eV, A) describes no element. "
            "Give values for yours"
        )
    files = getattr(maker, "pseudopotentials", arguments.get("pseudopotentials"))
    if isinstance(files, dict) and (missing := sorted(set(elements) - set(files))):
        raise InvalidInputError(
            f"pseudopotentials of {type(maker).__name__} has no file for {', '.join(missing)}, only for "
            f"{', '.join(sorted(files)) or 'no element'}"
        )
    found: Any = imported(name) if name else None
    given = getattr(found, "implemented_properties", None)
    if isinstance(given, (list, tuple, set, frozenset)) and given and "forces" not in given:
        raise InvalidInputError(f"{name} gives no forces, only {', '.join(sorted(given))}; a label needs them")
    if name in _EAM and Path(str(arguments.get("potential", ""))).is_file():
        known = set(found(**arguments).elements)
        if strange := sorted(set(elements) - known):
            raise InvalidInputError(
                f"the EAM potential '{arguments['potential']}' is for {', '.join(sorted(known))}, not for "
                f"{', '.join(strange)}"
            )
    if name in _EMT and (strange := sorted(set(elements) - EMT_METALS)):
        raise InvalidInputError(
            f"the oracle EMT was made for {', '.join(sorted(EMT_METALS))} and not for {', '.join(strange)}: its H, C, "
            "N and O parameters are for tests only, other elements have none. Use another oracle"
        )
    if name in _ONE_SPECIES and len(set(elements)) > 1:
        raise InvalidInputError(
            f"the oracle {name.rpartition('.')[2]} has one set of parameters for all atoms, and the structures hold "
            f"{', '.join(sorted(set(elements)))}: it would label them as one element"
        )
    if name in _TBLITE and (heavy := sorted(e for e in set(elements) if atomic_numbers[e] > _GFN_XTB_LAST)):
        raise InvalidInputError(f"GFN-xTB has no parameters for {', '.join(heavy)}; it ends with radon")
    if name in _TBLITE and (method := arguments.get("method", _GFN_XTB_METHODS[0])) not in _GFN_XTB_METHODS:
        raise InvalidInputError(
            f"calculator_kwargs of {name} has method: {method}, which tblite does not know; give one of "
            f"{', '.join(_GFN_XTB_METHODS)}"
        )


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """
    Refuse arguments that a calculator does not know: many take any keyword and ignore it.

    Parameters
    ----------
    name
        Import path of the class of the calculator. Codes that write input files take what their input knows, which is
        not checked here.
    arguments
        What it is made with.

    Raises
    ------
    InvalidInputError
        For a class that does not know an argument, or cannot be imported although its package is here.
    """
    if not name:
        raise InvalidInputError(
            "calculator_class is missing: name the class of the ASE calculator that labels, for instance "
            "ase.calculators.abinit.Abinit; there is no default"
        )
    try:
        found = import_named(name, "calculator_class")
    except InvalidInputError:
        if find_spec(name.partition(".")[0]) is None:  # it is on the worker perhaps, which says so if it is not
            logger.warning("the arguments of %s are not checked here: its package is not installed", name)
            return
        raise
    if not isinstance(found, type) or not issubclass(found, Calculator):
        return
    if issubclass(found, (FileIOCalculator, GenericFileIOCalculator)) or not found.default_parameters:
        return
    known = set(found.default_parameters)
    for cls in found.__mro__:
        if (constructor := vars(cls).get("__init__")) is not None:
            known |= set(inspect.signature(constructor).parameters)
    unknown = sorted(key for key in set(arguments) - known if not _is_read(found, key))
    if unknown:
        known -= {"self", "args", "kwargs", "restart", "ignore_bad_restart_file", "label", "atoms", "directory"}
        raise InvalidInputError(f"{name} does not know {', '.join(unknown)}; it knows {', '.join(sorted(known))}")


def check_calculator(maker: Any, elements: Sequence[str]) -> None:
    """
    Refuse a maker whose calculator does not know an argument or an element: it would compute something else.

    Parameters
    ----------
    maker, elements
        As for :func:`check_elements`.
    """
    if (name := calculator_of(maker)) is not None or hasattr(maker, "calculator_class"):
        check_arguments(name or "", getattr(maker, "calculator_kwargs", None) or {})
    check_elements(maker, elements)


def _is_read(calculator: type[Calculator], key: str) -> bool:
    """Return whether the source of a calculator has a word as text or attribute: not all it reads has a default."""
    word = re.compile(rf"""['"]{re.escape(key)}['"]|\.{re.escape(key)}\b""")
    for cls in calculator.__mro__:
        if cls is Calculator or not issubclass(cls, Calculator):
            continue
        try:
            if word.search(inspect.getsource(sys.modules[cls.__module__])):
                return True
        except (OSError, TypeError):  # without source nothing is known
            return True
    return False
