"""init writes run files that are valid, fit the structure, and teach."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from typer.testing import CliRunner

from mlip_autopipec.cli import CONVERGED, FAILED, app
from mlip_autopipec.kinds import ORACLES
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.structures.supercells import cell_width


def init(*arguments: str):
    return CliRunner().invoke(app, ["init", *arguments])


def made(*arguments: str) -> tuple[RunFile, str]:
    result = init(*arguments, "--json")
    assert result.exit_code == CONVERGED, result.output
    path = Path(json.loads(result.stdout)["run_file"])
    return RunFile.load(path), path.read_text()


def test_copper_in_one_line(tmp_cwd):
    run, text = made("--element", "Cu", "--crystal", "fcc")
    assert Path("Cu.yaml").is_file()
    (atoms,) = run.load_structures()
    assert (str(atoms.symbols), atoms.cell.lengths()) == ("Cu32", pytest.approx([7.22] * 3))
    assert run.oracle.kind == "emt"
    assert [c.temperature_K for c in run.conditions] == [300, 1000]  # below its melting point
    assert len(run.flow().jobs) > 3
    # every setting that is written is explained
    settings = [line for line in text.splitlines() if re.match(r" *[a-z_]+: \S", line)]
    assert len(settings) > 20
    assert sum("#" in line for line in settings) > 0.7 * len(settings)


@pytest.mark.parametrize(
    ("arguments", "formula", "oracle", "timestep_fs"),
    [
        ("-e Mg -e O --crystal rocksalt --a 4.21", "Mg32O32", "gfn-xtb", 1.0),
        ("-e Ti", "Ti64", "gfn-xtb", 2.0),
        ("-e Ar --max-atoms 110", "Ar108", "lennard-jones", 1.0),
        ("-e Li -e H --crystal rocksalt --a 4.08 --oracle vasp", "Li32H32", "vasp", 0.5),
        ("-e Na,Cl --crystal rocksalt --a 5.64", "Na32Cl32", "gfn-xtb", 1.0),
        ("-e Si --oracle espresso --trainer pacemaker", "Si64", "espresso", 1.0),
        ("-e Si --oracle ase --trainer grace -T 900", "Si64", "ase", 1.0),
        ("-e CaF2 --crystal fluorite --a 5.46 --max-atoms 12", "CaF2CaF2CaF2CaF2", "gfn-xtb", 1.0),
    ],
)
def test_settings_follow_the_structure(tmp_cwd, arguments, formula, oracle, timestep_fs):
    pytest.importorskip("tblite", reason="xTB is not offered where tblite is not installed")
    run, _ = made(*arguments.split(), "-o", "run.yaml")
    (atoms,) = run.load_structures()
    assert atoms.get_chemical_formula() == Atoms(formula).get_chemical_formula()
    assert run.oracle.kind == oracle
    assert run.dynamics.timestep_fs == timestep_fs
    assert run.flow().jobs
    train = [a for a in run.maker().generate_maker.generator.generate([atoms]) if a.info["split"] == "train"]
    functions = getattr(run.trainer.basis, "number_of_functions_per_element", None)
    if functions:
        fewest = min(sum(a.get_chemical_symbols().count(e) for a in train) for e in set(atoms.symbols))
        assert fewest >= functions, "the active set needs as many atoms as there are functions"


@pytest.mark.parametrize(
    ("structure", "frames", "told"),
    [
        (molecule("CH4"), (10, 50), "500 steps for each walker"),
        (bulk("LiF", "rocksalt", a=4.03, cubic=True) * (2, 2, 1), (4, 25), "each as long as a label"),
        (bulk("LiF", "rocksalt", a=4.03, cubic=True) * 2, None, "remove the #"),  # 10 s a step
    ],
)
def test_an_oracle_that_takes_seconds_validates_small_systems(tmp_cwd, structure, frames, told):
    pytest.importorskip("tblite")
    ase.io.write("s.extxyz", structure)
    run, text = made("s.extxyz", "--max-atoms", "40", "-o", "run.yaml")
    assert run.oracle.kind == "gfn-xtb"
    found = run.validation
    assert (None if found is None else (found.n_frames, found.interval_steps)) == frames
    assert told in text


@pytest.mark.parametrize("arguments", ["-e LiF --crystal rocksalt --a 4.03", "-e SiC --crystal zincblende --a 4.36"])
def test_radial_functions_cutoff_and_size_of_a_linear_fit_are_left_to_the_labels(tmp_cwd, arguments):
    run, text = made(*arguments.split(), "--oracle", "vasp", "-o", "run.yaml")
    assert run.trainer.basis == type(run.trainer.basis)()
    assert "without it the labels choose" in text


def test_a_compound_is_called_what_chemists_call_it(tmp_cwd):
    run, text = made("-e", "Li", "-e", "F", "--crystal", "rocksalt", "--a", "4.03")
    assert Path("LiF.yaml").is_file()
    assert run.name == "LiF"
    assert "Made for LiF" in text


def test_files_are_named_relative_to_the_run_file(tmp_cwd):
    Path("structures").mkdir()
    Path("campaigns").mkdir()
    slab = bulk("Al", cubic=True) * (1, 1, 3)
    slab.center(vacuum=6.0, axis=2)
    ase.io.write("structures/slab.extxyz", slab)
    ase.io.write("structures/POSCAR", bulk("Al", cubic=True))
    run, text = made("structures/POSCAR", "structures/slab.extxyz", "-o", "campaigns/al.yaml", "--name", "al")
    assert "file: ../structures/POSCAR" in text
    crystal, surface = run.load_structures()
    assert len(crystal) == 32
    assert len(surface) == 48
    assert cell_width(surface.cell.array) > 8 > surface.cell.lengths()[0] / 1.5


def test_what_is_there_is_never_overwritten(tmp_cwd):
    Path("Cu.yaml").write_text("mine")
    result = init("-e", "Cu")
    assert result.exit_code == FAILED
    assert "exists" in result.output
    assert Path("Cu.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", "--element"),
        ("--crystal fcc", "need --element"),
        ("-e Cu -e Zn", "which crystal is CuZn? Give --crystal (bcc,"),
        ("-e nickel", "--element nickel is no element"),
        ("-e Na -e Cl --crystal rocksalt", "specify the lattice constant. Give --crystal"),
        ("-e Si --oracle emt", "not Si"),
        ("-e Cu --oracle vsp", "did you mean 'vasp'"),
        ("-e Cu --trainer linea", "did you mean 'linear'"),
        ("-e Cu -T -5", "temperature_K is -5"),
        ("no.cif", "no.cif"),
        ("line.xyz", "missing"),
        ("-e Cu -o no/such/folder.yaml", "cannot be written"),
        ("-e Si --oracle ase --calculator os.system", "os.system"),
    ],
)
def test_what_cannot_be_meant_leaves_no_file(tmp_cwd, arguments, told):
    ase.io.write("line.xyz", Atoms("CO", positions=np.eye(3)[:2], pbc=(True, False, False)))
    result = init(*arguments.split())
    assert result.exit_code == FAILED
    assert told in result.output
    assert not list(Path().rglob("*.yaml"))


def test_help_names_every_oracle_and_teaches_by_examples():
    text = " ".join(init("--help").output.split())
    assert "mlip-autopipec init --element Cu --crystal fcc" in text
    assert all(name in text for name in ORACLES)


def test_the_name_of_an_alloy_needs_no_quotes_in_a_shell(tmp_cwd):
    """Parentheses of its formula had to be quoted, and the comment had the quotes of YAML in the name of the folder."""
    atoms = bulk("Ni", cubic=True) * (2, 1, 1)
    atoms.symbols = "NiNiAgPdAgPdAgPd"
    ase.io.write("alloy.extxyz", atoms)
    campaign, text = made("alloy.extxyz", "--oracle", "emt")
    assert re.fullmatch(r"[A-Za-z0-9]+", campaign.name)
    assert re.search(rf"everything goes to the folder runs/{campaign.name}$", text, re.MULTILINE)
