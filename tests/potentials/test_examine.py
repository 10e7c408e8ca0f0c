"""Damaged files of potentials are refused in a sentence: a process of its own crashes, not this one."""

from __future__ import annotations

import io
import pickle
import re
import zipfile

import numpy as np
import pytest

from mlip_autopipec.errors import InvalidInputError, MLIPError
from mlip_autopipec.potentials import examine
from mlip_autopipec.potentials.potential import ACEPotential, unpack_active_set
from mlip_autopipec.schemas.potential import PotentialDocument


@pytest.fixture
def paths(copper_potential, tmp_path):
    return copper_potential.write(tmp_path)


def refusal(paths):
    with pytest.raises(InvalidInputError) as told:
        ACEPotential.from_files(paths.yaml, paths.asi)
    assert paths.yaml.name in str(told.value) or paths.asi.name in str(told.value)
    assert len(str(told.value)) < 1500
    return str(told.value)


def test_a_good_one_comes_back(copper_potential, paths):
    assert ACEPotential.from_files(paths.yaml, paths.asi).sha256 == copper_potential.sha256


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"rcutij: [\d.]+|rcut: [\d.]+", "rcutij: .nan"),
        (r"c: \[[^\]]*\]", "c: [.nan]"),
        (r"nradmax: \d+|nradmax\w*: \d+", "nradmax: 999999999"),
        (r"elements: \[?Cu\]?|species:", "species: 3\nother:"),
        (r"(?s)^.*$", "not: a potential"),
        (r"(?s)^.*$", "{" * 200),
        (r"(?s)^.*$", ""),
        (r"(?s)^(.{400}).*$", r"\1"),
        (r"Cu", "X"),
        (r"nr: \[\d+, \d+\]", "nr: [99999, 1]"),
    ],
)
def test_mutated_potentials(paths, old, new):
    text = paths.yaml.read_text()
    changed = re.sub(old, new, text, count=1 if old != "Cu" else 0)
    assert changed != text
    paths.yaml.write_text(changed)
    assert "the potential cannot be used" in refusal(paths)


def test_what_is_no_active_set(paths):
    class Evil:
        def __reduce__(self):
            return (open, (str(paths.asi) + ".touched", "w"))

    good = paths.asi.read_bytes()
    buffer = io.BytesIO()
    np.savez(buffer, Cu=np.array([Evil()], dtype=object))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**3)})
        archive.writestr("Cu.npy", header.getvalue() + bytes(10**6))
    for content in (
        b"x",
        b"PK\x03\x04",
        good[:-30],
        good[:200],
        pickle.dumps(Evil()),
        buffer.getvalue(),
        bomb.getvalue(),
    ):
        paths.asi.write_bytes(content)
        refusal(paths)
    assert not paths.asi.with_name(paths.asi.name + ".touched").exists()
    for matrix in (np.full((3, 3), np.nan), np.eye(2), np.ones(3)):
        np.savez(paths.asi.open("wb"), Cu=matrix)
        assert "active set" in refusal(paths)


def test_a_crash_or_a_hang_of_the_process_is_told(copper_potential, monkeypatch, tmp_path):
    monkeypatch.setattr(examine, "TIME_S", 0.01)
    with pytest.raises(InvalidInputError, match=r"p: the potential cannot be used: it was not loaded within"):
        examine.examine(copper_potential.yaml, b"", {}, "p")
    monkeypatch.setattr(examine, "TIME_S", 60)
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidInputError, match=r"pyace crashed on it .SIGSEGV."):
        examine.examine(copper_potential.yaml, b"", {}, "p")


def test_a_stored_potential_in_which_a_bit_changed_is_noticed(copper_potential):
    document = PotentialDocument.from_potential(copper_potential)
    assert document.to_potential().sha256 == copper_potential.sha256
    text = document.payload["yaml"]
    at = re.search(r"\d\.\d{6}", text).end() - 1
    document.payload["yaml"] = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
    with pytest.raises(MLIPError, match=r"not the one that was stored.*from a backup"):
        document.to_potential()


def test_no_bytes_are_no_active_set():
    assert unpack_active_set(b"") == {}
