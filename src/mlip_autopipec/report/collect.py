"""Everything the page of a campaign is made of, read once from the JobStore."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlip_autopipec.database.validation import read_errors
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.report.thin import thinned_trace
from mlip_autopipec.schemas.loop import LoopStatus

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.database.campaigns import Campaigns
    from mlip_autopipec.oracle.record import OracleRecord
    from mlip_autopipec.schemas.campaign import CampaignDocument
    from mlip_autopipec.schemas.check import CheckDocument
    from mlip_autopipec.schemas.label import LabelDocument
    from mlip_autopipec.schemas.loop import OTFDocument
    from mlip_autopipec.schemas.potential import GradedLabel, PotentialDocument
    from mlip_autopipec.schemas.validation import ValidationDocument
    from mlip_autopipec.schemas.walk import WalkDocument


@dataclass(frozen=True)
class Limits:
    """
    How much of a long campaign goes into the page; the page says what is left out.

    Parameters
    ----------
    walks
        MD runs whose traces are read, the newest.
    trace_points
        Points of all traces together.
    structures
        Labels the final potential is evaluated on, held-out ones first.
    parity_points
        Points of one parity plot; the largest errors are kept.
    label_rows
        Rows of the table of labels, the newest.
    halts
        Halted structures to show, the newest.
    atoms
        Atoms of one of them, around the one of largest grade.
    """

    walks: int = 400
    trace_points: int = 40_000
    structures: int = 300
    parity_points: int = 4000
    label_rows: int = 1000
    halts: int = 24
    atoms: int = 200


@dataclass
class CampaignData:
    """
    What is known of one campaign.

    Parameters
    ----------
    status
        Where it stands.
    task
        What it was asked to do.
    cycles
        All assessments; the first labels and the first potential may be there before the first of them.
    walks
        MD runs without their frames, by cycle and walker.
    traces
        By uuid of a walk: ``time_ps`` and ``gamma_max``, thinned.
    halted
        By uuid of a walk the frame it halted at.
    n_unread
        Walks whose traces were left unread because there are too many.
    potentials
        All potentials without their files.
    final
        The last one with its files; None where none could be trained.
    dataset
        All successful labels, flagged outliers too, with their provenance in ``info``.
    failed
        Labels that were asked for and not obtained.
    checks
        Comparisons with labels from halt-free MD.
    validated
        Errors of the final potential on MD of the oracle; None if it was not validated.
    records
        Levels of theory the labels were computed with.
    aside
        Flagged outliers, by uuid with the reasons; accepted ones are left out.
    unreadable
        What could not be read, in words.
    shift
        What was added to the energies of given labels, in words; empty where nothing was.
    teacher
        Who taught the final potential, in words; empty where nobody did.
    running
        Whether a process runs the campaign; None where that is not known.
    """

    status: OTFDocument
    task: CampaignDocument
    cycles: list[OTFDocument]
    walks: list[WalkDocument]
    potentials: list[PotentialDocument]
    dataset: list[Atoms]
    failed: list[LabelDocument]
    checks: list[CheckDocument]
    validated: ValidationDocument | None
    records: list[OracleRecord]
    aside: dict[str, list[str]]
    final: PotentialDocument | None = None
    traces: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    halted: dict[str, Atoms] = field(default_factory=dict)
    n_unread: int = 0
    unreadable: list[str] = field(default_factory=list)
    shift: str = ""
    teacher: str = ""
    running: bool | None = None

    @property
    def interrupted(self) -> bool:
        """Whether it is to go on and nothing runs it."""
        return self.running is False and self.status.status in (LoopStatus.LEARNING, LoopStatus.PAUSED)

    @property
    def maker(self) -> dict[str, Any]:
        """The OTFMaker the campaign was last run with, as plain data; empty where it was not recorded."""
        recorded = self.task.payload.get("maker")
        return json.loads(recorded) if recorded else {}

    @property
    def thresholds(self) -> tuple[float, float] | None:
        """Lower and upper threshold of gamma: as adapted last, else as set."""
        if self.status.gamma_thresholds is not None:
            return self.status.gamma_thresholds
        settings = self.maker.get("dynamics_maker", {}).get("settings", {})
        low, high = settings.get("gamma_lo"), settings.get("gamma_hi")
        return None if low is None or high is None else (float(low), float(high))

    @property
    def graded(self) -> list[tuple[int, GradedLabel]]:
        """Cycle, and grade and true error of every label before it was trained on."""
        found = {g.label_id: (p.cycle, g) for p in self.potentials for g in p.graded}
        # labels of a check are graded there; those of a failed one again when they are learnt
        found |= {g.label_id: (c.cycle, g) for c in self.checks for g in c.graded}
        return [found[label_id] for label_id in found]

    def walker_name(self, index: int) -> str:
        """Name of a walker: number, formula, condition."""
        for walker in self.status.walkers:
            if walker.index == index:
                pressure = walker.condition.pressure_GPa
                end = walker.condition.temperature_end_K
                kelvin = f"{walker.condition.temperature_K:g}" + (f" to {end:g}" if end is not None else "")
                return (
                    f"walker {index}: {walker.formula}, {kelvin} K"
                    + (f", {pressure:g} GPa" if pressure else "")
                    + (", colvars" if walker.condition.colvars is not None else "")
                )
        return f"walker {index}"


def collect(campaigns: Campaigns, campaign_id: str, limits: Limits) -> CampaignData:
    """
    Read a campaign.

    Parameters
    ----------
    campaigns
        Where it is stored.
    campaign_id
        Which one.
    limits
        How much of its bulk is read.

    Raises
    ------
    MLIPError
        There is no such campaign.
    """
    status = campaigns.status(campaign_id)
    compared = campaigns.comparison(campaign_id)
    walks = sorted(campaigns.walks(campaign_id), key=lambda w: (w.cycle, w.walker))
    data = CampaignData(
        status=status,
        task=campaigns.task(campaign_id),
        cycles=campaigns.cycles(campaign_id),
        walks=walks,
        potentials=campaigns.potentials(campaign_id),
        dataset=campaigns.dataset(campaign_id, with_outliers=True),
        failed=campaigns.labels(campaign_id, state="failed"),
        checks=campaigns.checks(campaign_id),
        validated=read_errors(campaigns.store, campaign_id, status.potential_id),
        records=campaigns.oracle_records(campaign_id),
        aside=campaigns.outliers(campaign_id),
        shift="" if compared is None else compared.describe_shift(),
    )
    if data.potentials:
        data.final = campaigns.potential(campaign_id)
        data.teacher = campaigns.told_teacher(data.final)
    _read_traces(data, campaigns, limits)
    return data


def _read_traces(data: CampaignData, campaigns: Campaigns, limits: Limits) -> None:
    """Read the newest walks one after the other; a long campaign's do not fit into memory together."""
    ran = [walk for walk in data.walks if walk.status != "NOT_RUN"]
    chosen = ran[-limits.walks :]
    data.n_unread = len(ran) - len(chosen)
    halts = {walk.uuid for walk in [w for w in chosen if w.status == "HALTED"][-limits.halts :]}
    points = max(20, limits.trace_points // max(len(chosen), 1))
    for walk in chosen:
        try:
            full = campaigns.walk(walk.uuid)
            trace = full.payload["trace"]
            if trace.get("step"):
                time_ps = [1e-3 * walk.timestep_fs * step for step in trace["step"]]
                data.traces[walk.uuid] = thinned_trace(time_ps, [_finite(g) for g in trace["gamma_max"]], points)
            if walk.uuid in halts:
                data.halted[walk.uuid] = full.final_atoms()
        except (MLIPError, KeyError, ValueError) as error:
            # said on the page; the walks that can be read are shown
            data.unreadable.append(f"trace of walker {walk.walker} in cycle {walk.cycle}: {error!r}")


def _finite(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else float(value)
