"""Barriers between two given states: the minimum energy path by the potential, labelled where it matters."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import FIRE

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.errors import InvalidInputError, check_number, check_whole
from mlip_autopipec.frames import pack_frames, unpack_frames
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.structures.electrons import take_over
from mlip_autopipec.structures.frozen import FROZEN, constrained_atoms, freeze, frozen_atoms
from mlip_autopipec.structures.intake import take_in
from mlip_autopipec.structures.periodicity import boxed
from mlip_autopipec.structures.provenance import Origin, Provenance
from mlip_autopipec.structures.readers import read_structure
from mlip_autopipec.validation.comparison import PropertyComparison
from mlip_autopipec.validation.criteria import Criterion
from mlip_autopipec.validation.crystals import evaluate
from mlip_autopipec.validation.end_states import check_states
from mlip_autopipec.validation.path_labels import ENDS, HIGHEST, UNCONVERGED, PathLabels, as_data, told_back, told_off

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase.calculators.calculator import Calculator

logger = logging.getLogger(__name__)

#: A path further than this from a line would not be one between these states any more.
_FARTHEST_A = 4.0


@dataclass(frozen=True)
class EnergyPath:
    """
    A path between two states.

    Parameters
    ----------
    images
        From the initial to the final state, both relaxed, with the frozen atoms marked.
    energies_eV
        Of the images, shape (n_images + 2,).
    converged
        Whether forces across the path, and on the relaxed ends, are below what was asked for.
    """

    images: list[Atoms]
    energies_eV: list[float]
    converged: bool

    @property
    def barrier_eV(self) -> float:
        """Energy of the highest image above the initial state in eV."""
        return max(self.energies_eV) - self.energies_eV[0]

    @property
    def highest(self) -> int:
        """Index of the highest image."""
        return int(np.argmax(self.energies_eV))


def find_path(
    initial: Atoms, final: Atoms, calculator: Calculator, n_images: int = 5, fmax: float = 0.02, steps: int = 200
) -> EnergyPath:
    """
    Relax two states and the path between them, by the nudged elastic band of ASE with a climbing image.

    Parameters
    ----------
    initial, final
        The same atoms in the same order in the same cell; those marked as frozen rest.
    calculator
        Any ASE calculator; serves all images one after the other.
    n_images
        Images between the ends.
    fmax
        Largest force in eV/A at which ends and path are converged.
    steps
        Most steps of each relaxation.
    """
    ends = []
    converged = True
    for state in (initial, final):
        work = _held(state)
        work.calc = calculator
        converged &= bool(FIRE(work, logfile=None).run(fmax=fmax, steps=steps))
        work.calc = None
        ends.append(work)
    images = [ends[0], *(ends[0].copy() for _ in range(n_images)), ends[1]]
    band = NEB(images, k=0.1, climb=False, allow_shared_calculator=True, method="improvedtangent")
    band.interpolate("idpp", mic=True)
    line = [image.positions.copy() for image in images]
    for image in images:
        image.calc = calculator
    FIRE(band, logfile=None).run(fmax=max(5 * fmax, 0.1), steps=steps)
    band.climb = True
    converged &= bool(FIRE(band, logfile=None).run(fmax=fmax, steps=steps))
    off = max(float(np.abs(image.positions - start).max()) for image, start in zip(images, line, strict=True))
    if not off < _FARTHEST_A:  # a potential that knows nothing there: what it is asked about is the line
        converged = False
        for image, start in zip(images, line, strict=True):
            image.positions = start
    energies = [result.energy for result in evaluate(images, calculator)]
    return EnergyPath([_bare(image) for image in images], energies, converged)


def _held(state: Atoms) -> Atoms:
    work = state.copy()
    work.set_constraint(FixAtoms(frozen_atoms(state)) if FROZEN in state.arrays else None)
    return work


def _bare(image: Atoms) -> Atoms:
    plain = Atoms(image.numbers, image.positions, cell=image.cell, pbc=image.pbc)
    if FROZEN in image.arrays:
        plain.set_array(FROZEN, image.arrays[FROZEN])
    return take_over(image, plain)


@dataclass
class BarrierCriterion(Criterion):
    """
    The barrier between two states, by the potential and by the oracle on the potential's own path.

    At each check the path is found with the present potential. Both ends, the highest image and each image of high
    gamma are labelled; while the criterion fails, they are trained on as the labels of every failed check are. It
    passes when the barrier is that of the oracle, the highest of all images it labelled, when each labelled image is as
    far above the initial state as by the oracle, and the oracle's forces on ends and highest image are small, so that
    its own path goes through the same states.

    Parameters
    ----------
    initial, final
        Structure files of the two states, the same atoms in the same order in the same cell; in Python ase.Atoms, too.
        Atoms that they fix rest. The oracle labels whole images, so the cell has to be as small as one label may be.
    name
        Tells several barriers of one campaign from each other.
    tolerance_eV
        Most that the barrier, and the energy of each labelled image above the initial state, may be off, in eV.
    force_tolerance_eV_A
        Most that the oracle's forces on ends and highest image may be, in eV/A: relaxed by the potential, they are
        zero by the potential.
    n_images
        Images between the ends.
    fmax
        Largest force in eV/A at which the path is converged.
    steps
        Most steps of each relaxation.
    gamma_min
        Images whose gamma is above are labelled, too.
    """

    #: Fields that name files in a run file.
    FILES: ClassVar[tuple[str, ...]] = ("initial", "final")

    initial: str
    final: str
    name: str = "barrier"
    tolerance_eV: float = 0.01
    force_tolerance_eV_A: float = 0.15
    n_images: int = 5
    fmax: float = 0.02
    steps: int = 200
    gamma_min: float = 1.0

    def __post_init__(self) -> None:
        """Read the states: they travel with the jobs, not their paths."""
        given = self.initial, self.final
        self.initial, self.final = (_packed(getattr(self, which), which) for which in self.FILES)
        a, b = self.states()
        where = b.positions.copy()
        remarks = check_states(a, b)
        if (b.positions != where).any():
            self.final = pack_frames([_bare(b)])
        if given != (self.initial, self.final):  # not where jobs make it again
            for remark in remarks:
                _say(f"BarrierCriterion '{self.name}': {remark}")
        if not a.pbc.all():  # as the structures of a campaign: potentials know periodic cells only
            box = boxed(a)
            b.positions += box.positions[0] - a.positions[0]
            b.set_cell(box.cell)
            b.pbc = box.pbc
            self.initial, self.final = pack_frames([_bare(box)]), pack_frames([_bare(b)])
        for name in ("n_images", "steps"):
            check_whole(f"BarrierCriterion.{name}", getattr(self, name))
        for name in ("tolerance_eV", "force_tolerance_eV_A", "fmax", "gamma_min"):
            check_number(f"BarrierCriterion.{name}", getattr(self, name))
        if self.gamma_min < 0:
            raise InvalidInputError.of("BarrierCriterion.gamma_min", f"is {self.gamma_min}; 0 labels each image")
        for name in ("tolerance_eV", "force_tolerance_eV_A", "n_images", "fmax", "steps"):
            if not 0 < getattr(self, name) < np.inf:
                raise InvalidInputError.of(
                    f"BarrierCriterion.{name}", f"is {getattr(self, name)}; it has to be positive"
                )

    def states(self) -> tuple[Atoms, Atoms]:
        """Return both states as they were given."""
        return unpack_frames(self.initial)[0], unpack_frames(self.final)[0]

    def check(self, atoms: Atoms | Sequence[Atoms], *, gamma_only: bool = False) -> None:
        """Refuse states of elements that the campaign has not."""
        del gamma_only
        frames = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        known = {s for frame in frames for s in frame.get_chemical_symbols()}
        if unknown := sorted(set(self.states()[0].get_chemical_symbols()) - known):
            raise InvalidInputError.of(
                "BarrierCriterion.initial", f"holds {unknown}, which no structure of the campaign has; add one"
            )

    def structures(self, atoms: Atoms | Sequence[Atoms]) -> list[Atoms]:  # noqa: ARG002
        """Return nothing: what is labelled depends on the potential."""
        return []

    def structures_by(self, atoms: Atoms | Sequence[Atoms], potential: ACEPotential) -> list[Atoms]:  # noqa: ARG002
        """Find the path by the potential; return its ends, its highest image, and the images of high gamma."""
        path = find_path(*self.states(), potential.calculator(), self.n_images, self.fmax, self.steps)
        last = len(path.images) - 1
        gammas = [float(compute_gamma(potential, image).max()) for image in path.images]
        names = {0: ENDS[0], last: ENDS[1]}
        if 0 < path.highest < last:
            names[path.highest] = HIGHEST
        else:  # no barrier at all: the middle tells whether that is so
            names[(last + 1) // 2] = HIGHEST
        names |= {i: f"image {i}" for i, gamma in enumerate(gammas) if gamma > self.gamma_min and i not in names}
        logger.info(
            "%s: %.3f eV by the potential%s, largest gamma %.2f",
            self.name,
            path.barrier_eV,
            "" if path.converged else UNCONVERGED,
            max(gammas),
        )
        cells = []
        for i, name in sorted(names.items()):
            cell = path.images[i].copy()
            purpose = f"{self.name}: {name}{'' if path.converged else UNCONVERGED}"
            Provenance(Origin.PROPERTY, purpose=purpose).mark(cell)
            cells.append(cell)
        return cells

    def compare(
        self,
        atoms: Atoms | Sequence[Atoms],
        labelled: Sequence[Atoms],
        potential: ACEPotential | Calculator,
        failures: Mapping[str, str] | None = None,
    ) -> list[PropertyComparison]:
        """Compare barrier and forces on the labelled images; see :meth:`.Criterion.compare`."""
        del atoms
        of, kind = self.states()[0].get_chemical_formula(), type(self).__name__
        path = PathLabels.of(labelled, self.name)
        if missing := path.missing():
            own = {purpose: why for purpose, why in (failures or {}).items() if purpose.startswith(f"{self.name}: ")}
            reason = f"the labels of {', '.join(missing)} are missing"
            reason += f": {next(iter(own.values()))}" if own else ""
            return [PropertyComparison(of, kind, self.name, "eV", "not_measured", reason=reason)]
        learnt = path.potential_eV(potential.calculator() if isinstance(potential, ACEPotential) else potential)
        oracle = path.oracle_eV()
        highest, mine = max(oracle.values()), max(learnt.values())
        off = abs(mine - highest)
        doubts = [why for why in (path.doubt(learnt), told_off(oracle, learnt, self.tolerance_eV)) if why is not None]
        is_right = off <= self.tolerance_eV and not doubts
        largest = path.largest_force()
        is_small = largest <= self.force_tolerance_eV_A
        return [
            PropertyComparison(
                of,
                kind,
                self.name,
                "eV",
                "passed" if is_right else "failed",
                highest,
                mine,
                off,
                self.tolerance_eV,
                "; ".join([*doubts, told_back(oracle, learnt)]),
                as_data(oracle, learnt),
            ),
            PropertyComparison(
                of,
                kind,
                f"largest force on ends and highest image of {self.name}",
                "eV/A",
                "passed" if is_small else "failed",
                largest,
                0.0,
                largest,
                self.force_tolerance_eV_A,
            ),
        ]


@cache
def _say(remark: str) -> None:
    """Tell what is worth knowing once, however often a criterion is made."""
    logger.warning("%s", remark)


def _packed(given: str | Path | Atoms, which: str) -> str:
    """Return a state as text: of a file, of what this made before, or of ase.Atoms."""
    if isinstance(given, Atoms):
        atoms = _as_it_is(given, which)
    else:
        text = str(given)
        try:
            unpack_frames(text)
        except Exception:
            atoms = _read(Path(text), which)
        else:
            return text
    if atoms.constraints:
        atoms = freeze(atoms, constrained_atoms(atoms))
    plain = _bare(atoms)
    return pack_frames([plain])


def _read(path: Path, which: str) -> Atoms:
    try:
        found = read_structure(path).structure
        return _as_it_is(found, f"'{path}'")
    except InvalidInputError as error:
        why = str(error).removeprefix("structures.file: ")
        raise InvalidInputError.of(f"BarrierCriterion.{which}", f"is '{path}', which cannot be read: {why}") from error


def _as_it_is(given: Any, what: str) -> Atoms:
    """Return a state where it is in its file, which the door may wrap otherwise, with the electrons the door found."""
    taken = take_in(given, what).atoms  # refuses what no structure may be
    if not isinstance(given, Atoms):
        return taken
    return take_over(taken, given.copy())
