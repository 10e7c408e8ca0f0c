"""Whether energies and forces of given labels belong together: the energy rises by the work of the forces."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import units
from ase.data import covalent_radii

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.structures.distances import neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase import Atoms
    from numpy.typing import NDArray


class _Range(NamedTuple):
    """
    How far apart two frames may be, and which energy over work is then right.

    Parameters
    ----------
    away_A
        Largest distance of an atom from where it is in the other frame, in Angstrom.
    fewest
        Pairs of frames that make a finding.
    correlation
        That these have to have.
    least, most
        Energy over work where all is well: the forces change on the way, so that it is below 1 for large distances.
    """

    away_A: float
    fewest: int
    correlation: float
    least: float
    most: float


#: The first range that has its pairs decides. Of copper at random displacements the least and largest are 0.64 and 1.26
#: (bulk and surface, 0.05 to 0.1 A) in the first, 0.33 and 1.16 (0.15 A) in the second.
_RANGES = (_Range(0.35, 6, 0.95, 0.58, 1.6), _Range(0.6, 6, 0.95, 0.28, 3.0))
#: A frame is compared with so many after it.
_NEXT = 8
#: Energies that rise by less than this share of the work do not change at all; such work (eV) is none.
_CONSTANT, _NO_WORK = 0.01, 1e-3
#: Neighbours within so many sums of covalent radii push an atom; a sum of their directions above this is no symmetry.
_BONDED, _ONE_SIDED = 1.5, 0.02
#: Energy over work of the forces between near frames, by what the units then are.
_UNITS = {
    "the forces look like Ry/bohr; multiply them by 25.711": units.Ry / units.Bohr,
    "the forces look like Hartree/bohr; multiply them by 51.422": units.Hartree / units.Bohr,
    "the forces look like eV/bohr, or energies and forces like atomic units (Hartree, Hartree/bohr)": 1 / units.Bohr,
    "the forces look like kcal/mol/A; divide them by 23.061": units.kcal / units.mol,
    "the forces look like kJ/mol/A; divide them by 96.485": units.kJ / units.mol,
    "the energies look like Hartree; multiply them by 27.211": 1 / units.Hartree,
    "the energies look like Ry; multiply them by 13.606": 1 / units.Ry,
    "the energies look like kcal/mol; divide them by 23.061": units.mol / units.kcal,
    "the positions look like bohr; multiply positions and cells by 0.52918": units.Bohr,
    "the forces look like gradients; turn their sign": -1.0,
}
#: Factor by which a guess may miss, since forces change on the way from frame to frame.
_NEAR_GUESS = 1.6


class Work(NamedTuple):
    """
    Energy differences of near frames beside the work of their forces.

    Parameters
    ----------
    slope, correlation
        Of the energy over the work.
    n_pairs
        Number of pairs of frames.
    energy_eV, work_eV
        Root mean squares.
    """

    slope: float
    correlation: float
    n_pairs: int
    energy_eV: float
    work_eV: float


def energy_over_work(frames: Sequence[Atoms], away_A: float) -> Work | None:
    """
    Compare energy differences of near frames with the work of their forces: they are equal, whatever the potential.

    Parameters
    ----------
    frames
        Labels. Compared are those of the same cell and atoms.
    away_A
        Largest distance of an atom from where it is in the other frame, in Angstrom.

    Returns
    -------
    Work or None
        None where there is no pair.
    """
    rises, works = [], []
    for i, one in enumerate(frames):
        for two in frames[i + 1 : i + 1 + _NEXT]:
            if (moved := _displacements(one, two, away_A)) is None:
                continue
            mean = (one.calc.results["forces"] + two.calc.results["forces"]) / 2
            rises.append(two.calc.results["energy"] - one.calc.results["energy"])
            works.append(-float((mean * moved).sum()))
    if not rises:
        return None
    rise, work = np.array(rises), np.array(works)
    energy_eV, work_eV = (float(np.sqrt((values**2).mean())) for values in (rise, work))
    product = float((rise * work).mean())
    # the slope that treats both alike, since either may have an error
    slope = float(np.sign(product) * energy_eV / work_eV) if work_eV else 0.0
    correlation = product / (energy_eV * work_eV) if energy_eV and work_eV else 0.0
    return Work(slope, correlation, len(rise), energy_eV, work_eV)


def _displacements(one: Atoms, two: Atoms, away_A: float) -> NDArray[np.float64] | None:
    if len(one) != len(two) or (one.numbers != two.numbers).any() or (one.pbc != two.pbc).any():
        return None
    if not np.allclose(one.cell.array, two.cell.array, atol=1e-3):
        return None
    moved = np.asarray(two.positions - one.positions)
    if one.cell.rank == 3 and one.pbc.any():
        scaled = one.cell.scaled_positions(moved)
        scaled -= np.where(one.pbc, np.round(scaled), 0.0)
        moved = scaled @ one.cell.array
    return moved if 1e-4 < np.abs(moved).max() <= away_A else None


def refuse_units(frames: Sequence[Atoms], first: str) -> None:
    """
    Refuse labels whose energies do not rise by the work of their forces.

    Parameters
    ----------
    frames
        Labels with energy (eV) and forces (eV/A).
    first
        How the message names the first of them.

    Raises
    ------
    InvalidInputError
        Gives the factor, and the units that explain it.
    """
    for near in _RANGES:
        found = energy_over_work(frames, near.away_A)
        if found is None or found.n_pairs < near.fewest:
            continue
        if found.work_eV > _NO_WORK and found.energy_eV < _CONSTANT * found.work_eV and abs(found.correlation) < 0.9:
            raise InvalidInputError(
                f"labels (from {first} on): between {found.n_pairs} pairs of near frames the energy changes by "
                f"{found.energy_eV:.2g} eV (root mean square), and the work of the forces is {found.work_eV:.2g} eV; "
                "give the energy of each frame"
            )
        if abs(found.correlation) >= near.correlation and not near.least < found.slope < near.most:
            _refuse_slope(frames, first, found)
        return


def _refuse_slope(frames: Sequence[Atoms], first: str, found: Work) -> None:
    known = dict(_UNITS)
    if len(sizes := {len(atoms) for atoms in frames}) == 1 and (n := sizes.pop()) > 1:
        known[f"the energies look like eV per atom; multiply them by {n}"] = 1 / n
    near = sorted(
        (abs(np.log(found.slope / factor)), guess) for guess, factor in known.items() if found.slope * factor > 0
    )
    guesses = [guess for distance, guess in near if distance < np.log(_NEAR_GUESS)]
    raise InvalidInputError(
        f"labels (from {first} on): energies and forces do not belong together. Between {found.n_pairs} pairs of near "
        f"frames the energy changes {found.slope:.3g} times as much as the work of the forces (correlation "
        f"{found.correlation:.2f}): "
        + ("; or ".join(guesses) or "another unit, or forces of another calculation")
        + ". Energies in eV, forces in eV/A and positions in A are read"
    )


def forces_set_to_zero(frames: Sequence[Atoms], names: Sequence[str]) -> Iterator[str]:
    """
    Name the labels with atoms whose force is exactly zero although no symmetry makes it so.

    A constraint has taken these forces off, or none were computed.

    Parameters
    ----------
    frames
        Labels with forces (eV/A).
    names
        How messages name each.
    """
    for atoms, name in zip(frames, names, strict=True):
        zero = ~atoms.calc.results["forces"].any(axis=1)
        if zero.sum() < 2 or not (zero & _is_pushed(atoms)).any():
            continue
        where = np.flatnonzero(zero)
        listed = ", ".join(map(str, where[:5])) + (" ..." if len(where) > 5 else "")
        which = "all atoms" if zero.all() else f"atoms {listed} ({len(where)} of {len(atoms)})"
        yield (
            f"{name} has forces of exactly zero on {which}, which no symmetry explains: they were not computed, or a "
            "constraint has taken them off. Write raw forces (in ASE: get_forces(apply_constraint=False))"
        )


def _is_pushed(atoms: Atoms) -> NDArray[np.bool_]:
    """Return which atoms have neighbours that do not lie around them symmetrically, (n_atoms,)."""
    radii = covalent_radii[atoms.numbers]
    i, j, distance, vector = neighbours("ijdD", atoms, _BONDED * 2 * float(radii.max()))
    nearness = np.clip(1 - distance / (_BONDED * (radii[i] + radii[j])), 0, None)
    pushes = np.zeros((len(atoms), 3))
    np.add.at(pushes, i, (nearness / np.maximum(distance, 1e-6))[:, None] * vector)
    return np.asarray(np.linalg.norm(pushes, axis=1) > _ONE_SIDED)
