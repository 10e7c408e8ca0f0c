"""Copies among given labels: a label learnt twice is not left out when it is left out of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.structures.provenance import Provenance, Split, mark
from mlip_autopipec.structures.same import same_structures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase import Atoms

#: Two labels of one structure agree if energies (eV/atom) and forces (eV/A, share of the largest) differ by less.
_SAME_ENERGY, _SAME_FORCE, _SAME_FORCE_SHARE = 2e-3, 0.05, 0.02


def contradicting_copies(
    frames: Sequence[Atoms], names: Sequence[str], groups: Sequence[Sequence[int]]
) -> Iterator[str]:
    """
    Name labels of one structure whose energies or forces differ.

    Parameters
    ----------
    frames, names
        The labels, and how messages name each.
    groups
        Indices of labels of one structure, by :func:`.same_structures`.
    """
    for group in groups:
        for i in group[1:]:
            j = group[0]
            energies = [float(frames[k].calc.results["energy"]) / len(frames[k]) for k in (j, i)]
            one_structure = f"{names[j]} and {names[i]} are one structure"
            if abs(energies[0] - energies[1]) > _SAME_ENERGY:
                yield f"{one_structure} with {energies[0]:.4f} and {energies[1]:.4f} eV/atom"
            elif (apart := _forces_apart(frames[j], frames[i])) > 0:
                yield f"{one_structure}, and forces differ by {apart:.3g} eV/A"


def _forces_apart(one: Atoms, two: Atoms) -> float:
    """Return by how much (eV/A) forces of one structure differ, 0 where that is noise; sizes alone if it was turned."""
    forces = [np.asarray(atoms.calc.results["forces"], dtype=float) for atoms in (one, two)]
    in_place = (one.numbers == two.numbers).all() and np.allclose(one.positions, two.positions, atol=1e-4)
    if not in_place:
        sizes = [np.linalg.norm(of_frame, axis=1) for of_frame in forces]
        forces = [size[np.lexsort((size, atoms.numbers))] for size, atoms in zip(sizes, (one, two), strict=True)]
    apart = float(np.abs(forces[0] - forces[1]).max())
    return apart if apart > _SAME_FORCE + _SAME_FORCE_SHARE * float(np.abs(forces[0]).max()) else 0.0


def without_copies(
    frames: list[Atoms], names: list[str], groups: Sequence[Sequence[int]] | None = None
) -> tuple[list[Atoms], list[str], list[str]]:
    """
    Keep one label of each structure that is trained on, and none of them in the test set.

    A label left out of a fit is judged by the others: with a copy among them its error is that of the fit. The one that
    is kept counts as many times as the user gave it, relative to what was given least: the weight of the elastic cells
    of cubic silicon, 6 rotations of each, is what makes its energies 8 % better.

    Parameters
    ----------
    frames, names
        The labels, and how messages name each.
    groups
        Indices of labels of one structure, by :func:`.same_structures`, where they are known.

    Returns
    -------
    tuple
        Labels and names that are kept, and what there is to say. Of a group the first label is kept, or the first that
        has a stress.
    """
    known = [Provenance.of(atoms) for atoms in frames]
    splits = [one.split for one in known]
    times = np.array([one.stands_for or 1.0 for one in known])
    copies, in_test = set[int](), set[int]()
    pairs: list[tuple[int, int]] = []
    n_twice = 0
    for group in same_structures(frames) if groups is None else groups:
        trained = [i for i in group if splits[i] is Split.TRAIN]
        tests = [i for i in group if splits[i] is Split.TEST]
        if trained:
            kept = next((i for i in trained if frames[i].calc.results.get("stress") is not None), trained[0])
            others = [i for i in trained if i != kept]
            pairs += [(kept, i) for i in others[:1]]
            times[kept] = times[trained].sum()
            copies |= set(others)
            in_test |= set(tests)
        else:
            n_twice += max(0, len(tests) - 1)
    said = []
    stay = [i for i in range(len(frames)) if i not in copies | in_test]
    least = min((times[i] for i in stay if splits[i] is Split.TRAIN), default=1.0)
    if copies:
        for i in stay:
            if splits[i] is Split.TRAIN and times[i] > least:
                mark(frames[i], stands_for=float(times[i] / least))
        kept, other = min(pairs, key=max)
        said.append(
            f"labels: {len(copies)} of {splits.count(Split.TRAIN)} to train on are left out, since their structures "
            f"are given already: {names[other]} is {names[kept]} (origin, orientation and order of the atoms make no "
            "difference). Those that stay count as often as they are given"
        )
    n_tests = splits.count(Split.TEST)
    if in_test:
        said.append(
            f"labels: {len(in_test)} of {n_tests} held out for tests are trained on as well, like "
            f"{names[min(in_test)]}: they are taken out of the test set"
        )
    if n_twice:
        said.append(f"labels: {n_twice} of {n_tests} held out for tests are given twice, and count twice")
    return [frames[i] for i in stay], [names[i] for i in stay], said


def alone_in(frames: Sequence[Atoms]) -> list[Atoms]:
    """Return the labels whose structures are given once."""
    several = {i for group in same_structures(frames) for i in group}
    return [atoms for i, atoms in enumerate(frames) if i not in several]
