"""A campaign run by this process: its flow, its log, its results."""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from mlip_autopipec.cli.base import console, open_store, short, typed
from mlip_autopipec.cli.folder import begin_results, end_results
from mlip_autopipec.errors import MLIPError, TeacherMissingError
from mlip_autopipec.seeds import SeedPurpose, derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ase import Atoms
    from jobflow import Flow, JobStore

    from mlip_autopipec.database.validation import AskedWalk
    from mlip_autopipec.lammps.types import Condition
    from mlip_autopipec.managers.fork_server import ForkServer
    from mlip_autopipec.managers.local import Run
    from mlip_autopipec.runfile.model import RunFile
    from mlip_autopipec.schemas.label import ComparisonDocument
    from mlip_autopipec.schemas.loop import OTFDocument, WalkerState
    from mlip_autopipec.training.accuracy import ErrorMetrics
    from mlip_autopipec.validation.oracle_md import ValidationSettings

logger = logging.getLogger(__name__)

#: Said before it begins.
VALIDATING = "validating on MD of the oracle itself, from the start and from where each walker ended ..."


def run_here(
    campaign: RunFile,
    flow: Flow | None,
    folder: Path,
    started: float,
    workers: int = 0,
    server: ForkServer | None = None,
) -> dict[str, Any]:
    """
    Run a flow on this machine and write its results.

    Results are written before the validation, and again with its errors. What of it was computed is in the store, so
    that a process which dies in it costs no more than the frame it was at.

    Parameters
    ----------
    campaign
        The run file.
    flow
        To run; None if the loop has ended, and only its validation or its results are missing.
    folder
        Of the campaign: store, folders of the jobs, results.
    started
        ``time.perf_counter()`` when the command began.
    workers, server
        As for :func:`~mlip_autopipec.managers.local.run_flows`.

    Returns
    -------
    dict
        What ``--json`` prints, without the exit code.
    """
    from mlip_autopipec.managers.local import Run, Watch, run_flows
    from mlip_autopipec.progress import live_view
    from mlip_autopipec.report import summary_table

    structures, conditions = campaign.load_structures(), campaign.load_conditions()
    console.print(
        f"[bold]{escape(campaign.name)}[/]: {len(structures)} structure(s) x {len(conditions)} condition(s), "
        f"oracle {campaign.oracle.kind}, trainer {campaign.trainer.kind}; everything is in {escape(str(short(folder)))}"
    )
    store = open_store(folder / "store")
    begin_results(folder)
    if flow is not None:
        watch = Watch()
        with live_view(console, folder, watch), quiet():
            run = Run(flow, folder / "jobs", campaign.load_resources())
            run_flows([run], store, workers=workers, watch=watch, server=server)
    one = ended(campaign, flow, folder, store)
    if one.asked:
        watch = Watch()
        console.print(VALIDATING)
        with live_view(console, folder, watch), quiet():
            run_flows([one.oracle_md()], store, workers=workers, watch=watch, server=server)
    result, errors = finish(one, store, started)
    report = None if result["report"] is None else short(Path(result["report"]))
    console.print(summary_table(one.document, errors, short(folder), result["seconds"], report))
    return result


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings that say nothing to a user off the screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # what a resumed campaign takes up again may run in any order
        warnings.filterwarnings("ignore", "Some jobs are not connected", UserWarning)
        yield


@dataclass(frozen=True)
class Ended:
    """
    A campaign whose loop has ended.

    Parameters
    ----------
    run_file
        Its run file.
    folder
        Its folder.
    document
        What it ended with.
    labels
        All its labels.
    asked
        MD of the oracle that it is to be validated on; none without a potential or a section ``validation``.
    compared
        How labels that were given compare with the oracle.
    errors
        Of its potential, by set, as far as they are known before the validation.
    """

    run_file: RunFile
    folder: Path
    document: OTFDocument
    labels: list[Atoms]
    asked: list[AskedWalk]
    compared: ComparisonDocument | None
    errors: Mapping[str, ErrorMetrics]

    def oracle_md(self) -> Run:
        """Return the MD that is asked for, as jobs."""
        from mlip_autopipec.managers.local import Run
        from mlip_autopipec.managers.oracle_md import oracle_md_flow

        flow = oracle_md_flow(self.document.campaign_id, self.asked, self.run_file.oracle.static_maker())
        return Run(flow, self.folder / "jobs", self.run_file.load_resources())


def ended(campaign: RunFile, flow: Flow | None, folder: Path, store: JobStore) -> Ended:
    """
    Write the results of a campaign whose flow has run, those of the validation apart.

    Parameters
    ----------
    campaign, flow, folder
        As for :func:`run_here`.
    store
        Its store.

    Raises
    ------
    MLIPError
        It failed before its first assessment.
    """
    from mlip_autopipec.jobs.dataset import read_comparison, read_labels
    from mlip_autopipec.report import write_results

    document = _final(store, flow, folder)
    labels = [label.to_atoms() for label in read_labels(document.campaign_id, store=store)]
    compared = read_comparison(document.campaign_id, store)
    errors = write_results(folder, document, labels, compared=compared)
    settings = None if document.potential is None else campaign.validation_settings()
    asked = [] if settings is None else _oracle_walks(campaign, settings, document, store)
    return Ended(campaign, folder, document, labels, asked, compared, errors)


def finish(one: Ended, store: JobStore, started: float) -> tuple[dict[str, Any], Mapping[str, ErrorMetrics]]:
    """
    Measure the potential on the MD of the oracle, and write all results.

    MD that is not in the store, since its job failed, is run here; what it fails with is raised.

    Parameters
    ----------
    one
        The campaign.
    store
        Its store.
    started
        ``time.perf_counter()`` when the command began.

    Returns
    -------
    dict, Mapping
        What ``--json`` prints, without the exit code; errors by set.
    """
    from mlip_autopipec.database.validation import store_errors
    from mlip_autopipec.report import write_results

    document, runs = one.document, []
    if one.asked:
        assert document.potential is not None
        static_maker = one.run_file.oracle.static_maker()
        runs = [walk.done(store, document.campaign_id, static_maker) for walk in one.asked]
        store_errors(store, document.potential, runs, one.run_file.maker().stop_rule.accuracy)
    frames = [frame for run in runs for frame in run.frames]
    errors = write_results(one.folder, document, one.labels, frames, one.compared) if frames else one.errors
    end_results(one.folder)
    report = _report(one.folder, store, document.campaign_id)
    seconds = time.perf_counter() - started
    return outcome(document, errors, one.folder, seconds, report), errors


def _final(store: JobStore, flow: Flow | None, folder: Path) -> OTFDocument:
    """Return the document a campaign ended with."""
    from mlip_autopipec.cli.base import campaign_in
    from mlip_autopipec.flows.resume import last_document
    from mlip_autopipec.schemas.loop import OTFDocument

    if flow is None:
        return last_document(campaign_in(folder)[1], store)
    found = store.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1}, load=True)
    if found is None:
        raise MLIPError(f"the campaign failed before its first assessment; see {folder / 'campaign.log'}")
    return OTFDocument.model_validate(found["output"])


def _report(folder: Path, store: JobStore, campaign_id: str) -> Path | None:
    """Write the page of the campaign; where that fails say so, since the results are there without it."""
    from mlip_autopipec.database.campaigns import Campaigns
    from mlip_autopipec.report.page import write_report

    path = folder / "report.html"
    try:
        write_report(path, Campaigns(store), campaign_id)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        told = f"no report was written: {type(error).__name__}: {first}; try `{typed('report', short(folder))}`"
        logger.warning(told, exc_info=True)  # one line on the screen, all of it in the log
        return None
    return path


def outcome(
    document: OTFDocument, errors: Mapping[str, ErrorMetrics], folder: Path, seconds: float, report: Path | None = None
) -> dict[str, Any]:
    """Put together what a script wants to know."""
    numbers = document.model_dump(
        mode="json",
        include={
            "campaign_id",
            "status",
            "why",
            "n_cycles",
            "n_halts",
            "n_labels",
            "n_reused_labels",
            "n_failed_labels",
        },
    )
    return {
        **numbers,
        "errors": {name: asdict(error) for name, error in errors.items()},
        "folder": str(folder),
        "potential": sorted(str(path) for path in (folder / "potential").glob("potential.*")),
        "report": None if report is None else str(report),
        "seconds": seconds,
    }


def check_what_runs_here(campaign: RunFile) -> None:
    """Refuse a validation that could not be run, or a job that has no room, before anything begins."""
    campaign.load_resources()
    if campaign.validation is not None:
        static = campaign.oracle.static_maker()
        if not hasattr(type(static), "calculator"):
            raise MLIPError(
                f"validation needs an oracle that is an ASE calculator, not {type(static).__name__}; remove it"
            )


def check_engine(campaign: RunFile) -> None:
    """Refuse an engine that this machine lacks before a flow begins, so that no label is computed for it in vain."""
    if campaign.dynamics.engine == "executable":
        from mlip_autopipec.lammps.executable import find_command

        find_command()


def _oracle_walks(
    campaign: RunFile, settings: ValidationSettings, document: OTFDocument, store: JobStore
) -> list[AskedWalk]:
    """Return the runs of the oracle's own MD to validate on: at every walker's condition."""
    from mlip_autopipec.database.campaigns import Campaigns
    from mlip_autopipec.database.validation import AskedWalk
    from mlip_autopipec.flows.given import as_frames
    from mlip_autopipec.lammps.types import Condition

    maker, starts, conditions = campaign.maker(), as_frames(campaign.load_structures()), campaign.load_conditions()
    dynamics = maker.dynamics_maker.settings
    barostat = dynamics.barostat if dynamics.ensemble == "npt" else None
    begins, ends = settings.halves()
    asked: list[AskedWalk] = []

    def ask(walker: WalkerState, which: Literal["start", "end"], atoms: Atoms, condition: Condition) -> None:
        place = walker.start_index, conditions.index(walker.condition)
        seed = derive_seed(campaign.seed, SeedPurpose.VALIDATION, *place, *([1] if which == "end" else []))
        half = begins if which == "start" or ends is None else ends
        key = maker.oracle_maker.key_of(atoms)
        asked.append(AskedWalk(walker.index, which, key, atoms, condition, half, seed, barostat))

    for walker in document.walkers:
        ask(walker, "start", starts[walker.start_index], walker.condition)
        if ends is not None and walker.walk_id is not None:
            last, condition = Campaigns(store).walk(walker.walk_id).final_atoms(), walker.condition
            last.arrays.pop("momenta", None)
            reached = condition.temperature_at(min(1.0, walker.step / dynamics.n_steps))
            ask(walker, "end", last, Condition(reached, condition.pressure_GPa))
    return asked


def log_to(file: Path, names: Mapping[Path, str] | None = None) -> None:
    """
    Everything to the log file; the loop's own lines and dying jobs to the screen.

    Parameters
    ----------
    file
        The log.
    names
        Of several campaigns that run at once, by their folders: each line begins with the name of its campaign.
    """

    def of_campaign(record: logging.LogRecord) -> bool:
        at = Path(getattr(record, "job_folder", None) or Path.cwd())
        name = next((name for folder, name in (names or {}).items() if at.is_relative_to(folder)), "")
        record.__dict__["of_campaign"] = f"{name}: " if name else ""
        return True

    class Screen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message, of_campaign = record.getMessage(), record.__dict__["of_campaign"]
            if "failed with exception" in message and TeacherMissingError.__name__ in first_of_error(message):
                return  # the teacher's own failure has been told, and is told at the end
            if "failed with exception" in message:
                console.print(
                    f"{of_campaign}a job failed: {message.splitlines()[0]} {first_of_error(message)}", markup=False
                )
            elif record.name.startswith("mlip_autopipec"):
                console.print(f"{of_campaign}{message.splitlines()[0]}", markup=False)

    root = logging.getLogger()
    root.setLevel(logging.INFO)
    to_file = logging.FileHandler(file)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(of_campaign)s%(message)s"))
    root.handlers = [to_file, Screen()]
    for handler in root.handlers:
        handler.addFilter(of_campaign)


def first_of_error(message: str) -> str:
    """Return what a message with a traceback says first of the error; what follows it may be a log."""
    lines = message.rpartition("Traceback (most recent call last):\n")[2].strip("\n").splitlines()
    first = next((number for number, line in enumerate(lines) if number and not line.startswith(" ")), len(lines) - 1)
    rest = [line.strip() for line in lines[first + 1 : first + 2] if lines[first].endswith(":")]
    return " ".join([lines[first], *rest])
