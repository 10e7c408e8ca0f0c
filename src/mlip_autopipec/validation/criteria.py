"""What a potential has to get right besides small errors: the interface, and criteria of one's own.

The cells to be labelled follow from the structures alone, not from the potential: they are labelled once, found
again in every later check, and both sides are measured in the same way on the same cells.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import Atoms
from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.moved import renamed_classes, renamed_fields
from mlip_autopipec.oracle.identity import canonical_form
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.structures.provenance import Origin, Provenance
from mlip_autopipec.validation.comparison import PropertyComparison, describe_missing
from mlip_autopipec.validation.crystals import PropertyError, Result, evaluate, find_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase.calculators.calculator import Calculator

    from mlip_autopipec.validation.comparison import State

#: ``info["origin"]`` of the structures.
ORIGIN = "property"


def form_of(cell: Atoms) -> str:
    """Return what is the same for all descriptions of one structure, and for no other structure."""
    return json.dumps(canonical_form(cell))


class Criterion(MSONable, ABC):
    """Compares a potential with the oracle by what follows from labels of some cells."""

    def check(self, atoms: Atoms | Sequence[Atoms], *, gamma_only: bool = False) -> None:
        """
        Raise InvalidInputError where nothing could ever pass, before anything is computed.

        Parameters
        ----------
        atoms
            The structures of the campaign.
        gamma_only
            Whether the oracle samples Gamma only, so that small cells are another material's.
        """

    @abstractmethod
    def structures(self, atoms: Atoms | Sequence[Atoms]) -> list[Atoms]:
        """
        Return the cells that the oracle has to label; they depend on the structures and on this criterion only.

        Parameters
        ----------
        atoms
            One structure of a campaign, or all of them.

        Returns
        -------
        list of ase.Atoms
            Pairwise different, without calculators. ``info["origin"]`` is ``property``; ``info["property"]`` is a line
            that tells each from all others.
        """

    def affordable(self, atoms: Atoms | Sequence[Atoms], budget: int | None) -> list[Atoms]:
        """
        Return the cells of as many properties as fit into a budget, each property whole: half of one says nothing.

        Parameters
        ----------
        atoms
            As for :meth:`structures`.
        budget
            Most cells; None for all.
        """
        cells = self.structures(atoms)
        return cells if budget is None or len(cells) <= budget else []

    def structures_by(self, atoms: Atoms | Sequence[Atoms], potential: ACEPotential) -> list[Atoms]:  # noqa: ARG002
        """
        Return cells to be labelled that depend on the potential that is checked; none unless a subclass says so.

        They are marked as those of :meth:`structures`, and :meth:`compare` has to find them by ``info["property"]``.

        Parameters
        ----------
        atoms
            As for :meth:`structures`.
        potential
            The potential.
        """
        return []

    @abstractmethod
    def compare(
        self,
        atoms: Atoms | Sequence[Atoms],
        labelled: Sequence[Atoms],
        potential: ACEPotential | Calculator,
        failures: Mapping[str, str] | None = None,
    ) -> list[PropertyComparison]:
        """
        Compare the properties by a potential with those by the oracle.

        Parameters
        ----------
        atoms
            The structures that were given to :meth:`structures`.
        labelled
            The labels there are, in any order: structures with energy, forces and, if there is one, stress in an
            attached calculator. Others among them are passed over.
        potential
            The potential, or any ASE calculator.
        failures
            Reasons of failed labels, by their ``info["property"]``.

        Returns
        -------
        list of PropertyComparison
            At least one, never ``passed`` where something is missing.
        """


class Quantity(NamedTuple):
    """A number, its unit, and how far the potential's may be from the oracle's."""

    value: float
    unit: str
    tolerance: float


@dataclass
class CellCriterion(Criterion, ABC):
    """
    Base of a criterion of one's own: some cells with names, and the numbers that follow from their labels.

    A subclass says which cells (:meth:`cells`) and how to get the numbers (:meth:`measure`): formation energies of
    defects, barriers, surface and stacking fault energies, differences between phases. It has to stand in a module
    that can be imported wherever the campaign runs.

    Examples
    --------
    >>> from ase.build import bulk, fcc111
    >>> class SurfaceCriterion(CellCriterion):
    ...     def cells(self, atoms):
    ...         return {"bulk": bulk("Cu", a=3.6), "slab": fcc111("Cu", (1, 1, 7), a=3.6, vacuum=6)}
    ...
    ...     def measure(self, labels):
    ...         slab, of_bulk = labels["slab"], len(labels["slab"].forces) * labels["bulk"].energy
    ...         return {"surface energy": Quantity((slab.energy - of_bulk) / 2, "eV", 0.1)}
    >>> [cell.info["property"] for cell in SurfaceCriterion().structures([])]
    ['SurfaceCriterion: bulk', 'SurfaceCriterion: slab']
    """

    @abstractmethod
    def cells(self, atoms: list[Atoms]) -> dict[str, Atoms]:
        """
        Return the cells to be labelled, by name.

        Parameters
        ----------
        atoms
            The structures of the campaign. The same ones always have to give the same cells.
        """

    @abstractmethod
    def measure(self, labels: dict[str, Result]) -> dict[str, Quantity]:
        """
        Return the quantities, by name.

        Parameters
        ----------
        labels
            Energy (eV), forces (eV/A) and, if there is one, stress (eV/A^3) of each cell, by its name: the oracle's or
            the potential's.
        """

    def structures(self, atoms: Atoms | Sequence[Atoms]) -> list[Atoms]:
        """Return the cells that the oracle has to label; see :meth:`Criterion.structures`."""
        return list(self._tagged(atoms).values())

    def compare(
        self,
        atoms: Atoms | Sequence[Atoms],
        labelled: Sequence[Atoms],
        potential: ACEPotential | Calculator,
        failures: Mapping[str, str] | None = None,
    ) -> list[PropertyComparison]:
        """Compare all quantities; see :meth:`Criterion.compare`."""
        cells = self._tagged(atoms)
        kind = type(self).__name__
        of = max(cells.values(), key=len).get_chemical_formula(empirical=True)
        found = {name: result for name, cell in cells.items() if (result := find_result(cell, labelled)) is not None}
        if missing := [cell for name, cell in cells.items() if name not in found]:
            reason = describe_missing(missing, len(cells), failures or {})
            return [PropertyComparison(of, kind, kind, "", "not_measured", reason=reason)]
        calculator = potential.calculator() if isinstance(potential, ACEPotential) else potential
        try:
            oracle = self.measure(found)
        except PropertyError as error:
            return [PropertyComparison(of, kind, kind, "", "not_measured", reason=f"by the oracle, {error}")]
        why = "it is not finite"
        try:
            learnt = self.measure(dict(zip(cells, evaluate(list(cells.values()), calculator), strict=True)))
        except PropertyError as error:
            learnt, why = {}, str(error)
        comparisons = []
        for name, (value, unit, tolerance) in oracle.items():
            got = learnt[name].value if name in learnt else np.nan
            if np.isfinite(got):
                off = abs(got - value)
                state: State = "passed" if off <= tolerance else "failed"
                comparisons.append(PropertyComparison(of, kind, name, unit, state, value, got, off, tolerance))
            else:
                reason = f"by the potential, {why}"
                comparisons.append(PropertyComparison(of, kind, name, unit, "failed", oracle=value, reason=reason))
        return comparisons

    def _tagged(self, atoms: Atoms | Sequence[Atoms]) -> dict[str, Atoms]:
        cells = self.cells([atoms] if isinstance(atoms, Atoms) else list(atoms))
        tagged = {}
        for name, cell in cells.items():
            tagged[name] = cell.copy()
            tagged[name].info = {}
            Provenance(Origin.PROPERTY, purpose=f"{type(self).__name__}: {name}").mark(tagged[name])
        return tagged


@renamed_fields(gates="criteria")
@dataclass
class Criteria(Criterion):
    """
    Several criteria, all of which a potential has to pass.

    Parameters
    ----------
    criteria
        In the order in which a budget of labels is spent on them.
    """

    criteria: list[Criterion] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse what is no criterion."""
        if not self.criteria or not all(isinstance(criterion, Criterion) for criterion in self.criteria):
            raise InvalidInputError.of(
                "Criteria.criteria", f"is {self.criteria}; give one or more criteria, for instance PropertyCriterion()"
            )

    def check(self, atoms: Atoms | Sequence[Atoms], *, gamma_only: bool = False) -> None:
        """Raise InvalidInputError where one of them could never pass."""
        for criterion in self.criteria:
            criterion.check(atoms, gamma_only=gamma_only)

    def structures(self, atoms: Atoms | Sequence[Atoms]) -> list[Atoms]:
        """Return the cells of all criteria, a cell that several ask for once."""
        found: dict[str, Atoms] = {}
        for criterion in self.criteria:
            for cell in criterion.structures(atoms):
                found.setdefault(form_of(cell), cell)
        return list(found.values())

    def structures_by(self, atoms: Atoms | Sequence[Atoms], potential: ACEPotential) -> list[Atoms]:
        """Return the cells of all criteria that depend on the potential."""
        return [cell for criterion in self.criteria for cell in criterion.structures_by(atoms, potential)]

    def affordable(self, atoms: Atoms | Sequence[Atoms], budget: int | None) -> list[Atoms]:
        """Return the cells of as many properties as fit into a budget; see :meth:`Criterion.affordable`."""
        taken: dict[str, Atoms] = {}
        for criterion in self.criteria:
            left = None if budget is None else budget - len(taken)
            for cell in criterion.affordable(atoms, left):
                taken.setdefault(form_of(cell), cell)
        return list(taken.values())

    def compare(
        self,
        atoms: Atoms | Sequence[Atoms],
        labelled: Sequence[Atoms],
        potential: ACEPotential | Calculator,
        failures: Mapping[str, str] | None = None,
    ) -> list[PropertyComparison]:
        """Compare the properties of all criteria; see :meth:`Criterion.compare`."""
        return [one for criterion in self.criteria for one in criterion.compare(atoms, labelled, potential, failures)]


__getattr__ = renamed_classes(__name__, Gate="Criterion", CellGate="CellCriterion", Gates="Criteria")
