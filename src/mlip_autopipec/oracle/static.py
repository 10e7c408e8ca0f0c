"""Static makers for ASE calculators, in atomate2's own form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from atomate2.ase.jobs import AseRelaxMaker, EmtRelaxMaker
from pydantic import ImportString, TypeAdapter, ValidationError

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


@dataclass
class EMTStaticMaker(EmtRelaxMaker):
    """Single point with ASE's effective medium theory (Al, Cu, Ag, Au, Ni, Pd, Pt; toy H, C, N, O)."""

    name: str = "EMT static"
    steps: int = 1
    relax_cell: bool = False


@dataclass
class CalculatorStaticMaker(AseRelaxMaker):
    """
    Single point with any ASE calculator.

    Parameters
    ----------
    calculator_class
        Import path of the calculator class, e.g. ``ase.calculators.espresso.Espresso``.
    calculator_kwargs
        What it is made with.
    """

    name: str = "ASE static"
    calculator_class: str = "ase.calculators.emt.EMT"
    calculator_kwargs: dict[str, Any] = field(default_factory=dict)
    steps: int = 1
    relax_cell: bool = False

    def _get_calculator(self) -> Calculator:
        try:
            calculator = TypeAdapter(ImportString[Any]).validate_python(self.calculator_class)
        except ValidationError as error:
            raise InvalidInputError(
                f"calculator_class '{self.calculator_class}' cannot be imported: {error}"
            ) from error
        return calculator(**self.calculator_kwargs)
