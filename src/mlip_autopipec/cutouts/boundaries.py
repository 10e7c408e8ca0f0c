"""Put a piece of a structure into a periodic box: choose atoms, correct composition, relax the boundary region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import find_mic
from ase.optimize import FIRE
from matscipy.neighbours import neighbour_list
from pymatgen.core import Composition, Element

from mlip_autopipec.cutouts.boxes import covering_radius

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

    from mlip_autopipec.cutouts.surroundings import Surroundings

    Floats = NDArray[np.float64]

#: In the boundary region no pair is closer than this times its usual distance (the median of nearest neighbours).
SEAM_RATIO = 0.8
#: So far (Angstrom) beyond the box atoms are taken to fill it.
_BEYOND = 0.7
#: Longest step of FIRE in Angstrom.
_LONGEST_STEP = 0.1
#: Elements whose electronegativities differ by more (Pauling) have charges that have to add up.
_IONIC = 1.0


@dataclass(frozen=True)
class Closed:
    """
    A piece of a structure closed in a box.

    Parameters
    ----------
    atoms
        The periodic cell, the centre in its middle.
    places
        Place of each atom in the surroundings, (n,).
    core
        Whether each atom is within the core radius, (n,).
    n_removed
        Atoms inside the box that were left out.
    """

    atoms: Atoms
    places: NDArray[np.int_]
    core: NDArray[np.bool_]
    n_removed: int


def usual_distances(around: Surroundings, ratio: float) -> Floats:
    """
    Shortest distances allowed in a boundary region, in Angstrom, by atomic numbers.

    ``SEAM_RATIO`` times the median distance of an atom from its nearest neighbour of the other
    element, and at least ``ratio`` times the sum of the covalent radii.

    Returns
    -------
    numpy.ndarray
        Symmetric, indexed by two atomic numbers.
    """
    size = int(around.numbers.max()) + 1
    allowed = ratio * (covalent_radii[:size, None] + covalent_radii[None, :size])
    cluster = around.cluster()
    cluster.cell = np.eye(3)
    i, j, d = neighbour_list("ijd", cluster, 2.0 * covalent_radii[around.numbers].max() * 1.6)
    inner = around.distances < 0.7 * around.radius
    for a in np.unique(around.numbers):
        for b in np.unique(around.numbers):
            pair = (around.numbers[i] == a) & (around.numbers[j] == b) & inner[i]
            if pair.any():
                nearest = np.full(len(around.numbers), np.inf)
                np.minimum.at(nearest, i[pair], d[pair])
                # taken from both sides the shorter one: of a rare element all are far from most atoms
                usual = SEAM_RATIO * float(np.median(nearest[np.isfinite(nearest)]))
                allowed[a, b] = max(allowed[a, b], usual)
    return np.minimum(allowed, allowed.T)


def close(
    around: Surroundings, box: Floats, across: Floats, interval: Floats, vacuum: float, core: float, allowed: Floats
) -> Closed | None:
    """
    Fill a box with the surroundings of a centre, outward from it.

    Atoms are taken in the order of their distance from the centre, an atom only if it is not too close to one that
    was taken, in the box or in one of its images: of two overlapping atoms the farther one is removed, and
    where the faces match every site is filled once. The core is taken as it is.

    Parameters
    ----------
    around
        Surroundings of the centre, as far as the box reaches.
    box
        Periodic vectors, (p, 3) in Angstrom.
    across
        Orthonormal directions across, (3 - p, 3), along which there is vacuum.
    interval
        Lowest and highest coordinate along each of these, (3 - p, 2), relative to the centre.
    vacuum
        Thickness of the vacuum in Angstrom.
    core
        Radius of the core in Angstrom.
    allowed
        Closest that pairs may come, by atomic numbers.

    Returns
    -------
    Closed or None
        None if atoms of the core collide with images of others: the box is too narrow.
    """
    height = around.vectors @ across.T
    inside = ((height >= interval[:, 0]) & (height <= interval[:, 1])).all(axis=1)
    flat = around.vectors - height @ across
    is_core = around.distances <= core
    near = np.linalg.norm(flat, axis=1) <= covering_radius(box) + _BEYOND if len(box) else inside
    chosen = np.flatnonzero((inside & near) | is_core)
    vectors, numbers = around.vectors[chosen], around.numbers[chosen]
    n_core = int(is_core[chosen].sum())
    spans = height[chosen].max(axis=0) - height[chosen].min(axis=0) + vacuum
    cell = np.vstack([box, across * spans[:, None]])
    cell *= np.sign(np.linalg.det(cell))  # programs want right-handed cells
    pool = Atoms(numbers=numbers, positions=vectors, cell=cell, pbc=True)
    pool.wrap()
    images = find_mic(vectors, cell, pbc=True)[1]
    i, j, d = neighbour_list("ijd", pool, float(allowed.max()))
    close_pairs = d < allowed[numbers[i], numbers[j]]
    i, j, d = i[close_pairs], j[close_pairs], d[close_pairs]
    both = (i < n_core) & (j < n_core)
    # contacts within the core are the halted frame's own; those with images are the box's fault
    own = np.linalg.norm(vectors[i[both]] - vectors[j[both]], axis=1)
    if (np.abs(own - d[both]) > 1e-6).any():
        return None
    starts = np.searchsorted(i, np.arange(len(chosen) + 1)) if (np.diff(i) >= 0).all() else None
    if starts is None:
        order = np.argsort(i, kind="stable")
        i, j = i[order], j[order]
        starts = np.searchsorted(i, np.arange(len(chosen) + 1))
    taken = np.zeros(len(chosen), dtype=bool)
    taken[:n_core] = True
    for k in range(n_core, len(chosen)):
        taken[k] = images[k] > core and not taken[j[starts[k] : starts[k + 1]]].any()
    # in the box an atom is nearer to the centre than all of its images
    at_home = np.linalg.norm(vectors, axis=1) <= images + 1e-9
    places = chosen[taken]
    atoms = Atoms(numbers=around.numbers[places], positions=around.vectors[places], cell=cell, pbc=True)
    middle = cell[: len(box)].sum(axis=0) / 2
    low = height[places].min(axis=0) - vacuum / 2
    atoms.positions += middle - low @ across
    atoms.wrap()
    return Closed(atoms, places, is_core[places], int((at_home & ~taken).sum()))


def without(closed: Closed, which: NDArray[np.int_]) -> Closed:
    """Remove atoms of the boundary region."""
    keep = np.ones(len(closed.atoms), dtype=bool)
    keep[which] = False
    return Closed(closed.atoms[keep], closed.places[keep], closed.core[keep], closed.n_removed + len(which))


def oxidation_states(atoms: Atoms) -> dict[str, float]:
    """
    Guess the charges of the elements of an ionic or polar compound (pymatgen's statistics).

    Returns
    -------
    dict
        From element to charge in e; empty for metals, elements, and where no states add up to zero.
    """
    counts = atoms.symbols.formula.count()
    scale = [Element(e).X for e in counts]
    if len(counts) < 2 or not max(scale) - min(scale) > _IONIC:
        return {}
    # a vacancy among thousands of atoms must not hide the formula
    smallest = min(counts.values())
    ratios = {e: round(n / smallest * 12) for e, n in counts.items()}
    formula = Composition(ratios).reduced_composition
    guesses = formula.oxi_state_guesses(max_sites=-1 if formula.num_atoms > 30 else None)
    return {e: float(q) for e, q in guesses[0].items()} if guesses else {}


def balanced(
    closed: Closed, around: Surroundings, charges: Mapping[str, float], allowed: tuple[float, float]
) -> Closed:
    """
    Remove the farthest surplus ions of the boundary region, until the total charge is within ``allowed``.

    Returns
    -------
    Closed
        Unchanged if the charge cannot be reached by removing ions of the boundary region.
    """
    ions = np.array([charges.get(chemical_symbols[z], 0.0) for z in closed.atoms.numbers])
    outward = np.argsort(-around.distances[closed.places], kind="stable")
    outward = outward[~closed.core[outward]]
    total, gone = ions.sum(), []
    for k in outward:
        excess = total - np.clip(total, *allowed)
        if abs(excess) < 1e-6:
            break
        if ions[k] * excess > 0 and abs(ions[k]) <= abs(excess) + 1e-6:
            gone.append(k)
            total -= ions[k]
    return without(closed, np.array(gone, dtype=int)) if gone else closed


class KeepOut:
    """ASE constraint: free atoms stay outside of a sphere around an atom that does not move."""

    def __init__(self, centre: int, free: NDArray[np.int_], radius: float) -> None:
        self.centre, self.free, self.radius = centre, free, radius

    def _outward(self, atoms: Atoms, positions: Floats) -> tuple[Floats, Floats]:
        vectors, distances = find_mic(positions[self.free] - positions[self.centre], atoms.cell, atoms.pbc)
        return vectors / distances[:, None], distances

    def adjust_positions(self, atoms: Atoms, new: Floats) -> None:
        """Push atoms that entered the sphere back to its surface."""
        outward, distances = self._outward(atoms, new)
        short = np.maximum(self.radius * (1 + 1e-9) - distances, 0.0)
        new[self.free] += outward * short[:, None]

    def adjust_forces(self, atoms: Atoms, forces: Floats) -> None:
        """Take out what would push atoms at the surface inward."""
        outward, distances = self._outward(atoms, atoms.positions)
        inward = np.minimum(np.einsum("ij,ij->i", forces[self.free], outward), 0.0)
        forces[self.free] -= outward * np.where(distances < self.radius + 1e-3, inward, 0.0)[:, None]

    def get_removed_dof(self, atoms: Atoms) -> int:
        """None: the sphere is a wall."""
        del atoms
        return 0

    def index_shuffle(self, *_: Any) -> None:
        """Refuse: the constraint lives only during a relaxation."""
        raise NotImplementedError


def relax_boundary(
    closed: Closed,
    calculator: Calculator,
    core: float,
    steps: int,
    fmax: float,
    limit: Floats,
    held: NDArray[np.bool_] | None = None,
) -> tuple[Atoms, Floats, int]:
    """
    Relax the atoms outside of the core by FIRE.

    Parameters
    ----------
    closed
        Atom 0 is the centre.
    calculator
        Supplies ``results["gamma"]``.
    core
        Radius in Angstrom within which nothing moves, and into which nothing moves.
    steps, fmax
        Most steps of FIRE, and the largest force (eV/A) at which it ends.
    limit
        Gamma up to which each atom is accepted, (n_atoms,).
    held
        Atoms that rest as those of the core do, (n_atoms,); MD keeps them where they are.

    Returns
    -------
    tuple
        The cell, gamma of its atoms, and the step it is of: the state of smallest forces among those that no atom
        exceeds its limit in, else that of least excess. An extrapolating potential may lead a relaxation astray.
    """
    atoms = closed.atoms.copy()
    atoms.calc = calculator
    rests = closed.core if held is None else closed.core | held
    free = np.flatnonzero(~rests)
    atoms.set_constraint([FixAtoms(np.flatnonzero(rests)), KeepOut(0, free, core)])
    states: list[tuple[float, float, int]] = []
    best: tuple[Floats, Floats] | None = None

    def look() -> None:
        nonlocal best
        largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        gamma = np.array(calculator.results["gamma"])
        excess = float(np.max(gamma[1:] / limit[1:], initial=0.0))
        states.append((max(excess, 1.0), largest, len(states)))
        if min(states) == states[-1]:
            best = atoms.positions.copy(), gamma

    look()
    if len(free) and steps and states[0][1] > fmax:
        for _ in FIRE(atoms, logfile=None, maxstep=_LONGEST_STEP).irun(fmax=fmax, steps=steps):
            look()
    assert best is not None
    relaxed = closed.atoms.copy()
    relaxed.positions = best[0]
    return relaxed, best[1], min(states)[2]
