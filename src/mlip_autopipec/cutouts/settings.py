"""Settings of cut-outs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.distances import MINIMUM_DISTANCE_RATIO

if TYPE_CHECKING:
    from ase import Atoms


@dataclass
class CutoutSettings(MSONable):
    """
    Limits on cut-outs, and on the search for them.

    Parameters
    ----------
    max_atoms
        Cells up to this size are labelled whole, and no cut-out is larger.
    max_centres
        Most cut-outs of one frame.
    gamma_min
        No cut-outs are made of atoms below this grade.
    core_ratio
        Radius of the inner region in units of the cutoff r_c; at least 1. The force on the
        centre is that of the large cell from 2 on.
    relax_steps
        Most FIRE steps in which the boundary region is relaxed.
    density_range
        Accepted density, relative to the surroundings.
    oxidation_states
        Charges (e) of elements that have to add up, as in {"Mg": 2, "O": -2}. None: estimated for
        compounds of elements that differ in electronegativity. {}: no charge balance.
    minimum_distance_ratio
        No pair of the boundary region is closer than this times the sum of the covalent radii.
    vacuum
        Vacuum (Angstrom) in a cut-out of a surface; at least the cutoff is taken.
    max_relaxed
        Most boxes that are relaxed and checked for one centre.
    seed
        Default of the seed of :meth:`CutoutGenerator.generate` and :meth:`CutoutGenerator.cut`.
    """

    max_atoms: int = 150
    max_centres: int = 3
    gamma_min: float = 2.0
    core_ratio: float = 1.0
    relax_steps: int = 60
    density_range: tuple[float, float] = (0.8, 1.2)
    oxidation_states: dict[str, float] | None = None
    minimum_distance_ratio: float = MINIMUM_DISTANCE_RATIO
    vacuum: float = 10.0
    max_relaxed: int = 8
    seed: int = 0

    #: Largest force (eV/A) at which the relaxation of the boundary region ends.
    relax_fmax: ClassVar[float] = 0.5
    #: Accepted gamma of atoms other than the centre, in units of the centre's; values that they had in the large cell,
    #: and values up to ``gamma_min``, are always accepted.
    max_boundary_ratio: ClassVar[float] = 1.0
    #: Accepted force (eV/A) in the boundary region; more where the centre and its neighbours have larger forces in the
    #: large cell.
    max_boundary_force: ClassVar[float] = 3.0
    #: Accepted change of the fraction of any element, against the surroundings.
    composition_tolerance: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        for name, least in (("max_atoms", 2), ("max_centres", 1), ("core_ratio", 1), ("max_relaxed", 1)):
            if not (value := getattr(self, name)) >= least:
                raise InvalidInputError.of(f"CutoutGenerator.{name}", f"is {value}; it has to be at least {least}")
        for name in ("gamma_min", "vacuum", "minimum_distance_ratio"):
            if not (value := getattr(self, name)) > 0:
                raise InvalidInputError.of(f"CutoutGenerator.{name}", f"is {value}; it has to be positive")
        if self.relax_steps < 0:
            raise InvalidInputError.of("CutoutGenerator.relax_steps", f"is {self.relax_steps}; it must not be negative")
        self.density_range = (float(self.density_range[0]), float(self.density_range[1]))
        if not 0 < self.density_range[0] < 1 < self.density_range[1]:
            raise InvalidInputError.of(
                "CutoutGenerator.density_range",
                f"is {self.density_range}; give a lower limit below and an upper above 1",
            )

    def wanted(self, atoms: Atoms) -> bool:
        """Whether a frame is too large to be labelled whole."""
        return len(atoms) > self.max_atoms
