"""The linear fit that judges labels of a user, on published DFT: sound labels stay, planted errors are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from packed import read_packed
from paths import SHARED_DATA

from mlip_autopipec.active_learning.outliers import OutlierRule
from mlip_autopipec.training.judge import judged_by_linear_fit
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from ase import Atoms

GERMANIUM = SHARED_DATA / "zuo2020" / "Ge_train.extxyz.gz"
needs_germanium = pytest.mark.skipif(not GERMANIUM.exists(), reason=f"{GERMANIUM} is not there")


def flagged(labels: list[Atoms]) -> dict[int, str]:
    record = judged_by_linear_fit(LinearACETrainer(), labels, ["Ge"])
    assert record is not None
    found = OutlierRule().judge_left_out(
        np.array([-1e-3 * one.energy_meV_atom for one in record.labels]),
        np.array([1e-3 * one.forces_rmse_meV_A for one in record.labels]),
        np.array([one.largest_eV_A for one in record.surprises]),
        np.array([one[:3] for one in record.surprises]),
        np.array([one[4:] for one in record.surprises]),
    )
    return {one.index: one.reasons[0] for one in found}


def changed(label: Atoms, energy_eV: float = 0.0, component_eV_A: float = 0.0) -> Atoms:
    copy = label.copy()
    forces = label.get_forces().copy()
    forces[len(label) // 2, 1] += component_eV_A
    forces[0, 1] -= component_eV_A  # one alone does not get here: forces that do not add up are refused at the door
    copy.calc = SinglePointCalculator(copy, energy=label.get_potential_energy() + energy_eV, forces=forces)
    return copy


@needs_germanium
def test_sound_labels_of_few_surfaces_are_not_flagged_and_wrong_ones_are() -> None:
    """Of these 60, two cells with surfaces were flagged: 60 meV/atom off, 16 and 23 times as much as usual."""
    every = read_packed(GERMANIUM)
    labels = [every[i] for i in sorted(np.random.default_rng(0).choice(len(every), 60, replace=False))]
    energy, component = [i for i, atoms in enumerate(labels) if atoms.info["group"] == "AIMD-NVT"][:2]
    labels[energy] = changed(labels[energy], energy_eV=0.1 * len(labels[energy]))
    labels[component] = changed(labels[component], component_eV_A=2.0)
    found = flagged(labels)
    assert set(found) == {energy, component}
    assert found[energy].startswith("its energy is")
    assert found[component].startswith("a component of its forces is")


def few(labels: list[Atoms]) -> list[Atoms]:
    return [labels[i] for i in np.random.default_rng(2).choice(len(labels), 20, replace=False)]


@needs_germanium
def test_sound_labels_are_not_flagged_among_few() -> None:
    assert flagged(few(read_packed(GERMANIUM))) == {}


@needs_germanium
@pytest.mark.parametrize(
    ("wrong", "told"),
    [("forces", "its forces are 0.0"), ("stress", "its stress is -"), ("stress in GPa", "GPa off what all")],
)
def test_another_unit_of_one_label_is_found_among_few(wrong: str, told: str) -> None:
    """Of 20 labels, neither was found: their errors are 4 to 7 times the usual ones."""
    every = read_packed(GERMANIUM)
    labels = few(every)
    results = dict(labels[5].calc.results)
    factor = {"forces": units.Bohr / units.Ry, "stress": -1.0, "stress in GPa": 1 / units.GPa}[wrong]
    name = "forces" if wrong == "forces" else "stress"
    results[name] = results[name] * factor
    labels[5] = labels[5].copy()
    labels[5].calc = SinglePointCalculator(labels[5], **results)
    found = flagged(labels)
    assert list(found) == [5]
    assert told in found[5]
