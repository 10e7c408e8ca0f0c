"""One cut-out: try the boxes that there are around an atom, and check what comes of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.cutouts.boundaries import Closed, balanced, close, oxidation_states, relax_boundary, usual_distances
from mlip_autopipec.cutouts.boxes import DENSEST, candidate_boxes, covering_radius, volume
from mlip_autopipec.cutouts.layout import Kept, Way, ways
from mlip_autopipec.cutouts.surroundings import lattices, surroundings, with_open_vacuum
from mlip_autopipec.errors import InvalidInputError, MLIPError
from mlip_autopipec.structures.distances import shortest_contact
from mlip_autopipec.structures.distort import bare_copy
from mlip_autopipec.structures.frozen import FROZEN, frozen_atoms
from mlip_autopipec.structures.periodicity import boxed
from mlip_autopipec.structures.provenance import Origin, mark

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

    from mlip_autopipec.cutouts.settings import CutoutSettings
    from mlip_autopipec.potentials.calculators import ACECalculator, GRACEFSCalculator
    from mlip_autopipec.potentials.potential import ACEPotential

    Floats = NDArray[np.float64]

#: Gamma of the centre has to be kept to this, relative to 1 or to gamma itself if that is larger.
GAMMA_KEPT = 1e-8
#: Lattices are looked for, and densities counted, within this times the core radius.
_AROUND = 2.4
#: A box is ranked by its size times 1 + its largest force over this (eV/A): it may not relax.
_FORCE_SCALE = 10.0
#: Forces in the large cell are known within this times r_c of the centre.
_FORCES = 0.5
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
    boundary_gamma
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
    boundary_force
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
    boundary_gamma: float
    new_gamma: float
    energy_change: float
    force_change: float
    density_ratio: float
    composition_change: float
    n_removed: int
    relax_steps: int
    boundary_force: float
    problems: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line for a log."""
        lengths = " x ".join(f"{x:.2f}" for x in self.atoms.cell.lengths())
        return (
            f"<Cutout of atom {self.source_centre}: {self.atoms.get_chemical_formula()}, {len(self.atoms)} atoms "
            f"({int(self.core.sum())} core), {self.box} box {lengths} A, gamma {self.gamma_before:.3f} -> "
            f"{self.gamma_after:.3f} (change {self.gamma_after - self.gamma_before:.1e}), others at most "
            f"{self.boundary_gamma:.3f}, density ratio {self.density_ratio:.3f}, {self.n_removed} removed, "
            f"{self.relax_steps} FIRE steps to {self.boundary_force:.2f} eV/A, force on the centre changed by "
            f"{self.force_change:.3f} eV/A{'; PROBLEMS: ' + '; '.join(self.problems) if self.problems else ''}>"
        )


@dataclass
class Cutting:
    """The work on one centre."""

    settings: CutoutSettings
    source: Atoms
    potential: ACEPotential
    centre: int
    seed: int
    grades: Floats | None = None

    def __post_init__(self) -> None:
        self.calculator = grading_calculator(self.potential)
        self.cutoff = self.potential.cutoff
        self.core = self.settings.core_ratio * self.cutoff
        self.rng = np.random.default_rng(self.seed)
        self.reach = _AROUND * self.core
        self.opened = with_open_vacuum(self.source, self.cutoff)
        self.attempts: list[Cutout] = []
        self.near = surroundings(self.opened, self.centre, self.reach)
        self.around = self.near.within(0.0)
        self.allowed = usual_distances(self.near, self.settings.minimum_distance_ratio)
        given = self.settings.oxidation_states
        self.charges = oxidation_states(self.source) if given is None else given
        total = sum(self.charges.get(s, 0.0) for s in self.source.get_chemical_symbols())
        #: a defect of the large cell may be in the cut-out or not
        self.charge = (min(total, 0.0), max(total, 0.0))

    def best(self) -> Cutout:
        """Try one family of boxes after the other."""
        self._check_core()
        # the force on an atom depends on all within 2 r_c of it
        wide = surroundings(self.opened, self.centre, (2 + _FORCES) * self.cutoff)
        results = evaluate(self.calculator, wide.cluster())
        self.gamma, self.energy, self.force = results["gamma"][0], results["energies"][0], results["forces"][0]
        exact = wide.distances <= _FORCES * self.cutoff
        self.largest_force = float(np.linalg.norm(results["forces"][exact], axis=1).max())
        needed = []
        for way in ways(self.opened, self.centre, self.core, self.reach):
            width, density = 2 * self.core, min(k.density for k in way.kept)
            least = DENSEST[len(way.span)] * width ** len(way.span) * density
            needed.append(int(np.ceil(least)))
            if least > self.settings.max_atoms:
                continue
            families = self._families(way)
            for k, (name, boxes) in enumerate(families):
                left = self.settings.max_relaxed - len(self.attempts)
                share = -(-left // (len(families) - k))
                for closed, box, kept in self._ranked(way, name, boxes)[:share]:
                    cutout = self._finished(closed, box, kept, name)
                    if not cutout.problems:
                        return cutout
                    self.attempts.append(cutout)
        if min(needed) > self.settings.max_atoms:
            raise CutoutError(
                f"a cut-out around atom {self.centre} needs at least {min(needed)} atoms: it has to be "
                f"{2 * self.core:.1f} A wide ({2 * self.settings.core_ratio:g} times r_c = {self.cutoff:.2f} A), but "
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
        """Take the surroundings up to a radius, and gamma of each atom in the large cell."""
        if radius <= self.around.radius:
            return
        self.around = surroundings(self.opened, self.centre, radius)
        if self.grades is not None:
            self.source_gamma = self.grades[self.around.indices]
            self.source_gamma[0] = self.gamma
        else:  # a cluster in which their own surroundings are complete
            wider = surroundings(self.opened, self.centre, radius + self.cutoff)
            self.source_gamma = evaluate(self.calculator, wider.cluster())["gamma"]
            self.around = wider.within(radius)

    def _check_core(self) -> None:
        core = self.near.within(self.core).cluster()
        if contact := shortest_contact(core, self.settings.minimum_distance_ratio):
            raise CutoutError(
                f"within r_c of atom {self.centre} a pair {contact[0]}-{contact[1]} is {contact[2]:.3f} A apart "
                f"(allowed {contact[3]:.3f} A), and the inner region must not change; cut out of an earlier frame"
            )

    def _families(self, way: Way) -> list[tuple[str, list[Floats]]]:
        """Return the boxes that go with each lattice, and those of free shape."""
        found = lattices(self.near.within(min(self.reach, _LATTICE_REACH)), way.span, self.rng)
        largest = self.settings.max_atoms / min(k.density for k in way.kept)
        families = candidate_boxes(found, way.span, 2 * self.core, largest, _BOXES, self.rng)
        ranks = sorted((len(b) for b in found), reverse=True)
        names = ["commensurate" if r == len(way.span) else "partly commensurate" for r in ranks]
        return list(zip([*names, "free"] if len(way.span) else ["whole"], families, strict=True))

    def _ranked(self, way: Way, name: str, boxes: list[Floats]) -> list[tuple[Closed, Floats, Kept]]:
        """
        Fill boxes and sort them by how good they are before they are relaxed.

        First those without new gamma, small ones of small forces before others; then by that gamma.
        """
        ranked: list[tuple[tuple[int, float, float], int, Closed, Floats, Kept]] = []
        tasks = list(product(boxes, way.kept))[:_FILLED]
        if not tasks:
            return []
        room = max(self.settings.vacuum, self.cutoff)
        self._look_around(max(float(np.hypot(covering_radius(box) + 1.0, kept.height)) for box, kept in tasks))
        for box, kept in tasks:
            closed = close(self.around, box, way.across, kept.interval, room, self.core, self.allowed)
            if closed is None:
                continue
            closed = balanced(closed, self.around, self.charges, self.charge)
            if len(closed.atoms) > self.settings.max_atoms:
                continue
            results = evaluate(self.calculator, closed.atoms)
            excess = float((results["gamma"] / self._limit(closed))[1:].max(initial=0.0))
            faults = self._density_fault(closed, box, kept) + self._composition_faults(closed, kept)
            largest = float(np.linalg.norm(results["forces"][~closed.core], axis=1).max(initial=0.0))
            key = (len(faults), 0.0 if excess <= 1 else excess, len(closed.atoms) * (1 + largest / _FORCE_SCALE))
            ranked.append((key, len(ranked), closed, box, kept))
            if name == "commensurate" and sum(k[:2] == (0, 0.0) for k, *_ in ranked) >= _ENOUGH:
                break
        return [entry[2:] for entry in sorted(ranked, key=lambda e: e[:2])]

    def _limit(self, closed: Closed) -> Floats:
        """Gamma up to which each atom is accepted: the centre's, its own in the large cell, or ``gamma_min``."""
        accepted = max(self.settings.max_boundary_ratio * self.gamma, self.settings.gamma_min, 1.0)
        return np.maximum(self.source_gamma[closed.places], accepted)

    def _density_fault(self, closed: Closed, box: Floats, kept: Kept) -> list[str]:
        ratio = len(closed.atoms) / volume(box) / kept.density
        low, high = self.settings.density_range
        return [] if low <= ratio <= high else [f"density ratio {ratio:.3f} outside of {low:g} to {high:g}"]

    def _composition_faults(self, closed: Closed, kept: Kept) -> list[str]:
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

    def _finished(self, closed: Closed, box: Floats, kept: Kept, name: str) -> Cutout:
        """Relax and check."""
        limit = self._limit(closed)
        settings = self.settings
        source_index = self.around.indices[closed.places]
        held = np.isin(source_index, frozen_atoms(self.source))
        atoms, gamma, steps = relax_boundary(
            closed, self.calculator, self.core, settings.relax_steps, settings.relax_fmax, limit, held
        )
        results = evaluate(self.calculator, atoms)
        others = gamma[1:]
        new = others[others > self.source_gamma[closed.places][1:] * (1 + 1e-9)].max(initial=0.0)
        before, after = float(self.gamma), float(gamma[0])
        free_forces = np.linalg.norm(results["forces"][~(closed.core | held)], axis=1)
        boundary_force = float(free_forces.max(initial=0.0))
        problems = self._density_fault(closed, box, kept) + self._composition_faults(closed, kept)
        if not abs(after - before) <= GAMMA_KEPT * max(1.0, before):
            problems.append(f"gamma of the centre changed from {before:.10g} to {after:.10g}")
        if (gamma[1:] > limit[1:] * (1 + 1e-9)).any():
            problems.append(f"an atom outside of the centre has gamma {new:.3f}, more than the centre's {before:.3f}")
        if boundary_force > max(self.largest_force, settings.max_boundary_force):
            problems.append(
                f"a force in the boundary region is {boundary_force:.2f} eV/A, around the centre "
                f"in the large cell at most {self.largest_force:.2f}"
            )
        if contact := shortest_contact(atoms, settings.minimum_distance_ratio):
            problems.append(f"{contact[0]}-{contact[1]} {contact[2]:.3f} A apart, allowed {contact[3]:.3f} A")
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
            boundary_gamma=float(others.max(initial=0.0)),
            new_gamma=float(new),
            energy_change=float(results["energies"][0] - self.energy),
            force_change=float(np.linalg.norm(results["forces"][0] - self.force)),
            density_ratio=len(atoms) / volume(box) / kept.density,
            composition_change=kept.change(atoms.numbers)[1],
            n_removed=closed.n_removed,
            relax_steps=steps,
            boundary_force=boundary_force,
            problems=tuple(problems),
        )


def grading_calculator(potential: ACEPotential) -> ACECalculator | GRACEFSCalculator:
    """Return the calculator of a potential whose gamma is known."""
    if not potential.active_set_inverse:
        raise InvalidInputError("the potential has no active set, so gamma is unknown; give its .asi file")
    return potential.calculator()


def evaluate(calculator: ACECalculator | GRACEFSCalculator, atoms: Atoms) -> dict[str, Floats]:
    """Evaluate a potential's calculator: gamma, energies (eV) and forces (eV/A) of all atoms."""
    if atoms.pbc.any():  # pyace takes all or no periodic directions
        atoms = boxed(atoms, 2 * calculator.cutoff)
    calculator.calculate(atoms)
    return {name: np.array(calculator.results[name]) for name in ("gamma", "energies", "forces")}


def _labelled(atoms: Atoms, source: Atoms, source_index: NDArray[np.int_], core: NDArray[np.bool_]) -> Atoms:
    """Copy the arrays of the large cell for each atom, and its provenance."""
    like = bare_copy(source)[source_index]
    like.cell, like.pbc, like.positions = atoms.cell, True, atoms.positions
    like.info = {"centre": 0}
    mark(like, origin=Origin.CUTOUT)
    like.set_array("source_index", source_index)
    like.set_array("core", core)
    if FROZEN in source.arrays:
        like.set_array(FROZEN, np.asarray(source.arrays[FROZEN], dtype=bool)[source_index])
    return like
