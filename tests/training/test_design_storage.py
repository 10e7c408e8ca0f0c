"""A design matrix of thousands of labels is in a file; the fit is the same to the last bit."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip_autopipec.errors import TrainingError
from mlip_autopipec.training import design
from mlip_autopipec.training.linear import LinearACETrainer


def labels(n: int = 8):
    made = []
    for i in range(n):
        atoms = bulk("Cu", cubic=True, a=3.6 + 0.02 * i) * (2, 1, 1)
        atoms.rattle(0.1, seed=i)
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        made.append(atoms)
    return made


def test_in_a_file_the_fit_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_MB", "0")
    in_memory = LinearACETrainer().train(labels())
    made = []
    memmap = np.memmap

    def counted(*args, **kwargs):
        made.append(memmap(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(design, "_IN_MEMORY", 0)
    monkeypatch.setattr(np, "memmap", counted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    in_file = LinearACETrainer().train(labels())
    assert made
    assert in_file.potential.yaml == in_memory.potential.yaml
    assert in_file.linear.left_out == in_memory.linear.left_out
    assert list(tmp_path.iterdir()) == []


def test_in_parts_the_fit_is_the_same_to_rounding(monkeypatch):
    from mlip_autopipec.training import regression

    whole = LinearACETrainer().train(labels())
    monkeypatch.setattr(regression, "_ROWS_AT_ONCE", 1)
    monkeypatch.setattr(regression, "_PART", 2)
    parts = LinearACETrainer().train(labels())
    assert parts.linear.left_out.forces_meV_A == pytest.approx(whole.linear.left_out.forces_meV_A, rel=1e-4)
    assert parts.linear.strength == pytest.approx(whole.linear.strength, rel=1e-6)


def test_a_full_disk_is_told_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MLIP_AUTOPIPEC_ROWS_MB", "0")
    monkeypatch.setattr(design, "_IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(TrainingError, match=f"no room in '{tmp_path}'.*let TMPDIR name"):
            LinearACETrainer().train(labels())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_killed_fit_leaves_no_file_behind(tmp_path):
    script = """
        import os, signal
        from mlip_autopipec.training import design
        matrix = design._storage(1000, 2000)
        assert design._IN_MEMORY == 0 or matrix.nbytes <= design._IN_MEMORY
        design._IN_MEMORY = 0
        matrix = design._storage(1000, 2000)
        matrix[:] = 1.0
        os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(Path(tmp_path).iterdir()) == []
