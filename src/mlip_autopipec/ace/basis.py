"""The size and shape of an ACE basis, in pacemaker's own terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class BasisSettings(MSONable):
    """
    An ACE basis, written as the ``potential`` section of a pacemaker input.

    Parameters
    ----------
    number_of_functions_per_element
        Basis functions per element; the active set of an element has as many atoms.
    cutoff
        Outer cutoff radius in Angstrom.
    nradmax_by_orders, lmax_by_orders
        Largest radial and angular index per correlation order (body order minus one).
    radial_basis
        pacemaker's ``radbase``.
    radial_parameters
        pacemaker's ``radparameters``.
    ndensity
        Densities in the embedding: 1 is linear ACE, 2 adds a square-root term
        (Finnis-Sinclair), which only the gradient fit can train.
    potential_section
        A complete pacemaker ``potential`` section that replaces all of the above.
    """

    number_of_functions_per_element: int = 30
    cutoff: float = 5.0
    nradmax_by_orders: list[int] = field(default_factory=lambda: [15, 6, 4, 3, 2])
    lmax_by_orders: list[int] = field(default_factory=lambda: [0, 4, 3, 2, 1])
    radial_basis: str = "SBessel"
    radial_parameters: list[float] = field(default_factory=lambda: [5.25])
    ndensity: int = 1
    potential_section: dict[str, Any] | None = None

    def section(self, elements: Sequence[str]) -> dict[str, Any]:
        """
        Write the ``potential`` section for the given elements.

        Parameters
        ----------
        elements
            Chemical symbols; their order does not matter.

        Returns
        -------
        dict
            What pacemaker and ``pyace.create_multispecies_basis_config`` read.
        """
        symbols = sorted(set(elements))
        if not symbols:
            raise InvalidInputError("BasisSettings.section: 'elements' is empty; name at least one element")
        if self.potential_section is not None:
            given = sorted(self.potential_section.get("elements", symbols))
            if given != symbols:
                raise InvalidInputError(
                    f"potential_section.elements is {given}, but the structures hold {symbols}; make them agree"
                )
            return {**self.potential_section, "elements": symbols}
        if self.ndensity not in (1, 2):
            raise InvalidInputError(f"ndensity is {self.ndensity}; 1 (linear) and 2 (square root) are known")
        fs_parameters = [1, 1] if self.ndensity == 1 else [1, 1, 1, 0.5]
        return {
            "deltaSplineBins": 0.001,
            "elements": symbols,
            "embeddings": {
                "ALL": {
                    "npot": "FinnisSinclairShiftedScaled",
                    "fs_parameters": fs_parameters,
                    "ndensity": self.ndensity,
                }
            },
            "bonds": {
                "ALL": {
                    "radbase": self.radial_basis,
                    "radparameters": list(self.radial_parameters),
                    "rcut": self.cutoff,
                    "dcut": 0.01,
                    "NameOfCutoffFunction": "cos",
                }
            },
            "functions": {
                "number_of_functions_per_element": self.number_of_functions_per_element,
                "ALL": {
                    "nradmax_by_orders": list(self.nradmax_by_orders),
                    "lmax_by_orders": list(self.lmax_by_orders),
                },
            },
        }
