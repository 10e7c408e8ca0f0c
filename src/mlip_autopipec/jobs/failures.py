"""Why a step failed: kept in the store, for the job that ends the loop because of it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from uuid import uuid4

from jobflow.core.state import CURRENT_JOB
from pymongo.errors import PyMongoError

from mlip_autopipec.errors import MLIPError, TeacherMissingError, lacks_space
from mlip_autopipec.jobs.base import current_store, current_uuid
from mlip_autopipec.schemas.base import time_of
from mlip_autopipec.schemas.potential import FailureDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlip_autopipec.schemas.teacher import TeacherDocument

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

#: The step of a teacher, which labels and trainings wait for.
TEACH = "teach"
#: How the reason begins of what waited for a teacher in vain.
_MISSING = "the teacher has not come: "
#: Most characters of a reason; the log of the job has all of it.
_LONGEST = 500


def keeps_reason(step: str | Callable[..., str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    Let a function store why it fails, and let the error go on. What an earlier run of the same job said is forgotten.

    Parameters
    ----------
    step
        Its name, e.g. ``train``, or what tells it from the arguments of the function by name. The function has
        parameters ``campaign_id`` and ``cycle``.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = signature(function)

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            given = parameters.bind(*args, **kwargs).arguments
            campaign_id, cycle = given["campaign_id"], given["cycle"]
            name = step if isinstance(step, str) else step(**{k: v for k, v in given.items() if k != "self"})
            _forget(name, campaign_id, cycle)
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if not lacks_space(error):  # nothing can be stored, and the job is run again
                    _store(TEACH if isinstance(error, TeacherMissingError) else name, campaign_id, cycle, error)
                raise

        return run

    return decorate


def read_reason(step: str, campaign_id: str, cycle: int) -> str | None:
    """
    Return why a step of a cycle failed in the present attempt; None where that is not known.

    An attempt is a flow: that of the campaign, or of one of its continuations. A process that was killed stores no
    reason, and is not to be told that of an attempt before it.
    """
    found = list(current_store().query(_criteria(step, campaign_id, cycle), ["output", "completed_at"]))
    return str(max(found, key=time_of)["output"]["reason"]) if found else None


def reason_of(died: str | None, campaign_id: str, cycle: int) -> tuple[str | None, str | None]:
    """
    Return the step of a cycle that failed first, and why, where that is known.

    Parameters
    ----------
    died
        The step that left nothing; None where all came.
    campaign_id, cycle
        Of the loop.
    """
    if died is None:
        return None, None
    of_teacher = read_reason(TEACH, campaign_id, cycle)  # labels and training wait for it
    return (died, read_reason(died, campaign_id, cycle)) if of_teacher is None else (TEACH, of_teacher)


def without_reason(*jobs: str, remedy: str = "") -> str:
    """
    Say that a job failed and left no reason.

    Parameters
    ----------
    jobs
        Its name, or those of the jobs that it may have been.
    remedy
        What else to do about it.
    """
    names = " or ".join(f"'{job}'" for job in jobs)
    return (
        f"the job {names} ended without a word, as one does that is killed or runs out of memory (kill -9, the queue, "
        "the kernel): the log of the campaign, or of the worker that had it, says how it ended, and output.txt in the "
        f"folder of the job what it printed. Give it more memory or fewer workers beside it{remedy}; then resume"
    )


def require_teachers(teachers: Sequence[TeacherDocument | None], campaign_id: str, cycle: int) -> None:
    """
    Refuse to go on in a cycle whose teacher did not come, with the reason where that is known.

    Raises
    ------
    TeacherMissingError
        The job of a teacher failed.
    """
    if None not in teachers:
        return
    remedy = ", or mend or remove it (teacher of the run file)"
    why = read_reason(TEACH, campaign_id, cycle) or without_reason(f"teach label c{cycle:03d}", remedy=remedy)
    raise TeacherMissingError(f"{_MISSING}{why.removeprefix(_MISSING)}")


def _criteria(step: str, campaign_id: str, cycle: int) -> dict[str, object]:
    return {
        "output.kind": "failure",
        "output.campaign_id": campaign_id,
        "output.cycle": cycle,
        "output.step": step,
        "output.attempt": _attempt(),
    }


def _attempt() -> str:
    """Return the uuid of the outermost flow of the job that runs now; empty for a job alone."""
    job = CURRENT_JOB.job
    return job.hosts[-1] if job is not None and job.hosts else ""


def _forget(step: str, campaign_id: str, cycle: int) -> None:
    """Remove what an earlier run of the same job said, which a manager has begun again."""
    store, criteria = current_store(), {**_criteria(step, campaign_id, cycle), "output.job": current_uuid()}
    criteria["output.step"] = {"$in": [step, TEACH]}  # it may have waited for a teacher in vain
    if store.query_one(criteria, ["uuid"]) is not None:
        store.remove_docs(criteria)


def _store(step: str, campaign_id: str, cycle: int, error: Exception) -> None:
    told = str(error).strip() or type(error).__name__
    first, *rest = (told if len(told) <= _LONGEST else f"{told[:_LONGEST]}...").splitlines()
    if first.endswith(":") and rest:  # what follows otherwise is the log of a program
        first = f"{first} {rest[0].strip()}"
    document = FailureDocument(
        uuid=str(uuid4()),
        campaign_id=campaign_id,
        cycle=cycle,
        made_at=datetime.now(UTC).isoformat(),
        step=step,
        attempt=_attempt(),
        job=current_uuid(),
        reason=first if isinstance(error, MLIPError) else f"{type(error).__name__}: {first}",
    )
    output = document.model_dump(mode="json")
    stored = {"uuid": document.uuid, "index": 1, "output": output, "metadata": {}, "hosts": []}
    try:
        # as jobflow writes it: local time without a zone
        current_store().update({**stored, "completed_at": datetime.now().isoformat()}, ["uuid", "index"])  # noqa: DTZ005
    except (MLIPError, PyMongoError, OSError) as lost:
        logger.warning("the reason of the failure could not be stored: %s", lost)
