"""Which worker runs which step, for any manager that reads ``JobConfig.manager_config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobflow import Flow

from mlip_autopipec.errors import InvalidInputError

#: Everything that needs no queue of its own: bookkeeping, first structures, candidates, selection.
LIGHT = "light"

#: Steps that cost time, and the part of their jobs' names that tells them from all others.
HEAVY_STEPS = {"label": "label c", "train": "train c", "explore": "explore c"}

#: Begins the names of jobs that run MD of the oracle after the campaign, and take what a label takes.
ORACLE_MD = "oracle MD"

STEPS = (*HEAVY_STEPS, LIGHT)


def assign_workers(flow: Flow, workers: Mapping[str, Mapping[str, Any]]) -> None:
    """
    Tell the manager of a campaign's jobs where each of them is to run, in all cycles.

    Jobs appended later inherit these entries by their names. What an entry may hold is the
    manager's business: FireWorks takes entries of a Firework's spec (``_category``, ``_fworker``,
    ``_priority``, ``_queueadapter``), jobflow-remote ``worker``, ``resources`` and ``exec_config``.

    Parameters
    ----------
    flow
        Of :class:`~mlip_autopipec.flows.otf.OTFMaker`. It is changed.
    workers
        One entry for each step: ``label``, ``train``, ``explore``, and ``light`` for everything else.
        The jobs of a step without entry are left as they are.

    Raises
    ------
    InvalidInputError
        A key is no step.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from mlip_autopipec import OracleMaker, OTFMaker
    >>> from mlip_autopipec.jobs.static import EMTStaticMaker
    >>> maker = OTFMaker(oracle_maker=OracleMaker(static_maker=EMTStaticMaker()))
    >>> flow = maker.make(bulk("Cu", cubic=True) * (2, 2, 2), 300)
    >>> assign_workers(flow, {"explore": {"worker": "gpu"}, "light": {"worker": "login"}})
    >>> {job.config.manager_config["worker"] for job, _ in flow.iterflow() if job.name == "explore c000 w00"}
    {'gpu'}
    """
    unknown = sorted(set(workers) - set(STEPS))
    if unknown:
        raise InvalidInputError(f"workers names the steps {unknown}; there are {', '.join(STEPS)}")
    # the general one first: of all updates that fit a job's name the last one counts
    for step, part_of_name in ((LIGHT, None), *HEAVY_STEPS.items()):
        if step in workers:
            config = {"manager_config": dict(workers[step])}
            flow.update_config(config, name_filter=part_of_name)  # type: ignore[arg-type]  # None: all jobs
