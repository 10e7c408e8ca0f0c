"""The LAMMPS command: launchers, own templates, a false LAMMPS, crashes; with a real lmp behind a script."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from ase.build import bulk

from mlip_autopipec import LammpsDynamicsMaker, OracleMaker, OTFMaker
from mlip_autopipec.errors import ExecutableError, ExplorationError, InvalidInputError
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.lammps import executable, input_script
from mlip_autopipec.lammps.exploration import run_exploration, with_velocities
from mlip_autopipec.lammps.types import Condition, MDSettings, WalkStatus
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.settings import get_settings

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec.lammps.types import ExplorationResult
    from mlip_autopipec.potentials.potential import ACEPotential

NAME = "MLIP_AUTOPIPEC_LAMMPS_CMD"
EMT = OracleMaker(static_maker=EMTStaticMaker())
SHORT = MDSettings(n_steps=20, gamma_every=5, gamma_lo=1e9, gamma_hi=1e9)
ENDLESS = replace(SHORT, n_steps=10**8)
COPPER = Condition(300.0)


@pytest.fixture
def lmp() -> list[str]:
    """Words of a real LAMMPS command with ML-PACE."""
    try:
        return executable.find_command()
    except ExecutableError as error:
        pytest.skip(f"{error} (MLIP_AUTOPIPEC_LAMMPS_CMD names it)")


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    return with_velocities(atoms, 300.0, seed=1)


def explore(potential: ACEPotential, folder: Path, settings: MDSettings = SHORT) -> ExplorationResult:
    return run_exploration(crystal(), potential, COPPER, settings, engine="executable", directory=folder)


def in_front_of(lmp: list[str], folder: Path, body: str, *, shell: str = "/bin/sh") -> str:
    """A script that does something and then becomes the real LAMMPS."""
    path = folder / "wrapper"
    last = (
        f'exec {shlex.join(lmp)} "$@"\n' if shell == "/bin/sh" else f"os.execvp({lmp[0]!r}, {lmp!r} + sys.argv[1:])\n"
    )
    path.write_text(f"#!{shell}\n{body}\n{last}")
    path.chmod(0o755)
    return str(path)


# ------------------------------------------------------------------ launchers


def test_launcher_and_options_keep_their_order(
    copper_potential: ACEPotential, lmp: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `srun -n 4 lmp -k on g 1 -sf kk`, with options a real serial lmp takes."""
    wrapper = in_front_of(lmp, tmp_path, f'echo "$0 $@" >> {tmp_path}/calls')
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\necho "launched $@" >&2\nshift 2\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv(NAME, f"'{launcher}' -n 4 {wrapper} -var site 'a b' -sf opt")
    result = explore(copper_potential, tmp_path)
    assert result.status is WalkStatus.CONVERGED
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"{wrapper} -var site a b -sf opt -h",
        f"{wrapper} -var site a b -sf opt -in in.lammps -log log.lammps -screen none -nocite",
    ]
    (screen,) = tmp_path.glob("exploration-*/screen.log")
    assert screen.read_text().startswith("launched -n 4 ")


def test_nothing_is_asked_for_before_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a login node there may be no LAMMPS, and no launcher that works."""
    monkeypatch.setenv(NAME, "srun -n 4 no_such_lmp -k on g 1 -sf kk")
    maker = OTFMaker(oracle_maker=EMT, dynamics_maker=LammpsDynamicsMaker(engine="executable"))
    assert len(maker.make(bulk("Cu", cubic=True) * (2, 2, 2), 300).jobs) > 3
    assert get_settings().LAMMPS_CMD.startswith("srun")


def test_kokkos_without_its_style_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for has_kk in (True, False):
        path = tmp_path / f"lmp_{has_kk}"
        path.write_text(f"#!/bin/sh\necho 'LAMMPS\\npace/extrapolation {'pace/extrapolation/kk' if has_kk else ''}'\n")
        path.chmod(0o755)
        caplog.clear()
        monkeypatch.setenv(NAME, f"{path} -k on g 1 -sf kk")
        assert executable.is_available()
        assert ("has no pair_style pace/extrapolation/kk" in caplog.text) is not has_kk


# ------------------------------------------------------------------ templates


def test_numbers_keep_their_bits() -> None:
    settings = MDSettings(n_steps=7, timestep_fs=0.1, thermostat_damping_fs=1 / 3, gamma_lo=0.1 + 0.2, gamma_hi=1e300)
    condition = Condition(300.0, temperature_end_K=1000.0)
    lines = input_script.command_lines(
        input_script.render(["Cu"], condition, settings, engine="executable", start_step=3)
    )
    (integrator,) = (line.split() for line in lines if line.startswith("fix") and " nvt " in line)
    assert [float(w) for w in integrator[5:8]] == [condition.temperature_at(3 / 7), 1000.0, 1 / 3 * 1e-3]
    assert "mass            1 63.546" in lines
    assert any("v_gamma <= 0.30000000000000004" in line for line in lines)
    assert "timestep        0.0001" in lines


@pytest.mark.parametrize("engine", ["library", "executable"])
def test_a_template_of_ones_own(copper_potential: ACEPotential, tmp_path: Path, engine: Any) -> None:
    """A thermostat the package does not have, on either engine."""
    if engine == "executable" and not executable.is_available():
        pytest.skip("no lmp with ML-PACE (MLIP_AUTOPIPEC_LAMMPS_CMD names one)")
    mine = input_script.shipped_template().replace(
        "fix             md {{ movers }} nvt temp {{ temperature_K }} {{ temperature_end_K }} "
        "{{ thermostat_damping_ps }}",
        "fix md {{ movers }} nve\nfix bath {{ movers }} langevin {{ temperature_K }} {{ temperature_end_K }} "
        "{{ thermostat_damping_ps }} 4711",
    )
    assert "langevin" in mine
    settings = replace(SHORT, template=mine)
    result = run_exploration(crystal(), copper_potential, COPPER, settings, engine=engine, directory=tmp_path)
    assert (result.status, result.step) == (WalkStatus.CONVERGED, 20)
    (folder,) = tmp_path.glob("exploration-*")
    assert "langevin 300 300 0.1 4711" in (folder / input_script.INPUT).read_text()
    if engine == "executable":
        plain = run_exploration(crystal(), copper_potential, COPPER, SHORT, engine=engine, directory=tmp_path)
        assert np.abs(result.final.get_velocities() - plain.final.get_velocities()).max() > 1e-6


LOST = ["write_restart", "fix             trace", "print ", "dump            looks", "newton"]


@pytest.mark.parametrize("lost", LOST)
def test_what_a_template_lacks_is_named(copper_potential: ACEPotential, tmp_path: Path, lost: str) -> None:
    kept = [line for line in input_script.shipped_template().splitlines() if not line.startswith(lost)]
    settings = replace(SHORT, template="\n".join(kept))
    name = lost.split(maxsplit=1)[0]
    message = rf"MDSettings\.template(?s:.*)lacks(?s:.*){name}(?s:.*)exploration\.lmp"
    with pytest.raises(InvalidInputError, match=message):
        run_exploration(crystal(), copper_potential, COPPER, settings, engine="executable", directory=tmp_path)
    assert list(tmp_path.iterdir()) == []  # before anything is run
    maker = OTFMaker(oracle_maker=EMT, dynamics_maker=LammpsDynamicsMaker(settings=settings, engine="executable"))
    with pytest.raises(InvalidInputError, match="lacks"):  # and before anything is submitted
        maker.make(crystal(), 300)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ temprature_K }}", "'temprature_K' is undefined; the variables are .*temperature_K"),
        ("a\n{% if %}", "cannot be rendered in line 2"),
    ],
)
def test_a_template_with_a_mistake(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        input_script.render(["Cu"], COPPER, replace(SHORT, template=text), engine="executable")


def test_the_library_engine_runs_the_steps_itself() -> None:
    template = input_script.shipped_template() + "\nrun 100\n"
    with pytest.raises(InvalidInputError, match=r"'run 100' for the library engine"):
        input_script.render(["Cu"], COPPER, replace(SHORT, template=template), engine="library", cutoff_A=5.0)


def test_the_run_file_names_a_template(tmp_path: Path) -> None:
    (tmp_path / "mine.lmp").write_text(input_script.shipped_template() + "\n# ours\n")
    run = "structures: [{bulk: {name: Cu}}]\nconditions: [{temperature_K: 300}]\noracle: {kind: emt}\n"
    run += "dynamics: {template: TEMPLATE, wall_time_s: 3600}\n"
    (tmp_path / "run.yaml").write_text(run.replace("TEMPLATE", "mine.lmp"))
    settings = RunFile.load(tmp_path / "run.yaml").maker().dynamics_maker.settings
    assert settings.template is not None
    assert settings.template.endswith("# ours\n")  # the text, not the path
    assert settings.wall_time_s == 3600
    (tmp_path / "run.yaml").write_text(run.replace("TEMPLATE", "absent.lmp"))
    with pytest.raises(InvalidInputError, match=r"dynamics\.template: .*absent\.lmp"):
        RunFile.load(tmp_path / "run.yaml").maker()


# ------------------------------------------------------------------ a LAMMPS that computes something else


@pytest.mark.parametrize(
    ("factor", "message"), [(0.0, r"gamma: LAMMPS 0, pyace 0\.\d+"), (1.00001, "gamma: LAMMPS"), (1 + 1e-8, "")]
)
def test_false_gamma_is_found_in_the_first_frame(
    copper_potential: ACEPotential,
    lmp: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
    message: str,
) -> None:
    """Zero as the ML-PACE of autumn 2023 gave; the run is ended, not waited for."""
    body = (
        "import os, sys, pathlib, numpy as np\n"
        "path = pathlib.Path('potential.asi')\n"
        "if path.exists():\n"
        f"    arrays = {{name: a * {factor} for name, a in np.load(path).items()}}\n"
        "    with path.open('wb') as stream:\n"
        "        np.savez(stream, **arrays)"
    )
    monkeypatch.setenv(NAME, in_front_of(lmp, tmp_path, body, shell=sys.executable))
    if not message:
        assert explore(copper_potential, tmp_path).status is WalkStatus.CONVERGED
        return
    with pytest.raises(ExplorationError, match=rf"first frame(?s:.*){message}(?s:.*)update its package ML-PACE"):
        explore(copper_potential, tmp_path, ENDLESS)
    assert not [p for p in psutil.Process().children(recursive=True) if "in.lammps" in p.cmdline()]


# ------------------------------------------------------------------ crashes


def test_killed_in_the_middle(copper_potential: ACEPotential, lmp: list[str], tmp_path: Path) -> None:
    """By SIGKILL, as the batch queue or the kernel does it."""

    def kill() -> None:
        while not [t for t in tmp_path.glob("exploration-*/trace.dat") if t.read_text().count("\n") > 20]:
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            if "in.lammps" in process.cmdline():
                process.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(ExplorationError, match=r"ended with code .* in .*exploration-\w+; nothing is lost"):
        explore(copper_potential, tmp_path, ENDLESS)
    killer.join()
    (folder,) = tmp_path.glob("exploration-*")
    assert (folder / input_script.LOG).stat().st_size > 0


@pytest.mark.parametrize("signalled", [True, False])
def test_a_full_disk_is_no_result(
    copper_potential: ACEPotential,
    lmp: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signalled: bool,
) -> None:
    """Files may grow to 16 kB; LAMMPS does not notice when its writes fail and ends with code 0."""
    if len(lmp) > 1:
        pytest.skip("the limit would stop a launcher's own files first")
    body = "ulimit -f 32" if signalled else "trap '' XFSZ\nulimit -f 32"
    monkeypatch.setenv(NAME, in_front_of(lmp, tmp_path, body))
    settings = replace(SHORT, n_steps=1000, gamma_every=2)
    message = "signal 25" if signalled else r"is the disk full\?"
    with pytest.raises(ExplorationError, match=rf"{message}(?s:.*) in .*exploration-\w+; nothing is lost"):
        explore(copper_potential, tmp_path, settings)


@pytest.mark.parametrize("engine", ["library", "executable"])
def test_a_folder_that_cannot_be_written(
    copper_potential: ACEPotential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(executable, "find_command", lambda: ["lmp"])
    with pytest.raises(ExplorationError, match=r"no folder for MD can be made in '.*file'(?s:.*)run it again"):
        run_exploration(crystal(), copper_potential, COPPER, SHORT, engine=engine, directory=tmp_path / "file")
