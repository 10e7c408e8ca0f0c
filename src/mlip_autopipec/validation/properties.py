"""The property criterion: a potential's equation of state, elastic constants and phonons against the oracle's.

Small errors on frames of MD promise none of them. Both sides are measured in the same way on the same cells, so that
strain, displacement and supercell need not be converged to compare them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from mlip_autopipec.errors import InvalidInputError, check_whole
from mlip_autopipec.moved import renamed_classes
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.structures.provenance import Origin, Provenance
from mlip_autopipec.structures.supercells import cell_width
from mlip_autopipec.validation.comparison import Measured, PropertyKind, compared, describe_missing, not_compared
from mlip_autopipec.validation.criteria import Criterion, form_of
from mlip_autopipec.validation.crystals import (
    PropertyError,
    evaluate,
    find_crystal,
    find_result,
    fold,
    repeat,
    repetition,
)
from mlip_autopipec.validation.elasticity import (
    fit_elastic_constants,
    gives_way,
    independent_constants,
    required_strains,
)
from mlip_autopipec.validation.equation_of_state import fit_equation_of_state, volume_series
from mlip_autopipec.validation.vibrations import displaced_cells, phonons, supercell_matrix, zone_centre_force_constants

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

    from mlip_autopipec.validation.comparison import PropertyComparison
    from mlip_autopipec.validation.crystals import Crystal, Result
    from mlip_autopipec.validation.elasticity import Strain

#: What can be asked for.
PROPERTIES: tuple[PropertyKind, ...] = ("eos", "elastic", "phonons")


@dataclass(frozen=True, eq=False)
class PropertyPlan:
    """
    What has to be labelled for one crystal.

    Parameters
    ----------
    name
        Of the crystal, or the formula of what is none.
    crystal
        None where the structure is none.
    structures
        By property.
    reasons
        Why there are no structures of a property, by property.
    """

    name: str
    crystal: Crystal | None
    structures: dict[PropertyKind, list[Atoms]]
    reasons: dict[PropertyKind, str]


@dataclass
class PropertyCriterion(Criterion):
    """
    Compares properties of crystals by a potential with those by the oracle.

    All cells are static: an equation of state at fixed shape and fractional coordinates, elastic constants and
    phonons of the cell as given, whatever its pressure. Elastic constants are those of relaxed ions, which follow from
    the forces in the strained cells and in a few displaced primitive cells.

    Parameters
    ----------
    properties
        Any of ``eos``, ``elastic`` and ``phonons``.
    volume_tolerance, bulk_modulus_tolerance
        Largest relative deviation of the equilibrium volume (0.01 is 0.3 % of a lattice parameter, less than the
        difference between functionals) and of the bulk modulus.
    elastic_tolerance
        Largest deviation of an elastic constant, relative to the oracle's largest.
    frequency_tolerance
        Largest root mean square deviation of the phonon frequencies, relative to the oracle's largest frequency.
    n_volumes, volume_span
        Volumes between 1 - span and 1 + span of that of the structure. Lattice parameters of experiments and of
        functionals differ by less than 2 %, so that the minimum lies within 0.06.
    strain
        Length of the strains. Both senses are computed, so errors are of its second order.
    relaxed_ions
        Whether elastic constants are those with relaxed ions or those with clamped ions.
    elastic_from
        ``stress`` or, for oracles without it, ``energy``, which takes more strains.
    displacement
        Of an atom, in Angstrom, for force constants.
    min_width
        Cells are repeated to be at least this wide, in Angstrom. For oracles that sample no k-points (tblite, CP2K as
        a rule): as wide as the cells of the first dataset, since primitive cells would be wrong without k-points. 0
        takes primitive cells.
    max_atoms
        Of any cell: largest primitive cell, largest repeated one, largest supercell for phonons.
    max_labels
        A property that would need more labels of one crystal is left out.
    symprec
        Deviation from symmetry in Angstrom that is idealised away.
    """

    properties: list[PropertyKind] = field(default_factory=lambda: ["eos"])
    volume_tolerance: float = 0.01
    bulk_modulus_tolerance: float = 0.1
    elastic_tolerance: float = 0.1
    frequency_tolerance: float = 0.03
    n_volumes: int = 7
    volume_span: float = 0.06
    strain: float = 0.01
    relaxed_ions: bool = True
    elastic_from: str = "stress"
    displacement: float = 0.01
    min_width: float = 0.0
    max_atoms: int = 80
    max_labels: int = 40
    symprec: float = 0.01

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if isinstance(self.properties, str):
            self.properties = [self.properties]
        self.properties = list(self.properties)
        unknown = [name for name in self.properties if name not in PROPERTIES]
        if unknown or not self.properties or len(set(self.properties)) < len(self.properties):
            raise InvalidInputError.of(
                "PropertyCriterion.properties",
                f"is {self.properties}; name one or more of {list(PROPERTIES)}, each once",
            )
        for name in ("volume_tolerance", "bulk_modulus_tolerance", "elastic_tolerance", "frequency_tolerance"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise InvalidInputError.of(
                    f"PropertyCriterion.{name}", f"is {value}; a relative deviation lies between 0 and 1"
                )
        # below, codes and their files round what makes the difference; above, nothing is harmonic or on a curve
        for name, low, high in (
            ("volume_span", 0.01, 0.3),
            ("strain", 0.001, 0.05),
            ("displacement", 0.002, 0.1),
            ("min_width", 0.0, 50.0),
            ("symprec", 1e-5, 0.5),
        ):
            if not low <= (value := getattr(self, name)) <= high:
                raise InvalidInputError.of(
                    f"PropertyCriterion.{name}", f"is {value}; give a value from {low:g} to {high:g}"
                )
        for name, least in (("n_volumes", 5), ("max_atoms", 1), ("max_labels", 1)):
            check_whole(f"PropertyCriterion.{name}", getattr(self, name))
            if not (value := getattr(self, name)) >= least:
                raise InvalidInputError.of(f"PropertyCriterion.{name}", f"is {value}; it has to be at least {least}")
        if self.elastic_from not in ("stress", "energy"):
            raise InvalidInputError.of(
                "PropertyCriterion.elastic_from", f"is '{self.elastic_from}'; give 'stress' or 'energy'"
            )

    def plan(self, atoms: Atoms) -> PropertyPlan:
        """
        Say what has to be labelled to know the properties of a structure, and what cannot be known and why.

        Parameters
        ----------
        atoms
            One of the structures of a campaign.
        """
        return self._plans(atoms)[0]

    def structures(self, atoms: Atoms | Sequence[Atoms]) -> list[Atoms]:
        """
        Return the cells that the oracle has to label; see :meth:`.Criterion.structures`.

        Each crystal is taken once; there are none for what is no crystal, :meth:`plan` tells why.
        """
        found: dict[str, Atoms] = {}
        for plan in self._plans(atoms):
            for cells in plan.structures.values():
                for cell in cells:
                    found.setdefault(form_of(cell), cell)
        return list(found.values())

    def affordable(self, atoms: Atoms | Sequence[Atoms], budget: int | None) -> list[Atoms]:
        """Return the cells of as many properties as fit into a budget; see :meth:`Criterion.affordable`."""
        cells = {form_of(cell): cell for cell in self.structures(atoms)}
        if budget is None or len(cells) <= budget:
            return list(cells.values())
        taken: dict[str, Atoms] = {}
        for plan in self._plans(atoms):
            for group in plan.structures.values():
                forms = [form_of(cell) for cell in group]
                if len(taken.keys() | forms) <= budget:
                    taken |= {form: cells[form] for form in forms}
        return list(taken.values())

    def check(self, atoms: Atoms | Sequence[Atoms], *, gamma_only: bool = False) -> None:
        """Raise InvalidInputError if none of the structures has any of the properties: nothing could ever pass."""
        if gamma_only and self.min_width == 0:
            raise InvalidInputError.of(
                "PropertyCriterion.min_width",
                "is 0, which compares primitive cells, but the oracle samples Gamma only; give "
                "cells as wide as those of the first dataset (StructureGenerator.min_width)",
            )
        plans = self._plans(atoms)
        if not any(plan.structures for plan in plans):
            why = "; ".join(dict.fromkeys(reason for plan in plans for reason in plan.reasons.values()))
            raise InvalidInputError.of(
                "PropertyCriterion.properties",
                f"is {self.properties}, but no structure of this campaign has them: {why}",
            )

    def compare(
        self,
        atoms: Atoms | Sequence[Atoms],
        labelled: Sequence[Atoms],
        potential: ACEPotential | Calculator,
        failures: Mapping[str, str] | None = None,
    ) -> list[PropertyComparison]:
        """Compare all properties of all crystals; see :meth:`Criterion.compare`."""
        calculator = potential.calculator() if isinstance(potential, ACEPotential) else potential
        comparisons: list[PropertyComparison] = []
        for plan in self._plans(atoms):
            for kind in self.properties:
                if plan.crystal is None or kind not in plan.structures:
                    comparisons.append(not_compared(plan.name, kind, "not_applicable", plan.reasons[kind]))
                    continue
                cells = plan.structures[kind]
                found = [find_result(cell, labelled) for cell in cells]
                oracle = [result for result in found if result is not None]
                if len(oracle) < len(cells):
                    missing = [cell for cell, result in zip(cells, found, strict=True) if result is None]
                    reason = describe_missing(missing, len(cells), failures or {})
                    comparisons.append(not_compared(plan.name, kind, "not_measured", reason))
                    continue
                comparisons += self._compared(plan.crystal, kind, cells, oracle, evaluate(cells, calculator))
        return comparisons

    def _plans(self, atoms: Atoms | Sequence[Atoms]) -> list[PropertyPlan]:
        plans: dict[str, PropertyPlan] = {}
        for one in [atoms] if isinstance(atoms, Atoms) else atoms:
            try:
                crystal = find_crystal(one, self.max_atoms, self.symprec)
            except PropertyError as error:
                formula = one.get_chemical_formula()
                plans[formula] = PropertyPlan(formula, None, {}, dict.fromkeys(self.properties, str(error)))
            else:
                if crystal.name not in plans:
                    plans[crystal.name] = self._plan(crystal)
        return list(plans.values())

    def _plan(self, crystal: Crystal) -> PropertyPlan:
        plan = PropertyPlan(crystal.name, crystal, {}, {})
        for kind in self.properties:
            cells = self._cells(crystal, kind)
            largest = max(len(cell) for _, cell in cells)
            narrowest = min(cell_width(cell.cell.array) for _, cell in cells)
            if largest > self.max_atoms or narrowest < 0.9 * self.min_width:
                plan.reasons[kind] = (
                    f"cells of at most {self.max_atoms} atoms are not {self.min_width:g} A wide; raise "
                    "PropertyCriterion.max_atoms or lower PropertyCriterion.min_width"
                )
            elif len(cells) > self.max_labels:
                plan.reasons[kind] = (
                    f"it would take {len(cells)} labels; PropertyCriterion.max_labels is {self.max_labels}"
                )
            else:
                for what, cell in cells:
                    cell.info = {}
                    Provenance(Origin.PROPERTY, purpose=f"{crystal.name}: {kind} {what}").mark(cell)
                plan.structures[kind] = [cell for _, cell in cells]
        return plan

    def _cells(self, crystal: Crystal, kind: PropertyKind) -> list[tuple[str, Atoms]]:
        if kind == "phonons":
            return _numbered(displaced_cells(crystal, self._supercell(crystal), self.displacement))
        if kind == "eos":
            cells = volume_series(crystal, self.n_volumes, self.volume_span)
        else:
            cells = [(f"strain {s.name}", s.apply(crystal.primitive)) for s in self._strains(crystal)]
            if self._relaxes(crystal):
                cells += _numbered(displaced_cells(crystal, np.eye(3, dtype=int), self.displacement))
        matrix = repetition(crystal, self.min_width)
        return [(what, repeat(cell, matrix)) for what, cell in cells]

    def _supercell(self, crystal: Crystal) -> NDArray[np.int_]:
        return supercell_matrix(crystal, self.max_atoms)

    def _strains(self, crystal: Crystal) -> list[Strain]:
        return required_strains(crystal, self.strain, self.elastic_from == "energy")

    def _relaxes(self, crystal: Crystal) -> bool:
        return self.relaxed_ions and gives_way(crystal)

    def _compared(
        self, crystal: Crystal, kind: PropertyKind, cells: list[Atoms], oracle: list[Result], potential: list[Result]
    ) -> list[PropertyComparison]:
        measure = {"eos": self._eos, "elastic": self._elastic, "phonons": self._phonons}[kind]
        try:
            wanted = measure(crystal, oracle)
        except PropertyError as error:
            reason = f"by the oracle, {error}; {error.remedy}" if error.remedy else f"by the oracle, {error}"
            return [not_compared(crystal.name, kind, "not_measured", reason)]
        try:
            if not all(np.isfinite(r.energy) and np.isfinite(r.forces).all() for r in potential):
                raise PropertyError("energies or forces are not finite")
            got: Measured | str = measure(crystal, potential)
        except PropertyError as error:
            got = f"by the potential, {error}"
        curve = None
        if kind == "eos":  # the curve is informative, also without a minimum
            energies = [result.energy / len(cell) for result, cell in zip(potential, cells, strict=True)]
            curve = {"volumes_A3": wanted.data["volumes_A3"], "energies_eV": energies}
        return compared(crystal.name, kind, wanted, got, curve)

    def _eos(self, crystal: Crystal, results: list[Result]) -> Measured:
        cells = [cell for _, cell in volume_series(crystal, self.n_volumes, self.volume_span)]
        fit = fit_equation_of_state(cells, self._folded(crystal, results))
        limit, modulus_limit = self.volume_tolerance * fit.volume, self.bulk_modulus_tolerance * fit.bulk_modulus_GPa
        values = [
            ("equilibrium volume", "A^3/atom", fit.volume, limit),
            ("bulk modulus", "GPa", fit.bulk_modulus_GPa, modulus_limit),
        ]
        return Measured(values, asdict(fit))

    def _elastic(self, crystal: Crystal, results: list[Result]) -> Measured:
        strains, folded, hessian = self._strains(crystal), self._folded(crystal, results), None
        strained, displaced = folded[: len(strains)], folded[len(strains) :]
        note = "clamped ions" if not self.relaxed_ions else "ions that symmetry keeps in place"
        if self._relaxes(crystal):
            hessian = zone_centre_force_constants(crystal, self.displacement, displaced)
            note = "relaxed ions"
        fit = fit_elastic_constants(crystal, strains, strained, hessian, self.elastic_from == "energy")
        limit = self.elastic_tolerance * float(np.abs(fit.best).max())
        values = [(f"C{i + 1}{j + 1}", "GPa", float(fit.best[i, j]), limit) for i, j in independent_constants(crystal)]
        data = {"constants_GPa": fit.best.tolist(), "clamped_GPa": fit.clamped.tolist(), "ions": note}
        return Measured(values, data, note=note)

    def _phonons(self, crystal: Crystal, results: list[Result]) -> Measured:
        found = phonons(crystal, self._supercell(crystal), self.displacement, results)
        largest = float(np.max(found.frequencies_THz))
        if not largest > 0:
            raise PropertyError("no mode is stable", "give the structure near to its equilibrium")
        values = [("phonon frequencies", "THz", largest, self.frequency_tolerance * largest)]
        note = f"the largest of all; deviation over the modes of {len(found.q_points)} wave vectors"
        return Measured(values, asdict(found), found.frequencies_THz, note)

    def _folded(self, crystal: Crystal, results: list[Result]) -> list[Result]:
        return [fold(result, len(crystal.primitive)) for result in results]


def _numbered(cells: list[Atoms]) -> list[tuple[str, Atoms]]:
    return [(f"displaced {k + 1} of {len(cells)}", cell) for k, cell in enumerate(cells)]


__getattr__ = renamed_classes(__name__, PropertyGate="PropertyCriterion")
