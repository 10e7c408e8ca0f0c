"""Labels of the images of a path, beside what a potential says of the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlip_autopipec.structures.frozen import frozen_atoms
from mlip_autopipec.structures.provenance import Provenance
from mlip_autopipec.validation.crystals import evaluate
from mlip_autopipec.validation.end_states import are_same

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator

#: What the images that are always labelled are called.
INITIAL, FINAL, HIGHEST = "initial state", "final state", "highest image"
ENDS = (INITIAL, FINAL)
UNCONVERGED = " (not converged)"
#: So many images that are off are named.
_SHOWN = 3


@dataclass(frozen=True)
class PathLabels:
    """
    The labelled images of one path, by the oracle and by a potential.

    Parameters
    ----------
    images
        With their labels, by the names that their provenance has.
    is_converged
        Whether the path was.
    """

    images: dict[str, Atoms]
    is_converged: bool

    @classmethod
    def of(cls, labelled: Sequence[Atoms], barrier: str) -> PathLabels:
        """Take the images of one barrier out of all structures with labels."""
        found: dict[str, Atoms] = {}
        converged = True
        for one in labelled:
            whose, _, name = (Provenance.of(one).purpose or "").rpartition(": ")
            if whose == barrier and one.calc is not None:
                converged &= not name.endswith(UNCONVERGED)
                found[name.removesuffix(UNCONVERGED)] = one
        return cls(found, converged)

    def missing(self) -> list[str]:
        """Name the images without which there is no barrier."""
        return [name for name in (*ENDS, HIGHEST) if name not in self.images]

    def oracle_eV(self) -> dict[str, float]:
        """Return the energies by the oracle above the initial state."""
        zero = self.images[INITIAL].get_potential_energy()
        return {name: float(image.get_potential_energy() - zero) for name, image in self.images.items()}

    def potential_eV(self, calculator: Calculator) -> dict[str, float]:
        """Return the energies by a potential above the initial state."""
        found = [float(result.energy) for result in evaluate(list(self.images.values()), calculator)]
        energies = dict(zip(self.images, found, strict=True))
        return {name: energy - energies[INITIAL] for name, energy in energies.items()}

    def largest_force(self) -> float:
        """Return the largest force of the oracle on ends and highest image, of atoms that may move, in eV/A."""
        largest = 0.0
        for name in (*ENDS, HIGHEST):
            forces = self.images[name].get_forces(apply_constraint=False)
            moving = np.delete(forces, frozen_atoms(self.images[name]), axis=0)
            largest = max(largest, float(np.linalg.norm(moving, axis=1).max()))
        return largest

    def doubt(self, learnt: Mapping[str, float]) -> str | None:
        """Return why the path by the potential is none between two minima; None if it is one."""
        if not self.is_converged:
            return "the path by the potential did not converge; raise steps, or let it learn"
        if are_same(self.images[INITIAL], self.images[FINAL]):
            return "both states relax to the same one by the potential; give the final state as a minimum of its own"
        if learnt[HIGHEST] <= max(learnt[name] for name in ENDS):
            top = max(ENDS, key=lambda name: learnt[name])
            return f"the {top} is the highest of the path by the potential: no barrier is between; give two minima"
        return None


def told_off(oracle: Mapping[str, float], learnt: Mapping[str, float], tolerance_eV: float) -> str | None:
    """Name the images whose energy above the initial state is off by more than a tolerance, the worst first."""
    errors = {name: abs(learnt[name] - oracle[name]) for name in oracle}
    off = sorted((name for name in errors if not errors[name] <= tolerance_eV), key=lambda name: -errors[name])
    if not off:
        return None
    told = ", ".join(f"{name} (oracle {oracle[name]:.4g}, potential {learnt[name]:.4g} eV)" for name in off[:_SHOWN])
    more = f" and {len(off) - _SHOWN} more" if len(off) > _SHOWN else ""
    return f"off by more than {tolerance_eV:g} eV above the initial state: {told}{more}"


def told_back(oracle: Mapping[str, float], learnt: Mapping[str, float]) -> str:
    """Tell the barrier of the way back, and by how much the final state is above the initial one."""
    back = [max(energies.values()) - energies[FINAL] for energies in (oracle, learnt)]
    return (
        f"the way back: oracle {back[0]:.4g}, potential {back[1]:.4g} eV; energy of reaction: oracle "
        f"{oracle[FINAL]:.4g}, potential {learnt[FINAL]:.4g} eV"
    )


def as_data(oracle: Mapping[str, float], learnt: Mapping[str, float]) -> dict[str, Any]:
    """Return both as plain data, as all comparisons have it."""
    return {side: {"energies_eV": dict(values)} for side, values in (("oracle", oracle), ("potential", learnt))}
