"""The name of a campaign belongs to one campaign, also where several are begun at the same moment."""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pymongo.errors import DuplicateKeyError

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.reuse import collection_beside, has_ended
from mlip_autopipec.jobs.stores import title_of

if TYPE_CHECKING:
    from jobflow import JobStore

logger = logging.getLogger(__name__)

#: Collection of the names of campaigns, beside the documents of the JobStore.
NAMES = "mlip_autopipec_names"
#: Seconds between two looks at another's reservation, and until it counts as that of a job that died.
LOOK_S, DEAD_S = 0.5, 20.0


def reserve_name(store: JobStore, campaign_id: str, generation: int, job: str) -> None:
    """
    Reserve the name of a campaign, whose record is stored only when the job has ended.

    Another job's reservation is waited for: either that job stores the record of its campaign, and the name is taken,
    or it has died, which shows by its process on this machine and by time on another one, and the name is free.

    Parameters
    ----------
    store
        A connected JobStore; one that several processes can write to reserves, in one step, for one of them.
    campaign_id, generation
        What is reserved.
    job
        uuid of the job; the same one may reserve again, as it does when a manager reruns it.

    Raises
    ------
    InvalidInputError
        The store holds another campaign of this name.
    """
    name = f"{campaign_id}/{generation}"
    mine = f"{job} {os.getpid()} {socket.gethostname()}"
    dead: str | None = None
    seen, since = "", time.monotonic()
    while True:
        _refuse_taken(store, campaign_id, generation, job)
        holder = _reserve(store, name, mine, dead)
        holding_job, pid, host = holder.split(" ", 2)
        if holding_job == job:
            break
        if holder != seen:
            seen, since = holder, time.monotonic()
        if has_ended(host, int(pid)) or time.monotonic() - since > DEAD_S:
            logger.warning("the name '%s' was reserved by the job %s, which died", campaign_id, holding_job)
            dead = holder
        else:
            time.sleep(LOOK_S)
    _refuse_taken(store, campaign_id, generation, job)  # by a job that ended between the two


def _refuse_taken(store: JobStore, campaign_id: str, generation: int, job: str) -> None:
    criteria = {"output.kind": "campaign", "output.campaign_id": campaign_id, "uuid": {"$ne": job}}
    if any(other["output"]["generation"] >= generation for other in store.query(criteria, ["output.generation"])):
        raise InvalidInputError(
            f"campaign_id '{campaign_id}' is taken in {title_of(store)}; choose another, or continue that campaign "
            "with OTFMaker.resume or OTFMaker.extend"
        )


def _reserve(store: JobStore, name: str, mine: str, dead: str | None) -> str:
    """Reserve a name unless someone else has it, other than a holder who died; return who has it."""
    names = collection_beside(store, NAMES)
    if names is None:
        return mine  # a store of one process
    if dead is not None:
        names.update_one({"_id": name, "holder": dead}, {"$set": {"holder": mine}})
    with suppress(DuplicateKeyError):
        names.insert_one({"_id": name, "holder": mine})
    found = names.find_one({"_id": name})
    return mine if found is None else str(found["holder"])
