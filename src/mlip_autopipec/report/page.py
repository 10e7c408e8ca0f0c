"""One self-contained HTML file about a campaign, which loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly
from jinja2 import Environment, StrictUndefined

from mlip_autopipec.report import errors, labels, properties, structures, walks
from mlip_autopipec.report.collect import Limits, collect
from mlip_autopipec.report.panels import as_json
from mlip_autopipec.schemas.campaign import now_utc
from mlip_autopipec.schemas.loop import LoopStatus
from mlip_autopipec.schemas.measured import measured_on

if TYPE_CHECKING:
    from mlip_autopipec.database.campaigns import Campaigns
    from mlip_autopipec.oracle.record import OracleRecord
    from mlip_autopipec.report.collect import CampaignData
    from mlip_autopipec.report.panels import Panel
    from mlip_autopipec.schemas.loop import OTFDocument

_MOODS = {
    LoopStatus.CONVERGED: "good",
    LoopStatus.LEARNING: "busy",
    LoopStatus.PAUSED: "busy",
    LoopStatus.MAX_ITER_REACHED: "spent",
    LoopStatus.BUDGET_SPENT: "spent",
}
_SECTIONS = (
    ("dynamics", "Exploration"),
    ("errors", "Errors"),
    ("labels", "Labels"),
    ("worth", "Gamma"),
    ("properties", "Properties"),
    ("cycles", "Cycles"),
    ("repeat", "To repeat it"),
)


def write_report(
    path: Path | str, campaigns: Campaigns, campaign_id: str, limits: Limits | None = None, running: bool | None = None
) -> int:
    """
    Write the page of a campaign, also while it runs.

    Parameters
    ----------
    path
        File to write; replaced if it is there.
    campaigns
        Where the campaign is stored.
    campaign_id
        Which one.
    limits
        How much of a long campaign goes into the page.
    running
        Whether a process runs it; None where that is not known.

    Returns
    -------
    int
        Size of the file in bytes.

    Raises
    ------
    MLIPError
        There is no such campaign.
    """
    limits = limits or Limits()
    data = collect(campaigns, campaign_id, limits)
    data.running = running
    text = render(data, limits)
    encoded = text.encode()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded)
    return len(encoded)


def render(data: CampaignData, limits: Limits) -> str:
    """Make the page of what was read."""
    worth, _ = labels.worth_of_gamma(data)
    error_bars = labels.worth_of_error_bars(data)
    label_rows, n_more = labels.label_rows(data, limits.label_rows)
    panels: dict[str, Panel | list[Panel]] = {
        "progress": walks.progress(data),
        "gamma": walks.gamma(data),
        "halts": structures.halts(data, limits.atoms),
        "errors": errors.by_cycle(data),
        "parity": errors.parity(data, limits),
        "origins": labels.by_origin(data),
        "worth": worth,
        "error_bars": error_bars,
        "properties": properties.panels(data),
    }
    flat = [p for value in panels.values() for p in (value if isinstance(value, list) else [value])]
    plotly_js, script = plotly.offline.get_plotlyjs(), _resource("page.js")
    # all that comes out of the database is escaped
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_resource("page.html.j2")).render(
        **panels,
        policy=_policy(plotly_js, script),
        css=_resource("page.css"),
        plotly=plotly_js,
        script=script,
        plots=as_json({p.key: p.plain() for p in flat if p.views}),
        title=data.task.name or data.status.campaign_id,
        status=data.status,
        mood="bad" if data.interrupted else _MOODS.get(data.status.status, "bad"),
        standing="INTERRUPTED" if data.interrupted else str(data.status.status),
        why=f"no process runs it; resume continues. {data.status.why}" if data.interrupted else data.status.why,
        key_figures=_key_figures(data),
        sections=_SECTIONS,
        unreadable=data.unreadable,
        checks=data.checks,
        validated=data.validated,
        walker_name=data.walker_name,
        origin_rows=labels.origin_rows(data),
        set_aside=labels.set_aside_rows(data),
        label_rows=label_rows,
        n_more_labels=n_more,
        property_rows=properties.rows(data),
        cycles=[_cycle_row(cycle) for cycle in data.cycles],
        facts=_facts(data),
        versions=sorted(data.task.versions.items()),
        records=[_record(record) for record in data.records],
        settings=json.dumps(data.maker, indent=2) if data.maker else "",
        written=now_utc(),
        version=version("mlip-autopipec"),
    )


def _policy(*scripts: str) -> str:
    """Forbid the browser to load anything, and to run any other script than these."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{h}'" for h in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"


def _resource(name: str) -> str:
    return (files("mlip_autopipec.report") / name).read_text(encoding="utf-8")


def _key_figures(data: CampaignData) -> list[dict[str, str]]:
    status = data.status
    reused = f"{status.n_reused_labels} taken from the database" if status.n_reused_labels else ""
    failed = f"{status.n_failed_labels} failed" if status.n_failed_labels else ""
    picosecond = 1e-3 * sum((w.step - w.start_step) * w.timestep_fs for w in data.walks)
    done = sum(w.status == "CONVERGED" for w in status.walkers)
    figures = [
        _figure("labels", f"{status.n_labels}", "", ", ".join(filter(None, [failed, reused]))),
        _figure("cycles", f"{status.n_cycles}", "", f"{status.n_halts} halt{'' if status.n_halts == 1 else 's'}"),
        _figure("walkers done", f"{done} of {len(status.walkers)}", "", f"{picosecond:.3g} ps of MD"),
    ]
    final = data.final
    of, measured = ("", None) if final is None else measured_on(final)
    if final is None or measured is None:
        return [
            *figures,
            _figure("error", "unknown", "", "no potential" if final is None else "no labels to measure on"),
        ]
    of = f"{of} labels, {measured.n_structures} structures"
    return [
        *figures,
        _figure("force error", f"{measured.forces_rmse_meV_A:.3g}", "meV/Å", of),
        _figure("energy error", f"{measured.energy_rmse_meV_atom:.3g}", "meV/atom", of),
    ]


def _figure(name: str, value: str, unit: str = "", remark: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "unit": unit, "remark": remark}


def _cycle_row(cycle: OTFDocument) -> dict[str, Any]:
    ran = [w for w in cycle.walkers if w.status not in ("PENDING", "WAITING")]
    told = [w.describe() for w in ran[:4]] + ([f"{len(ran) - 4} more"] if len(ran) > 4 else [])
    train, before, after = cycle.train, cycle.new_before, cycle.new_after
    return {
        "cycle": cycle.cycle,
        "told": ", ".join(told),
        "n_labels": cycle.n_labels,
        "n_new_labels": cycle.n_new_labels,
        "train": "" if train is None else f"{train.energy_rmse_meV_atom:.3g}, {train.forces_rmse_meV_A:.3g}",
        "new": ""
        if before is None or after is None
        else f"{before.forces_rmse_meV_A:.4g} → {after.forces_rmse_meV_A:.4g}",
        "seconds": {name: cycle.seconds.get(name) for name in ("explore", "label", "train")},
    }


def _facts(data: CampaignData) -> list[tuple[str, str]]:
    task, final = data.task, data.final
    conditions = [
        f"{c.temperature_K:g}"
        + (f" to {c.temperature_end_K:g}" if c.temperature_end_K is not None else "")
        + " K"
        + (f" at {c.pressure_GPa:g} GPa" if c.pressure_GPa else "")
        for c in task.conditions
    ]
    facts = [
        ("campaign", task.campaign_id),
        ("recorded", task.created_at or "unknown"),
        ("elements", " ".join(task.elements)),
        ("structures", ", ".join(task.formulas)),
        ("conditions", ", ".join(conditions)),
        ("seed", str(task.seed)),
        ("oracle", task.oracle or "unknown"),
        ("trainer", task.trainer or "unknown"),
    ]
    if task.generation > 1:
        facts.append(("generation", f"{task.generation}: restarted or extended after the first"))
    if final is not None:
        functions = ", ".join(f"{element} {n}" for element, n in final.n_functions.items())
        energies = ", ".join(f"{element} {e:.6g} eV" for element, e in final.reference_energies_eV.items())
        facts += [
            ("potential", f"{functions} functions, cutoff {final.cutoff_A:g} Å, of cycle {final.cycle}"),
            ("reference energies", energies or "none"),
            ("fingerprint of the potential", final.sha256),
        ]
    if data.teacher:
        facts.append(("teacher", data.teacher))
    return facts


def _record(record: OracleRecord) -> dict[str, str]:
    title = " ".join(filter(None, [record.code, record.version, record.functional]))
    kept = {name: value for name, value in vars(record).items() if value not in (None, {}, [])}
    return {"title": title, "text": json.dumps(kept, indent=2, default=str)}
