"""One uniform label from the task document of any code.

The documents are not uniform: which energy, which unit and sign of the stress and which order
of the sites differs from code to code. What is not known here is refused, never guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.extracted import labelled
from mlip_autopipec.oracle.vasp import label_from_vasp

if TYPE_CHECKING:
    from mlip_autopipec.oracle.extracted import ExtractedLabel


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
        return label_from_vasp(document)
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
    return labelled(document.structure, output.energy, output.forces, output.stress, "potential_energy")
