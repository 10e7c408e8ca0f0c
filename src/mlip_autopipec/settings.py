"""Settings of the machine the package runs on, from environment variables."""

from __future__ import annotations

import shlex
import shutil

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


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
