"""One uniform label from the task document of any code.

The documents are not uniform: which energy, which unit and sign of the stress and which order
of the sites differs from code to code. What is not known here is refused, never guessed.
"""

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


def extract_label(document: Any) -> ExtractedLabel:
    """
    Read a label off a task document.

    Parameters
    ----------
    document
        An atomate2 ``AseStructureTaskDoc`` (any ASE calculator) or an emmet ``TaskDoc`` (VASP).

    Raises
    ------
    LabelError
        If the document is of another kind, unsuccessful, or lacks energy or forces.
    """
    names = {cls.__name__ for cls in type(document).__mro__}
    if "AseStructureTaskDoc" in names:
        return _from_ase(document)
    if {"TaskDoc", "CoreTaskDoc"} & names:
        return _from_vasp(document)
    raise LabelError(
        f"no label can be read off a {type(document).__name__}: its units and kind of energy are not known here. "
        "Known are AseStructureTaskDoc (ASE) and TaskDoc (VASP)"
    )


def _from_ase(document: Any) -> ExtractedLabel:
    output = document.output
    if output is None or output.energy is None or output.forces is None:
        raise LabelError(
            f"the ASE document in {document.dir_name} holds no energy or no forces; use a static maker that is "
            "derived from AseRelaxMaker (steps=1), plain AseMaker stores no forces"
        )
    return _labelled(document.structure, output.energy, output.forces, output.stress, "potential_energy")


def _from_vasp(document: Any) -> ExtractedLabel:
    state = getattr(document.state, "value", document.state)
    if str(state) != "successful":
        raise LabelError(f"VASP in {document.dir_name} ended as '{state}', not successful (SCF not converged?)")
    steps = document.calcs_reversed[0].output.ionic_steps if document.calcs_reversed else None
    if not steps:
        raise LabelError(f"the VASP document in {document.dir_name} holds no ionic step; keep store_trajectory at NO")
    # forces are the derivative of the free energy, not of the energy for sigma -> 0 that
    # document.output.energy holds; the sites were sorted, so the structure is the document's own
    output = document.output
    return _labelled(output.structure, steps[-1].e_fr_energy, output.forces, output.stress, "free_energy")


def _labelled(structure: Any, energy: float, forces: Any, stress_kbar: Any, kind: EnergyKind) -> ExtractedLabel:
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
