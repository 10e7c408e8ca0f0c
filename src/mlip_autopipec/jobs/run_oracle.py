"""Run the one job of a static maker here and now."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from jobflow import Job, Response
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import LabelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from atomate2.vasp.jobs.base import BaseVaspMaker
    from jobflow import Maker


def is_of_vasp(maker: Maker) -> TypeGuard[BaseVaspMaker]:
    """Return whether a maker is one of VASP's: none is, while the module of their class was never imported."""
    module = sys.modules.get("atomate2.vasp.jobs.base")
    return module is not None and isinstance(maker, module.BaseVaspMaker)


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
