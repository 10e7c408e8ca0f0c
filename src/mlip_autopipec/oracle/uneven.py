"""What some labels of a dataset have and others have not: stresses, computed moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.structures.periodicity import goes_on_along
from mlip_autopipec.structures.provenance import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

#: An element is magnetic in labels with a mean moment above the first (Bohr magnetons), not in those below the second.
_MAGNETIC, _NOT_MAGNETIC = 0.8, 0.1


def about_uneven(frames: Sequence[Atoms]) -> list[str]:
    """
    Say what only some of the labels have.

    Parameters
    ----------
    frames
        Labels; stress (eV/A^3) and moments (Bohr magnetons) where they were computed.
    """
    return [*_stresses(frames), *_moments(frames)]


def _stresses(frames: Sequence[Atoms]) -> list[str]:
    solid = [atoms for atoms in frames if goes_on_along(atoms).any()]
    having = sum("stress" in atoms.calc.results for atoms in solid)
    if not 0 < having < len(solid):
        return []
    return [f"labels: {having} of {len(solid)} periodic ones have a stress; of the others energy and forces are fitted"]


def _moments(frames: Sequence[Atoms]) -> list[str]:
    of_use = [atoms for atoms in frames if atoms.info.get("split") != Split.REFERENCE]
    having = [atoms for atoms in of_use if "magmoms" in atoms.calc.results]
    sizes = {element: np.array(of) for element, of in _sizes(having).items()}
    if 0 < len(having) < len(of_use) and any((of > _MAGNETIC).any() for of in sizes.values()):
        told = (
            f"labels: {len(having)} of {len(of_use)} have computed magnetic moments, the others none; were all "
            "computed with spin polarization? Energies with and without it do not belong together"
        )
        return [told]
    for element, of in sizes.items():
        n_magnetic, n_none = int((of > _MAGNETIC).sum()), int((of < _NOT_MAGNETIC).sum())
        if n_magnetic and n_none:
            usual = float(np.median(of[of > _MAGNETIC]))
            told = (
                f"labels: {element} is magnetic in {n_magnetic} of {len(of)} (a moment of {usual:.2g} Bohr magnetons) "
                f"and not in {n_none}: ACE knows no moments, so labels of two magnetic states of like "
                "structures cannot both be learnt; keep those of one"
            )
            return [told]
    return []


def _sizes(frames: Sequence[Atoms]) -> dict[str, list[float]]:
    """Return the mean size of the moments (Bohr magnetons) of each element, label by label."""
    found: dict[str, list[float]] = {}
    for atoms in frames:
        moments = np.abs(np.asarray(atoms.calc.results["magmoms"], dtype=float))
        moments = np.linalg.norm(moments, axis=1) if moments.ndim > 1 else moments
        for element in sorted(set(atoms.symbols)):
            found.setdefault(element, []).append(float(moments[atoms.symbols == element].mean()))
    return found
