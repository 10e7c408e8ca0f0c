"""What every job of the loop uses: the decorator, the store it runs in, seeds."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jobflow import CURRENT_JOB, SETTINGS, JobConfig, OnMissing, job
from pydantic import BaseModel

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.schemas.base import PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobflow import Job, JobStore

# what each seed derived from the campaign's is for
SEED_GENERATE, SEED_WALKER, SEED_PROPOSE = 1, 2, 3

ModelT = TypeVar("ModelT", bound=BaseModel)


def loop_job(*, tolerate_failed_inputs: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Job]]:
    """
    Decorate a function or method as a job of the loop.

    The bulk of its document goes to the ``data`` store, and the job can read earlier
    documents by their id. Between jobs travel ids only, never structures or files: so a
    document never holds what another one holds already, no Firework outgrows MongoDB's
    16 MB, and a job that is appended at run time may use what was made long before it
    (jobflow refuses such references from outside of the appended flow).

    Parameters
    ----------
    tolerate_failed_inputs
        Run even if a job this one depends on failed; its output then arrives as None.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Job]:
        make_job = job(method, data=PAYLOAD)

        @wraps(method)
        def create(*args: Any, **kwargs: Any) -> Job:
            new = make_job(*args, **kwargs)
            # a config of its own: one given to the decorator would be shared by all jobs, and
            # changing one job's worker would change everybody's
            on_missing = OnMissing.NONE if tolerate_failed_inputs else OnMissing.ERROR
            new.config = JobConfig(expose_store=True, on_missing_references=on_missing)
            return new

        create.original = method  # type: ignore[attr-defined]  # where jobflow looks for the function
        return create

    return decorate


def current_uuid() -> str:
    """Return the uuid of the job that runs now."""
    return CURRENT_JOB.job.uuid if CURRENT_JOB.job is not None else ""


def current_store() -> JobStore:
    """Return the store the present job runs in, else the configured one."""
    store = CURRENT_JOB.store
    if store is None:
        store = SETTINGS.JOB_STORE
        store.connect()
    return store


def load_document(model: type[ModelT], uuid: str, *, payload: bool = True) -> ModelT:
    """
    Read the newest document of a job.

    Parameters
    ----------
    model
        Class of the document.
    uuid
        Identifier of the job that made it.
    payload
        Whether to fetch the bulk data too.
    """
    found = current_store().query_one({"uuid": uuid}, ["output"], sort={"index": -1}, load=payload)
    if found is None:
        raise MLIPError(
            f"document {uuid} ({model.__name__}) is not in the JobStore {current_store()}; "
            "was the store changed or emptied while the campaign ran?"
        )
    return model.model_validate(found["output"])


def derive_seed(*keys: int) -> int:
    """Derive a seed from the campaign's seed and what it is for: the same keys, the same seed."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0] % (2**31 - 1))
