"""What is read off the document of any code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from pymatgen.electronic_structure.core import Magmom
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import LabelError

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.oracle.record import OracleRecord

EnergyKind = Literal["free_energy", "potential_energy"]


@dataclass(frozen=True)
class ExtractedLabel:
    """
    A structure with its label in an attached calculator (eV, eV/A, eV/A^3 in ASE sign).

    Parameters
    ----------
    atoms
        The structure in the order of the forces.
    energy_kind
        What the energy is.
    record
        What it was computed with; None where the document does not say.
    corrections
        Errors that were met and corrected on the way, oldest first.
    """

    atoms: Atoms
    energy_kind: EnergyKind
    record: OracleRecord | None = None
    corrections: tuple[str, ...] = ()


def labelled(structure: Any, energy: float, forces: Any, stress_kbar: Any, kind: EnergyKind) -> ExtractedLabel:
    """
    Attach what a code computed to the structure it computed.

    Parameters
    ----------
    structure
        pymatgen structure in the order of the forces; its site property ``magmom``, if any, holds the moments that
        were computed (Bohr magnetons).
    energy, forces
        eV and eV/A, (n_atoms, 3).
    stress_kbar
        Stress in kbar with VASP's sign (positive = compressed), (3, 3), or None.
    kind
        Kind of energy.

    Raises
    ------
    LabelError
        If energy, forces or stress are not finite or the forces belong to another number of atoms.
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
        stress = np.array(stress_kbar, dtype=float)
        if stress.shape != (3, 3) or not np.isfinite(stress).all():
            raise LabelError(
                f"the stress is {stress.tolist()} kbar; it has to be 3 x 3 finite numbers. Look at the output of the "
                "code, or do not ask it for a stress"
            )
        results["stress"] = full_3x3_to_voigt_6_stress(-0.1 * units.GPa * stress)
    if (moments := _moments(structure)) is not None:
        results["magmoms"] = moments
    atoms.calc = SinglePointCalculator(atoms, **results)
    return ExtractedLabel(atoms, kind)


def _moments(structure: Any) -> NDArray[np.float64] | None:
    """Return the moments of the sites in Bohr magnetons, (n,) or, non-collinear, (n, 3)."""
    values = structure.site_properties.get("magmom")
    if values is None or any(value is None for value in values):
        return None
    return np.array([value.moment if isinstance(value, Magmom) else value for value in values], dtype=float)


def differs_from(asked: Atoms, computed: Atoms, tolerance_A: float = 0.01) -> str | None:
    """
    Tell whether another structure was computed than the one asked for.

    Sites may be sorted, wrapped into the cell and rotated together with it.

    Parameters
    ----------
    asked, computed
        Both structures.
    tolerance_A
        Largest distance in Angstrom between the places of an atom.

    Returns
    -------
    str or None
        What differs, or None.
    """
    if asked.get_chemical_formula() != computed.get_chemical_formula():
        return f"asked for {asked.get_chemical_formula()}, got {computed.get_chemical_formula()}"
    if asked.cell.rank < 3:
        return None
    wanted_cell, got_cell = (np.asarray(atoms.cell.cellpar()) for atoms in (asked, computed))
    if not np.allclose(wanted_cell, got_cell, rtol=1e-4, atol=1e-3):
        return f"asked for a cell of {wanted_cell.round(4).tolist()}, got {got_cell.round(4).tolist()} (A, degrees)"
    wanted, got = (atoms.get_scaled_positions(wrap=False) for atoms in (asked, computed))
    for number in np.unique(asked.numbers):
        away = wanted[asked.numbers == number][:, None] - got[computed.numbers == number][None]
        distances = np.linalg.norm((away - np.round(away)) @ asked.cell.array, axis=-1)
        worst = max(distances.min(axis=0).max(), distances.min(axis=1).max())
        if worst > tolerance_A:
            return f"an atom asked for ({chemical_symbols[number]}) is {worst:.3f} A from the nearest one computed"
    return None
