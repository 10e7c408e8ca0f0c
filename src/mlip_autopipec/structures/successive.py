"""Labels that follow each other: steps of one MD or relaxation so near in time that they say nearly the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.csgraph import connected_components

from mlip_autopipec.structures.provenance import Provenance, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: Forces of two labels are along each other: cosine. Steps of MD of CuPd 10 fs apart are above it, those 20 fs apart at
#: 0.7 and those 50 fs apart near 0, like frames of solid and liquid silicon and of its surfaces.
_ALONG = 0.9
#: From this cosine on two labels of one chain of neighbours tell of each other. Of 24 steps of CuPd, 4 fs apart, one
#: left out has 0.4 meV/A, without those above 0.9 it has 1.4, above 0.7 3.7, above 0.5 5.1; other MD has 7.4.
_RELATED = 0.5
#: Forces of few atoms are along each other by chance: so many times the standard deviation of that cosine are no sign.
_BY_CHANCE = 4.0
#: Below this (eV/A, root mean square) forces are those of a crystal at rest, and have no direction.
_AT_REST = 0.01
#: From this share of the labels on it is said: a relaxation or a few strained cells among others do no harm.
_MANY = 0.3


def related_labels(frames: Sequence[Atoms]) -> list[NDArray[np.intp]]:
    """
    Return for each label those that follow it or go before it so nearly that they tell of it, itself among them.

    These are labels with the forces of another one but for their size, and those to which a chain of such leads, as far
    as their forces have that direction still. Left out of a fit, a label is to be judged without them.

    Parameters
    ----------
    frames
        With forces (eV/A) in attached calculators; compared are those of the same atoms in the same order, and only
        where they are so many that their forces are not along each other by chance.

    Returns
    -------
    list of ndarray
        Indices in ascending order.
    """
    related = [np.array([i]) for i in range(len(frames))]
    groups: dict[bytes, list[int]] = {}
    for i, atoms in enumerate(frames):
        groups.setdefault(atoms.numbers.tobytes(), []).append(i)
    for group in groups.values():
        forces = np.array([np.ravel(frames[i].calc.results["forces"]) for i in group], dtype=float)
        by_chance = _BY_CHANCE / np.sqrt(max(1, forces.shape[1] - 3))
        sizes = np.linalg.norm(forces, axis=1)
        moving = sizes > _AT_REST * np.sqrt(forces.shape[1])
        if by_chance >= _ALONG or moving.sum() < 2:
            continue
        which = np.array(group)[moving]
        directions = (forces[moving] / sizes[moving, None]).astype(np.float32)
        cosines = directions @ directions.T
        _, chain = connected_components(cosines > _ALONG)
        cosines = cosines > max(_RELATED, by_chance)
        for i, row, own in zip(which, cosines, chain, strict=True):
            related[i] = np.union1d(which[row & (chain == own)], [i])
    return related


def about_successive(frames: Sequence[Atoms], names: Sequence[str]) -> list[str]:
    """
    Say that errors of labels left out are too small where many labels follow each other.

    A label left out of a fit is judged by all others but its neighbours in time. Where all are of few moments of one
    run that says little of other MD: of 24 steps of silicon, 2 fs apart, each had 1.2 meV/A so, and other MD 12.

    Parameters
    ----------
    frames, names
        The labels, and how messages name each.
    """
    trained = [i for i, atoms in enumerate(frames) if Provenance.of(atoms).split is Split.TRAIN]
    found = [i for i, others in enumerate(related_labels([frames[i] for i in trained])) if others[0] < i]
    if len(found) <= _MANY * len(trained):
        return []
    first = names[trained[found[0]]]
    told = (
        f"labels: {len(found)} of {len(trained)} to train on have nearly the forces of another one but for their size "
        f"(first: {first}), like steps of one MD or relaxation that follow each other. Each is left out of the fit "
        "together with its neighbours, and its error may be too small still: they tell of few moments. Give frames "
        "further apart (in most solids 100 fs), or frames of other MD, marked split=test, beside them"
    )
    return [told]
