"""Labels that exist already: found by their keys, referred to, and never computed twice at once."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from maggma.stores import MemoryStore, MongoStore
from pymongo.errors import DuplicateKeyError, PyMongoError

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.jobs.base import current_store, current_uuid
from mlip_autopipec.jobs.bulk import patiently
from mlip_autopipec.jobs.known import read_known
from mlip_autopipec.jobs.stores import title_of
from mlip_autopipec.schemas.base import time_of
from mlip_autopipec.schemas.label import LabelDocument

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobflow import JobStore
    from pymongo.collection import Collection

logger = logging.getLogger(__name__)

#: Collection of the claims, beside the documents of the JobStore.
CLAIMS = "mlip_autopipec_claims"
#: Seconds between two signs of life of a claim, between two queries of another's, and until it counts as dead.
BEAT_S, LOOK_S, DEAD_S = 20.0, 1.0, 120.0


def find_labels(keys: Sequence[str]) -> dict[str, LabelDocument]:
    """
    Look up successful labels by their keys, in all campaigns of the store the present job runs in.

    Returns
    -------
    dict
        The label of each key that there is one of, never a mere reference.
    """
    criteria = {
        "output.kind": {"$in": ["label", "compared_label"]},
        "output.key": {"$in": sorted(set(keys))},
        "output.state": "successful",
        "output.reused_from": None,
    }
    # the oldest, so that all refer to the same one
    found = list(current_store().query(criteria, ["output", "completed_at"])) if keys else []
    newest_first = sorted(found, key=time_of, reverse=True)
    labels = [LabelDocument.model_validate(doc["output"]) for doc in newest_first]
    return {label.key: label for label in labels if label.key is not None and not _lacks_stress(label)}


def _lacks_stress(label: LabelDocument) -> bool:
    """
    Tell whether a label of VASP has no stress, or its trace alone, and says nothing of ISIF.

    Version 0.1.0 gave labels of ISIF 0, 1 and 2 one key. What has forces on its atoms has shear, too.
    """
    record = label.computed_with
    if record is None or record.code != "VASP" or "ISIF" in record.settings:
        return False
    if label.atoms is None or label.atoms.charge_e or not all(label.atoms.pbc):
        return False
    if label.stress_eV_A3 is None:
        return True
    xx, yy, zz, *shear = label.stress_eV_A3
    return xx == yy == zz and not any(shear) and (xx == 0 or (label.max_force_eV_A or 0.0) > 0.01)


def find_label(keys: Sequence[str]) -> LabelDocument | None:
    """Return the label of the first of several keys of one calculation; None where there is none."""
    found = find_labels(keys)
    return next((found[key] for key in keys if key in found), None)


def with_originals(labels: Sequence[LabelDocument], store: JobStore, *, of: str | None = None) -> list[LabelDocument]:
    """
    Give each label that refers to another one that one's energy, forces, stress and structure.

    Parameters
    ----------
    labels
        Some labels.
    store
        A connected JobStore, which holds those that they refer to.
    of
        The campaign, if these are all its labels, for which every cycle asks: what they refer to is kept then.
    """
    wanted = sorted({label.reused_from for label in labels if label.reused_from is not None})
    criteria, found = {"uuid": {"$in": wanted}}, []
    if wanted and of is not None:
        found = read_known(store, criteria, ["output"], _original, of=of)
    elif wanted:
        found = [one for doc in store.query(criteria, ["output"]) for one in _original(doc["output"])]
    originals = {label.uuid: label for label in found}
    missing = sorted(set(wanted) - set(originals))
    if missing:
        raise MLIPError(f"labels refer to the labels {missing}, which are not in {title_of(store)}; were they deleted?")
    return [label if label.reused_from is None else label.filled_from(originals[label.reused_from]) for label in labels]


def _original(output: dict[str, Any]) -> list[LabelDocument]:
    return [LabelDocument.model_validate(output)]


@contextmanager
def claimed(key: str, *former: str) -> Iterator[LabelDocument | None]:
    """
    Wait while another process computes the label of a key, then yield it, or None: then it is ours to compute.

    A claim stays until :func:`release`, since the label is stored only after its job has ended; one that gives no sign
    of life, or whose process is gone from this machine, is taken over. Nothing is claimed in a store in memory.

    Parameters
    ----------
    key
        Of the label.
    former
        Keys that earlier versions gave the same calculation.
    """
    claims = collection_beside(current_store(), CLAIMS)
    existing = find_label([key, *former])
    if claims is None or existing is not None:
        yield existing
        return
    owner = _take(claims, key)
    if owner is None:
        yield find_labels([key])[key]
        return
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(claims, key, owner, ended), daemon=True)
    heart.start()
    try:
        yield None
    except BaseException:
        patiently(lambda: claims.delete_one({"_id": key, "owner": owner}))
        raise
    finally:
        ended.set()
        heart.join()


def release(labels: Sequence[LabelDocument]) -> None:
    """
    Forget the claims on labels that are stored, of the jobs that made these labels.

    A claim on the same key by another job stays: it is of another campaign, which computes that label at this moment.
    The claim of the job that a label refers to goes too: its label is stored, and it may have died before this call.

    Parameters
    ----------
    labels
        Whatever came of the jobs, failed labels among them.
    """
    claims = collection_beside(current_store(), CLAIMS)
    stored = [
        {"_id": label.key, "job": job}
        for label in labels
        if label.key is not None
        for job in (label.uuid, label.reused_from)
        if job is not None
    ]
    if claims is not None and stored:
        patiently(lambda: claims.delete_many({"$or": stored}))


def collection_beside(store: JobStore, name: str) -> Collection[dict[str, Any]] | None:
    """
    Return a collection beside the documents of a store that several processes may use.

    Of the store on disk it has the few methods that claims and names need; None in a store of one process, in memory.
    """
    documents = store.docs_store
    if hasattr(documents, "beside"):
        in_file: Collection[dict[str, Any]] = documents.beside(name)
        return in_file
    if not isinstance(documents, MongoStore) or isinstance(documents, MemoryStore):
        return None
    found: Collection[dict[str, Any]] = documents._collection.database[name]
    return found


def _take(claims: Collection[dict[str, Any]], key: str) -> str | None:
    """Claim a key and return the owner's name; None if the label is there by now."""
    owner = uuid4().hex
    mine = {
        "_id": key,
        "owner": owner,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": current_uuid(),
        "beat": 0,
    }
    seen: tuple[Any, Any] = (None, None)
    since = time.monotonic()
    while True:
        try:
            patiently(lambda: claims.insert_one(dict(mine)))
            other: dict[str, Any] | None = mine
        except DuplicateKeyError:
            other = patiently(lambda: claims.find_one({"_id": key}))
        if other is not None and other["owner"] == owner:
            # the previous holder of the claim may have stored the label between our query and our claim
            if key not in find_labels([key]):
                return owner
            patiently(lambda: claims.delete_one({"_id": key, "owner": owner}))
            return None
        if key in find_labels([key]):
            return None
        if other is None:  # released at this moment
            continue
        if (sign := (other["owner"], other["beat"])) != seen:
            seen, since = sign, time.monotonic()
        if has_ended(other["host"], other["pid"]) or time.monotonic() - since > DEAD_S:
            logger.warning("taking over label %s... from a process that has ended: %s", key[:8], other)
            gone = {"_id": key, "owner": other["owner"], "beat": other["beat"]}
            patiently(lambda: claims.delete_one(gone))  # noqa: B023  # done at once
        else:
            time.sleep(LOOK_S)


def has_ended(host: str, pid: int) -> bool:
    """Return whether a process was one of this machine and has ended."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _beat(claims: Collection[dict[str, Any]], key: str, owner: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        try:
            claims.update_one({"_id": key, "owner": owner}, {"$inc": {"beat": 1}})
        except PyMongoError as error:  # a label is not lost because the server was away
            logger.warning("the claim could not be renewed: %s", error)
