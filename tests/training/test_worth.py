"""What an error is worth means the same to all trainers: in the loss that pacemaker and gracemaker are given."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training.grace import GRACEBasis, GRACEFSTrainer
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer
from mlip_autopipec.training.weights import EV_A3_IN_GPA, FitWeights, mean_square_weights, share_of_forces

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

TINY = BasisSettings(number_of_functions_per_element=4, cutoff=3.6, nradmax_by_orders=[3, 1], lmax_by_orders=[0, 1])


def label(seed: int, with_stress: bool = True, repeat: tuple[int, int, int] = (2, 1, 1)) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True) * repeat
    atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.02)), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
    atoms.calc = EMT()
    found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if with_stress:
        found["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **found)
    return atoms


def linear_cost(worth: FitWeights, sizes: list[int], energy: list[float], forces: list[np.ndarray]) -> float:
    """The sum of squares of the linear fit, in units of what errors are worth; eV/atom, eV/A."""
    del sizes
    e, f = 1e-3 * worth.energy_meV_atom, 1e-3 * worth.forces_meV_A
    return sum((x / e) ** 2 for x in energy) + sum(float(np.sum((x / f) ** 2)) for x in forces)


def test_the_losses_of_all_trainers_are_proportional() -> None:
    rng = np.random.default_rng(0)
    worth, sizes = FitWeights(3.0, 80.0, 0.2), [8, 32, 20]
    kappa = share_of_forces(worth, float(np.mean(sizes)))
    of_energy, of_forces, of_stress = mean_square_weights(worth, float(np.mean(sizes)))
    ratios = []
    for scale in (0.1, 1.0, 10.0):  # of the energy error, so that only right proportions give the same ratios
        energy = [float(scale * rng.normal(0, 2e-3)) for _ in sizes]
        forces = [rng.normal(0, 0.1, (n, 3)) for n in sizes]
        components = np.concatenate([f.ravel() for f in forces])
        mean_energy, mean_vector = np.mean(np.square(energy)), 3 * np.mean(components**2)
        pacemaker = (1 - kappa) * mean_energy + kappa * mean_vector
        grace = of_energy * mean_energy + of_forces * np.mean(components**2)
        linear = linear_cost(worth, sizes, energy, forces)
        ratios.append((pacemaker / linear, grace / linear))
    assert np.allclose(ratios, ratios[0])
    stress = worth.stress_GPa / EV_A3_IN_GPA
    # an error worth one in each of the components counts the same
    assert of_stress * stress**2 / 6 == pytest.approx(of_energy * (1e-3 * worth.energy_meV_atom) ** 2)


def test_pacemakers_kappa_follows_and_is_as_before_without() -> None:
    def kappa(n: float = 32.0, **given: Any) -> float:
        written = PacemakerTrainer(basis=TINY, **given).input(["Cu"], False, fine_tune=False, atoms_per_label=n)
        return written["fit"]["loss"]["kappa"]

    assert kappa(linear_start=False) == kappa(ladder_step=4) == 0.3
    assert kappa() == kappa(energy_meV_atom=1, forces_meV_A=100), "as in the linear fit that it begins at"
    assert kappa(energy_meV_atom=1, forces_meV_A=100) == pytest.approx(3200 / (1e6 + 3200))
    assert kappa(energy_meV_atom=10) == pytest.approx(3200 / (1e4 + 3200))
    assert kappa(forces_meV_A=100) == kappa(energy_meV_atom=1) == kappa(), "what is not given keeps its default"
    assert kappa(forces_meV_A=50) == pytest.approx(kappa(energy_meV_atom=1, forces_meV_A=50))
    scratch = kappa(forces_meV_A=100, linear_start=False)
    assert scratch == kappa(energy_meV_atom=10, linear_start=False) == pytest.approx(3200 / (1e4 + 3200)), "near 0.3"
    assert kappa(n=8, energy_meV_atom=10) < kappa(n=64, energy_meV_atom=10)
    with pytest.warns(DeprecationWarning, match="PacemakerTrainer.kappa is deprecated"):
        assert kappa(kappa=0.1) == 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kappa(kappa=0.3) == 0.3, "as in makers stored by version 0.1.0"


def test_graces_weights_follow_and_are_as_before_without() -> None:
    def weights(share_with_stress: float = 0.0, **given: float) -> dict[str, float]:
        trainer = GRACEFSTrainer(**given)
        written = trainer.input(
            ["Cu"], False, fine_tune=False, atoms_per_label=32.0, share_with_stress=share_with_stress
        )
        assert all(part["type"] == "square" for part in written["fit"]["loss"].values())
        return {what: part["weight"] for what, part in written["fit"]["loss"].items()}

    assert weights(1.0) == weights(1.0, energy_meV_atom=1, forces_meV_A=100, stress_GPa=0.1), "as in the linear fit"
    whole = {"energy_meV_atom": 1.0, "forces_meV_A": 100.0, "stress_GPa": 0.1}
    for name, other in (("energy_meV_atom", 5.0), ("forces_meV_A", 50.0), ("stress_GPa", 0.3)):
        assert GRACEFSTrainer(**{name: other}).worth == FitWeights(**(whole | {name: other})), "the others keep theirs"
        assert weights(1.0, **{name: other}) == weights(1.0, **(whole | {name: other}))
    assert set(weights(1.0, energy_meV_atom=5)) == {"energy", "forces", "stress"}
    assert set(weights(stress_GPa=0.2)) == {"energy", "forces"}, "no label has one"
    all_three = weights(1.0, energy_meV_atom=1, stress_GPa=0.2)
    assert all_three["energy"] == pytest.approx(1e4 / 96)
    assert all_three["stress"] == pytest.approx(6e-2 / 96 / (0.2 / EV_A3_IN_GPA) ** 2)
    some = weights(0.25, energy_meV_atom=1, stress_GPa=0.2)
    assert some == pytest.approx(all_three | {"stress": all_three["stress"] / 4}), "its mean is over fewer labels"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert weights(1.0, energy_weight=10.0, force_weight=1.0) == {"energy": 10.0, "forces": 1.0}, "version 0.1"
    with pytest.warns(DeprecationWarning, match="energy_weight is deprecated"):
        assert weights(energy_weight=20.0) == {"energy": 20.0, "forces": 1.0}


@pytest.mark.parametrize(
    ("trainer", "given", "words"),
    [
        (PacemakerTrainer, {"kappa": 0.3, "energy_meV_atom": 1}, "PacemakerTrainer.kappa is given"),
        (PacemakerTrainer, {"kappa": 0.0}, "PacemakerTrainer.kappa is 0"),
        (PacemakerTrainer, {"forces_meV_A": -1}, "forces_meV_A is -1"),
        (
            PacemakerTrainer,
            {"forces_meV_A": 1, "input_sections": {"fit": {"loss": {"kappa": 0.5}}}},
            "fit.loss.kappa beside energy",
        ),
        (GRACEFSTrainer, {"force_weight": 1.0, "stress_GPa": 0.1}, "GRACEFSTrainer.force_weight is given"),
        (GRACEFSTrainer, {"stress_GPa": 0}, "stress_GPa is 0"),
    ],
)
def test_two_ways_at_once_and_bad_numbers_are_refused(trainer: type, given: dict, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        trainer(**given)


needs_programs = pytest.mark.skipif(find_spec("tensorpotential") is None, reason="tensorpotential is not installed")


@pytest.mark.long
@needs_programs
def test_pacemaker_fits_energies_better_where_they_are_worth_more(tmp_path: Path) -> None:
    labels = [label(i) for i in range(10)]
    errors = []
    for energy in (1000.0, 0.1):
        trainer = PacemakerTrainer(
            basis=TINY,
            maxiter=60,
            energy_meV_atom=energy,
            forces_meV_A=100.0,
            input_sections={"backend": {"evaluator": "pyace"}},
        )
        errors.append(trainer.train(labels, directory=tmp_path / str(energy)).train)
    assert errors[1].energy_rmse_meV_atom < 0.7 * errors[0].energy_rmse_meV_atom
    assert errors[1].forces_rmse_meV_A > errors[0].forces_rmse_meV_A
    (folder,) = (tmp_path / "0.1").glob("pacemaker-*")
    written = yaml.safe_load((folder / "input.yaml").read_text())
    assert written["fit"]["loss"]["kappa"] == pytest.approx(share_of_forces(FitWeights(0.1, 100.0), 8))


@pytest.mark.long
@needs_programs
def test_grace_fits_stresses_where_labels_have_them(tmp_path: Path) -> None:
    labels = [label(i, repeat=(2, 2, 1)) for i in range(8)]
    spread = EV_A3_IN_GPA * np.sqrt(np.mean(np.square([a.get_stress() for a in labels])))
    del labels[0].calc.results["stress"]
    basis = GRACEBasis(cutoff=4.0, nradmax_by_orders=[4, 2], lmax_by_orders=[0, 1], radial_functions=4)
    trainer = GRACEFSTrainer(basis=basis, maxiter=50, energy_meV_atom=10.0, forces_meV_A=100.0, stress_GPa=0.1)
    result = trainer.train(labels, directory=tmp_path / "with")
    (folder,) = (tmp_path / "with").glob("gracemaker-*")
    assert set(yaml.safe_load((folder / "input.yaml").read_text())["fit"]["loss"]) == {"energy", "forces", "stress"}
    first, *_, last = yaml.safe_load(next(folder.glob("seed/*/train_metrics.yaml")).read_text())
    assert last["loss_component/stress/train"] < 0.2 * first["loss_component/stress/train"]
    # in the sign and unit of the labels, so that the fitted potential has them
    assert result.train.stress_rmse_GPa < 0.5 * spread
