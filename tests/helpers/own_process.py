"""Tests that run a file of their own as a script, whose jobflow reads its configuration once, when it is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def stores_on_server(uri: str, database: str) -> dict[str, Any]:
    """Return a JobStore on a MongoDB server, as jobflow's and jobflow-remote's configuration files have it."""
    on_server = {"database": database, "uri": uri}
    return {
        "docs_store": {"type": "MongoStore", "collection_name": "documents", **on_server},
        "additional_stores": {"data": {"type": "GridFSStore", "collection_name": "data", **on_server}},
    }


def python_path(environment: Mapping[str, str]) -> str:
    """Return the PYTHONPATH of a process that imports these helpers."""
    return os.pathsep.join([str(Path(__file__).parent), *filter(None, [environment.get("PYTHONPATH")])])


def write_jobflow_yaml(folder: Path, stores: dict[str, Any]) -> Path:
    """Write jobflow's configuration."""
    file = folder / "jobflow.yaml"
    file.write_text(yaml.safe_dump({"JOB_STORE": stores}))
    return file


def run_script(
    file: str, folder: Path, environment: Mapping[str, str], timeout: float, more: Callable[[], str] = str
) -> dict[str, Any]:
    """
    Run a file as a script in a folder; return the ``results.json`` it wrote, and the folder.

    Parameters
    ----------
    file, folder, environment, timeout
        The script, where it runs, its environment, and its time in s.
    more
        Makes more text for the message where it fails.
    """
    process = subprocess.run(
        [sys.executable, "-W", "ignore", file],
        cwd=folder,
        env={**environment, "PYTHONPATH": python_path(environment)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:] + more()
    return json.loads((folder / "results.json").read_text()) | {"folder": str(folder)}
