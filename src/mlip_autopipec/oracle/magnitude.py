"""Whether the sizes of given energies and forces are those of matter: a wrong unit of both is in no ratio of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.near import near_pairs
from mlip_autopipec.oracle.units import ENERGIES, remedy
from mlip_autopipec.structures.distances import neighbours
from mlip_autopipec.structures.periodicity import goes_on_along
from mlip_autopipec.structures.provenance import Split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase import Atoms

#: Frames whose atoms moved by at most this (A) say how stiff a structure is; so many pairs are needed.
_AWAY_A, _FEWEST = 0.6, 4
#: Neighbours (A) that hold an atom, and how their springs grow weaker: with the distance over the sum of covalent
#: radii, and with the fourth power of the distance over that in silicon (A).
_NEIGHBOURS_A, _DECAY, _SILICON_A = 6.0, 4.0, 2.35
#: Stiffness over this estimate: 0.5 to 6 in crystals and slabs of Al, Cu, Pt, Au, Ar, Si, Ge, C, MgO, NaCl (EMT,
#: GFN1-xTB, DFT; 40 to 1500 K, rattled by 0.05 to 0.15 A), 0.14 and 0.35 in water and ethanol, which turn as well.
_SOFTEST, _SOFTEST_MOLECULE, _STIFFEST = 0.25, 0.03, 10.0
#: Cells of fewer atoms show single vibrations, not the mean of all.
_ENOUGH_ATOMS = 3
#: An atom has one bond where one neighbour is within so many sums of covalent radii, and no other within the second
#: (hot silicon has some in between); bonds that vary by less than this (root mean square, A), or are fewer, or whose
#: forces hardly follow, say nothing.
_BONDED, _APART, _STRETCHED_A, _FEWEST_BONDS, _FOLLOWS = 1.3, 1.6, 0.01, 8, 0.7
#: Force constants (eV/A^2) of such bonds between elements without metals are 10 (I-I) to 150 (N-N), of which 20
#: molecules (GFN1-xTB; MD at 300 K, rattled by 0.03 and 0.08 A) show 15 to 148; wider, for large stretches.
_STRETCH = (5.0, 250.0)
_NO_METALS = frozenset(map(int, (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 34, 35, 53)))
#: Energies per atom that hold matter together (eV) are below 9, and above 0.5 but for noble gases.
_TIGHTEST, _LOOSEST = 20.0, 0.3
_NOBLE = (2, 10, 18, 36, 54, 86)
#: Units that energies and forces may have together, by their size in eV.
_TOGETHER = {f"{unit} and {unit}/A ({remedy(size, 'both')})": size for unit, size in ENERGIES.items()}


def doubtful_magnitude(frames: Sequence[Atoms]) -> list[str]:
    """
    Say whether labels are much stiffer or softer, or bound more or less, than matter is.

    Parameters
    ----------
    frames
        Labels with energy (eV) and forces (eV/A).

    Raises
    ------
    InvalidInputError
        Atoms are bound by more than 20 eV, beyond anything there is: lone atoms and frames are of two scales.
    """
    return [*(_stretch(frames) or _stiffness(frames)), *_binding(frames)]


def _stretch(frames: Sequence[Atoms]) -> list[str]:
    """
    Compare how forces along bonds change with the length of the bonds with the force constants that bonds have.

    Only atoms with one bond are looked at: no other bond adds to their force along it, and turning changes nothing.
    """
    bonds: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for atoms in frames:
        for kind, *bond in _single_bonds(atoms):
            bonds.setdefault(kind, []).append((bond[0], bond[1]))
    for (one, other), found in bonds.items():
        length, along = np.array(found).T
        length, along = length - length.mean(), along - along.mean()
        if len(found) < _FEWEST_BONDS or (spread := float(np.sqrt((length**2).mean()))) < _STRETCHED_A:
            continue
        constant = -float((length * along).mean()) / spread**2
        follows = constant * spread / float(np.sqrt((along**2).mean()) or 1.0)
        least, most = _STRETCH
        if follows < _FOLLOWS or least <= constant <= most:
            continue
        guesses = [unit for unit, size in _TOGETHER.items() if least <= constant * size <= most]
        name = f"{chemical_symbols[one]}-{chemical_symbols[other]}"
        told = (
            f"labels: the forces along {len(found)} bonds {name} change by {constant:.3g} eV/A for each A, and such "
            f"bonds have some {least:g} to {most:g}. Are energies and forces in eV and eV/A? They look like "
            f"{' or '.join(guesses) or 'another unit'}; the comparison with the oracle decides"
        )
        return [told]
    return []


def _single_bonds(atoms: Atoms) -> Iterator[tuple[tuple[int, int], float, float]]:
    """Yield elements, length (A), and outward force (eV/A) of each atom that has one bond, metals left out."""
    radii, numbers, forces = covalent_radii[atoms.numbers], atoms.numbers, atoms.calc.results["forces"]
    if not set(map(int, numbers)) & _NO_METALS or len(atoms) < 2:
        return
    i, j, distance, vector = neighbours("ijdD", atoms, _APART * 2 * float(radii.max()))
    relative = distance / (radii[i] + radii[j])
    for atom in np.flatnonzero(np.bincount(i[relative < _APART], minlength=len(atoms)) == 1):
        (place,) = np.flatnonzero((i == atom) & (relative < _APART))
        kind = int(numbers[atom]), int(numbers[j[place]])
        if set(kind) <= _NO_METALS and relative[place] < _BONDED:
            yield kind, float(distance[place]), float(-forces[atom] @ vector[place] / distance[place])


def _stiffness(frames: Sequence[Atoms]) -> list[str]:
    """Compare how forces change with displacements with what neighbours at such distances do."""
    found = []
    for i, j, moved in near_pairs(frames, _AWAY_A):
        one, two = frames[i], frames[j]
        if len(one) < _ENOUGH_ATOMS or (expected := _expected(one)) == 0:
            continue
        relative = moved - moved.mean(axis=0)
        changed = two.calc.results["forces"] - one.calc.results["forces"]
        shortest = float(np.linalg.norm(relative))
        if shortest > 0:
            found.append((float(np.linalg.norm(changed)) / shortest, expected, bool(goes_on_along(one).any())))
    if len(found) < _FEWEST:
        return []
    stiffness, expected = (float(np.median([one[k] for one in found])) for k in (0, 1))
    softest = _SOFTEST if all(one[2] for one in found) else _SOFTEST_MOLECULE
    ratio = stiffness / expected
    if softest <= ratio <= _STIFFEST:
        return []
    word = "stiffer" if ratio > 1 else "softer"
    guesses = [unit for unit, size in _TOGETHER.items() if softest <= ratio * size <= _STIFFEST / 2]
    told = (
        f"labels: between {len(found)} pairs of near frames the forces change by {stiffness:.3g} eV/A for each A that "
        f"atoms move, and neighbours at these distances make some {expected:.2g}: {word} than matter is. Are energies "
        f"and forces in eV and eV/A? They look like {' or '.join(guesses) or 'another unit'}; the comparison with the "
        "oracle decides"
    )
    return [told]


def _expected(atoms: Atoms) -> float:
    """Return a rough stiffness in eV/A^2 of the atoms' surroundings."""
    radii = covalent_radii[atoms.numbers]
    i, j, distance = neighbours("ijd", atoms, _NEIGHBOURS_A)
    bond = np.exp(-_DECAY * (distance / (radii[i] + radii[j]) - 1)) * (_SILICON_A / distance) ** 4
    return float(bond.sum() / len(atoms))


def _binding(frames: Sequence[Atoms]) -> list[str]:
    """Compare the energies of frames with those of the lone atoms among the labels."""
    alone = {
        str(atoms.symbols[0]): float(atoms.calc.results["energy"])
        for atoms in frames
        if atoms.info.get("split") == Split.REFERENCE
    }
    bound = [
        (sum(alone[symbol] for symbol in atoms.symbols) - float(atoms.calc.results["energy"])) / len(atoms)
        for atoms in frames
        if len(atoms) > 1 and set(atoms.symbols) <= set(alone) and not np.isin(atoms.numbers, _NOBLE).any()
    ]
    if not bound:
        return []
    most = max(bound)
    if most > _TIGHTEST:
        raise InvalidInputError(
            f"labels: atoms are bound by up to {most:.3g} eV each, as the energies of the lone atoms among the labels "
            "have it, and nothing is by more than 9: are these of the same code and settings, and all in eV? Mend "
            "them, or take the lone atoms out"
        )
    if most < _LOOSEST:
        told = (
            f"labels: atoms are bound by {most:.3g} eV each at most, as the energies of the lone atoms among the "
            "labels have it; solids and molecules are by 1 to 9. Are all energies in eV, and of the same settings?"
        )
        return [told]
    return []
