"""How large errors may be: what the user asks for, or a share of what the data vary by."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.validation.confidence import Bounds

if TYPE_CHECKING:
    from collections.abc import Mapping


class Measured(Protocol):
    """Errors as they are measured and as they are stored."""

    @property
    def energy_rmse_meV_atom(self) -> float:
        """Root mean square error of energies, meV/atom."""

    @property
    def forces_rmse_meV_A(self) -> float:
        """Root mean square error of force components, meV/A."""

    @property
    def stress_rmse_GPa(self) -> float | None:
        """Root mean square error of stress components, GPa; None without them."""


#: Share of the variation of the data, and the least limits, where nothing is asked for. Published fits of DFT sets
#: leave 9 to 11 % of the forces (Zuo et al. 2020: silicon, germanium, molybdenum; lithium 3 %), with 20 labels 13 %.
RELATIVE = 0.15
ENERGY_FLOOR_MEV_ATOM, STRESS_FLOOR_GPA = 5.0, 0.5
#: Where the training set is fitted better, only this part of the share is left, or these times the training error:
#: as long as labels of MD are far worse than those learnt, more of them help.
LEARNT_PART, LEARNT_TIMES = 1 / 3, 2.0
#: Frames whose root mean square force is below this (meV/A) are of a structure that hardly moves.
STILL_MEV_A = 1.0
_AS_THEY_ARE = Bounds(0.5)


def is_number(value: Any) -> bool:
    """Whether a setting is a number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass
class AccuracyTargets(MSONable):
    """
    Root mean square errors that a converged potential may have on labels from its own MD.

    They hold for bounds of the errors, at the confidence of the stop rule, and for each walker. A linear fit also has
    to have them on labels left out of the fit, which it knows in closed form: on those whose energy is one that MD has,
    as soon as a check has been learnt.

    What is None is judged by the stop rule's own limits: relative to the variation of the data.

    Parameters
    ----------
    energy_meV_atom
        Of energies, in meV/atom.
    forces_meV_A
        Of force components, in meV/A.
    stress_GPa
        Of stress components, in GPa. Where no label of MD has a stress the loop does not converge and says so; of
        cut-outs, which have none, it is judged by labels left out of a linear fit.
    """

    energy_meV_atom: float | None = None
    forces_meV_A: float | None = None
    stress_GPa: float | None = None

    def bounds(self, n_structures: int, n_atoms: int, confidence: float, n_stresses: int | None = None) -> Bounds:
        """Return the factors of what is asked for, for errors on so many labels; 1 of the other errors."""
        found = Bounds.of(n_structures, n_atoms, confidence, n_stresses)
        return Bounds(
            confidence,
            1.0 if self.energy_meV_atom is None else found.energy,
            1.0 if self.forces_meV_A is None else found.forces,
            1.0 if self.stress_GPa is None else found.stress,
        )

    @property
    def asks(self) -> bool:
        """Whether anything is asked for."""
        return any(value is not None for value in (self.energy_meV_atom, self.forces_meV_A, self.stress_GPa))

    def exceeded_by_left_out(
        self,
        energy_meV_atom: float,
        forces_meV_A: float,
        stress_GPa: float | None,
        bounds: Bounds,
        whose: str = "labels",
    ) -> list[str]:
        """Name what is asked for and exceeded by the errors of labels left out of the fit; all None: nothing."""
        found = [
            ("energy", energy_meV_atom, self.energy_meV_atom, "meV/atom"),
            ("forces", forces_meV_A, self.forces_meV_A, "meV/A"),
            ("stress", stress_GPa, self.stress_GPa, "GPa"),
        ]
        return [
            f"{what} of {whose} left out of the fit {error:.3g} {unit}, asked for {limit:.3g}"
            + _at_most(error, bounds, what)
            for what, error, limit, unit in found
            if error is not None and limit is not None and not bounds.factor(what) * error <= limit  # nor is NaN
        ]

    def check(self) -> None:
        """Refuse values that are not positive numbers."""
        for name, value in vars(self).items():
            if value is not None and not (is_number(value) and 0 < value < inf):
                raise InvalidInputError.of(f"accuracy.{name}", f"is {value!r}; it has to be positive, a finite number")


def check_targets(given: Mapping[str, object]) -> None:
    """Refuse names that are no targets."""
    known = [one.name for one in fields(AccuracyTargets)]
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InvalidInputError.of(f"StopRule.accuracy.{name}", f"is unknown; {hint}There are {', '.join(known)}")


@dataclass(frozen=True)
class Limits:
    """
    What each error may be; None where there is nothing to compare.

    Parameters
    ----------
    energy_meV_atom, forces_meV_A, stress_GPa
        Root mean square errors.
    """

    energy_meV_atom: float | None
    forces_meV_A: float | None
    stress_GPa: float | None

    @classmethod
    def of(
        cls,
        targets: AccuracyTargets,
        *,
        energy_spread_meV_atom: float,
        forces_rms_meV_A: float,
        stress_rms_GPa: float | None,
        relative: float = RELATIVE,
        forces_floor_meV_A: float = 20.0,
        training: Measured | None = None,
    ) -> Limits:
        """
        Return the limits for some labels.

        Parameters
        ----------
        targets
            What the user asks for.
        energy_spread_meV_atom
            Standard deviation of the energies of usual labels, without the reference energies of their atoms.
        forces_rms_meV_A, stress_rms_GPa
            Root mean square of force components, and of stress components (None without them), of these labels.
        relative, forces_floor_meV_A
            Share of that, and the least limit of forces, where nothing is asked for.
        training
            Errors on the training set. Where they are small, so are the limits: a third of that share, or two times
            these errors.
        """
        learnt: tuple[float | None, float | None, float | None] = (None, None, None)
        if training is not None:
            learnt = (training.energy_rmse_meV_atom, training.forces_rmse_meV_A, training.stress_rmse_GPa)

        def limit(floor: float, variation: float, learnt: float | None) -> float:
            most = relative * variation
            least = most if learnt is None else max(LEARNT_PART * most, LEARNT_TIMES * learnt)
            return max(floor, min(most, least))

        stress = None
        if stress_rms_GPa is not None:
            stress = targets.stress_GPa or limit(STRESS_FLOOR_GPA, stress_rms_GPa, learnt[2])
        return cls(
            targets.energy_meV_atom or limit(ENERGY_FLOOR_MEV_ATOM, energy_spread_meV_atom, learnt[0]),
            targets.forces_meV_A or limit(forces_floor_meV_A, forces_rms_meV_A, learnt[1]),
            stress,
        )

    def exceeded_by(self, errors: Measured, bounds: Bounds = _AS_THEY_ARE) -> dict[str, str]:
        """
        Tell of the errors that are larger than they may be, with their limits, by energy, forces and stress.

        Parameters
        ----------
        errors
            What was measured.
        bounds
            By what they are multiplied before.
        """
        found = {
            "energy_meV_atom": ("energy", errors.energy_rmse_meV_atom, "meV/atom"),
            "forces_meV_A": ("forces", errors.forces_rmse_meV_A, "meV/A"),
            "stress_GPa": ("stress", errors.stress_rmse_GPa, "GPa"),
        }
        return {
            what: f"{what} {error:.3g} {unit}, limit {limit:.3g}{_at_most(error, bounds, what)}"
            for name, (what, error, unit) in found.items()
            if (limit := asdict(self)[name]) is not None and error is not None
            if not bounds.factor(what) * error <= limit  # NaN is within no limit
        }


def _at_most(error: float, bounds: Bounds, what: str) -> str:
    """Tell the bound, where there is one."""
    factor = bounds.factor(what)
    return "" if factor == 1.0 else f" (at most {factor * error:.3g} with {bounds.confidence:.0%} confidence)"
