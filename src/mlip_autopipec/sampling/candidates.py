"""Local candidates: one halted frame in, a handful of different structures around it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.kinds import ORIGINS, Move
from mlip_autopipec.moved import dropped_fields
from mlip_autopipec.sampling import modes
from mlip_autopipec.sampling.variations import Base
from mlip_autopipec.structures.distances import LABEL_RATIO, MINIMUM_DISTANCE_RATIO, shortest_contact
from mlip_autopipec.structures.distort import bare_copy, same_structure
from mlip_autopipec.structures.provenance import mark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator

#: Origins that take the share of those that are not possible: they need neither potential nor trajectory.
_WHATEVER = ("displacement", "volume")
_SHRINK = 0.7
_MAX_ATTEMPTS = 12


@dropped_fields("shear_strain", "n_modes", "omega_floor_THz", "hessian_displacement")
@dataclass
class CandidateGenerator(MSONable):
    """
    Makes candidates around a halted frame.

    Parameters
    ----------
    n_samples
        Structures returned, the halted frame among them.
    displacement_sigma
        Standard deviation of a random displacement per Cartesian component, in Angstrom, of
        the origin ``displacement``.
    volume_range
        Volumes are scaled by 1 +- this.
    shares
        Relative share of each origin among the candidates besides the halted frame: ``dumped`` and those of
        ``mlip_autopipec.kinds.ORIGINS``. A share that cannot be used (no calculator, no dumped frames, one atom)
        goes to the others; that of ``thermal``, which needs the normal modes of the potential, goes to
        ``displacement``.
    max_thermal_ratio
        Largest displacement of an atom along all modes, in units of the mean nearest-neighbour distance
        of its element. The amplitude is that of the walker's temperature where this is smaller.
    max_mode_displacement
        Largest displacement of an atom along the softest modes, in Angstrom.
    max_mode_atoms
        In larger structures only so many atoms nearest to ``centre`` are displaced for the
        Hessian: 6 force evaluations each.
    minimum_distance_ratio
        No pair closer than this times the sum of the covalent radii is returned.
    seed
        Default of the seed of :meth:`generate`.
    """

    n_samples: int = 15
    displacement_sigma: float = 0.1
    volume_range: float = 0.04
    shares: dict[str, float] = field(
        default_factory=lambda: {"dumped": 1.0, "thermal": 1.0, "volume": 1.0, "soft_mode": 1.0}
    )
    max_thermal_ratio: float = modes.MAX_THERMAL_RATIO
    max_mode_displacement: float = modes.MAX_MODE_DISPLACEMENT
    max_mode_atoms: int = 64
    minimum_distance_ratio: float = MINIMUM_DISTANCE_RATIO
    seed: int = 0

    #: Largest component of the volume-conserving strain that goes with the scaling. Cells of one atom differ by it
    #: only, since displacements do not change them.
    shear_strain: ClassVar[float] = 0.015
    #: Number of softest modes to combine.
    n_modes: ClassVar[int] = 8
    #: Modes below this frequency get the amplitude of this one.
    omega_floor_THz: ClassVar[float] = modes.OMEGA_FLOOR_THZ
    #: Finite-difference step in Angstrom.
    hessian_displacement: ClassVar[float] = modes.HESSIAN_DISPLACEMENT

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        for name in ("n_samples", "max_mode_atoms"):
            if not (value := getattr(self, name)) >= 1:
                raise InvalidInputError.of(f"CandidateGenerator.{name}", f"is {value}; it has to be at least 1")
        for name in (
            "displacement_sigma",
            "max_thermal_ratio",
            "max_mode_displacement",
        ):
            if not (value := getattr(self, name)) > 0:
                raise InvalidInputError.of(f"CandidateGenerator.{name}", f"is {value}; it has to be positive")
        if not 0 <= self.volume_range < 0.5:
            raise InvalidInputError.of(
                "CandidateGenerator.volume_range", f"is {self.volume_range}; give a value in [0, 0.5)"
            )
        known = ["dumped", *ORIGINS]
        unknown = sorted(set(self.shares) - set(known))
        if unknown or min(self.shares.values(), default=0.0) < 0 or not sum(self.shares.values()) > 0:
            raise InvalidInputError.of(
                "CandidateGenerator.shares",
                f"is {self.shares}; give non-negative shares, not all zero, of {known}",
            )

    def generate(
        self,
        atoms: Atoms,
        n_samples: int | None = None,
        calculator: Calculator | None = None,
        frames: Sequence[Atoms] = (),
        seed: int | None = None,
        centre: int | None = None,
        temperature_K: float = 300.0,
    ) -> list[Atoms]:
        """
        Make candidates around one frame.

        Parameters
        ----------
        atoms
            The halted frame.
        n_samples, seed
            Instead of the fields of the same name.
        calculator
            The current potential; without one there are no candidates along normal modes.
        frames
            Frames dumped between the two thresholds of gamma, in order of time.
        centre
            Index of the atom of highest gamma, around which the Hessian of a large structure
            is taken. By default the maximum of the array ``gamma``, else atom 0.
        temperature_K
            Temperature of the thermal amplitudes, in K.

        Returns
        -------
        list of ase.Atoms
            Exactly ``n_samples``, pairwise different: the halted frame, dumped frames, then in the order of
            ``mlip_autopipec.kinds.ORIGINS``, without calculator, velocities and constraints; ``info["origin"]``
            tells how each was made.
            A halted frame that is too close for a label (``mlip_autopipec.structures.distances.LABEL_RATIO``) is
            left out. If it is too close to be varied, variants are made from the last dumped frame that is not; without
            such a frame, those variants of the halted frame are returned that remove the contact, perhaps fewer.

        Raises
        ------
        InvalidInputError
            For an empty structure, if the structure admits no variants (a lone atom), or if
            everything has too close a pair (named with its distance).
        """
        wanted = self.n_samples if n_samples is None else n_samples
        self._check(atoms, wanted, centre, temperature_K)
        rng = np.random.default_rng(self.seed if seed is None else seed)
        chosen: list[Atoms] = []
        if centre is None:
            centre = int(np.argmax(atoms.arrays["gamma"])) if "gamma" in atoms.arrays else 0
        base, contact = bare_copy(atoms), self._contact(atoms)
        # a frame of MD may be labelled wherever the oracle can compute it
        if shortest_contact(atoms, min(self.minimum_distance_ratio, LABEL_RATIO)) is None:
            chosen.append(_marked(bare_copy(atoms, keep_info=True), "halted"))
        sound = [f for f in frames if len(f) and self._contact(f) is None]
        alike = [f for f in sound if f.numbers.tolist() == atoms.numbers.tolist()]
        if contact is not None and alike:
            base = bare_copy(alike[-1])
        healthy = contact is None or bool(alike)
        # the Hessian of overlapping atoms says nothing about the material
        has_modes = calculator is not None and len(base) > 1 and healthy
        varied = Base(base, self, rng, temperature_K, has_modes)
        kinds = {o: ORIGINS[o] for o in ORIGINS if o in self.shares or o in _WHATEVER}
        wished = {o: self.shares.get(o, 0.0) for o in ("dumped", *kinds)}
        if not has_modes:
            wished["displacement"] += wished.get("thermal", 0.0)
        shares = {o: share for o, share in wished.items() if o == "dumped" or kinds[o].possible(varied)}
        # the ways that can make any number of structures must not all be weighted to nothing
        if not any(w > 0 for o, w in shares.items() if o != "dumped"):
            shares |= dict.fromkeys((o for o in _WHATEVER if o in shares), 1e-9)
        chosen += self._dumped(sound, _split(wanted - len(chosen), shares)["dumped"], chosen)
        missing = wanted - len(chosen)
        del shares["dumped"]
        if missing and not any(shares.values()):
            raise InvalidInputError(
                f"n_samples is {wanted}, but atoms = {atoms.get_chemical_formula()} with periodicity "
                f"{atoms.pbc.tolist()} admits only {len(chosen)} different structures (a lone atom has no "
                "surroundings to vary); ask for fewer or give a periodic cell"
            )
        counts = _split(missing, shares)
        if calculator is not None and any(kinds[o].needs_modes for o, count in counts.items() if count):
            indices = modes.nearest_atoms(base, centre, self.max_mode_atoms)
            varied.normal_modes = modes.normal_modes(base, calculator, indices, self.hessian_displacement)
        for origin, count in counts.items():
            for move in kinds[origin].moves(varied, count):
                made = self._attempt(move, chosen, origin, healthy)
                if made is not None:
                    chosen.append(_marked(made, origin))
        if not chosen and contact is not None:
            raise InvalidInputError(
                f"atoms = {atoms.get_chemical_formula()}: {contact[0]}-{contact[1]} are {contact[2]:.3f} A apart, "
                f"allowed are {contact[3]:.3f} A (minimum_distance_ratio {self.minimum_distance_ratio}), and no "
                "variant of it is better; take an earlier frame of the run"
            )
        return chosen

    def _check(self, atoms: Atoms, wanted: int, centre: int | None, temperature_K: float) -> None:
        if len(atoms) == 0:
            raise InvalidInputError("atoms is empty; give the halted frame, a structure of at least one atom")
        if wanted < 1 or not temperature_K > 0:
            raise InvalidInputError(f"n_samples is {wanted}, temperature_K {temperature_K}; both have to be positive")
        if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
            raise InvalidInputError("atoms has positions or a cell that are not finite; take an earlier frame")
        if centre is not None and not 0 <= centre < len(atoms):
            raise InvalidInputError(f"centre is {centre}, but atoms has {len(atoms)} atoms")

    def _contact(self, atoms: Atoms) -> tuple[str, str, float, float] | None:
        return shortest_contact(atoms, self.minimum_distance_ratio)

    def _dumped(self, sound: list[Atoms], count: int, taken: list[Atoms]) -> list[Atoms]:
        """Take dumped frames evenly spread over the run, none twice."""
        new: list[Atoms] = []
        spread = np.linspace(0, len(sound) - 1, min(count, len(sound))).round().astype(int)
        for i in spread:
            frame = bare_copy(sound[i], keep_info=True)
            if not any(same_structure(frame, other) for other in [*taken, *new]):
                new.append(_marked(frame, "dumped"))
        return new

    def _attempt(self, move: Move, taken: list[Atoms], origin: str, healthy: bool) -> Atoms | None:
        """Repeat a random move until it is new and nothing is too close; smaller each time."""
        size, reason = 1.0, ""
        for _ in range(_MAX_ATTEMPTS):
            candidate = move(size)
            contact = self._contact(candidate)
            if contact is None and not any(same_structure(candidate, other) for other in taken):
                return candidate
            if contact is not None:
                reason = f"{contact[0]}-{contact[1]} {contact[2]:.3f} A apart, allowed {contact[3]:.3f} A"
                # towards the base, if that is valid; else large moves are needed to separate its atoms
                size *= _SHRINK if healthy else 1.0
            else:
                reason = "it equals one there is"
        if not healthy:
            return None
        raise InvalidInputError(
            f"no new structure by {origin} in {_MAX_ATTEMPTS} attempts, the last: {reason}. Change the amplitudes "
            f"(displacement_sigma {self.displacement_sigma}, volume_range {self.volume_range}) or ask for fewer"
        )


def generate_local_candidates(
    atoms: Atoms,
    n_samples: int = 15,
    *,
    calculator: Calculator | None = None,
    frames: Sequence[Atoms] = (),
    seed: int = 0,
    centre: int | None = None,
    temperature_K: float = 300.0,
    **settings: Any,
) -> list[Atoms]:
    """Make ``n_samples`` candidates around ``atoms``; ``settings`` are fields of :class:`CandidateGenerator`."""
    generator = CandidateGenerator(n_samples=n_samples, **settings)
    return generator.generate(atoms, n_samples, calculator, frames, seed, centre, temperature_K)


def _marked(atoms: Atoms, origin: str) -> Atoms:
    return mark(atoms, origin=origin)


def _split(total: int, shares: dict[str, float]) -> dict[str, int]:
    """Divide ``total`` in proportion to the shares (largest remainders, first named first)."""
    weight = sum(shares.values())
    if total <= 0 or not weight > 0:
        return dict.fromkeys(shares, 0)
    exact = {o: total * w / weight for o, w in shares.items()}
    counts = {o: int(x) for o, x in exact.items()}
    by_remainder = sorted(shares, key=lambda o: counts[o] - exact[o])
    for origin in by_remainder[: total - sum(counts.values())]:
        counts[origin] += 1
    return counts
