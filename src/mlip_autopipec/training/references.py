"""Energies of the elements that are taken off labels: fitted to them, or what a potential lacks of theirs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.potential import reference_energy
from mlip_autopipec.structures.dimers import is_dimer
from mlip_autopipec.structures.distances import neighbours
from mlip_autopipec.training.accuracy import evaluate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

logger = logging.getLogger(__name__)

#: Where the basis has no cutoff yet, an atom whose nearest image is further away (A) is free, and atoms that are all
#: further apart than the second are.
_ALONE_A, _APART_A = 6.0, 8.0
#: Most atoms have a neighbour within this (A).
_NEAR_A = 3.5
#: Energies of free atoms that differ by more than this, eV, contradict each other.
_SAME_EV = 0.01
#: Reference energies that leave a potential farther than this from its labels, eV/atom, are not its own.
_FAR_EV_ATOM = 0.5


class FreeAtoms(NamedTuple):
    """
    Labels in which no atom has a neighbour: an ACE gives them the reference energies, and can learn nothing of them.

    Parameters
    ----------
    alone
        Which labels these are, (n_labels,).
    energies
        Of single atoms, eV, by element.
    cutoff
        Within which there is no neighbour, A, of labels of several atoms.
    """

    alone: NDArray[np.bool_]
    energies: dict[str, float]
    cutoff: float

    @classmethod
    def among(cls, labels: Sequence[Atoms], cutoff: float | None = None) -> FreeAtoms:
        """
        Find free atoms among labels.

        Parameters
        ----------
        labels
            With energies in eV.
        cutoff
            Of the basis, A; None where it is not known yet.

        Raises
        ------
        InvalidInputError
            If two single atoms of one element have different energies.
        """
        apart = cutoff or _APART_A
        reach = [apart if len(atoms) > 1 else cutoff or _ALONE_A for atoms in labels]
        # dimers made here may be longer than the cutoff, and count next to nothing as it is
        given = [not is_dimer(atoms) for atoms in labels]
        alone = np.array(
            [own and _has_none(atoms, within) for own, atoms, within in zip(given, labels, reach, strict=True)],
            dtype=bool,
        )
        energies: dict[str, float] = {}
        for i in np.flatnonzero(alone):
            if len(labels[i]) == 1:
                symbol, energy = labels[i].symbols[0], float(labels[i].get_potential_energy())
                if abs(energies.setdefault(symbol, energy) - energy) > _SAME_EV:
                    raise InvalidInputError(
                        f"label {i} is a free {symbol} atom of {energy:.4f} eV, and another label is one of "
                        f"{energies[symbol]:.4f} eV; keep the one of the ground state"
                    )
        return cls(alone, energies, apart)

    def refuse_others(self, given: Mapping[str, float] | None, where: str) -> None:
        """Refuse reference energies that are not those of the free atoms; ``where`` names their setting."""
        for symbol, energy in self.energies.items():
            if given and abs(given.get(symbol, 0.0) - energy) > _SAME_EV:
                raise InvalidInputError.of(
                    f"{where}.reference_energies",
                    f"of {symbol} is {given.get(symbol, 0.0):.4f} eV, and a free {symbol} atom among the labels has "
                    f"{energy:.4f} eV. A free atom has its reference energy: give that, or take the atom out",
                )

    def warn_of_others(self, labels: Sequence[Atoms], taken: Mapping[str, float]) -> None:
        """Warn of free atoms whose energies are not the reference energies: the potential is wrong about them."""
        told = []
        for i in np.flatnonzero(self.alone):
            off = (labels[i].get_potential_energy() - reference_energy(labels[i], taken)) / len(labels[i])
            if abs(off) > _SAME_EV:
                told.append(f"label {i} ({labels[i].get_chemical_formula()}, {off:+.3g} eV/atom)")
        if told:
            logger.warning(
                "%d label(s) are left out of the fit: no atom has a neighbour within the cutoff, and the reference "
                "energies %s are not theirs: %s. Give a free atom of each element, or reference_energies",
                len(told),
                {symbol: round(energy, 4) for symbol, energy in taken.items()},
                ", ".join(told[:3]) + (" ..." if len(told) > 3 else ""),
            )


def _has_none(atoms: Atoms, within_A: float) -> bool:
    # most have near ones, which are found fast
    return not any(len(neighbours("i", atoms, within)) for within in (min(_NEAR_A, within_A), within_A))


def references_of(
    own: Mapping[str, float] | None,
    free: FreeAtoms,
    elements: Sequence[str],
    ordinary: Sequence[Atoms],
    start: ACEPotential | None,
    *,
    continues: bool,
) -> dict[str, float]:
    """
    Return the energy of each element, eV, that is taken off the labels.

    Parameters
    ----------
    own
        What the trainer was given.
    free
        Free atoms among the labels. Those of all elements are taken where the trainer was given none.
    elements
        Of the potential.
    ordinary
        Labels that are no dimers and no free atoms, of which energies are fitted where there are no others.
    start
        A potential to continue from; its energies come first.
    continues
        Whether the fit begins at its coefficients.
    """
    if not own and free.energies and set(elements) <= set(free.energies):
        own = {element: free.energies[element] for element in elements}
    if start is not None and start.reference_energies:
        return dict(start.reference_energies)
    if start is not None and continues:
        return missing_energies(start, ordinary, own)
    return dict(own or fit_reference_energies(ordinary))


def fit_reference_energies(labels: Sequence[Atoms], known: Sequence[float] | None = None) -> dict[str, float]:
    """
    Fit one energy per element (eV/atom) to the labels' total energies, or to what a potential lacks of them.

    Least squares of smallest norm, so that a fixed composition does no harm; mean energy per
    atom for one element.

    Parameters
    ----------
    labels
        With energies in eV.
    known
        What a potential has of the energy of each label, eV: the rest is fitted.
    """
    symbols = sorted({s for a in labels for s in a.get_chemical_symbols()})
    counts = np.array([[a.get_chemical_symbols().count(s) for s in symbols] for a in labels], dtype=float)
    energies = np.array([a.get_potential_energy() for a in labels]) - (0.0 if known is None else np.asarray(known))
    solution = np.linalg.lstsq(counts, energies, rcond=None)[0]
    return dict(zip(symbols, map(float, solution), strict=True))


def missing_energies(
    potential: ACEPotential, labels: Sequence[Atoms], given: Mapping[str, float] | None
) -> dict[str, float]:
    """
    Return the reference energies (eV/atom) with which a potential that came without them has the energies of labels.

    Those of a potential made elsewhere may be total energies, or relative to isolated atoms: with any others a fit
    that goes on from its coefficients would begin electronvolts off.

    Parameters
    ----------
    potential
        Without reference energies.
    labels
        With energies in eV.
    given
        Energies of isolated atoms, which are taken if they fit.
    """
    known = [found.energy for found in evaluate(potential, labels)]
    fitted = fit_reference_energies(labels, known)
    if not given:
        return fitted
    off = [
        (atoms.get_potential_energy() - energy - reference_energy(atoms, given)) / len(atoms)
        for atoms, energy in zip(labels, known, strict=True)
    ]
    if (far := float(np.sqrt(np.mean(np.square(off))))) <= _FAR_EV_ATOM:
        return dict(given)
    logger.warning(
        "the energies of the potential to start from are %.3g eV/atom off those of the labels with reference_energies "
        "%s; taken instead: %s",
        far,
        dict(given),
        fitted,
    )
    return fitted
