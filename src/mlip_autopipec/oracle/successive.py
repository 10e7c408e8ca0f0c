"""Labels that follow each other: steps of one MD or relaxation so near in time that they say nearly the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.structures.provenance import Provenance, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: Forces of two labels are along each other: cosine. Steps of MD of CuPd 10 fs apart are above it, those 20 fs apart at
#: 0.7 and those 50 fs apart near 0, like frames of solid and liquid silicon and of its surfaces.
_ALONG = 0.9
#: Below this (eV/A, root mean square) forces are those of a crystal at rest, and have no direction.
_AT_REST = 0.01
#: From this share of the labels on it is said: a relaxation or a few strained cells among others do no harm.
_MANY = 0.3
#: So many labels at once are compared with all before them, by one product of matrices.
_BLOCK = 256


def have_forces_of_another(frames: Sequence[Atoms]) -> NDArray[np.bool_]:
    """
    Tell which labels have the forces of an earlier one, but for their size, (n_frames,).

    Parameters
    ----------
    frames
        With forces (eV/A) in attached calculators; compared are those of the same atoms in the same order.
    """
    alike = np.zeros(len(frames), dtype=bool)
    groups: dict[bytes, list[int]] = {}
    for i, atoms in enumerate(frames):
        groups.setdefault(atoms.numbers.tobytes(), []).append(i)
    for group in groups.values():
        forces = np.array([np.ravel(frames[i].calc.results["forces"]) for i in group], dtype=float)
        sizes = np.linalg.norm(forces, axis=1)
        moving = sizes > _AT_REST * np.sqrt(forces.shape[1])
        which = np.array(group)[moving]
        directions = forces[moving] / sizes[moving, None]
        for begin in range(0, len(which), _BLOCK):
            cosines = directions[begin : begin + _BLOCK] @ directions[: begin + _BLOCK].T
            alike[which[begin : begin + _BLOCK]] = (np.tril(cosines, begin - 1) > _ALONG).any(axis=1)
    return alike


def about_successive(frames: Sequence[Atoms], names: Sequence[str]) -> list[str]:
    """
    Say that errors of labels left out are too small where many labels follow each other.

    A label left out of a fit is judged by all others. Of 12 steps of MD, 4 fs apart, each left out had 0.6 meV/A, and
    other MD 37.

    Parameters
    ----------
    frames, names
        The labels, and how messages name each.
    """
    trained = [i for i, atoms in enumerate(frames) if Provenance.of(atoms).split is Split.TRAIN]
    found = have_forces_of_another([frames[i] for i in trained])
    if found.sum() <= _MANY * len(trained):
        return []
    first = names[trained[int(np.flatnonzero(found)[0])]]
    told = (
        f"labels: {found.sum()} of {len(trained)} to train on have the forces of another one but for their size "
        f"(first: {first}), like steps of one MD or relaxation that follow each other. Errors of labels left out of "
        "the fit are too small then: each is judged by its neighbours. Give frames further apart (in most solids 100 "
        "fs), or frames of other MD, marked split=test, beside them"
    )
    return [told]
