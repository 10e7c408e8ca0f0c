"""Which crystal a structure is: its primitive cell and symmetry, and calculations seen in its frame."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase.build import make_supercell
from ase.calculators.calculator import PropertyNotImplementedError
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from scipy.spatial import cKDTree

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.oracle.identity import bare, canonical_form
from mlip_autopipec.structures.intake import raw_forces
from mlip_autopipec.structures.periodicity import VACUUM_A, goes_on_along
from mlip_autopipec.structures.supercells import cell_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    Floats = NDArray[np.float64]

#: More atoms than this without any symmetry are a glass, a liquid or a frame of MD.
MOST_WITHOUT_SYMMETRY = 20
#: A primitive cell was idealised, so its symmetry is exact to this (Angstrom).
_EXACT = 1e-4
#: Translations are judged by so many atoms.
_JUDGES = 8
#: What was computed is what was asked for if no atom is farther away than this (Angstrom).
_SAME = 5e-4


class PropertyError(MLIPError):
    """
    A property that a structure does not have, or that its calculations do not tell.

    Parameters
    ----------
    message
        What is wrong.
    remedy
        What to do where the calculations are the oracle's; of a potential's, nothing can be asked but training.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(message)


@dataclass(frozen=True, eq=False)
class Crystal:
    """
    A crystal in the orientation of its standard conventional cell.

    Parameters
    ----------
    name
        Formula, space group and a fingerprint of the primitive cell, e.g. ``MgO Fm-3m 1f3a9c``.
    primitive, conventional
        Standard cells (spglib's), idealised, in one orientation: a along x, b in the plane of x and y.
    rotations
        Rotations of the space group in Cartesian axes, (n, 3, 3).
    permutations
        Operation k takes atom i of the primitive cell onto atom ``permutations[k, i]``, (n, n_atoms).
    """

    name: str
    primitive: Atoms
    conventional: Atoms
    rotations: Floats
    permutations: NDArray[np.int_]

    @property
    def conventional_matrix(self) -> NDArray[np.int_]:
        """Rows are the vectors of the conventional cell in those of the primitive cell, (3, 3)."""
        return np.round(self.conventional.cell.array @ np.linalg.inv(self.primitive.cell.array)).astype(int)


class Result(NamedTuple):
    """Energy in eV, forces in eV/A, (n_atoms, 3), stress in eV/A^3 with ASE's sign, (3, 3), or None."""

    energy: float
    forces: Floats
    stress: Floats | None


def find_crystal(atoms: Atoms, max_atoms: int, symprec: float) -> Crystal:
    """
    Bring a structure down to the crystal it is.

    Parameters
    ----------
    atoms
        Any structure; a supercell becomes its primitive cell.
    max_atoms
        Largest primitive cell.
    symprec
        Deviation from symmetry in Angstrom that is idealised away.

    Raises
    ------
    PropertyError
        For what is no crystal: molecules, surfaces, glasses, frames of MD, and for too large primitive cells.
    """
    formula = atoms.get_chemical_formula()
    if len(atoms) == 0 or not atoms.pbc.all() or atoms.cell.rank < 3:
        n = int(atoms.pbc.sum())
        raise PropertyError(f"{formula or 'an empty structure'} is periodic in {n} directions; a crystal is in three")
    too_large = f"{formula} has no primitive cell of at most {max_atoms} atoms"
    if not _may_repeat(atoms, max_atoms, symprec):
        raise PropertyError(too_large)
    symmetry = _symmetry(bare(atoms), symprec)
    try:
        primitive = _to_atoms(symmetry.find_primitive())
    except ValueError as error:
        raise PropertyError(f"no primitive cell of {formula} was found: {error}") from error
    if not goes_on_along(primitive).all():
        raise PropertyError(
            f"{formula} holds a layer of at least {VACUUM_A:g} A without atoms; a surface, wire, molecule or lone atom "
            "has no bulk volume"
        )
    if len(primitive) > max_atoms:
        raise PropertyError(too_large)
    if symmetry.get_space_group_number() == 1 and len(primitive) > MOST_WITHOUT_SYMMETRY and not _on_lattice(primitive):
        raise PropertyError(
            f"{formula} has no symmetry and its {len(primitive)} atoms are on no lattice; it is a glass, a liquid or a "
            "frame of MD. Give the ideal crystal among the structures if there is one"
        )
    exact = _symmetry(primitive, _EXACT)
    conventional = _to_atoms(exact.get_refined_structure())
    cells = conventional.cell.array @ np.linalg.inv(primitive.cell.array)
    if np.abs(cells - np.round(cells)).max() > _EXACT:
        conventional = primitive.copy()  # the idealised cell alone is of another setting
    rotations = np.array([op.rotation_matrix for op in exact.get_symmetry_operations(cartesian=True)])
    digest = hashlib.sha256(json.dumps(canonical_form(primitive)).encode()).hexdigest()
    return Crystal(
        f"{primitive.symbols.formula.reduce()[0]} {symmetry.get_space_group_symbol()} {digest[:6]}",
        primitive,
        conventional,
        rotations,
        _permutations(primitive, exact),
    )


def repetition(crystal: Crystal, min_width: float) -> NDArray[np.int_]:
    """
    Choose how the primitive cell is repeated to be at least ``min_width`` Angstrom wide.

    Returns
    -------
    numpy.ndarray
        Rows are the vectors of the repeated cell in those of the primitive cell, (3, 3): the identity, or that of the
        conventional cell repeated along its vectors, which keeps the symmetry.
    """
    if cell_width(crystal.primitive.cell.array) >= min_width:
        return np.eye(3, dtype=int)
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.conventional.cell.array), axis=0)
    return np.diag(np.ceil(min_width / heights - 1e-6).astype(int)) @ crystal.conventional_matrix


def repeat(atoms: Atoms, matrix: NDArray[np.int_]) -> Atoms:
    """Repeat a primitive cell, strained or displaced as it may be."""
    return make_supercell(atoms, matrix) if (matrix != np.eye(3)).any() else atoms


def fold(result: Result, n_atoms: int) -> Result:
    """Return the result of the primitive cell of ``n_atoms`` atoms from that of the repeated one."""
    # make_supercell lists one primitive cell after the other
    forces = result.forces.reshape(-1, n_atoms, 3)
    return Result(result.energy / len(forces), forces.mean(axis=0), result.stress)


def evaluate(structures: Sequence[Atoms], calculator: Calculator) -> list[Result]:
    """Compute structures with an ASE calculator; a calculator without stress gives None for it."""
    results = []
    for atoms in structures:
        work = bare(atoms)
        work.calc = calculator
        try:
            stress = np.asarray(work.get_stress(voigt=False), dtype=float)
        except (PropertyNotImplementedError, NotImplementedError):
            stress = None
        results.append(Result(float(work.get_potential_energy()), raw_forces(work), stress))
    return results


def find_result(planned: Atoms, labelled: Sequence[Atoms]) -> Result | None:
    """
    Find the label of a structure, and return it in the order and orientation of that structure.

    One label serves all requests for the same calculation, in any orientation and order of the atoms
    (:func:`~mlip_autopipec.oracle.identity.label_key`), and some codes sort the atoms.

    Parameters
    ----------
    planned
        The structure that was asked for.
    labelled
        Structures with energy and forces, if possible stress, in an attached calculator.

    Returns
    -------
    Result or None
        None if none of them is of this structure.
    """
    for label in labelled:
        if label.calc is None or sorted(label.numbers) != sorted(planned.numbers):
            continue
        rotation = np.linalg.solve(label.cell.array, planned.cell.array) if label.cell.rank == 3 else np.zeros((3, 3))
        if np.abs((rotation @ rotation.T - np.eye(3)) @ planned.cell.array.T).max() > _SAME:
            continue
        order = _same_sites(planned, label)
        if order is None:
            continue
        stress = label.calc.results.get("stress")
        if stress is not None:
            stress = rotation.T @ label.get_stress(voigt=False) @ rotation
        forces = np.asarray(label.calc.results["forces"], dtype=float)[order] @ rotation
        return Result(float(label.calc.results["energy"]), forces, stress)
    return None


def _same_sites(planned: Atoms, label: Atoms) -> NDArray[np.int_] | None:
    """For each atom of ``planned`` the one of ``label`` on its site; None if one is missing."""
    away = planned.get_scaled_positions()[:, None] - label.get_scaled_positions()[None]
    distances = np.linalg.norm((away - np.round(away)) @ planned.cell.array, axis=-1)
    distances[planned.numbers[:, None] != label.numbers[None]] = np.inf
    order = distances.argmin(axis=1)
    if distances.min(axis=1).max() > _SAME or len(set(order.tolist())) < len(order):
        return None
    return order


def _may_repeat(atoms: Atoms, max_atoms: int, symprec: float) -> bool:
    """
    Rule out primitive cells of at most ``max_atoms`` atoms by looking where translations take a few atoms.

    The search for symmetry takes a minute where there is none in some thousand atoms.
    """
    scaled, numbers = atoms.get_scaled_positions() % 1.0, atoms.numbers
    kinds, counts = np.unique(numbers, return_counts=True)
    of_rarest = scaled[numbers == kinds[np.argmin(counts)]]
    translations = of_rarest - of_rarest[0]
    reach = 3 * symprec / np.linalg.svd(atoms.cell.array, compute_uv=False).min()
    tree = cKDTree(scaled, boxsize=1.0)
    possible = np.ones(len(translations), dtype=bool)
    for k in np.linspace(0, len(atoms) - 1, _JUDGES).astype(int):
        distances, partners = tree.query((scaled[k] + translations) % 1.0, distance_upper_bound=reach)
        hit = np.isfinite(distances)
        hit[hit] = numbers[partners[hit]] == numbers[k]
        possible &= hit
    return int(possible.sum()) * max_atoms >= len(atoms)


def _symmetry(atoms: Atoms, symprec: float) -> SpacegroupAnalyzer:
    try:
        return SpacegroupAnalyzer(AseAtomsAdaptor.get_structure(atoms), symprec=symprec, angle_tolerance=-1)
    except (ValueError, TypeError) as error:
        raise PropertyError(f"no space group of {atoms.get_chemical_formula()} was found: {error}") from error


def _to_atoms(structure: Structure) -> Atoms:
    return bare(AseAtomsAdaptor.get_atoms(structure, msonable=False))


def _on_lattice(atoms: Atoms) -> bool:
    """Tell whether the sites, elements aside, repeat: an alloy without order is a crystal."""
    alike = bare(atoms)
    alike.numbers = np.full(len(atoms), 1)
    return len(_symmetry(alike, 0.1).find_primitive()) < len(atoms)


def _permutations(primitive: Atoms, symmetry: SpacegroupAnalyzer) -> NDArray[np.int_]:
    scaled, numbers = primitive.get_scaled_positions(), primitive.numbers
    found = []
    for operation in symmetry.get_symmetry_operations():
        away = operation.operate_multi(scaled)[:, None] - scaled[None]
        distances = np.linalg.norm((away - np.round(away)) @ primitive.cell.array, axis=-1)
        distances[numbers[:, None] != numbers[None]] = np.inf
        found.append(distances.argmin(axis=1))
    return np.array(found)
