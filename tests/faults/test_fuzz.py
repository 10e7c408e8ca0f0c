"""
Any input ends in a result or in a sentence: no traceback, no hang, bounded memory.

MLIP_AUTOPIPEC_FUZZ sets how many cases hypothesis tries of each kind; docs/testing.md has the numbers of a long run.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
from contextlib import contextmanager

import ase.io
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobflow import run_locally
from pymatgen.core import Structure
from typer.testing import CliRunner

from mlip_autopipec.cli import FAILED, app
from mlip_autopipec.cli.base import open_store
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.oracle.files import read_labels_file
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.runfile.structures import load_structure
from mlip_autopipec.testing import stand_in_loop

CASES = int(os.environ.get("MLIP_AUTOPIPEC_FUZZ", "10"))
#: Seconds of one case on a busy machine, and growth of the memory of all cases of a kind in bytes.
LONGEST_S, MOST_BYTES = 30, 2 * 2**30
#: What tends to break readers.
NASTY = [
    *("nan", ".nan", "inf", "-.inf", "1e20", "-1e300", "1e-320", "0", "-1", "0600", "1:30", "No", "true", "null", "~"),
    *("[]", "{}", "[[[[", "}}}}", "&a [*a]", "*a", "!!python/name:os.system", "!!binary x", "'", '"', "\\", "\t", "\n"),
    *(
        "9" * 30,
        "9" * 5000,
        "-",
        "- - - -",
        ": :",
        "%TAG ! x",
        "---",
        "...",
        "X",
        "Zz",
        "\x00",
        "\x1b[31m",
        "é",
        "\u2028",
    ),
    *("[/]", "<b>", "{{ 1 }}", "@module", "a" * 3000, "Properties=species:S:1:pos:R:9", 'Lattice="0 0 0 0 0 0 0 0 0"'),
]

RUN = {
    "name": "copper",
    "seed": 3,
    "structures": [{"bulk": {"name": "Cu", "crystal": "fcc", "a": 3.6, "cubic": True}, "repeat": [2, 2, 2]}],
    "conditions": [{"temperature_K": 300}, {"temperature_K": 600, "pressure_GPa": 1.0}],
    "oracle": {"kind": "emt", "maker": {"calculator_kwargs": {"asap_cutoff": True}}, "n_compared": 1},
    "trainer": {"kind": "linear", "basis": {"cutoff": 4.5, "number_of_functions_per_element": 20}},
    "dynamics": {"n_steps": 100, "timestep_fs": 2.0, "ensemble": "npt", "gamma_lo": 2.0, "gamma_hi": 9.0},
    "first_dataset": {"n_structures": 8, "rattle_amplitudes": [0.1, 0.2], "volume_window": [0.9, 1.1]},
    "candidates": {"n_samples": 5},
    "selection": {"n_max": 2},
    "stop": {"max_cycles": 3, "max_hours": 1.0},
    "properties": {"min_width": 8.0},
    "quarantine": {"n_sigma": 6.0},
    "thresholds": {},
    "validation": {"n_frames": 2, "interval_steps": 10},
}


def fuzz(cases=None):
    health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=cases or CASES, deadline=None, suppress_health_check=health, derandomize=CASES < 100)


@contextmanager
def bounded():
    """Let a case end within the time, and take no more than the memory."""

    def late(*_):
        raise AssertionError(f"a case took more than {LONGEST_S} s")

    before, handler = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MOST_BYTES


@contextmanager
def sentence_or_result():
    """Take errors that are raised on purpose; they name something and are of a length that is read."""
    with bounded():
        message = "nothing was wrong"
        try:
            yield
        except MLIPError as error:
            message = str(error)
        assert 10 < len(message) < 8000


@st.composite
def mutated(draw, text):
    """Replace, insert, repeat or drop pieces of a text."""
    pieces = text
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(pieces) - 1, 0)))
        length = draw(st.integers(0, 12))
        kind = draw(st.sampled_from(["replace", "insert", "drop", "repeat", "cut", "byte", "number"]))
        if kind == "number":  # the next number becomes something else
            numbers = [i for i in range(at, len(pieces)) if pieces[i].isdigit() and not pieces[i - 1 : i].isdigit()]
            at = numbers[0] if numbers else at
            length = 1
            while at + length < len(pieces) and pieces[at + length] in "0123456789.eE+-":
                length += 1
        new = draw(st.sampled_from(NASTY)) if kind in ("replace", "insert", "number") else ""
        if kind == "byte":
            new = chr(draw(st.integers(0, 0x2FF)))
        if kind == "repeat":
            new, length = pieces[at : at + 40] * draw(st.integers(2, 50)), 0
        if kind == "insert":
            length = 0
        pieces = pieces[:at] if kind == "cut" else pieces[:at] + new + pieces[at + length :]
    return pieces


@fuzz()
@given(mutated(yaml.safe_dump(RUN, sort_keys=False)))
def test_run_files(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("run") / "run.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with sentence_or_result():
        RunFile.load(path).flow()


@fuzz()
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=6,
    ),
    st.data(),
)
def test_values_of_run_files(tmp_path_factory, value, data):
    section = data.draw(st.sampled_from(sorted(RUN)))
    run = yaml.safe_load(yaml.safe_dump(RUN))
    inner, key = run, section
    while data.draw(st.booleans()) and isinstance(inner[key], (dict, list)) and inner[key]:
        inner, keys = inner[key], list(range(len(inner[key]))) if isinstance(inner[key], list) else sorted(inner[key])
        key = data.draw(st.sampled_from(keys))
    inner[key] = value
    path = tmp_path_factory.mktemp("run") / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    with sentence_or_result():
        RunFile.load(path).flow()


def _texts(folder):
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    texts = {}
    for name in ("a.xyz", "POSCAR", "a.cif", "a.xsf", "a.res", "geometry.in"):
        ase.io.write(folder / name, atoms)
        texts[name] = (folder / name).read_text()
    ase.io.write(folder / "a.data", atoms, format="lammps-data", masses=True)
    texts["a.data"] = (folder / "a.data").read_text()
    salt = Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions())
    texts["a.json"] = salt.to_json()
    return texts


@pytest.mark.parametrize("name", ["a.xyz", "POSCAR", "a.cif", "a.xsf", "a.res", "geometry.in", "a.data", "a.json"])
def test_structures(tmp_path, name):
    @fuzz(max(CASES // 3, 1))
    @given(mutated(_texts(tmp_path)[name]))
    def one(text):
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        with sentence_or_result():
            load_structure(tmp_path, type(tmp_path)(name), None, None)

    one()


@pytest.mark.parametrize("name", ["a.traj", "a.xyz.gz", "a.cube"])
def test_bytes_as_structures(tmp_path, name):
    ase.io.write(tmp_path / name, bulk("Cu", cubic=True))
    good = (tmp_path / name).read_bytes()

    @fuzz(max(CASES // 3, 1))
    @given(st.lists(st.tuples(st.integers(0, len(good) - 1), st.binary(max_size=4)), min_size=1, max_size=4))
    def one(changes):
        content = bytearray(good)
        for at, new in changes:
            content[at : at + len(new)] = new
        (tmp_path / name).write_bytes(content)
        with sentence_or_result():
            load_structure(tmp_path, type(tmp_path)(name), None, None)

    one()


def _dataset(folder):
    frames = []
    for k in range(4):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        frames.append(atoms)
    ase.io.write(folder / "d.xyz", frames)
    return (folder / "d.xyz").read_text()


def test_datasets(tmp_path):
    @fuzz()
    @given(mutated(_dataset(tmp_path)))
    def one(text):
        (tmp_path / "d.xyz").write_bytes(text.encode("utf-8", "surrogatepass"))
        with sentence_or_result():
            read_labels_file(tmp_path / "d.xyz")

    one()


def test_potentials(tmp_path, copper_potential):
    paths = copper_potential.write(tmp_path)
    text, asi = paths.yaml.read_text(), paths.asi.read_bytes()

    @fuzz(max(CASES // 4, 1))
    @given(mutated(text), st.integers(0, len(asi) - 1), st.binary(min_size=1, max_size=3), st.booleans())
    def one(changed, at, new, of_basis):
        paths.yaml.write_bytes(changed.encode("utf-8", "surrogatepass") if of_basis else text.encode())
        paths.asi.write_bytes(asi if of_basis else asi[:at] + new + asi[at + len(new) :])
        with sentence_or_result():
            ACEPotential.from_files(paths.yaml, paths.asi)

    one()


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """Make the folder of a campaign of stand-ins."""
    folder = tmp_path_factory.mktemp("campaign")
    store = open_store(folder / "store")
    flow = stand_in_loop().make(bulk("Cu", cubic=True), 300)
    run_locally(flow, store=store, create_folders=True, root_dir=folder, log=False)
    for one in (store.docs_store, store.additional_stores["data"]):
        one._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        one.close()
    return folder


@pytest.mark.parametrize("file", ["documents.sqlite", "data.sqlite"])
@pytest.mark.parametrize("command", ["status", "report", "export"])
def test_stores(tmp_path, campaign, file, command):
    good = (campaign / "store" / file).read_bytes()

    @fuzz(max(CASES // 5, 1))
    @given(
        st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(1, 255)), min_size=1, max_size=3),
        st.integers(0, 9),
    )
    def one(flips, cut):
        folder = tmp_path / "c"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(campaign / "store", folder / "store")
        content = bytearray(good)
        for at, bits in flips:
            content[at] ^= bits
        (folder / "store" / file).write_bytes(content if cut else content[: flips[0][0]])
        with bounded():
            result = CliRunner().invoke(app, [command, str(folder)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        if result.exit_code == FAILED:
            assert "error: " in result.output
            assert "delet" not in result.output.replace("nothing in it is deleted", "").replace("was deleted", "")

    one()


def test_a_flipped_bit_in_any_stored_number_is_noticed(tmp_path, campaign):
    """Flip bits within documents alone, where SQLite itself sees nothing."""
    dice = random.Random(1)
    noticed = 0
    for number in range(max(CASES // 2, 10)):
        folder = tmp_path / str(number)
        shutil.copytree(campaign / "store", folder / "store")
        file = folder / "store" / dice.choice(["documents.sqlite", "data.sqlite"])
        with sqlite3.connect(file) as connection:
            rows = connection.execute("SELECT id, bson FROM documents").fetchall()
            row, content = dice.choice(rows)
            at = dice.randrange(len(content))
            changed = content[:at] + bytes([content[at] ^ (1 << dice.randrange(8))]) + content[at + 1 :]
            connection.execute("UPDATE documents SET bson = ? WHERE id = ?", (changed, row))
        connection.close()
        store = open_store(folder / "store")
        with pytest.raises(MLIPError, match=rf"{file.name}' is damaged: document {row} .*from a backup"):
            list((store.docs_store if file.name.startswith("doc") else store.additional_stores["data"]).query({}))
        noticed += 1
    assert noticed == max(CASES // 2, 10)


def test_half_a_store_is_never_taken_for_none(tmp_path, campaign):
    for gone in ("documents.sqlite", "data.sqlite"):
        folder = tmp_path / gone
        shutil.copytree(campaign / "store", folder / "store")
        (folder / "store" / gone).unlink()
        for command in (["status", str(folder)], ["report", str(folder)]):
            result = CliRunner().invoke(app, command)
            assert result.exit_code == FAILED
            assert f"has no {gone}" in result.output, result.output
        assert not (folder / "store" / gone).exists()
