"""LAMMPS as a library with forces from pyace: against pyace alone, finite differences, and itself resumed."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from ase import units
from ase.build import bulk

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.errors import ExplorationError, InvalidInputError
from mlip_autopipec.lammps import input_script, library, structures
from mlip_autopipec.lammps.exploration import run_exploration, with_velocities
from mlip_autopipec.lammps.types import Condition, HaltReason, HaltVerdict, MDSettings, WalkStatus
from mlip_autopipec.lammps.worker import LibraryRun
from mlip_autopipec.potentials.posterior import Posterior
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.processes import run_process

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

WIDE = {"gamma_lo": 1e9, "gamma_hi": 1e9}


def triclinic(seed: int = 0, repeat: tuple[int, int, int] = (2, 2, 2)) -> Atoms:
    """Copper in a sheared and rotated cell, as an NPT run or a user may hand it over."""
    atoms = bulk("Cu", cubic=True) * repeat
    strain = np.array([[1.01, 0.02, 0.0], [0.0, 0.99, 0.015], [0.01, 0.0, 1.005]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.rotate(30, (1, 2, 3), rotate_cell=True)
    atoms.rattle(0.08, seed=seed)
    return atoms


def explore(atoms: Atoms | None, potential: ACEPotential, folder: Path, temperature: float = 300.0, **kwargs):
    fields = {k: kwargs.pop(k) for k in list(kwargs) if k in MDSettings.__dataclass_fields__}
    return run_exploration(
        atoms, potential, Condition(temperature), MDSettings(**fields), engine="library", directory=folder, **kwargs
    )


@pytest.mark.parametrize("repeat", [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("with_gamma", [True, False])
def test_forces_energy_pressure_and_gamma_are_pyaces(
    copper_potential: ACEPotential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeat, with_gamma: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    atoms = triclinic(repeat=repeat)
    atoms.set_momenta(np.zeros((len(atoms), 3)))
    expected = copper_potential.calculator()
    expected.calculate(atoms)
    structures.write_structure(tmp_path / "structure.data", atoms, copper_potential.elements)
    settings = MDSettings(ensemble="nve", gamma_every=1 if with_gamma else 7, **WIDE)
    run = LibraryRun(copper_potential, Condition(300), settings, atoms)
    text = input_script.render(
        copper_potential.elements,
        Condition(300),
        settings,
        engine="library",
        start_step=0 if with_gamma else 1,
        cutoff_A=copper_potential.cutoff,
    )
    (tmp_path / input_script.INPUT).write_text(text)
    run.prepare(input_script.INPUT)
    if with_gamma:
        run.run(0)
    else:  # neither the first nor the last step, nor a multiple of gamma_every
        run.begin = run.end = -1
        run.command("run 0 post no")
    n = len(atoms)
    forces = run.lmp.numpy.extract_atom("f", nelem=n)[np.argsort(run.lmp.numpy.extract_atom("id", nelem=n))]
    assert np.abs(forces @ run.frame.rotation.T - expected.results["forces"]).max() < 1e-8
    energy = run.forces.energy + n * copper_potential.reference_energies["Cu"]
    assert energy == pytest.approx(expected.results["energy"], abs=1e-8)
    pressure = -expected.results["stress"][:3].mean() / units.GPa
    assert run.forces.virial[:3].sum() / 3 / atoms.get_volume() / units.GPa == pytest.approx(pressure, abs=1e-8)
    if with_gamma:
        # LAMMPS' own pressure as well (bar), the one a barostat works with
        assert run.lmp.get_thermo("press") / structures.GPA_TO_BAR == pytest.approx(pressure, abs=1e-6)
        frame = run.snapshot(run.forces.gamma)
        assert np.abs(frame.arrays["gamma"] - expected.results["gamma"]).max() < 1e-6
        assert expected.results["gamma"].max() > 0
        assert np.abs(frame.cell.array - atoms.cell.array).max() < 1e-10
        difference = np.linalg.solve(atoms.cell.array.T, (frame.positions - atoms.positions).T)
        assert np.abs(difference - np.rint(difference)).max() < 1e-10


def test_pyace_gets_the_neighbours_of_lammps_nearest_first(
    copper_potential: ACEPotential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    atoms, settings = triclinic(), MDSettings(ensemble="nve", **WIDE)
    structures.write_structure(tmp_path / "structure.data", atoms, copper_potential.elements)
    run = LibraryRun(copper_potential, Condition(300), settings, atoms)
    text = input_script.render(
        copper_potential.elements, Condition(300), settings, engine="library", cutoff_A=copper_potential.cutoff
    )
    (tmp_path / input_script.INPUT).write_text(text)
    run.prepare(input_script.INPUT)
    run.run(0)
    n, n_all = len(atoms), run.lmp.extract_setting("nall")
    flat, counts = structures.read_neighbours(run.lmp, n)
    listed = run.lmp.numpy.get_neighlist(run.lmp.find_pair_neighlist("zero", exact=False))
    ends = np.cumsum([0, *counts])
    for i in range(n):
        assert flat[ends[i] : ends[i + 1]].tolist() == listed.get(i)[1].tolist()
    positions, types, tags = (run.lmp.numpy.extract_atom(name, nelem=n_all).copy() for name in ("x", "type", "id"))
    before = run.forces.forces.copy(), run.forces.energy, run.forces.virial
    at = np.asarray(run.forces._environment.x)
    for i, near in enumerate(run.forces._environment.neighbour_list[:n]):
        distances = np.linalg.norm(at[near] - at[i], axis=1)
        assert len(near) == counts[i]
        assert (np.diff(distances) >= 0).all()
        expected = np.linalg.norm(positions[listed.get(i)[1]] - positions[i], axis=1)
        assert np.sort(expected) == pytest.approx(distances, abs=1e-12)
    backwards = np.concatenate([flat[ends[i] : ends[i + 1]][::-1] for i in range(n)])
    run.forces.set_joined_neighbours(backwards, counts, types, tags, positions)
    run.forces.evaluate(positions, with_gamma=False)
    assert np.abs(run.forces.forces - before[0]).max() < 1e-12
    assert run.forces.energy == pytest.approx(before[1], abs=1e-10)


def test_forces_and_stress_are_derivatives_of_the_energy(copper_potential: ACEPotential) -> None:
    atoms = triclinic()
    atoms.calc = copper_potential.calculator()
    forces, stress, h = atoms.get_forces(), atoms.get_stress(voigt=False), 1e-4
    for index, axis in [(0, 0), (7, 1), (20, 2)]:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index, axis] += sign * h
            moved.calc = copper_potential.calculator()
            energies.append(moved.get_potential_energy())
        assert -(energies[0] - energies[1]) / (2 * h) == pytest.approx(forces[index, axis], abs=1e-5)
    for i, j in [(0, 0), (1, 2), (0, 1)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * h / 2
            strain[j, i] += sign * h / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            strained.calc = copper_potential.calculator()
            energies.append(strained.get_potential_energy())
        # a symmetric strain of h/2 in both triangles is h on the diagonal, h/2 twice off it
        derivative = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
        assert derivative == pytest.approx(stress[i, j], abs=1e-6)


@pytest.mark.usefixtures("imported_anew")
def test_energy_is_conserved_and_the_list_is_rebuilt(copper_potential: ACEPotential, tmp_path: Path) -> None:
    """Atoms cross the cell and the skin many times; a stale neighbour list would show in the energy."""
    atoms = with_velocities(triclinic(), 900.0, seed=3)
    every = {"gamma_lo": 1e-9, "gamma_hi": 1e9, "max_frames": 5}
    result = explore(atoms, copper_potential, tmp_path, 900.0, n_steps=1000, ensemble="nve", **every)
    assert result.status is WalkStatus.CONVERGED
    assert result.step == 1000

    def total(frame: Atoms) -> float:
        frame.calc = copper_potential.calculator()
        return frame.get_potential_energy() + frame.get_kinetic_energy()

    # frames kept on the way as well: with the velocities of a half step they would be out by 0.02 eV
    for frame in [result.final, *result.frames]:
        assert total(frame) == pytest.approx(total(atoms), abs=2e-3 * len(atoms) * units.kB * 900)


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_resume_continues_velocities_and_time(copper_potential: ACEPotential, tmp_path: Path, ensemble: str) -> None:
    atoms = with_velocities(triclinic(), 300.0, seed=1)
    common = {"ensemble": ensemble, **WIDE}
    first = explore(atoms, copper_potential, tmp_path, n_steps=40, **common)
    resumed = explore(first.final, copper_potential, tmp_path, n_steps=80, start_step=40, **common)
    assert (resumed.step, resumed.trace["step"][0], resumed.trace["step"][-1]) == (80, 40, 80)
    assert resumed.trace["potential_energy_eV"][0] == pytest.approx(first.trace["potential_energy_eV"][-1], abs=1e-8)
    assert first.final.get_temperature() > 0
    if ensemble == "nve":  # no thermostat whose inner state a frame could not hold
        whole = explore(atoms, copper_potential, tmp_path, n_steps=80, **common)
        assert np.abs(resumed.final.get_velocities() - whole.final.get_velocities()).max() < 1e-9
        shift = np.linalg.solve(atoms.cell.array.T, (resumed.final.positions - whole.final.positions).T)
        assert np.abs(shift - np.rint(shift)).max() < 1e-9


def test_restart_file_continues(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = with_velocities(triclinic(), 300.0, seed=1)
    first = explore(atoms, copper_potential, tmp_path, n_steps=40, **WIDE)
    assert first.restart_file is not None
    resumed = explore(
        None, copper_potential, tmp_path, n_steps=60, start_step=40, restart_file=first.restart_file, **WIDE
    )
    assert resumed.step == 60
    assert resumed.trace["potential_energy_eV"][0] == pytest.approx(first.trace["potential_energy_eV"][-1], abs=1e-6)
    with pytest.raises(InvalidInputError, match=r"no\.restart"):
        explore(None, copper_potential, tmp_path, restart_file="no.restart")


def test_halts_at_the_first_step(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.45, seed=4)
    result = explore(atoms, copper_potential, tmp_path, n_steps=100, gamma_lo=1.0, gamma_hi=1.5)
    assert result.halt is not None
    assert (result.status, result.step, result.halt.step) == (WalkStatus.HALTED, 0, 0)
    assert result.halt.reason in (HaltReason.GAMMA, HaltReason.CORE_REPULSION)
    gamma = copper_potential.calculator()
    gamma.calculate(result.halt.atoms)
    assert np.allclose(gamma.results["gamma"], result.halt.atoms.arrays["gamma"], rtol=1e-6)
    assert result.halt.gamma_max == pytest.approx(result.halt.atoms.arrays["gamma"].max(), rel=1e-6)
    assert result.halt.atom_index == int(np.argmax(result.halt.atoms.arrays["gamma"]))


def test_halts_on_gamma_and_keeps_frames_between_the_thresholds(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    settings = MDSettings(n_steps=4000, gamma_lo=0.9, gamma_hi=1.6, gamma_every=5, max_frames=6)
    result = run_exploration(
        atoms,
        copper_potential,
        Condition(300.0, temperature_end_K=6000.0),
        settings,
        engine="library",
        directory=tmp_path,
    )
    assert result.halt is not None
    assert result.halt.step % 5 == 0
    assert result.halt.step == result.trace["step"][-1]
    assert 0 < len(result.frames) <= 6
    assert all(0.9 < f.info["gamma_max"] <= 1.6 for f in result.frames)
    assert result.halt.atoms.has("momenta")


def test_explosion_goes_back_to_the_last_sane_frame(copper_potential: ACEPotential, tmp_path: Path) -> None:
    fields = {"n_steps": 2000, "gamma_lo": 1e9, "gamma_hi": 1e300, "gamma_every": 2, "thermostat_damping_fs": 10.0}
    settings = MDSettings(temperature_limit_K=3000.0, **fields)
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    condition = Condition(1000.0, temperature_end_K=100_000.0)
    result = run_exploration(atoms, copper_potential, condition, settings, engine="library", directory=tmp_path)
    assert result.halt is not None
    assert result.halt.reason in (HaltReason.EXPLOSION, HaltReason.CORE_REPULSION)
    assert np.isfinite(result.final.positions).all()
    if result.halt.reason is HaltReason.EXPLOSION:
        assert result.step == result.halt.step - 2


def test_a_cell_that_evaporates_is_an_explosion(copper_potential: ACEPotential, tmp_path: Path) -> None:
    """In a gas gamma is low: nothing else would halt it."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    pulled = Condition(2000.0, pressure_GPa=-30.0)
    settings = MDSettings(n_steps=3000, ensemble="npt", barostat_damping_fs=200.0, **WIDE)
    result = run_exploration(atoms, copper_potential, pulled, settings, engine="library", directory=tmp_path)
    assert result.halt is not None
    assert result.halt.reason is HaltReason.EXPLOSION
    assert result.trace["volume_A3"][-1] > 1.5 * atoms.get_volume() >= result.trace["volume_A3"][-2]
    assert result.final.get_volume() <= 1.5 * atoms.get_volume()
    assert result.trace["gamma_max"][-1] < 1e9
    # a resumed walk is measured by the structure the whole run began with
    later = settings.begun_with(0.9 * atoms.get_volume())
    assert later.volume_limit_A3 == pytest.approx(1.35 * atoms.get_volume())
    assert later.begun_with(1.0) == later


def test_a_jump_of_gamma_is_an_explosion(copper_potential: ACEPotential, tmp_path: Path) -> None:
    """The frame beyond gamma_explosion is invalid; the one before it, below gamma_hi, is labelled and resumed."""
    settings = MDSettings(n_steps=4000, gamma_lo=0.9, gamma_hi=1.6, gamma_explosion=1.6, gamma_every=5)
    condition = Condition(300.0, temperature_end_K=6000.0)
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    result = run_exploration(atoms, copper_potential, condition, settings, engine="library", directory=tmp_path)
    assert result.halt is not None
    assert (result.halt.reason, result.halt.reason.verdict) == (HaltReason.EXPLOSION, HaltVerdict.EXPLOSION)
    assert result.halt.gamma_max > 1.6
    assert result.step == result.halt.step - 5
    assert result.final.arrays["gamma"].max() <= 1.6
    assert result.restart_file is None


def test_lost_atoms_halt(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    wild = {"timestep_fs": 500.0, "ensemble": "nve", "gamma_every": 50, "temperature_limit_K": 1e300}
    result = explore(atoms, copper_potential, tmp_path, 3000.0, n_steps=1000, gamma_lo=1e3, gamma_hi=1e300, **wild)
    assert result.halt is not None
    assert result.halt.reason is HaltReason.LOST_ATOMS
    assert len(result.final) == len(atoms)


@pytest.mark.usefixtures("imported_anew")
def test_a_killed_process_is_an_error_that_names_its_folder(copper_potential: ACEPotential, tmp_path: Path) -> None:
    def kill() -> None:
        while not (tasks := [p for p in psutil.Process().children() if "mlip_autopipec.lammps.worker" in p.cmdline()]):
            time.sleep(0.05)
        time.sleep(1.0)
        tasks[0].kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(ExplorationError, match=r"code -9, killed by signal 9 .* in .*exploration-"):
        explore(bulk("Cu", cubic=True) * (3, 3, 3), copper_potential, tmp_path, n_steps=10**7, **WIDE)
    killer.join()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 0}, "n_steps is 0"),
        ({"timestep_fs": -1.0}, "timestep_fs is -1"),
        ({"gamma_lo": 5.0, "gamma_hi": 2.0}, "gamma_hi is 2"),
        ({"ensemble": "muvt"}, "'muvt'"),
        ({"start_step": 99, "n_steps": 10}, "start_step is 99"),
    ],
)
def test_bad_settings_are_refused(copper_potential: ACEPotential, tmp_path: Path, change, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        explore(bulk("Cu", cubic=True), copper_potential, tmp_path, **change)
    assert not list(tmp_path.iterdir())  # refused before anything was computed


def test_bad_structures_are_refused(copper_potential: ACEPotential, tmp_path: Path) -> None:
    slab, empty, close = bulk("Cu", cubic=True), bulk("Cu")[:0], bulk("Cu", cubic=True)
    slab.cell[2] = 0
    close.positions[1] = close.positions[0] + 0.3
    for atoms, message in [
        (bulk("NaCl", "rocksalt", a=5.6), r"\['Cl', 'Na'\]"),
        (slab, "missing"),
        (empty, "empty"),
        (close, "apart"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            explore(atoms, copper_potential, tmp_path)
    of_another = ACEPotential(copper_potential.yaml, {"Cu": np.eye(3)})
    with pytest.raises(InvalidInputError, match=r"shape \(3, 3\)"):
        explore(bulk("Cu", cubic=True), of_another, tmp_path)
    no_active_set = ACEPotential(copper_potential.yaml)
    with pytest.raises(InvalidInputError, match="active set"):
        explore(bulk("Cu", cubic=True), no_active_set, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("n_steps", "every", "looks"), [(25, 10, [0, 10, 20, 25]), (30, 1000, [0, 30])])
def test_the_last_step_is_looked_at(copper_potential: ACEPotential, tmp_path: Path, n_steps, every, looks) -> None:
    result = explore(triclinic(), copper_potential, tmp_path, n_steps=n_steps, gamma_every=every, **WIDE)
    assert (result.status, result.trace["step"]) == (WalkStatus.CONVERGED, looks)
    # a run that goes on from there looks at its own first step, whatever its number
    again = explore(result.final, copper_potential, tmp_path, n_steps=61, gamma_every=50, start_step=n_steps, **WIDE)
    assert again.trace["step"] == [n_steps, 50, 61]


def test_a_halt_at_the_last_step_is_one(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    stretched = {"n_steps": 155, "gamma_every": 1000, "ensemble": "npt", "barostat_damping_fs": 100.0}

    def run(**thresholds):
        settings, tension = MDSettings(**stretched, **thresholds), Condition(300, pressure_GPa=-8.0)
        return run_exploration(atoms, copper_potential, tension, settings, engine="library", directory=tmp_path)

    first, last = run(**WIDE).trace["gamma_max"]
    assert last > first
    halted = run(gamma_lo=first, gamma_hi=(first + last) / 2)
    assert (halted.status, halted.step, halted.halt.reason) == (WalkStatus.HALTED, 155, HaltReason.GAMMA)


def test_a_barostat_of_ones_own_template_feels_the_present_virial(
    copper_potential: ACEPotential, tmp_path: Path
) -> None:
    text = input_script.shipped_template()
    nvt = next(line for line in text.splitlines() if line.startswith("fix             md {{ movers }} nvt"))
    own = text.replace(nvt, nvt.replace("nvt", "npt") + " iso 0 0 {{ barostat_damping_ps }}")
    run = {"n_steps": 60, "gamma_every": 20, "barostat_damping_fs": 200.0, **WIDE}
    by_template = explore(triclinic(), copper_potential, tmp_path, ensemble="nvt", template=own, **run)
    by_setting = explore(triclinic(), copper_potential, tmp_path, ensemble="npt", **run)
    assert np.ptp(by_setting.trace["volume_A3"]) > 1
    assert by_template.trace["volume_A3"] == by_setting.trace["volume_A3"]


#: LAMMPS takes memory that was used before for its fixes: here it holds what is not a number.
_IN_USED_MEMORY = """
from mlip_autopipec.lammps import worker
prepare = worker.LibraryRun.prepare
def after_others(run, input_file):
    junk = [bytes([255]) * size for size in range(520, 1500, 8) for _ in range(9)]
    del junk
    prepare(run, input_file)
worker.LibraryRun.prepare = after_others
worker.main()
"""


def test_a_barostat_asks_for_the_virial_after_it_is_set(
    copper_potential: ACEPotential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_used_memory(_command: list[str], log: Path, environment: dict[str, str]) -> int:
        return run_process([sys.executable, "-c", _IN_USED_MEMORY], log, environment)

    monkeypatch.setattr(library, "run_process", in_used_memory)
    run = {"n_steps": 10, "ensemble": "npt", **WIDE}
    assert explore(triclinic(), copper_potential, tmp_path, **run).status is WalkStatus.CONVERGED
    fix, virial = "fix             ace all external pf/callback 1 1\n", "fix_modify      ace energy yes virial yes\n"
    text = input_script.shipped_template()
    assert fix + virial in text
    last = "thermo_modify   lost error norm no\n"
    late = text.replace(fix + virial, "").replace(last, fix + virial + last, 1)
    with pytest.raises(ExplorationError, match=r"'fix ace all external .*' has to stand before the fix of a barostat"):
        explore(triclinic(), copper_potential, tmp_path, template=late, **run)


@pytest.mark.parametrize("barostat", ["isotropic", "anisotropic", "triclinic"])
def test_what_a_barostat_changes_of_the_cell(copper_potential: ACEPotential, tmp_path: Path, barostat: str) -> None:
    """A cell that is stretched along one axis and sheared: each barostat lets go of what it may."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    strain = np.array([[1.02, 0.0, 0.0], [0.02, 1.0, 0.0], [0.0, 0.0, 0.98]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.rotate(40, (1, 1, 0), rotate_cell=True)
    settings = {"n_steps": 400, "ensemble": "npt", "barostat": barostat, "barostat_damping_fs": 300.0}
    result = explore(atoms, copper_potential, tmp_path, 100.0, **settings, **WIDE)
    before, after = atoms.cell.cellpar(), result.final.cell.cellpar()
    assert result.trace["volume_A3"][-1] != result.trace["volume_A3"][0]
    ratio_kept = after[0] / after[2] == pytest.approx(before[0] / before[2], rel=1e-9)
    angle_kept = after[5] == pytest.approx(before[5], abs=1e-9)
    assert (ratio_kept, angle_kept) == {
        "isotropic": (True, True),
        "anisotropic": (False, True),
        "triclinic": (False, False),
    }[barostat]
    if barostat != "isotropic":
        assert abs(after[0] / after[2] - 1) < abs(before[0] / before[2] - 1)
    # the frame is that of LAMMPS, in the structure's own orientation
    result.final.calc = copper_potential.calculator()
    assert result.final.get_potential_energy() == pytest.approx(result.trace["potential_energy_eV"][-1], abs=1e-6)
    turned = np.linalg.solve(atoms.cell.array, result.final.cell.array)
    assert np.abs(turned - np.eye(3)).max() < 0.1


def test_masses_of_the_structure_move_the_atoms(copper_potential: ACEPotential, tmp_path: Path) -> None:
    """A heavy isotope: the asked temperature with its mass, after a restart as well."""
    atoms = triclinic()
    atoms.set_masses([2 * mass for mass in atoms.get_masses()])
    moving = with_velocities(atoms, 300.0, seed=1)
    first = explore(moving, copper_potential, tmp_path, n_steps=1, **WIDE)
    assert first.trace["temperature_K"][0] == pytest.approx(300.0, rel=1e-3)
    assert first.final.get_masses() == pytest.approx(atoms.get_masses())
    resumed = explore(
        first.final, copper_potential, tmp_path, n_steps=2, start_step=1, restart_file=first.restart_file, **WIDE
    )
    assert resumed.trace["temperature_K"][0] == pytest.approx(first.trace["temperature_K"][-1], rel=1e-6)
    assert resumed.final.get_masses() == pytest.approx(atoms.get_masses())


def expected_errors(potential: ACEPotential, atoms: Atoms) -> np.ndarray:
    return potential.error_bars.of(atoms).by_atom


def test_an_expected_force_error_halts_md_and_is_told(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    ramp = Condition(100.0, temperature_end_K=3000.0)
    fields = {"n_steps": 400, "gamma_every": 5, "gamma_lo": 0.01, "gamma_hi": 1e9}

    def run(limit: float):
        settings = MDSettings(max_force_std_eV_A=limit, **fields)
        return run_exploration(atoms, copper_potential, ramp, settings, directory=tmp_path)

    free = run(1e6)
    assert (free.status, free.engine) == (WalkStatus.CONVERGED, "library")
    assert all(frame.arrays["forces_std"].shape == (32, 3) for frame in free.frames)
    assert all(frame.info["energy_std"] > 0 for frame in free.frames)
    first = expected_errors(copper_potential, free.frames[0]).max()
    last = expected_errors(copper_potential, free.final).max()
    assert last > 1.5 * first, "it was heated"
    limit = (first + last) / 2
    halted = run(limit)
    assert halted.halt is not None
    assert (halted.halt.reason, halted.halt.reason.verdict) == (HaltReason.FORCE_ERROR, HaltVerdict.NOVELTY)
    by_atom = expected_errors(copper_potential, halted.halt.atoms)
    assert halted.halt.force_std_eV_A == pytest.approx(by_atom.max(), rel=1e-6)
    assert halted.halt.atom_index == int(by_atom.argmax())
    assert by_atom.max() > limit
    assert 0 < halted.step == halted.halt.step < 400
    assert halted.restart_file is not None, "the frame is valid, so that MD goes on from it"
    assert all(expected_errors(copper_potential, frame).max() <= limit * (1 + 1e-9) for frame in halted.frames)


def test_a_force_expected_to_be_wrong_by_half_of_what_is_usual_halts_md_where_gamma_is_raised(
    copper_potential: ACEPotential, tmp_path: Path
) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=3)
    assert copper_potential.posterior is not None
    usual = copper_potential.posterior.usual_force_eV_A
    assert 0.5 < usual < 5, "of the labels it was fitted to"
    unpacked = Posterior.unpack(copper_potential.posterior.pack())
    assert unpacked is not None
    assert unpacked.usual_force_eV_A == usual
    expected = expected_errors(copper_potential, atoms).max()
    gamma = compute_gamma(copper_potential, atoms).max()

    def halt(share: float, gamma_lo: float):
        fields = {
            "n_steps": 1,
            "timestep_fs": 1e-3,
            "gamma_lo": gamma_lo,
            "gamma_hi": 1e9,
            "max_relative_force_std": share,
        }
        return explore(atoms, copper_potential, tmp_path, **fields).halt

    halted = halt(0.9 * expected / usual, 0.5 * gamma)
    assert halted is not None
    assert halted.reason is HaltReason.FORCE_ERROR
    assert halted.force_std_eV_A == pytest.approx(expected, rel=1e-6)
    assert halt(1.1 * expected / usual, 0.5 * gamma) is None, "not so wrong"
    assert halt(0.9 * expected / usual, 2 * gamma) is None, "gamma is low"


def test_the_halt_says_which_criterion_it_was(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.3, seed=4)
    by_gamma = explore(atoms, copper_potential, tmp_path, n_steps=5, gamma_lo=0.1, gamma_hi=0.2, max_force_std_eV_A=1e6)
    assert by_gamma.halt is not None
    assert by_gamma.halt.reason is HaltReason.GAMMA
    assert by_gamma.halt.force_std_eV_A is None


def test_a_halt_by_expected_errors_needs_them(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True)
    bare = ACEPotential(copper_potential.yaml, copper_potential.active_set_inverse)
    settings = MDSettings(max_force_std_eV_A=0.1)
    with pytest.raises(InvalidInputError, match=r"max_force_std_eV_A.*no error bars"):
        run_exploration(atoms, bare, Condition(300), settings, directory=tmp_path)
    with pytest.raises(InvalidInputError, match=r"max_force_std_eV_A.*engine: library"):
        run_exploration(atoms, copper_potential, Condition(300), settings, directory=tmp_path, engine="executable")
    with pytest.raises(InvalidInputError, match=r"max_force_std_eV_A.*-1"):
        MDSettings(max_force_std_eV_A=-1).check()


def test_a_few_frames_of_the_whole_way_are_kept(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    result = explore(atoms, copper_potential, tmp_path, n_steps=100, gamma_every=5, **WIDE)
    assert [frame.info["step"] for frame in result.spread] == [20, 40, 60, 80]
    assert result.frames == []
    assert all(frame.has("momenta") for frame in result.spread)
    assert explore(atoms, copper_potential, tmp_path, n_steps=7, gamma_every=5, **WIDE).spread[0].info["step"] == 5
