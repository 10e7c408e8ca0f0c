"""MD that is driven to where the energy is uncertain: its forces, its guards, and that it finds such places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic
from pyace.atomicenvironment import aseatoms_to_atomicenvironment

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.lammps.ace_forces import ACEForces
from mlip_autopipec.lammps.bias import Bias, BiasSettings
from mlip_autopipec.lammps.exploration import run_exploration
from mlip_autopipec.lammps.types import Condition, MDSettings, WalkStatus
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec.lammps.types import ExplorationResult


def alloy(seed: int = 0, n_gold: int = 4, displacement: float = 0.05) -> Atoms:
    """Copper-gold of 16 atoms, the gold anywhere."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True, a=3.75) * (2, 2, 1)
    atoms.symbols[rng.choice(16, n_gold, replace=False)] = "Au"
    atoms.positions += rng.normal(0, displacement, (16, 3))
    return atoms


@pytest.fixture(scope="module")
def potential(tmp_path_factory: pytest.TempPathFactory) -> ACEPotential:
    labels = []
    for seed in range(10):
        atoms = alloy(seed, 2 + seed % 5, 0.08)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        labels.append(atoms)
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=30, cutoff=4.5))
    return trainer.train(labels, directory=tmp_path_factory.mktemp("train")).potential


def at(atoms: Atoms, potential: ACEPotential) -> ACEForces:
    """Energies and forces at a structure, graded, as MD has them."""
    species = {element: number for number, element in enumerate(potential.elements)}
    forces = ACEForces(potential)
    forces._environment = aseatoms_to_atomicenvironment(atoms, cutoff=potential.cutoff, elements_mapper_dict=species)
    forces._used = np.arange(forces._environment.n_atoms_extended)
    forces.evaluate(np.array(forces._environment.x), with_gamma=True)
    return forces


def test_its_forces_are_along_the_gradient_of_the_standard_deviation(potential: ACEPotential) -> None:
    atoms = alloy(30)
    bias = Bias(potential, BiasSettings(0.3, ramp_steps=0))
    forces = at(atoms, potential)
    bias.look(forces)
    found = bias.forces(forces, 1, atoms.get_volume())
    gradient = np.zeros((16, 3))
    for k, c in np.ndindex(16, 3):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[k, c] += sign * 1e-4
            energies.append(potential.error_bars.of(moved).energy)
        gradient[k, c] = (energies[0] - energies[1]) / 2e-4
    lengths = [np.linalg.norm(one) for one in (found, gradient, forces.forces)]
    assert (found * gradient).sum() / lengths[0] / lengths[1] == pytest.approx(1.0, abs=1e-6)
    assert lengths[0] / lengths[2] == pytest.approx(0.3)
    assert np.abs(found.sum(axis=0)).max() < 1e-10


def test_its_guards(potential: ACEPotential) -> None:
    atoms = alloy(31)
    forces = at(atoms, potential)
    typical = np.sqrt((forces.forces**2).sum(axis=1).mean())
    bias = Bias(potential, BiasSettings(0.4, ramp_steps=100, max_volume_change=0.1, volume_A3=atoms.get_volume()))
    bias.look(forces)

    def of(step: int, volume: float = 1.0) -> float:
        found = bias.forces(forces, step, volume * atoms.get_volume())
        return float(np.sqrt((found**2).sum(axis=1).mean()) / typical)

    assert [of(step) for step in (0, 25, 100, 5000)] == pytest.approx([0.0, 0.1, 0.4, 0.4])
    assert [of(100, volume) for volume in (0.89, 0.91, 1.09, 1.11)] == pytest.approx([0.0, 0.4, 0.4, 0.0])
    # one atom is never driven by more than the forces of the potential
    strong = Bias(potential, BiasSettings(1.0, ramp_steps=0))
    strong.look(forces)
    longest = np.linalg.norm(strong.forces(forces, 1, atoms.get_volume()), axis=1)
    assert longest.max() == pytest.approx(typical)
    assert np.sqrt((longest**2).mean()) < typical


def explore(potential: ACEPotential, folder: Path, bias: BiasSettings | None, **settings: Any) -> ExplorationResult:
    run = {name: settings.pop(name) for name in ("start_step", "restart_file", "engine") if name in settings}
    limits = {"gamma_lo": 1e8, "gamma_hi": 1e9, "gamma_every": 5, "timestep_fs": 2.0}
    return run_exploration(
        alloy(32, displacement=0.0),
        potential,
        Condition(300.0),
        MDSettings(**{**limits, **settings}, bias=bias),
        directory=folder,
        seed=5,
        **{"engine": "library", **run},
    )


def test_it_leads_to_uncertain_places(potential: ACEPotential, tmp_path: Path) -> None:
    both = [explore(potential, tmp_path, bias, n_steps=300) for bias in (None, BiasSettings(0.3, ramp_steps=20))]
    plain, driven = ([potential.error_bars.of(frame).energy for frame in run.spread] for run in both)
    assert np.mean(driven) > 1.3 * np.mean(plain)
    # what is written down is the potential's own energy, without the bias
    final = both[1].final.copy()
    final.calc = potential.calculator()
    assert final.get_potential_energy() == pytest.approx(both[1].trace["potential_energy_eV"][-1], abs=1e-6)
    assert np.mean(both[1].trace["temperature_K"]) == pytest.approx(300.0, abs=100.0)


def test_a_resumed_walk_is_the_one_without_a_break(potential: ACEPotential, tmp_path: Path) -> None:
    bias = BiasSettings(0.3, ramp_steps=100)
    whole = explore(potential, tmp_path, bias, n_steps=120)
    first = explore(potential, tmp_path, bias, n_steps=60)
    second = explore(potential, tmp_path, bias, n_steps=120, start_step=60, restart_file=first.restart_file)
    assert second.status is WalkStatus.CONVERGED
    apart = find_mic(whole.final.positions - second.final.positions, whole.final.cell)[1]
    assert apart.max() < 1e-5


def test_a_potential_without_posterior_and_the_executable_are_refused(potential: ACEPotential, tmp_path: Path) -> None:
    other = ACEPotential(potential.yaml, potential.active_set_inverse)
    with pytest.raises(InvalidInputError, match=r"MDSettings\.bias is given, but the potential has no error bars"):
        explore(other, tmp_path, BiasSettings(), n_steps=10)
    with pytest.raises(InvalidInputError, match=r"MDSettings\.bias is given, but the lmp executable knows no error"):
        explore(potential, tmp_path, BiasSettings(), n_steps=10, engine="executable")


@pytest.mark.parametrize(
    ("bias", "ensemble", "message"),
    [
        ({"strength": 0.0}, "nvt", r"bias\.strength is 0\.0"),
        ({"strength": 1.5}, "nvt", r"bias\.strength is 1\.5"),
        ({"ramp_steps": -1}, "nvt", r"bias\.ramp_steps is -1"),
        ({"n_steps": 0}, "nvt", r"bias\.n_steps is 0"),
        ({"max_volume_change": 0.0}, "npt", r"bias\.max_volume_change is 0"),
        ({}, "nve", "use nvt or npt"),
    ],
)
def test_what_makes_no_sense_is_refused(bias: dict[str, Any], ensemble: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        MDSettings(bias=bias, ensemble=ensemble).check()  # type: ignore[arg-type]


def test_settings_travel_and_become_those_of_a_walk() -> None:
    settings = MDSettings(n_steps=1000, bias={"strength": 0.1, "n_steps": 300})  # type: ignore[arg-type]
    assert settings.bias == BiasSettings(0.1, n_steps=300)
    assert MDSettings.from_dict(settings.as_dict()) == settings
    biased, plain = settings.of_walk(is_biased=True), settings.of_walk(is_biased=False)
    assert (biased.n_steps, biased.bias) == (300, settings.bias)
    assert (plain.n_steps, plain.bias) == (1000, None)
    begun = biased.begun_with(100.0)
    assert begun.bias is not None
    assert (begun.bias.volume_A3, begun.volume_limit_A3) == (100.0, 150.0)
