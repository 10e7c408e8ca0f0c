"""Crystals, and labels of the cells of their properties."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress
from matscipy.calculators.pair_potential import LennardJonesCut, PairPotential

from mlip_autopipec.validation.crystals import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ase.calculators.calculator import Calculator

    from mlip_autopipec.validation.comparison import PropertyComparison
    from mlip_autopipec.validation.properties import PropertyCriterion


def copper() -> Atoms:
    return bulk("Cu", a=3.59)


def hexagonal_copper() -> Atoms:
    return bulk("Cu", "hcp", a=2.54, c=4.15)


def magnesia() -> Atoms:
    return bulk("MgO", "rocksalt", a=4.21, cubic=True)


def pair_potential() -> Calculator:
    strength, size = {20: 0.6, 24: 0.05, 16: 0.05}, {20: 1.876, 24: 2.5, 16: 2.5}
    return PairPotential(
        {(a, b): LennardJonesCut(strength[a + b], size[a + b], 6.0) for a, b in ((12, 8), (12, 12), (8, 8))}
    )


def labelled(cells: Sequence[Atoms], calculator: Calculator, with_stress: bool = True) -> list[Atoms]:
    labels = []
    for cell, result in zip(cells, evaluate(cells, calculator), strict=True):
        results = {"energy": result.energy, "forces": result.forces}
        if with_stress and result.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(result.stress)
        labels.append(cell.copy())
        labels[-1].calc = SinglePointCalculator(labels[-1], **results)
    return labels


def measured(criterion: PropertyCriterion, atoms: Atoms, calculator: Calculator) -> list[PropertyComparison]:
    """The oracle's side of a comparison, which is also the potential's."""
    return criterion.compare(atoms, labelled(criterion.structures(atoms), calculator), calculator)


def triclinic_alloy() -> Atoms:
    atoms = Atoms(
        "Cu2Au",
        scaled_positions=[[0.02, 0.03, 0.01], [0.33, 0.68, 0.36], [0.66, 0.35, 0.68]],
        cell=[[2.6, 0.1, 0.0], [0.3, 4.4, 0.2], [0.5, 0.7, 3.9]],
        pbc=True,
    )
    atoms.cell *= (43.0 / atoms.get_volume()) ** (1 / 3)
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=500)
    return atoms


def strained_alloy() -> Atoms:
    """Tetragonal, and its atoms are not at rest."""
    atoms = bulk("CuAu", "cesiumchloride", a=3.1)
    atoms.positions[1] += [0, 0, 0.1]
    return atoms


def all_passed(comparisons: Iterable[PropertyComparison]) -> bool:
    """Tell whether something was measured, all that can be measured was, and all of it is within its limits."""
    relevant = [c for c in comparisons if c.state != "not_applicable"]
    return bool(relevant) and all(c.passed for c in relevant)
