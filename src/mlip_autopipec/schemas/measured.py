"""Which errors tell most of a potential: of labels held out, else of each left out of the fit, else of those fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlip_autopipec.schemas.loop import OTFDocument
    from mlip_autopipec.schemas.potential import Errors, LeftOutErrors, PotentialDocument


def errors_by_set(document: PotentialDocument | OTFDocument) -> dict[str, Errors | LeftOutErrors]:
    """Return the errors that there are, by what they were measured on."""
    left_out = None
    if document.linear is not None and document.train is not None:
        left_out = document.linear.errors(document.train.n_structures)
    found = {"training set": document.train, "labels left out": left_out, "held-out set": document.test}
    return {name: errors for name, errors in found.items() if errors is not None}


def measured_on(document: PotentialDocument | OTFDocument) -> tuple[str, Errors | LeftOutErrors | None]:
    """
    Return the errors that tell most, and of which labels they are.

    Returns
    -------
    tuple
        ``"held-out"``, ``"left-out"`` (each label by the linear fit to all others) or ``"training"``, and the errors;
        None where nothing was trained or measured.
    """
    found = errors_by_set(document)
    for what, name in (("held-out", "held-out set"), ("left-out", "labels left out")):
        if name in found:
            return what, found[name]
    return "training", document.train
