"""Datasets that users bring along."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from paths import SHARED_DATA

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.files import hold_out, read_labels_file

SILICON = SHARED_DATA / "dft" / "Si_gap_17frames.extxyz"


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    atoms.get_stress()
    return atoms


def test_a_file_ase_wrote_comes_back_as_it_was(copper, tmp_path):
    ase.io.write(tmp_path / "labels.extxyz", copper)
    (read,) = read_labels_file(tmp_path / "labels.extxyz")
    assert read.get_potential_energy() == pytest.approx(copper.get_potential_energy(), abs=1e-8)
    assert np.allclose(read.get_forces(), copper.get_forces(), atol=1e-7)
    assert np.allclose(read.get_stress(), copper.get_stress(), atol=1e-9)


def test_other_names_and_a_virial(copper, tmp_path):
    bare = copper.copy()
    bare.info["REF_energy"] = copper.get_potential_energy()
    bare.info["REF_virial"] = -copper.get_volume() * copper.get_stress(voigt=False)
    bare.arrays["REF_forces"] = copper.get_forces()
    path = tmp_path / "labels.xyz"
    ase.io.write(path, bare, format="extxyz")
    (read,) = read_labels_file(path, "REF_energy", "REF_forces", "REF_virial")
    assert read.get_potential_energy() == pytest.approx(copper.get_potential_energy(), abs=1e-7)
    assert np.allclose(read.get_forces(), copper.get_forces(), atol=1e-7)
    assert np.allclose(read.get_stress(), copper.get_stress(), atol=1e-8)
    with pytest.raises(InvalidInputError, match=r"frame 0 \(Cu4\) has no energy and no forces.*REF_energy.*REF_forces"):
        read_labels_file(path)


def test_an_isolated_atom_is_a_reference(tmp_path):
    atom = bulk("Cu")
    atom.set_cell([12, 12, 12])
    atom.info["config_type"] = "IsolatedAtom"
    atom.calc = SinglePointCalculator(atom, energy=-0.25, forces=np.zeros((1, 3)))
    ase.io.write(tmp_path / "atom.extxyz", atom)
    (read,) = read_labels_file(tmp_path / "atom.extxyz")
    assert read.info["split"] == "reference"
    assert read.info["origin"] == "isolated_atom"
    assert read.get_potential_energy() == -0.25


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="does not exist"):
        read_labels_file(tmp_path / "nothing.extxyz")
    with pytest.raises(InvalidInputError, match="extended XYZ"):
        read_labels_file(tmp_path / "labels.pckl.gzip")
    (tmp_path / "broken.xyz").write_text("3\nProperties=species:S:1\nCu\n")
    with pytest.raises(InvalidInputError, match=r"broken.xyz.*cannot be read"):
        read_labels_file(tmp_path / "broken.xyz")


@pytest.mark.skipif(not SILICON.is_file(), reason=f"{SILICON.name} is not there")
def test_real_silicon_frames():
    frames = read_labels_file(SILICON, "REF_energy", "REF_forces", "REF_virial")
    assert len(frames) == 17
    first = frames[0]
    assert first.get_potential_energy() == -539.81299617
    assert first.get_forces()[0] == pytest.approx([-0.36376, 0.04403, -0.201101])
    assert first.get_stress()[0] == pytest.approx(1.7847047751225602 / first.get_volume())
    assert all(5 < -f.get_potential_energy() / len(f) < 6 for f in frames)


def test_a_share_is_held_out_the_same_for_the_same_seed():
    def choose(seed):
        frames = [bulk("Cu") for _ in range(10)]
        frames[0].info["split"] = "train"
        hold_out(frames, 0.2, seed)
        return [i for i, atoms in enumerate(frames) if atoms.info.get("split") == "test"]

    assert choose(1) == choose(1)
    assert len(choose(1)) == 2
    assert 0 not in [i for seed in range(20) for i in choose(seed)]
    assert any(choose(1) != choose(seed) for seed in range(2, 6))
    with pytest.raises(InvalidInputError, match="leaves none to train on"):
        hold_out([bulk("Cu")], 0.5, 1)
    with pytest.raises(InvalidInputError, match="share in"):
        hold_out([bulk("Cu")], 1.0, 1)
