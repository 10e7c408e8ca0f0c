"""The doctor finds what is in order in order, and what is broken broken, each by itself."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from jobflow import JobStore
from maggma.stores import MemoryStore
from run_files import SMALL
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, FAILED, app
from mlip_autopipec.doctor import Light, Result, machine, science
from mlip_autopipec.doctor.result import green, looked_at
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.kinds import TRAINERS
from mlip_autopipec.lammps.executable import is_available
from mlip_autopipec.training.linear import LinearACETrainer

LAMMPS, PACEMAKER = "MLIP_AUTOPIPEC_LAMMPS_CMD", "MLIP_AUTOPIPEC_PACEMAKER_CMD"


@pytest.fixture(scope="module")
def potential():
    return science.small_potential()


def test_cells_with_too_many_neighbours_for_a_gpu_are_told():
    copper = science.copper(0.0, seed=0)
    few = science.check_neighbours([copper], 5.0)
    assert few.light is Light.GREEN
    assert "at most 78 neighbours of an atom within 6 A" in few.found
    many = science.check_neighbours([copper, science.copper(0.0, seed=0, stretch=0.9)], 10.0)
    assert many.light is Light.YELLOW
    assert "380" in many.found
    assert "pace/kk and pace/extrapolation/kk" in many.found
    assert "trainer.basis.cutoff" in many.remedy
    assert "assumed" not in many.found


def test_neighbours_are_counted_within_the_largest_cutoff_that_may_be_chosen():
    linear = TRAINERS["linear"]
    assert linear.largest_cutoff_A is not None
    assert linear.largest_cutoff_A([science.copper(0.0, seed=0)]) == 7.0
    assert linear.largest_cutoff_A([bulk("Cs", cubic=True)]) > 11.0  # scaled with the distance of its neighbours
    diamond = bulk("C", cubic=True, a=3.5)
    assert science.check_neighbours([diamond], linear.default_cutoff_A).light is Light.GREEN
    assumed = science.check_neighbours([diamond], linear.largest_cutoff_A([diamond]), is_assumed=True)
    assert assumed.light is Light.YELLOW
    assert "assumed" in assumed.found


def is_red(result: Result, *words: str) -> None:
    assert result.light is Light.RED, result
    assert result.remedy
    for word in words:
        assert word in result.found + result.remedy, result


def is_green(result: Result) -> None:
    assert result.light is Light.GREEN, result
    assert not result.remedy


# ------------------------------------------------------------------ the self-test


def test_the_science_is_in_order_here(potential):
    is_green(science.check_forces(potential))
    gamma = science.check_gamma(potential, "library")
    is_green(gamma)
    assert 0 < float(gamma.found.split()[0]) < 10
    is_green(science.check_fine_tune(science.small_potential(ridge=1e3), TRAINERS["linear"].self_test(), "linear"))


@pytest.mark.skipif(not is_available(), reason=f"no LAMMPS with ML-PACE; {LAMMPS} may name one")
def test_gamma_of_the_executable(potential):
    is_green(science.check_gamma(potential, "executable"))


@pytest.mark.parametrize(("factor", "told"), [(0.0, "up to 0"), (2.0, "up to 2"), (np.nan, "nan")])
def test_an_active_set_of_another_potential_is_found(potential, factor, told):
    spoiled = {element: factor * matrix for element, matrix in potential.active_set_inverse.items()}
    is_red(
        science.check_gamma(replace(potential, active_set_inverse=spoiled), "library"), "gamma of the training", told
    )


def test_a_potential_without_active_set_or_with_half_its_file_is_found(potential):
    is_red(looked_at("gamma", science.check_gamma, replace(potential, active_set_inverse={}), "library"))
    half = replace(potential, yaml=potential.yaml[: len(potential.yaml) // 2])
    is_red(looked_at("forces", science.check_forces, half))


def test_forces_that_are_not_the_derivative_are_found(potential):
    class Wrong:
        def calculator(self):
            calculator = potential.calculator()
            calculate = calculator.calculate

            def shifted(atoms):
                calculate(atoms)
                calculator.results["forces"] = calculator.results["forces"] * 1.01

            calculator.calculate = shifted
            return calculator

    is_red(science.check_forces(Wrong()), "eV/A")


def test_a_trainer_that_does_not_train_is_found(potential):
    class Lazy(LinearACETrainer):
        def fit(self, task):
            return task.start, "converged after 0 iterations"

    is_red(science.check_fine_tune(potential, Lazy(), "linear"), "changed no coefficient")


class ShiftedEMT(EMT):
    """Its forces are not the derivative of its energy."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"] = self.results["forces"] + 0.05


def test_oracles_that_run_do_not_run_or_are_inconsistent():
    atoms = science.copper(0.05, seed=2, repeat=1)
    result = science.check_oracle(OracleMaker(static_maker=EMTStaticMaker()), atoms, "emt")
    is_green(result)
    assert "derivative" in result.found
    abinit = CalculatorStaticMaker(calculator_class="ase.calculators.abinit.Abinit")
    is_red(science.check_oracle(OracleMaker(static_maker=abinit), atoms, "ase"), "docs/oracles.md")
    shifted = CalculatorStaticMaker(calculator_class=f"{__name__}.ShiftedEMT")
    shifted._get_calculator = ShiftedEMT  # test modules cannot be imported by name
    result = science.check_oracle(OracleMaker(static_maker=shifted), atoms, "ase")
    assert result.light is Light.YELLOW, result
    assert "0.05 eV/A" in result.found


# ------------------------------------------------------------------ the machine


def test_this_environment_has_what_the_package_asks_for():
    is_green(machine.check_python())
    is_green(machine.check_packages())
    for extra in ("ace", "lammps"):
        is_green(machine.check_packages(extra))
    licences = machine.check_licences()
    assert licences.light is Light.YELLOW
    assert "no commercial use" in licences.found


def test_packages_that_are_missing_or_of_a_wrong_version_are_found(monkeypatch):
    wanted = ["numpy>=99", "no-such-package>=1", "scipy", 'also-missing; extra == "xtb"']
    monkeypatch.setattr(machine, "requires", lambda _: wanted)
    is_red(machine.check_packages(), "numpy is", ">=99", "no-such-package is missing", "pip install")
    result = machine.check_packages("xtb")
    assert result.light is Light.YELLOW
    assert "also-missing" in result.found
    is_green(machine.check_packages("remote"))


@pytest.mark.parametrize(
    ("missing", "light"), [("tensorpotential>=99", Light.YELLOW), ("python-ace==99", Light.RED)], ids=["fits", "pyace"]
)
def test_only_pyace_is_needed_of_what_fits_with_pacemaker_need(monkeypatch, missing, light):
    """As the README installs it with pip: TensorFlow is left out, and all but the gradient fits works."""
    monkeypatch.setattr(machine, "requires", lambda _: [f'{missing}; extra == "ace"'])
    result = machine.check_packages("ace")
    assert result.light is light
    assert "uv pip install -c constraints.txt -e '.[ace]'" in result.remedy, "elsewhere uv does not keep CUDA out"


def test_misspelt_settings_are_found():
    is_green(machine.check_settings({LAMMPS: "lmp", "MLIP_AUTOPIPEC_TEST_MONGO_URI": "x"}))
    result = machine.check_settings({"MLIP_AUTOPIPEC_LAMMPS_COMMAND": "lmp"})
    assert result.light is Light.YELLOW
    assert f"did you mean '{LAMMPS}'" in result.remedy


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("echo 'Large-scale Atomic/Molecular Massively Parallel Simulator'; echo 'lj/cut  eam'", "has no pair_style"),
        ("echo 'lmp: libfoo.so not found' >&2; exit 127", "libfoo.so not found"),
    ],
)
def test_a_command_that_is_no_lammps_with_ml_pace_is_found(tmp_path, monkeypatch, answer, told):
    stub = tmp_path / "lmp"
    stub.write_text(f"#!/bin/sh\n{answer}\n")
    stub.chmod(0o755)
    monkeypatch.setenv(LAMMPS, str(stub))
    is_red(machine.check_lammps_executable(), told, "ML-PACE")
    monkeypatch.setenv(LAMMPS, str(tmp_path / "none"))
    is_red(machine.check_lammps_executable(), "not found")
    monkeypatch.delenv(LAMMPS)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert machine.check_lammps_executable().light is Light.YELLOW  # MD runs with the library
    is_green(machine.check_lammps_library())


def test_a_pacemaker_that_is_not_there_is_found(monkeypatch):
    monkeypatch.setenv(PACEMAKER, "/no/such/pacemaker")
    result = machine.check_trainer("pacemaker")
    assert result.light is Light.YELLOW
    assert "/no/such/pacemaker" in result.found


def test_oracle_programs_are_told_with_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("MLIP_AUTOPIPEC_ESPRESSO_CMD", "no-such-pw.x")
    result = machine.check_oracle_programs()
    assert result.light is Light.YELLOW
    assert "EMT" in result.found
    assert "MLIP_AUTOPIPEC_ESPRESSO_CMD" in result.remedy
    stub = tmp_path / "pw.x"
    stub.touch(0o755)
    monkeypatch.setenv("MLIP_AUTOPIPEC_ESPRESSO_CMD", f"mpirun-stub {stub}")
    monkeypatch.setenv("MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR", str(tmp_path))
    (tmp_path / "mpirun-stub").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "Quantum ESPRESSO" in machine.check_oracle_programs().found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
def test_folders_that_cannot_be_written_to_are_found(tmp_path):
    is_green(machine.check_local_store(tmp_path))
    assert machine.check_folder(tmp_path).light is not Light.RED
    assert not list(tmp_path.iterdir()), "something was left behind"
    for folder in (Path("/proc"), tmp_path / "none"):  # not even root can write into the first
        is_red(machine.check_folder(folder), "cannot be written to")
        is_red(machine.check_local_store(folder), "cannot be made")


class Losing(MemoryStore):
    def update(self, docs, key=None):
        """Forget what it is given."""


def test_stores_that_lose_bulk_data_or_have_no_place_for_it_are_found():
    memory = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    is_green(machine.check_store(memory))
    assert memory.count() == 0
    is_red(machine.check_store(JobStore(MemoryStore())), "'data' is missing")
    is_red(machine.check_store(JobStore(MemoryStore(), additional_stores={"data": Losing()})))


def test_the_configured_store(tmp_path, monkeypatch):
    config = tmp_path / "jobflow.yaml"
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(config))
    assert machine.check_configured_store().light is Light.YELLOW
    server = {"database": "x", "uri": "mongodb://nobody:s3cret@127.0.0.1:9/?serverSelectionTimeoutMS=300"}
    stores = {
        "docs_store": {"type": "MongoStore", "collection_name": "a", **server},
        "additional_stores": {"data": {"type": "GridFSStore", "collection_name": "b", **server}},
    }
    config.write_text(yaml.safe_dump({"JOB_STORE": stores}))
    away = machine.check_configured_store()
    is_red(away, "docs/database.md")
    assert "s3cret" not in away.found
    config.write_text("JOB_STORE: {docs_store: {type: NoSuchStore}}")
    is_red(machine.check_configured_store(), "cannot be read")


def test_a_jobstore_on_a_server(database):
    is_green(machine.check_store(database))


def test_what_a_check_did_not_foresee_does_not_end_the_others():
    def crashes():
        raise OSError("disk on fire")

    is_red(looked_at("one", crashes), "OSError", "disk on fire")
    result = looked_at("two", lambda: green("two", "fine"))
    assert result.seconds > 0


# ------------------------------------------------------------------ the command


def test_doctor_tries_the_oracle_of_a_run_file_and_ends_with_0(tmp_path, monkeypatch):
    monkeypatch.setenv(PACEMAKER, "/no/such/pacemaker")  # TensorFlow alone takes longer than all the rest
    monkeypatch.chdir(tmp_path)
    oracle = {"kind": "lennard-jones", "maker": {"calculator_kwargs": {"sigma": 2.3, "epsilon": 0.4, "rc": 5.0}}}
    Path("run.yaml").write_text(yaml.safe_dump({**SMALL, "oracle": oracle}))
    result = CliRunner().invoke(app, ["doctor", "run.yaml", "--json"])
    document = json.loads(result.stdout)
    by_name = {one["name"]: one for one in document["checks"]}
    reds = [one for one in document["checks"] if one["light"] == "red"]
    assert not reds
    assert result.exit_code == document["exit_code"] == CONVERGED
    assert by_name["oracle, lennard-jones"]["light"] == "green"
    assert "32 atoms" in by_name["oracle, lennard-jones"]["found"]
    assert by_name["gamma, library"]["light"] == "green"
    assert by_name["fine-tune, linear"]["light"] == "green"
    assert document["counts"]["green"] == sum(one["light"] == "green" for one in document["checks"])
    assert all(one["remedy"] for one in document["checks"] if one["light"] != "green")


def test_doctor_ends_with_1_where_something_is_red(tmp_path, monkeypatch):
    monkeypatch.setenv(LAMMPS, str(tmp_path / "none"))
    result = CliRunner().invoke(app, ["doctor", "--quick"])
    assert result.exit_code == FAILED
    assert "red    LAMMPS executable" in result.output
    assert "->" in result.output
    assert "gamma" not in result.output
