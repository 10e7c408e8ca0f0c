"""VASP: labels from the documents of its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.extracted import labelled

if TYPE_CHECKING:
    from mlip_autopipec.oracle.extracted import ExtractedLabel


def label_from_vasp(document: Any) -> ExtractedLabel:
    """
    Read a label off an emmet ``TaskDoc``.

    Raises
    ------
    LabelError
        If the run did not converge or lacks what a label needs.
    """
    state = getattr(document.state, "value", document.state)
    if str(state) != "successful":
        raise LabelError(f"VASP in {document.dir_name} ended as '{state}', not successful (SCF not converged?)")
    steps = document.calcs_reversed[0].output.ionic_steps if document.calcs_reversed else None
    if not steps:
        raise LabelError(f"the VASP document in {document.dir_name} holds no ionic step; keep store_trajectory at NO")
    # forces are the derivative of the free energy, not of the energy for sigma -> 0 that
    # document.output.energy holds; the sites were sorted, so the structure is the document's own
    output = document.output
    return labelled(output.structure, steps[-1].e_fr_energy, output.forces, output.stress, "free_energy")
