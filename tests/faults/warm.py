"""Imported once by the process that all others are forked from: first jobs cost seconds of imports."""

import logging
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from faults.parts import make_campaign
from jobflow import JobStore, run_locally
from maggma.stores import GridFSStore, MemoryStore  # noqa: F401

import mlip_autopipec.cli
import mlip_autopipec.database.disk
from mlip_autopipec.managers.fork_server import PRELOADED

if find_spec("fireworks") is not None:
    import fireworks.scripts.lpad_run
    import fireworks.scripts.rlaunch_run  # noqa: F401

    import mlip_autopipec.managers.fireworks.firetask
    import mlip_autopipec.managers.fireworks.launchpad  # noqa: F401

for module in PRELOADED:
    import_module(module)

with tempfile.TemporaryDirectory() as folder:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    run_locally(make_campaign(Path(folder) / "events.log"), store=store, root_dir=folder, log=False)
logging.getLogger().handlers.clear()
