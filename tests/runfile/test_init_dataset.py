"""`init` of a dataset starts from its labels, and says so."""

from __future__ import annotations

import ase.io
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, app
from mlip_autopipec.runfile.model import RunFile


def frames(n, labelled=True):
    made = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=k)
        if labelled:
            atoms.calc = EMT()
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        made.append(atoms)
    return made


def test_labels_are_not_dropped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("data.xyz", frames(6))
    result = CliRunner().invoke(app, ["init", "data.xyz"])
    assert result.exit_code == CONVERGED, result.output
    assert "data.xyz holds 6 labels: the campaign starts from them (start_from)" in result.output
    assert yaml.safe_load((tmp_path / "Cu.yaml").read_text())["start_from"] == {"labels": "data.xyz"}
    assert len(RunFile.load("Cu.yaml").load_labels()) == 6


def test_a_single_structure_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("one.xyz", frames(1))
    assert CliRunner().invoke(app, ["init", "one.xyz"]).exit_code == CONVERGED
    assert "start_from" not in (tmp_path / "Cu.yaml").read_text()


def test_structures_without_labels_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("many.xyz", frames(3, labelled=False))
    result = CliRunner().invoke(app, ["init", "many.xyz"])
    assert result.exit_code == CONVERGED, result.output
    assert "many.xyz holds 3 structures, and the last is taken" in result.output
    assert "start_from" not in (tmp_path / "Cu.yaml").read_text()
