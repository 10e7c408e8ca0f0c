"""Energy over volume of a crystal at fixed shape and fractional coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import units

from mlip_autopipec.validation.crystals import PropertyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from mlip_autopipec.validation.crystals import Crystal, Result

#: Energies that are off their curve by more than this part of their own span are on no curve.
_NOISE = 0.05


@dataclass(frozen=True)
class EquationOfState:
    """
    Birch-Murnaghan equation of third order, fitted to energies.

    Parameters
    ----------
    volumes_A3, energies_eV
        What was fitted, per atom.
    volume
        Of the minimum, A^3/atom.
    energy
        Of the minimum, eV/atom.
    bulk_modulus_GPa, derivative
        At the minimum, and its derivative with the pressure.
    residual_meV
        Root mean square deviation of the energies from the fit, meV/atom.
    """

    volumes_A3: list[float]
    energies_eV: list[float]
    volume: float
    energy: float
    bulk_modulus_GPa: float
    derivative: float
    residual_meV: float


def volume_series(crystal: Crystal, n_volumes: int, span: float) -> list[tuple[str, Atoms]]:
    """Scale the primitive cell to volumes between 1 - span and 1 + span of its own, evenly spaced."""
    series = []
    for ratio in np.linspace(1 - span, 1 + span, n_volumes):
        scaled = crystal.primitive.copy()
        scaled.set_cell(scaled.cell.array * ratio ** (1 / 3), scale_atoms=True)
        series.append((f"volume {ratio:.4f}", scaled))
    return series


def fit_equation_of_state(structures: Sequence[Atoms], results: Sequence[Result]) -> EquationOfState:
    """
    Fit the Birch-Murnaghan equation, which is linear in powers of V^(-2/3).

    Parameters
    ----------
    structures, results
        One crystal at several volumes, and the calculations of them.

    Raises
    ------
    PropertyError
        If the energy has no minimum between the volumes, or the energies are on no curve.
    """
    # here, since it imports matplotlib.pyplot
    from pymatgen.analysis.eos import DeltaFactor, EOSError

    volumes = np.array([atoms.get_volume() / len(atoms) for atoms in structures])
    energies = np.array([r.energy / len(atoms) for atoms, r in zip(structures, results, strict=True)])
    # a fit to totals of 1e4 eV would lose digits
    fit = DeltaFactor(volumes.tolist(), (energies - energies.mean()).tolist())
    low, high = volumes.min(), volumes.max()
    try:
        fit.fit()
        inside = bool(np.isreal(fit.v0)) and low < np.real(fit.v0) < high
    except EOSError:
        inside = False
    if not inside:
        raise PropertyError(
            f"the energy has no minimum between {low:.3f} and {high:.3f} A^3/atom (lowest at "
            f"{volumes[np.argmin(energies)]:.3f})",
            "give the structure near to its equilibrium, or raise PropertyCriterion.volume_span",
        )
    residual = float(np.sqrt(np.mean((fit.func(volumes) - fit.energies) ** 2)))
    if residual > _NOISE * np.ptp(energies):
        raise PropertyError(
            f"the energies are off a smooth curve by {1e3 * residual:.2f} meV/atom, while they span only "
            f"{1e3 * np.ptp(energies):.2f}",
            "check for a magnetic or electronic transition, too few k-points, or a field that did not converge",
        )
    return EquationOfState(
        volumes.tolist(),
        energies.tolist(),
        volume=float(fit.v0),
        energy=float(fit.e0 + energies.mean()),
        bulk_modulus_GPa=float(fit.b0 / units.GPa),
        derivative=float(fit.b1),
        residual_meV=1e3 * residual,
    )
