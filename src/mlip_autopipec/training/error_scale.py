"""How large the error bars of a linear fit are: calibrated on labels left out, and on fresh labels of MD."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.potentials.posterior import Scales
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.training.linear_record import Surprise
from mlip_autopipec.training.usual import dimers_among
from mlip_autopipec.training.weights import EV_A3_IN_GPA, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.training.design import Design
    from mlip_autopipec.training.regression import LeftOut

logger = logging.getLogger(__name__)

#: So many fresh labels weigh as much as those left out of the fit.
_FRESH = 5
#: A force component that is wrong is off by this share of the force on its atom at least.
_OWN_SIZE = 0.5
#: Forces, or stresses, of a label are a multiple of what is expected if they point along it: this cosine and more.
_ALONG = 0.8
#: Components of the stress that stay in their places in every order of shear components.
_DIAGONAL = 3
#: The error of an energy is expected to grow with this power of the variance over its median, and with that of the
#: atoms that the median label has more. Without both, 11 of 1600 sound labels of Si, Ge, Li and Mo (small cells with
#: surfaces) were 10 to 28 times as far off as usual; with them the worst is 8.3. 0.1 eV/atom too much is mostly more
#: than 11.
_UNLIKE, _FEWER_ATOMS = 0.25, 0.5
#: What the labels that are left say of one left out is nothing if the expected variance of its forces is so many times
#: that of the median label. Of silicon and germanium (20 and 60 labels) it is up to 66 times, of a water molecule
#: with one bond a quarter too short 17000 times: left out it is wrong by 6 eV/A, on others the error is 12 meV/A.
_UNKNOWN = 1000.0
#: Median of the absolute value of a normal variable of unit variance.
_NORMAL_MEDIAN = 0.6745


def known_by_others(design: Design, left_out: LeftOut, counted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """
    Return the labels of which all others say something when they are left out, (n_labels,).

    Of a structure far from all others a fit without it says nothing, and says that: its expected error is many times
    larger. MD halts there. One such label would be all that a root mean square shows.

    Parameters
    ----------
    design
        Rows of all labels.
    left_out
        Their residuals and variances.
    counted
        Labels that count, (n_labels,); of these the median is taken.
    """
    variance = np.array(
        [float(np.mean(left_out.variance[rows][design.kind[rows] == Kind.FORCES])) for rows in design.blocks]
    )
    known = counted & (variance <= _UNKNOWN * np.median(variance[counted]))
    if known.sum() < counted.sum():
        logger.info("errors of labels left out: %d unlike all others are not counted", int(counted.sum() - known.sum()))
    return np.asarray(known)


def scale_to_left_out(row_kind: NDArray[np.int8], left_out: LeftOut, judged: NDArray[np.bool_]) -> Scales:
    """
    Return by what the standard deviations of energies, forces and stresses have to be multiplied.

    The error of a structure left out is that of the fit plus what the basis can never represent; for a user both
    are errors, so both are in the scale.

    Parameters
    ----------
    row_kind
        What each row is about, (n_rows,).
    left_out
        Residuals and variances of the rows.
    judged
        Rows that count, (n_rows,).
    """
    scale = []
    for kind in (Kind.ENERGY, Kind.FORCES, Kind.STRESS):
        rows = (row_kind == kind) & (left_out.variance > 0) & judged
        if not rows.any():
            scale.append(float("nan"))
            continue
        # rows of little variance, as forces that are zero by symmetry, decide nothing
        scale.append(float(np.sqrt(np.sum(left_out.residuals[rows] ** 2) / np.sum(left_out.variance[rows]))))
    return Scales(*scale)


def surprises_of(
    design: Design, left_out: LeftOut, errors: NDArray[np.float64], judged: NDArray[np.bool_]
) -> list[Surprise]:
    """
    Compare the errors of each label left out with what the fit to the others expects, and with all labels.

    A structure unlike the others has large errors that the fit expects; a wrong label has errors that it does not. The
    fit expects too little of structures that are very much unlike the others, small cells with surfaces among crystals
    for instance.

    Parameters
    ----------
    design
        Rows of all labels.
    left_out
        Their residuals and variances.
    errors
        The residuals in eV/atom, eV/A and eV/A^3, (n_rows,).
    judged
        Rows whose labels make the median, (n_rows,).
    """
    studentised = np.abs(left_out.residuals) / np.sqrt(1.0 + left_out.variance)
    n_labels = len(design.blocks)
    energy, forces, worst, wrong, unlike, size, n_atoms, stress, stress_GPa = np.zeros((9, n_labels))
    force_scale, stress_scale = np.ones((2, n_labels))
    for i, rows in enumerate(design.blocks):
        ours, kind = studentised[rows], design.kind[rows]
        of_energy, of_forces = kind == Kind.ENERGY, kind == Kind.FORCES
        energy[i], forces[i] = (np.sqrt(np.mean(ours[of] ** 2)) for of in (of_energy, of_forces))
        unlike[i] = np.mean(left_out.variance[rows][of_energy])
        # a wrong component is wrong by its own size, and large forces have large errors
        off = np.abs(errors[rows][of_forces]).reshape(-1, 3)
        n_atoms[i] = len(off)
        own = np.linalg.norm(design.target[rows][of_forces].reshape(-1, 3), axis=1)
        components = ours[of_forces].reshape(-1, 3)
        doubtful = off > _OWN_SIZE * own[:, None]
        worst[i], wrong[i] = components.max(), np.where(doubtful, components, 0.0).max()
        size[i] = np.where(doubtful, off, 0.0).max()
        force_scale[i] = _scale(design.target[rows][of_forces], errors[rows][of_forces])
        diagonal = np.flatnonzero(kind == Kind.STRESS)[:_DIAGONAL]
        if len(diagonal) == _DIAGONAL:
            stress[i] = np.sqrt(np.mean(ours[diagonal] ** 2))
            stress_GPa[i] = EV_A3_IN_GPA * np.sqrt(np.mean(errors[rows][diagonal] ** 2))
            stress_scale[i] = _scale(design.target[rows][diagonal], errors[rows][diagonal])
    usual = [bool(judged[rows].all()) for rows in design.blocks]

    def median(values: NDArray[np.float64]) -> float:
        return max(float(np.median(values[usual])), np.finfo(float).tiny)

    energy, forces, wrong = energy / median(energy), forces / median(forces), wrong / median(worst)
    energy /= np.maximum(unlike / median(unlike), 1.0) ** _UNLIKE
    energy /= np.maximum(median(n_atoms) / n_atoms, 1.0) ** _FEWER_ATOMS
    if stress.any():
        stress /= max(float(np.median(stress[stress > 0])), np.finfo(float).tiny)
    columns = (energy, forces, wrong, size, stress, stress_GPa, force_scale, stress_scale)
    return [Surprise(*map(float, row)) for row in zip(*columns, strict=True)]


def _scale(label: NDArray[np.float64], error: NDArray[np.float64]) -> float:
    """Return how many times as large a label is as what is expected, with its sign; 1 where they are not parallel."""
    expected = label - error
    lengths = float(np.linalg.norm(label)), float(np.linalg.norm(expected))
    along = float(label @ expected)
    if min(lengths) == 0.0 or abs(along) < _ALONG * lengths[0] * lengths[1]:
        return 1.0
    return float(np.sign(along)) * lengths[0] / lengths[1]


@dataclass(frozen=True)
class ExpectedError:
    """
    What a potential expected of a fresh label, and how wrong it was; expected without the factor for fresh labels.

    Parameters
    ----------
    energy, energy_error
        Standard deviation and absolute error of the energy, eV/atom.
    forces, forces_error
        Root mean squares over all force components, eV/A.
    """

    energy: float
    energy_error: float
    forces: float
    forces_error: float


def scale_to_fresh(pairs: Sequence[ExpectedError]) -> Scales:
    """
    Return by what the errors of fresh labels exceeded those expected of them.

    Medians over labels, so that one frame far from all others decides nothing; of few labels only a part is
    believed.

    Parameters
    ----------
    pairs
        Of labels that the potential of their time was not fitted to.
    """

    def factor(ratios: list[float], median: float) -> float:
        found = [ratio for ratio in ratios if np.isfinite(ratio) and ratio > 0]
        if not found:
            return 1.0
        return float((np.median(found) / median) ** (len(found) / (len(found) + _FRESH)))

    energy = factor([p.energy_error / p.energy for p in pairs if p.energy > 0], _NORMAL_MEDIAN)
    forces = factor([p.forces_error / p.forces for p in pairs if p.forces > 0], 1.0)
    return Scales(energy, forces, 1.0)


def usual_force_eV_A(labels: Sequence[Atoms]) -> float:
    """Return the root mean square length (eV/A) of the force on an atom in the median label; 0 without any."""
    sizes = [
        float(np.sqrt(3 * np.mean(raw_forces(a) ** 2)))
        for a, dimer in zip(labels, dimers_among(labels), strict=True)
        if len(a) > 1 and not dimer
    ]
    return float(np.median(sizes)) if sizes else 0.0
