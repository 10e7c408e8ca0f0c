"""ABINIT through ASE's calculator: it ends well whether its field converged or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.genericfileio import GenericFileIOCalculator
from ase.config import Config

from mlip_autopipec.errors import LabelError
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ase import Atoms

pytest.importorskip("netCDF4", reason="ASE reads ABINIT's results with netCDF4: pip install netCDF4")


@pytest.fixture(autouse=True)
def _abinit(need: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch, tmp_cwd: Path) -> None:
    need("abinit", "abinit abinit-data")
    (tmp_cwd / "ase.ini").write_text("[abinit]\ncommand = abinit\npp_paths = /usr/share/abinit/psp\n")
    monkeypatch.setenv("ASE_CONFIG_PATH", str(tmp_cwd / "ase.ini"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(GenericFileIOCalculator, "cfg", Config.read())


def silicon() -> Atoms:
    atoms = bulk("Si")
    atoms.set_cell(atoms.cell.array @ [[1.02, 0.03, -0.01], [0, 0.99, 0.02], [0, 0, 1.03]], scale_atoms=True)
    atoms.rattle(0.05, seed=0)
    atoms.positions[0, 0] += 0.1
    return atoms


def oracle(**settings: object) -> OracleMaker:
    kwargs = {"pps": "pspgth", "ecut": 140.0, "ecutsm": 0.5, "toldff": 1e-6, "nstep": 40}
    electrons = {"occopt": 3, "tsmear": 0.5, "nband": 12}
    # not kptrlen: it picks another kind of grid when the cell is sheared, and the energy jumps by tenths of an eV
    mesh = {"kpts": (3, 3, 3), "chksymbreak": 0, "nsym": 1}
    maker = CalculatorStaticMaker(
        calculator_class="ase.calculators.abinit.Abinit", calculator_kwargs={**kwargs, **electrons, **mesh, **settings}
    )
    return OracleMaker(static_maker=maker)


def test_forces_and_stress_are_derivatives_of_the_labelled_energy() -> None:
    atoms = silicon()
    label = oracle().compute(atoms)
    assert label.energy_kind == "free_energy"

    def energy(structure: Atoms) -> float:
        return oracle().compute(structure).atoms.get_potential_energy()

    def moved(sign: int) -> Atoms:
        other = atoms.copy()
        other.positions[0, 0] += 0.01 * sign
        return other

    force = -(energy(moved(1)) - energy(moved(-1))) / 0.02
    print(f"force {label.atoms.get_forces()[0, 0]:.5f}, by difference {force:.5f} eV/A")
    assert label.atoms.get_forces()[0, 0] == pytest.approx(force, abs=1e-3)

    def sheared(sign: int) -> Atoms:
        other = atoms.copy()
        strain = np.eye(3)
        strain[0, 1] = strain[1, 0] = 0.5 * 0.004 * sign
        other.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        return other

    stress = (energy(sheared(1)) - energy(sheared(-1))) / (0.008 * atoms.get_volume())
    print(f"stress {label.atoms.get_stress()[5]:.5f}, by difference {stress:.5f} eV/A^3")
    assert label.atoms.get_stress()[5] == pytest.approx(stress, abs=1e-3)


def test_unconverged_field_is_a_failed_label() -> None:
    with pytest.raises(LabelError, match=r"nstep= 2 was not enough SCF cycles to converge"):
        oracle(nstep=2).compute(silicon())


def test_error_of_the_code_is_the_reason() -> None:
    with pytest.raises(LabelError, match=r"ERROR"):
        oracle(toldfe=1e-6).compute(silicon())
