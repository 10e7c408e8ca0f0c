"""
Outliers among new labels: they are flagged with a reason before training.

A potential knows the environments it was trained on. Where gamma is low and the label is nevertheless
far from the prediction, farther than the potential ever was from labels, something is wrong with the
label: another energy kind or setting, a wrong electronic state, a mixed-up file. Magnetic moments
that left the branch of all other labels are such a state, and a scalar potential cannot hold both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from monty.json import MSONable

from mlip_autopipec.active_learning.calibration import GradedErrors, grade_errors
from mlip_autopipec.active_learning.moments import moments_by_element, net_order
from mlip_autopipec.active_learning.spread import FittedErrors, Spread, fitted_errors
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.moved import dropped_fields, renamed_classes
from mlip_autopipec.structures.dimers import is_dimer
from mlip_autopipec.structures.distances import neighbours
from mlip_autopipec.structures.intake import raw_forces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

#: Standard deviation of a normal distribution in units of its median absolute deviation.
_MAD = 1.4826
#: A force that is wrong is wrong by this share of itself.
_OWN_SIZE = 0.5
#: All moments of an element point the same way if this share of them does.
_FERROMAGNETIC = 0.95


#: Labels left out are flagged together only if they are at least this share as surprising as the worst.
_LARGEST = 0.7
#: Of labels left out the energy counts from this share of the floor on: of 600 sound ones (Si, Ge, Mo, Li, Cu; 20 and
#: 60 of each) those more than 15 meV/atom off are at most 2.7 times as far off as usual.
_OF_FLOOR = 2 / 3
#: Forces are many numbers, so less is needed to be sure: of sound labels (Si, Ge, Li, Mo) they are at most 4.5 times,
#: and their largest component 5.3 times, as far off as usual; turned round 10 times, one component 2 eV/A off 5.7.
_OF_FORCES = (0.6, 0.55)
#: With fewer labels than this more is needed: of 20 of molybdenum three sound ones were up to 6.5 times (5.6 in a
#: component) as far off as usual; turned round, forces of one of 14 of copper were 8.7 times (7.3).
_MANY, _OF_FORCES_OF_FEW = 40, (0.75, 0.65)
#: Forces that point where all other labels say, and are not as large: of sound labels of Si and Ge they are 0.9 to 1.1
#: times as large where they are not small. Less surprise is needed then (Ry/bohr: 4.4 to 7.5 among 20 labels).
_SCALES, _SURE = (0.5, 2.0), 3.0
#: Stresses turned round are -1.05 to -0.9 times as large as expected, with a surprise of 5.8 to 10 and an error of 0.96
#: GPa and more; the sound label nearest to that, a cell with surfaces, has -0.49, 6 and 0.72 GPa.
_TURNED, _SURE_OF_STRESS, _STRESS_FLOOR_GPA = (-1.3, -0.75), 5.0, 0.85
#: Stresses in Ry/bohr^3 or Hartree/bohr^3 are less than the first times as large as expected. In kB or GPa they are
#: more than the second, and off by more than the third (GPa): of sound labels at most 1.9 GPa, 6.7 times the usual.
_TINY_STRESS, _HUGE_STRESS, _HUGE_STRESS_GPA, _SURE_OF_HUGE_STRESS = 0.1, 5.0, 3.0, 10.0


@dataclass(frozen=True)
class Outlier:
    """
    A label that is not to be trained on.

    Parameters
    ----------
    index
        Its place among the new labels.
    reasons
        Why, in words.
    """

    index: int
    reasons: tuple[str, ...]


@dropped_fields("n_largest")
@dataclass
class OutlierRule(MSONable):
    """
    Flags outliers among new labels, by the potential before it is trained on them and by the other labels.

    Parameters
    ----------
    gamma_max
        Only atoms are judged whose grade, and those of their neighbours, are at most this.
    n_sigma
        A label is an outlier only if its error is larger than this many robust standard deviations (1.4826 times the
        median absolute deviation) of the potential's errors on the other labels.
    energy_floor_eV_atom, force_floor_eV_A
        The error must also be at least this large.
    moment_floor_muB
        A label is also an outlier if magnetic moments of an element differ by at least this from those of all others.
    min_labels
        With fewer other labels no label is flagged.
    """

    gamma_max: float = 1.5
    n_sigma: float = 10.0
    energy_floor_eV_atom: float = 0.03
    force_floor_eV_A: float = 0.5
    moment_floor_muB: float = 0.5
    min_labels: int = 10

    #: The error must also be larger than this many times the largest of those errors.
    n_largest: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        for name in ("n_sigma", "energy_floor_eV_atom", "force_floor_eV_A", "moment_floor_muB"):
            if not (value := getattr(self, name)) > 0:
                raise InvalidInputError.of(f"OutlierRule.{name}", f"is {value}; it has to be positive")
        if self.gamma_max < 1 or self.min_labels < 3:
            raise InvalidInputError(
                f"OutlierRule: gamma_max {self.gamma_max}, min_labels {self.min_labels}; give at least 1 and 3"
            )

    def judge(
        self,
        potential: ACEPotential,
        new: Sequence[Atoms],
        others: Sequence[Atoms],
        earlier: Sequence[GradedErrors] = (),
        graded: Sequence[GradedErrors] | None = None,
        fitted: FittedErrors | None = None,
        left_out: FittedErrors | None = None,
    ) -> list[Outlier]:
        """
        Find the outliers among the new labels.

        Parameters
        ----------
        potential
            Before it is trained on ``new``, with its active set.
        new
            Structures that carry their label (eV, eV/A; moments, if any, as ``magmoms`` in Bohr
            magnetons) in an attached calculator.
        others
            The labels that the potential was trained on; dimers, of little weight, are left out.
        earlier
            What :func:`~mlip_autopipec.active_learning.calibration.grade_errors` gave for labels of earlier
            cycles: errors of prediction, while those on ``others`` are errors of the fit.
        graded
            What it gives for ``new``, where that is known already.
        fitted
            What :func:`fitted_errors` gives for ``others``, where that is known already.
        left_out
            The errors on ``others`` of fits without each of them, where the trainer knows them: of few labels, or of
            hot molecules, they are many times those of the fit, and are what the potential is about a label it has
            not seen.

        Returns
        -------
        list of Outlier
            In the order of ``new``.
        """
        if not new:
            return []
        reasons: dict[int, list[str]] = {}
        others = [label for label in others if not is_dimer(label)]
        if len(others) >= self.min_labels:
            usual = fitted_errors(potential, others) if fitted is None else fitted
            honest = [g for g in earlier if not g.in_core and g.gamma.max() <= self.gamma_max]
            sets = [usual] if left_out is None else [usual, left_out]
            energy = self._allowed(Spread.of([g.energy_error for g in honest]), *(one.energy for one in sets))
            of_forces = Spread.of([error for g in honest for error in g.force_error])
            force = self._allowed(of_forces, *(one.force for one in sets))
            of_new = graded if graded is not None else [grade_errors(potential, label) for label in new]
            for k, (label, found) in enumerate(zip(new, of_new, strict=True)):
                reasons[k] = self._by_potential(label, found, potential.cutoff, energy, force)
        moments = moments_by_element(others)
        for k, label in enumerate(new):
            reasons.setdefault(k, []).extend(self._by_moments(label, moments))
        return [Outlier(k, tuple(why)) for k, why in reasons.items() if why]

    def judge_left_out(
        self,
        energy_eV_atom: NDArray[np.float64],
        forces_eV_A: NDArray[np.float64],
        component_eV_A: NDArray[np.float64],
        surprise: NDArray[np.float64],
        scales: NDArray[np.float64] | None = None,
    ) -> list[Outlier]:
        """
        Find the outliers among labels that no potential was without, by the errors of each left out of the fit.

        Parameters
        ----------
        energy_eV_atom, forces_eV_A, component_eV_A
            These errors, of the energy per atom, the root mean square of force components, and the largest of them,
            (n_labels,).
        surprise
            How many times larger the three are than the fit expects of such a structure, (n_labels, 3); 1 for the
            median label. A label is an outlier only above ``n_sigma``, in its forces above about half of it where there
            are many labels, and above the floors (two thirds of that of the energy).
        scales
            Surprise and error (GPa) of the stress, and how many times as large as expected forces and stress are,
            (n_labels, 4), as in :class:`~mlip_autopipec.training.linear_record.Surprise`. Forces of another unit or
            sign, and stresses turned round or of another unit, are found by less surprise.

        Returns
        -------
        list of Outlier
            The largest ones. They make others look wrong: fit without them and judge again.
        """
        if len(surprise) <= self.min_labels:
            return []
        floor = self.force_floor_eV_A
        off = np.stack([np.abs(energy_eV_atom), np.sqrt(3) * forces_eV_A, component_eV_A], axis=1)
        far = surprise * (off > [_OF_FLOOR * self.energy_floor_eV_atom, floor, floor])
        of_forces = _OF_FORCES if len(surprise) >= _MANY else _OF_FORCES_OF_FEW
        limit = np.maximum(self.n_sigma * np.array([1.0, *of_forces]), _LARGEST * far.max(axis=0))
        told = (
            lambda i: f"its energy is {energy_eV_atom[i]:+.3f} eV/atom",
            lambda i: f"its forces are {forces_eV_A[i]:.2f} eV/A",
            lambda i: f"a component of its forces is {component_eV_A[i]:.2f} eV/A",
        )
        found: dict[int, Outlier] = {}
        surprises: dict[int, float] = {}
        spoiling = 0.0
        for i, times in enumerate(far):
            which = [k for k in range(3) if times[k] > limit[k]]
            reasons = [
                f"{told[k](i)} off what all other labels say, {times[k]:.0f} times more than usual for such a structure"
                for k in which
                if not (k == 2 and 1 in which)  # all forces say it already
            ]
            others = [] if scales is None else _of_another_scale(times, scales[i], forces_known=1 in which)
            if reasons or others:
                found[i] = Outlier(i, (*others, *reasons))  # what explains it comes first
                stress = 0.0 if scales is None or not any("stress" in told for told in others) else float(scales[i, 0])
                surprises[i] = max(stress, *map(float, times))
                if others or 1 in which:
                    spoiling = max(spoiling, surprises[i])
        # wrong forces and stresses make others look wrong: what surprises much less is judged again without them
        return [outlier for i, outlier in found.items() if surprises[i] >= _LARGEST * spoiling]

    def _allowed(self, *errors: Spread) -> tuple[float, float]:
        """Return the usual error and how far from it is too far, by the worst of several sets of errors."""
        centre, far = 0.0, 0.0
        for spread in errors:
            if spread.n >= self.min_labels:
                reach = max(self.n_sigma * _MAD * spread.deviation, self.n_largest * spread.largest)
                if reach > far:
                    centre, far = spread.middle, reach
        return centre, far

    def _by_potential(
        self, label: Atoms, graded: GradedErrors, cutoff: float, energy: tuple[float, float], force: tuple[float, float]
    ) -> list[str]:
        if graded.in_core:
            return []
        reasons = []
        off, far = graded.energy_error - energy[0], max(energy[1], self.energy_floor_eV_atom)
        if graded.gamma.max() <= self.gamma_max and abs(off) > far:
            reasons.append(
                f"its energy is {-off:+.3f} eV/atom off what the potential expects, which at gamma "
                f"{graded.gamma.max():.2f} knows it to within {far:.3f} eV/atom"
            )
        # a force depends on the environments of the neighbours as well
        near = graded.gamma.copy()
        i, j = neighbours("ij", label, cutoff)
        np.maximum.at(near, i, graded.gamma[j])
        far = max(force[0] + force[1], self.force_floor_eV_A)
        # large forces have large errors, in a healthy label never as large as themselves
        far_of_each = np.maximum(far, _OWN_SIZE * np.linalg.norm(raw_forces(label), axis=1))
        wrong = np.flatnonzero((near <= self.gamma_max) & (graded.force_error > far_of_each))
        if len(wrong):
            worst = int(wrong[np.argmax(graded.force_error[wrong])])
            reasons.append(
                f"the forces on {len(wrong)} of {len(label)} atoms are off what the potential expects, on atom {worst} "
                f"({label.get_chemical_symbols()[worst]}) by {graded.force_error[worst]:.2f} eV/A, which at gamma "
                f"{near[worst]:.2f} knows them to within {far:.2f} eV/A"
            )
        return reasons

    def _by_moments(self, label: Atoms, others: Mapping[str, list[NDArray[np.float64]]]) -> list[str]:
        reasons = []
        for element, (moments,) in moments_by_element([label]).items():
            known = others.get(element, [])
            if len(known) < self.min_labels:
                continue
            sizes = np.array([np.median(np.abs(m)) for m in known])
            usual, size = float(np.median(sizes)), float(np.median(np.abs(moments)))
            far = max(self.moment_floor_muB, self.n_sigma * _MAD * float(np.median(np.abs(sizes - usual))), 0.5 * usual)
            if abs(size - usual) > far:
                word = "collapsed" if size < usual else "grew"
                reasons.append(f"the moments of {element} {word}: {size:.2f} muB, in the other labels {usual:.2f} muB")
                continue
            orders = [net_order(m) for m in known]
            against = int(np.sum(moments * np.sign(moments.sum()) < -self.moment_floor_muB))
            if np.quantile(orders, 0.05) > _FERROMAGNETIC and against:
                reasons.append(
                    f"{against} of {len(moments)} moments of {element} changed sign; in the other labels all agree"
                )
                continue
            disordered = np.quantile(orders, 0.95) < 0.5 < net_order(moments) - 0.4
            if len(moments) > 1 and usual > self.moment_floor_muB and disordered:
                reasons.append(
                    f"the moments of {element} are aligned (net {net_order(moments):.2f} of all); in the other labels "
                    f"they are not ({float(np.median(orders)):.2f})"
                )
        return reasons


def _of_another_scale(far: NDArray[np.float64], scales: NDArray[np.float64], *, forces_known: bool) -> list[str]:
    """Say that forces are of another unit or sign, or the stress turned round."""
    stress, stress_GPa, force_scale, stress_scale = map(float, scales)
    reasons = []
    if not _SCALES[0] < force_scale < _SCALES[1] and (forces_known or far[1] > _SURE):
        reasons.append(f"its forces are {force_scale:.2g} times what all other labels say (another unit or sign?)")
    if stress > _SURE_OF_STRESS and stress_GPa > _STRESS_FLOOR_GPA:
        if _TURNED[0] < stress_scale < _TURNED[1]:
            reasons.append(f"its stress is {stress_scale:.2g} times what all other labels say (turned round?)")
        elif abs(stress_scale) < _TINY_STRESS:
            reasons.append(f"its stress is {stress_scale:.2g} times what all other labels say (another unit?)")
    if stress > _SURE_OF_HUGE_STRESS and stress_GPa > _HUGE_STRESS_GPA and not 0 <= stress_scale < _HUGE_STRESS:
        reasons.append(f"its stress is {stress_GPa:.3g} GPa off what all other labels say (another unit?)")
    return reasons


__getattr__ = renamed_classes(__name__, LabelQuarantine="OutlierRule")
