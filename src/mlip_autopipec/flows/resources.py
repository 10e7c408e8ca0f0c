"""How many cores of a machine a job of each step takes, and how many of them run at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.workers import HEAVY_STEPS, LIGHT, ORACLE_MD


@dataclass(frozen=True)
class Share:
    """
    What a job of one step takes of a machine.

    Parameters
    ----------
    cores
        Cores that it keeps busy, with all programs that it starts.
    threads
        Threads of OpenMP, BLAS and TensorFlow in each process; by default one for each core. 1 where a program is
        started by ``mpirun -n cores``.
    at_once
        Most jobs of the step that run at once; by default as many as there are cores for.
    """

    cores: int = 1
    threads: int | None = None
    at_once: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("cores", "threads", "at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInputError.of(name, f"is {value}; give a number of at least 1")
        if self.threads is not None and self.threads > self.cores:
            raise InvalidInputError.of("threads", f"is {self.threads}, more than the {self.cores} cores of the job")

    @property
    def threads_each(self) -> int:
        """Threads of each process."""
        return self.cores if self.threads is None else self.threads


@dataclass(frozen=True)
class Resources:
    """
    The shares of all steps.

    Parameters
    ----------
    cores
        Cores that all jobs together may take.
    shares
        By step (``label``, ``train``, ``explore``, ``light``); a step that is not named takes one core.
    """

    cores: int
    shares: Mapping[str, Share] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a job that could never run."""
        for step, share in self.shares.items():
            if share.cores > self.cores:
                raise InvalidInputError.of(
                    f"{step}.cores",
                    f"is {share.cores}, and all jobs together have {self.cores}; lower it, or raise resources.cores",
                )

    def share_of(self, job: str) -> tuple[str, Share]:
        """Return step and share of a job, by its name."""
        if job.startswith(ORACLE_MD):
            return "label", self.shares.get("label", Share())
        step = next((step for step, part in HEAVY_STEPS.items() if part in job), LIGHT)
        return step, self.shares.get(step, Share())

    def fits(self, job: str, running: Iterable[tuple[str, int]]) -> bool:
        """
        Tell whether a job may begin beside those that run.

        Parameters
        ----------
        job
            Its name.
        running
            Step and cores of each job that runs.
        """
        running = list(running)
        step, share = self.share_of(job)
        if share.at_once is not None and sum(other == step for other, _ in running) >= share.at_once:
            return False
        return not running or sum(cores for _, cores in running) + share.cores <= self.cores
