"""The first dataset: few structures that span volume, strain, displacement and pairs of elements.

Diversity of amplitude and volume counts more than number: with rattles of one amplitude at one
volume gamma reaches 1e3 a few percent of strain away, with mixed ones it stays near 1.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from ase import Atoms
from monty.json import MSONable

from mlip_autopipec.cutouts.pieces import cut_pieces
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.moved import dropped_fields
from mlip_autopipec.structures.dimers import DimerGenerator
from mlip_autopipec.structures.distances import MINIMUM_DISTANCE_RATIO, minimum_distances, shortest_contact
from mlip_autopipec.structures.distort import bare_copy, deform, random_deformation, rattle, same_structure
from mlip_autopipec.structures.electrons import has_total
from mlip_autopipec.structures.periodicity import Shape, shape_of
from mlip_autopipec.structures.provenance import Origin, Provenance, Split, mark
from mlip_autopipec.structures.supercells import nearly_cubic_supercell, pair_coverage, with_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

#: A rattle is repeated so often, each time this much smaller, until nothing is too close.
_MAX_ATTEMPTS = 30
_SHRINK = 0.9
#: Distances above this (Angstrom) are no matter of the core repulsion.
_NEAR = 4.0
#: Where the number of structures is not given: the fewest of each kind, the most that are made for the functions of a
#: basis, and how many atoms all of them have at most where an element is rare, relative to those asked for of each
#: element (docs/benchmarks.md).
_FEWEST, _MOST, _MOST_ATOMS = 4, 40, 16
#: Cell of an isolated atom in Angstrom: wide enough to be alone, and without the symmetry of a
#: cube, which would force a spherical, hence wrong, density on an open shell.
ATOM_BOX_A = (14.0, 14.5, 15.0)
#: Part of the host's sites that is substituted, in turn: one atom, a quarter, half of them.
_SUBSTITUTED = (0.0, 0.25, 0.5)


@dropped_fields("pair_cutoff")
@dataclass
class StructureGenerator(MSONable):
    """
    Makes the structures that the first potential is trained on.

    Parameters
    ----------
    n_structures
        Structures made from each given structure, including the undistorted supercell. None makes few, four with
        ``n_atoms`` of each element in all or as many as that takes: what they leave unknown, MD meets, and what it
        meets is worth more than displacements at random.
    n_atoms
        Where ``n_structures`` is None. Of an element that is rare, fewer: all structures together hold at most 16 times
        as many atoms.
    n_test
        Further structures of the same kind, over all together: the held-out set. Shorter distances than in the training
        structures are avoided. None are needed where the trainer tells the error of each label left out of the fit.
    max_atoms
        Largest supercell.
    n_pieces
        A structure that is too large to be labelled whole is represented by at most so many cut-outs, around atoms
        whose surroundings differ most; see :func:`~mlip_autopipec.cutouts.pieces.cut_pieces`.
    min_width
        Smallest distance of opposite cell faces in Angstrom, where possible: twice the cutoff.
    volume_window
        Smallest and largest volume relative to the user's structure.
    strain
        Largest component of the tetragonal and shear strain.
    rattle_amplitudes
        Standard deviations of the displacements per Cartesian component in Angstrom, used in
        turn. Copper has 0.07 at 300 K and 0.15 at 1200 K.
    minimum_distance_ratio
        No pair closer than this times the sum of the covalent radii.
    cover_pairs
        Add structures in which each missing pair of elements is neighbours, but for pairs that no molecule has both
        atoms of, where there are molecules alone.
    n_pair_structures
        Number of structures for each missing pair.
    isolated_atoms
        Add each element as a single atom in a box. Their energies become the reference energies
        of the potential; they are not trained on.
    dimers
        Add dimers of each pair of elements. Where the structures hold no short distances, by small
        ``rattle_amplitudes``, they add data at short range, where there would be the core repulsion only; trainers
        give them little weight. None adds none.
    n_atoms_of_basis
        As many atoms of each element as a basis of a given number of functions asks for, but no more than 40 structures
        of each kind for it; a loop sets it.
    """

    n_structures: int | None = None
    n_atoms: int = 40
    n_test: int = 0
    max_atoms: int = 64
    n_pieces: int = 4
    min_width: float = 10.0
    volume_window: tuple[float, float] = (0.85, 1.2)
    strain: float = 0.05
    rattle_amplitudes: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.15, 0.2, 0.3])
    minimum_distance_ratio: float = MINIMUM_DISTANCE_RATIO
    cover_pairs: bool = True
    n_pair_structures: int = 6
    isolated_atoms: bool = False
    dimers: DimerGenerator | None = None
    n_atoms_of_basis: int = 0

    #: Distance in Angstrom up to which two atoms are neighbours.
    pair_cutoff: ClassVar[float] = 5.0

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        for name, least in (
            ("n_structures", 1),
            ("n_atoms", 1),
            ("n_test", 0),
            ("max_atoms", 1),
            ("n_pieces", 1),
            ("n_pair_structures", 1),
        ):
            if (value := getattr(self, name)) is not None and not value >= least:
                raise InvalidInputError.of(f"StructureGenerator.{name}", f"is {value}; it has to be at least {least}")
        low, high = self.volume_window
        if not 0 < low <= high:
            raise InvalidInputError.of(
                "StructureGenerator.volume_window",
                f"is {self.volume_window}; give two positive factors, smallest first",
            )
        if not 0 <= self.strain < 0.5:
            raise InvalidInputError.of("StructureGenerator.strain", f"is {self.strain}; give a value in [0, 0.5)")
        if not self.rattle_amplitudes or min(self.rattle_amplitudes) < 0:
            raise InvalidInputError.of(
                "StructureGenerator.rattle_amplitudes", f"is {self.rattle_amplitudes}; give one or more in Angstrom"
            )
        self.volume_window = (float(low), float(high))  # a list after a round trip through JSON
        if isinstance(self.dimers, dict):  # from a run file
            self.dimers = DimerGenerator.from_dict(self.dimers)

    def generate(self, structures: Sequence[Atoms], seed: int = 0, largest: int | None = None) -> list[Atoms]:
        """
        Make the first dataset.

        Parameters
        ----------
        structures
            Bulk cells, surfaces or molecules of the material, near equilibrium.
        seed
            Same seed, same structures.
        largest
            Structures of more atoms are not taken whole: pieces of at most so many are cut out of them. None: all are.

        Returns
        -------
        list of ase.Atoms
            ``n_structures`` of each structure (one of an isolated atom), then those of missing
            pairs, then dimers, then ``n_test``, then the isolated atoms;
            without calculators. ``info["origin"]`` is ``seed_ideal`` (undistorted),
            ``seed_piece`` (cut out, undistorted), ``seed_rattled`` (volume and displacements),
            ``seed_strained`` (shear and tetragonal strain as well), ``seed_pair``, ``dimer`` or
            ``isolated_atom``; ``info["split"]`` is ``train``, ``test`` or ``reference``.

        Raises
        ------
        InvalidInputError
            Without structures, if one is empty or has too close a pair, or a missing pair of
            elements cannot be made.
        """
        if not structures:
            raise InvalidInputError("structures is empty; give at least one structure of the material")
        rng = np.random.default_rng(seed)
        parents_of: list[list[Atoms]] = []
        for k, atoms in enumerate(structures):
            if len(atoms) == 0:
                raise InvalidInputError(f"structures[{k}] is empty; give a structure of at least one atom")
            contact = shortest_contact(atoms, self.minimum_distance_ratio)
            if contact is not None:
                raise InvalidInputError(
                    f"structures[{k}] ({atoms.get_chemical_formula()}): {contact[0]}-{contact[1]} are {contact[2]:.3f} "
                    f"A apart, allowed are {contact[3]:.3f} A (minimum_distance_ratio {self.minimum_distance_ratio})"
                )
            parents_of.append(self._parents(atoms, largest, rng))
        cells = [cell for parents in parents_of for cell in parents]
        enough = enough_structures([parents[0] for parents in parents_of], self.n_atoms, self.n_atoms_of_basis)
        made: list[Atoms] = []
        for parents in parents_of:
            # pieces are distorted as well, each once
            n_structures = self.n_structures or max(enough, 2 * len(parents))
            # an isolated atom has no variants, but its energy is a reference energy
            count = 0 if _isolated(parents[0]) else n_structures - len(parents)
            varied = [parents[n % len(parents)] for n in range(count)]
            made += [*(cell.copy() for cell in parents), *self._spread_over(varied, rng, made, None)]
        parents = [cell for cell in cells if not _isolated(cell)]
        if self.cover_pairs:
            for pair, count in pair_coverage(cells, self.pair_cutoff).items():
                if count == 0 and _can_hold(cells, pair):
                    hosts = [self._pair_cell(cells, pair, k, rng) for k in range(self.n_pair_structures)]
                    if shape_of(hosts[-1]) is not Shape.CLUSTER:  # HO2 says nothing of a water molecule
                        parents.append(hosts[-1])
                    made += self._spread_over(hosts, rng, made, Origin.SEED_PAIR)
        for atoms in made:
            mark(atoms, split=Split.TRAIN)
        # parents in turn, so that a small test set still holds every material
        chosen = [parents[k % len(parents)] for k in range(self.n_test if parents else 0)]
        test = self._spread_over(chosen, rng, made, None, held_out=True)
        for atoms in test:
            mark(atoms, split=Split.TEST)
        elements = sorted({s for atoms in cells for s in atoms.get_chemical_symbols()})
        dimers = [] if self.dimers is None else self.dimers.generate(elements)
        return [*made, *dimers, *test, *(isolated_atom(e) for e in elements if self.isolated_atoms)]

    def _parents(self, atoms: Atoms, largest: int | None, rng: np.random.Generator) -> list[Atoms]:
        """Return the cells that stand for a structure: a supercell of it, or pieces."""
        if largest is None or len(atoms) <= largest:
            cells, origin = (
                [nearly_cubic_supercell(bare_copy(atoms), self.max_atoms, self.min_width)],
                Origin.SEED_IDEAL,
            )
        else:
            n_pieces, origin = min(self.n_pieces, self.n_structures or self.n_pieces), Origin.SEED_PIECE
            cells = cut_pieces(atoms, n_pieces, largest, self.min_width, rng, self.minimum_distance_ratio)
        for cell in cells:
            mark(cell, origin=origin)
        return cells

    def _spread_over(
        self,
        cells: list[Atoms],
        rng: np.random.Generator,
        taken: list[Atoms],
        origin: str | None,
        held_out: bool = False,
    ) -> list[Atoms]:
        """
        Distort each of ``cells`` once.

        Volumes are drawn from equal intervals of the window and amplitudes in turn, each in
        random order (Latin hypercube): eight structures span both as well as eight can.
        """
        count = len(cells)
        edges = np.linspace(*self.volume_window, count + 1)
        volumes = rng.permutation(rng.uniform(edges[:-1], edges[1:]))
        sigmas = rng.permutation(np.resize(self.rattle_amplitudes, count))
        # Below the shortest distance in the training set a potential is its core repulsion, not
        # its fit: one such pair, hundreds of eV/A off, would be all that a test error shows.
        floors = _shortest(taken) if held_out else None
        new: list[Atoms] = []
        for k, (cell, volume, sigma) in enumerate(zip(cells, volumes, sigmas, strict=True)):
            # every second one strained; all if displacements alone cannot make a difference
            strained = self.strain > 0 and (k % 2 == 1 or len(cell) == 1)
            atoms = self._distort(cell, float(volume), float(sigma), strained, rng, [*taken, *new], floors)
            mark(atoms, origin=origin or (Origin.SEED_STRAINED if strained else Origin.SEED_RATTLED))
            new.append(atoms)
        return new

    def _distort(
        self,
        cell: Atoms,
        volume: float,
        sigma: float,
        strained: bool,
        rng: np.random.Generator,
        taken: list[Atoms],
        floors: dict[tuple[str, str], float] | None,
    ) -> Atoms:
        """Scale, strain and rattle; less and less while a pair is too close."""
        contact, second_best = None, None
        for attempt in range(_MAX_ATTEMPTS):
            size = _SHRINK**attempt
            # the amplitude gives way before the volume, which is what a small cell is made for
            factor = 1 + (volume - 1) * min(1.0, size * 2)
            atoms = deform(cell, random_deformation(factor, self.strain * size if strained else 0.0, rng))
            atoms = rattle(atoms, sigma * size, rng)
            contact = shortest_contact(atoms, self.minimum_distance_ratio)
            if contact is None and not any(same_structure(atoms, other) for other in taken):
                if floors is None or not _any_shorter(atoms, floors):
                    return atoms
                second_best = atoms
        if second_best is not None:  # a training set too small to hold all distances
            return second_best
        where = f"{contact[0]}-{contact[1]} {contact[2]:.3f} A apart" if contact else "it equals one there is"
        raise InvalidInputError(
            f"no new distortion of {cell.get_chemical_formula()} in {_MAX_ATTEMPTS} attempts, the last: {where}; widen "
            f"volume_window {self.volume_window}, strain {self.strain} or rattle_amplitudes {self.rattle_amplitudes}"
        )

    def _pair_cell(self, cells: list[Atoms], pair: tuple[str, str], k: int, rng: np.random.Generator) -> Atoms:
        """Plant a missing pair, and make room where the guest is larger than its site."""
        cell = with_pair(cells, pair, self.pair_cutoff, _SUBSTITUTED[k % len(_SUBSTITUTED)], rng)
        contact = shortest_contact(cell, self.minimum_distance_ratio)
        if contact is not None:
            cell = deform(cell, np.eye(3) * 1.02 * contact[3] / contact[2])
        return cell


def enough_structures(cells: Sequence[Atoms], n_atoms: int, n_atoms_of_basis: int = 0) -> int:
    """
    Return how many structures of each of ``cells`` a first dataset needs: at least four.

    Parameters
    ----------
    cells
        One of each kind.
    n_atoms
        Atoms of each element that all structures together should hold. One atom of a dopant does not ask for forty
        large cells, as one of a small molecule does for forty molecules.
    n_atoms_of_basis
        The same for the functions of a basis, for which at most forty structures are made.
    """
    counts = Counter(symbol for atoms in cells if not _isolated(atoms) for symbol in atoms.get_chemical_symbols())
    if not counts:
        return _FEWEST

    def needed(n: int) -> int:
        return min(math.ceil(n / min(counts.values())), math.ceil(_MOST_ATOMS * n / counts.total()))

    return max(needed(n_atoms), min(needed(n_atoms_of_basis), _MOST), _FEWEST)


def isolated_atom(element: str) -> Atoms:
    """Return one atom in the middle of a box, to be labelled for its energy alone."""
    atoms = Atoms(element, cell=ATOM_BOX_A, pbc=True)
    atoms.center()
    Provenance(Origin.ISOLATED_ATOM, Split.REFERENCE).mark(atoms)
    return atoms


def _can_hold(cells: list[Atoms], pair: tuple[str, str]) -> bool:
    """
    Whether a missing pair can be planted anywhere, and MD may meet it.

    Not where the charge or the spin of the cell is given, nor where there are molecules alone of which none has both
    atoms: two oxygen atoms never meet in one water molecule.
    """
    hosts = [cell for cell in cells if set(pair) & set(cell.get_chemical_symbols())]
    if hosts and all(has_total(cell) for cell in hosts):
        logger.info("no structures hold the pair %s-%s: elements of charged cells are not exchanged", *pair)
        return False
    needed, molecules = Counter(pair), [cell for cell in hosts if not _isolated(cell)]
    if molecules and all(shape_of(cell) is Shape.CLUSTER and not needed <= Counter(cell.symbols) for cell in molecules):
        logger.info("no structures hold the pair %s-%s: none of the molecules has both atoms", *pair)
        return False
    return True


def _isolated(atoms: Atoms) -> bool:
    return len(atoms) == 1 and not atoms.pbc.any()


def _shortest(structures: list[Atoms]) -> dict[tuple[str, str], float]:
    """Shortest distance below ``_NEAR`` of every pair of elements over all structures, in Angstrom."""
    shortest: dict[tuple[str, str], float] = {}
    for atoms in structures:
        for pair, distance in minimum_distances(atoms, _NEAR).items():
            shortest[pair] = min(distance, shortest.get(pair, np.inf))
    return shortest


def _any_shorter(atoms: Atoms, floors: dict[tuple[str, str], float]) -> bool:
    return any(distance < floors.get(pair, np.inf) for pair, distance in minimum_distances(atoms, _NEAR).items())
