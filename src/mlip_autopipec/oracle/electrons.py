"""Charge, spin multiplicity and magnetic moments of a structure: which oracles take them, and how they are told."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.identity import bare
from mlip_autopipec.oracle.suitability import POTENTIALS, calculator_of
from mlip_autopipec.structures.electrons import MOMENTS, charge_of, moments_of, multiplicity_of, told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from pymatgen.core import Structure

logger = logging.getLogger(__name__)

_TOTAL = frozenset(["charge", "multiplicity"])
#: What each calculator takes of a structure, by its import path. A maker of one's own says so by an attribute
#: ``takes``; what it is given are ``atoms.info["charge"]`` (e), ``atoms.info["multiplicity"]`` and the initial moments.
_TAKES = {
    "tblite.ase.TBLite": _TOTAL,
    "ase.calculators.espresso.Espresso": _TOTAL | {"moments"},
    "ase.calculators.cp2k.CP2K": _TOTAL,
    "ase.calculators.vasp.Vasp": _TOTAL | {"moments"},
    "ase.calculators.vasp.vasp.Vasp": _TOTAL | {"moments"},
    # a charge has another keyword in each of their versions
    "ase.calculators.abinit.Abinit": frozenset(["moments"]),
    "ase.calculators.aims.Aims": frozenset(["moments"]),
}
#: Moments of one element that differ in sign by more than this (Bohr magnetons) are an order of their own.
_NO_MOMENT = 0.1


@dataclass(frozen=True)
class Told:
    """
    A maker as it computes one structure.

    Parameters
    ----------
    maker
        Of this structure.
    structure
        What it is given.
    settings
        Settings that were made for this structure, and the values that all structures of the oracle have instead;
        None where they have none. They belong to the structure, not to the level of theory.
    """

    maker: Any
    structure: Structure
    settings: Mapping[str, Any] = field(default_factory=dict)


def taken_by(maker: Any) -> frozenset[str]:
    """
    Return what an oracle takes of ``charge``, ``multiplicity`` and ``moments``.

    Parameters
    ----------
    maker
        A static maker. Those of VASP and CP2K are asked by what runs them, not here.
    """
    own = getattr(maker, "takes", None)
    return frozenset(own) if own is not None else _TAKES.get(calculator_of(maker) or "", frozenset())


def given_to(maker_name: str, taken: frozenset[str], atoms: Atoms, calculator: str | None = None) -> Atoms:
    """
    Return what an oracle is given of a structure.

    Parameters
    ----------
    maker_name
        How messages name the oracle.
    taken
        What it takes.
    atoms
        The structure.
    calculator
        Import path of its calculator, where it is known.

    Returns
    -------
    ase.Atoms
        As :func:`~mlip_autopipec.oracle.identity.bare`; without moments that the oracle does not take, if they have
        one sign on each element.

    Raises
    ------
    InvalidInputError
        The oracle would compute something else: another charge, spin or magnetic order.
    """
    given = bare(atoms)
    wanted = {"charge"} if charge_of(atoms) else set()
    wanted |= set() if multiplicity_of(atoms) is None else {"multiplicity"}
    if missing := wanted - taken:
        why = (
            "has no electrons"
            if calculator in POTENTIALS
            else f"is not known to take a {' or a '.join(sorted(missing))}"
        )
        raise InvalidInputError(
            f"{atoms.get_chemical_formula()} has {told(atoms)}, and the oracle {maker_name} {why}: it would label "
            "another system. Take the entry out of the structure, or take an oracle that is told: VASP, CP2K, Quantum "
            "ESPRESSO, GFN-xTB, or a maker of your own with an attribute 'takes'"
        )
    moments = moments_of(atoms)
    if moments is not None and "moments" not in taken:
        for element in sorted(set(atoms.get_chemical_symbols())):
            own = moments[np.asarray(atoms.get_chemical_symbols()) == element]
            if own.min() < -_NO_MOMENT and own.max() > _NO_MOMENT:
                raise InvalidInputError(
                    f"{atoms.get_chemical_formula()} has magnetic moments of {own.min():g} and {own.max():g} Bohr "
                    f"magnetons on {element}, and the oracle {maker_name} takes no moments of single atoms: it would "
                    "label another magnetic order. Take the moments out of the structure, or take VASP or Quantum "
                    "ESPRESSO"
                )
        del given.arrays[MOMENTS]
    return given


def with_keywords(maker: Any, atoms: Atoms) -> Any:
    """
    Return a maker whose calculator is made with the charge and the multiplicity of a structure.

    For atomate2's makers, which make a calculator of ``calculator_kwargs`` alone.
    """
    if hasattr(maker, "calculator_class") or calculator_of(maker) != "tblite.ase.TBLite":
        return maker
    keywords: dict[str, Any] = {}
    if charge := charge_of(atoms):
        keywords["charge"] = charge
    if (multiplicity := multiplicity_of(atoms)) is not None:
        keywords["multiplicity"] = multiplicity
    if not keywords:
        return maker
    content = {**maker.as_dict(), "calculator_kwargs": {**maker.calculator_kwargs, **keywords}}
    return type(maker).from_dict(content)


def with_initial_moments(maker: Any, atoms: Atoms) -> Atoms:
    """
    Return a structure with the moments that a maker begins with, unless it has its own.

    Parameters
    ----------
    maker
        A static maker; only those with ``initial_moments_muB`` have any.
    atoms
        The structure; is not changed.
    """
    moments = getattr(maker, "initial_moments_muB", None)
    if not moments or atoms.has("initial_magmoms"):
        return atoms
    atoms = atoms.copy()
    atoms.set_initial_magnetic_moments([moments.get(symbol, 0.0) for symbol in atoms.symbols])
    return atoms


def tell(calculator: Calculator, name: str, atoms: Atoms) -> None:
    """
    Tell a calculator that was made for any structure the charge and the multiplicity of this one.

    Moments of the atoms are read by the calculators that take them.

    Parameters
    ----------
    calculator
        Is changed.
    name
        Import path of its class.
    atoms
        The structure.
    """
    charge, multiplicity = charge_of(atoms), multiplicity_of(atoms)
    if not charge and multiplicity is None:
        return
    if name == "ase.calculators.espresso.Espresso":
        keywords: dict[str, Any] = {"tot_charge": charge} if charge else {}
        if multiplicity is not None:
            keywords |= {"nspin": 2, "tot_magnetization": multiplicity - 1}
        calculator.parameters["input_data"] = _with_system(calculator.parameters.get("input_data") or {}, keywords)
        return
    settings: dict[str, Any] = {"charge": charge} if charge else {}
    if multiplicity is not None and name.startswith("ase.calculators.vasp"):
        settings |= {"ispin": 2, "nupdown": multiplicity - 1}
    elif multiplicity is not None:
        settings["multiplicity"] = multiplicity
        if name == "ase.calculators.cp2k.CP2K":
            settings["uks"] = True
            settings["inp"] = _with_moment_kept(str(getattr(calculator.parameters, "inp", "") or ""), multiplicity)
    if name in _TAKES:
        calculator.set(**settings)


def _with_moment_kept(inp: str, multiplicity: int) -> str:
    """Return an input of CP2K in which smeared occupations keep the number of unpaired electrons it begins with."""
    inp = re.sub(r"^[ \t]*FIXED_MAGNETIC_MOMENT\b.*\n?", "", inp, flags=re.MULTILINE | re.IGNORECASE)
    kept = rf"\1\n      FIXED_MAGNETIC_MOMENT {multiplicity - 1}"
    return re.sub(r"^([ \t]*&SMEAR\b(?!.*\b(?:F|FALSE|OFF|NO)\b).*)$", kept, inp, flags=re.MULTILINE | re.IGNORECASE)


def _with_system(input_data: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Add keywords to the namelist ``system`` of ``pw.x``, however it is written."""
    data = dict(input_data)
    section = next((name for name in data if name.lower() == "system" and isinstance(data[name], dict)), None)
    if section is None:
        nested = any(isinstance(value, dict) for value in data.values())
        return {**data, "system": dict(keywords)} if nested else {**data, **keywords}
    data[section] = {**data[section], **keywords}
    return data
