"""ASE calculators: which energy they hold, and whether their self-consistent field converged.

The forces of a calculation with smeared occupations derive from the electronic *free* energy. ASE calls
it ``free_energy``; its ``energy`` may be extrapolated to zero smearing instead, and then is not what a
potential can be trained on together with the forces. atomate2's ``AseStructureTaskDoc`` keeps ``energy`` alone.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from ase.calculators.abc import GetPropertiesMixin
from ase.calculators.calculator import BaseCalculator, Calculator

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.oracle.extracted import EnergyKind, ExtractedLabel, labelled
from mlip_autopipec.oracle.suitability import calculator_of, imported

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


#: Calculators (ASE's ``name``) whose ``energy`` is the one their forces derive from, with its kind.
FORCE_CONSISTENT: dict[str, EnergyKind] = {
    "emt": "potential_energy",
    "lennardjones": "potential_energy",
    "morsepotential": "potential_energy",
    "pyacecalculator": "potential_energy",
    "tblite": "free_energy",  # holds -T*S of the electrons at electronic_temperature
}

#: Classes of calculators that sample Gamma only, whatever the cell.
GAMMA_ONLY = {"tblite.ase.TBLite", "xtb.ase.calculator.XTB"}

# what stands in the files of codes, some of which end well, when the field did not converge; pw.x that need not
# converge prints "convergence has been achieved" after the last iteration it was allowed
_UNCONVERGED = {
    "espresso": re.compile(r"convergence NOT achieved after\s+\d+ iterations.*|scf_must_converge\s*=\s*\.false\."),
    "abinit": re.compile(r"nstep=\s*\d+ was not enough SCF cycles to converge"),
    "cp2k": re.compile(r"SCF run NOT converged"),
}
# what they print when they stop
_STOPPED = {
    "espresso": re.compile(r"Error in routine[^\n]*\n[^\n]*"),
    "abinit": re.compile(r"--- !(?:ERROR|BUG)\n.*?\n\.\.\.", re.DOTALL),
}


def force_consistent_energy(
    name: str, results: Mapping[str, Any], stated_kind: EnergyKind | None
) -> tuple[float, EnergyKind]:
    """
    Choose the energy that the forces derive from.

    Parameters
    ----------
    name
        ASE's name of the calculator.
    results
        Its results; ``free_energy`` is taken where it is given.
    stated_kind
        Kind of the energy as given by the user; None takes it from the calculator.

    Returns
    -------
    tuple
        Energy in eV and its kind.

    Raises
    ------
    LabelError
        If there is an ``energy`` only, and it is unknown whether the forces derive from it.
    """
    kind = stated_kind or FORCE_CONSISTENT.get(name)
    if results.get("free_energy") is not None:
        return float(results["free_energy"]), kind or "free_energy"
    if results.get("energy") is None:
        raise LabelError(f"the calculator '{name}' gave no energy")
    if kind is None:
        raise LabelError(
            f"the calculator '{name}' gives 'energy' but no 'free_energy'; it is not known whether its forces derive "
            "from that energy (with smeared occupations they may not). If they do, say so: energy_kind of the maker"
        )
    return float(results["energy"]), kind


def check_energy_kind(maker: Any) -> None:
    """
    Refuse a maker of a calculator whose energy would be refused of each label, as :func:`force_consistent_energy`.

    Parameters
    ----------
    maker
        A static maker; those without ``energy_kind`` are not looked at.

    Raises
    ------
    InvalidInputError
        Neither the properties of its class nor its source know a free energy, and nothing is stated.
    """
    path = calculator_of(maker)
    found = imported(path) if path is not None and getattr(maker, "energy_kind", "") is None else None
    if not isinstance(found, type) or _may_give_free_energy(found):
        return
    given = getattr(found, "name", None)
    name = (given if isinstance(given, str) else found.__name__).lower()
    if name not in FORCE_CONSISTENT:
        raise InvalidInputError(
            f"the calculator {path} gives 'energy' but no 'free_energy'; it is not known whether its forces derive "
            "from that energy (with smeared occupations they may not). If they do, say so: energy_kind of the maker"
        )


def _may_give_free_energy(calculator: type) -> bool:
    """Return whether a class of calculators names a free energy; not all that give one state it as a property."""
    properties = getattr(calculator, "implemented_properties", None)
    if not isinstance(properties, (list, tuple, set, frozenset)) or not properties or "free_energy" in properties:
        return True  # codes state theirs when they are made, which needs their programs
    for cls in calculator.__mro__:
        if not issubclass(cls, GetPropertiesMixin) or cls in (GetPropertiesMixin, BaseCalculator, Calculator):
            continue
        try:
            if "free_energy" in inspect.getsource(cls):
                return True
        except (OSError, TypeError):  # without source nothing is known
            return True
    return False


def find_failure(name: str, directory: Path) -> str | None:
    """
    Search the output of a code for an unconverged field or an error.

    Parameters
    ----------
    name
        ASE's name of the calculator.
    directory
        Where it ran.

    Returns
    -------
    str or None
        The message of the code, with the file; None without one, or if the code is not known here.
    """
    for patterns in (_UNCONVERGED, _STOPPED):
        pattern = patterns.get(name)
        for file in sorted(directory.glob(f"{name}.*")) if pattern else []:
            if pattern and (found := pattern.search(file.read_text(errors="replace"))):
                return f"'{' '.join(found[0].split())}' ({file})"
    return None


def label_from_ase(document: Any) -> ExtractedLabel:
    """
    Read a label off an ``AseStructureTaskDoc``, of atomate2's makers or of :mod:`mlip_autopipec.jobs.static`.

    The document holds eV, eV/A, and the stress in kbar with VASP's sign (``convert_stress_from_voigt_to_symm``
    of ``atomate2/ase/schemas.py``).

    Raises
    ------
    LabelError
        If it holds no energy or forces, or an energy that the forces may not derive from.
    """
    output = document.output
    if output is None or output.energy is None or output.forces is None:
        raise LabelError(
            f"the ASE document in {document.dir_name} holds no energy or no forces; use a static maker that is "
            "derived from AseRelaxMaker (steps=1) or AseStaticMaker, plain AseMaker stores no forces"
        )
    energy: float = output.energy
    kind: EnergyKind | None = getattr(document, "energy_kind", None)
    if kind is not None:
        energy = document.force_consistent_energy
    elif "ForceFieldTaskDocument" in {cls.__name__ for cls in type(document).__mro__}:
        kind = "potential_energy"  # a potential has no electrons
    else:
        kind = FORCE_CONSISTENT.get(str(document.ase_calculator_name).lower())
    if kind is None:
        raise LabelError(
            f"the document of the ASE calculator '{document.ase_calculator_name}' holds 'energy', and it is not known "
            "whether its forces derive from that energy (with smeared occupations they derive from the free energy, "
            "which the document leaves out). Use CalculatorStaticMaker with this calculator, or derive the maker from "
            "mlip_autopipec.jobs.static.AseStaticMaker instead of AseRelaxMaker"
        )
    return labelled(document.structure, energy, output.forces, output.stress, kind)


def samples_gamma_only(maker: Any) -> bool:
    """
    Return whether an oracle is known to sample the Gamma point alone, so that it needs wide cells.

    A maker of one's own says so by an attribute ``gamma_only``. What is not known is taken to sample k-points.

    Parameters
    ----------
    maker
        A static maker.
    """
    told = getattr(maker, "gamma_only", None)
    return bool(told) if told is not None else calculator_of(maker) in GAMMA_ONLY
