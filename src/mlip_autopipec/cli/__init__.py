"""
Command line ``mlip-autopipec``: one module for each group of commands.

A command is a function with ``@app.command()`` of ``cli/base.py`` in a module that is imported below.
Modules import what is heavy inside of their functions: ``--help`` answers at once.
"""

from __future__ import annotations

from mlip_autopipec.cli import (  # each module registers its commands
    doctor,
    export,
    init,
    queue,
    report,
    run,
    schema,
    status,
)
from mlip_autopipec.cli.base import app, open_store
from mlip_autopipec.cli.exit_codes import CONVERGED, FAILED, NOT_CONVERGED, ExitCode

__all__ = [
    "CONVERGED",
    "FAILED",
    "NOT_CONVERGED",
    "ExitCode",
    "app",
    "doctor",
    "export",
    "init",
    "open_store",
    "queue",
    "report",
    "run",
    "schema",
    "status",
]
