"""One property by the oracle beside the same by a potential, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlip_autopipec.structures.provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

PropertyKind = Literal["eos", "elastic", "phonons"]
#: ``not_measured``: the oracle's value is not known, since labels failed or are no good. ``not_applicable``: the
#: structure has no such property, or it would take too many labels.
State = Literal["passed", "failed", "not_measured", "not_applicable"]

#: What each kind is called where there are no numbers of it, and its unit.
_TITLES = {
    "eos": ("equation of state", "A^3/atom"),
    "elastic": ("elastic constants", "GPa"),
    "phonons": ("phonon frequencies", "THz"),
}
#: So many missing labels are named.
_SHOWN = 3


@dataclass(frozen=True)
class PropertyComparison:
    """
    One number of one crystal, by the oracle and by the potential.

    Parameters
    ----------
    crystal
        Formula, space group and fingerprint of the primitive cell; only the formula of what is no crystal.
    kind
        ``eos``, ``elastic``, ``phonons``, or the class of a criterion of one's own.
    name, unit
        Of the number.
    state
        ``passed``, ``failed``, ``not_measured`` or ``not_applicable`` (:data:`State`).
    oracle, potential
        The two values; None where there is none. Of phonons the largest frequencies.
    error, limit
        Deviation and what it may be, in the same unit. Of phonons the root mean square over all modes.
    reason
        Why there is no value, or how it is to be understood.
    data
        What the numbers of this kind come from, ``{"oracle": {...}, "potential": {...}}``: curves, matrices or
        frequencies; with the first comparison of each kind only. Of a potential that has none of these numbers the
        curve alone (eos), or nothing.
    """

    crystal: str
    kind: str
    name: str
    unit: str
    state: State
    oracle: float | None = None
    potential: float | None = None
    error: float | None = None
    limit: float | None = None
    reason: str | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether it was measured and is within its limit."""
        return self.state == "passed"

    @property
    def description(self) -> str:
        """Tell the comparison in one line."""
        what = f"{self.name} of {self.crystal}: "
        if self.error is None or self.limit is None:
            return what + f"{self.state.replace('_', ' ')}: {self.reason}"
        values = f"oracle {self.oracle:.4g}, potential {self.potential:.4g} {self.unit}, "
        why = f": {self.reason}" if self.state == "failed" and self.reason is not None else ""
        return what + values + f"off by {self.error:.2g}, limit {self.limit:.2g}: {self.state}{why}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, with the verdict and the line."""
        return {**asdict(self), "passed": self.passed, "description": self.description}


@dataclass(frozen=True)
class Measured:
    """
    The numbers of one kind by one side.

    Parameters
    ----------
    values
        Name, unit, value, and how far another may be from this one.
    data
        What they come from.
    spread
        If given, deviations are root mean squares of the differences of these instead of differences of the values.
    note
        How the numbers are to be understood.
    """

    values: list[tuple[str, str, float, float]]
    data: dict[str, Any]
    spread: Sequence[Sequence[float]] | None = None
    note: str | None = None

    def deviation(self, other: Measured, k: int) -> float:
        """Return how far number k is from the other's."""
        if self.spread is not None and other.spread is not None:
            return float(np.sqrt(np.mean((np.array(self.spread) - np.array(other.spread)) ** 2)))
        return abs(self.values[k][2] - other.values[k][2])


def compared(
    crystal: str,
    kind: PropertyKind,
    oracle: Measured,
    potential: Measured | str,
    instead: dict[str, Any] | None = None,
) -> list[PropertyComparison]:
    """Set two sides against each other; in place of the potential's a reason why it has none, and data instead."""
    got = None if isinstance(potential, str) else potential
    data = {"oracle": oracle.data, "potential": (instead or {}) if got is None else got.data}
    comparisons = []
    for k, (name, unit, value, limit) in enumerate(oracle.values):
        error = None if got is None else got.deviation(oracle, k)
        comparisons.append(
            PropertyComparison(
                crystal,
                kind,
                name,
                unit,
                state="passed" if error is not None and error <= limit else "failed",
                oracle=value,
                potential=None if got is None else got.values[k][2],
                error=error,
                limit=limit,
                reason=potential if isinstance(potential, str) else oracle.note,
                data={} if k else data,
            )
        )
    return comparisons


def not_compared(
    crystal: str, kind: PropertyKind, state: Literal["not_measured", "not_applicable"], reason: str
) -> PropertyComparison:
    """Say why a property was not compared."""
    name, unit = _TITLES[kind]
    return PropertyComparison(crystal, kind, name, unit, state, reason=reason)


def describe_missing(missing: Sequence[Atoms], n_asked: int, failures: Mapping[str, str]) -> str:
    """Name structures without a label, by their ``info["property"]``, with the reasons there are."""
    tags = [Provenance.of(atoms).purpose or "" for atoms in missing]
    shown = [f"'{tag}' ({failures.get(tag, 'no label')})" for tag in tags[:_SHOWN]]
    more = f" and {len(tags) - _SHOWN} more" if len(tags) > _SHOWN else ""
    return f"{len(tags)} of its {n_asked} labels are missing: {', '.join(shown)}{more}"
