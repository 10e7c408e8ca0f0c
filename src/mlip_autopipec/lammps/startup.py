"""The start-up test: what ``lmp`` computes for its first frame has to be what pyace computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase import units

from mlip_autopipec.errors import ExplorationError
from mlip_autopipec.lammps import input_script, readback
from mlip_autopipec.potentials.potential import reference_energy

if TYPE_CHECKING:
    from pathlib import Path

    from mlip_autopipec.lammps.structures import Frame
    from mlip_autopipec.potentials.potential import ACEPotential

#: Largest deviation, relative to the largest value but at least to :data:`SMALLEST_SCALE`.
#: Two builds of the same ACE agree to 1e-9 and better; a wrong potential, active set or unit does not.
TOLERANCE = 1e-6
#: What counts as large, so that the zero forces of a perfect crystal do not: gamma, eV/A, eV/atom, GPa.
SMALLEST_SCALE = {"gamma": 0.1, "force": 0.1, "energy": 0.1, "pressure": 0.1}
UNITS = {"gamma": "", "force": " eV/A", "energy": " eV/atom", "pressure": " GPa"}
ADVICE = (
    "this LAMMPS gives wrong values for this potential: update its package ML-PACE (lammps-user-pace 2023.11.25 or "
    "newer; that of autumn 2023 gave gamma = 0), or use engine='library'"
)


def check_first_frame(folder: Path, frame: Frame, potential: ACEPotential, *, forces_too: bool) -> bool:
    """
    Compare gamma, energy, forces and pressure of the first frame with pyace, one evaluation.

    Parameters
    ----------
    folder
        Where LAMMPS runs or ran.
    frame
        Orientation and elements.
    potential
        With its active set.
    forces_too
        Whether forces and pressure are all the potential's, so that they can be compared; a template
        of a user's own may hold fixes that add to them (a Langevin thermostat, a wall).

    Returns
    -------
    bool
        False if the first frame is not there yet.

    Raises
    ------
    ExplorationError
        If anything deviates by more than :data:`TOLERANCE`.
    """
    first = next(iter(readback.read_dump(folder / input_script.FIRST, frame)), None)
    if first is None:
        return False
    step, atoms = first
    calculator = potential.calculator()
    calculator.calculate(atoms)
    results = calculator.results
    if not (np.isfinite(results["forces"]).all() and np.isfinite(results["gamma"]).all()):
        return True  # nothing to compare with; the run itself ends as not finite
    n, volume = len(atoms), atoms.get_volume()
    pairs = {"force": (atoms.arrays["forces"], results["forces"])} if forces_too else {}
    # gamma, energy and pressure are taken at grading steps; a run that starts between two has none of its first frame
    look = next(iter(readback.read_looks(folder / input_script.TRACE)), None)
    if look is not None and look.step == step:
        kinetic, virial = 2 * atoms.get_kinetic_energy(), -volume * results["stress"][:3].sum()
        shift = reference_energy(atoms, potential.reference_energies)
        pairs |= {
            "gamma": (atoms.arrays["gamma"], results["gamma"]),
            "energy": (np.array(look.energy_eV + shift) / n, np.array(results["energy"] / n)),
        }
        if forces_too:
            pressure = (kinetic + virial) / (3 * volume) / units.GPa
            pairs["pressure"] = (np.array(look.pressure_GPa), np.array(pressure))
    wrong = []
    for name, (theirs, ours) in pairs.items():
        scale = max(float(np.abs(ours).max()), SMALLEST_SCALE[name])
        deviation = float(np.abs(theirs - ours).max())
        if not deviation <= TOLERANCE * scale:  # a NaN deviates
            a, b = (f"{np.abs(x).max():.9g}{UNITS[name]}" for x in (theirs, ours))
            wrong.append(f"{name}: LAMMPS {a}, pyace {b}, largest deviation {deviation:.3g}{UNITS[name]}")
    if wrong:
        raise ExplorationError(
            f"the first frame ({folder / input_script.FIRST}) is not what pyace computes:\n  "
            + "\n  ".join(wrong)
            + f"\n{ADVICE}"
        )
    return True
