"""What MD may cost: which bases a fit may choose from where the user gives a limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.training.design import basis_functions, same_radial

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from pyace import ACEBBasisSet, BBasisConfiguration

#: How many times as long the same evaluation may take in a busy moment.
_SCATTER = 2.0


class _Measured(NamedTuple):
    """A basis by its cost in us per atom and step, its most functions of an element, and its cutoff in A."""

    cost: float
    size: int
    cutoff: float


@dataclass
class Budget:
    """
    The limit of the cost of MD, and what was measured.

    Times scatter with what else the machine does: what the potential to continue from has already may cost
    ``_SCATTER`` times as much, so that a campaign neither ends nor falls back for a busy moment. Each basis is measured
    once in a fit, so that what was within the limit at one look is so at the next.

    Parameters
    ----------
    limit
        Microseconds per atom and step.
    cost
        Measures it.
    present
        The potential to continue from, or a teacher; None without one, and where it is not continued.
    """

    limit: float
    cost: Callable[[ACEPotential], float]
    present: ACEPotential | None = None
    _within: dict[tuple[Hashable, int], bool] = field(default_factory=dict)
    _latest: _Measured | None = None
    _cheapest: _Measured | None = None
    _last: int | None = None

    def allows(self, configuration: BBasisConfiguration) -> bool:
        """Measure a basis and tell whether it is within the limit."""
        from pyace import ACEBBasisSet

        basis = ACEBBasisSet(configuration)
        # functions without a coefficient take less time: those of nickel-aluminium cost an eighth more when fitted
        basis.basis_coeffs = np.ones(len(basis.basis_coeffs))
        potential, present = ACEPotential.from_basis(basis), self.present
        found = _Measured(self.cost(potential), max(potential.n_functions.values()), potential.cutoff)
        self._latest = found
        self._cheapest = found if self._cheapest is None else min(self._cheapest, found)
        has_it = present is not None and _holds(present.basis, potential.basis)
        return found.cost <= (_SCATTER if has_it else 1.0) * self.limit

    def those_within(
        self, sizes: Sequence[int], make: Callable[[int], BBasisConfiguration], form: Hashable
    ) -> list[int]:
        """
        Return the sizes of a ladder that are within the limit; few of them are measured, since larger ones cost more.

        Parameters
        ----------
        sizes
            Functions of each element, ascending.
        make
            Makes the basis of a size.
        form
            What tells this ladder from others.
        """
        known = [self._within.get((form, n)) for n in sizes]
        low = max((i + 1 for i, within in enumerate(known) if within), default=0)
        high = min((i for i, within in enumerate(known) if within is False), default=len(sizes))
        # the largest first, which a generous limit allows; then what another form's ladder ended with
        at = high - 1 if self._last is None else min(max(self._last, low), high - 1)
        while low < high:
            within = self._within[form, sizes[at]] = self.allows(make(sizes[at]))
            low, high = (at + 1, high) if within else (low, at)
            at = (low + high) // 2
        self._last = low - 1
        return list(sizes[:low])

    def told(self) -> str:
        """Say what the basis costs that was measured last, and what to do; goes on after its name."""
        if self._latest is None:
            raise ValueError("no basis was measured")
        cost, size, cutoff = self._latest
        return (
            f"costs {cost:.3g} us per atom and step of MD on this machine ({size} functions of each element, cutoff "
            f"{cutoff:g} A), and max_us_per_atom_step is {self.limit:g}; raise it, or take a smaller basis"
        )

    def refuse(self) -> InvalidInputError:
        """Return the error that no basis is within the limit; it names the cheapest one."""
        if self._cheapest is None:
            raise ValueError("no basis was measured")
        cost, size, cutoff = self._cheapest
        return InvalidInputError(
            f"max_us_per_atom_step is {self.limit:g}, but the cheapest basis ({size} functions of each element, cutoff "
            f"{cutoff:g} A) costs {cost:.3g} us per atom and step on this machine; raise it, or give a shorter "
            "basis.cutoff"
        )


def _holds(larger: ACEBBasisSet, smaller: ACEBBasisSet) -> bool:
    """Tell whether a basis has all functions of another: the same number, shared otherwise, may cost half as much."""
    return same_radial(larger, smaller) and set(basis_functions(smaller)) <= set(basis_functions(larger))
