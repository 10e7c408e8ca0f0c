"""Whether two labels of one structure come from one energy surface."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase.formula import Formula

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.oracle.units import FORCES, remedy
from mlip_autopipec.structures.periodicity import stress_without_vacuum
from mlip_autopipec.structures.provenance import Provenance, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

#: What two careful calculations may differ by: meV/atom; meV/A and share of the forces; eV/A^3 and share of the stress.
_ENERGY_meV, _FORCES_meV_A, _STRESS_eV_A3, _SHARE = 10.0, 50.0, 0.01, 0.1


#: What the given forces are by their factor over those of the oracle, which they may miss by this share.
_UNITS = {
    "they are gradients; turn their sign": -1.0,
    **{f"they are in {unit}; {remedy(size)}, and see to the energies": 1 / size for unit, size in FORCES.items()},
}
_SAME = 0.05
#: So many labels more than it takes test an energy shift, in cells of up to so many times the atoms of the smallest.
_TESTS, _SMALL = 3, 2
#: One factor explains the given forces if what it leaves is at most this share of them.
_EXPLAINED = 0.1


@dataclass(frozen=True)
class Comparison:
    """
    What the oracle says of a structure, less what the given label says.

    Parameters
    ----------
    energy_meV_atom
        Difference of the energies in meV/atom.
    forces_rms_meV_A, forces_given_rms_meV_A
        Root mean square of the differences, and of the given forces, in meV/A.
    stress_eV_A3, stress_given_eV_A3
        Largest difference of a component, and largest given component, in eV/A^3; None where one has no stress.
    forces_times
        By what the given forces are those of the oracle, where one factor explains them; else None.
    energy_given_eV
        The given energy in eV.
    """

    energy_meV_atom: float
    forces_rms_meV_A: float
    forces_given_rms_meV_A: float
    stress_eV_A3: float | None = None
    stress_given_eV_A3: float | None = None
    forces_times: float | None = None
    energy_given_eV: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary."""
        return asdict(self)

    @property
    def forces_differ(self) -> bool:
        """Whether the forces are of another calculation."""
        return self.forces_rms_meV_A > _FORCES_meV_A + _SHARE * self.forces_given_rms_meV_A

    @property
    def stress_differs(self) -> bool:
        """Whether the stress is of another calculation."""
        if self.stress_eV_A3 is None or self.stress_given_eV_A3 is None:
            return False
        return self.stress_eV_A3 > _STRESS_eV_A3 + _SHARE * self.stress_given_eV_A3

    @property
    def differs(self) -> bool:
        """Whether anything differs by more than noise."""
        return abs(self.energy_meV_atom) > _ENERGY_meV or self.forces_differ or self.stress_differs

    @property
    def differs_beyond_energy(self) -> bool:
        """Whether forces or stress differ by more than noise: no constant for each element mends that."""
        return self.forces_differ or self.stress_differs

    @property
    def remedy(self) -> str:
        """What a user can do about forces or a stress that differ; of energies several labels tell more."""
        if self.forces_differ and (unit := self._unit):
            return f"The given forces are {self.forces_times:.4g} times those of the oracle: {unit}."
        if self.forces_differ:
            return (
                "Label the dataset with the settings of the oracle, or give the oracle those of the dataset; forces in "
                "another unit than eV/A would show like this, too."
            )
        return "The forces agree, so the stress has another sign, order or unit (eV/A^3, ASE sign): mend it."

    @property
    def _unit(self) -> str | None:
        """What the factor of the forces looks like."""
        found = self.forces_times
        return next((unit for unit, times in _UNITS.items() if found and abs(found / times - 1) < _SAME), None)

    def __str__(self) -> str:
        """Return all differences in one line."""
        told = (
            f"energy {self.energy_meV_atom:+.4g} meV/atom, forces {self.forces_rms_meV_A:.4g} meV/A of "
            f"{self.forces_given_rms_meV_A:.4g}"
        )
        if self.stress_eV_A3 is None:
            return told
        return f"{told}, stress {self.stress_eV_A3:.3g} eV/A^3 of {self.stress_given_eV_A3:.3g}"


def compare_labels(given: Atoms, computed: Atoms) -> Comparison:
    """
    Compare two labels of one structure.

    Parameters
    ----------
    given, computed
        With calculators. Atoms may be in another order, cells turned; forces are compared where they are in one order.
    """
    one, two = given.calc.results, computed.calc.results
    forces = [np.asarray(results["forces"], dtype=float) for results in (one, two)]
    # codes sort atoms and turn cells; sizes of forces do not turn with them
    same = (given.numbers == computed.numbers).all() and np.allclose(given.positions, computed.positions, atol=1e-3)
    apart = forces[1] - forces[0] if same else _sizes(computed, forces[1]) - _sizes(given, forces[0])
    times = _factor(*forces) if same else None
    stress = stress_given = None
    if one.get("stress") is not None and two.get("stress") is not None and same:
        stresses = [stress_without_vacuum(np.asarray(results["stress"], dtype=float), given) for results in (one, two)]
        if stresses[0].size:
            stress = float(np.abs(stresses[1] - stresses[0]).max())
            stress_given = float(np.abs(stresses[0]).max())
    return Comparison(
        energy_meV_atom=1e3 * float(two["energy"] - one["energy"]) / len(given),
        forces_rms_meV_A=_rms(apart),
        forces_given_rms_meV_A=_rms(forces[0]),
        stress_eV_A3=stress,
        stress_given_eV_A3=stress_given,
        forces_times=times,
        energy_given_eV=float(one["energy"]),
    )


def _factor(given: Any, computed: Any) -> float | None:
    """Return by what given forces are the computed ones, None where no factor but 1 explains them."""
    if not computed.any() or not given.any():
        return None
    times = float((given * computed).sum() / (computed**2).sum())
    explained = _rms(given - times * computed) <= _EXPLAINED * _rms(given)
    return times if explained and abs(times - 1) > _SAME else None


def _rms(values: Any) -> float:
    return 1e3 * float(np.sqrt(np.mean(np.square(values))))


def _sizes(atoms: Atoms, forces: Any) -> Any:
    """Return the sizes of the forces, sorted within each element."""
    sizes = np.linalg.norm(forces, axis=1) / np.sqrt(3)
    return sizes[np.lexsort((sizes, atoms.numbers))]


def worth_comparing(labels: Sequence[Atoms], n: int, for_shift: bool = False) -> list[int]:
    """
    Choose labels to compute again: small cells, first one of each set of elements, with forces rather than without.

    Parameters
    ----------
    labels
        The dataset.
    n
        How many at most.
    for_shift
        Whether an energy shift is fitted to them: then there are as many as it takes to tell the elements apart, and at
        least three more to test it, whose energies are far apart.

    Returns
    -------
    list of int
        Their indices. Isolated atoms, which want settings of their own, are not among them.
    """
    of_use = [i for i, atoms in enumerate(labels) if Provenance.of(atoms).split is not Split.REFERENCE]
    still = {i: bool(np.abs(labels[i].calc.results["forces"]).max() < 1e-3) for i in of_use}
    by_size = sorted(of_use, key=lambda i: (len(labels[i]) < 2, still[i], len(labels[i]), i))
    seen: set[frozenset[str]] = set()
    first: list[int] = []
    rest: list[int] = []
    for i in by_size:
        elements = frozenset(labels[i].get_chemical_symbols())
        (rest if elements in seen else first).append(i)
        seen.add(elements)
    # from the other end of the dataset: sets of two sources are often one behind the other
    chosen = [*first, *sorted(rest, key=lambda i: (len(labels[i]) < 2, still[i], len(labels[i]), -i))]
    if not for_shift:
        return chosen[:n]
    counts = _counts([labels[i].get_chemical_symbols() for i in chosen], _elements(labels, chosen))
    needed: list[int] = []
    for row in range(len(chosen)):
        if np.linalg.matrix_rank(counts[[*needed, row]]) > len(needed):
            needed.append(row)
    energies = np.array([float(labels[i].calc.results["energy"]) for i in chosen]) / [len(labels[i]) for i in chosen]
    shares = counts / counts.sum(axis=1)[:, None]
    unlike = energies - shares @ (np.linalg.pinv(shares) @ energies)
    rows = _far_apart(needed, unlike, [len(labels[i]) for i in chosen], max(_TESTS, n - len(needed)))
    return [chosen[row] for row in rows]


def _far_apart(rows: Sequence[int], energies: Any, sizes: Sequence[int], n: int) -> list[int]:
    """Add n rows whose energies (eV/atom) are far from each other, of small cells rather than of large ones."""
    taken = list(rows)
    others = [row for row in range(len(sizes)) if row not in taken]
    small = _SMALL * min((sizes[row] for row in others if sizes[row] > 1), default=0)
    for _ in range(min(n, len(others))):
        cheap = [row for row in others if 1 < sizes[row] <= small] or others[:1]
        best = max(cheap, key=lambda row: min(abs(energies[row] - energies[one]) for one in taken) if taken else 0.0)
        taken.append(best)
        others.remove(best)
    return taken


def check_shift(labels: Sequence[Atoms]) -> None:
    """
    Refuse a dataset whose compositions do not determine an energy shift for each element.

    Raises
    ------
    InvalidInputError
        Names the elements, and what to add.
    """
    chosen = worth_comparing(labels, len(labels))
    elements = _elements(labels, chosen)
    rank = int(np.linalg.matrix_rank(_counts([labels[i].get_chemical_symbols() for i in chosen], elements)))
    if rank < len(elements) or not elements:
        raise InvalidInputError.of(
            "OracleMaker.energy_shift",
            f"is fit, and the compositions of the dataset do not tell the energies of {', '.join(elements)} apart "
            f"({rank} independent compositions for {len(elements)} elements); add labels of other compositions, or "
            "shift the energies yourself",
        )


class Shift(NamedTuple):
    """
    What brings given energies to the scale of an oracle.

    Parameters
    ----------
    of_element
        What is added for each atom of an element, eV.
    std
        Its standard deviation by what the fit leaves, eV; empty where as many labels as elements were computed again.
    left_meV_atom
        Largest difference that is left, meV/atom.
    """

    of_element: dict[str, float]
    std: dict[str, float]
    left_meV_atom: float


def fit_shift(formulas: Sequence[str], differences_eV: Sequence[float]) -> Shift:
    """
    Fit one energy for each element to what an oracle says more than the given labels.

    Parameters
    ----------
    formulas
        Chemical formulas of the labels that were computed again.
    differences_eV
        Energy of the oracle less the given one, of each.

    Returns
    -------
    Shift
        With its uncertainty.

    Raises
    ------
    LabelError
        If the formulas do not determine it.
    """
    symbols = [list(Formula(formula)) for formula in formulas]
    elements = sorted({symbol for one in symbols for symbol in one})
    counts = _counts(symbols, elements)
    if not elements or np.linalg.matrix_rank(counts) < len(elements):
        raise LabelError(
            f"the labels that could be computed again ({', '.join(formulas) or 'none'}) do not determine an energy "
            f"shift of {', '.join(elements) or 'any element'}"
        )
    energies = np.asarray(differences_eV, dtype=float)
    shift = np.linalg.lstsq(counts, energies, rcond=None)[0]
    left = energies - counts @ shift
    std: dict[str, float] = {}
    if (n_free := len(energies) - len(elements)) > 0:
        # by the differences per atom, as large cells have larger ones
        per_atom = counts / counts.sum(axis=1)[:, None]
        noise = float(np.sum((left / counts.sum(axis=1)) ** 2)) / n_free
        std = dict(zip(elements, np.sqrt(noise * np.diag(np.linalg.inv(per_atom.T @ per_atom))).tolist(), strict=True))
    largest = 1e3 * float(np.abs(left / counts.sum(axis=1)).max())
    return Shift({element: float(one) + 0.0 for element, one in zip(elements, shift, strict=True)}, std, largest)


def is_noise(energy_meV_atom: float) -> bool:
    """Return whether two careful calculations may differ by this."""
    return abs(energy_meV_atom) <= _ENERGY_meV


def _elements(labels: Sequence[Atoms], chosen: Sequence[int]) -> list[str]:
    return sorted({symbol for i in chosen for symbol in labels[i].get_chemical_symbols()})


def _counts(symbols: Sequence[Sequence[str]], elements: Sequence[str]) -> Any:
    return np.array([[list(one).count(element) for element in elements] for one in symbols], dtype=float).reshape(
        len(symbols), len(elements)
    )
