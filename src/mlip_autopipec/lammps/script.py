"""The LAMMPS commands both engines share, and the way of a structure into LAMMPS and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms, units
from ase.calculators.lammps import Prism
from ase.data import atomic_masses, atomic_numbers
from ase.io.lammpsdata import write_lammps_data

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mlip_autopipec.lammps.types import Condition, MDSettings

GPA_TO_BAR = 1e4
#: LAMMPS metal velocities are A/ps, ASE's are A per ASE time unit.
ANGSTROM_PER_PS = 1.0 / (1000 * units.fs)


@dataclass(frozen=True)
class Frame:
    """The rotation between a structure's cell and LAMMPS' lower-triangular one."""

    elements: tuple[str, ...]
    rotation: NDArray[np.float64]

    @classmethod
    def of(cls, atoms: Atoms | None, elements: Sequence[str]) -> Frame:
        """Of a structure, or of a LAMMPS restart file (``None``), which is in LAMMPS' frame already."""
        rotation = np.eye(3) if atoms is None else np.asarray(Prism(atoms.cell.array).rot_mat)
        return cls(tuple(elements), rotation)

    def to_atoms(
        self,
        types: NDArray[np.int32],
        positions: NDArray[np.float64],
        velocities_A_ps: NDArray[np.float64],
        cell: NDArray[np.float64],
        origin: NDArray[np.float64],
    ) -> Atoms:
        """Build a structure, in its own orientation, from what LAMMPS holds (A, A/ps; rows of ``cell`` in A)."""
        atoms = Atoms(
            symbols=[self.elements[t - 1] for t in types],
            positions=(positions - origin) @ self.rotation.T,
            cell=cell @ self.rotation.T,
            pbc=True,
        )
        atoms.set_velocities(velocities_A_ps @ self.rotation.T * ANGSTROM_PER_PS)
        return atoms


def write_structure(path: Path, atoms: Atoms, elements: Sequence[str]) -> None:
    """Write a LAMMPS data file with masses and velocities; atom types follow ``elements``."""
    prism = Prism(atoms.cell.array)
    write_lammps_data(
        path,
        atoms,
        specorder=list(elements),
        prismobj=prism,
        velocities=True,
        masses=True,
        units="metal",
        atom_style="atomic",
    )


def setup_commands(structure: str | None, restart_file: str | None) -> list[str]:
    """Commands up to the atoms: from a data file, or from a LAMMPS restart file."""
    if (structure is None) == (restart_file is None):
        raise InvalidInputError("LAMMPS starts from a data file or from a restart file; give one of them")
    lines = ["units metal", "atom_style atomic", "atom_modify map yes", "newton on", "boundary p p p", "box tilt large"]
    if restart_file is not None:
        return [*lines, f"read_restart {restart_file}"]
    return [*lines, f"read_data {structure}"]


def masses(elements: Sequence[str]) -> list[float]:
    """Masses of the elements in atomic mass units."""
    return [float(atomic_masses[atomic_numbers[e]]) for e in elements]


def mass_commands(elements: Sequence[str]) -> list[str]:
    """Masses of the atom types."""
    return [f"mass {i} {mass:.8f}" for i, mass in enumerate(masses(elements), 1)]


def dynamics_commands(settings: MDSettings, condition: Condition, start_step: int) -> list[str]:
    """Time step and integrator for the steps from ``start_step`` on; a ramp goes on where it was."""
    t0 = condition.temperature_at(start_step / settings.n_steps)
    t1 = condition.temperature_at(1.0)
    thermostat = f"temp {t0:.8g} {t1:.8g} {settings.thermostat_damping_fs * 1e-3:.8g}"
    pressure = condition.pressure_GPa * GPA_TO_BAR
    barostat = f"iso {pressure:.8g} {pressure:.8g} {settings.barostat_damping_fs * 1e-3:.8g}"
    integrator = {
        "nve": "fix md all nve",
        "nvt": f"fix md all nvt {thermostat}",
        "npt": f"fix md all npt {thermostat} {barostat}",
    }[settings.ensemble]
    return [f"reset_timestep {start_step}", f"timestep {settings.timestep_fs * 1e-3:.8g}", integrator]
