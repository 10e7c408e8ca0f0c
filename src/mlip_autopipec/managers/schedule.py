"""Which jobs of a flow may run next: jobflow's rules, without a process, a store or a call within a call."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jobflow import OnMissing
from jobflow.core.flow import get_flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from jobflow import Flow, Job, Response


@dataclass(frozen=True)
class Task:
    """
    A job as its schedule knows it.

    Parameters
    ----------
    uuid, index, name
        Of the job.
    parents
        uuids of the jobs of the same flow whose documents it needs.
    tolerant
        Whether it runs even if one of them failed.
    payload
        The job, or what a worker makes it from.
    """

    uuid: str
    index: int
    name: str
    parents: tuple[str, ...]
    tolerant: bool
    payload: Any

    @classmethod
    def all_of(cls, flow: Flow, pack: Callable[[Job], Any]) -> list[Task]:
        """
        Return the jobs of a flow in an order in which they could run one after the other.

        Parameters
        ----------
        flow
            A flow.
        pack
            Makes the payload of a job.
        """
        return [
            cls(
                uuid=job.uuid,
                index=job.index,
                name=job.name,
                parents=tuple(dict.fromkeys(parents)),
                tolerant=job.config.on_missing_references != OnMissing.ERROR,
                payload=pack(job),
            )
            for job, parents in flow.iterflow()
        ]


@dataclass(frozen=True)
class Outcome:
    """
    What came of a job, apart from its document.

    Parameters
    ----------
    added
        Flows that the job appended: its replacement, detours, additions.
    stop_children, stop_flow
        jobflow's requests to skip the jobs that depend on this one, or all jobs.
    error
        Why it failed, with the traceback; None if it did not.
    """

    added: tuple[tuple[Task, ...], ...] = ()
    stop_children: bool = False
    stop_flow: bool = False
    error: str | None = None

    @classmethod
    def of(cls, response: Response, pack: Callable[[Job], Any]) -> Outcome:
        """Return the outcome of a job that did not fail."""
        given: list[Any] = [response.replace, response.detour, response.addition]
        flows = [get_flow(flow, allow_external_references=True) for flow in given if flow is not None]
        added = tuple(tuple(Task.all_of(flow, pack)) for flow in flows)
        return cls(added, bool(response.stop_children), bool(response.stop_jobflow))


@dataclass(eq=False)
class Entry:
    """
    A job on its way.

    Parameters
    ----------
    task
        The job.
    host
        The job that appended it; None for jobs of the first flow.
    n_open
        1 until it has run, plus the appended jobs that are not done.
    n_parents
        Parents that are not done.
    children
        Jobs that wait for it.
    attempts
        How often it was begun.
    """

    task: Task
    host: Entry | None
    n_open: int = 1
    n_parents: int = 0
    children: list[Entry] = field(default_factory=list)
    attempts: int = 0


class Schedule:
    """
    The jobs of one flow, and of all that they append, in the order of ``jobflow.run_locally``.

    A job is *done* when it and everything that it appended has run; then the jobs that need its document may run. A
    job whose parent failed, or stopped its children, is skipped, and so are the jobs that need its document.

    Parameters
    ----------
    tasks
        Of the flow: :meth:`Task.all_of`.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.failed: dict[str, str] = {}
        """Why jobs failed, by their uuids."""
        self.n_run = 0
        self._ready: deque[Entry] = deque()
        self._skipped: set[str] = set()
        self._stopped: set[str] = set()
        self._n_running = 0
        self._is_ended = False
        self._add([tuple(tasks)], None)

    def __bool__(self) -> bool:
        """Tell whether a job could begin now."""
        return bool(self._ready) and not self._is_ended

    @property
    def is_over(self) -> bool:
        """Tell whether no job runs or will run."""
        return not self and self._n_running == 0

    @property
    def n_running(self) -> int:
        """Number of jobs that were begun and have not ended."""
        return self._n_running

    def next_job(self, may_run: Callable[[str], bool]) -> Entry | None:
        """Return the first job that could begin now and whose name is accepted; None if there is none."""
        return next((one for one in self._ready if may_run(one.task.name)), None) if self else None

    def begin(self, entry: Entry | None = None) -> Entry:
        """Return the next job, or this one of those that are ready; the caller runs it and says what came of it."""
        if entry is None:
            entry = self._ready.popleft()
        else:
            self._ready.remove(entry)
        entry.attempts += 1
        self._n_running += 1
        return entry

    def put_back(self, entry: Entry) -> None:
        """Let a job that was begun and left no outcome begin once more, before all others."""
        self._n_running -= 1
        self._ready.appendleft(entry)

    def end(self, entry: Entry, outcome: Outcome) -> None:
        """Note what came of a job."""
        self._n_running -= 1
        self.n_run += 1
        if outcome.error is not None:
            self.failed[entry.task.uuid] = outcome.error
            self._skipped.add(entry.task.uuid)
        if outcome.stop_children:
            self._stopped.add(entry.task.uuid)
        if outcome.stop_flow:
            self._is_ended = True
            return
        entry.task = replace(entry.task, payload=None)  # thousands of jobs may wait until what they appended is done
        self._add(outcome.added, entry)
        self._close([entry])

    def _add(self, flows: Sequence[Sequence[Task]], host: Entry | None) -> None:
        """Take in flows; what of them can run comes before all that waits already."""
        ready: list[Entry] = []
        for tasks in flows:
            entries = {task.uuid: Entry(task, host) for task in tasks}
            for entry in entries.values():
                for parent in entry.task.parents:
                    entries[parent].children.append(entry)
                    entry.n_parents += 1
            ready += [entry for entry in entries.values() if not entry.n_parents]
            if host is not None:
                host.n_open += len(entries)
        self._ready.extendleft(reversed(ready))

    def _close(self, ended: list[Entry]) -> None:
        """Count entries as run, and follow up what that makes done; in a loop, however long the chain is."""
        ready: list[Entry] = []
        while ended:
            entry: Entry | None = ended.pop()
            while entry is not None:
                entry.n_open -= 1
                if entry.n_open:
                    break
                for child in entry.children:
                    child.n_parents -= 1
                    if not child.n_parents:
                        (ended if self._is_skipped(child.task) else ready).append(child)
                entry = entry.host
        self._ready.extendleft(reversed(ready))

    def _is_skipped(self, task: Task) -> bool:
        """Tell whether a job whose parents are done does not run; then neither do those that depend on it."""
        if not self._stopped.isdisjoint(task.parents):
            self._stopped.add(task.uuid)
            return True
        if not task.tolerant and not self._skipped.isdisjoint(task.parents):
            self._skipped.add(task.uuid)
            return True
        return False
