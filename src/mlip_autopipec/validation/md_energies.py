"""Which labels are like frames of MD: the errors of these, left out of the fit, are what is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.validation.confidence import FEW_FRAMES, frames_wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: Above the lowest label, MD may have so many times the energy of the highest of its frames that were labelled. The
#: potential energy of one molecule of four atoms in MD is within three times its mean in 99 of 100 frames.
_FURTHER = 2.0


def like_md(labels: Sequence[Atoms], counted: NDArray[np.bool_], of_md: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """
    Return the labels whose energy is one that MD may have, (n_labels,); None where that is not known.

    First datasets hold structures that MD never meets: of H2O2 at 300 K molecules stretched by electronvolts, with
    errors of 800 meV/A, each left out, where frames of MD have 40. Frames of MD tell how far above the lowest label of
    their composition it goes.

    Parameters
    ----------
    labels
        With energies (eV) in attached calculators.
    counted
        Labels whose errors, left out of the fit, say something of the rest, (n_labels,).
    of_md
        Labels that are frames of MD, (n_labels,).

    Returns
    -------
    numpy.ndarray or None
        None without frames of MD, and where so few labels are like them that they would bound no error.
    """
    energies = np.array([atoms.get_potential_energy() / len(atoms) for atoms in labels])
    formulas = [str(atoms.symbols.formula.reduce()[0].format("hill")) for atoms in labels]
    lowest: dict[str, float] = {}
    for formula, energy, counts in zip(formulas, energies, counted, strict=True):
        if counts:
            lowest[formula] = min(energy, lowest.get(formula, np.inf))
    above = energies - np.array([lowest.get(formula, np.nan) for formula in formulas])
    if not (counted & of_md).any():
        return None
    found = counted & (above <= _FURTHER * above[counted & of_md].max())
    return found if found.sum() >= frames_wanted(FEW_FRAMES) else None
