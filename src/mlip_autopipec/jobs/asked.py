"""What is asked for of a check: which errors of it cannot be measured, and what would help against the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip_autopipec.lammps.input_script import N_SPREAD
from mlip_autopipec.validation.confidence import Bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.schemas.check import CheckDocument, WalkerErrors
    from mlip_autopipec.schemas.potential import PotentialDocument
    from mlip_autopipec.validation.targets import AccuracyTargets


def exceeded_left_out(trained: PotentialDocument, targets: AccuracyTargets, confidence: float) -> list[str]:
    """
    Tell which errors of labels left out of a linear fit are larger than asked for.

    As soon as a check has told which energies MD has, labels of others say nothing.

    Parameters
    ----------
    trained
        The potential.
    targets
        What is asked for.
    confidence
        Probability with which the true errors have to be within it.
    """
    if trained.linear is None:
        return []
    record, train = trained.linear, trained.train
    if (of_md := record.left_out_like_md) is not None:
        bounds = targets.bounds(of_md.n_structures, of_md.n_atoms, confidence, of_md.n_stresses)
        errors = of_md.energy_rmse_meV_atom, of_md.forces_rmse_meV_A, of_md.stress_rmse_GPa
        return targets.exceeded_by_left_out(*errors, bounds, whose=f"the {of_md.n_structures} labels like those of MD")
    n, n_atoms = record.n_left_out, record.n_left_out_atoms
    if train is not None:  # records of earlier versions do not count
        n, n_atoms = n or train.n_structures, n_atoms or train.n_atoms
    bounds = Bounds(confidence)
    if n is not None and n_atoms is not None:
        bounds = targets.bounds(n, n_atoms, confidence, record.n_left_out_stresses)
    return targets.exceeded_by_left_out(*record.left_out, bounds)


def stress_not_measured(
    targets: AccuracyTargets,
    by_walker: Sequence[WalkerErrors],
    trained: PotentialDocument,
    *,
    any_stress: bool,
    cut: bool,
) -> tuple[list[str], list[str]]:
    """
    Say what the labels of a check do not tell of a stress that is asked for.

    Parameters
    ----------
    targets
        What is asked for.
    by_walker
        Errors on the frames of each walker.
    trained
        The potential.
    any_stress
        Whether any of the labels has a stress that counts.
    cut
        Whether some of them are cut-outs, whose stress is that of their faces.

    Returns
    -------
    tuple
        What the check cannot pass for, and what is said beside a check that passes.
    """
    if targets.stress_GPa is None:
        return [], []
    if any_stress:
        silent = [one.walker for one in by_walker if one.errors.stress_rmse_GPa is None]
        return [], [f"of the stress in MD of {', '.join(silent)} nothing is known"] if silent else []
    left_out = None if trained.linear is None else trained.linear.stress_left_out_GPa
    if cut and left_out is not None:
        told = f"cut-outs have no stress: it is judged by labels left out of the fit alone, {left_out:.2g} GPa"
        return [], [f"{told}, asked for {targets.stress_GPa:g}"]
    why, mend = "no label of MD has one", "take an oracle that computes it"
    if cut:
        why, mend = "cut-outs have none", "label whole frames (cutouts.max_atoms)"
    return [f"a stress is asked for, and {why}: remove stress_GPa from accuracy, or {mend}"], []


def what_would_help(check: CheckDocument, trained: PotentialDocument) -> list[str]:
    """Say what would help against each error of the check that is too large."""
    if check.errors is None:
        return []
    alone = check.limits.exceeded_by(check.errors)
    learnt = {} if trained.train is None else check.limits.exceeded_by(trained.train)
    hints = {}
    for what in check.exceeded_kinds:
        if what in learnt:
            hints[what] = "the training set itself is not fitted as well: a larger basis, or a smaller worth of its "
            hints[what] += "errors in the trainer, would help"
        elif what not in alone and not any(what in check.limits.exceeded_by(one.errors) for one in check.by_walker):
            n, most = check.errors.n_structures, (N_SPREAD + 1) * len(check.by_walker)
            hints[what] = f"{n} frame(s) are few for this confidence: "
            if n < most:
                hints[what] += f"a larger stop.n_check_labels would help up to {N_SPREAD + 1} frames of each walker, "
                hints[what] += "beyond them more walkers (conditions, structures)"
            else:
                hints[what] += "more walkers (conditions, structures) would give more of them"
        else:
            hints[what] = "labels of this MD would help, and are learnt next"
    return [f"{' and '.join(w for w in hints if hints[w] == told)}: {told}" for told in dict.fromkeys(hints.values())]
