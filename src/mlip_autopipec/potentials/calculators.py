"""ASE calculators of ACE potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyace.asecalc import PyACECalculator, PyGRACEFSCalculator

from mlip_autopipec.potentials.potential import reference_energy

if TYPE_CHECKING:
    from mlip_autopipec.potentials.potential import ACEPotential


class _TotalEnergies:
    """Add the reference energies to what a calculator of pyace returns."""

    potential: ACEPotential
    results: dict[str, Any]

    def calculate(self, atoms: Any = None, *args: Any, **kwargs: Any) -> None:
        """Evaluate; see :class:`ase.calculators.calculator.Calculator`."""
        self.potential.check_elements(atoms)
        super().calculate(atoms, *args, **kwargs)  # type: ignore[misc]  # the other base is a calculator
        shift = reference_energy(atoms, self.potential.reference_energies)
        for key in ("energy", "free_energy"):
            self.results[key] += shift


class ACECalculator(_TotalEnergies, PyACECalculator):
    """pyace's ASE calculator plus the reference energies of the potential (eV, eV/A, eV/A^3)."""

    def __init__(self, potential: ACEPotential) -> None:
        self.potential = potential
        super().__init__(potential.basis)
        if potential.active_set_inverse:
            self.set_active_set(potential.active_set_matrices())


class GRACEFSCalculator(_TotalEnergies, PyGRACEFSCalculator):
    """pyace's ASE calculator of GRACE-FS plus the reference energies of the potential (eV, eV/A, eV/A^3)."""

    def __init__(self, potential: ACEPotential) -> None:
        self.potential = potential
        super().__init__(potential.basis)
        self.compute_projections = bool(potential.active_set_inverse)

    def _create_evaluator(self) -> None:
        super()._create_evaluator()
        self.evaluator = self.potential.grace_evaluator()
