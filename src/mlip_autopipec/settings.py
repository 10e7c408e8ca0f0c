"""Settings of the machine the package runs on, from environment variables."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Numbers of threads that libraries read when they are loaded.
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
#: Time that a control group may use of each period, version 2 (both in one file) and version 1.
_QUOTAS: tuple[tuple[Path, Path | None], ...] = (
    (Path("/sys/fs/cgroup/cpu.max"), None),
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
)


class MLIPAutopipecSettings(BaseSettings):
    """
    How external programs are started here.

    Each field is read from the environment variable of its name with the prefix
    ``MLIP_AUTOPIPEC_``, for example ``MLIP_AUTOPIPEC_LAMMPS_CMD="srun -n 4 lmp -k on g 1 -sf kk"``.
    """

    model_config = SettingsConfigDict(env_prefix="MLIP_AUTOPIPEC_", extra="forbid")

    LAMMPS_CMD: str = Field("lmp", description="Starts LAMMPS; may hold a launcher and options, split as a shell does.")
    PACEMAKER_CMD: str | None = Field(None, description="Starts pacemaker; None takes the one of this environment.")
    ESPRESSO_CMD: str = Field("pw.x", description="Starts pw.x of Quantum ESPRESSO; may hold a launcher and options.")
    CODE_FROM: str = Field(
        "",
        description="Packages, separated by commas, whose classes run files (calculator_class) and stored documents "
        "may name beside those that are known.",
    )
    ESPRESSO_PSEUDO_DIR: str | None = Field(None, description="Folder of the pseudopotentials of Quantum ESPRESSO.")
    ROWS_DIR: Path | None = Field(
        None,
        description="Folder in which the linear trainer keeps rows of its design matrix from cycle to cycle; None: the "
        "user's cache folder, mlip-autopipec/rows in it.",
    )
    ROWS_MB: int = Field(1000, ge=0, description="Most megabytes of these rows; 0 keeps none.")
    WORKERS: int | None = Field(
        None,
        ge=0,
        description="Jobs that `mlip-autopipec run` runs side by side without --workers; None: by the cores there are.",
    )


def get_settings() -> MLIPAutopipecSettings:
    """
    Read the settings now.

    Jobs may run in another environment than the one that imported the package, so nothing keeps a copy.
    """
    return MLIPAutopipecSettings()


def on_path(command: str) -> bool:
    """Tell whether the program that a command begins with is on PATH."""
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    return bool(words) and shutil.which(words[0]) is not None


def available_cores() -> int:
    """
    Return the number of cores that this process may use: its affinity and the limit of its control group.

    A batch system or a container allows less than the machine has.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota_file, period_file in _QUOTAS:
        try:
            words = [*quota_file.read_text().split(), *(period_file.read_text().split() if period_file else [])]
            quota, period = (int(word) for word in words[:2])
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if quota > 0 and period > 0:
            allowed = min(allowed, max(1, quota // period))
    return allowed


def default_workers() -> int:
    """
    Return how many jobs run side by side: :class:`MLIPAutopipecSettings` ``.WORKERS``, else one for each core.

    Where ``OMP_NUM_THREADS`` is set each job takes so many cores.
    """
    chosen = get_settings().WORKERS
    return max(1, available_cores() // (_threads_set() or 1)) if chosen is None else chosen


def thread_variables(workers: int) -> dict[str, str]:
    """
    Return the environment of worker processes in which their threads together have the cores there are.

    Parameters
    ----------
    workers
        How many there are.

    Returns
    -------
    dict
        Variables of OpenMP, BLAS libraries and TensorFlow. Those that are set stay as they are; ``OMP_NUM_THREADS``
        speaks for the others.
    """
    threads = _threads_set() or max(1, available_cores() // max(workers, 1))
    return {name: os.environ.get(name, str(threads)) for name in THREADS}


def _threads_set() -> int | None:
    """Return ``OMP_NUM_THREADS``; None where it is not set, or says nothing of use."""
    word = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(word) if word.isdigit() and int(word) > 0 else None
