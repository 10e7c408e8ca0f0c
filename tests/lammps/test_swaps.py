"""Exchanges of atoms in MD: by both engines, with the energies of the potential."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec import OracleMaker, OTFMaker
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.lammps import executable, input_script, readback, structures
from mlip_autopipec.lammps.cell import MDCell
from mlip_autopipec.lammps.exploration import check_swaps, run_exploration
from mlip_autopipec.lammps.swaps import SwapRound, SwapSettings, can_swap
from mlip_autopipec.lammps.types import Condition, HaltReason, MDSettings, WalkStatus
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.structures.frozen import freeze
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from ase import Atoms

    from mlip_autopipec.lammps.types import ExplorationResult
    from mlip_autopipec.potentials.potential import ACEPotential

WIDE = {"gamma_lo": 1e8, "gamma_hi": 1e9, "gamma_every": 10}


def alloy(seed: int = 0, n_gold: int = 8, displacement: float = 0.05) -> Atoms:
    """Copper-gold of 32 atoms, the gold anywhere."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True, a=3.75) * (2, 2, 2)
    atoms.symbols[rng.choice(32, n_gold, replace=False)] = "Au"
    atoms.positions += rng.normal(0, displacement, (32, 3))
    return atoms


@pytest.fixture(scope="module")
def potential(tmp_path_factory: pytest.TempPathFactory) -> ACEPotential:
    labels = []
    for seed in range(14):
        atoms = alloy(seed, 4 + seed, 0.1)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        labels.append(atoms)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=30, cutoff=5.0))
    return trainer.train(labels, directory=tmp_path_factory.mktemp("train")).potential


def explore(
    atoms: Atoms | None, potential: ACEPotential, folder: Path, temperature_K: float = 600.0, **settings: Any
) -> ExplorationResult:
    run = {name: settings.pop(name) for name in ("start_step", "restart_file", "seed") if name in settings}
    return run_exploration(
        atoms,
        potential,
        Condition(temperature_K),
        MDSettings(**{**WIDE, **settings}),
        engine="library",
        directory=folder,
        **run,
    )


def test_a_round_samples_the_boltzmann_distribution() -> None:
    """Four places of energies 0 to 0.3 eV for one atom of type 2; the others do not matter."""
    levels, temperature_K = np.array([0.0, 0.05, 0.1, 0.15]), 900.0
    types, visits, places = np.array([2, 1, 1, 1]), Counter[int](), np.arange(4)
    for step in range(20_000):
        one = SwapRound(types[places], np.ones(4, dtype=bool), temperature_K, seed=3, step=step)
        at = types[places]

        def energy(order: np.ndarray, at: np.ndarray = at) -> float:
            return float(levels[np.flatnonzero(at[order] == 2)[0]])

        order = one.attempt(1, energy(np.arange(4)), energy, lambda _: True)
        places = places[order]
        visits[int(np.flatnonzero(types[places] == 2)[0])] += 1
    expected = np.exp(-levels / (units.kB * temperature_K))
    found = np.array([visits[i] for i in range(4)]) / 20_000
    assert np.abs(found - expected / expected.sum()).max() < 0.02


def test_energies_are_the_potentials_and_atoms_keep_what_is_theirs(potential: ACEPotential, tmp_path: Path) -> None:
    """At a temperature that accepts all, and an MD step of nothing: only exchanges change the state."""
    atoms = freeze(alloy(20), range(16))
    settings = {"swap": SwapSettings(10, 20, 1e9), "timestep_fs": 1e-6, "gamma_lo": 1e-9, "max_frames": 50}
    result = explore(atoms, potential, tmp_path, n_steps=50, **settings)
    assert result.swaps is not None
    assert result.swaps.attempted == result.swaps.accepted == 80
    final = result.final
    assert (final.numbers == atoms.numbers).all()
    assert np.abs(_mic(atoms, final.positions[:16] - atoms.positions[:16])).max() < 1e-6
    # the same places, other atoms on them
    where = [np.linalg.norm(_mic(atoms, p - atoms.positions), axis=1).argmin() for p in final.positions]
    assert sorted(where) == list(range(32))
    assert where[16:] != list(range(16, 32))
    # kinetic energy is as drawn; energies of the frames after exchanges are the potential's
    for frame in (final, *result.frames):
        energy = result.trace["potential_energy_eV"][result.trace["step"].index(frame.info.get("step", result.step))]
        frame.calc = potential.calculator()
        last_of_step = [f for f in (final, *result.frames) if f.info.get("step") == frame.info.get("step")][-1]
        if frame is last_of_step:
            assert frame.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    assert max(result.trace["temperature_K"]) == pytest.approx(min(result.trace["temperature_K"]), rel=1e-6)


def _mic(atoms: Atoms, vectors: np.ndarray) -> np.ndarray:
    scaled = vectors @ np.linalg.inv(atoms.cell.array)
    return (scaled - np.rint(scaled)) @ atoms.cell.array


def test_md_goes_on_with_the_forces_of_the_new_state(potential: ACEPotential, tmp_path: Path) -> None:
    """MD from the state after a round, begun anew, walks as MD that went on from there."""
    swap = SwapSettings(20, 10, 5000.0)
    whole = explore(alloy(21), potential, tmp_path, n_steps=40, swap=swap, gamma_lo=1e-9, max_frames=50)
    assert whole.swaps is not None
    assert whole.swaps.accepted > 0
    after = [f for f in whole.frames if f.info["step"] == 20][-1]
    after.calc = potential.calculator()
    for frame in [f for f in whole.frames if f.info["step"] == 30]:
        again = run_exploration(
            after.copy(),
            potential,
            Condition(600.0),
            MDSettings(**{**WIDE, "n_steps": 30, "gamma_lo": 1e-9}),
            start_step=20,
            engine="library",
            directory=tmp_path,
        )
        # the thermostat begins anew, so positions agree to what it does in 10 fs
        shift = _mic(frame, again.final.positions - frame.positions)
        assert np.abs(shift).max() < 5e-3


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
def test_a_run_that_is_resumed_is_that_without_a_break(potential: ACEPotential, tmp_path: Path, ensemble: str) -> None:
    common = {"swap": SwapSettings(20, 6, 2000.0), "ensemble": ensemble, "seed": 5}
    whole = explore(alloy(22), potential, tmp_path, n_steps=80, **common)
    first = explore(alloy(22), potential, tmp_path, n_steps=50, **common)
    second = explore(
        first.final, potential, tmp_path, n_steps=80, start_step=50, restart_file=first.restart_file, **common
    )
    assert whole.swaps is not None
    assert first.swaps is not None
    assert second.swaps is not None
    assert whole.swaps.attempted == 18
    assert whole.swaps.accepted > 3
    assert first.swaps.accepted + second.swaps.accepted == whole.swaps.accepted
    assert second.swaps.attempted == 6
    assert np.abs(_mic(whole.final, second.final.positions - whole.final.positions)).max() < 1e-5
    assert (second.final.numbers == whole.final.numbers).all()
    other = explore(alloy(22), potential, tmp_path, n_steps=80, **{**common, "seed": 6})
    assert np.abs(_mic(whole.final, other.final.positions - whole.final.positions)).max() > 0.1


def test_an_accepted_state_that_is_unknown_halts(potential: ACEPotential, tmp_path: Path) -> None:
    """Known gold in copper, one of each place; the swapped state is graded before anything follows from it."""
    start = explore(alloy(23), potential, tmp_path, n_steps=10, timestep_fs=1e-6)
    assert start.trace["gamma_max"]
    gamma = max(start.trace["gamma_max"])
    limits = {"gamma_hi": 1.02 * gamma, "gamma_lo": 1.01 * gamma, "timestep_fs": 1e-6}
    still = explore(alloy(23), potential, tmp_path, n_steps=400, **limits)
    assert still.status is WalkStatus.CONVERGED
    result = explore(alloy(23), potential, tmp_path, n_steps=400, swap=SwapSettings(10, 10, 1e9), **limits)
    assert result.halt is not None
    assert result.halt.reason is HaltReason.GAMMA
    assert result.halt.step % 10 == 0
    halted = result.halt.atoms
    halted.calc = potential.calculator()
    halted.get_potential_energy()
    assert halted.calc.results["gamma"].max() == pytest.approx(result.halt.gamma_max, rel=1e-6)
    assert result.halt.gamma_max == result.trace["gamma_max"][-1] > 1.02 * gamma


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"swap": SwapSettings(25)}, "no multiple of gamma_every = 10"),
        ({"swap": SwapSettings(attempts=0)}, r"swap\.attempts is 0"),
        ({"swap": SwapSettings(temperature_K=-3.0)}, r"swap\.temperature_K is -3"),
        ({"swap": SwapSettings(), "ensemble": "nve"}, "use nvt or npt"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        MDSettings(**settings).check()


def test_a_campaign_without_two_elements_that_move_is_refused() -> None:
    gold = np.flatnonzero(alloy().symbols == "Au")
    settings, conditions = MDSettings(swap=SwapSettings()), [Condition(300.0)]
    for atoms in (bulk("Cu", cubic=True), freeze(alloy(), gold)):
        assert not can_swap(atoms)
        with pytest.raises(InvalidInputError, match="nothing to exchange"):
            check_swaps([atoms], conditions, settings, "auto")
    check_swaps([bulk("Cu"), alloy()], conditions, settings, "auto")
    ramp = [Condition(300.0, temperature_end_K=900.0)]
    check_swaps([alloy()], ramp, settings, "library")
    with pytest.raises(InvalidInputError, match="one temperature only"):
        check_swaps([alloy()], ramp, settings, "executable")


def test_a_ramp_is_checked_for_the_engines_that_can_swap_in_it() -> None:
    ramp, settings = Condition(400.0, temperature_end_K=800.0), MDSettings(swap=SwapSettings())
    input_script.check_template(["Cu", "Au"], ramp, settings, "auto")
    with pytest.raises(InvalidInputError, match="one temperature only"):
        input_script.check_template(["Cu", "Au"], ramp, settings, "executable")
    useless = MDSettings(swap=SwapSettings(temperature_K=600.0), template="timestep 1")
    with pytest.raises(InvalidInputError, match="lacks what is needed"):
        input_script.check_template(["Cu", "Au"], ramp, useless, "auto")


def test_settings_travel_as_plain_data() -> None:
    settings = MDSettings(swap={"every_steps": 50, "attempts": 3})  # type: ignore[arg-type]  # as a run file gives them
    assert settings.swap == SwapSettings(50, 3)
    assert MDSettings.from_dict(settings.as_dict()) == settings


def run_input(
    atoms: Atoms, folder: Path, settings: MDSettings, start: int = 0, seed: int = 1
) -> tuple[Atoms, str, list[readback.Look]]:
    """Run the input of the executable engine by the lmp of the wheel, with EAM-like pairs instead of ACE."""
    lmp = Path(sys.executable).with_name("lmp")
    if not lmp.is_file():
        pytest.skip("no lmp beside this Python")
    elements = ["Au", "Cu"]
    text = input_script.render(
        elements,
        Condition(900.0),
        settings,
        engine="executable",
        cutoff_A=5.0,
        cell=MDCell.of(atoms, 5.0),
        atoms=atoms,
        seed=seed,
        start_step=start,
        from_restart=start > 0,
    )
    text = re.sub(r"pair_style .*", "pair_style lj/cut 5.0", text)
    pairs = "pair_coeff 1 1 0.3 2.5\npair_coeff 2 2 0.3 2.4\npair_coeff 1 2 0.45 2.45"
    text = re.sub(r"pair_coeff .*", pairs, text)
    text = re.sub(r"fix +grade .*", "fix grade all store/state 0 ix iy", text)
    (folder / input_script.INPUT).write_text(text)
    if start == 0:
        structures.write_structure(folder / input_script.STRUCTURE, atoms, elements)
    command = [str(lmp), "-in", input_script.INPUT, "-log", input_script.LOG, "-nocite"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=executable._environment(command),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    frame = structures.Frame.of(atoms, elements)
    ((_, last),) = readback.read_dump(folder / input_script.FINAL, frame)
    return last, done.stdout, list(readback.read_looks(folder / input_script.TRACE))


def test_the_executable_exchanges_elements_and_counts(tmp_path: Path) -> None:
    settings = MDSettings(**WIDE, n_steps=100, swap=SwapSettings(10, 5))
    atoms = freeze(alloy(24, 16), range(8))
    final, log, looks = run_input(atoms, tmp_path, settings)
    count = readback._swaps(log)
    assert count is not None
    assert count.attempted == 50
    assert 0 < count.accepted < 50
    assert (final.numbers[:8] == atoms.numbers[:8]).all()
    assert (final.numbers != atoms.numbers).any()
    assert sorted(final.numbers) == sorted(atoms.numbers)
    assert looks[-1].step == 100
    # a second run from the restart file counts its own
    (tmp_path / input_script.RESTART).rename(tmp_path / input_script.START_RESTART)
    again = MDSettings(**WIDE, n_steps=150, swap=SwapSettings(10, 5))
    _, log, _ = run_input(final, tmp_path, again, start=100)
    count = readback._swaps(log)
    assert count is not None
    assert count.attempted == 25


def test_pairs_of_several_elements_share_the_attempts(tmp_path: Path) -> None:
    text = input_script.render(
        ["Ag", "Au", "Cu"],
        Condition(500.0),
        MDSettings(swap=SwapSettings(100, 9)),
        engine="executable",
        cutoff_A=5.0,
    )
    fixes = re.findall(r"^fix +(\S+) all atom/swap (\d+) (\d+) \d+ (\S+) ke yes types (\d) (\d)$", text, re.MULTILINE)
    assert [f[0] for f in fixes] == ["swap1_2", "swap1_3", "swap2_3"]
    assert {f[1:4] for f in fixes} == {("100", "3", "500")}
    library = input_script.render(
        ["Ag", "Au"], Condition(500.0), MDSettings(swap=SwapSettings()), engine="library", cutoff_A=5.0
    )
    assert "atom/swap" not in library
    old = input_script.shipped_template().replace("{{ line }}", "")
    with pytest.raises(InvalidInputError, match="swap_fixes"):
        input_script.render(
            ["Ag", "Au"],
            Condition(500.0),
            MDSettings(swap=SwapSettings(), template=old),
            engine="executable",
            cutoff_A=5.0,
        )


@pytest.mark.parametrize("engine", ["library", "executable"])
def test_exchanges_that_no_walk_is_long_enough_for_are_refused(engine: str) -> None:
    for n_steps in (1000, 5000):  # none is tried after the last step
        settings = MDSettings(n_steps=n_steps, swap=SwapSettings(5000))
        with pytest.raises(InvalidInputError, match=rf"every_steps = 5000, and MD has {n_steps} steps"):
            check_swaps([alloy()], [Condition(300.0)], settings, engine)
    maker = OTFMaker(
        oracle_maker=OracleMaker(static_maker=EMTStaticMaker()),
        dynamics_maker=LammpsDynamicsMaker(settings=MDSettings(n_steps=1000, swap=SwapSettings(5000))),
    )
    with pytest.raises(InvalidInputError, match=r"MDSettings\.swap has every_steps = 5000, and MD has 1000 steps"):
        maker.make(alloy(), 300)
    check_swaps([alloy()], [Condition(300.0)], MDSettings(n_steps=5010, swap=SwapSettings(5000)), engine)
