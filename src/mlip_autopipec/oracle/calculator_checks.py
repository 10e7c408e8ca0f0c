"""What an ASE calculator is asked before a campaign: its parameters, its elements, whether it gives forces.

ASE asks none of it. EMT, Lennard-Jones and TBLite take any keyword and go on with their defaults. EMT has parameters
of H, C, N and O that ASE calls "not for any serious use". Lennard-Jones has one sigma for all elements: 1 A.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase.calculators.calculator import Calculator, FileIOCalculator
from ase.data import atomic_numbers
from pydantic import ImportString, TypeAdapter, ValidationError

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Metals that ASE's effective medium theory was made for. Its parameters of H, C, N and O are placeholders.
EMT_METALS = frozenset(["Al", "Cu", "Ag", "Au", "Ni", "Pd", "Pt"])

#: What a maker for any ASE calculator is told that names none.
NO_CALCULATOR_CLASS = (
    "calculator_class is missing, and there is no default; give the import path of an ASE calculator, for instance "
    "ase.calculators.abinit.Abinit, and what it is made with in calculator_kwargs"
)
#: Calculators of makers that hold no ``calculator_class``, by the class that makes them.
_MADE_BY = {
    "mlip_autopipec.jobs.static.EMTStaticMaker": "ase.calculators.emt.EMT",
    "atomate2.ase.jobs.EmtRelaxMaker": "ase.calculators.emt.EMT",
    "atomate2.ase.jobs.LennardJonesRelaxMaker": "ase.calculators.lj.LennardJones",
    "atomate2.ase.jobs.GFNxTBRelaxMaker": "tblite.ase.TBLite",
}
#: Parameters whose defaults in ASE are the number 1 in eV and A: they describe no element.
_NEEDED = {
    "ase.calculators.lj.LennardJones": ("sigma", "epsilon"),
    "ase.calculators.morse.MorsePotential": ("epsilon", "r0", "rho0"),
}
#: Element up to which the parameters of GFN1-xTB and GFN2-xTB go: radon.
_LAST_OF_XTB = 86
_XTB = ("tblite.ase.TBLite", "xtb.ase.calculator.XTB")


def check_calculator(maker: Any, elements: Sequence[str] = (), name: str = "static_maker") -> None:
    """
    Refuse a maker whose ASE calculator ignores a parameter, lacks one, does not know an element or gives no forces.

    Makers of other codes are not looked at. Nor is a calculator that is not installed here: it may be on the worker.

    Parameters
    ----------
    maker
        A static maker.
    elements
        Symbols of what is to be labelled; empty where they are not known yet.
    name
        What messages call the maker.

    Raises
    ------
    InvalidInputError
        Names the maker's field, its value, and what is allowed.
    """
    kwargs = getattr(maker, "calculator_kwargs", None) or {}
    _check_pseudopotentials(maker, kwargs, elements, name)
    path = calculator_path(maker)
    if path is None:
        if hasattr(maker, "calculator_class"):
            raise InvalidInputError(f"{name}: {NO_CALCULATOR_CLASS}")
        return
    found = _imported(path)
    if found is None:
        return
    try:
        check_parameters(found, kwargs)
        _check_needed(path, kwargs)
        _check_properties(found)
        _check_elements(path, found, kwargs, elements)
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}") from error


def calculator_path(maker: Any) -> str | None:
    """Return the import path of the ASE calculator that a static maker makes, where it is known."""
    if (given := getattr(maker, "calculator_class", None)) is not None:
        return str(given)
    for cls in type(maker).__mro__:
        if "_get_calculator" in vars(cls):
            return _MADE_BY.get(f"{cls.__module__}.{cls.__qualname__}")
    return None


def check_parameters(calculator_class: Any, kwargs: Mapping[str, Any]) -> None:
    """
    Refuse parameters that a calculator would ignore.

    Parameters
    ----------
    calculator_class
        Class of an ASE calculator. Those that run a program pass any keyword on to its input, and are not looked at.
    kwargs
        What it is to be made with.

    Raises
    ------
    InvalidInputError
        Names the parameter and those that are known.
    """
    known = known_parameters(calculator_class)
    unknown = sorted(set(kwargs) - known) if known is not None else []
    unknown = [key for key in unknown if not _is_mentioned(calculator_class, key)]
    if unknown:
        raise InvalidInputError(
            f"calculator_kwargs: {', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} no parameter of "
            f"{_path_of(calculator_class)}, "
            f"which would ignore it; known are {', '.join(sorted(known or ())) or 'none'}"
        )


def known_parameters(calculator_class: Any) -> set[str] | None:
    """
    Return the keywords of a calculator: those of its constructors, and its ``default_parameters``.

    Returns
    -------
    set of str or None
        None if any keyword may have a meaning: for calculators that write them to the input of a program, and for
        what is no class of a calculator.
    """
    if not isinstance(calculator_class, type) or not issubclass(calculator_class, Calculator):
        return None
    if issubclass(calculator_class, FileIOCalculator):
        return None
    known: set[str] = set(calculator_class.default_parameters)
    for cls in calculator_class.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
        known |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if cls is Calculator or not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return known


def assumptions(maker: Any, elements: Iterable[str]) -> list[str]:
    """
    Say what a calculator assumes without being told to.

    Parameters
    ----------
    maker
        A static maker.
    elements
        Symbols of what is to be labelled.

    Returns
    -------
    list of str
        One sentence each; empty where nothing is assumed.
    """
    path, kwargs = calculator_path(maker), getattr(maker, "calculator_kwargs", None) or {}
    found = _imported(path) if path is not None else None
    symbols, told = sorted(set(elements)), []
    if path in _NEEDED and len(symbols) > 1:
        told.append(f"{path} has one set of parameters: {', '.join(symbols)} are the same to it")
    if path == "ase.calculators.lj.LennardJones" and not kwargs.get("smooth"):
        radius = kwargs.get("rc") or 3 * kwargs.get("sigma", 1.0)
        told.append(f"{path} cuts off at {radius:g} A, where its forces jump; smooth: true avoids it")
    given = getattr(found, "implemented_properties", None)
    if isinstance(given, (list, tuple, set, frozenset)) and "stress" not in given:
        told.append(f"{path} gives no stress: the potential learns energies and forces alone")
    return told


def _check_needed(path: str, kwargs: Mapping[str, Any]) -> None:
    if missing := [key for key in _NEEDED.get(path, ()) if key not in kwargs]:
        raise InvalidInputError(
            f"calculator_kwargs of {path} lacks {', '.join(missing)}; ASE's default of 1 (eV, A) describes no element. "
            "Give values for yours"
        )


def _check_properties(calculator_class: Any) -> None:
    given = getattr(calculator_class, "implemented_properties", None)
    if isinstance(given, (list, tuple, set, frozenset)) and given and "forces" not in given:
        raise InvalidInputError(
            f"{_path_of(calculator_class)} gives no forces, only {', '.join(sorted(given))}; a label needs them"
        )


def _check_elements(path: str, calculator_class: Any, kwargs: Mapping[str, Any], elements: Sequence[str]) -> None:
    """Ask the calculators that know their elements; those that do not compute whatever they are given."""
    if path == "ase.calculators.emt.EMT":
        if strange := sorted(set(elements) - EMT_METALS):
            placeholders = sorted({"H", "C", "N", "O"} & set(strange))
            about = f" (ASE has placeholders for {', '.join(placeholders)}, not for any use)" if placeholders else ""
            raise InvalidInputError(
                f"EMT knows {', '.join(sorted(EMT_METALS))}, not {', '.join(strange)}{about}; name another oracle"
            )
    elif path in _XTB:
        if heavy := sorted(element for element in set(elements) if atomic_numbers[element] > _LAST_OF_XTB):
            raise InvalidInputError(f"GFN-xTB has parameters up to Rn, none for {', '.join(heavy)}")
    elif path == "ase.calculators.eam.EAM" and Path(str(kwargs.get("potential", ""))).is_file():
        known = set(calculator_class(**kwargs).elements)
        if strange := sorted(set(elements) - known):
            raise InvalidInputError(
                f"the EAM potential '{kwargs['potential']}' knows {', '.join(sorted(known))}, not {', '.join(strange)}"
            )


def _check_pseudopotentials(maker: Any, kwargs: Mapping[str, Any], elements: Sequence[str], name: str) -> None:
    given = getattr(maker, "pseudopotentials", kwargs.get("pseudopotentials"))
    if isinstance(given, dict) and (missing := sorted(set(elements) - set(given))):
        raise InvalidInputError(
            f"{name}: pseudopotentials of {type(maker).__name__} has no file for {', '.join(missing)}, only for "
            f"{', '.join(sorted(given)) or 'no element'}"
        )


def _imported(path: str) -> Any:
    try:
        return TypeAdapter(ImportString[Any]).validate_python(path)
    except ValidationError:
        return None


def _path_of(calculator_class: Any) -> str:
    return f"{calculator_class.__module__}.{calculator_class.__qualname__}"


def _is_mentioned(calculator_class: type[Calculator], key: str) -> bool:
    """Return whether the source of a calculator has a word as text or attribute: not all keywords have a default."""
    word = re.compile(rf"""['"]{re.escape(key)}['"]|\.{re.escape(key)}\b""")
    for cls in calculator_class.__mro__:
        if cls in (Calculator, object) or not issubclass(cls, Calculator):
            continue
        try:
            if word.search(inspect.getsource(sys.modules[cls.__module__])):
                return True
        except (OSError, TypeError):  # no source: nothing is known
            return True
    return False
