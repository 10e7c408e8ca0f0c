"""How large a cut-out has to be for the force on its centre to be that of the large cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.cutouts.boxes import shortest_translation
from mlip_autopipec.cutouts.cutout import CutoutError, CutoutGenerator
from mlip_autopipec.cutouts.cutting import evaluate, grading_calculator
from mlip_autopipec.structures.distort import bare_copy
from mlip_autopipec.structures.intake import raw_forces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

#: Radii of the core, in units of the cutoff. At 2 all that the force on the centre depends on is untouched.
RATIOS = (1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class BufferPoint:
    """
    The force on the centre of a cut-out of one size.

    Parameters
    ----------
    core_radius
        Radius (Angstrom) within which the cut-out is as the large cell.
    width
        Distance (Angstrom) of the centre from its nearest periodic image.
    n_atoms
        Size of the cut-out.
    force
        Force on the centre in eV/A, (3,).
    reference
        The same in the large cell.
    box
        How the box was chosen; see :class:`~mlip_autopipec.cutouts.cutting.Cutout`.
    problems
        Checks that the cut-out fails; it is measured nevertheless.
    """

    core_radius: float
    width: float
    n_atoms: int
    force: NDArray[np.float64]
    reference: NDArray[np.float64]
    box: str
    problems: tuple[str, ...] = ()

    @property
    def change(self) -> float:
        """Length of the difference of the two forces, in eV/A."""
        return float(np.linalg.norm(self.force - self.reference))

    def __repr__(self) -> str:
        """One line for a log."""
        return (
            f"<core {self.core_radius:.2f} A, width {self.width:.2f} A, {self.n_atoms} atoms, {self.box} box: force on "
            f"the centre differs by {self.change:.2e} of {np.linalg.norm(self.reference):.3f} eV/A>"
        )


def buffer_convergence(
    atoms: Atoms,
    potential: ACEPotential,
    centre: int,
    calculator: Calculator | None = None,
    *,
    ratios: Sequence[float] = RATIOS,
    reference: NDArray[np.float64] | None = None,
    generator: CutoutGenerator | None = None,
    max_atoms: int = 1500,
) -> list[BufferPoint]:
    """
    Compare the force on the centre of ever larger cut-outs with that in the large cell.

    A cut-out is labelled with the forces that it has itself, so a force that is not converged does no harm
    to the fit; it shows how close the label is to one of the large cell.

    Parameters
    ----------
    atoms
        The large cell.
    potential
        Makes the cut-outs.
    centre
        Index of the atom.
    calculator
        Supplies the forces (eV/A): any ASE calculator. The potential's by default.
    ratios
        Radii of the core in units of the cutoff of the potential.
    reference
        Force on the centre in the large cell, (3,), where the calculator cannot take that.
    generator
        Settings of the cut-outs, its core and limit of size apart.
    max_atoms
        No cut-out is larger.

    Returns
    -------
    list of BufferPoint
        One for each ratio.

    Raises
    ------
    CutoutError
        If a cut-out cannot be made at all; those that fail a check are measured.
    """
    calculator = potential.calculator() if calculator is None else calculator
    if reference is None:
        large = bare_copy(atoms)
        large.calc = calculator
        reference = raw_forces(large)[centre]
    gamma = evaluate(grading_calculator(potential), atoms)["gamma"]
    points = []
    for ratio in ratios:
        settings = replace(generator or CutoutGenerator(), core_ratio=float(ratio), max_atoms=max_atoms)
        try:
            cutout = settings.cut(atoms, potential, centre, gamma=gamma)
        except CutoutError as error:
            if error.best is None:
                raise
            cutout = error.best
        cell = bare_copy(cutout.atoms)
        cell.calc = calculator
        force = raw_forces(cell)[cutout.centre]
        width, core = shortest_translation(cell.cell.array), ratio * potential.cutoff
        points.append(BufferPoint(core, width, len(cell), force, reference, cutout.box, cutout.problems))
    return points
