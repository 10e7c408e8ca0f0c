"""What every job of the loop uses: the decorator, and the store it runs in."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar

from jobflow import CURRENT_JOB, SETTINGS, JobConfig, OnMissing, OutputReference, Response, job
from maggma.stores import MemoryStore
from monty.json import jsanitize
from pydantic import BaseModel, ValidationError
from pymongo.errors import PyMongoError

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.jobs.bulk import store_bulk_first
from mlip_autopipec.jobs.decoding import decoded
from mlip_autopipec.jobs.stores import title_of
from mlip_autopipec.schemas.base import PAYLOAD, Document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobflow import Job, JobStore

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=BaseModel)
OtherT = TypeVar("OtherT", bound=BaseModel)


def loop_job(*, tolerate_failed_inputs: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Job]]:
    """
    Decorate a function or method as a job of the loop.

    The bulk of its document goes to the ``data`` store, and the job can read earlier
    documents by their id. Between jobs of different cycles travel ids only, never structures
    or files: so a document never holds what another one holds already, no Firework outgrows
    MongoDB's 16 MB, and a job that is appended at run time may use what was made long before
    it (jobflow refuses such references from outside of the appended flow).

    Parameters
    ----------
    tolerate_failed_inputs
        Run even if a job this one depends on failed; its output then arrives as None.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Job]:
        @wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            store_bulk_first(CURRENT_JOB.store)
            args, kwargs = _resolve((args, kwargs), tolerate_failed_inputs)
            return _dated(method(*args, **kwargs))

        make_job = job(run, data=PAYLOAD)

        @wraps(method)
        def create(*args: Any, **kwargs: Any) -> Job:
            new = make_job(*args, **kwargs)
            # a config of its own: one given to the decorator would be shared by all jobs, and
            # changing one job's worker would change everybody's
            new.config = JobConfig(
                expose_store=True,
                resolve_references=False,  # jobflow asks the store three times for each, run() once for all
                on_missing_references=OnMissing.NONE if tolerate_failed_inputs else OnMissing.ERROR,
                pass_manager_config=False,  # each appended job has a worker of its own step, not that of its maker
            )
            return new

        create.original = run  # type: ignore[attr-defined]  # where jobflow looks for the function
        return create

    return decorate


def _dated(returned: Any) -> Any:
    """Write into the document that a job returns when that was."""
    document = returned.output if isinstance(returned, Response) else returned
    if isinstance(document, Document) and document.made_at is None:
        document.made_at = datetime.now(UTC).isoformat()
    return returned


def _resolve(arguments: Any, tolerate_missing: bool) -> Any:
    """Replace the references among a job's arguments by the newest documents of their jobs."""
    references = {ref.uuid for ref in _references(arguments)}
    if not references:
        return arguments
    outputs: dict[str, Any] = {}
    criteria = {"uuid": {"$in": sorted(references)} if len(references) > 1 else next(iter(references))}
    for doc in current_store().query(criteria, ["uuid", "output"], sort={"index": 1}, load=True):
        outputs[doc["uuid"]] = decoded(doc["output"], f"the document {doc['uuid']}")
    missing = references - set(outputs)
    if missing and not tolerate_missing:
        where = title_of(current_store())
        raise MLIPError(f"the jobs {sorted(missing)} this one depends on left no document in the JobStore {where}")

    def fill(value: Any) -> Any:
        if isinstance(value, OutputReference):
            return outputs.get(value.uuid)
        if isinstance(value, (list, tuple)):
            return type(value)(fill(v) for v in value)
        return {k: fill(v) for k, v in value.items()} if isinstance(value, dict) else value

    return fill(arguments)


def _references(value: Any) -> Iterator[OutputReference]:
    if isinstance(value, OutputReference):
        if value.attributes:
            raise MLIPError(f"{value} points into a document; jobs of the loop take whole documents")
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def current_uuid() -> str:
    """Return the uuid of the job that runs now."""
    return CURRENT_JOB.job.uuid if CURRENT_JOB.job is not None else ""


def current_store() -> JobStore:
    """
    Return the store that holds the documents of earlier jobs.

    The one the present job runs in, else the configured one. jobflow-remote runs each job in an
    empty store of its own, which its runner copies into the project's afterwards.

    Raises
    ------
    MLIPError
        The job is run by jobflow-remote, on a worker where no JobStore is configured.
    """
    store = CURRENT_JOB.store
    remote = _run_by_jobflow_remote()
    if store is None or remote:
        store = SETTINGS.JOB_STORE
        if remote and type(store.docs_store) is MemoryStore:
            raise MLIPError(
                "jobs of the loop read the documents of earlier jobs, and no JobStore is configured on this worker of "
                "jobflow-remote: let its pre_run export JOBFLOW_CONFIG_FILE, with the JobStore of the project"
            )
        store.connect()
    return store


def store_at_once(document: Document) -> None:
    """
    Put the document of the present job into the JobStore now, where it would be stored some time after the job's end.

    That is so under jobflow-remote, whose runner then replaces it by the same. It may also never come to that, when
    the process dies on its last metres. For what is dear, small, and looked for by other jobs.
    """
    job = CURRENT_JOB.job
    if job is None or not _run_by_jobflow_remote():
        return
    output = jsanitize(document, strict=True, enum_values=True, allow_bson=True)
    fields = {"uuid": job.uuid, "index": job.index, "metadata": job.metadata, "hosts": job.hosts, "name": job.name}
    stored = {**fields, "output": output, "completed_at": datetime.now().isoformat()}  # noqa: DTZ005  # as jobflow does
    try:
        current_store().update(stored, key=["uuid", "index"])
    except PyMongoError as error:  # nothing is lost yet: the runner will store it
        logger.warning("%s could not be stored at once: %s", job.name, error)


def _run_by_jobflow_remote() -> bool:
    run = sys.modules.get("jobflow_remote.jobs.run")
    return run is not None and run.CURRENT_JOBDOC.job_doc is not None


def load_document(model: type[ModelT], uuid: str, *, payload: bool = True, index: int | None = None) -> ModelT:
    """
    Read a document of a job.

    Parameters
    ----------
    model
        Class of the document.
    uuid
        Identifier of the job that made it.
    payload
        Whether to fetch the bulk data too.
    index
        Which of a job that replaced itself; None for the newest.
    """
    if index is not None:
        return _read(model, uuid, payload, index)
    # run_locally never runs a job twice, so within one flow a document that was read once need not be
    # asked for again (the same potential is read by propose, select and train); FireWorks may rerun a job
    current = CURRENT_JOB.job
    if payload and current is not None and current.hosts and "fw_id" not in current.metadata:
        return _read_once(current.hosts[-1], model, uuid)
    return _read(model, uuid, payload)


def load_either(first: type[ModelT], second: type[OtherT], uuid: str) -> ModelT | OtherT:
    """Read a document of a job that makes one of two kinds."""
    try:
        return load_document(first, uuid)
    except ValidationError:
        return load_document(second, uuid)


def _read(model: type[ModelT], uuid: str, payload: bool, index: int | None = None) -> ModelT:
    criteria: dict[str, Any] = {"uuid": uuid} if index is None else {"uuid": uuid, "index": index}
    found = current_store().query_one(criteria, ["output"], sort={"index": -1}, load=payload)
    if found is None:
        raise MLIPError(
            f"document {uuid} ({model.__name__}) is not in the JobStore {title_of(current_store())}; "
            "was the store changed or emptied while the campaign ran?"
        )
    return model.model_validate(found["output"])


@lru_cache(maxsize=8)
def _read_once(flow_id: str, model: type[ModelT], uuid: str) -> ModelT:
    del flow_id  # part of the key: another flow may run in another store
    return _read(model, uuid, payload=True)


def continue_as_current(successor: Job) -> None:
    """
    Let the last job of an appended flow answer for the job that appended it.

    It takes over the uuid with the next index, which is what jobflow does for a single
    replacing job. References to the present job then resolve to the end of the chain in one
    step, where ``Flow(output=...)`` would add a ``store_inputs`` document per cycle whose
    references nest as deep as there are cycles.
    """
    current = CURRENT_JOB.job
    successor.set_uuid(current.uuid)
    successor.index = current.index + 1
    successor.metadata = {**successor.metadata, **current.metadata}
