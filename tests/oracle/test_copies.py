"""A dataset that has its structures twice is learnt once: errors of labels left out are not those of their copies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from paths import SHARED_DATA

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.frames import unpack
from mlip_autopipec.jobs.dataset import pack_labels
from mlip_autopipec.oracle.files import read_labels_file
from mlip_autopipec.oracle.given import take_in_labels
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.schemas.label import LabelDocument
from mlip_autopipec.structures.provenance import Provenance
from mlip_autopipec.training.linear import LinearACETrainer


def labelled(n=4, stress=True, split=None):
    frames = []
    for seed in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if stress:
            results["stress"] = atoms.get_stress()
        if split:
            atoms.info["split"] = split
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


def written_otherwise(atoms, energy=0.0, forces=1.0):
    """Return a label with another origin, and its atoms in another order."""
    order = np.random.default_rng(3).permutation(len(atoms))
    other = atoms[order]
    other.positions = np.round(other.positions + np.array([0.7, 0.3, 0.2]), 5)
    other.wrap()
    results = atoms.calc.results
    other.calc = SinglePointCalculator(
        other, energy=results["energy"] + energy, forces=forces * results["forces"][order], stress=results.get("stress")
    )
    return other


def test_of_each_structure_one_label_is_kept_and_the_others_are_told():
    frames = labelled()
    taken = take_in_labels([*frames, *map(written_otherwise, frames)])
    assert [atoms.get_potential_energy() for atoms in taken] == [f.get_potential_energy() for f in frames]
    (told,) = [remark for remark in taken.remarks if "left out" in remark]
    assert told.startswith(
        "labels: 4 of 8 to train on are left out, since their structures are given already: labels[4]"
    )
    assert "labels[4] (Cu4) is labels[0] (Cu4)" in told


def test_what_is_kept_counts_as_often_as_it_was_given():
    frames = labelled()
    given = [*frames, written_otherwise(frames[1])]
    taken = take_in_labels(given)
    assert [Provenance.of(atoms).stands_for for atoms in taken] == [None, 2.0, None, None]
    # the same by way of the store
    stored = [LabelDocument.model_validate(one).to_atoms() for one in unpack(pack_labels(taken, "copper", range(4)))]
    assert [Provenance.of(atoms).stands_for for atoms in take_in_labels(stored)] == [None, 2.0, None, None]
    plain = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=8, cutoff=4.0), ridge=1e-8)
    energies = {"Cu": 0.0}
    exact = [*frames, labelled()[1]]  # the other is rounded
    both = [replace(plain, reference_energies=energies).train(labels).potential for labels in (exact, stored)]
    assert both[1].coefficients == pytest.approx(both[0].coefficients, rel=1e-4)
    # what is given twice throughout counts as if it was given once
    assert {Provenance.of(a).stands_for for a in take_in_labels([*frames, *map(written_otherwise, frames)])} == {None}


def test_of_copies_the_one_with_a_stress_is_kept():
    taken = take_in_labels([*labelled(stress=False), *labelled(2)], remarks=())
    assert ["stress" in atoms.calc.results for atoms in taken] == [False, False, True, True]


def test_copies_that_contradict_each_other_are_refused_however_they_are_written():
    frames = labelled()
    with pytest.raises(InvalidInputError, match=r"labels\[1\] .* and labels\[4\] .* are one structure with .* eV/atom"):
        take_in_labels([*frames, written_otherwise(frames[1], energy=0.2)])
    with pytest.raises(InvalidInputError, match=r"labels\[1\] .* and labels\[4\] .* one structure, and forces differ"):
        take_in_labels([*frames, written_otherwise(frames[1], forces=1.2)])


def test_copies_of_trained_labels_leave_the_test_set_however_they_are_written():
    held_out = [written_otherwise(atoms) for atoms in labelled(5)]
    for atoms in held_out:
        atoms.info["split"] = "test"
    taken = take_in_labels([*labelled(4), *held_out])
    assert [atoms.info.get("split") for atoms in taken] == [None] * 4 + ["test"]
    # a published test set stays what it is
    twice = take_in_labels([*labelled(4), *held_out[4:], *held_out[4:]])
    assert [atoms.info.get("split") for atoms in twice] == [None] * 4 + ["test"] * 2
    assert "labels: 1 of 2 held out for tests are given twice, and count twice" in twice.remarks


def test_two_outputs_of_one_run_are_one_label():
    folder = SHARED_DATA / "vasp_runs" / "Si6_hot" / "outputs"
    files = [folder / "OUTCAR.gz", folder / "vasprun.xml.gz"]
    if not all(file.is_file() for file in files):
        pytest.skip(f"{folder} is not there")
    taken = read_labels_file(files)
    assert len(taken) == 1
    assert any("1 of 2 to train on are left out" in remark for remark in taken.remarks)
    assert any("labels: 'OUTCAR.gz'" in remark for remark in taken.remarks)


@pytest.mark.parametrize("sigma", [0.0, 5e-4])
def test_a_sound_dataset_given_twice_is_not_refused_for_the_sign_of_its_forces(sigma):
    """Two near pairs of strained cells, whose energies fall as the forces work by chance, are no six of them."""
    rng = np.random.default_rng(0)
    frames = []
    for seed in range(16):
        atoms = bulk("Cu", cubic=True, a=3.61) * ((2, 1, 1) if seed % 2 else (1, 1, 1))
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))), scale_atoms=True)
        atoms.rattle(0.12, seed=seed)
        for again in range(2):
            frame = atoms.copy()
            frame.rattle(sigma * again, seed=1)
            frame.calc = EMT()
            results = [frame.get_potential_energy(), frame.get_forces(), frame.get_stress()]
            frame.calc = SinglePointCalculator(frame, **dict(zip(("energy", "forces", "stress"), results, strict=True)))
            frames.append(frame)
    assert len(take_in_labels(frames)) == (32 if sigma else 16)
