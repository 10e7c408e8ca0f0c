"""Run the one job of a static maker here and now."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from jobflow import Job, Response
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.code_settings import refused_settings
from mlip_autopipec.oracle.refused import refuse
from mlip_autopipec.oracle.suitability import calculator_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from atomate2.vasp.jobs.base import BaseVaspMaker
    from jobflow import Maker


def is_of_vasp(maker: Maker) -> TypeGuard[BaseVaspMaker]:
    """Return whether a maker is one of VASP's."""
    return _is_of(maker, "atomate2.vasp.jobs.base", "BaseVaspMaker")


def _is_of(maker: Maker, module: str, base: str) -> bool:
    """Return whether a maker derives from a class: none does, while the module of that class was never imported."""
    imported = sys.modules.get(module)
    return imported is not None and isinstance(maker, getattr(imported, base))


def check_settings(maker: Maker, elements: Sequence[str]) -> None:
    """
    Refuse settings with which a code gives other numbers than those of a label.

    Parameters
    ----------
    maker
        A static maker; codes that are not known here are not looked at.
    elements
        Of the campaign.

    Raises
    ------
    InvalidInputError
        The message names the setting, why, and what to do.
    """
    if is_of_vasp(maker):
        from mlip_autopipec.oracle.vasp import check_vasp

        check_vasp(maker, elements)
    elif _is_of(maker, "atomate2.cp2k.jobs.base", "BaseCp2kMaker"):
        from mlip_autopipec.oracle.cp2k import check_cp2k

        check_cp2k(maker, elements)
    elif (calculator := calculator_of(maker)) is not None:
        settings = dict(getattr(maker, "calculator_kwargs", None) or {})
        if given := getattr(maker, "input_data", None):
            settings["input_data"] = given
        refuse(calculator.rpartition(".")[2], refused_settings(calculator, settings))


def run_static(maker: Maker, atoms: Atoms) -> Any:
    """Run the job of a static maker in this process and this folder; return its document."""
    static = maker.make(AseAtomsAdaptor.get_structure(atoms))
    if not isinstance(static, Job):
        raise LabelError(f"{type(maker).__name__}.make returns a Flow; a label needs a maker of a single job")
    function = getattr(static.function, "original", static.function)
    try:
        # the job's own copy of the maker: what a run leaves on it, such as counts of errors, must not reach the next
        output = function(static.maker or maker, *static.function_args, **static.function_kwargs)
    except Exception as error:
        if is_of_vasp(maker):
            from mlip_autopipec.oracle.vasp_failures import explain_failure

            raise explain_failure(error, Path.cwd(), maker.run_vasp_kwargs) from error
        raise
    return output.output if isinstance(output, Response) else output
