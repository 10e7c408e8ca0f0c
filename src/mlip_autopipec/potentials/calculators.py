"""ASE calculators of ACE potentials."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ase.calculators.calculator import all_changes
from pyace.asecalc import PyACECalculator, PyGRACEFSCalculator

from mlip_autopipec.structures.periodicity import lone_atoms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.posterior import ErrorBars, Posterior

#: Properties of a potential with a posterior, beyond those of pyace: eV; eV/A; eV/A^3.
STANDARD_DEVIATIONS = ("energy_std", "forces_std", "stress_std")


class Evaluated(Protocol):
    """What a calculator needs of a potential: :class:`~mlip_autopipec.potentials.potential.ACEPotential` has it."""

    @property
    def basis(self) -> Any:
        """The basis set as pyace evaluates it."""

    @property
    def cutoff(self) -> float:
        """Largest cutoff in Angstrom."""

    @property
    def active_set_inverse(self) -> Mapping[str, NDArray[Any]]:
        """Inverse active set of each element; empty where gamma is not known."""

    def check_elements(self, atoms: Atoms) -> None:
        """Raise if an element is unknown."""

    def reference_energy(self, atoms: Atoms) -> float:
        """Return the sum of the reference energies of all atoms in eV."""

    def active_set_matrices(self) -> list[NDArray[Any]]:
        """Return the inverse active sets in the order of the elements."""

    def grace_evaluator(self) -> Any:
        """Return pyace's evaluator of a GRACE-FS potential."""

    @property
    def posterior(self) -> Posterior | None:
        """The posterior of the coefficients, where it is known."""

    @property
    def error_bars(self) -> ErrorBars:
        """Error bars; raises without a posterior."""


class _TotalEnergies:
    """Add the reference energies to what a calculator of pyace returns."""

    potential: Evaluated
    results: dict[str, Any]

    def calculate(self, atoms: Any = None, *args: Any, **kwargs: Any) -> None:
        """Evaluate; see :class:`ase.calculators.calculator.Calculator`."""
        self.potential.check_elements(atoms)
        super().calculate(atoms, *args, **kwargs)  # type: ignore[misc]  # the other base is a calculator
        shift = self.potential.reference_energy(atoms)
        for key in ("energy", "free_energy"):
            self.results[key] += shift


class ACECalculator(_TotalEnergies, PyACECalculator):
    """
    pyace's ASE calculator plus the reference energies of the potential (eV, eV/A, eV/A^3).

    Error bars are computed when they are asked for (:data:`STANDARD_DEVIATIONS`). That of the energy is NaN where an
    atom has no neighbour within the cutoff: its energy is the reference energy, of which the fit says nothing.
    """

    implemented_properties: ClassVar[list[str]] = [*PyACECalculator.implemented_properties, *STANDARD_DEVIATIONS]

    def __init__(self, potential: Evaluated) -> None:
        self.potential = potential
        super().__init__(potential.basis)
        if potential.active_set_inverse:
            self.set_active_set(potential.active_set_matrices())

    def calculate(
        self,
        atoms: Any = None,
        properties: Sequence[str] = ("energy", "forces", "stress"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate; see :class:`ase.calculators.calculator.Calculator`."""
        super().calculate(atoms, list(properties), list(system_changes))
        if set(properties) & set(STANDARD_DEVIATIONS):
            found = self.potential.error_bars.of(atoms)
            alone = len(lone_atoms(atoms, self.potential.cutoff)) > 0
            energy = math.nan if alone else found.energy
            self.results.update(energy_std=energy, forces_std=found.forces, stress_std=found.stress)


class GRACEFSCalculator(_TotalEnergies, PyGRACEFSCalculator):
    """pyace's ASE calculator of GRACE-FS plus the reference energies of the potential (eV, eV/A, eV/A^3)."""

    def __init__(self, potential: Evaluated) -> None:
        self.potential = potential
        super().__init__(potential.basis)
        self.compute_projections = bool(potential.active_set_inverse)

    def _create_evaluator(self) -> None:
        super()._create_evaluator()
        self.evaluator = self.potential.grace_evaluator()
