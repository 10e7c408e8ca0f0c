"""Which labels are usual ones: no dimers beside a material, none far above the most stable ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.structures.dimers import is_dimer
from mlip_autopipec.structures.periodicity import Shape, shape_of
from mlip_autopipec.structures.provenance import Origin, Provenance
from mlip_autopipec.training.excitation import energies_above_hull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: Two atoms that are bound by so much less than the rest of the labels, eV/atom, are far from the material: copper 2.3,
#: sodium 0.4, N2 beside a nitride 0. Molecules that the material is made of, or that adsorb on it, are asked for.
_UNBOUND_EV_ATOM = 0.3
#: Labels farther above the most stable ones than this, eV/atom, say nothing of the others.
FAR_EV_ATOM = 2.0


def dimers_among(labels: Sequence[Atoms]) -> NDArray[np.bool_]:
    """
    Return which labels are dimers for short distances, beside what is asked for, (n_labels,).

    Dimers made here are, and two atoms of the user's own data in vacuum where none of their composition is as stable
    as the rest of the labels, or nearly, and most atoms are in the rest. Where the system is a dimer or a molecule, or
    MD was made of one, none is.

    Parameters
    ----------
    labels
        Structures with energies (eV) in attached calculators.
    """
    made = np.array([is_dimer(atoms) for atoms in labels], dtype=bool)
    pairs = np.array([_is_pair(atoms) for atoms in labels], dtype=bool) & ~made
    rest = ~made & ~pairs & np.array([len(atoms) > 1 for atoms in labels], dtype=bool)
    others = [labels[i] for i in np.flatnonzero(rest)]
    if not pairs.any() or sum(map(len, others)) <= 2 * pairs.sum():
        return made
    known = {symbol for atoms in others for symbol in atoms.get_chemical_symbols()}
    names = np.array([str(atoms.symbols.formula.convert("hill")) for atoms in labels])
    for name in sorted(set(names[pairs])):
        ours = np.flatnonzero(pairs & (names == name))
        given = all(Provenance.of(labels[i]).origin == Origin.GIVEN for i in ours)
        lowest = min(ours, key=lambda i: labels[i].get_potential_energy())
        if not given or not set(labels[lowest].get_chemical_symbols()) <= known:
            continue
        if energies_above_hull([*others, labels[lowest]])[-1] > _UNBOUND_EV_ATOM:
            made[ours] = True
    return made


def usual_labels(labels: Sequence[Atoms], far_eV_atom: float = FAR_EV_ATOM) -> NDArray[np.bool_]:
    """
    Return the labels that say something of the material, (n_labels,): no atoms, no dimers, none far above the others.

    Parameters
    ----------
    labels
        Structures with energies (eV) in attached calculators.
    far_eV_atom
        Above the most stable ones.
    """
    usual = ~dimers_among(labels) & np.array([len(atoms) > 1 for atoms in labels], dtype=bool)
    places = np.flatnonzero(usual)
    usual[places] = energies_above_hull([labels[i] for i in places]) <= far_eV_atom
    return usual


def _is_pair(atoms: Atoms) -> bool:
    return len(atoms) == 2 and shape_of(atoms) is Shape.CLUSTER
