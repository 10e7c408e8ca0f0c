"""Why a step failed: kept in the store, for the job that ends the loop because of it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from uuid import uuid4

from pymongo.errors import PyMongoError

from mlip_autopipec.errors import MLIPError, lacks_space
from mlip_autopipec.jobs.base import current_store
from mlip_autopipec.schemas.base import time_of
from mlip_autopipec.schemas.potential import FailureDocument

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

#: Most characters of a reason; the log of the job has all of it.
_LONGEST = 500


def keeps_reason(step: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    Let a function store why it fails, and let the error go on.

    Parameters
    ----------
    step
        Its name, e.g. ``train``. The function has parameters ``campaign_id`` and ``cycle``.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = signature(function)

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if not lacks_space(error):  # nothing can be stored, and the job is run again
                    given = parameters.bind(*args, **kwargs).arguments
                    _store(step, given["campaign_id"], given["cycle"], error)
                raise

        return run

    return decorate


def read_reason(step: str, campaign_id: str, cycle: int) -> str | None:
    """Return why a step of a cycle failed when it last did; None where that is not known."""
    criteria = {
        "output.kind": "failure",
        "output.campaign_id": campaign_id,
        "output.cycle": cycle,
        "output.step": step,
    }
    found = list(current_store().query(criteria, ["output", "completed_at"]))
    return str(max(found, key=time_of)["output"]["reason"]) if found else None


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
        reason=first if isinstance(error, MLIPError) else f"{type(error).__name__}: {first}",
    )
    output = document.model_dump(mode="json")
    stored = {"uuid": document.uuid, "index": 1, "output": output, "metadata": {}, "hosts": []}
    try:
        # as jobflow writes it: local time without a zone
        current_store().update({**stored, "completed_at": datetime.now().isoformat()}, ["uuid", "index"])  # noqa: DTZ005
    except (MLIPError, PyMongoError, OSError) as lost:
        logger.warning("the reason of the failure could not be stored: %s", lost)
