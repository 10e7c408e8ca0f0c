"""Command line: ``mlip-autopipec run RUN.yaml``, ``resume`` and ``extend``."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from mlip_autopipec.errors import MLIPError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ase import Atoms
    from jobflow import Flow, JobStore

    from mlip_autopipec.flows.otf import OTFMaker
    from mlip_autopipec.lammps.types import Condition
    from mlip_autopipec.runfile import RunFile
    from mlip_autopipec.schemas.loop import OTFDocument

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)
console = Console(highlight=False, soft_wrap=True)

#: Exit codes of ``run``.
CONVERGED, FAILED, NOT_CONVERGED = 0, 1, 3


@app.callback()
def main() -> None:
    """Learn ACE interatomic potentials on the fly."""


@app.command()
def run(
    run_file: Annotated[Path, typer.Argument(help="YAML run file; see tutorials/ for examples.")],
    folder: Annotated[Path | None, typer.Option(help="Where everything goes; default runs/<name>.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Delete the folder if it exists.")] = False,
) -> None:
    """
    Run a campaign on this machine, without a database server.

    Prints one line per cycle. Exit code 0: converged; 3: ended without convergence, potential
    kept; 1: failed; 2: bad usage.
    """

    def prepare(campaign: RunFile, folder: Path) -> Flow:
        flow = campaign.maker().make(
            campaign.load_structures(),
            campaign.load_conditions(),
            labels=campaign.load_labels(),
            initial_potential=campaign.load_potential(),
        )
        # only now, when nothing can be refused any more, may an old run be deleted
        _prepare_folder(folder, overwrite)
        return flow

    _run(run_file, folder, prepare)


@app.command()
def resume(
    run_file: Annotated[Path, typer.Argument(help="The run file of the campaign.")],
    folder: Annotated[Path | None, typer.Option(help="Where it was run; default runs/<name>.")] = None,
) -> None:
    """
    Go on with a campaign that was killed, interrupted, or ended because a step failed.

    Nothing that was computed is computed again. Settings changed in the run file since then apply
    from now on. Exit codes as for run.
    """

    def prepare(campaign: RunFile, folder: Path) -> Flow:
        from mlip_autopipec.flows.otf import OTFMaker

        store, campaign_id = _campaign_in(folder)
        return OTFMaker.resume(campaign_id, store, _maker_if_changed(campaign, campaign_id, store))

    _run(run_file, folder, prepare)


@app.command()
def extend(
    run_file: Annotated[Path, typer.Argument(help="The run file of the campaign, with what is to be done further.")],
    folder: Annotated[Path | None, typer.Option(help="Where it was run; default runs/<name>.")] = None,
) -> None:
    """
    Go on with a campaign that has ended.

    Write further conditions or structures into its run file, new structures after the old ones, or a
    wider stop rule, or longer MD. Exit codes as for run.
    """

    def prepare(campaign: RunFile, folder: Path) -> Flow:
        from mlip_autopipec.flows.otf import OTFMaker
        from mlip_autopipec.flows.resume import recorded_task

        store, campaign_id = _campaign_in(folder)
        known = len(recorded_task(campaign_id, store).formulas)
        maker = _maker_if_changed(campaign, campaign_id, store)
        new = campaign.load_structures()[known:]
        return OTFMaker.extend(campaign_id, store, new, campaign.load_conditions(), maker)

    _run(run_file, folder, prepare)


def _run(run_file: Path, folder: Path | None, prepare: Callable[[RunFile, Path], Flow]) -> NoReturn:
    """Make a flow, run it here, report, and leave with the exit code."""
    from mlip_autopipec.runfile import RunFile

    started = time.perf_counter()
    try:
        campaign = RunFile.load(run_file)
        _check_validation(campaign)
        target = (folder or Path("runs") / campaign.name).resolve()
        flow = prepare(campaign, target)
        _log_to(target / "campaign.log")
        document = _run_campaign(campaign, flow, target, started)
    except MLIPError as error:
        console.print(f"[red]error:[/] {error}", markup=True)
        raise typer.Exit(FAILED) from error
    raise typer.Exit(_exit_code(document))


def _run_campaign(campaign: RunFile, flow: Flow, folder: Path, started: float) -> OTFDocument:
    from jobflow import run_locally

    from mlip_autopipec.jobs.dataset import read_labels
    from mlip_autopipec.report import summary_table, write_results
    from mlip_autopipec.schemas.loop import OTFDocument

    structures, conditions = campaign.load_structures(), campaign.load_conditions()
    console.print(
        f"[bold]{campaign.name}[/]: {len(structures)} structure(s) x {len(conditions)} condition(s), "
        f"oracle {campaign.oracle.kind}, trainer {campaign.trainer.kind}; everything is in {folder}"
    )
    store = open_store(folder / "store")
    # every cycle nests a few Python frames deeper under run_locally
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 10_000))
    (folder / "jobs").mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        run_locally(flow, store=store, log=False, create_folders=True, root_dir=folder / "jobs")
    found = store.query_one({"uuid": flow.output.uuid}, ["output"], sort={"index": -1}, load=True)
    if found is None:
        raise MLIPError(f"the campaign died before its first assessment; see {folder / 'campaign.log'}")
    document = OTFDocument.model_validate(found["output"])
    labels = [label.to_atoms() for label in read_labels(document.campaign_id, store=store)]
    validation = [] if document.potential is None else _validation_frames(campaign, structures, conditions)
    errors = write_results(folder, document, labels, validation)
    console.print(summary_table(document, errors, folder, time.perf_counter() - started))
    return document


def _campaign_in(folder: Path) -> tuple[JobStore, str]:
    """Open the store of a run and return the name of its campaign."""
    if not (folder / "store").is_dir():
        raise MLIPError(f"'{folder}' holds no campaign; begin one with `mlip-autopipec run`, or name its --folder")
    store = open_store(folder / "store")
    names = sorted(map(str, store.distinct("output.campaign_id", {"output.kind": "campaign"})))
    if len(names) != 1:
        raise MLIPError(f"'{folder}' holds the campaigns {names}; one is expected. If none, delete it and run anew")
    return store, names[0]


def _maker_if_changed(campaign: RunFile, campaign_id: str, store: JobStore) -> OTFMaker | None:
    """Return the maker of the run file, if it is not the one the campaign was last run with."""
    from mlip_autopipec.flows.resume import recorded_task

    maker = campaign.maker()
    recorded = recorded_task(campaign_id, store).payload["maker"]
    return None if json.loads(maker.to_json()) == json.loads(recorded) else maker


def _check_validation(campaign: RunFile) -> None:
    """Refuse a validation that could not be run, before the campaign instead of after it."""
    if campaign.validation is not None:
        static = campaign.oracle.static_maker()
        if not hasattr(type(static), "calculator"):
            raise MLIPError(
                f"validation needs an oracle that is an ASE calculator, not {type(static).__name__}; remove it"
            )


def _validation_frames(campaign: RunFile, structures: Sequence[Atoms], conditions: Sequence[Condition]) -> list[Atoms]:
    """Frames of the oracle's own MD, where the run file asks for them."""
    from mlip_autopipec.oracle.validation import oracle_md_frames

    settings = campaign.validation_settings()
    if settings is None:
        return []
    calculator = getattr(campaign.oracle.static_maker(), "calculator")  # noqa: B009 - _check_validation saw it
    console.print("validating on MD of the oracle itself ...")
    return [
        frame
        for i, atoms in enumerate(structures)
        for j, condition in enumerate(conditions)
        for frame in oracle_md_frames(
            atoms, calculator, condition.temperature_K, settings, seed=campaign.seed + 1000 * i + j + 1
        )
    ]


def open_store(folder: Path) -> JobStore:
    """Open (or make) the on-disk JobStore of a run."""
    from mlip_autopipec.database import disk

    return disk.open_store(folder)


def _prepare_folder(folder: Path, overwrite: bool) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise MLIPError(
                f"folder '{folder}' is not empty; go on with its campaign by `mlip-autopipec resume`, choose another "
                "with --folder, or delete it with --overwrite"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _log_to(file: Path) -> None:
    """Everything to the log file; the loop's own lines and dying jobs to the screen."""

    class Screen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if record.name.startswith("mlip_autopipec"):
                console.print(message.splitlines()[0], markup=False)
            elif "failed with exception" in message:
                console.print(f"a job died: {message.splitlines()[0]} {message.strip().splitlines()[-1]}", markup=False)

    root = logging.getLogger()
    root.setLevel(logging.INFO)
    to_file = logging.FileHandler(file)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root.handlers = [to_file, Screen()]


def _exit_code(document: OTFDocument) -> int:
    from mlip_autopipec.schemas.loop import LoopStatus

    if document.status is LoopStatus.CONVERGED:
        return CONVERGED
    return FAILED if document.status in (LoopStatus.FAILED, LoopStatus.ORACLE_FAILING) else NOT_CONVERGED


if __name__ == "__main__":
    app()
