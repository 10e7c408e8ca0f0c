"""Labels that follow each other are told, and left out of a fit together with their neighbours."""

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
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.structures.provenance import Split, mark
from mlip_autopipec.structures.successive import about_successive, related_labels
from mlip_autopipec.training import linear_fit
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.linear import LinearACETrainer


def frames_of_md(n: int, interval_steps: int, second: str = "Cu"):
    """Frames of EMT copper, or an alloy of it, at 600 K, 2 fs a step."""
    atoms = bulk("Cu", a=3.61 if second == "Cu" else 3.75, cubic=True) * 2
    atoms.symbols[np.random.default_rng(1).permutation(32)[:16]] = second
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


def have_forces_of_another(frames):
    """Whether an earlier one tells of each."""
    return np.array([others[0] < i for i, others in enumerate(related_labels(frames))])


def test_steps_that_follow_each_other_are_told_and_others_are_not():
    near, apart = frames_of_md(8, 2), frames_of_md(8, 50)
    assert have_forces_of_another(near).tolist() == [False] + [True] * 7
    assert not have_forces_of_another(apart).any()
    (said,) = [one for one in take_in_labels(near).remarks if "follow each other" in one]
    assert said.startswith(
        "labels: 7 of 8 to train on have nearly the forces of another one but for their size (first: "
    )
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


def test_a_label_is_left_out_together_with_its_neighbours_in_time(monkeypatch):
    frames = frames_of_md(70, 2, "Pd")
    near, other = frames[:24], frames[45::3]
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=200, cutoff=5.0))
    found = trainer.train(near)
    error = compute_errors(found.potential, other).forces_rmse_meV_A
    monkeypatch.setattr(linear_fit, "related_labels", lambda labels: [np.array([i]) for i in range(len(labels))])
    alone = trainer.train(near).linear.left_out.forces_meV_A
    left_out = found.linear.left_out.forces_meV_A
    assert alone < 0.5 * error < left_out < 3 * error
    assert left_out > 2 * alone


def test_neighbours_are_those_of_a_chain_as_far_as_they_tell_and_few_atoms_have_none():
    near = frames_of_md(24, 2)
    related = related_labels(near)
    assert all(i in others for i, others in enumerate(related))
    assert 4 <= len(related[12]) < 24
    assert all(i in related[j] for i, others in enumerate(related) for j in others)
    # a mirror image of the order is the same
    assert [sorted(23 - others) for others in related_labels(near[::-1])[::-1]] == [
        others.tolist() for others in related
    ]
    few = [frame[:4] for frame in near]
    for frame, whole in zip(few, near, strict=True):
        frame.calc = SinglePointCalculator(frame, energy=0.0, forces=whole.get_forces()[:4])
    assert [others.tolist() for others in related_labels(few)] == [[i] for i in range(24)]
