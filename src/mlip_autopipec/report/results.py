"""Files, a parity plot and a closing summary at the end of a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import ase.io
from rich.markup import escape
from rich.table import Table

from mlip_autopipec.schemas.linear import factor_doubt
from mlip_autopipec.schemas.loop import LoopStatus
from mlip_autopipec.schemas.measured import errors_by_set
from mlip_autopipec.schemas.potential import unfitted
from mlip_autopipec.structures.provenance import Provenance, Split
from mlip_autopipec.training.accuracy import errors_of, predict
from mlip_autopipec.training.usual import dimers_among
from mlip_autopipec.training.weights import EV_A3_IN_GPA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec.schemas.label import ComparisonDocument
    from mlip_autopipec.schemas.loop import OTFDocument
    from mlip_autopipec.schemas.potential import RootMeanSquares
    from mlip_autopipec.training.accuracy import ErrorMetrics, Predictions


def write_results(
    folder: Path,
    document: OTFDocument,
    labels: Sequence[Atoms],
    validation: Sequence[Atoms] = (),
    compared: ComparisonDocument | None = None,
) -> dict[str, ErrorMetrics]:
    """
    Write potential, dataset, parity plot and ``result.json`` into ``folder``.

    Parameters
    ----------
    folder
        Where to.
    document
        Final document of the campaign.
    labels
        The dataset, labels in attached calculators.
    validation
        Labelled structures the loop never saw.
    compared
        How labels that were given compare with the oracle, with the shift of their energies.

    Returns
    -------
    dict
        Errors by set: train, test, validation.
    """
    result = json.loads(document.model_dump_json(exclude={"potential": {"payload"}}))  # no NaN, which is no JSON
    if compared is not None:
        result["given_labels_compared"] = json.loads(compared.model_dump_json())
    (folder / "result.json").write_text(json.dumps(result, indent=2))
    if labels:
        ase.io.write(folder / "dataset.extxyz", labels, format="extxyz")
    if document.potential is None:
        return {}
    potential = document.potential.to_potential()
    potential.write(folder / "potential")
    sets = {
        "train": _without_dimers([a for a in labels if _is_learnt(a, document.potential.cycle)]),
        "test": [a for a in labels if Provenance.of(a).split is Split.TEST],
        "validation": list(validation),
    }
    predicted = {name: predict(potential, frames) for name, frames in sets.items() if frames}
    plot_parity(folder / "parity.png", predicted)
    return {name: errors_of(p) for name, p in predicted.items()}


def _is_learnt(label: Atoms, cycle: int) -> bool:
    """Whether the potential of a cycle was trained on a label."""
    split = Provenance.of(label).split
    of_check = split is Split.CHECK and label.info.get("cycle", cycle + 1) <= cycle
    return split is Split.TRAIN or of_check


def _without_dimers(labels: Sequence[Atoms]) -> list[Atoms]:
    """Leave out dimers, which are of another energy scale."""
    return [label for label, dimer in zip(labels, dimers_among(labels), strict=True) if not dimer]


def plot_parity(path: Path, predicted: Mapping[str, Predictions]) -> None:
    """Plot energies (eV/atom), forces (eV/A) and, where labels have them, stresses (GPa) against the labels, by set."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = ["energy (eV/atom)", "force component (eV/Å)"]
    if any(p.stress_label.size for p in predicted.values()):
        panels.append("stress component (GPa)")
    figure, all_axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 4.2), layout="constrained")
    for name, p in predicted.items():
        pairs = [
            (p.energy_label, p.energy_potential, {"marker": "o", "ms": 4, "alpha": 0.7}),
            (p.forces_label, p.forces_potential, {"marker": ".", "ms": 3, "alpha": 0.5}),
            (EV_A3_IN_GPA * p.stress_label, EV_A3_IN_GPA * p.stress_potential, {"marker": ".", "ms": 4, "alpha": 0.6}),
        ]
        for axes, (label, potential, style) in zip(all_axes, pairs, strict=False):
            n = f" ({len(p.energy_label)})" if axes is all_axes[0] else ""
            axes.plot(label, potential, ls="", label=f"{name}{n}", **style)
    for axes, what in zip(all_axes, panels, strict=True):
        low, high = axes.get_xlim()
        axes.axline((low, low), (high, high), color="0.5", lw=0.8, zorder=0)
        axes.set(xlabel=f"oracle {what}", ylabel=f"potential {what}")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _above_the_check(document: OTFDocument, errors: Mapping[str, ErrorMetrics]) -> str:
    """Say that errors on MD of the oracle are above what the check allowed, so that nobody trusts the check alone."""
    if document.check is None or "validation" not in errors:
        return ""
    found = document.check.limits.exceeded_by(errors["validation"]).values()
    if not found:
        return ""
    return (
        f"on MD of the oracle itself {'; '.join(found)} of the check: it goes where the potential was not checked. Run "
        "longer MD, more seeds or temperatures (extend), or see whether the oracle converges there"
    )


#: Sets that errors are told of, in this order.
_MEASURED_ON = {
    "train": "training set",
    "left_out": "labels left out",
    "like_md": "those like MD",
    "test": "held-out set",
    "validation": "fresh oracle MD",
}


def _like_md(document: OTFDocument) -> RootMeanSquares | None:
    """Return the errors of labels left out by which accuracy was judged; None where nothing was asked for."""
    if document.check is None or document.check.confidence is None or document.linear is None:
        return None
    return document.linear.left_out_like_md


def _stress(errors: ErrorMetrics | RootMeanSquares, fitted: bool | None) -> str:
    return "" if errors.stress_rmse_GPa is None else f", {errors.stress_rmse_GPa:.2f} GPa{unfitted(fitted)}"


def summary_table(
    document: OTFDocument,
    errors: Mapping[str, ErrorMetrics],
    folder: Path,
    seconds: float,
    report: Path | None = None,
) -> Table:
    """Build the table a run ends with; ``report`` is the page of the campaign, where there is one."""
    good = document.status is LoopStatus.CONVERGED
    table = Table(title=f"[{'green' if good else 'yellow'}]{document.status}[/]", show_header=False)
    table.add_row("cycles / halts", f"{document.n_cycles} / {document.n_halts}")
    failed = f" ({document.n_failed_labels} failed)" if document.n_failed_labels else ""
    table.add_row("labels", f"{document.n_labels}{failed}")
    measured = {**errors, "left_out": errors_by_set(document).get("labels left out"), "like_md": _like_md(document)}
    for name, what in _MEASURED_ON.items():
        if (e := measured.get(name)) is not None:
            table.add_row(
                f"error, {what}",
                f"{e.energy_rmse_meV_atom:.2f} meV/atom, {e.forces_rmse_meV_A:.2f} meV/A"
                f"{_stress(e, document.fits_stress)} ({e.n_structures} structures)",
            )
    if above := _above_the_check(document, errors):
        table.add_row("[red]beware[/]", escape(above))
    if document.potential is not None and (doubt := factor_doubt(document.potential.teacher_factor)) is not None:
        table.add_row("[red]beware[/]", escape(doubt))
    if document.potential is not None:
        suffixes = sorted({path.suffix for path in (folder / "potential").glob("potential.*")}, reverse=True)
        table.add_row("potential", escape(f"{folder / 'potential'}/potential{' '.join(suffixes)}"))
        table.add_row("parity plot", escape(str(folder / "parity.png")))
    if report is not None:
        table.add_row("report", escape(str(report)))
    table.add_row("dataset, database", escape(f"{folder / 'dataset.extxyz'}, {folder / 'store'}"))
    table.add_row("wall time", f"{seconds:.0f} s")
    return table
