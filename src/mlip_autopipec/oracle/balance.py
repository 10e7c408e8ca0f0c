"""Forces of a label that do not add up to nothing, as those of all atoms that only push each other do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlip_autopipec.structures.electrons import charge_of
from mlip_autopipec.structures.periodicity import Shape, gathered, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase import Atoms
    from numpy.typing import NDArray

#: The sum of the forces (eV/A), and the torque (eV), of a label are wrong above this, ...
_NET_EV_A, _TORQUE_EV = 0.2, 0.5
#: ... above this share of what its atoms have, ...
_SHARE = 0.02
#: ... and above so many times the median of all labels, whose codes may leave something of both.
_TIMES = 10.0


def unbalanced(frames: Sequence[Atoms], names: Sequence[str]) -> Iterator[str]:
    """
    Name the labels whose forces push all atoms one way, or turn a molecule round: some of them are wrong.

    Energies do not depend on where in space a structure is, so the sum of all forces is zero; nor on how a cluster is
    turned, so their torque is. Codes leave 0.01 eV/A of it.

    Parameters
    ----------
    frames
        Labels with forces (eV/A).
    names
        How messages name each.
    """
    net = np.array([_net(atoms) for atoms in frames])
    torque = np.array([_torque(atoms) for atoms in frames])
    wrong_net, wrong_torque = _wrong(net, _NET_EV_A), _wrong(torque, _TORQUE_EV)
    for i, name in enumerate(names):
        if wrong_net[i]:
            yield (
                f"{name} has forces that add up to {net[i, 0]:.3g} eV/A, and those of all atoms add up to nothing: "
                "forces of some atoms are missing, changed, or of another structure"
            )
        elif wrong_torque[i]:
            yield (
                f"{name} has forces with a torque of {torque[i, 0]:.3g} eV, and nothing turns a cluster: forces of "
                "some atoms are changed, or belong to others"
            )


def about_balance(frames: Sequence[Atoms]) -> list[str]:
    """
    Say that the forces of most labels do not add up to nothing.

    Parameters
    ----------
    frames
        Labels with forces (eV/A).
    """
    net = np.array([_net(atoms) for atoms in frames]).reshape(-1, 2)
    much = (net[:, 0] > _NET_EV_A) & (net[:, 0] > _SHARE * net[:, 1])
    if 2 * much.sum() <= len(net):
        return []
    told = (
        f"labels: the forces of {int(much.sum())} of {len(net)} do not add up to nothing (of the median label to "
        f"{np.median(net[:, 0]):.2g} eV/A): was there a field, were forces of some atoms set to zero, or is the grid "
        "of the code coarse? The potential cannot learn this part"
    )
    return [told]


def _wrong(found: NDArray[np.float64], floor: float) -> NDArray[np.bool_]:
    """Return which are too large, of sizes and of what all atoms have, (n_labels, 2)."""
    if not len(found):
        return np.zeros(0, dtype=bool)
    share = found[:, 0] / np.maximum(found[:, 1], 1e-12)
    usual = float(np.median(found[:, 0]))  # a coarse grid leaves as much in frames at rest as in hot ones
    return np.asarray((found[:, 0] > max(floor, _TIMES * usual)) & (share > _SHARE))


def _net(atoms: Atoms) -> tuple[float, float]:
    """Return the sum of the forces (eV/A), and the root of the sum of their squares."""
    forces = atoms.calc.results["forces"]
    return float(np.linalg.norm(forces.sum(axis=0))), float(np.linalg.norm(forces))


def _torque(atoms: Atoms) -> tuple[float, float]:
    """Return the torque (eV) on a cluster that has no field of a charge around, and the root of its squares; else 0."""
    if len(atoms) < 2 or charge_of(atoms) or shape_of(atoms) is not Shape.CLUSTER:
        return 0.0, 1.0
    positions = gathered(atoms)[0]
    arms = np.cross(positions - positions.mean(axis=0), atoms.calc.results["forces"])
    return float(np.linalg.norm(arms.sum(axis=0))), float(np.linalg.norm(arms))
