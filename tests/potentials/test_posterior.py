"""Error bars of a linear potential: calculator, files, documents, and what they are worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.posterior import Posterior
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.training.linear import LinearACETrainer


def frames(n, seed, amplitude=0.08):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.set_cell(atoms.cell * (1 + rng.normal(0, 0.02)), scale_atoms=True)
        atoms.positions += rng.normal(0, amplitude, atoms.positions.shape)
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def labels():
    from ase.calculators.singlepoint import SinglePointCalculator

    labelled = frames(24, 0)
    for atoms in labelled:
        emt = EMT()
        emt.calculate(atoms)
        atoms.calc = SinglePointCalculator(
            atoms, energy=emt.results["energy"], forces=emt.results["forces"], stress=emt.get_stress(atoms)
        )
    return labelled


def trainer(**settings):
    return LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=15, cutoff=4.5), **settings)


@pytest.fixture(scope="module")
def potential(labels):
    return trainer().train(labels).potential


def bars(potential, atoms):
    calculator = potential.calculator()
    return [calculator.get_property(name, atoms) for name in ("energy_std", "forces_std", "stress_std")]


@pytest.mark.long
def test_error_bars_of_the_calculator_are_those_of_bootstrap_fits(potential, labels):
    fresh = frames(10, 9, amplitude=0.12)
    rng = np.random.default_rng(1)
    fits = [
        trainer().train([labels[i] for i in rng.integers(len(labels), size=len(labels))]).potential.calculator()
        for _ in range(25)
    ]
    atoms = bulk("Cu", cubic=True)
    shapes = [np.shape(found) for found in bars(potential, atoms)]
    assert shapes == [(), (4, 3), (6,)]
    expected = np.array([bars(potential, a)[1] for a in fresh])
    spread = np.array([np.std([fit.get_forces(a) for fit in fits], axis=0) for a in fresh])
    # the same forces are uncertain
    assert np.corrcoef(expected.ravel(), spread.ravel())[0, 1] > 0.6
    # and the bars have the size of the true errors, of structures farther from the ideal than all labels
    calculator = potential.calculator()
    errors, energy_errors = [], []
    for a in fresh:
        truth = a.copy()
        truth.calc = EMT()
        errors.append(calculator.get_forces(a) - truth.get_forces())
        energy_errors.append(
            (calculator.get_potential_energy(a) - truth.get_potential_energy()) / bars(potential, a)[0]
        )
    assert 0.4 < np.sqrt(np.mean(np.square(errors)) / np.mean(expected**2)) < 2.5
    assert 0.3 < np.sqrt(np.mean(np.square(energy_errors))) < 3.5
    near = np.mean([bars(potential, a)[1] for a in frames(4, 5, amplitude=0.02)])
    assert near < 0.5 * np.mean(expected), "near the ideal crystal forces are known better"


def test_energies_and_forces_are_there_with_the_error_bars(potential):
    atoms = frames(1, 3)[0]
    plain = potential.calculator()
    plain.calculate(atoms)
    assert "forces_std" not in plain.results, "they cost more than the forces, so that they are not always computed"
    atoms.calc = potential.calculator()
    assert atoms.calc.get_property("forces_std", atoms).shape == (8, 3)
    assert np.allclose(atoms.get_forces(), plain.results["forces"])


def test_a_posterior_goes_through_files_and_documents(potential, tmp_path):
    atoms = frames(1, 3)[0]
    expected = bars(potential, atoms)
    paths = potential.write(tmp_path)
    read = ACEPotential.from_files(
        paths.yaml, paths.asi, potential.reference_energies, posterior_path=paths.posterior, examined=True
    )
    stored = PotentialDocument.model_validate(
        PotentialDocument.from_potential(potential, uuid="u", campaign_id="c").model_dump(mode="json")
    ).to_potential()
    for other in (read, stored):
        for a, b in zip(bars(other, atoms), expected, strict=True):
            assert np.allclose(a, b, rtol=1e-6)
    assert stored.sha256 == potential.sha256
    without = PotentialDocument.from_potential(potential)
    del without.payload["posterior"]
    assert without.to_potential().posterior is None, "as in documents of earlier versions"


def test_a_posterior_beside_a_file_that_was_not_asked_for_is_named(potential, tmp_path):
    paths = potential.write(tmp_path)
    read = ACEPotential.from_files(paths.yaml, examined=True)
    with pytest.raises(InvalidInputError, match=r"potential\.posterior\.npz': give .*posterior_path="):
        read.calculator().get_property("forces_std", frames(1, 3)[0])
    paths.posterior.unlink()
    read = ACEPotential.from_files(paths.yaml, examined=True)
    with pytest.raises(InvalidInputError, match="the potential has no error bars"):
        read.calculator().get_property("forces_std", frames(1, 3)[0])


def test_reference_energies_of_a_campaign_that_were_not_given_are_told(potential, tmp_path, caplog):
    paths = potential.write(tmp_path / "potential")
    ACEPotential.from_files(paths.yaml, examined=True)
    (tmp_path / "result.json").write_text('{"potential": null}')
    ACEPotential.from_files(paths.yaml, examined=True)
    assert not caplog.text
    (tmp_path / "result.json").write_text('{"potential": {"reference_energies_eV": {"Cu": -3.7}}}')
    for given in ({}, {"Cu": -3.7}):
        ACEPotential.from_files(paths.yaml, reference_energies=given, examined=True)
    assert not caplog.text
    ACEPotential.from_files(paths.yaml, examined=True)
    assert "is read without reference energies" in caplog.text
    assert "give reference_energies={'Cu': -3.7}" in caplog.text


def test_a_damaged_posterior_and_one_of_another_potential_are_refused(potential, labels, tmp_path):
    paths = potential.write(tmp_path)
    content = bytearray(paths.posterior.read_bytes())
    content[len(content) // 2] ^= 1
    paths.posterior.write_bytes(bytes(content))
    with pytest.raises(InvalidInputError, match=r"potential\.posterior\.npz.*cannot be read"):
        ACEPotential.from_files(paths.yaml, paths.asi, posterior_path=paths.posterior, examined=True)
    other = trainer(energy_meV_atom=50.0).train(labels[:12]).potential
    with pytest.raises(InvalidInputError, match="belongs to another potential"):
        bars(replace(potential, posterior=other.posterior), labels[0])


def test_potentials_without_a_posterior_say_so(labels):
    assert not trainer(ridge=1e-6).gives_error_bars
    plain = trainer(ridge=1e-6).train(labels).potential
    with pytest.raises(InvalidInputError, match=r"no error bars.*posterior of a linear fit"):
        bars(plain, labels[0])
    with pytest.raises(PropertyNotImplementedError):
        plain.calculator().get_property("charges", labels[0])


def test_labels_without_stress_give_no_error_bars_of_the_stress(labels):
    from ase.calculators.singlepoint import SinglePointCalculator

    bare = []
    for label in labels:
        atoms = label.copy()
        atoms.calc = SinglePointCalculator(atoms, energy=label.get_potential_energy(), forces=label.get_forces())
        bare.append(atoms)
    energy, forces, stress = bars(trainer().train(bare).potential, labels[0])
    assert energy > 0
    assert (forces > 0).any()
    assert stress is None


def test_no_bytes_no_posterior():
    assert Posterior.unpack(b"") is None


def test_of_an_atom_without_neighbours_no_energy_is_certain(potential):
    crystal = bulk("Cu", cubic=True)
    assert np.isfinite(bars(potential, crystal)[0])
    for alone in (Atoms("Cu", cell=[15, 15, 15], pbc=True), crystal * (2, 2, 1) + Atoms("Cu", [(3.6, 1.8, 30.0)])):
        alone.cell[2, 2] = max(alone.cell[2, 2], 60.0)
        energy, forces, _ = bars(potential, alone)
        assert np.isnan(energy)
        assert np.isfinite(forces).all()
