"""
The functions of FireWorks that have no public name, in one place.

``lpad`` itself calls them; there is nothing public that applies what a launch holds to its workflow, or reruns a
Firework that is running. A test pins their signatures against the installed version.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fireworks import LaunchPad
from fireworks.core.launchpad import WFLock

from mlip_autopipec.errors import ExecutableError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Versions of FireWorks that this was tested with.
TESTED = ("2.1",)
#: Parameters of the functions that are used.
SIGNATURES: dict[str, tuple[str, ...]] = {
    "_refresh_wf": ("self", "fw_id"),
    "_update_wf": ("self", "wf", "updated_ids"),
    "get_wf_by_fw_id_lzyfw": ("self", "fw_id"),
}


def check() -> None:
    """
    Refuse a FireWorks whose functions are others.

    Raises
    ------
    ExecutableError
        Names the function and the versions that are known to work.
    """
    for name, expected in SIGNATURES.items():
        function: Callable[..., Any] | None = getattr(LaunchPad, name, None)
        found = () if function is None else tuple(inspect.signature(function).parameters)
        if found != expected:
            raise ExecutableError(
                f"FireWorks {version('fireworks')} has no LaunchPad.{name}({', '.join(expected)}): it has "
                f"{found or 'no such function'}. Install FireWorks {' or '.join(TESTED)}.x"
            )


def refresh(pad: LaunchPad, fw_id: int) -> None:
    """Let a workflow notice the state of one of its Fireworks, and apply what its launch returned."""
    check()
    pad._refresh_wf(fw_id)


def rerun_running(pad: LaunchPad, fw_id: int) -> None:
    """Set a Firework to be run again that runs at this moment, which ``LaunchPad.rerun_fw`` does not do."""
    check()
    with WFLock(pad, fw_id):
        workflow = pad.get_wf_by_fw_id_lzyfw(fw_id)
        pad._update_wf(workflow, workflow.rerun_fw(fw_id))
