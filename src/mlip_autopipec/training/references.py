"""Energies of the elements that are taken off labels: fitted to them, or what a potential lacks of theirs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.potentials.potential import reference_energy
from mlip_autopipec.training.accuracy import evaluate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms

    from mlip_autopipec.potentials.potential import ACEPotential

logger = logging.getLogger(__name__)

#: Reference energies that leave a potential farther than this from its labels, eV/atom, are not its own.
_FAR_EV_ATOM = 0.5


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
