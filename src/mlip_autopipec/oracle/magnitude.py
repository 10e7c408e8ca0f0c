"""Whether the sizes of given energies and forces are those of matter: a wrong unit of both is in no ratio of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase import units
from ase.data import covalent_radii

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.work import near_pairs
from mlip_autopipec.structures.distances import neighbours
from mlip_autopipec.structures.periodicity import goes_on_along
from mlip_autopipec.structures.provenance import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

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
#: Energies per atom that hold matter together (eV) are below 9, and above 0.5 but for noble gases.
_TIGHTEST, _LOOSEST = 20.0, 0.3
_NOBLE = (2, 10, 18, 36, 54, 86)
#: Units that energies and forces may have together, by their size in eV.
_TOGETHER = {
    "kcal/mol and kcal/mol/A (divide both by 23.061)": units.kcal / units.mol,
    "kJ/mol and kJ/mol/A (divide both by 96.485)": units.kJ / units.mol,
    "meV and meV/A (divide both by 1000)": 1e-3,
    "Hartree and Hartree/A (multiply both by 27.211)": units.Hartree,
    "Ry and Ry/A (multiply both by 13.606)": units.Ry,
}


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
    return [*_stiffness(frames), *_binding(frames)]


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
