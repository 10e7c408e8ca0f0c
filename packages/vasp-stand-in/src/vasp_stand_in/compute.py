"""A single point with an ASE calculator, in VASP's units and signs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from vasp_stand_in.errors import InvalidInputError

KNOWN = {
    "emt": "ase.calculators.emt.EMT",
    "lj": "ase.calculators.lj.LennardJones",
    "gfn-xtb": "tblite.ase.TBLite",
}
DEFAULT_ARGUMENTS: dict[str, dict[str, Any]] = {"gfn-xtb": {"method": "GFN1-xTB", "verbosity": 0}}
KBAR = 0.1 * GPa  # eV/A^3


@dataclass(frozen=True)
class SinglePoint:
    """Results in VASP's conventions; forces in POSCAR's order."""

    energy_eV: float
    forces_eV_per_A: np.ndarray  # (n, 3)
    stress_kB: np.ndarray  # (3, 3); positive means the cell wants to grow, the opposite of ASE's sign
    magmoms_muB: np.ndarray  # (n,)


def build_calculator(name: str, arguments: str | None = None) -> Any:
    """
    Build an ASE calculator from a name.

    Parameters
    ----------
    name
        ``emt``, ``lj``, ``gfn-xtb`` (tblite) or the import path of a class, ``module.Class``.
    arguments
        Keyword arguments as a JSON object.
    """
    module_name, _, class_name = KNOWN.get(name.lower(), name).rpartition(".")
    try:
        cls = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInputError(
            f"calculator {name!r} cannot be imported ({error}); name one of {', '.join(KNOWN)} or module.Class"
        ) from error
    try:
        given = json.loads(arguments or "{}")
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"the calculator's arguments {arguments!r} are no JSON object: {error}") from error
    return cls(**DEFAULT_ARGUMENTS.get(name.lower(), {}) | given)


def compute(atoms: Atoms, calculator: Any) -> SinglePoint:
    """Compute energy (force-consistent where the calculator tells), forces, stress and magnetic moments."""
    atoms = atoms.copy()
    calculator.calculate(atoms, ["energy", "forces", "stress"], all_changes)
    results = calculator.results
    try:
        energy, forces = results.get("free_energy", results["energy"]), results["forces"]
        stress = results["stress"]
    except KeyError as error:
        raise PropertyNotImplementedError(f"{type(calculator).__name__} returned no {error}") from error
    magmoms = np.asarray(results.get("magmoms", np.zeros(len(atoms))), dtype=float).reshape(-1)
    full = np.asarray(stress) if np.shape(stress) == (3, 3) else voigt_6_to_full_3x3_stress(stress)
    return SinglePoint(float(energy), np.array(forces, dtype=float), -full / KBAR, magmoms)


def free_atoms_energy_eV(atoms: Atoms, calculator: Any) -> float:
    """Sum the calculator's energies of the atoms, each alone in space."""
    energy = 0.0
    for element, count in Counter(atoms.get_chemical_symbols()).items():
        alone = Atoms(element)
        calculator.calculate(alone, ["energy"], all_changes)
        energy += count * float(calculator.results.get("free_energy", calculator.results["energy"]))
    return energy
