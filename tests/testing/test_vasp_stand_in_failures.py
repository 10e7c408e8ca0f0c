"""Failures of the stand-in for VASP, alone and under atomate2 with real custodian and emmet."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from ase.units import GPa
from pymatgen.io.vasp import Vasprun
from vasp_stand_in import vasp_stand_in_environment
from vasp_stand_in.command import main
from vasp_stand_in.failures import Failure, FailurePlan, hash_fraction
from vasp_stand_in.potcars import make_believe_potcar

pytestmark = pytest.mark.filterwarnings("ignore")


def write_input(folder):
    """Compressed copper in its primitive cell."""
    write(folder / "POSCAR", bulk("Cu", a=3.5), format="vasp", direct=True, vasp5=True)
    (folder / "INCAR").write_text("ENCUT = 400\nEDIFF = 1E-6\nISMEAR = 0\nSIGMA = 0.05\nKSPACING = 0.5\n")
    (folder / "POTCAR").write_text(make_believe_potcar("Cu", "Cu"))
    return folder


def run(folder, *options):
    """Run in this process: as the executable, without its start-up."""
    with contextlib.chdir(folder):
        return main(list(options))


def run_process(folder, *options, **variables):
    """Run the executable."""
    command = [sys.executable, "-m", "vasp_stand_in", *options]
    return subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
    )


def vasprun_of(folder):
    return Vasprun(folder / "vasprun.xml", parse_potcar_file=False)


def sizes(folder):
    return {
        name: (folder / name).stat().st_size if (folder / name).exists() else None
        for name in ("vasprun.xml", "OUTCAR", "OSZICAR", "CONTCAR")
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = write_input(tmp_path_factory.mktemp("good"))
    assert run(folder) == 0
    return folder


def failed(tmp_path, *options):
    return run(write_input(tmp_path), "--fail", *options)


def test_killed(tmp_path, good):
    assert run_process(write_input(tmp_path), "--fail", "killed").returncode == -signal.SIGKILL
    full, half = sizes(good), sizes(tmp_path)
    assert half["CONTCAR"] == 0
    for name in ("vasprun.xml", "OUTCAR", "OSZICAR"):
        assert 0.4 < half[name] / full[name] < 0.6, name
    with pytest.raises(ET.ParseError):
        ET.parse(tmp_path / "vasprun.xml")


def test_missing(tmp_path):
    result = run_process(write_input(tmp_path), "--fail", "missing")
    assert (result.returncode, result.stdout) == (0, "")
    assert set(sizes(tmp_path).values()) == {None}


def test_exit_code(tmp_path, capsys):
    assert failed(tmp_path, "exit-code", "--exit-code", "42") == 42
    assert "SICK JOB" in capsys.readouterr().out
    assert set(sizes(tmp_path).values()) == {0}


def test_crash_at_the_end(tmp_path, good):
    assert failed(tmp_path, "crash-at-end", "--exit-code", "139") == 139
    assert vasprun_of(tmp_path).final_energy == vasprun_of(good).final_energy


def test_truncated(tmp_path, good):
    assert failed(tmp_path, "truncated") == 0
    with pytest.raises(ET.ParseError):
        ET.parse(tmp_path / "vasprun.xml")
    assert sizes(tmp_path)["OUTCAR"] == pytest.approx(sizes(good)["OUTCAR"], rel=0.01)


def test_unconverged(tmp_path, good):
    assert failed(tmp_path, "unconverged") == 0
    read = vasprun_of(tmp_path)
    assert not read.converged_electronic
    assert len(read.ionic_steps[-1]["electronic_steps"]) == read.parameters["NELM"]
    assert "EDIFF was not reached" in (tmp_path / "OUTCAR").read_text()
    assert read.ionic_steps[-1]["e_fr_energy"] > vasprun_of(good).ionic_steps[-1]["e_fr_energy"] + 0.01


def test_nan(tmp_path):
    assert failed(tmp_path, "nan") == 0
    read = vasprun_of(tmp_path)
    assert read.converged_electronic
    assert np.isnan(read.ionic_steps[-1]["e_fr_energy"])
    assert np.isfinite(read.ionic_steps[-1]["forces"]).all()


@pytest.mark.parametrize("name", ["brmix", "zbrent", "edddav", "zpotrf", "subspacematrix", "too_few_bands"])
def test_messages_are_those_custodian_looks_for(tmp_path, capsys, name):
    from custodian.vasp.handlers import VaspErrorHandler

    write_input(tmp_path)
    assert run(tmp_path, "--fail", "message", "--message", name) == 1
    (tmp_path / "vasp.out").write_text(capsys.readouterr().out)
    handler = VaspErrorHandler()
    assert handler.check(str(tmp_path))
    assert handler.errors == {name}


def test_hang(tmp_path, good):
    write_input(tmp_path)
    command = [sys.executable, "-m", "vasp_stand_in", "--fail", "hang", "--seconds", "600"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        while not process.stdout.readline().startswith("DAV"):
            assert process.poll() is None
        assert process.poll() is None
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM
    assert 0 < sizes(tmp_path)["OUTCAR"] < sizes(good)["OUTCAR"]


def test_failures_can_be_limited_to_some_calls(tmp_path):
    write_input(tmp_path)

    def codes(*limits, number=4):
        counter = tmp_path / f"{'-'.join(limits)}.count".replace("--", "").replace(":", "")
        options = ["--fail", "exit-code", "--exit-code", "3", *limits, "--counter", str(counter)]
        return [run(tmp_path, *options) for _ in range(number)]

    assert codes("--calls", "first:2") == [3, 3, 0, 0]
    assert codes("--calls", "every:2") == [0, 3, 0, 3]
    assert codes("--larger-than", "1", number=1) == [0]
    assert codes("--larger-than", "0", number=1) == [3]
    assert run(tmp_path, "--fail", "exit-code", "--calls", "first:2") == 1  # no counter


def test_a_fraction_of_the_structures_fails_always_in_the_same_way():
    poscars = [f"comment\n1.0\n3 0 0\n0 3 0\n0 0 3\nCu\n1\nDirect\n{number / 1000} 0 0\n" for number in range(400)]

    def fates(seed):
        plan = FailurePlan(kind=Failure.KILLED, fraction=0.25, seed=seed)
        return [plan.strikes(poscar) for poscar in poscars]

    assert fates(5) == fates(5)
    assert 70 < sum(fates(5)) < 130
    assert fates(5) != fates(6)
    assert 0 <= hash_fraction("x", 0) < 1


def test_options_of_the_environment_come_before_those_of_the_command(tmp_path):
    write_input(tmp_path)
    result = run_process(tmp_path, "--exit-code", "8", VASP_STAND_IN_OPTIONS="--fail exit-code --exit-code 7")
    assert result.returncode == 8


# --- under atomate2 ---------------------------------------------------------------------------------

# Runs every case in a folder of its own: real atomate2, custodian, pymatgen and emmet, told nothing but the environment
WORKER = """
import json, logging, os, sys
from ase import Atoms
from ase.build import bulk
from atomate2.vasp.jobs.matpes import MatPesGGAStaticMaker
from custodian.vasp.handlers import FrozenJobErrorHandler
from jobflow import run_locally
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.vasp.sets import MatPESStaticSet

structure = AseAtomsAdaptor.get_structure(bulk("Cu", a=3.5))
input_set = MatPESStaticSet(user_incar_settings={"KSPACING": 0.5})
top, results = os.getcwd(), {}
for name, (options, run_vasp) in json.load(open("cases.json")).items():
    os.environ["VASP_STAND_IN_OPTIONS"] = options
    os.makedirs(name)
    os.chdir(name)
    if run_vasp.pop("frozen", False):
        run_vasp["handlers"] = [FrozenJobErrorHandler(timeout=1)]
        run_vasp["custodian_kwargs"]["monitor_freq"] = 1
    job = MatPesGGAStaticMaker(input_set_generator=input_set, run_vasp_kwargs=run_vasp).make(structure)
    result = results[name] = {}
    try:
        document = run_locally(job, raise_immediately=True, log=False)[job.uuid][1].output
        step = document.calcs_reversed[0].output.ionic_steps[-1]
        result["state"] = document.state.value
        result["version"] = document.vasp_version
        result["energies"] = [step.e_fr_energy, step.e_wo_entrp, step.e_0_energy]
        result["forces"] = document.output.forces
        result["stress"] = document.output.stress
        result["run_type"] = str(document.run_type)
    except BaseException as error:
        result["error"] = [type(error).__name__, str(error)]
    if os.path.exists("custodian.json"):
        log = json.load(open("custodian.json"))[0]
    else:
        import gzip
        path = "custodian.json.gz"
        log = json.load(gzip.open(path))[0] if os.path.exists(path) else {"corrections": []}
    result["handlers"] = [correction["handler"]["@class"] for correction in log["corrections"]]
    result["actions"] = [correction["actions"] for correction in log["corrections"]]
    os.chdir(top)
json.dump(results, open("results.json", "w"))
"""
NEGATIVE = "--energy-zero atoms"
QUICK = {"custodian_kwargs": {"polling_time_step": 0.1}, "max_errors": 1}
DIRECT = {"job_type": "direct"}
CASES = {
    "good": (f"{NEGATIVE} --entropy 0.0005", QUICK),
    "positive": ("", QUICK),
    "unconverged": (f"{NEGATIVE} --fail unconverged", QUICK),
    "killed": (f"{NEGATIVE} --fail killed", QUICK),
    "missing": ("--fail missing", QUICK),
    "exit-code": ("--fail exit-code", QUICK),
    "crash-at-end": (f"{NEGATIVE} --fail crash-at-end", QUICK),
    "truncated": (f"{NEGATIVE} --fail truncated", QUICK),
    "nan": ("--fail nan", QUICK),
    "message": ("--fail message --message edddav", QUICK),
    "message-once": (
        f"{NEGATIVE} --fail message --message edddav --calls first:1 --counter ../calls",
        QUICK | {"max_errors": 2},
    ),
    "hang": ("--fail hang", QUICK | {"frozen": True}),
    "direct-unconverged": ("--fail unconverged", DIRECT),
    "direct-truncated": ("--fail truncated", DIRECT),
    "direct-missing": ("--fail missing", DIRECT),
}


@pytest.fixture(scope="module")
def atomate2_runs(tmp_path_factory):
    """All cases in one process, since importing atomate2 takes seconds."""
    folder = tmp_path_factory.mktemp("atomate2")
    (folder / "worker.py").write_text(WORKER)
    (folder / "cases.json").write_text(json.dumps(CASES))
    environment = os.environ | vasp_stand_in_environment(folder / "potcars", elements=["Cu"])
    command = [sys.executable, "-W", "ignore", "worker.py"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


@pytest.mark.long
def test_atomate2_takes_it_for_vasp(atomate2_runs):
    result = atomate2_runs["good"]
    assert result["state"] == "successful"
    assert result["handlers"] == []
    assert result["run_type"] == "PBE"
    assert "stand-in" in result["version"]
    assert "not vasp" in result["version"]  # emmet writes it in small letters
    atoms = bulk("Cu", a=3.5)
    atoms.calc = EMT()
    alone = Atoms("Cu")
    alone.calc = EMT()
    energy = atoms.get_potential_energy() - alone.get_potential_energy()
    assert result["energies"] == pytest.approx([energy, energy + 0.0005, energy + 0.00025], abs=1e-7)
    np.testing.assert_allclose(result["forces"], atoms.get_forces(), atol=1e-7)
    stress = np.array(result["stress"]) * -0.1 * GPa
    np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-8)


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "error", "handlers"),
    [
        ("positive", "MaxCorrectionsPerJobError", ["PositiveEnergyErrorHandler"]),
        ("unconverged", "MaxCorrectionsPerJobError", ["UnconvergedErrorHandler"]),
        ("killed", "ValidationError", []),
        ("missing", "ValidationError", []),
        ("exit-code", "ValidationError", []),
        ("crash-at-end", "ReturnCodeError", []),
        ("truncated", "ValidationError", []),
        ("message", "MaxCorrectionsPerJobError", ["VaspErrorHandler"]),
        ("hang", "NonRecoverableError", ["FrozenJobErrorHandler"]),
        ("direct-unconverged", "RuntimeError", []),
        ("direct-truncated", "XMLSyntaxError", []),
        ("direct-missing", "FileNotFoundError", []),
    ],
)
def test_atomate2_ends_a_failure_as_the_docs_say(atomate2_runs, case, error, handlers):
    assert atomate2_runs[case]["error"][0] == error
    assert atomate2_runs[case]["handlers"] == handlers


@pytest.mark.long
def test_custodian_corrects_a_message_by_changing_the_settings(atomate2_runs):
    result = atomate2_runs["message-once"]
    assert result["state"] == "successful"
    assert result["handlers"] == ["VaspErrorHandler"]
    assert {"dict": "INCAR", "action": {"_set": {"ALGO": "All", "ISEARCH": 1}}} in result["actions"][0]
    assert result["energies"][0] == pytest.approx(atomate2_runs["good"]["energies"][0])


@pytest.mark.long
def test_nothing_in_atomate2_minds_nan(atomate2_runs):
    """A trap for whoever takes labels: the document is a successful one."""
    assert atomate2_runs["nan"]["state"] == "successful"
    assert np.isnan(atomate2_runs["nan"]["energies"]).all()
