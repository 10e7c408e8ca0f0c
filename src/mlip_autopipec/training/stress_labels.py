"""Stress labels in another convention: noticed by the stress that energies and forces imply."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlip_autopipec.training.weights import EV_A3_IN_GPA, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mlip_autopipec.training.design import Design

_SHEAR = ("yz", "xz", "xy")
#: A label is in doubt if another order of its shear components has less than this share of its error ...
_MUCH_BETTER = 0.5
#: ... and its error is larger than that of an ordinary label by this factor.
_LARGE = 3.0
#: Another convention of all labels is believed if it leaves less than this misfit (0.5: nothing in common): a fit that
#: a wrong energy has spoilt agrees with no convention.
_AGREES = 0.25
#: Fewer labels in doubt than this, or a smaller share of all, are chance.
_FEWEST, _LEAST_SHARE = 3, 0.05
#: What stresses in other units are multiplied by, and their name.
_UNITS = {1.0: "eV/A^3", EV_A3_IN_GPA: "GPa", 10 * EV_A3_IN_GPA: "kB"}
_VIRIAL = "eV, a stress times the volume of the cell"
_OPPOSITE = "the opposite sign (ASE: positive when stretched)"


class StressDoubts(NamedTuple):
    """
    What is wrong with stress labels.

    Parameters
    ----------
    whole_set
        Another sign or unit that fits all labels far better; None if there is none.
    labels
        Indices of the labels whose shear components seem to be in another order.
    order
        Order of these, e.g. "xz yz xy"; None where no label is in doubt.
    moved
        Components (of xx yy zz yz xz xy) that have another place in this order.
    undecided
        Labels whose shear components fit neither order clearly better, in a set where some are in doubt.
    part
        Another sign or unit that fits these labels far better, in a set where others are as they should be.
    of_part
        Indices of these labels.
    """

    whole_set: str | None
    labels: tuple[int, ...]
    order: str | None
    moved: tuple[int, ...] = ()
    undecided: tuple[int, ...] = ()
    part: str | None = None
    of_part: tuple[int, ...] = ()


def doubt_stresses(
    design: Design, coefficients: NDArray[np.float64], columns: NDArray[np.intp], volumes_A3: NDArray[np.float64]
) -> StressDoubts:
    """
    Compare the stress labels with the stress of a fit to energies and forces only.

    Parameters
    ----------
    design
        With stress rows.
    coefficients, columns
        The fit: coefficients of some of the columns.
    volumes_A3
        Volume of the cell of each label in A^3, (n_labels,).
    """
    of = whole_stresses(design)
    if not of.any():
        return StressDoubts(None, (), None)
    expected = (design.part(of, columns) @ coefficients).reshape(-1, 6)
    found = design.target[of].reshape(-1, 6)
    structures = design.structure[of][::6]
    best, wrong = np.inf, None
    as_others = _as_others_are(found, volumes_A3[structures])
    for name, converted in as_others.items():
        if (misfit := _relative(expected, converted)) < best:
            best, wrong = misfit, name or None
    if wrong is not None and best > min(_AGREES, _MUCH_BETTER * _relative(expected, found)):
        wrong = None
    if wrong is None and (turned := _in_part(expected, as_others)) is not None:
        return StressDoubts(None, (), None, part=turned[0], of_part=tuple(map(int, structures[turned[1]])))
    orders = [(0, 1, 2, *(3 + np.array(p))) for p in permutations(range(3))]
    # the shear components alone: they have smaller errors than the pressure
    errors = np.array([np.linalg.norm((expected - found[:, order])[:, 3:], axis=1) for order in orders])
    chosen = errors.argmin(axis=0)
    as_is, least = errors[0], errors.min(axis=0)
    doubtful = (least < _MUCH_BETTER * as_is) & (as_is > _LARGE * np.median(least))
    if not doubtful.any():
        return StressDoubts(wrong, (), None)
    order = int(np.bincount(chosen[doubtful]).argmax())
    doubtful &= errors[order] < _MUCH_BETTER * as_is
    # a set comes from one conversion: another order that is best for a label or two is chance
    if doubtful.sum() < max(_FEWEST, _LEAST_SHARE * len(doubtful)):
        return StressDoubts(wrong, (), None)
    name = " ".join(_SHEAR[i - 3] for i in orders[order][3:])
    moved = tuple(i for i, place in enumerate(orders[order]) if i != place)
    # where a conversion was wrong for some labels, those with little shear may be among them: in a set that is
    # permuted as a whole, fitting these few turned 2.7 into 6.1 meV/atom
    undecided = ~doubtful & ~(as_is < _MUCH_BETTER * errors[order])
    in_doubt, unclear = (tuple(map(int, structures[which])) for which in (doubtful, undecided))
    return StressDoubts(wrong, in_doubt, name, moved, unclear)


def _as_others_are(found: NDArray[np.float64], volumes_A3: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the stresses (n_labels, 6) as ASE's if they are of each convention, by its name; "" for ASE's own."""
    units: dict[str, Any] = {name: 1.0 / unit for unit, name in _UNITS.items()}
    units[_VIRIAL] = 1.0 / volumes_A3[:, None]
    return {
        " and ".join([name] * (name != _UNITS[1.0]) + [_OPPOSITE] * (sign < 0)): sign * factor * found
        for name, factor in units.items()
        for sign in (1.0, -1.0)
    }


def _in_part(
    expected: NDArray[np.float64], as_others: Mapping[str, NDArray[np.float64]]
) -> tuple[str, NDArray[np.bool_]] | None:
    """
    Return a convention that some labels have and others have not, and which labels, (n_labels,).

    A fit without stresses may be wrong about the pressure of all labels alike, so some have to agree as they are.
    """
    misfits = {
        name: np.array([_relative(e, f) for e, f in zip(expected, converted, strict=True)])
        for name, converted in as_others.items()
    }
    as_is = misfits[""]
    errors = {name: np.linalg.norm(expected - converted, axis=1) for name, converted in as_others.items()}
    large = errors[""] > _LARGE * np.median(np.min(list(errors.values()), axis=0))
    enough = max(_FEWEST, _LEAST_SHARE * len(expected))
    if (as_is < _AGREES).sum() < enough:
        return None
    for name, misfit in misfits.items():
        which = (misfit < np.minimum(_AGREES, _MUCH_BETTER * as_is)) & large
        if name and which.sum() >= enough:
            return name, which
    return None


def whole_stresses(design: Design) -> NDArray[np.bool_]:
    """Return which rows are of stresses of all six components, (n_rows,); those with vacuum have fewer."""
    of = design.kind == Kind.STRESS
    return of & (np.bincount(design.structure, weights=of)[design.structure] == 6)


def _relative(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Misfit relative to both, so that small numbers do not win."""
    return float(np.linalg.norm(expected - found) / (np.linalg.norm(expected) + np.linalg.norm(found)))
