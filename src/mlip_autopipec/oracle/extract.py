"""One uniform label from the task document of any code.

The documents are not uniform: which energy, which unit and sign of the stress and which order
of the sites differs from code to code. Unknown documents are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.ase_calculators import label_from_ase
from mlip_autopipec.oracle.cp2k import label_from_cp2k

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlip_autopipec.oracle.extracted import ExtractedLabel


def _label_from_vasp(document: Any, of_structure: Mapping[str, Any]) -> ExtractedLabel:
    # here, since it imports all of atomate2's VASP
    from mlip_autopipec.oracle.vasp import label_from_vasp

    return label_from_vasp(document, of_structure)


# by module and class: several codes call their document TaskDoc
_READERS: dict[str, Callable[[Any, Mapping[str, Any]], ExtractedLabel]] = {
    "atomate2.ase.schemas.AseStructureTaskDoc": lambda document, _: label_from_ase(document),
    "atomate2.cp2k.schemas.task.TaskDocument": label_from_cp2k,
    "emmet.core.tasks.TaskDoc": _label_from_vasp,
    "emmet.core.tasks.CoreTaskDoc": _label_from_vasp,
}

#: What is missing for documents that are known and refused.
_NOT_PROVEN = {
    "atomate2.ase.schemas.AseMoleculeTaskDoc": "a molecule has no cell; give the structure one, with vacuum",
    "atomate2.jdftx.schemas.task.TaskDoc": "by their source its forces are in eV/A and its energy is the one named by "
    "energy_type (F or G), but no run of JDFTx was there to check them against",
    "atomate2.abinit.schemas.task.AbinitTaskDoc": "its numbers are abipy's, and no run was there to check units and "
    "sign against, nor does its state tell an unconverged field; use CalculatorStaticMaker with "
    "ase.calculators.abinit.Abinit",
    "atomate2.aims.schemas.task.AimsTaskDoc": "which of FHI-aims' energies it holds and the sign of its stress were "
    "not checked against a run; use CalculatorStaticMaker with ase.calculators.aims.Aims",
}


def extract_label(document: Any, of_structure: Mapping[str, Any] | None = None) -> ExtractedLabel:
    """
    Read a label off a task document.

    Parameters
    ----------
    document
        The document of an ASE calculator (atomate2's ``AseStructureTaskDoc``), of VASP (emmet's ``TaskDoc``) or of
        CP2K (atomate2's ``TaskDocument``).
    of_structure
        Settings that were made for this structure, as in :class:`~mlip_autopipec.oracle.electrons.Told`.

    Raises
    ------
    LabelError
        If the document is of another kind, unsuccessful, or lacks energy or forces.
    """
    names = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(document).__mro__]
    for name in names:
        if name in _READERS:
            return _READERS[name](document, of_structure or {})
    known = "Known are the documents of ASE calculators, VASP and CP2K; see docs/oracles.md"
    for name in names:
        if name in _NOT_PROVEN:
            raise LabelError(f"no label can be made from a {name}: {_NOT_PROVEN[name]}. {known}")
    raise LabelError(
        f"no label can be made from a {type(document).__name__}: its units and kind of energy are not known here. "
        f"{known}"
    )
