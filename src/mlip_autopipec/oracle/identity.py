"""When two calculations are the same: a key of what is computed and how."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from mlip_autopipec.structures.electrons import charge_of, moments_of, multiplicity_of, take_over

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlip_autopipec.oracle.record import OracleRecord

#: Part of every key: labels that were read off otherwise than now are not found.
_VERSION = 1
#: Steps along a cell vector, and of a length in Angstrom: 1e-6 A for a cell of 10 A.
_GRID, _LENGTH_A = 10_000_000, 1e-6
#: Round numbers such as 1/2 or 1/128 lie far from where rounding changes.
_OFFSET = 0.381966


def label_key(atoms: Atoms, asked: OracleRecord) -> str:
    """
    Return a key that two labels share if one calculation serves both.

    Parameters
    ----------
    atoms
        The structure.
    asked
        What would be asked of the oracle.

    Returns
    -------
    str
        64 hexadecimal digits. The key does not depend on the order of the atoms, on the periodic images they are
        given as, or on the orientation of cell and atoms in space. It does depend on the choice of the cell and of the
        origin: neither is the same grid in a calculation.
    """
    record = asdict(asked)
    for name in ("sha256", "version"):  # the one leaves out the potentials, the other is known afterwards
        del record[name]
    essence = {"version": _VERSION, "oracle": record, "structure": canonical_form(atoms)}
    return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()


def former_keys(atoms: Atoms, asked: OracleRecord) -> list[str]:
    """
    Return the keys that earlier versions gave the same calculation.

    Version 0.1.0 knew the files that an oracle reads by their names alone: VASP's POTCARs as such, those of others as
    settings.
    """
    if not asked.potentials:
        return []
    if asked.code == "VASP":
        names = {element: potcar.split()[0] for element, potcar in asked.potentials.items()}
        return [] if names == asked.potentials else [label_key(atoms, replace(asked, potentials=names))]
    return [label_key(atoms, replace(asked, potentials={}))]


def bare(atoms: Atoms) -> Atoms:
    """
    Return what an oracle is given of a structure.

    Elements, positions, cell and periodicity; charge, spin multiplicity and initial magnetic moments where it has them.
    """
    return take_over(atoms, Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))


def canonical_form(atoms: Atoms) -> dict[str, Any]:
    """
    Return cell and atoms as integers in one form, out of all that describe the same structure.

    The cell is turned into lower triangular form, positions are wrapped along periodic directions, and atoms are
    sorted by element and position. Cells that do not span space stay as they are. Charge, multiplicity and moments are
    there only where a structure has them, so that the keys of all others stay what they were.
    """
    if atoms.cell.rank == 3:
        cell, _ = atoms.cell.standard_form()
        steps = _whole(atoms.cell.scaled_positions(atoms.positions) * _GRID)
        steps[:, atoms.pbc] %= _GRID
    else:
        cell, steps = atoms.cell, _whole(atoms.positions / _LENGTH_A)
    order = np.lexsort((steps[:, 2], steps[:, 1], steps[:, 0], atoms.numbers))
    form: dict[str, Any] = {
        "cell": _whole(np.asarray(cell) / _LENGTH_A).tolist(),
        "pbc": [bool(p) for p in atoms.pbc],
        "numbers": atoms.numbers[order].tolist(),
        "positions": steps[order].tolist(),
    }
    if charge := charge_of(atoms):
        form["charge"] = charge
    if (multiplicity := multiplicity_of(atoms)) is not None:
        form["multiplicity"] = multiplicity
    if (moments := moments_of(atoms)) is not None:
        form["moments"] = [round(float(moment), 2) for moment in moments[order]]
    return form


def _whole(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.floor(values + _OFFSET).astype(np.int64)
