"""MD of the oracle itself is at the walkers' conditions: temperature, ramp, pressure, vacuum."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.run_oracle import calculator_for
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.validation.oracle_md import ValidationSettings, oracle_md_frames, oracle_md_states

COPPER = bulk("Cu", cubic=True) * (2, 2, 2)
SETTINGS = ValidationSettings(n_frames=4, interval_steps=60, timestep_fs=3.0)


def pressure_GPa(frame) -> float:
    return -float(np.trace(frame.get_stress(voigt=False, include_ideal_gas=True))) / 3 / units.GPa


def test_a_barostat_brings_the_cell_to_the_pressure() -> None:
    frames = oracle_md_frames(COPPER, EMT(), Condition(300, pressure_GPa=20), SETTINGS, 1, barostat="isotropic")
    assert pressure_GPa(frames[-1]) == pytest.approx(20, abs=3)
    assert frames[-1].get_volume() < 0.93 * COPPER.get_volume()
    at_rest = oracle_md_frames(COPPER, EMT(), 300, SETTINGS, 1)
    assert at_rest[-1].get_volume() == pytest.approx(COPPER.get_volume())


def test_the_vacuum_of_a_slab_is_not_squeezed() -> None:
    slab = fcc111("Cu", (2, 2, 3), a=3.9, vacuum=8.0)  # strained in its plane
    frames = oracle_md_frames(slab, EMT(), Condition(300), SETTINGS, 1, barostat="anisotropic")
    before, after = frames[0].cell.lengths(), frames[-1].cell.lengths()
    assert after[2] == before[2]
    assert after[0] < slab.cell.lengths()[0] - 0.1


def test_a_ramp_ends_where_the_walker_ends() -> None:
    states = oracle_md_states(COPPER, EMT(), Condition(50, temperature_end_K=1200), SETTINGS, 1)
    temperatures = [state.frame.get_temperature() for state in states]
    assert temperatures[-1] > 2 * temperatures[0]
    assert temperatures[-1] == pytest.approx(1200, rel=0.35)


def test_under_a_pressure_it_goes_on_as_if_it_had_not_stopped() -> None:
    condition = Condition(300, pressure_GPa=5)
    settings = ValidationSettings(n_frames=3, interval_steps=13, timestep_fs=3.0)
    whole = list(oracle_md_states(COPPER, EMT(), condition, settings, 1, barostat="isotropic"))
    rest = list(oracle_md_states(COPPER, EMT(), condition, settings, 1, whole[0], 1, barostat="isotropic"))
    assert np.abs(whole[2].frame.positions - rest[1].frame.positions).max() < 1e-9
    assert whole[2].random == rest[1].random


def test_an_oracle_without_stress_is_refused() -> None:
    class NoStress(EMT):
        implemented_properties = ("energy", "forces")

    assert issubclass(NoStress, Calculator)
    with pytest.raises(InvalidInputError, match="NoStress gives none"):
        oracle_md_frames(COPPER, NoStress(), 300, SETTINGS, 1, barostat="isotropic")


@pytest.mark.parametrize(("n_frames", "halves"), [(10, (5, 5)), (3, (2, 1)), (1, (1, None))])
def test_half_of_the_frames_are_from_where_the_walker_ended(n_frames, halves) -> None:
    begins, ends = ValidationSettings(n_frames=n_frames).halves()
    assert (begins.n_frames, None if ends is None else ends.n_frames) == halves


def test_a_charge_reaches_the_oracle_in_its_own_md(tmp_path, monkeypatch) -> None:
    """NH4+ was run as NH4: 7 eV off, and the campaign said CONVERGED beside it."""
    monkeypatch.chdir(tmp_path)  # atomate2 writes a file
    pytest.importorskip("tblite")
    from atomate2.ase.jobs import GFNxTBStaticMaker

    ammonium = molecule("NH3") + Atoms("H", [[0.0, 0.0, 1.15]])
    ammonium.info["charge"] = 1
    ammonium.set_cell([10, 10, 10])
    ammonium.center()
    maker = GFNxTBStaticMaker(calculator_kwargs={"method": "GFN1-xTB", "verbosity": 0})
    label = OracleMaker(static_maker=maker).compute(ammonium).atoms
    settings = ValidationSettings(n_frames=1, interval_steps=1, timestep_fs=1e-6)
    (frame,) = oracle_md_frames(ammonium, calculator_for(maker, ammonium), 1e-3, settings, 1)
    assert frame.get_potential_energy() == pytest.approx(label.get_potential_energy(), abs=1e-3)
    assert "stress" not in frame.calc.results
    neutral = oracle_md_frames(ammonium, maker.calculator, 1e-3, settings, 1)[0]
    assert abs(neutral.get_potential_energy() - label.get_potential_energy()) > 5


def test_a_calculator_for_a_slab_has_one_k_point_along_vacuum_and_the_dipole_correction(tmp_path) -> None:
    (tmp_path / "Cu.upf").touch()
    slab = fcc111("Cu", (1, 1, 3), vacuum=8.0)
    maker = EspressoStaticMaker(
        pseudopotentials={"Cu": "Cu.upf"},
        pseudo_dir=str(tmp_path),
        input_data={"control": {"tefield": True, "dipfield": True}, "system": {"ecutwfc": 30}},
        kspacing=0.25,
    )
    calculator = calculator_for(maker, slab)
    assert calculator.parameters["kpts"][2] == 1
    assert calculator.parameters["input_data"]["system"]["edir"] == 3
