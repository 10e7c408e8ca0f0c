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
#: Fewer labels in another convention are believed where each is wrong by more than any other label times this, and not
#: more than these once it is converted.
_ALONE = 3.0
#: Labels with vacuum tell another convention by at least so many numbers besides their mean: the mean may be wrong by
#: its size in a fit to slabs in one cell, of which the changes from label to label are right.
_NUMBERS = 6
#: Components of a label of a bulk structure, and of a slab; of a wire one is left, whose sign alone tells nothing.
_WHOLE, _OF_SLAB = 6, 3
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
    is_few
        Whether these are a label or two: told and not refused, since what judges labels by errors left out says more.
    """

    whole_set: str | None
    labels: tuple[int, ...]
    order: str | None
    moved: tuple[int, ...] = ()
    undecided: tuple[int, ...] = ()
    part: str | None = None
    of_part: tuple[int, ...] = ()
    is_few: bool = False


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
    by_shape = {n: _Stresses.of(design, coefficients, columns, volumes_A3, n) for n in (_WHOLE, _OF_SLAB, 1)}
    by_shape = {n: one for n, one in by_shape.items() if len(one.labels)}
    if (said := _with_vacuum(by_shape)) is not None:
        return said
    wrong = by_shape[_WHOLE].convention() if _WHOLE in by_shape else None
    turned = _in_part(by_shape) if wrong is None else None
    if turned is not None and not turned.is_few:
        return turned
    found = StressDoubts(wrong, (), None) if _WHOLE not in by_shape else _doubt_shear(by_shape[_WHOLE], wrong)
    return found if turned is None else found._replace(part=turned.part, of_part=turned.of_part, is_few=True)


def _doubt_shear(whole: _Stresses, wrong: str | None) -> StressDoubts:
    """Return the labels whose shear components are in another order, beside what was found before."""
    expected, found, structures, _ = whole
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


class _Stresses(NamedTuple):
    """
    Stresses of the labels with one number of components, (n_labels, n_components).

    Parameters
    ----------
    expected
        By the fit without stresses.
    found
        As the labels have them.
    labels
        Indices of the labels, (n_labels,).
    as_others
        What they are if they are of another convention, by its name; "" for ASE's own.
    """

    expected: NDArray[np.float64]
    found: NDArray[np.float64]
    labels: NDArray[np.intp]
    as_others: dict[str, NDArray[np.float64]]

    @classmethod
    def of(
        cls,
        design: Design,
        coefficients: NDArray[np.float64],
        columns: NDArray[np.intp],
        volumes_A3: NDArray[np.float64],
        n_components: int,
    ) -> _Stresses:
        """Take the labels with so many components; see :func:`doubt_stresses`."""
        rows = _rows_of(design, n_components)
        expected = (design.part(rows, columns) @ coefficients).reshape(-1, n_components)
        found = design.target[rows].reshape(-1, n_components)
        labels = design.structure[rows][::n_components]
        return cls(expected, found, labels, _as_others_are(found, volumes_A3[labels]))

    def convention(self) -> str | None:
        """Return another convention that fits all labels far better than ASE's; None if there is none."""
        name, misfit = _best(self.expected, self.as_others)
        return name if misfit <= min(_AGREES, _MUCH_BETTER * _relative(self.expected, self.found)) else None

    def convention_by_changes(self) -> str | None:
        """Return another convention that fits what differs between the labels far better, and the whole not worse."""
        changes, own = _off_mean(self.expected), _off_mean(self.found)
        if own.size - own.shape[1] < _NUMBERS:
            return None
        name, misfit = _best(changes, {n: _off_mean(converted) for n, converted in self.as_others.items()})
        if name is None or misfit > min(_AGREES, _MUCH_BETTER * _relative(changes, own)):
            return None
        whole = _relative(self.expected, self.as_others[name])
        return name if whole < _relative(self.expected, self.found) else None


def _best(expected: NDArray[np.float64], as_others: Mapping[str, NDArray[np.float64]]) -> tuple[str | None, float]:
    """Return the convention with the least misfit, None for ASE's own, and the misfit."""
    misfits = {name: _relative(expected, converted) for name, converted in as_others.items()}
    best = min(misfits, key=lambda name: misfits[name])
    return best or None, misfits[best]


def _off_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values - values.mean(axis=0))


def _with_vacuum(by_shape: Mapping[int, _Stresses]) -> StressDoubts | None:
    """Return what is wrong with the stresses of slabs and wires; None where nothing is, or all labels are wrong."""
    for n, one in by_shape.items():
        if n == _WHOLE:
            continue
        if (wrong := one.convention_by_changes()) is not None:
            if len(by_shape) == 1:
                return StressDoubts(wrong, (), None)
            if _WHOLE in by_shape and by_shape[_WHOLE].convention() == wrong:
                return None
            return StressDoubts(None, (), None, part=wrong, of_part=tuple(map(int, one.labels)))
    return None


def _as_others_are(found: NDArray[np.float64], volumes_A3: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the stresses (n_labels, n) as ASE's if they are of each convention, by its name; "" for ASE's own."""
    units: dict[str, Any] = {name: 1.0 / unit for unit, name in _UNITS.items()}
    units[_VIRIAL] = 1.0 / volumes_A3[:, None]
    return {
        " and ".join([name] * (name != _UNITS[1.0]) + [_OPPOSITE] * (sign < 0)): sign * factor * found
        for name, factor in units.items()
        for sign in (1.0, -1.0)
    }


def _in_part(by_shape: Mapping[int, _Stresses]) -> StressDoubts | None:
    """
    Return a convention that some labels have and others have not, and which labels; None if there is none.

    A fit without stresses may be wrong about the pressure of all labels alike, so some have to agree as they are.
    """
    some = [by_shape[n] for n in (_WHOLE, _OF_SLAB) if n in by_shape]
    if not some:
        return None
    labels = np.concatenate([one.labels for one in some])
    expected = np.concatenate([_padded(one.expected) for one in some])
    as_others = {name: np.concatenate([_padded(one.as_others[name]) for one in some]) for name in some[0].as_others}
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
    few = None
    for name, misfit in misfits.items():
        which = (misfit < np.minimum(_AGREES, _MUCH_BETTER * as_is)) & large
        if not name:
            continue
        found = StressDoubts(None, (), None, part=name, of_part=tuple(map(int, np.sort(labels[which]))))
        if which.sum() >= enough:
            return found
        if few is None and _stands_out(which, errors[""], errors[name]):
            few = found._replace(is_few=True)
    return few


def _padded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all six components; those across vacuum, which no label has, are zero."""
    return np.pad(values, ((0, 0), (0, _WHOLE - values.shape[1])))


def _stands_out(which: NDArray[np.bool_], as_is: NDArray[np.float64], converted: NDArray[np.float64]) -> bool:
    """Tell whether some labels have far larger errors than all others, and none once they are converted."""
    if not which.any() or which.all():
        return False
    largest = as_is[~which].max()
    return bool(as_is[which].min() > _ALONE * largest and converted[which].max() <= largest)


def whole_stresses(design: Design) -> NDArray[np.bool_]:
    """Return which rows are of stresses of all six components, (n_rows,); those with vacuum have fewer."""
    return _rows_of(design, _WHOLE)


def _rows_of(design: Design, n_components: int) -> NDArray[np.bool_]:
    """Return which rows are of stresses of so many components, (n_rows,)."""
    of = design.kind == Kind.STRESS
    return of & (np.bincount(design.structure, weights=of)[design.structure] == n_components)


def _relative(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Misfit relative to both, so that small numbers do not win."""
    size = np.linalg.norm(expected) + np.linalg.norm(found)
    return float(np.linalg.norm(expected - found) / size) if size > 0.0 else 0.0
