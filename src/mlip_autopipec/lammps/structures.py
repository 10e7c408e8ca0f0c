"""The way of a structure into LAMMPS and back, and the units both engines share."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from ase.calculators.lammps import Prism
from ase.data import atomic_numbers
from ase.io.lammpsdata import write_lammps_data

from mlip_autopipec.errors import ExplorationError
from mlip_autopipec.structures.masses import mass_of_elements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlip_autopipec.potentials.potential import ACEPotential

GPA_TO_BAR = 1e4
#: LAMMPS metal velocities are A/ps, ASE's are A per ASE time unit.
ANGSTROM_PER_PS = 1.0 / (1000 * units.fs)


@dataclass(frozen=True)
class Frame:
    """
    What LAMMPS does not know of a structure.

    Parameters
    ----------
    elements
        Of the atom types 1, 2, ...
    rotation
        Between the structure's cell and LAMMPS' lower-triangular one, (3, 3).
    masses
        Of the elements in u, where the structure has masses of its own.
    """

    elements: tuple[str, ...]
    rotation: NDArray[np.float64]
    masses: tuple[float, ...] | None = None

    @classmethod
    def of(cls, atoms: Atoms | None, elements: Sequence[str]) -> Frame:
        """Of a structure, or of a LAMMPS restart file (``None``), which is in LAMMPS' frame already."""
        rotation = np.eye(3) if atoms is None else np.asarray(Prism(atoms.cell.array).rot_mat)
        own = tuple(mass_of_elements(elements, atoms)) if atoms is not None and atoms.has("masses") else None
        return cls(tuple(elements), rotation, own)

    def to_atoms(
        self,
        types: NDArray[np.int32],
        positions: NDArray[np.float64],
        velocities_A_ps: NDArray[np.float64],
        cell: NDArray[np.float64],
        origin: NDArray[np.float64],
    ) -> Atoms:
        """Build a structure, in its own orientation, from what LAMMPS holds (A, A/ps; rows of ``cell`` in A)."""
        of_type = np.array([atomic_numbers[element] for element in self.elements])
        atoms = Atoms(
            numbers=of_type[types - 1],
            positions=(positions - origin) @ self.rotation.T,
            cell=cell @ self.rotation.T,
            pbc=True,
            masses=None if self.masses is None else np.asarray(self.masses)[types - 1],
        )
        atoms.set_velocities(velocities_A_ps @ self.rotation.T * ANGSTROM_PER_PS)
        return atoms


def read_neighbours(lmp: Any, n_local: int) -> tuple[NDArray[np.int32], list[int]]:
    """
    Copy the neighbour list of ``pair_style zero``.

    The wrapper of LAMMPS makes an array of each atom's part; joined as bytes it takes a quarter of the time.

    Parameters
    ----------
    lmp
        LAMMPS as a library.
    n_local
        Number of its atoms without ghost atoms.

    Returns
    -------
    tuple
        Indices of the neighbours of all atoms one after the other, (n_pairs,), and how many each has, (n_local,).
    """
    index = lmp.find_pair_neighlist("zero", exact=False)
    counts, parts = [], []
    for i in range(n_local):
        _, n, pointer = lmp.get_neighlist_element_neighbors(index, i)
        counts.append(n)
        if n:
            parts.append(ctypes.string_at(pointer, n * ctypes.sizeof(ctypes.c_int)))
    return np.frombuffer(b"".join(parts), dtype=np.int32), counts


def make_run_folder(
    directory: Path, potential: ACEPotential, atoms: Atoms | None, restart_file: Path | None, names: tuple[str, str]
) -> Path:
    """
    Make the folder of one run, with the potential and what MD starts from.

    Parameters
    ----------
    directory
        Where to make it.
    potential
        Its files are written.
    atoms, restart_file
        The restart file is copied if there is one, else the structure written.
    names
        Of structure and restart file in the folder.

    Raises
    ------
    ExplorationError
        If nothing can be written there.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="exploration-", dir=directory)).resolve()
        potential.write(folder)
        if restart_file is not None:
            shutil.copyfile(restart_file, folder / names[1])
        elif atoms is not None:
            write_structure(folder / names[0], atoms, potential.elements)
    except OSError as error:
        raise ExplorationError(
            f"no folder for MD can be made in '{directory.resolve()}': {error}; nothing is lost: free the disk, or "
            "choose a folder that can be written, and run it again"
        ) from error
    return folder


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
