"""What gracemaker is given of labels: weights of single ones, stresses where they can be trusted, the cutoff."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import InvalidInputError, TrainingError
from mlip_autopipec.training.grace import GRACEBasis, GRACEFSTrainer
from mlip_autopipec.training.grace_labels import has_stress, label_table, look_at_labels
from mlip_autopipec.training.training import FitTask
from mlip_autopipec.training.weights import EV_A3_IN_GPA

if TYPE_CHECKING:
    from pathlib import Path


def labelled(atoms: Atoms, **changed: Any) -> Atoms:
    atoms.calc = EMT()
    found: dict[str, Any] = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if atoms.pbc.all():
        found["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **(found | changed))
    return atoms


def crystal(seed: int, repeat: int = 2) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True) * (repeat, 2, 1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
    return labelled(atoms)


def dimer(distance: float) -> Atoms:
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, distance]], cell=[12, 12, 12])
    atoms.info["origin"] = "dimer"
    return labelled(atoms)


def task(labels: list[Atoms], directory: Path, weights: list[float] | None = None) -> FitTask:
    n = len(labels)
    return FitTask(
        labels, None, ["Cu"], {"Cu": 0.0}, False, [False] * n, weights or [1.0] * n, [], directory=directory, seed=0
    )


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    atoms.pbc = True
    return labelled(atoms)


def test_stresses_that_gracemaker_can_fit() -> None:
    without = crystal(1)
    del without.calc.results["stress"]
    found = [has_stress(atoms) for atoms in (crystal(0), without, slab(), dimer(2.3))]
    assert found == [True, False, False, False]


def test_the_loss_is_that_of_the_linear_fit_with_dimers_and_labels_without_stress(tmp_path: Path) -> None:
    labels = [crystal(0), crystal(1, 3), dimer(2.0), slab(), crystal(4)]
    weights = [1.0, 1.0, 1e-3, 1.0, 1.0]
    table = label_table(task(labels, tmp_path, weights), 0.1, without_stress=[4])
    frame = table.frame
    assert list(frame["energy_weight"]) == weights
    assert [len(w) for w in frame["force_weight"]] == [len(a) for a in labels]
    assert (frame["force_weight"][2] == 1e-3).all()
    assert (frame["virial_weight"][2:] == 0).all()
    # what an error of a large stress is worth is more
    assert (frame["virial_weight"][:2] < 1).all()
    assert (frame["virial_weight"][:2] > 0.1).all()
    trainer = GRACEFSTrainer()
    part = trainer.loss_weights(table.atoms_per_label, table.share_with_stress)
    rng = np.random.default_rng(0)
    ratios = []
    for of_energy, of_forces, of_stress in ((1e-3, 0.01, 1e-4), (1e-5, 0.1, 1e-4), (1e-4, 0.001, 1e-2)):
        energy = rng.normal(0, of_energy, len(labels))
        forces = [rng.normal(0, of_forces, (len(a), 3)) for a in labels]
        stress = rng.normal(0, of_stress, (len(labels), 6))
        w, v = frame["energy_weight"].to_numpy(), frame["virial_weight"].to_numpy()
        # as gracemaker has it: means over energies, components of forces and of stresses, by their weights
        grace = part["energy"] * (w @ energy**2) / w.sum()
        squares = [float(np.sum(f**2)) for f in forces]
        grace += part["forces"] * (w @ squares) / (3 * w @ [len(a) for a in labels])
        grace += part["stress"] * (v @ np.sum(stress**2, axis=1)) / (6 * v.sum())
        unit = 0.1 / EV_A3_IN_GPA
        linear = w @ (energy / 1e-3) ** 2 + w @ squares / 0.1**2 + v @ np.sum((stress / unit) ** 2, axis=1)
        ratios.append(grace / linear)
    assert np.allclose(ratios, ratios[0], rtol=1e-9)


def test_the_weights_are_shares_so_that_batches_do_not_matter(tmp_path: Path) -> None:
    labels = [crystal(0), crystal(1, 3), dimer(2.0), slab()]
    table = label_table(task(labels, tmp_path, [1.0, 1.0, 1e-3, 1.0]), 0.1)
    shares = table.shares()
    assert shares["energy_weight"].sum() == pytest.approx(1)
    assert 3 * sum(weights.sum() for weights in shares["force_weight"]) == pytest.approx(1)
    assert 6 * shares["virial_weight"].sum() == pytest.approx(1)
    assert shares["energy_weight"][2] == pytest.approx(1e-3 * shares["energy_weight"][0])
    assert list(table.frame["energy_weight"]) == [1.0, 1.0, 1e-3, 1.0]
    none = label_table(task([slab(), dimer(2.0)], tmp_path, [1.0, 1.0]), 0.1).shares()
    assert list(none["virial_weight"]) == [0.0, 0.0]


@pytest.mark.long
@pytest.mark.skipif(find_spec("tensorpotential") is None, reason="tensorpotential is not installed")
def test_batches_do_not_change_a_real_fit_though_one_has_no_stress(tmp_path: Path) -> None:
    """In gracemaker a batch without a stress is not a number, and a batch of one label weighs as much as all others."""
    labels = [*(crystal(i) for i in range(6)), slab(), dimer(2.0)]
    basis = GRACEBasis(nradmax_by_orders=[4, 2], lmax_by_orders=[0, 1], radial_functions=4, cutoff=4.2)
    found = []
    for size in (2, 32):
        trainer = GRACEFSTrainer(basis=basis, maxiter=10, batch_size=size, jit_compile=False)
        found.append(trainer.train(labels, directory=tmp_path / str(size)))
    few, all_at_once = found
    assert few.train.forces_rmse_meV_A == pytest.approx(all_at_once.train.forces_rmse_meV_A, rel=1e-3)
    assert few.train.energy_rmse_meV_atom == pytest.approx(all_at_once.train.energy_rmse_meV_atom, rel=1e-2)


def test_the_labels_choose_the_cutoff(tmp_path: Path) -> None:
    labels = [crystal(i) for i in range(8)]
    free, given = (look_at_labels(task(labels, tmp_path), cutoff) for cutoff in (None, 4.2))
    assert free.cutoff_A in (4.0, 4.5, 5.0, 6.0), "EMT ends between the third and fourth neighbours"
    assert given.cutoff_A == 4.2
    assert not free.doubtful_stresses
    assert f"cutoff {free.cutoff_A:g} A" in free.log


def test_stresses_in_another_convention_are_refused_before_the_gradient_fit(tmp_path: Path) -> None:
    labels = [crystal(i) for i in range(8)]
    for atoms in labels:
        atoms.calc.results["stress"] = -atoms.calc.results["stress"]
    with pytest.raises(InvalidInputError, match="opposite sign"):
        GRACEFSTrainer(command="true").train(labels, directory=tmp_path)
    assert not list(tmp_path.glob("gracemaker-*"))


def test_too_few_atoms_for_an_active_set_are_told_before_the_fit(tmp_path: Path) -> None:
    labels = [crystal(i) for i in range(2)]  # 32 atoms
    with pytest.raises(TrainingError, match=r"32 atoms of Cu.*more than 42 functions.*nradmax_by_orders"):
        GRACEFSTrainer(command="true").train(labels, directory=tmp_path)


@pytest.mark.long
@pytest.mark.skipif(find_spec("tensorpotential") is None, reason="tensorpotential is not installed")
def test_dimers_count_little_in_a_real_fit_and_can_be_evaluated(tmp_path: Path) -> None:
    """pyace alone ends the process where the first structure has atoms with one neighbour at most."""
    crystals, dimers = [crystal(i) for i in range(8)], [dimer(1.9 + 0.2 * i) for i in range(6)]
    others = [crystal(100 + i) for i in range(4)]
    basis = GRACEBasis(nradmax_by_orders=[4, 2], lmax_by_orders=[0, 1], radial_functions=4)
    trainer = GRACEFSTrainer(basis=basis, maxiter=60)
    result = trainer.train([*crystals, *dimers], test_labels=others, directory=tmp_path)
    (folder,) = tmp_path.glob("gracemaker-*")
    used = pd.read_pickle(folder / "seed" / "0" / "training_set.pkl.gz")
    assert sorted(used["energy_weight"] / used["energy_weight"].max()) == pytest.approx([1e-5] * 6 + [1.0] * 8)
    assert result.test is not None
    spread = 1e3 * np.sqrt(np.mean(np.concatenate([a.get_forces().ravel() for a in others]) ** 2))
    assert result.test.forces_rmse_meV_A < 0.4 * spread
    calculator = result.potential.calculator()
    calculator.calculate(dimers[0])
    assert np.isfinite(calculator.results["forces"]).all()
    assert calculator.results["gamma"].shape == (2,)
