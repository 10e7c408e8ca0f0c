"""One cut-out: try the boxes that there are around an atom, and check what comes of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols

from mlip_autopipec.errors import InvalidInputError, MLIPError
from mlip_autopipec.generate.boxes import DENSEST, candidate_boxes, covering_radius, volume
from mlip_autopipec.generate.distances import shortest_contact
from mlip_autopipec.generate.distort import bare_copy
from mlip_autopipec.generate.seams import Closed, balanced, close, oxidation_states, relax_seam, usual_distances
from mlip_autopipec.generate.surroundings import Surroundings, lattices, surroundings, with_open_vacuum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.ace.potential import ACEPotential
    from mlip_autopipec.generate.cutout import CutoutGenerator

    Floats = NDArray[np.float64]

#: Gamma of the centre has to be kept to this, relative to 1 or to gamma itself if that is larger.
GAMMA_KEPT = 1e-8
#: Lattices are looked for, and densities counted, within this times the core radius.
_AROUND = 2.4
#: A surface nearer to the centre than this times the core radius goes with it.
_SURFACE = 2.0
#: Where a slab is too thick it is cut this far (Angstrom) below the core; the best of them is taken.
_CUTS = (0.2, 0.8, 1.4, 2.0, 2.6)
#: A lattice is looked for no farther out than this (Angstrom).
_LATTICE_REACH = 13.0
#: Boxes made of each family, and filled; if so many show no new gamma, no further ones are filled.
_BOXES, _FILLED, _ENOUGH = 40, 80, 6


class CutoutError(MLIPError):
    """
    No acceptable cut-out around an atom.

    Parameters
    ----------
    message
        Names the centre and why each kind of box was refused.
    best
        The attempt with the fewest faults, whose ``problems`` are named; None if no box could be filled.
    """

    def __init__(self, message: str, best: Cutout | None = None) -> None:
        super().__init__(message)
        self.best = best


@dataclass(frozen=True)
class Cutout:
    """
    The surroundings of one atom in a small periodic cell.

    Parameters
    ----------
    atoms
        The cell. ``info`` holds ``origin`` ("cutout") and ``centre``; the arrays ``source_index`` and ``core`` what
        the fields of the same name hold.
    centre
        Index of the centre in ``atoms``.
    source_centre
        Index of the centre in the large cell.
    source_index
        Index in the large cell of each atom, (n_atoms,).
    core
        Whether each atom is within the core radius, where nothing was changed, (n_atoms,).
    box
        How the box was chosen: "commensurate" (all its vectors are translations of the lattice),
        "partly commensurate" or "free".
    gamma_before, gamma_after
        Gamma of the centre in the large cell and here.
    seam_gamma
        Largest gamma of any other atom here.
    new_gamma
        Largest gamma of those others that exceed what they had in the large cell; 0 if none does.
    energy_change
        Change of the centre's atomic energy in eV.
    force_change
        Change of the force on the centre, in eV/A. Forces reach 2 r_c, so it is not zero.
    density_ratio
        Number density here over that around the centre.
    composition_change
        Largest change of the fraction of an element, against the surroundings.
    n_removed
        Atoms in the box that were left out.
    relax_steps
        FIRE steps.
    seam_force
        Largest force on an atom that was free to relax, in eV/A.
    problems
        What an accepted cut-out has none of.
    """

    atoms: Atoms
    centre: int
    source_centre: int
    source_index: NDArray[np.int_]
    core: NDArray[np.bool_]
    box: str
    gamma_before: float
    gamma_after: float
    seam_gamma: float
    new_gamma: float
    energy_change: float
    force_change: float
    density_ratio: float
    composition_change: float
    n_removed: int
    relax_steps: int
    seam_force: float
    problems: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line for a log."""
        lengths = " x ".join(f"{x:.2f}" for x in self.atoms.cell.lengths())
        return (
            f"<Cutout of atom {self.source_centre}: {self.atoms.get_chemical_formula()}, {len(self.atoms)} atoms "
            f"({int(self.core.sum())} core), {self.box} box {lengths} A, gamma {self.gamma_before:.3f} -> "
            f"{self.gamma_after:.3f} (change {self.gamma_after - self.gamma_before:.1e}), others at most "
            f"{self.seam_gamma:.3f}, density ratio {self.density_ratio:.3f}, {self.n_removed} removed, "
            f"{self.relax_steps} FIRE steps to {self.seam_force:.2f} eV/A, force on the centre changed by "
            f"{self.force_change:.3f} eV/A{'; PROBLEMS: ' + '; '.join(self.problems) if self.problems else ''}>"
        )


@dataclass(frozen=True)
class _Kept:
    """What a cut-out keeps across its periodic directions, and what it draws from there."""

    interval: Floats
    density: float
    fractions: dict[int, float]

    def change(self, numbers: NDArray[np.int_]) -> tuple[str, float]:
        """Return the element whose fraction differs most, and by how much."""
        here = _fractions(numbers)
        changes = {z: abs(here.get(z, 0.0) - x) for z, x in self.fractions.items()}
        worst = max(changes, key=lambda z: changes[z])
        return chemical_symbols[worst], changes[worst]


@dataclass(frozen=True)
class _Way:
    """A space in which boxes are periodic, the directions across it, and what may be kept along those."""

    span: Floats
    across: Floats
    kept: list[_Kept]


@dataclass
class Cutting:
    """The work on one centre."""

    settings: CutoutGenerator
    source: Atoms
    potential: ACEPotential
    centre: int
    seed: int

    def __post_init__(self) -> None:
        self.calculator = self.potential.calculator()
        self.cutoff = self.potential.cutoff
        self.core = self.settings.core_ratio * self.cutoff
        self.rng = np.random.default_rng(self.seed)
        self.reach = _AROUND * self.core
        self.opened = with_open_vacuum(self.source, self.cutoff)
        self.attempts: list[Cutout] = []
        self.around = Surroundings(*(np.empty(0, dtype=int),) * 3, 0.0)
        self._look_around(self.reach)
        near = self.around.within(self.reach)
        self.allowed = usual_distances(near, self.settings.minimum_distance_ratio)
        given = self.settings.oxidation_states
        self.charges = oxidation_states(self.source) if given is None else given
        total = sum(self.charges.get(s, 0.0) for s in self.source.get_chemical_symbols())
        #: a defect of the large cell may be in the cut-out or not
        self.charge = (min(total, 0.0), max(total, 0.0))

    def best(self) -> Cutout:
        """Try one family of boxes after the other."""
        self._check_core()
        needed = []
        for way in self._ways():
            width, density = 2 * self.core, min(k.density for k in way.kept)
            least = DENSEST[len(way.span)] * width ** len(way.span) * density
            needed.append(int(np.ceil(least)))
            if least > self.settings.max_atoms:
                continue
            for name, boxes in self._families(way):
                for closed, box, kept in self._ranked(way, boxes)[: max(self.settings.max_relaxed // 2, 1)]:
                    if len(self.attempts) >= self.settings.max_relaxed:
                        break
                    cutout = self._finished(closed, box, kept, name)
                    if not cutout.problems:
                        return cutout
                    self.attempts.append(cutout)
        if min(needed) > self.settings.max_atoms:
            raise CutoutError(
                f"a cut-out around atom {self.centre} needs at least {min(needed)} atoms: it has to be {2 * self.core:.1f} "
                f"A wide ({2 * self.settings.core_ratio:g} times the cutoff r_c = {self.cutoff:.2f} A), but "
                f"max_atoms is {self.settings.max_atoms}. Raise max_atoms or use a potential of shorter cutoff"
            )
        best = min(self.attempts, key=lambda c: (len(c.problems), c.new_gamma), default=None)
        reasons = "; ".join(best.problems) if best else "in every box atoms of the core collide, or it holds too many"
        raise CutoutError(
            f"none of {len(self.attempts)} cut-outs around atom {self.centre} of at most {self.settings.max_atoms} "
            f"atoms is acceptable (r_c = {self.cutoff:.2f} A needs at least {min(needed)}); the best fails by: "
            f"{reasons}. Raise max_atoms, or label the frame another way",
            best,
        )

    def _look_around(self, radius: float) -> None:
        """Take the surroundings up to a radius, if they are not known so far, and what the potential says of them."""
        if radius <= self.around.radius - self.cutoff:
            return
        # of atoms within the radius all neighbours are there, so that gamma is that of the large cell
        self.around = surroundings(self.opened, self.centre, radius + self.cutoff)
        results = evaluate(self.potential, self.around.cluster())
        self.source_gamma, self.source_energy = results["gamma"], results["energies"][0]
        self.source_force = results["forces"][0]
        # forces reach twice as far
        exact = self.around.distances < self.around.radius - 2 * self.cutoff
        self.largest_force = float(np.linalg.norm(results["forces"][exact], axis=1).max())

    def _check_core(self) -> None:
        core = self.around.within(self.core).cluster()
        if contact := shortest_contact(core, self.settings.minimum_distance_ratio):
            raise CutoutError(
                f"within r_c of atom {self.centre} a pair {contact[0]}-{contact[1]} is {contact[2]:.3f} A apart "
                f"(allowed {contact[3]:.3f} A), and the core is not to be changed; cut out of an earlier frame"
            )

    def _ways(self) -> list[_Way]:
        """Periodic in three directions, or with the vacuum that is near."""
        everywhere, nowhere = np.eye(3), np.empty((0, 3))
        if self.opened.pbc.all():
            return [_Way(everywhere, nowhere, [self._kept(everywhere, nowhere, np.empty((0, 2)))])]
        vectors = self.opened.cell.array[self.opened.pbc]
        basis = np.linalg.svd(vectors)[2] if len(vectors) else everywhere
        span, across = basis[: len(vectors)], basis[len(vectors) :]
        heights = (self.opened.positions - self.opened.positions[self.centre]) @ across.T
        surface = np.stack([heights.min(axis=0), heights.max(axis=0)], axis=1)
        nearest = float(np.abs(surface).min())
        ways = []
        if nearest < _SURFACE * self.core:
            whole = np.array(surface)
            intervals = [whole + np.array([-1e-6, 1e-6])]
            for depth in _CUTS:
                cut = np.clip(whole, -(self.core + depth), self.core + depth)
                # a surface just below the cut is kept rather than made anew
                cut = np.where(np.abs(whole) < self.core + max(_CUTS), intervals[0], cut)
                if not any(np.allclose(cut, other) for other in intervals):
                    intervals.append(cut)
            ways.append(_Way(span, across, [self._kept(span, across, i) for i in intervals]))
        if nearest > self.core:
            radius = min(nearest, self.reach)
            inside = self.around.within(radius)
            density = len(inside.indices) / (4 / 3 * np.pi * radius**3)
            ways.append(_Way(everywhere, nowhere, [_Kept(np.empty((0, 2)), density, _fractions(inside.numbers))]))
        return ways

    def _kept(self, span: Floats, across: Floats, interval: Floats) -> _Kept:
        """Count the atoms around the centre that a cut-out draws from, per length, area or volume."""
        highest = float(np.linalg.norm(np.abs(interval).max(axis=1))) if len(interval) else 0.0
        radius = self.reach if len(span) else 0.0
        near = surroundings(self.opened, self.centre, float(np.hypot(radius, highest)) + 1e-6)
        heights = near.vectors @ across.T
        inside = ((heights >= interval[:, 0]) & (heights <= interval[:, 1])).all(axis=1)
        inside &= np.linalg.norm(near.vectors @ span.T, axis=1) <= radius
        ball = (1.0, 2 * radius, np.pi * radius**2, 4 / 3 * np.pi * radius**3)[len(span)]
        return _Kept(interval, float(inside.sum() / ball), _fractions(near.numbers[inside]))

    def _families(self, way: _Way) -> Iterator[tuple[str, list[Floats]]]:
        """Yield the boxes that go with each lattice, and those of free shape."""
        found = lattices(self.around.within(min(self.reach, _LATTICE_REACH)), way.span, self.rng)
        largest = self.settings.max_atoms / min(k.density for k in way.kept)
        families = candidate_boxes(found, way.span, 2 * self.core, largest, _BOXES, self.rng)
        ranks = sorted((len(b) for b in found), reverse=True)
        names = ["commensurate" if r == len(way.span) else "partly commensurate" for r in ranks]
        return zip([*names, "free"], families, strict=True) if len(way.span) else iter([("whole", families[0])])

    def _ranked(self, way: _Way, boxes: list[Floats]) -> list[tuple[Closed, Floats, _Kept]]:
        """Fill boxes; the smallest without new gamma first, then by that gamma."""
        ranked: list[tuple[tuple[int, float, int], int, Closed, Floats, _Kept]] = []
        for box, kept in list(product(boxes, way.kept))[:_FILLED]:
            size = float(np.abs(kept.interval).max(initial=0.0)) * np.sqrt(len(kept.interval))
            self._look_around(float(np.hypot(covering_radius(box) + 1.0, size)))
            room = max(self.settings.vacuum, self.cutoff)
            closed = close(self.around, box, way.across, kept.interval, room, self.core, self.allowed)
            if closed is None:
                continue
            closed = balanced(closed, self.around, self.charges, self.charge)
            if len(closed.atoms) > self.settings.max_atoms:
                continue
            gamma = evaluate(self.potential, closed.atoms)["gamma"]
            excess = float((gamma / self._limit(closed))[1:].max(initial=0.0))
            faults = self._density_fault(closed, box, kept) + self._composition_faults(closed, kept)
            key = (len(faults), 0.0 if excess <= 1 else excess, len(closed.atoms))
            ranked.append((key, len(ranked), closed, box, kept))
            if sum(k[:2] == (0, 0.0) for k, *_ in ranked) >= _ENOUGH:
                break
        return [entry[2:] for entry in sorted(ranked, key=lambda e: e[:2])]

    def _limit(self, closed: Closed) -> Floats:
        """Gamma up to which each atom is nothing new: the centre's, its own in the large cell, or 1."""
        return np.maximum(self.source_gamma[closed.places], max(self.source_gamma[0], 1.0))

    def _density_fault(self, closed: Closed, box: Floats, kept: _Kept) -> list[str]:
        ratio = len(closed.atoms) / volume(box) / kept.density
        low, high = self.settings.density_range
        return [] if low <= ratio <= high else [f"density ratio {ratio:.3f} outside of {low:g} to {high:g}"]

    def _composition_faults(self, closed: Closed, kept: _Kept) -> list[str]:
        faults = []
        element, change = kept.change(closed.atoms.numbers)
        if change > self.settings.composition_tolerance:
            faults.append(
                f"the fraction of {element} changed by {change:.3f}, tolerated {self.settings.composition_tolerance:g}"
            )
        total = sum(self.charges.get(s, 0.0) for s in closed.atoms.get_chemical_symbols())
        low, high = self.charge
        if not low - 1e-6 <= total <= high + 1e-6:
            faults.append(f"the charges {self.charges} add up to {total:g} in {closed.atoms.get_chemical_formula()}")
        return faults

    def _finished(self, closed: Closed, box: Floats, kept: _Kept, name: str) -> Cutout:
        """Relax and check."""
        limit = self._limit(closed)
        settings = self.settings
        atoms, gamma, steps = relax_seam(
            closed, self.calculator, self.core, settings.relax_steps, settings.relax_fmax, limit
        )
        results = evaluate(self.potential, atoms)
        others = gamma[1:]
        new = others[others > self.source_gamma[closed.places][1:] * (1 + 1e-9)].max(initial=0.0)
        before, after = float(self.source_gamma[0]), float(gamma[0])
        free_forces = np.linalg.norm(results["forces"][~closed.core], axis=1)
        seam_force = float(free_forces.max(initial=0.0))
        problems = self._density_fault(closed, box, kept) + self._composition_faults(closed, kept)
        if not abs(after - before) <= GAMMA_KEPT * max(1.0, before):
            problems.append(f"gamma of the centre changed from {before:.10g} to {after:.10g}")
        if (gamma[1:] > limit[1:] * (1 + 1e-9)).any():
            problems.append(f"an atom outside of the centre has gamma {new:.3f}, more than the centre's {before:.3f}")
        if seam_force > max(self.largest_force, settings.relax_fmax):
            problems.append(
                f"a force in the seam is {seam_force:.2f} eV/A, around the centre in the large cell at most "
                f"{self.largest_force:.2f}"
            )
        if contact := shortest_contact(atoms, settings.minimum_distance_ratio):
            problems.append(f"{contact[0]}-{contact[1]} {contact[2]:.3f} A apart, allowed {contact[3]:.3f} A")
        source_index = self.around.indices[closed.places]
        final = _labelled(atoms, self.source, source_index, closed.core)
        return Cutout(
            atoms=final,
            centre=0,
            source_centre=self.centre,
            source_index=source_index,
            core=closed.core,
            box=name,
            gamma_before=before,
            gamma_after=after,
            seam_gamma=float(others.max(initial=0.0)),
            new_gamma=float(new),
            energy_change=float(results["energies"][0] - self.source_energy),
            force_change=float(np.linalg.norm(results["forces"][0] - self.source_force)),
            density_ratio=len(atoms) / volume(box) / kept.density,
            composition_change=kept.change(atoms.numbers)[1],
            n_removed=closed.n_removed,
            relax_steps=steps,
            seam_force=seam_force,
            problems=tuple(problems),
        )


def evaluate(potential: ACEPotential, atoms: Atoms) -> dict[str, Floats]:
    """Evaluate the potential: gamma, energies (eV) and forces (eV/A) of all atoms."""
    if not potential.active_set_inverse:
        raise InvalidInputError("the potential has no active set, so gamma is unknown; give its .asi file")
    if atoms.pbc.any() and not atoms.pbc.all():  # which pyace does not take; vacuum comes to the same
        atoms = atoms.copy()
        for axis in np.flatnonzero(~atoms.pbc):
            atoms.center(vacuum=potential.cutoff, axis=axis)
        atoms.pbc = True
    calculator = potential.calculator()
    calculator.calculate(atoms)
    return {name: np.asarray(calculator.results[name]) for name in ("gamma", "energies", "forces")}


def _fractions(numbers: NDArray[np.int_]) -> dict[int, float]:
    return {int(z): float(np.mean(numbers == z)) for z in np.unique(numbers)}


def _labelled(atoms: Atoms, source: Atoms, source_index: NDArray[np.int_], core: NDArray[np.bool_]) -> Atoms:
    """Give the cell what the large one knows of each atom, and where it came from."""
    like = bare_copy(source)[source_index]
    like.cell, like.pbc, like.positions = atoms.cell, True, atoms.positions
    like.info = {"origin": "cutout", "centre": 0}
    like.set_array("source_index", source_index)
    like.set_array("core", core)
    return like
