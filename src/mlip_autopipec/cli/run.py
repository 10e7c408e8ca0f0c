"""``run``, ``resume`` and ``extend``: campaigns on this machine."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mlip_autopipec.cli.base import app, campaign_in, errors_told
from mlip_autopipec.cli.exit_codes import exit_code
from mlip_autopipec.errors import MLIPError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobflow import Flow, JobStore

    from mlip_autopipec.flows.otf import OTFMaker
    from mlip_autopipec.runfile import RunFile


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

        store, campaign_id = campaign_in(folder)
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

        store, campaign_id = campaign_in(folder)
        known = len(recorded_task(campaign_id, store).formulas)
        maker = _maker_if_changed(campaign, campaign_id, store)
        new = campaign.load_structures()[known:]
        return OTFMaker.extend(campaign_id, store, new, campaign.load_conditions(), maker)

    _run(run_file, folder, prepare)


def _run(run_file: Path, folder: Path | None, prepare: Callable[[RunFile, Path], Flow]) -> NoReturn:
    """Make a flow, run it here, report, and leave with the exit code."""
    from mlip_autopipec.cli.local import check_validation, log_to, run_here
    from mlip_autopipec.runfile import RunFile

    started = time.perf_counter()
    with errors_told():
        campaign = RunFile.load(run_file)
        check_validation(campaign)
        target = (folder or Path("runs") / campaign.name).resolve()
        flow = prepare(campaign, target)
        log_to(target / "campaign.log")
        document = run_here(campaign, flow, target, started)
    raise typer.Exit(exit_code(document.status))


def _maker_if_changed(campaign: RunFile, campaign_id: str, store: JobStore) -> OTFMaker | None:
    """Return the maker of the run file, if it is not the one the campaign was last run with."""
    from mlip_autopipec.flows.resume import recorded_task

    maker = campaign.maker()
    recorded = recorded_task(campaign_id, store).payload["maker"]
    return None if json.loads(maker.to_json()) == json.loads(recorded) else maker


def _prepare_folder(folder: Path, overwrite: bool) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise MLIPError(
                f"folder '{folder}' is not empty; go on with its campaign by `mlip-autopipec resume`, choose another "
                "with --folder, or delete it with --overwrite"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
