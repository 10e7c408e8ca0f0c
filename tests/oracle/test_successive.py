"""Labels that follow each other are told: left out of a fit, each is judged by its neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from packed import read_packed
from paths import SHARED_DATA

from mlip_autopipec.oracle.given import take_in_labels
from mlip_autopipec.oracle.successive import about_successive, have_forces_of_another
from mlip_autopipec.structures.provenance import Split, mark


def frames_of_md(n: int, interval_steps: int):
    """Frames of EMT copper at 600 K, 2 fs a step."""
    atoms = bulk("Cu", cubic=True) * 2
    atoms.calc = EMT()
    MaxwellBoltzmannDistribution(atoms, temperature_K=1200, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 2 * units.fs)
    dynamics.run(100)
    frames = []
    for _ in range(n):
        dynamics.run(interval_steps)
        frame = atoms.copy()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        frame.calc = SinglePointCalculator(frame, **results)
        frames.append(frame)
    return frames


def test_steps_that_follow_each_other_are_told_and_others_are_not():
    near, apart = frames_of_md(8, 2), frames_of_md(8, 50)
    assert have_forces_of_another(near).tolist() == [False] + [True] * 7
    assert not have_forces_of_another(apart).any()
    (said,) = [one for one in take_in_labels(near).remarks if "follow each other" in one]
    assert said.startswith("labels: 7 of 8 to train on have the forces of another one but for their size (first: ")
    assert "labels[1] (Cu32)" in said
    assert not [one for one in take_in_labels(apart).remarks if "follow each other" in one]


def test_a_few_and_those_that_are_not_trained_on_do_no_harm():
    near, apart = frames_of_md(4, 2), frames_of_md(8, 50)
    assert have_forces_of_another([*near, *apart]).sum() == 3
    assert about_successive([*near, *apart], [""] * 12) == []
    for frame in near[1:]:
        mark(frame, split=Split.TEST)
    assert about_successive(near, [""] * 4) == []


def test_other_atoms_and_crystals_at_rest_are_not_compared():
    one, two = frames_of_md(2, 1)
    two.symbols[0] = "Ni"
    assert not have_forces_of_another([one, two]).any()
    rest = []
    for a in (3.6, 3.62):
        rest.append(bulk("Cu", a=a, cubic=True))
        rest[-1].calc = SinglePointCalculator(rest[-1], energy=0.0, forces=np.full((4, 3), 1e-4))
    assert not have_forces_of_another(rest).any()


@pytest.mark.parametrize("name", ["Si_train", "Ge_train"])
def test_published_sets_are_not_remarked_on(name):
    path = SHARED_DATA / "zuo2020" / f"{name}.extxyz.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    frames = read_packed(path)
    assert about_successive(frames, [""] * len(frames)) == []
