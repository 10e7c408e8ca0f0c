"""One uniform label from the task document of any code.

The documents are not uniform: which energy, which unit and sign of the stress and which order
of the sites differs from code to code. What is not known here is refused, never guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.ase_calculators import label_from_ase
from mlip_autopipec.oracle.vasp import label_from_vasp

if TYPE_CHECKING:
    from mlip_autopipec.oracle.extracted import ExtractedLabel

#: What is missing for the documents of atomate2 that are known by name and refused.
_NOT_PROVEN = {
    "AbinitTaskDoc": "its energies, forces and stress come from abipy, whose units nobody checked here against a run; "
    "use CalculatorStaticMaker with ase.calculators.abinit.Abinit",
    "AimsTaskDoc": "its energy is FHI-aims' total energy, not the electronic free energy that forces derive from; "
    "use CalculatorStaticMaker with ase.calculators.aims.Aims",
}


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
        return label_from_ase(document)
    if {"TaskDoc", "CoreTaskDoc"} & names:
        return label_from_vasp(document)
    known = "Known are AseStructureTaskDoc (ASE) and TaskDoc (VASP); see docs/oracles.md"
    for name, why in _NOT_PROVEN.items():
        if name in names:
            raise LabelError(f"no label is read off a {name}: {why}. {known}")
    raise LabelError(
        f"no label can be read off a {type(document).__name__}: its units and kind of energy are not known here. "
        f"{known}"
    )
