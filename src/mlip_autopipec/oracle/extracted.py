"""What is read off the document of any code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import LabelError

if TYPE_CHECKING:
    from ase import Atoms

EnergyKind = Literal["free_energy", "potential_energy"]


@dataclass(frozen=True)
class ExtractedLabel:
    """A structure with its label in an attached calculator (eV, eV/A, eV/A^3 in ASE sign), and the kind of energy."""

    atoms: Atoms
    energy_kind: EnergyKind


def labelled(structure: Any, energy: float, forces: Any, stress_kbar: Any, kind: EnergyKind) -> ExtractedLabel:
    """
    Attach what a code computed to the structure it computed.

    Parameters
    ----------
    structure
        pymatgen structure in the order of the forces.
    energy, forces
        eV and eV/A, (n_atoms, 3).
    stress_kbar
        Stress in kbar with VASP's sign (positive = compressed), (3, 3), or None.
    kind
        Kind of energy.

    Raises
    ------
    LabelError
        If something is not finite or the forces belong to another number of atoms.
    """
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = None
    atoms.info = {}
    results: dict[str, Any] = {"energy": float(energy), "forces": np.array(forces, dtype=float)}
    if results["forces"].shape != (len(atoms), 3):
        raise LabelError(f"forces of shape {results['forces'].shape} for {len(atoms)} atoms")
    if not np.isfinite(results["energy"]) or not np.isfinite(results["forces"]).all():
        raise LabelError(f"energy {results['energy']} eV or forces are not finite")
    if stress_kbar is not None:  # kbar with VASP's sign: positive = compressed
        results["stress"] = full_3x3_to_voigt_6_stress(-0.1 * units.GPa * np.array(stress_kbar))
    atoms.calc = SinglePointCalculator(atoms, **results)
    return ExtractedLabel(atoms, kind)
