"""Ways to vary a halted frame: the origins of candidates. Another one is a file of its own with its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlip_autopipec.kinds import OriginKind
from mlip_autopipec.sampling import modes
from mlip_autopipec.structures.distort import deform, random_deformation, rattle
from mlip_autopipec.structures.periodicity import goes_on_along

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.kinds import Move


@dataclass
class Base:
    """
    What is varied, and with what.

    Parameters
    ----------
    atoms
        The halted frame, or an earlier one where its atoms are too close; without calculator.
    settings
        The :class:`~mlip_autopipec.sampling.candidates.CandidateGenerator`, whose fields are the amplitudes.
    rng
        For whatever is random.
    temperature_K
        Of the walker, in K.
    has_modes
        Whether the potential gives normal modes of this structure.
    normal_modes
        Those, for kinds that need them.
    """

    atoms: Atoms
    settings: Any
    rng: np.random.Generator
    temperature_K: float
    has_modes: bool
    normal_modes: modes.NormalModes | None = None


def _displacements(base: Base, count: int) -> list[Move]:
    return [lambda size: rattle(base.atoms, base.settings.displacement_sigma * size, base.rng)] * count


def _volumes(base: Base, count: int) -> list[Move]:
    reach, shear = base.settings.volume_range, base.settings.shear_strain

    def scaled(change: float) -> Move:
        return lambda size: deform(base.atoms, random_deformation(1 + change * size, shear * size, base.rng))

    # one volume from each of equal intervals: spread evenly, whatever the seed
    edges = np.linspace(-reach, reach, count + 1)
    return [scaled(float(change)) for change in base.rng.uniform(edges[:-1], edges[1:])]


def _thermal_displacements(base: Base, count: int) -> list[Move]:
    if (found := base.normal_modes) is None:
        return []

    def thermally(size: float) -> Atoms:
        ratio, floor = base.settings.max_thermal_ratio * size, base.settings.omega_floor_THz
        colder = base.temperature_K * size**2  # amplitudes go with the root of the temperature: smaller is colder
        return modes.displace_thermally(base.atoms, found, colder, base.rng, omega_floor_THz=floor, max_ratio=ratio)

    return [thermally] * count


def _soft_modes(base: Base, count: int) -> list[Move]:
    if base.normal_modes is None:
        return []
    softest = base.normal_modes.softest(base.settings.n_modes)

    def along_softest(size: float) -> Atoms:
        reach, floor = base.settings.max_mode_displacement * size, base.settings.omega_floor_THz
        colder = base.temperature_K * size**2
        return modes.displace_along_modes(
            base.atoms, softest, colder, base.rng, omega_floor_THz=floor, max_displacement=reach
        )

    return [along_softest] * count


def _has_neighbours(base: Base) -> bool:
    return len(base.atoms) > 1


def _can_be_scaled(base: Base) -> bool:
    return bool(goes_on_along(base.atoms).any())


def _has_modes(base: Base) -> bool:
    return base.has_modes


THERMAL = OriginKind(
    about="the halted frame, atoms displaced along all normal modes of the potential as at the temperature",
    moves=_thermal_displacements,
    possible=_has_modes,
    needs_modes=True,
)
DISPLACEMENT = OriginKind(
    about="the halted frame, atoms displaced at random", moves=_displacements, possible=_has_neighbours
)
VOLUME = OriginKind(about="the halted frame at another volume", moves=_volumes, possible=_can_be_scaled)
SOFT_MODE = OriginKind(
    about="the halted frame along a soft mode of the potential",
    moves=_soft_modes,
    possible=_has_modes,
    needs_modes=True,
)
