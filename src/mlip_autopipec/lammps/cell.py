"""What MD has to know of a structure beside its atoms: where there is vacuum, and what does not move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.frozen import frozen_atoms
from mlip_autopipec.structures.periodicity import goes_on_along, lone_atoms, pieces

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.lammps.types import Condition, MDSettings

#: Names of LAMMPS for the three axes.
_AXES = "xyz"


@dataclass(frozen=True)
class MDCell:
    """
    Vacuum and frozen atoms of the structure of one walk.

    Parameters
    ----------
    goes_on
        Along which cell vectors the structure repeats without vacuum. LAMMPS turns the first vector into x and the
        second into the plane of x and y.
    frozen
        Indices of the atoms that do not move.
    evaporates
        Whether MD halts when an atom is farther than the cutoff from all others: with vacuum somewhere, unless the
        structure begins with such an atom.
    is_one_piece
        Whether it is one piece, no part of it farther than the cutoff from the rest, with vacuum somewhere. MD halts
        when it breaks up.
    """

    goes_on: tuple[bool, bool, bool] = (True, True, True)
    frozen: tuple[int, ...] = ()
    evaporates: bool = False
    is_one_piece: bool = False

    @classmethod
    def of(cls, atoms: Atoms | None, cutoff_A: float) -> MDCell:
        """
        Look at a structure.

        Parameters
        ----------
        atoms
            Where MD starts or goes on; None, for a restart file alone, is taken for bulk in which all atoms move.
        cutoff_A
            Of the potential, in Angstrom.
        """
        if atoms is None:
            return cls()
        along = goes_on_along(atoms)
        evaporates = not along.all() and len(atoms) > 1 and not len(lone_atoms(atoms, cutoff_A))
        a, b, c = (bool(on) for on in along)
        one_piece = evaporates and not pieces(atoms, cutoff_A).any()
        return cls((a, b, c), tuple(int(i) for i in frozen_atoms(atoms)), evaporates, one_piece)

    def gone(self, atoms: Atoms, cutoff_A: float, break_up: bool = True) -> NDArray[np.intp]:
        """
        Return the indices of the atoms that left the structure MD began with.

        Parameters
        ----------
        atoms
            The present frame.
        cutoff_A
            Of the potential, in Angstrom.
        break_up
            Whether pieces of several atoms count, where it began as one piece.
        """
        if not self.evaporates:
            return np.empty(0, dtype=np.intp)
        return (
            np.flatnonzero(pieces(atoms, cutoff_A)) if self.is_one_piece and break_up else lone_atoms(atoms, cutoff_A)
        )

    @property
    def is_bulk(self) -> bool:
        """Whether there is no vacuum."""
        return all(self.goes_on)

    def barostat(self, kind: str, pressure_bar: float, damping_ps: float) -> str:
        """Return the words of LAMMPS' ``fix npt`` for the cell: axes along vacuum keep their length."""
        one = f"{pressure_bar:.15g} {pressure_bar:.15g} {damping_ps:.15g}"
        if self.is_bulk:
            return f"{ {'isotropic': 'iso', 'anisotropic': 'aniso', 'triclinic': 'tri'}[kind] } {one}"
        axes = [axis for axis, on in zip(_AXES, self.goes_on, strict=True) if on]
        words = [f"{axis} {one}" for axis in axes]
        if len(axes) == 2:
            if kind == "triclinic":
                words.append(f"{axes[0]}{axes[1]} {one}")
            words.append(f"couple {axes[0]}{axes[1]}" if kind == "isotropic" else "couple none")
        return " ".join(words)


def check_ensemble(atoms: Atoms, condition: Condition, settings: MDSettings) -> None:
    """
    Refuse a barostat where there is nothing that it could change rightly.

    Raises
    ------
    InvalidInputError
        For ``npt`` of a cluster, of frozen atoms, of a slab or wire under a pressure or whose vacuum is not
        perpendicular to it, or with a template that would strain the vacuum.
    """
    if settings.ensemble != "npt":
        return
    formula, along = atoms.get_chemical_formula(), goes_on_along(atoms)
    if len(frozen_atoms(atoms)):
        raise InvalidInputError.of(
            "MDSettings.ensemble",
            f"is 'npt', but {formula} has frozen atoms, which would move with the cell; take 'nvt'",
        )
    if along.all():
        return
    if not along.any():
        raise InvalidInputError.of(
            "MDSettings.ensemble",
            f"is 'npt', but {formula} is a cluster or molecule with vacuum all around; it has no "
            "volume a barostat could change: take 'nvt'",
        )
    if condition.pressure_GPa:
        raise InvalidInputError(
            f"pressure_GPa is {condition.pressure_GPa}, but {formula} has vacuum on its sides, so that its pressure "
            "depends on how much vacuum there is; take 0"
        )
    cell = atoms.cell.array / atoms.cell.lengths()[:, None]
    tilted = max(abs(cell[i] @ cell[j]) for i in np.flatnonzero(along) for j in np.flatnonzero(~along))
    plane = along.tolist() == [True, True, False]
    inside = max((abs(cell[i] @ cell[j]) for i in range(3) for j in range(i)), default=0.0)
    if tilted > 1e-3 or (not plane and inside > 1e-3):
        raise InvalidInputError.of(
            "MDSettings.ensemble",
            f"is 'npt', but the vacuum of {formula} is not perpendicular to its periodic "
            "directions; put the vacuum along the third cell vector, at right angles to the others, or take 'nvt'",
        )
    if settings.template is not None and "barostat_words" not in settings.template:
        raise InvalidInputError.of(
            "MDSettings.template",
            f"does not use the variable barostat_words, so that its barostat would strain the "
            f"vacuum of {formula}; write 'fix md {{{{ movers }}}} npt temp ... {{{{ barostat_words }}}}'",
        )
