"""Stresses of another sign or unit: in slabs and wires, which have fewer components, and in a label or two."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.build import bulk, fcc100, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from ase import Atoms

BASIS = BasisSettings(number_of_functions_per_element=30, cutoff=4.5)


def slab(strain: float) -> Atoms:
    atoms = fcc111("Cu", (2, 2, 4), vacuum=7)
    atoms.pbc = True
    atoms.set_cell(atoms.cell.array @ np.diag([1 + strain, 1 + strain / 2, 1]), scale_atoms=True)
    return atoms


def slab_in_one_cell(_strain: float) -> Atoms:
    atoms = fcc100("Cu", (2, 2, 4), vacuum=7)
    atoms.pbc = True
    return atoms


def wire(strain: float) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.set_cell(atoms.cell.array * (1 + strain), scale_atoms=True)
    atoms.center(vacuum=7, axis=(0, 1))
    return atoms


def solid(strain: float) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.set_cell(atoms.cell.array * (1 + strain), scale_atoms=True)
    return atoms


SHAPES = {"strained slabs": slab, "slabs in one cell": slab_in_one_cell, "wires": wire}


def labels_of(shape, n: int, seed: int = 0) -> list[Atoms]:
    """Rattled structures, labelled by EMT."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = shape(rng.normal(0, 0.02))
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        calculator = EMT()
        results = {
            "energy": calculator.get_potential_energy(atoms),
            "forces": calculator.get_forces(atoms),
            "stress": calculator.get_stress(atoms),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def turned(labels: list[Atoms], factor: float, which: set[int] | None = None) -> list[Atoms]:
    """Multiply the stress of some labels, of all by default."""
    found = []
    for i, atoms in enumerate(labels):
        copy, results = atoms.copy(), dict(atoms.calc.results)
        if which is None or i in which:
            results["stress"] = factor * results["stress"]
        copy.calc = SinglePointCalculator(copy, **results)
        found.append(copy)
    return found


def train(labels: list[Atoms]):
    return LinearACETrainer(basis=BASIS).train(labels)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("factor", "said"), [(-1.0, "the opposite sign"), (1602.1766, "kB"), (-160.21766, "GPa and the opposite sign")]
)
def test_slabs_and_wires_of_another_sign_or_unit_are_refused(shape: str, factor: float, said: str) -> None:
    """The sign reversed gave 287 instead of 6.8 meV/A, and kB 817, without a word."""
    with pytest.raises(InvalidInputError, match=f"stresses of the labels seem to be of another convention, {said}"):
        train(turned(labels_of(SHAPES[shape], 10), factor))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n", "seed"), [(3, 1), (4, 2), (10, 3)])
def test_right_ones_pass(shape: str, n: int, seed: int) -> None:
    result = train(labels_of(SHAPES[shape], n, seed))
    assert result.linear is not None
    assert result.linear.doubtful_stresses == ()


def test_slabs_beside_a_solid_are_refused_by_number() -> None:
    labels = labels_of(solid, 8) + labels_of(slab, 5)
    assert train(labels).linear is not None
    with pytest.raises(InvalidInputError, match=r"stresses of 5 of 13 labels \(8, 9, 10, 11, 12 \.\.\.\).*opposite"):
        train(turned(labels, -1.0, set(range(8, 13))))
    with pytest.raises(InvalidInputError, match=r"stresses of the labels seem .* the opposite sign"):
        train(turned(labels, -1.0))


def test_two_slabs_beside_a_solid_are_told_by_number(caplog: pytest.LogCaptureFixture) -> None:
    train(turned(labels_of(solid, 12) + labels_of(slab, 2), -1.0, {12, 13}))
    assert "the stresses of 2 of 14 labels (12, 13 ...) seem" in caplog.text
    assert "the opposite sign" in caplog.text


def test_some_of_the_slabs_are_refused_by_number() -> None:
    with pytest.raises(InvalidInputError, match=r"stresses of 3 of 12 labels \(1, 5, 9 \.\.\.\)"):
        train(turned(labels_of(slab, 12), -1.0, {1, 5, 9}))


@pytest.mark.parametrize("which", [{4}, {0, 5}])
@pytest.mark.parametrize(("factor", "said"), [(-1.0, "the opposite sign"), (160.21766, "GPa")])
def test_a_label_or_two_of_a_solid_are_told_where_no_other_is_as_wrong(
    which: set[int], factor: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of twelve gave 473 instead of 19.6 meV/A without a word; they are not refused, what judges them says more."""
    labels = labels_of(solid, 20, seed=4)
    train(labels)
    assert "convention" not in caplog.text
    train(turned(labels, factor, which))
    told = re.search(rf"stresses of {len(which)} of 20 labels \(([\d, ]+).*{said}", caplog.text)
    assert told is not None
    assert {int(word) for word in told[1].split(",")} == which


def test_labels_that_are_periodic_in_some_directions_alone_are_learnt() -> None:
    """pyace knows cells that are periodic in all directions or in none."""

    def labels(pbc: tuple[bool, bool, bool]) -> list[Atoms]:
        found = []
        for seed in range(8):
            atoms = fcc111("Al", (2, 2, 3), vacuum=10.0)
            atoms.pbc = pbc
            atoms.rattle(0.08, seed=seed)
            atoms.calc = EMT()
            results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            atoms.calc = SinglePointCalculator(atoms, **results)
            found.append(atoms)
        return found

    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=20, cutoff=4.5))
    mixed, whole = (trainer.train(labels((True, True, periodic))) for periodic in (False, True))
    assert mixed.linear.left_out.forces_meV_A == pytest.approx(whole.linear.left_out.forces_meV_A, rel=1e-6)
    assert mixed.train.forces_rmse_meV_A < 10
